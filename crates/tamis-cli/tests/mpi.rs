//! `mpirun tamis recover` on a tiny model: as one process does, the same bits every time, and what happens when
//! a process is stopped or killed. Built with the feature `mpi` only; says so where there is no `mpirun`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tamis::load::Checkpoint;
use tamis::units::Alpha;

/// What another order of sums may change: products round their operands to bf16, whose last bit is 2^-8 of a
/// weight, and a mended weight may fall on either side of it.
const ORDER_OF_SUMS: f64 = 1e-3;

const HOLES: &str =
    "name = \"holes\"\n[default]\nmethod = \"prune\"\nscore = \"magnitude\"\nsparsity = 0.5\n";
const VOCAB: usize = 67;

/// A dense model with a tokenizer of whole words, the same with holes, and texts that can be learnt.
struct Setup {
    folder: tempfile::TempDir,
}

impl Setup {
    /// Nothing where there is no `mpirun`.
    fn new() -> Option<Self> {
        if let Err(error) = Command::new("mpirun").arg("--version").output() {
            let _ = writeln!(std::io::stderr(), "SKIPPED: mpirun: {error}");
            return None;
        }
        let setup = Self { folder: tempfile::tempdir().unwrap() };
        let dense = setup.path("dense");
        std::fs::create_dir(&dense).unwrap();
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tamis/tests/golden/models/llama-gqa");
        for name in ["config.json", "model.safetensors"] {
            std::fs::copy(golden.join(name), dense.join(name)).unwrap();
        }
        let vocab: serde_json::Map<String, Value> = (0..VOCAB).map(|id| (word(id), id.into())).collect();
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": {
                "type": "Split", "pattern": { "String": " " }, "behavior": "Removed", "invert": false
            },
            "post_processor": null, "decoder": null,
            "model": { "type": "BPE", "vocab": vocab, "merges": [], "ignore_merges": true },
        });
        std::fs::write(dense.join("tokenizer.json"), tokenizer.to_string()).unwrap();
        std::fs::write(setup.path("holes.toml"), HOLES).unwrap();
        let text = |from: usize, count: usize| {
            let words: Vec<String> = (from..from + count).map(|i| word(3 + (i * i / 3) % 17)).collect();
            words.join(" ")
        };
        std::fs::write(setup.path("train.txt"), text(0, 400)).unwrap();
        std::fs::write(setup.path("valid.txt"), text(400, 60)).unwrap();
        let mut compress = tamis(1);
        compress.arg("compress").arg(dense).arg("-o").arg(setup.path("holes"));
        compress.arg("--recipe").arg(setup.path("holes.toml")).arg("--quiet");
        succeed(&mut compress);
        Some(setup)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A run of so many processes and steps, which is to be started.
    fn recover(&self, processes: usize, steps: usize, output: &str) -> Command {
        let mut command = tamis(processes);
        command.arg("recover").arg(self.path("holes")).arg("-o").arg(self.path(output));
        command.arg("--teacher").arg(self.path("dense"));
        command.arg("--data").arg(self.path("train.txt")).arg("--valid").arg(self.path("valid.txt"));
        command
            .args(["--method", "masked", "--batch", "4", "--length", "12", "--lr", "5e-3", "--every", "4"]);
        command.args(["--steps", &steps.to_string(), "--threads", "1", "--quiet", "--json"]);
        command
    }

    fn weights(&self, output: &str) -> Vec<u8> {
        std::fs::read(self.path(output).join("model.safetensors")).unwrap()
    }

    fn values(&self, output: &str) -> Vec<f32> {
        let checkpoint = Checkpoint::open(self.path(output).to_str().unwrap()).unwrap();
        let names: Vec<&String> = checkpoint.tensors().tensors().keys().collect();
        let matrix = |name: &&String| checkpoint.tensors().weight(name).ok();
        names.iter().filter_map(matrix).flat_map(|w| w.to_f32(Alpha::ONE)).collect()
    }

    /// Waits until the run has noted step `step`.
    fn wait_for(&self, output: &str, step: usize, run: &mut Child) {
        let metrics = self.path(output).join("metrics.jsonl");
        let started = Instant::now();
        while std::fs::read_to_string(&metrics).map_or(0, |text| text.lines().count()) < step {
            assert!(run.try_wait().unwrap().is_none(), "it ended before step {step}");
            assert!(started.elapsed() < Duration::from_secs(120), "no step {step} in two minutes");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn word(id: usize) -> String {
    format!("w{id}")
}

/// The command, as so many processes that mpirun starts; one runs without it.
fn tamis(processes: usize) -> Command {
    let program = env!("CARGO_BIN_EXE_tamis");
    let mut command = Command::new(if processes == 1 { program } else { "mpirun" });
    if processes > 1 {
        command.args(["-n", &processes.to_string(), program]);
    }
    for name in ["ALLOW_RUN_AS_ROOT", "ALLOW_RUN_AS_ROOT_CONFIRM", "MCA_rmaps_base_oversubscribe"] {
        command.env(format!("OMPI_{name}"), "1");
    }
    command.env_remove("TAMIS_ISA");
    command
}

fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn account(command: &mut Command) -> Value {
    // One process alone prints, so this is one document.
    let value: Value = serde_json::from_slice(&succeed(command).stdout).unwrap();
    value["tamis"]["recovery"].clone()
}

/// The processes that `parent` has started.
fn children(parent: u32) -> Vec<u32> {
    let task = format!("/proc/{parent}/task/{parent}/children");
    let text = std::fs::read_to_string(task).unwrap();
    text.split_whitespace().map(|id| id.parse().unwrap()).collect()
}

fn kill(signal: &str, process: u32) {
    assert!(Command::new("kill").args([signal, &process.to_string()]).status().unwrap().success());
}

fn is_running(process: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"));
    status.is_ok_and(|status| !status.contains("State:\tZ"))
}

#[test]
fn two_processes_mend_as_one_does_and_always_to_the_same_bits() {
    let Some(setup) = Setup::new() else { return };
    let one = account(&mut setup.recover(1, 12, "one"));
    let two = account(&mut setup.recover(2, 12, "two"));
    account(&mut setup.recover(2, 12, "again"));
    assert_eq!(setup.weights("two"), setup.weights("again"));

    let number = |account: &Value, key: &str| account[key].as_f64().unwrap();
    assert!(number(&one, "best") < 0.9 * number(&one, "before"), "{one}");
    assert_eq!((&one["steps"], &one["tokens"]), (&two["steps"], &two["tokens"]));
    assert_eq!(two["mask_violations"], 0);
    for key in ["dense_perplexity", "before", "after", "best", "saved"] {
        let off = number(&two, key) / number(&one, key) - 1.0;
        assert!(off.abs() < ORDER_OF_SUMS, "{key}: {off:e}");
    }
    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>();
    let (a, b) = (setup.values("one"), setup.values("two"));
    let off = square(&mut a.iter().zip(&b).map(|(a, b)| a - b)) / square(&mut a.iter().copied());
    assert!(off.sqrt() < ORDER_OF_SUMS, "weights: {:e}", off.sqrt());
    // One step and one validation a line, from one writer.
    let metrics = std::fs::read_to_string(setup.path("two").join("metrics.jsonl")).unwrap();
    assert_eq!(metrics.lines().count(), 12 + 4);
}

#[test]
fn two_processes_calibrate_as_one_does_and_always_to_the_same_bits() {
    let Some(setup) = Setup::new() else { return };
    std::fs::write(setup.path("wanda.toml"), HOLES.replace("magnitude", "wanda")).unwrap();
    let compress = |processes: usize, output: &str| {
        let mut command = tamis(processes);
        command.arg("compress").arg(setup.path("dense")).arg("-o").arg(setup.path(output));
        command
            .arg("--recipe")
            .arg(setup.path("wanda.toml"))
            .arg("--calibration")
            .arg(setup.path("train.txt"));
        command.args(["--samples", "7", "--length", "12", "--threads", "1", "--quiet", "--json"]);
        let report: Value = serde_json::from_slice(&succeed(&mut command).stdout).unwrap();
        assert_eq!(report["outcome"]["resumed_parts"], 0);
    };
    compress(1, "one");
    compress(2, "two");
    compress(2, "again");
    assert_eq!(setup.weights("two"), setup.weights("again"));
    let (a, b) = (setup.values("one"), setup.values("two"));
    let differ = a.iter().zip(&b).filter(|(a, b)| a != b).count();
    assert!(a.len() == b.len() && differ as f64 <= ORDER_OF_SUMS * a.len() as f64, "{differ} of {}", a.len());
    assert!(a.iter().filter(|v| **v == 0.0).count() * 4 > a.len());
}

#[test]
fn a_process_that_is_killed_ends_all_and_the_next_run_ends_with_the_same_bits() {
    let Some(setup) = Setup::new() else { return };
    let steps = 400;
    account(&mut setup.recover(2, steps, "whole"));
    let mut run =
        setup.recover(2, steps, "parts").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    setup.wait_for("parts", 30, &mut run);
    let processes = children(run.id());
    assert_eq!(processes.len(), 2);
    kill("-9", processes[1]);
    assert!(!run.wait().unwrap().success());
    // mpirun kills the others and does not wait until they are gone.
    let ended = Instant::now();
    while processes.iter().any(|process| is_running(*process)) {
        assert!(ended.elapsed() < Duration::from_secs(10), "a process outlives the one that was killed");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!setup.path("parts").join("manifest.json").exists());
    let account = account(&mut setup.recover(2, steps, "parts"));
    assert_eq!(account["steps"], steps);
    assert_eq!(setup.weights("whole"), setup.weights("parts"));
}

#[test]
fn a_process_that_is_asked_to_stop_stops_all_with_everything_saved() {
    let Some(setup) = Setup::new() else { return };
    let steps = 400;
    let mut run =
        setup.recover(2, steps, "parts").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    setup.wait_for("parts", 30, &mut run);
    kill("-TERM", children(run.id())[1]);
    assert_eq!(run.wait().unwrap().code(), Some(75));
    let record = std::fs::read(setup.path("parts").join(".training/record.json")).unwrap();
    let record: Value = serde_json::from_slice(&record).unwrap();
    let metrics = std::fs::read_to_string(setup.path("parts").join("metrics.jsonl")).unwrap();
    let last: Value = serde_json::from_str(metrics.lines().last().unwrap()).unwrap();
    assert_eq!(record["step"], last["step"], "the step at hand was saved");
    assert_eq!(account(&mut setup.recover(2, steps, "parts"))["steps"], steps);
}

#[test]
fn what_cannot_be_shared_is_refused() {
    let Some(setup) = Setup::new() else { return };
    let refused = |command: &mut Command, says: &str| {
        let output = command.output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(says), "{message}");
    };
    refused(&mut setup.recover(5, 4, "out"), "--batch 5");
    refused(tamis(2).arg("inspect").arg(setup.path("holes")), "without mpirun");
}
