//! Pruning and recovery as a user meets them, on a small real model: what is reported, what is written, and
//! that a killed run ends with the same bytes.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tamis"));
    command.args(arguments).env_remove("TAMIS_ISA").stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = command(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn json(arguments: &[&str]) -> Value {
    let (code, out, message) = run(arguments);
    assert_eq!(code, Some(0), "{arguments:?}: {message}");
    serde_json::from_str(&out).unwrap()
}

/// A command that must fail with a code and a message.
fn refused(arguments: &[&str], code: i32, says: &str) {
    let (found, _, message) = run(arguments);
    assert_eq!(found, Some(code), "{arguments:?}: {message}");
    assert!(message.contains(says), "{says:?} is not in {message}");
}

/// Model and text under `$TAMIS_DATA`; says so where they are missing.
fn data() -> Option<(String, String)> {
    let root = std::env::var_os("TAMIS_DATA").map(PathBuf::from).unwrap_or_default();
    let (model, text) = (root.join("models/stories260K"), root.join("tinystories/tinystories_2MiB.txt"));
    if !(model.exists() && text.exists()) {
        let _ = writeln!(std::io::stderr(), "SKIPPED: $TAMIS_DATA has no stories260K or no tinystories");
        return None;
    }
    Some((model.to_str().unwrap().to_owned(), text.to_str().unwrap().to_owned()))
}

struct Setup {
    model: String,
    text: String,
    folder: tempfile::TempDir,
}

impl Setup {
    fn new() -> Option<Self> {
        let (model, text) = data()?;
        Some(Self { model, text, folder: tempfile::tempdir().unwrap() })
    }
    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }
    fn local<'a>(&'a self, model: &'a str, out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let base =
            ["recover", model, "-o", out, "--data", &self.text, "--method", "local", "--length", "128"];
        [&base[..], &["--threads", "2", "--quiet", "--json"], more].concat()
    }
    /// The model with `share` of its weights left out.
    fn pruned(&self, name: &str, share: &str) -> String {
        let out = self.path(name);
        let base = ["compress", &self.model, "-o", &out, "--recipe", "wanda50", "--sparsity", share];
        let text = ["--calibration", &self.text, "--samples", "8", "--length", "128", "-q"];
        assert_eq!(run(&[&base[..], &text].concat()).0, Some(0));
        out
    }
    fn recover<'a>(&'a self, model: &'a str, out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let base = ["recover", model, "-o", out, "--data", &self.text, "--valid", &self.text];
        let small = ["--length", "128", "--windows", "8", "--threads", "2", "--quiet", "--json"];
        [&base[..], &small, more].concat()
    }
}

#[test]
fn pruned_weights_are_mended_and_no_zero_is_lost() {
    let Some(setup) = Setup::new() else { return };
    let holes = setup.pruned("holes", "0.6");
    let before = json(&["inspect", &holes, "--json"]);
    let sparsity = before["sparsity"].as_f64().unwrap();
    assert!((0.58..0.61).contains(&sparsity), "{sparsity}");
    let mended = setup.path("mended");
    let flags = ["--method", "masked", "--teacher", &setup.model, "--also-valid", &setup.text];
    let steps = ["--steps", "60", "--batch", "4", "--lr", "2e-3", "--every", "20"];
    let recover = setup.recover(&holes, &mended, &[&flags[..], &steps].concat());

    let planned = json(&[&recover[..], &["--dry-run"]].concat());
    assert!(planned["tamis"]["estimate"]["peak"].as_u64().unwrap() > 0);
    let report = json(&recover)["tamis"]["recovery"].clone();
    let number = |key: &str| report[key].as_f64().unwrap_or_else(|| panic!("{key}: {report}"));
    assert!(number("dense_perplexity") < number("best") && number("best") < number("before"));
    assert!(number("recovered_fraction") > 0.2 && number("recovered_fraction") < 1.0);
    assert!((number("saved") / number("best") - 1.0).abs() < 0.01);
    assert_eq!(report["mask_violations"], 0);
    for key in ["after", "tokens_per_second", "peak_memory_bytes", "predicted_memory_bytes", "trend_percent"]
    {
        assert!(number(key).is_finite(), "{key}");
    }
    assert_eq!(report["history"].as_array().unwrap().len(), 4);

    let after = json(&["inspect", &mended, "--json"]);
    assert_eq!(before["tensors"], after["tensors"], "layouts, masks' sizes and bytes stay");
    for name in ["metrics.jsonl", "curve.svg", "manifest.json"] {
        assert!(Path::new(&mended).join(name).exists(), "{name}");
    }
    assert_eq!(run(&["verify", &mended]).0, Some(0));
    assert_eq!(run(&recover).0, Some(2), "a finished model is not replaced");

    // Dense and exact: the same perplexity to the last digit.
    let dense = setup.path("dense");
    assert_eq!(run(&["export", &mended, "-o", &dense]).0, Some(0));
    let measure = |model: &str| {
        let eval = [
            "eval",
            model,
            "--perplexity",
            &setup.text,
            "--context",
            "128",
            "--windows",
            "4",
            "--json",
            "-q",
        ];
        json(&eval)["tamis"]["perplexity"][0]["value"].as_f64().unwrap()
    };
    assert_eq!(measure(&mended), measure(&dense));
}

#[test]
fn blocks_learn_their_dense_output_one_by_one() {
    let Some(setup) = Setup::new() else { return };
    let holes = setup.pruned("holes", "0.5");
    let out = setup.path("local");
    let flags = ["--teacher", &setup.model, "--sequences", "32", "--epochs", "8"];
    let planned = json(&[&setup.local(&holes, &out, &flags)[..], &["--dry-run"]].concat());
    assert!(planned["tamis"]["peak"].as_u64() > Some(0) && !Path::new(&out).exists(), "{planned}");
    let report = json(&setup.local(&holes, &out, &flags));
    for block in report["tamis"]["blocks"].as_array().unwrap() {
        assert!(block["after"].as_f64() < block["before"].as_f64(), "{block}");
    }
    let kept = |model: &str| json(&["inspect", model, "--json"])["tensors"].clone();
    assert_eq!(kept(&holes), kept(&out));
}

#[test]
fn an_adapter_is_written_run_and_merged() {
    let Some(setup) = Setup::new() else { return };
    let (adapter, merged) = (setup.path("adapter"), setup.path("merged"));
    let flags =
        ["--method", "lora", "--targets", "q_proj,v_proj", "--rank", "4", "--steps", "20", "--lr", "1e-2"];
    // A text that the model has never seen anything like.
    let prose = concat!(env!("CARGO_MANIFEST_DIR"), "/../../STYLE.md");
    let recover =
        ["recover", &setup.model, "-o", &adapter, "--data", prose, "--valid", prose, "--length", "128"];
    let report = json(&[&recover[..], &flags, &["--json", "-q"]].concat())["tamis"]["recovery"].clone();
    assert!(report["best"].as_f64() < report["before"].as_f64());
    assert_eq!(run(&["merge", &setup.model, "--adapter", &adapter, "-o", &merged]).0, Some(0));
    let measure = |arguments: &[&str]| {
        let eval = ["--perplexity", &setup.text, "--context", "128", "--windows", "4", "--json", "-q"];
        json(&[arguments, &eval].concat())["tamis"]["perplexity"][0]["value"].as_f64().unwrap()
    };
    let (beside, inside) =
        (measure(&["eval", &setup.model, "--adapter", &adapter]), measure(&["eval", &merged]));
    assert!((beside / inside - 1.0).abs() < 1e-4, "{beside} {inside}");
}

#[test]
fn a_killed_run_ends_with_the_same_bytes() {
    let Some(setup) = Setup::new() else { return };
    let holes = setup.pruned("holes", "0.5");
    let (whole, killed) = (setup.path("whole"), setup.path("killed"));
    let flags = ["--method", "masked", "--steps", "60", "--every", "5", "--lr", "1e-3"];
    json(&setup.recover(&holes, &whole, &flags));
    let lines = |folder: &str| {
        let text = std::fs::read_to_string(Path::new(folder).join("metrics.jsonl")).unwrap_or_default();
        text.lines().filter(|line| !line.contains("validation")).map(str::to_owned).collect::<Vec<_>>()
    };
    for until in [3, 17] {
        let mut child = command(&setup.recover(&holes, &killed, &flags)).spawn().unwrap();
        let started = Instant::now();
        while lines(&killed).len() < until && started.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(5));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!Path::new(&killed).join("manifest.json").exists(), "killed too late");
    }
    json(&setup.recover(&holes, &killed, &flags));
    let model = |folder: &str| std::fs::read(Path::new(folder).join("model.safetensors")).unwrap();
    assert_eq!(model(&whole), model(&killed));
    assert_eq!(lines(&whole), lines(&killed));
}

#[test]
fn stages_end_with_the_zeros_asked_for_and_a_killed_run_goes_on_in_its_stage() {
    let Some(setup) = Setup::new() else { return };
    let (whole, killed, cache) = (setup.path("whole"), setup.path("killed"), setup.path("said.bin"));
    let flags = ["--method", "masked", "--teacher", &setup.model, "--stages", "0.3,0.6", "--samples", "8"];
    let steps =
        ["--calibration", &setup.text, "--steps", "60", "--batch", "2", "--every", "5", "--lr", "1e-3"];
    let flags = [&flags[..], &steps].concat();
    let planned = json(&[&setup.recover(&setup.model, &whole, &flags)[..], &["--dry-run"]].concat());
    assert_eq!(planned["tamis"]["stages"][1]["steps"], 40);
    let cached = [&flags[..], &["--teacher-cache", &cache]].concat();
    let report = json(&setup.recover(&setup.model, &whole, &cached))["tamis"]["recovery"].clone();
    let number = |value: &Value, key: &str| value[key].as_f64().unwrap_or_else(|| panic!("{key}: {value}"));
    let stages = report["stages"].as_array().unwrap();
    assert_eq!((number(&stages[0], "sparsity"), number(&stages[1], "sparsity")), (0.3, 0.6));
    assert!(stages.iter().all(|stage| number(stage, "best") < number(stage, "before")), "{report}");
    assert_eq!(number(&report, "before"), number(&stages[1], "before"));
    assert!(number(&report, "dense_perplexity") < number(&report, "saved"));
    assert_eq!((&report["mask_violations"], &report["steps"]), (&0.into(), &60.into()));

    let zeros = |model: &str| json(&["inspect", model, "--json"])["sparsity"].as_f64().unwrap();
    let (once, sixty) =
        (setup.path("once"), ["--recipe", "sparsegpt50", "--sparsity", "0.6", "--samples", "8", "-q"]);
    let compress = ["compress", &setup.model, "-o", &once, "--calibration", &setup.text];
    assert_eq!(run(&[&compress[..], &sixty].concat()).0, Some(0));
    assert_eq!(zeros(&whole), zeros(&once));
    assert_eq!(run(&["verify", &whole]).0, Some(0));
    assert!(std::fs::metadata(&cache).unwrap().len() > 64);
    let other = [&cached[..], &["--top", "8"]].concat();
    let (code, _, message) = run(&setup.recover(&setup.model, &killed, &other));
    assert!(code == Some(2) && message.contains("another teacher"), "{message}");
    assert!(!Path::new(&killed).exists(), "nothing is begun");

    for stage in ["1", "2"] {
        let metrics = Path::new(&killed).join(".stages").join(stage).join("mended/metrics.jsonl");
        let mut child = command(&setup.recover(&setup.model, &killed, &flags)).spawn().unwrap();
        let started = Instant::now();
        let lines = || std::fs::read_to_string(&metrics).unwrap_or_default().lines().count();
        while lines() < 7 && started.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(5));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!Path::new(&killed).join("manifest.json").exists(), "killed too late");
    }
    assert!(Path::new(&killed).join(".stages/1/account.json").exists());
    json(&setup.recover(&setup.model, &killed, &flags));
    let model = |folder: &str| std::fs::read(Path::new(folder).join("model.safetensors")).unwrap();
    assert_eq!(model(&whole), model(&killed));
    assert!(!Path::new(&killed).join(".stages").exists());
}

#[test]
fn requests_without_meaning_are_usage_errors() {
    let Some(setup) = Setup::new() else { return };
    let out = setup.path("out");
    let compress = ["compress", &setup.model, "-o", &out, "--recipe", "wanda50"];
    refused(&[&compress[..], &["--sparsity", "0.5", "--density", "0.5"]].concat(), 2, "cannot be used with");
    refused(&[&compress[..], &["--sparsity", "1.5"]].concat(), 2, "from 0 to 1");
    refused(
        &["compress", &setup.model, "-o", &out, "--recipe", "int4", "--sparsity", "0.5"],
        2,
        "does not prune",
    );
    refused(
        &["compress", &setup.model, "-o", &out, "--recipe", "2of4", "--sparsity", "0.7"],
        78,
        "leaves out 0.5",
    );
    refused(
        &setup.recover(&setup.model, &out, &["--method", "masked", "--steps", "1"]),
        2,
        "no mask to keep",
    );
    refused(&setup.local(&setup.model, &out, &[]), 2, "--teacher");
    let blind = ["recover", &setup.model, "-o", &out, "--method", "full", "--data", &setup.text];
    refused(&blind, 2, "--valid");
    let feature = ["--method", "full", "--steps", "1", "--feature", "1"];
    refused(&setup.recover(&setup.model, &out, &feature), 2, "--teacher");
    let lora = ["--method", "lora", "--targets", "x_proj", "--steps", "1"];
    refused(&setup.recover(&setup.model, &out, &lora), 2, "no linear is called x_proj");
    assert!(!Path::new(&out).exists(), "nothing is begun");
}

#[test]
fn flags_that_do_not_belong_together_are_usage_errors() {
    let Some(setup) = Setup::new() else { return };
    let out = setup.path("out");
    let stages = |more: &[&'static str]| [&["--steps", "9", "--stages"][..], more].concat();
    refused(&setup.recover(&setup.model, &out, &stages(&["0.5,0.4", "--method", "masked"])), 2, "must rise");
    refused(&setup.recover(&setup.model, &out, &stages(&["0.5", "--method", "full"])), 2, "masked");
    refused(&setup.recover(&setup.model, &out, &stages(&["0.5", "--method", "masked"])), 2, "--calibration");
    let of_the_recipe = ["0.4,0.6", "--method", "masked", "--recipe", "2of4", "--calibration", &setup.text];
    let flags = [&["--steps", "9", "--stages"][..], &of_the_recipe].concat();
    refused(&setup.recover(&setup.model, &out, &flags), 78, "leaves out 0.5");
    let foreign = [
        ["--stages", "0.5"],
        ["--teacher-cache", "said.bin"],
        ["--feature", "1"],
        ["--steps", "9"],
        ["--valid", &setup.text],
        ["--keep-best", "2"],
        ["--batch", "1"],
        ["--windows", "16"],
        ["--rank", "8"],
        ["--train", "embedding"],
    ];
    for foreign in foreign {
        let local = setup.local(&setup.model, &out, &[&["--teacher", &setup.model], &foreign[..]].concat());
        refused(&local, 2, foreign[0]);
    }
    for (method, foreign) in [
        ("masked", ["--rank", "8"]),
        ("masklora", ["--dropout", "0.1"]),
        ("full", ["--targets", "q_proj"]),
        ("lora", ["--temperature", "2"]),
    ] {
        let flags = [&["--method", method, "--steps", "1"], &foreign[..]].concat();
        refused(&setup.recover(&setup.model, &out, &flags), 2, foreign[0]);
    }
    let twice = ["--method", "lora", "--epochs", "1", "--sequences", "4"];
    refused(&setup.recover(&setup.model, &out, &twice), 2, "--sequences");
    let long = ["--method", "lora", "--steps", "1", "--length", "100000"];
    let text = ["recover", &setup.model, "-o", &out, "--data", &setup.text, "--valid", &setup.text];
    refused(&[&text[..], &long].concat(), 2, "--length");
    let dry = ["--method", "lora", "--steps", "1", "--lr", "0", "--dry-run"];
    refused(&setup.recover(&setup.model, &out, &dry), 2, "learning rate");
    assert!(!Path::new(&out).exists(), "nothing is begun");
}

#[test]
fn unfinished_work_of_another_command_is_refused_before_training() {
    let Some(setup) = Setup::new() else { return };
    let holes = setup.pruned("holes", "0.5");
    let busy = Path::new(&setup.path("busy")).join(".partial");
    std::fs::create_dir_all(&busy).unwrap();
    std::fs::write(busy.join("identity.json"), "{}").unwrap();
    let out = setup.path("busy");
    let train = setup.recover(&holes, &out, &["--method", "masked", "--steps", "100000", "--every", "1"]);
    refused(&train, 2, "unfinished work of another command");
    let short = setup.recover(&holes, &out, &["--method", "masked", "--steps", "1", "--resume", "never"]);
    assert_eq!(json(&short)["tamis"]["recovery"]["steps"], 1);
    assert!(!busy.exists());
}
