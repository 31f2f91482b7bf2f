//! How zeros are spread over the layers of a real model (stories260K), and units sorted before blocks are chosen.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tamis::artifact::{Existing, Manifest, Resume};
use tamis::calibrate::choose_apart;
use tamis::compress::Threads;
use tamis::error::Kind;
use tamis::job::{Calibration, Estimate, Job, Outcome};
use tamis::load::{AddSpecial, Checkpoint};
use tamis::model::{Decoder, Engine, LanguageModel, Rows};
use tamis::ops::{CacheType, Cpu, Isa, Precision};
use tamis::recipe::{Format, Recipe};
use tamis::units::Alpha;

use crate::places::data;

struct Bench {
    checkpoint: Checkpoint,
    stream: Vec<u32>,
}

fn bench() -> Option<Bench> {
    let (model, stories) = (data("models/stories260K")?, data("tinystories/tinystories_2MiB.txt")?);
    let checkpoint = Checkpoint::open(model.to_str().unwrap()).unwrap();
    let text: String = std::fs::read_to_string(stories).unwrap().chars().take(40_000).collect();
    let stream = checkpoint.tokenizer().unwrap().encode(&text, AddSpecial::Nothing).unwrap();
    Some(Bench { checkpoint, stream })
}

fn cpu(threads: usize, precision: Precision) -> Arc<Cpu> {
    Arc::new(Cpu::new(Isa::from_env().unwrap(), threads, precision))
}

fn recipe(lines: &str) -> Recipe {
    let text = format!("name = \"a\"\n[default]\nmethod = \"prune\"\n{lines}");
    Recipe::parse(&text, Format::Toml, Path::new("a.toml")).unwrap()
}

impl Bench {
    fn run(
        &self,
        recipe: &Recipe,
        output: &Path,
        (threads, blocks): (usize, usize),
    ) -> tamis::Result<Outcome> {
        let ops = cpu(threads, Precision::Bf16);
        let (windows, others) = choose_apart(&self.stream, (12, recipe.allocation.windows()), 128, 0)?;
        let held_out = (others.count() > 0).then_some(others);
        let job = Job {
            checkpoint: &self.checkpoint,
            recipe,
            calibration: Some(Calibration { windows, held_out, seed: 0 }),
            ops: &*ops,
            threads: Threads::new(NonZeroUsize::new(threads).unwrap()),
            workers: &tamis::workers::Alone,
            output,
            policy: (Resume::Auto, Existing::Refuse),
        };
        assert!(Estimate::of(&job)?.peak > 0);
        job.run(&mut |step| {
            if step.done >= blocks { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    }

    /// Share of zeros over all linears.
    fn zeros(&self, outcome: &Outcome) -> f64 {
        let weights = |name: &String| -> f64 {
            let info = &self.checkpoint.tensors().tensors()[&format!("{name}.weight")];
            info.shape.iter().map(|n| *n as f64).product()
        };
        let total: f64 = outcome.receipts.keys().map(weights).sum();
        outcome.receipts.iter().map(|(name, r)| weights(name) * r.sparsity).sum::<f64>() / total
    }

    fn logits(&self, model: &Path) -> Vec<f32> {
        let checkpoint = Checkpoint::open(model.to_str().unwrap()).unwrap();
        let ops = cpu(2, Precision::F32);
        let engine = Engine::new(Decoder::load(&checkpoint, &*ops).unwrap(), ops, CacheType::F32);
        let mut logits = Vec::new();
        engine.start().push(&self.stream[..100], Alpha::ONE, Rows::All, &mut logits).unwrap();
        logits
    }
}

fn files(folder: &PathBuf) -> BTreeMap<String, Vec<u8>> {
    let entry = |e: std::io::Result<std::fs::DirEntry>| {
        let path = e.unwrap().path();
        (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(path).unwrap())
    };
    std::fs::read_dir(folder).unwrap().map(entry).collect()
}

/// A row of 64 inputs can lose 1/64 more or less than it should.
const ROUNDING: f64 = 1.0 / 64.0;

#[test]
fn every_allocation_leaves_out_what_was_asked_for() {
    let Some(bench) = bench() else { return };
    let folder = tempfile::tempdir().unwrap();
    for (at, lines) in [
        "[allocation]\nends = [1, 1]\n",
        "[allocation]\nover = \"owl\"\n",
        "[allocation]\nover = \"slope\"\ncandidates = [-0.5, 0.0, 0.5]\n",
        "[allocation]\nover = \"measured\"\nends = [0, 1]\n",
        "[allocation]\nover = \"measured\"\nper = \"linear\"\n",
    ]
    .iter()
    .enumerate()
    {
        let recipe = recipe(&format!("sparsity = 0.4\n{lines}"));
        let output = folder.path().join(at.to_string());
        let outcome = bench.run(&recipe, &output, (2, usize::MAX)).unwrap();
        assert!((bench.zeros(&outcome) - 0.4).abs() < ROUNDING, "{lines}: {}", bench.zeros(&outcome));
        let weights: f64 = outcome.shares.iter().map(|s| s.weights as f64).sum();
        let mean: f64 = outcome.shares.iter().map(|s| s.share * s.weights as f64).sum::<f64>() / weights;
        assert!((mean - 0.4).abs() < 1e-6, "{lines}: {mean}");
        let manifest = Manifest::read(&output).unwrap();
        let written = manifest.recipe["allocation"]["shares"].as_object().unwrap();
        assert_eq!(written.len(), outcome.shares.len());
        for share in outcome.shares.iter().filter(|_| recipe.allocation.ends[1] == 1) {
            assert_eq!(
                share.share == 0.0,
                share.unit.contains(".4") || (at == 0 && share.unit.contains(".0"))
            );
        }
    }
}

#[test]
fn measured_shares_are_the_same_for_any_threads_and_after_a_stop() {
    let Some(bench) = bench() else { return };
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe("sparsity = 0.4\n[allocation]\nover = \"measured\"\n");
    let whole = folder.path().join("whole");
    bench.run(&recipe, &whole, (1, usize::MAX)).unwrap();
    let other = folder.path().join("other");
    assert_eq!(bench.run(&recipe, &other, (2, 2)).unwrap_err().kind(), Kind::Stopped);
    bench.run(&recipe, &other, (3, usize::MAX)).unwrap();
    assert!(files(&other) == files(&whole));
}

#[test]
fn what_overrides_say_is_left_to_them() {
    let Some(bench) = bench() else { return };
    let folder = tempfile::tempdir().unwrap();
    let overrides = "[[override]]\nmatch = \"**.v_proj\"\nsparsity = 0.1\n[[override]]\nmatch = \"**.o_proj\"\nmethod = \"keep\"\n";
    let recipe = recipe(&format!("sparsity = 0.5\n{overrides}[allocation]\nends = [1, 1]\n"));
    let outcome = bench.run(&recipe, &folder.path().join("a"), (2, usize::MAX)).unwrap();
    for (name, receipt) in &outcome.receipts {
        let expected = match name {
            _ if name.ends_with("o_proj") => 0.0..=0.0,
            _ if name.ends_with("v_proj") => 0.08..=0.1,
            _ if name.contains(".0.") || name.contains(".4.") => 0.0..=0.0,
            _ => 0.8..=0.84,
        };
        assert!(expected.contains(&receipt.sparsity), "{name}: {}", receipt.sparsity);
    }
}

#[test]
fn ends_that_leave_too_little_are_refused() {
    let Some(bench) = bench() else { return };
    let folder = tempfile::tempdir().unwrap();
    for (lines, part) in [
        ("sparsity = 0.5\n[allocation]\nends = [3, 1]\n", "would lose"),
        ("sparsity = 0.5\n[allocation]\nends = [3, 9]\n", "no layer"),
    ] {
        let error = bench.run(&recipe(lines), &folder.path().join("a"), (2, usize::MAX)).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
}

/// Sums of f32 products in another order, through five blocks, against logits of about 10.
const REORDERED: f32 = 1e-3;

#[test]
fn sorted_units_say_the_same() {
    let Some(bench) = bench() else { return };
    let folder = tempfile::tempdir().unwrap();
    let lines = "pattern = \"4x4\"\nscore = \"diagonal\"\nsparsity = 0.0\n";
    let run = |lines: &str, name: &str| {
        let output = folder.path().join(name);
        bench.run(&recipe(lines), &output, (2, usize::MAX)).unwrap();
        (std::fs::read(output.join("model.safetensors")).unwrap(), bench.logits(&output))
    };
    let plain = run(lines, "plain");
    let sorted = run(&format!("{lines}permute = true\n"), "sorted");
    assert!(plain.0 != sorted.0, "something was sorted");
    let furthest = plain.1.iter().zip(&sorted.1).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(furthest < REORDERED, "{furthest}");
}
