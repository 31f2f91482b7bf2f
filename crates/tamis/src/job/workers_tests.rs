//! A job that many share: the model of one process but for the order of sums, and always the same bits.

use std::ops::ControlFlow;
use std::path::Path;

use super::*;
use crate::artifact::{Existing, Resume};
use crate::calibrate::choose_windows;
use crate::compress::Threads;
use crate::error::{Kind, Result};
use crate::load::Checkpoint;
use crate::ops::{Cpu, Isa, Precision};
use crate::recipe::{Format, Recipe};
use crate::units::Alpha;
use crate::workers::{Alone, Workers, threads::together};

/// Sums in another order differ in the last bits of f64. Where two weights are all but equally dear that may
/// decide which of them goes, or to which side a code is rounded.
const ORDER_OF_SUMS: f64 = 1e-3;

fn dense() -> Checkpoint {
    Checkpoint::open(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/models/llama-gqa")).unwrap()
}

fn run(
    recipe: &str,
    workers: &dyn Workers,
    output: &Path,
    (samples, until): (usize, usize),
) -> Result<Outcome> {
    let checkpoint = dense();
    let recipe = Recipe::parse(recipe, Format::Toml, Path::new("test.toml"))?;
    let stream: Vec<u32> = (0..400).map(|i| (i * i / 3) % 67).collect();
    let windows = choose_windows(&stream, samples, 16, 1)?;
    let job = Job {
        checkpoint: &checkpoint,
        recipe: &recipe,
        calibration: Some(Calibration { windows, held_out: None, seed: 1 }),
        ops: &Cpu::new(Isa::detect(), 1, Precision::F32),
        threads: Threads::ONE,
        workers,
        output,
        policy: (Resume::Auto, Existing::Refuse),
    };
    job.run(&mut |step| if step.done >= until { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
}

fn bytes(folder: &Path) -> Vec<u8> {
    std::fs::read(folder.join("model.safetensors")).unwrap()
}

fn values(folder: &Path) -> Vec<f32> {
    let checkpoint = Checkpoint::open(folder.to_str().unwrap()).unwrap();
    let names: Vec<&String> = checkpoint.tensors().tensors().keys().collect();
    names
        .iter()
        .filter_map(|name| checkpoint.tensors().weight(name).ok())
        .flat_map(|w| w.to_f32(Alpha::ONE))
        .collect()
}

#[test]
fn many_workers_make_the_model_of_one_also_when_they_are_stopped() {
    let recipes = [
        "name = \"w\"\n[default]\nmethod = \"prune\"\nscore = \"wanda\"\nsparsity = 0.5\n",
        "name = \"s\"\n[default]\nmethod = \"prune\"\nscore = \"sparsegpt\"\nsparsity = 0.5\n",
        "name = \"g\"\n[default]\nmethod = \"gptq\"\nbits = 4\ngroup = \"row\"\n",
    ];
    for recipe in recipes {
        let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let [one, many, stopped] = dirs.each_ref().map(tempfile::TempDir::path);
        run(recipe, &Alone, one, (7, 99)).unwrap();
        for result in together(3, |workers| run(recipe, workers, many, (7, 99)).map(drop)) {
            result.unwrap();
        }
        let (a, b) = (values(one), values(many));
        let square =
            |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>();
        let off = square(&mut a.iter().zip(&b).map(|(a, b)| a - b)) / square(&mut a.iter().copied());
        assert!(a.len() == b.len() && off.sqrt() < ORDER_OF_SUMS, "{recipe}: {:e}", off.sqrt());
        assert!(a.iter().zip(dense_values()).any(|(a, d)| *a != d), "nothing was compressed");
        for result in together(3, |workers| run(recipe, workers, stopped, (7, 1)).map(drop)) {
            assert_eq!(result.unwrap_err().kind(), Kind::Stopped);
        }
        for result in together(3, |workers| run(recipe, workers, stopped, (7, 99)).map(drop)) {
            result.unwrap();
        }
        assert_eq!(bytes(many), bytes(stopped));
    }
}

fn dense_values() -> Vec<f32> {
    let checkpoint = dense();
    values(checkpoint.path())
}

#[test]
fn a_worker_without_a_window_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = "name = \"w\"\n[default]\nmethod = \"prune\"\nscore = \"wanda\"\nsparsity = 0.5\n";
    for result in together(3, |workers| run(recipe, workers, folder.path(), (2, 99)).map(drop)) {
        assert_eq!(result.unwrap_err().kind(), Kind::Usage);
    }
}
