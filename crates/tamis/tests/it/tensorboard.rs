//! Event files against TensorBoard: the bytes of its own writer, and what its own reader finds.
//! `scripts/golden/events_golden.py` made the golden file.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tamis::recover::tensorboard::EventWriter;

const SCALARS: [(&str, u64, f32); 4] = [
    ("train/loss", 0, 4.25),
    ("train/loss", 1, 3.5),
    ("valid/wikitext2", 300, 31.0),
    ("train/loss", 70_000, -0.0),
];

fn at(index: usize) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs_f64(1_700_000_000.5 + 0.25 * index as f64)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

#[test]
fn the_bytes_are_those_of_tensorboards_own_writer() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = EventWriter::create(folder.path(), at(0)).unwrap();
    for (index, (tag, step, value)) in SCALARS.into_iter().enumerate() {
        writer.scalar(tag, step, value, at(index + 1)).unwrap();
    }
    let golden = std::fs::read(root().join("tests/golden/events.tfevents")).unwrap();
    assert!(std::fs::read(writer.path()).unwrap() == golden);
}

#[test]
fn tensorboards_own_reader_finds_both_files_of_a_run_that_went_on() {
    let Some(python) = std::env::var_os("TAMIS_PYTHON") else {
        let _ = writeln!(std::io::stderr(), "SKIPPED: TAMIS_PYTHON names no interpreter with tensorboard");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    for (run, half) in SCALARS.chunks(2).enumerate() {
        let mut writer = EventWriter::create(folder.path(), at(4 * run)).unwrap();
        for (tag, step, value) in half {
            writer.scalar(tag, *step, *value, at(4 * run + 1)).unwrap();
        }
    }
    let script = root().join("../../scripts/golden/read_events.py");
    let output = Command::new(python).arg(script).arg(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let expected = serde_json::json!({
        "train/loss": [[1_700_000_000.75, 0, 4.25], [1_700_000_000.75, 1, 3.5], [1_700_000_001.75, 70_000, -0.0]],
        "valid/wikitext2": [[1_700_000_001.75, 300, 31.0]],
    });
    assert_eq!(found, expected);
}
