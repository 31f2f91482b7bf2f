//! What a disk may hold instead of the file that is asked for: pipes, devices, files without an end, bombs,
//! configurations of another model. Every command says so at once and does nothing.
#![cfg(unix)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;

/// Enough for a slow machine, and too little for a TiB.
const PATIENCE: Duration = Duration::from_secs(60);

fn tamis(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::cargo_bin("tamis").unwrap();
    let output = command.args(arguments).env_remove("TAMIS_ISA").timeout(PATIENCE).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn refused(arguments: &[&str], code: i32, file: &Path) -> String {
    let (found, _, message) = tamis(arguments);
    assert_eq!(found, Some(code), "{arguments:?}: {message}");
    assert!(
        message.contains(file.to_str().unwrap()),
        "{arguments:?}: {} is not in {message}",
        file.display()
    );
    assert!(message.contains("next:") && !message.contains("panicked"), "{message}");
    message
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tamis/tests/golden").join(name)
}

/// A copy of a tiny model or adapter.
fn copy(name: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(golden(name)).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    folder
}

/// Puts a pipe that nobody writes to where a file may have been.
fn pipe(path: &Path) -> &Path {
    std::fs::remove_file(path).ok();
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
    path
}

#[test]
fn a_pipe_is_refused_wherever_a_file_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text");
    let (pipe_text, out) = (pipe(&text).to_str().unwrap(), folder.path().join("out"));
    let (model, out) = (golden("models/llama-gqa"), out.to_str().unwrap());
    let model = model.to_str().unwrap();
    let compress = ["compress", model, "-o", out, "--recipe", "int4", "--calibration"];
    refused(&[&compress[..], &[pipe_text]].concat(), 65, &text);
    refused(&[&compress[..], &["/dev/zero"]].concat(), 65, Path::new("/dev/zero"));
    refused(&["eval", model, "--perplexity", pipe_text], 65, &text);
    let recover =
        ["recover", model, "-o", out, "--method", "full", "--data", pipe_text, "--valid", pipe_text];
    refused(&recover, 65, &text);
    refused(&["recipe", "check", pipe_text], 78, &text);
    refused(&["pretrain", pipe_text, "-o", out], 65, &text);
    refused(&["inspect", pipe_text], 65, &text);
    assert!(!Path::new(out).exists());

    for file in
        ["config.json", "model.safetensors", "tokenizer.json", "generation_config.json", "manifest.json"]
    {
        let copy = copy("models/llama-gqa");
        let path = copy.path().join(file);
        let model = copy.path().to_str().unwrap();
        pipe(&path);
        refused(&["compress", model, "-o", out, "--recipe", "rtn4", "--dry-run"], 65, &path);
    }
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        let copy = copy("adapters/llama-gqa");
        let path = copy.path().join(file);
        pipe(&path);
        refused(&["verify", copy.path().to_str().unwrap()], 65, &path);
    }
}

#[test]
fn a_configuration_of_another_model_is_refused_by_plan_and_work_alike() {
    let folder = copy("models/llama-gqa");
    let config = folder.path().join("config.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    json["intermediate_size"] = 72.into();
    std::fs::remove_file(&config).unwrap();
    std::fs::write(&config, json.to_string()).unwrap();
    let text = folder.path().join("text.txt");
    std::fs::write(&text, "Once upon a time. ".repeat(50)).unwrap();
    let (model, text) = (folder.path().to_str().unwrap(), text.to_str().unwrap());
    let out = folder.path().join("out");
    let out = out.to_str().unwrap();
    let compress = ["compress", model, "-o", out, "--recipe", "rtn4", "--quiet"];
    let recover =
        ["recover", model, "-o", out, "--method", "full", "--data", text, "--valid", text, "--quiet"];
    let local =
        ["recover", model, "-o", out, "--data", text, "--method", "local", "--teacher", model, "--quiet"];
    let mut told = vec![refused(&["inspect", model], 65, folder.path())];
    for command in [&compress[..], &recover, &local] {
        told.push(refused(command, 65, folder.path()));
        told.push(refused(&[command, &["--dry-run"]].concat(), 65, folder.path()));
    }
    assert!(told[0].contains("configuration asks for"), "{}", told[0]);
    assert!(told.iter().all(|message| *message == told[0]), "{told:?}");
    assert!(!Path::new(out).exists());
}

#[test]
fn verify_compares_lengths_before_it_hashes() {
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (golden("models/llama-gqa"), folder.path().join("out"));
    let arguments =
        ["compress", model.to_str().unwrap(), "-o", out.to_str().unwrap(), "--recipe", "rtn4", "-q"];
    assert_eq!(tamis(&arguments).0, Some(0));
    let weights = out.join("model.safetensors");
    std::fs::OpenOptions::new().write(true).open(&weights).unwrap().set_len(1 << 40).unwrap();
    refused(&["verify", out.to_str().unwrap()], 65, &weights);
    refused(&["verify", pipe(&weights).parent().unwrap().to_str().unwrap()], 65, &weights);
}

#[test]
fn what_has_no_manifest_is_verified_as_far_as_it_goes() {
    for (name, kind) in [
        ("models/llama-gqa", "hugging-face"),
        ("models/llama-gqa/model.gguf", "gguf"),
        ("adapters/llama-gqa", "adapter"),
    ] {
        let path = golden(name);
        let path = path.to_str().unwrap();
        let (code, out, message) = tamis(&["verify", path, "--json"]);
        assert_eq!(code, Some(0), "{message}");
        let found: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(found["kind"], kind);
        assert!(found["tensors"].as_u64().unwrap() > 0 && found["bytes"].as_u64().unwrap() > 0);
        assert!(found["unverified"][0].as_str().unwrap().contains("nobody recorded"));
        assert!(tamis(&["verify", path]).1.contains("not verified: no manifest"));
    }
    refused(&["verify", "/nowhere"], 66, Path::new("/nowhere"));
    let folder = copy("models/llama-gqa");
    let gguf = folder.path().join("model.gguf");
    let bytes = std::fs::read(&gguf).unwrap();
    std::fs::remove_file(&gguf).unwrap();
    std::fs::write(&gguf, &bytes[..bytes.len() - 40]).unwrap();
    refused(&["verify", gguf.to_str().unwrap()], 65, &gguf);
}
