//! The command as a user meets it: the whole chain on a real model, and an exit code and a
//! next step for every wrong input.

use std::io::Write;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::Value;

fn tamis(arguments: &[&str]) -> std::process::Output {
    Command::cargo_bin("tamis").unwrap().args(arguments).env_remove("TAMIS_ISA").output().unwrap()
}

fn json(arguments: &[&str]) -> Value {
    let output = tamis(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Asserts the exit code, and that the message says what to do next.
fn refused(arguments: &[&str], code: i32, says: &str) {
    let output = tamis(arguments);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
    assert!(message.contains(says), "{arguments:?}: {says:?} is not in {message}");
    assert!(!message.contains("panicked"), "{message}");
}

/// A file or folder under `$TAMIS_DATA`; says so where it is missing.
fn data(name: &str) -> Option<String> {
    let path = std::env::var_os("TAMIS_DATA").map(|root| PathBuf::from(root).join(name));
    let path = path.filter(|path| path.exists());
    if path.is_none() {
        let _ = writeln!(std::io::stderr(), "SKIPPED: $TAMIS_DATA/{name} is not there");
    }
    path.map(|path| path.to_str().unwrap().to_owned())
}

fn tiny(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tamis/tests/golden/models").join(name);
    folder.to_str().unwrap().to_owned()
}

#[test]
fn the_whole_chain_on_a_real_model() {
    let (Some(model), Some(text)) = (data("models/stories260K"), data("tinystories/tinystories_2MiB.txt"))
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("small");
    let out = out.to_str().unwrap();
    let base = ["compress", &model, "-o", out, "--recipe", "int3-ortho", "--calibration", &text];
    let flags = ["--samples", "8", "--length", "128", "--seed", "0", "--threads", "2", "--json", "--quiet"];
    let compress: Vec<&str> = base.iter().chain(&flags).copied().collect();

    let planned = json(&[&compress[..], &["--dry-run"]].concat());
    assert!(planned["estimate"]["peak"].as_u64().unwrap() > 0);
    assert!(!Path::new(out).join("manifest.json").exists());

    let made = json(&compress);
    assert_eq!(made["outcome"]["receipts"].as_object().unwrap().len(), 35);
    refused(&compress, 2, "--overwrite");
    assert!(tamis(&["verify", out]).status.success());

    let size = json(&["inspect", out, "--json"]);
    assert_eq!((&size["architecture"], &size["ortho"]), (&"llama".into(), &"present".into()));
    assert!(size["bits_per_weight"].as_f64().unwrap() < 8.0);
    assert!(size["parameters"].as_u64().unwrap() > 200_000 && size["file_bytes"].as_u64().unwrap() > 0);

    let measure = ["eval", out, "--perplexity", &text, "--protocol", "gptq", "--context", "256"];
    let flags = ["--windows", "10", "--alpha", "0,1", "--baseline", &model, "--json", "--quiet"];
    let eval = json(&[&measure[..], &flags[..]].concat());
    assert_eq!((&eval["tamis"]["precision"], &eval["tamis"]["cache"]), (&"f32".into(), &"f32".into()));
    let (ppl, kl) = (&eval["tamis"]["perplexity"], &eval["tamis"]["divergence"]);
    for index in 0..2 {
        assert_eq!(ppl[index]["windows"], 10);
        assert_eq!((&ppl[index]["protocol"], &ppl[index]["context"]), (&"gptq".into(), &256.into()));
        assert!(ppl[index]["value"].as_f64().unwrap() > 1.0 && ppl[index]["stderr"].as_f64().unwrap() > 0.0);
        for key in ["mean", "median", "p99", "max", "same_top1"] {
            assert!(kl[index][key].is_f64(), "{key}");
        }
    }
    assert!(kl[1]["mean"].as_f64() < kl[0]["mean"].as_f64(), "ortho brings the model closer to the original");

    let told = json(&["generate", &model, "--prompt", "", "--max-tokens", "20", "--greedy", "--json"]);
    assert!(
        told["text"].as_str().unwrap().trim_start().starts_with("Once upon a time, there was a little girl")
    );
    let half = json(&["generate", out, "--prompt", "Once", "--max-tokens", "8", "--alpha", "0.5", "--json"]);
    assert!(!half["tokens"].as_array().unwrap().is_empty());
    let speed = json(&["bench", out, "-p", "0", "-n", "2", "--alpha", "0,1", "-r", "1", "--json", "-q"]);
    let reads = |index: usize| speed[index]["bytes_per_token"].as_f64().unwrap();
    assert_eq!((speed[0]["alpha"].as_f64(), speed[1]["alpha"].as_f64()), (Some(0.0), Some(1.0)));
    assert!(reads(0) < reads(1), "the ortho stream is read only where it is used");
    for key in ["prefill_tokens_per_second", "decode_tokens_per_second"] {
        assert!(half[key].as_f64().unwrap() > 0.0, "{key}");
    }
}

#[test]
fn requests_that_cannot_be_met_are_usage_errors() {
    refused(&["compress"], 2, "Usage");
    refused(&["generate", &tiny("llama-gqa"), "--prompt", "a", "--top-p", "7"], 2, "top-p");
    let Some(model) = data("models/stories260K") else { return };
    refused(&["generate", &model, "--prompt", "a", "--alpha", "2"], 2, "alpha");
    refused(&["generate", &model, "--prompt", "a", "--max-tokens", "4096"], 2, "--max-tokens");
    refused(&["generate", &model, "--prompt", "a", "--chat"], 66, "--chat");
    refused(&["compress", &model, "-o", "x", "--recipe", "int4"], 2, "--calibration");
}

/// Whatever a run would refuse before its first step.
#[test]
fn a_dry_run_checks_everything() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let (model, out) = (tiny("llama-gqa"), out.to_str().unwrap());
    let planned = ["compress", &model, "-o", out, "--recipe", "rtn4", "-q", "--dry-run"];
    assert!(tamis(&planned).status.success());
    assert!(!Path::new(out).exists());
    refused(&["compress", &model, "-o", out, "--recipe", "int4", "--dry-run"], 2, "--calibration");
    let work = Path::new(out).join(".partial");
    std::fs::create_dir_all(&work).unwrap();
    let other = r#"{"recipe":"a","model":"b","calibration":null,"version":"0"}"#;
    std::fs::write(work.join("identity.json"), other).unwrap();
    refused(&planned, 2, "--resume never");
    assert!(tamis(&[&planned[..], &["--resume", "never"]].concat()).status.success());
    std::fs::remove_dir_all(out).unwrap();
    assert!(tamis(&planned[..planned.len() - 1]).status.success());
    refused(&planned, 2, "--overwrite");
    assert!(tamis(&[&planned[..], &["--overwrite"]].concat()).status.success());
}

#[test]
fn missing_inputs_are_named() {
    refused(&["inspect", "/nowhere/model"], 66, "/nowhere/model");
    refused(&["inspect", "hf://nobody/nothing"], 66, "hf download nobody/nothing");
    refused(&["generate", &tiny("llama-gqa"), "--prompt", "a"], 66, "tokenizer.json");
}

#[test]
fn damaged_models_are_refused_with_their_place() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let gguf = std::fs::read(Path::new(&tiny("llama-gqa")).join("model.gguf")).unwrap();
    refused(&["inspect", &write("short.gguf", &gguf[..gguf.len() / 2])], 65, "next:");
    let mut counted = gguf.clone();
    counted[8..16].copy_from_slice(&(1u64 << 60).to_le_bytes());
    refused(&["inspect", &write("counts.gguf", &counted)], 65, "counts.gguf");
    refused(&["inspect", &write("pytorch_model.bin", b"PK\x03\x04")], 65, "pickle");

    let config = std::fs::read(Path::new(&tiny("llama-gqa")).join("config.json")).unwrap();
    write("hf/config.json", &config);
    let weights = std::fs::read(Path::new(&tiny("llama-gqa")).join("model.safetensors")).unwrap();
    write("hf/model.safetensors", &weights[..weights.len() - 8]);
    let hf = folder.path().join("hf").to_str().unwrap().to_owned();
    refused(&["inspect", &hf], 65, "model.safetensors");
    std::fs::remove_file(folder.path().join("hf/model.safetensors")).unwrap();
    let index = br#"{"weight_map": {"model.norm.weight": "../../etc/passwd"}}"#;
    write("hf/model.safetensors.index.json", index);
    refused(&["inspect", &hf], 65, "passwd");
    let config = String::from_utf8(config).unwrap().replace("\"llama\"", "\"mamba\"");
    write("hf/config.json", config.as_bytes());
    refused(&["inspect", &hf], 65, "mamba");
}

/// The crate that cuts texts panics on the first of these while it cuts; the other is refused before.
#[test]
fn hostile_tokenizers_are_refused_without_a_trace() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/tokenizer");
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(Path::new(&tiny("llama-gqa")).join(name), folder.path().join(name)).unwrap();
    }
    for file in ["added_blanks", "bad_precompiled"] {
        std::fs::copy(corpus.join(file), folder.path().join("tokenizer.json")).unwrap();
        let arguments = ["generate", folder.path().to_str().unwrap(), "--prompt", "a     b"];
        refused(&arguments, 65, "tokenizer.json: the tokenizer");
        let said = String::from_utf8(tamis(&arguments).stderr).unwrap();
        assert!(!said.contains("panicked") && !said.contains("backtrace"), "{said}");
    }
}

#[test]
fn recipes_are_listed_shown_and_checked() {
    let list = tamis(&["recipe", "list"]);
    assert!(String::from_utf8(list.stdout).unwrap().contains("int4-ortho"));
    let shown = tamis(&["recipe", "show", "int4-ortho"]).stdout;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("my.toml");
    std::fs::write(&path, &shown).unwrap();
    let file = path.to_str().unwrap();
    assert!(tamis(&["recipe", "check", file]).status.success());
    let wrong = String::from_utf8(shown).unwrap().replace("density", "densty");
    std::fs::write(&path, wrong).unwrap();
    refused(&["recipe", "check", file], 78, "density");
    refused(&["recipe", "show", "int4-orto"], 2, "int4-ortho");
}

const BENCH_FIELDS: [&str; 33] = [
    "test",
    "depth",
    "alpha",
    "threads",
    "isa",
    "precision",
    "mean_tokens_per_second",
    "sd",
    "min",
    "max",
    "median",
    "time_to_first_token_seconds",
    "bytes_per_token",
    "gb_per_second",
    "flops_per_token",
    "tflops_per_second",
    "roofline_fraction",
    "read_bandwidth_gb_per_second",
    "read_bandwidth_bytes",
    "peak_tflops_per_second",
    "peak_unit",
    "peak_memory_bytes",
    "load_seconds",
    "model",
    "file_bytes",
    "weight_bytes",
    "context",
    "beyond_context",
    "n_prompt",
    "n_gen",
    "batch",
    "samples",
    "seconds",
];

/// No speed is expected of a machine, only that the figures of a row agree with each other.
fn bench_row_agrees(row: &Value, repetitions: usize) {
    for field in BENCH_FIELDS {
        assert!(row.get(field).is_some(), "{field} is not in {row}");
    }
    let number = |key: &str| row[key].as_f64().unwrap_or_else(|| panic!("{key} in {row}"));
    let list =
        |key: &str| row[key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect::<Vec<_>>();
    let same = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-9, "{a} is not {b} in {row}");
    let (samples, seconds, tokens) = (list("samples"), list("seconds"), number("n_prompt") + number("n_gen"));
    assert_eq!((samples.len(), seconds.len()), (repetitions, repetitions));
    samples.iter().zip(&seconds).for_each(|(rate, seconds)| same(rate * seconds, tokens));
    let mean = number("mean_tokens_per_second");
    same(mean, samples.iter().sum::<f64>() / repetitions as f64);
    assert!(number("min") <= number("median") && number("median") <= number("max"));
    same(number("gb_per_second"), number("bytes_per_token") * mean / 1e9);
    same(number("tflops_per_second"), number("flops_per_token") * mean / 1e12);
    let prompt = number("n_prompt") > 0.0;
    assert_eq!(row["time_to_first_token_seconds"].is_f64(), prompt);
    if !prompt {
        same(number("roofline_fraction"), number("gb_per_second") / number("read_bandwidth_gb_per_second"));
    } else if number("n_gen") == 0.0 {
        same(number("roofline_fraction"), number("tflops_per_second") / number("peak_tflops_per_second"));
    }
}

#[test]
fn bench_runs_every_combination_and_its_figures_agree() {
    let model = tiny("llama-gqa"); // context 64
    let sweep = [
        "bench",
        &model,
        "-p",
        "5,80",
        "-n",
        "3",
        "--pg",
        "7,2",
        "-d",
        "0,9",
        "-t",
        "1,2",
        "--precision",
        "f32",
    ];
    let rows = json(&[&sweep[..], &["-r", "2", "-b", "4", "-o", "json", "-q"]].concat());
    let rows = rows.as_array().unwrap();
    let mut seen: Vec<_> = rows
        .iter()
        .map(|row| {
            (row["test"].as_str().unwrap(), row["depth"].as_u64().unwrap(), row["threads"].as_u64().unwrap())
        })
        .collect();
    seen.sort_unstable();
    let tests = ["pp5", "pp7+tg2", "pp80", "tg3"];
    let all = tests.iter().flat_map(|t| [(*t, 0, 1), (*t, 0, 2), (*t, 9, 1), (*t, 9, 2)]);
    assert_eq!(seen, all.collect::<Vec<_>>());
    for row in rows {
        bench_row_agrees(row, 2);
        assert_eq!((&row["batch"], &row["context"], &row["alpha"]), (&4.into(), &64.into(), &Value::Null));
        assert_eq!(row["beyond_context"], row["test"] == "pp80");
    }
    let read_at = |depth: u64| {
        let row = rows.iter().find(|row| row["test"] == "tg3" && row["depth"] == depth).unwrap();
        row["bytes_per_token"].as_f64().unwrap()
    };
    assert_eq!(
        read_at(9) - read_at(0),
        (9 * 2 * 192) as f64,
        "2 layers, 192 bytes a position of an f32 cache"
    );

    let table = tamis(&["bench", &model, "-p", "80", "-n", "0", "-r", "1", "--no-warmup", "-q"]);
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("| pp80 *") && table.contains("without warm-up"), "{table}");
    assert!(table.contains("beyond the 64 tokens") && !table.contains("tg"), "{table}");
}

#[test]
fn bench_of_a_real_model_and_the_pinned_instruction_set() {
    let Some(model) = data("models/stories260K") else { return };
    for isa in ["scalar", ""] {
        let arguments = ["bench", &model, "-p", "16", "-n", "4", "-r", "1", "--json", "-q"];
        let mut command = Command::cargo_bin("tamis").unwrap();
        let output = command.args(arguments).env("TAMIS_ISA", isa).output().unwrap();
        let rows: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(rows.as_array().unwrap().len(), 2);
        for row in rows.as_array().unwrap() {
            bench_row_agrees(row, 1);
            assert!(isa.is_empty() || row["isa"] == isa);
        }
    }
}

#[test]
fn bench_refuses_what_it_cannot_run() {
    let model = tiny("llama-gqa");
    let bench =
        |flags: &[&str]| [&["bench", &model], flags].concat().iter().map(|s| (*s).to_owned()).collect();
    let refused_as_usage = |flags: &[&str], says: &str| {
        let all: Vec<String> = bench(flags);
        refused(&all.iter().map(String::as_str).collect::<Vec<_>>(), 2, says);
    };
    refused_as_usage(&["-r", "0"], "repetitions");
    refused_as_usage(&["-b", "0"], "batch");
    refused_as_usage(&["-t", "0"], "threads");
    refused_as_usage(&["-o", "xml"], "jsonl");
    refused_as_usage(&["-p", ""], "prompt");
    refused_as_usage(&["-p", "0", "-n", "0"], "nothing to measure");
    refused_as_usage(&["-p", "99999999999"], "from 0 to 16777216");
    refused_as_usage(&["-p", "16777216", "-d", "16777216"], "smaller numbers");
    refused_as_usage(&["--pg", "512"], "512,128");
    refused_as_usage(&["--alpha", "0,1"], "no ortho stream");
    refused_as_usage(&["--roofline", "-o", "csv"], "CSV");
    refused(&["bench", &tiny("opt-125m-like"), "-p", "500"], 2, "learned");
    refused(&["bench"], 2, "MODEL");
    refused(&["bench", "/nowhere/model"], 66, "/nowhere/model");
    let wrong = Command::cargo_bin("tamis").unwrap().args(["bench", &model]).env("TAMIS_ISA", "mmx").output();
    assert_eq!(wrong.unwrap().status.code(), Some(2));
}

fn golden_adapter(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tamis/tests/golden/adapters").join(name);
    folder.to_str().unwrap().to_owned()
}

#[test]
fn adapters_are_merged_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("merged");
    let out = out.to_str().unwrap();
    let (model, adapter) = (tiny("llama-gqa"), golden_adapter("llama-gqa"));
    let merge = ["merge", &model, "--adapter", &adapter, "-o", out, "--json", "--quiet"];
    let made = json(&merge);
    assert_eq!(made["linears"], 8);
    assert!(made["file_bytes"].as_u64().unwrap() > 0);
    assert!(tamis(&["verify", out]).status.success());
    refused(&merge, 2, "--overwrite");
    let again = json(&[&merge[..], &["--overwrite"]].concat());
    assert_eq!(again["file_bytes"], made["file_bytes"]);
    refused(
        &["merge", &tiny("opt-125m-like"), "--adapter", &adapter, "-o", "x"],
        65,
        "adapter_model.safetensors",
    );
    refused(&["merge", &model, "--adapter", "/nowhere", "-o", "x"], 66, "/nowhere/adapter_config.json");
}

/// An adapter of rank 1 on the first q_proj of stories260K; its numbers are all `value`.
fn small_adapter(folder: &Path, value: f32) -> String {
    std::fs::create_dir_all(folder).unwrap();
    let settings = r#"{"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q_proj"],
        "layers_to_transform": [0]}"#;
    std::fs::write(folder.join("adapter_config.json"), settings).unwrap();
    let name = "base_model.model.model.layers.0.self_attn.q_proj.lora";
    let header = format!(
        r#"{{"{name}_A.weight":{{"dtype":"F32","shape":[1,64],"data_offsets":[0,256]}},
            "{name}_B.weight":{{"dtype":"F32","shape":[64,1],"data_offsets":[256,512]}}}}"#
    );
    let length = (header.len() as u64).to_le_bytes();
    let bytes = [&length[..], header.as_bytes(), &value.to_le_bytes().repeat(128)].concat();
    std::fs::write(folder.join("adapter_model.safetensors"), bytes).unwrap();
    folder.to_str().unwrap().to_owned()
}

#[test]
fn an_adapter_is_heard_in_generate_and_eval() {
    let (Some(model), Some(text)) = (data("models/stories260K"), data("tinystories/tinystories_2MiB.txt"))
    else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let nothing = small_adapter(&folder.path().join("nothing"), 0.0);
    let much = small_adapter(&folder.path().join("much"), 3.0);
    let tell = |flags: &[&str]| {
        let base = ["generate", &model, "--prompt", "Once", "--max-tokens", "24", "--greedy", "--json"];
        json(&[&base[..], flags].concat())["tokens"].clone()
    };
    assert_eq!(tell(&[]), tell(&["--adapter", &nothing]));
    assert_ne!(tell(&[]), tell(&["--adapter", &much]));
    let measure = |flags: &[&str]| {
        let base =
            ["eval", &model, "--perplexity", &text, "--context", "128", "--windows", "2", "--json", "-q"];
        json(&[&base[..], flags].concat())["tamis"].clone()
    };
    let (plain, same, worse) =
        (measure(&[]), measure(&["--adapter", &nothing]), measure(&["--adapter", &much]));
    assert_eq!(plain["perplexity"], same["perplexity"]);
    assert_eq!(same["adapter"], nothing.as_str());
    let value = |card: &Value| card["perplexity"][0]["value"].as_f64().unwrap();
    assert!(value(&worse) > value(&plain));
}

/// A changed word of help or of a list is a change that somebody reviews.
#[test]
fn what_it_prints_without_a_model() {
    let text = |arguments: &[&str]| String::from_utf8(tamis(arguments).stdout).unwrap();
    insta::assert_snapshot!("help", text(&["--help"]));
    insta::assert_snapshot!("compress_help", text(&["compress", "--help"]));
    insta::assert_snapshot!("generate_help", text(&["generate", "--help"]));
    insta::assert_snapshot!("recover_help", text(&["recover", "--help"]));
    insta::assert_snapshot!("pretrain_help", text(&["pretrain", "--help"]));
    insta::assert_snapshot!("export_help", text(&["export", "--help"]));
    insta::assert_snapshot!("merge_help", text(&["merge", "--help"]));
    insta::assert_snapshot!("bench_help", text(&["bench", "--help"]));
    insta::assert_snapshot!("recipe_list", text(&["recipe", "list"]));
}
