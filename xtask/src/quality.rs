//! `cargo xtask quality`: compresses a model with every recipe of the quality table,
//! measures each against the original, and writes the table as markdown. Runs the
//! release build of the command, as a user would.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

/// Recipes of the table: embedded names, and files for the controls. Plain `int4`, `int3` and
/// `int2` are the alpha = 0 rows of their ortho recipes, byte for byte.
const RECIPES: [&str; 13] = [
    "rtn4",
    "int4-ortho",
    "bench/recipes/int4-top-residual.toml",
    "bench/recipes/rtn-int4-g32-asym.toml",
    "bench/recipes/gptq-int4-g32-asym.toml",
    "rtn3",
    "int3-ortho",
    "bench/recipes/int3-joint.toml",
    "bench/recipes/int3-top-residual.toml",
    "rtn2",
    "int2-ortho",
    "bench/recipes/int2-joint.toml",
    "bench/recipes/int2-top-residual.toml",
];

/// What the table is made from.
pub(crate) struct Inputs<'a> {
    pub(crate) model: &'a str,
    pub(crate) calibration: &'a str,
    pub(crate) text: &'a str,
    pub(crate) samples: &'a str,
}

/// Prints progress, writes `docs/quality.md`.
pub(crate) fn run(root: &Path, inputs: &Inputs<'_>) -> Result<bool, String> {
    let folder = std::env::temp_dir().join(format!("tamis-quality-{}", std::process::id()));
    let mut rows = String::new();
    for recipe in RECIPES {
        println!("{recipe}");
        let output = folder.join("model").display().to_string();
        let compress = [
            "compress",
            inputs.model,
            "-o",
            &output,
            "--recipe",
            recipe,
            "--calibration",
            inputs.calibration,
            "--samples",
            inputs.samples,
            "--overwrite",
            "--quiet",
            "--json",
        ];
        let made = tamis(root, &compress)?;
        let size = tamis(root, &["inspect", &output, "--json"])?;
        let alphas = if size["ortho"] == "present" { "0,1" } else { "1" };
        let eval = [
            "eval",
            &output,
            "--perplexity",
            inputs.text,
            "--windows",
            "10",
            "--alpha",
            alphas,
            "--baseline",
            inputs.model,
            "--quiet",
            "--json",
        ];
        let measured = tamis(root, &eval)?;
        rows += &lines(recipe, &made, &size, &measured)?;
    }
    // a folder that will not go is in the way of nothing
    let _ = std::fs::remove_dir_all(&folder);
    let path = root.join("docs/quality.md");
    std::fs::write(&path, page(inputs, &rows)).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(true)
}

fn tamis(root: &Path, arguments: &[&str]) -> Result<Value, String> {
    let binary = root.join("target/release/tamis");
    let output = Command::new(&binary)
        .args(arguments)
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| format!("{}: {e}; run cargo build --release first", binary.display()))?;
    if !output.status.success() {
        return Err(format!("tamis {} failed: {}", arguments.join(" "), output.status));
    }
    serde_json::from_slice(&output.stdout).map_err(|e| format!("tamis {}: {e}", arguments[0]))
}

/// One markdown row an alpha.
fn lines(recipe: &str, made: &Value, size: &Value, measured: &Value) -> Result<String, String> {
    let name = recipe.trim_start_matches("bench/recipes/").trim_end_matches(".toml");
    let number = |value: &Value| value.as_f64().ok_or_else(|| format!("{name}: a figure is missing"));
    let report = &measured["tamis"];
    let perplexity = report["perplexity"].as_array().ok_or("no perplexity")?;
    let mut rows = String::new();
    for (index, p) in perplexity.iter().enumerate() {
        let d = &report["divergence"][index];
        let bits = linear_bits(size)?;
        let _ = writeln!(
            rows,
            "| {name} | {} | {bits:.3} | {:.3} | {:.3} | {:.4} | {:.4} | {:.2} | {:.1} % | {:.0} | {:.0} |",
            p["alpha"],
            number(&size["bits_per_weight"])?,
            number(&p["value"])?,
            number(&d["mean"])?,
            number(&d["median"])?,
            number(&d["p99"])?,
            100.0 * number(&d["same_top1"])?,
            number(&made["seconds"])?,
            number(&made["peak_memory_bytes"])? / f64::from(1 << 20),
        );
    }
    Ok(rows)
}

/// Bits a weight over the linears of the blocks alone.
fn linear_bits(size: &Value) -> Result<f64, String> {
    let (mut bytes, mut weights) = (0.0, 0.0);
    for tensor in size["tensors"].as_array().ok_or("no tensors")? {
        let shape: Vec<f64> =
            tensor["shape"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        if shape.len() == 2 && tensor["name"].as_str().is_some_and(|n| n.contains(".layers.")) {
            bytes += tensor["bytes"].as_f64().ok_or("no bytes")?;
            weights += shape.iter().product::<f64>();
        }
    }
    Ok(8.0 * bytes / weights)
}

fn page(inputs: &Inputs<'_>, rows: &str) -> String {
    let file = |path: &str| Path::new(path).file_name().map(|n| n.to_string_lossy().into_owned());
    let [model, calibration, text] =
        [inputs.model, inputs.calibration, inputs.text].map(|path| file(path).unwrap_or_default());
    include_str!("quality_head.txt")
        .replace("{model}", &model)
        .replace("{calibration}", &calibration)
        .replace("{text}", &text)
        .replace("{samples}", inputs.samples)
        + rows
}
