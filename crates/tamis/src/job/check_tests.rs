//! What a job refuses before it begins its output folder, what it leaves as it is, and what it says of its memory.

use std::ops::ControlFlow;
use std::path::Path;

use super::*;
use crate::artifact::{Existing, Resume};
use crate::calibrate::choose_windows;
use crate::compress::Threads;
use crate::error::{Kind, Result};
use crate::load::Checkpoint;
use crate::model::Block;
use crate::model::block::Role;
use crate::ops::{Cpu, Isa, Precision};
use crate::recipe::{Format, Recipe};
use crate::units::Alpha;
use crate::workers::Alone;

const HALF: &str = "method = \"prune\"\nscore = \"magnitude\"\nsparsity = 0.5\n";
const USUAL: (Resume, Existing) = (Resume::Auto, Existing::Refuse);

fn open(folder: &Path) -> Checkpoint {
    Checkpoint::open(folder.to_str().unwrap()).unwrap()
}

fn dense() -> Checkpoint {
    open(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/models/llama-gqa")))
}

fn windows(length: usize) -> Option<Calibration> {
    let stream: Vec<u32> = (0..400).map(|i| (i * i / 3) % 67).collect();
    let windows = choose_windows(&stream, 2, length, 1).unwrap();
    Some(Calibration { windows, held_out: None, seed: 1 })
}

/// Calls `f` with a job whose recipe has these lines under `[default]`.
fn with_job<R>(
    checkpoint: &Checkpoint,
    lines: &str,
    calibration: Option<Calibration>,
    (output, policy): (&Path, (Resume, Existing)),
    f: impl FnOnce(&Job<'_>) -> R,
) -> R {
    let text = format!("name = \"a\"\n[default]\n{lines}");
    let recipe = Recipe::parse(&text, Format::Toml, Path::new("a.toml")).unwrap();
    let ops = Cpu::new(Isa::detect(), 1, Precision::F32);
    f(&Job {
        checkpoint,
        recipe: &recipe,
        calibration,
        ops: &ops,
        threads: Threads::ONE,
        workers: &Alone,
        output,
        policy,
    })
}

fn run(job: &Job<'_>) -> Result<Outcome> {
    job.run(&mut |_| ControlFlow::Continue(()))
}

#[test]
fn a_pruned_linear_that_is_skipped_keeps_its_mask() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    with_job(&dense(), HALF, None, (&first, USUAL), run).unwrap();
    let holes = open(&first);
    let lines = format!("{HALF}kept = \"int8\"\n[[override]]\nmatch = \"**.o_proj\"\nmethod = \"keep\"\n");
    with_job(&holes, &lines, None, (&second, USUAL), run).unwrap();
    let made = open(&second);
    for index in 0..2 {
        let (before, after) = (Block::load(&holes, index).unwrap(), Block::load(&made, index).unwrap());
        for role in Role::ALL {
            let (old, new) = (&before.linear(role).unwrap().weight, &after.linear(role).unwrap().weight);
            assert!(old.kept().is_some() && old.kept() == new.kept(), "{role:?}");
            let same = old.to_f32(Alpha::ONE) == new.to_f32(Alpha::ONE) && old.bytes() == new.bytes();
            assert_eq!(same, role == Role::O, "{role:?}");
        }
    }
}

#[test]
fn what_would_lose_a_mask_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    with_job(&dense(), HALF, None, (&first, USUAL), run).unwrap();
    let holes = open(&first);
    let sorted = "method = \"prune\"\nscore = \"diagonal\"\npattern = \"4x4\"\npermute = true\n\
                  [[override]]\nmatch = \"**.down_proj\"\nmethod = \"keep\"\n";
    for (lines, part) in [
        ("method = \"rtn\"\n", "tamis export"),
        ("method = \"gptq\"\northo = \"quality\"\n", "--kept"),
        (sorted, "leave permute out"),
    ] {
        let error = with_job(&holes, lines, windows(16), (&second, USUAL), run).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        assert!(error.to_string().contains(part), "{error}");
        assert!(!second.exists(), "nothing is written before it is refused");
    }
}

#[test]
fn what_is_known_up_front_leaves_no_output_folder() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let allocated = |how: &str| format!("{HALF}[allocation]\n{how}\n");
    let cases = [
        ("method = \"prune\"\n".into(), windows(80), "exceed the model's context of 64"),
        ("method = \"prune\"\n".into(), None, "needs calibration text"),
        ("method = \"prune\"\npattern = \"1:3\"\n".into(), windows(16), "inputs are not whole groups"),
        (
            "method = \"prune\"\nscore = \"diagonal\"\npattern = \"dense, 2:16, none\"\n".into(),
            windows(16),
            "44 inputs are not whole groups",
        ),
        (allocated("over = \"owl\""), None, "needs calibration text"),
        (allocated("over = \"slope\""), windows(16), "held out"),
        (allocated("ends = [1, 1]"), None, "no layer to prune"),
    ];
    for (lines, calibration, part) in cases {
        with_job(&dense(), &lines, calibration, (&output, USUAL), |job| {
            let error = job.check().unwrap_err().to_string();
            assert!(error.contains(part), "{lines}: {error}");
            assert_eq!(run(job).unwrap_err().to_string(), error);
        });
        assert!(!output.exists(), "{lines}");
    }
}

#[test]
fn the_output_folder_is_judged_without_a_trace() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let judged = |lines: &str, policy| {
        let checked = with_job(&dense(), lines, None, (&output, policy), |job| job.check_output());
        checked.map_err(|e| e.to_string())
    };
    judged(HALF, USUAL).unwrap();
    assert!(!output.exists());
    let stopped = with_job(&dense(), HALF, None, (&output, USUAL), |job| {
        job.run(&mut |_| ControlFlow::Break(())).unwrap_err()
    });
    assert_eq!(stopped.kind(), Kind::Stopped);
    judged(HALF, USUAL).unwrap();
    let other = HALF.replace("0.5", "0.6");
    assert!(judged(&other, USUAL).unwrap_err().contains("--resume never"));
    judged(&other, (Resume::Never, Existing::Refuse)).unwrap();
    with_job(&dense(), HALF, None, (&output, USUAL), run).unwrap();
    assert!(judged(HALF, USUAL).unwrap_err().contains("--overwrite"));
    judged(&other, (Resume::Auto, Existing::Overwrite)).unwrap();
}

#[test]
fn the_bench_is_that_of_what_is_done() {
    let bench = |lines: &str, calibration: Option<Calibration>| {
        let target = (Path::new("out"), USUAL);
        with_job(&dense(), lines, calibration, target, |job| Estimate::of(job).unwrap().bench)
    };
    let largest = 32 * 44;
    assert_eq!(bench(HALF, None), 12 * largest);
    assert_eq!(bench(&format!("{HALF}pattern = \"matrix\"\n"), None), 21 * largest);
    // A walk makes Gram matrices and factors of them whether a score asks or not.
    assert_eq!(bench(HALF, windows(16)), bench("method = \"prune\"\n", windows(16)));
}
