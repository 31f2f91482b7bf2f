//! Whole compression runs on real models (stories260K at full precision; SmolLM2): resume,
//! threads, the alpha switch, and that each method is worth its cost.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tamis::artifact::{Existing, ORTHO, Resume, verify};
use tamis::calibrate::{choose_apart, read_documents};
use tamis::compress::Threads;
use tamis::error::Kind;
use tamis::evaluate::{Evaluation, Protocol, Report, Specials};
use tamis::job::{Calibration, Estimate, Job, Outcome};
use tamis::load::{AddSpecial, Checkpoint};
use tamis::model::{Decoder, Engine, LanguageModel, Rows};
use tamis::ops::{CacheType, Cpu, Isa, Precision};
use tamis::recipe::{Format, Recipe};
use tamis::units::Alpha;

use crate::places::{data, smollm2};

struct Bench {
    checkpoint: Checkpoint,
    stream: Vec<u32>,
    text: String,
    calibration: (usize, usize),        // windows, and tokens in each
    evaluation: (usize, Option<usize>), // context, and windows
}

fn bench() -> Option<Bench> {
    let model = data("models/stories260K")?;
    let stories = data("tinystories/tinystories_2MiB.txt")?;
    let checkpoint = Checkpoint::open(model.to_str().unwrap()).unwrap();
    let stories = std::fs::read_to_string(stories).unwrap();
    let cut = stories.char_indices().nth(200_000).unwrap().0;
    let tokenizer = checkpoint.tokenizer().unwrap();
    let stream = tokenizer.encode(&stories[..cut], AddSpecial::Nothing).unwrap();
    let text = stories[cut..].chars().take(60_000).collect();
    Some(Bench { checkpoint, stream, text, calibration: (24, 256), evaluation: (256, None) })
}

/// SmolLM2 with as little text as still shows what it must show.
fn smollm2_bench() -> Option<Bench> {
    let (model, c4, text) =
        (smollm2()?, data("c4_sample/c4_sample.jsonl")?, data("wikitext2/wiki.test.raw")?);
    let checkpoint = Checkpoint::open(model.to_str().unwrap()).unwrap();
    let tokenizer = checkpoint.tokenizer().unwrap();
    let documents = read_documents(&c4).unwrap();
    let encode = |document: &String| tokenizer.encode(document, AddSpecial::Nothing).unwrap();
    let stream = documents.iter().take(40).flat_map(encode).collect();
    let text = std::fs::read_to_string(text).unwrap();
    Some(Bench { checkpoint, stream, text, calibration: (4, 1024), evaluation: (1024, Some(2)) })
}

fn engine(checkpoint: &Checkpoint) -> Engine {
    let ops = cpu(2, Precision::F32);
    Engine::new(Decoder::load(checkpoint, &*ops).unwrap(), ops, CacheType::F32)
}

fn cpu(threads: usize, precision: Precision) -> Arc<Cpu> {
    Arc::new(Cpu::new(Isa::from_env().unwrap(), threads, precision))
}

impl Bench {
    /// Runs `recipe`, stopping after `blocks` blocks.
    fn run(
        &self,
        recipe: &Recipe,
        output: &Path,
        (threads, blocks, seed): (usize, usize, u64),
    ) -> tamis::Result<Outcome> {
        let ops = cpu(threads, Precision::Bf16);
        let (samples, length) = self.calibration;
        let held_out = recipe.allocation.windows();
        let (windows, held_out) = choose_apart(&self.stream, (samples, held_out), length, seed).unwrap();
        let job = Job {
            checkpoint: &self.checkpoint,
            recipe,
            calibration: Some(Calibration {
                windows,
                held_out: Some(held_out).filter(|w| w.count() > 0),
                seed,
            }),
            ops: &*ops,
            threads: Threads::new(NonZeroUsize::new(threads).unwrap()),
            workers: &tamis::workers::Alone,
            output,
            policy: (Resume::Auto, Existing::Refuse),
        };
        assert!(Estimate::of(&job).unwrap().peak > 0);
        job.run(&mut |step| {
            if step.done >= blocks { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    }

    fn compress(&self, recipe: &str, folder: &Path) -> PathBuf {
        let output = folder.join(recipe);
        self.run(&Recipe::named(recipe).unwrap(), &output, (2, usize::MAX, 0)).unwrap();
        output
    }

    /// `recipe` with the largest residuals for a stream.
    fn compress_peer(&self, recipe: &str, folder: &Path) -> PathBuf {
        let peer = Recipe::named(recipe).unwrap().source_text().replace("\"quality\"", "\"top-residual\"");
        let output = folder.join("top-residual");
        let peer = Recipe::parse(&peer, Format::Toml, Path::new("peer.toml")).unwrap();
        self.run(&peer, &output, (2, usize::MAX, 0)).unwrap();
        output
    }

    fn divergence(&self, model: &Path, alpha: Alpha) -> f64 {
        self.measure(model, &[alpha]).divergence[0].mean
    }

    fn measure(&self, model: &Path, alphas: &[Alpha]) -> Report {
        let engine = |checkpoint: &Checkpoint| engine(checkpoint);
        let tokenizer = self.checkpoint.tokenizer().unwrap();
        let encode = |text: &str| tokenizer.encode(text, AddSpecial::Nothing);
        let specials = Specials::from(&tokenizer);
        let (context, limit) = self.evaluation;
        let limit = limit.and_then(NonZeroUsize::new);
        let windows = Protocol::Gptq { context }.windows(&self.text, &encode, specials, limit).unwrap();
        let model = engine(&open(model));
        let baseline = engine(&self.checkpoint);
        let evaluation = Evaluation {
            model: &model,
            alphas,
            baseline: Some(&baseline),
            windows: &windows,
            threads: NonZeroUsize::new(2).unwrap(),
        };
        evaluation.run(&mut |_| {}).unwrap()
    }
}

fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path.to_str().unwrap()).unwrap()
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entry = |e: std::io::Result<std::fs::DirEntry>| {
        let path = e.unwrap().path();
        (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(path).unwrap())
    };
    std::fs::read_dir(folder).unwrap().map(entry).collect()
}

#[test]
fn threads_and_interruptions_change_no_byte() {
    let Some(bench) = bench() else { return };
    let folder = tempfile::tempdir().unwrap();
    for name in ["int4-ortho", "int2"] {
        let recipe = Recipe::named(name).unwrap();
        let whole = folder.path().join(format!("{name}-whole"));
        bench.run(&recipe, &whole, (2, usize::MAX, 0)).unwrap();
        verify(&whole).unwrap();
        for (threads, blocks) in [(1, usize::MAX), (3, 1), (2, 4)] {
            let other = folder.path().join(format!("{name}-{threads}-{blocks}"));
            if blocks < usize::MAX {
                let error = bench.run(&recipe, &other, (threads, blocks, 0)).unwrap_err();
                assert_eq!(error.kind(), Kind::Stopped);
                assert!(!other.join("model.safetensors").exists(), "nothing half-written has a final name");
            }
            let outcome = bench.run(&recipe, &other, (threads, usize::MAX, 0)).unwrap();
            assert_eq!(outcome.resumed_parts > 0, blocks < usize::MAX);
            assert!(files(&other) == files(&whole), "{name}, {threads} threads, stopped after {blocks}");
        }
    }
}

#[test]
fn resume_refuses_other_inputs_and_names_them() {
    let Some(bench) = bench() else { return };
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let recipe = Recipe::named("int4").unwrap();
    bench.run(&recipe, &output, (1, 1, 0)).unwrap_err();
    for (recipe, seed, named) in [("int3", 0, "recipe"), ("int4", 1, "calibration")] {
        let error = bench.run(&Recipe::named(recipe).unwrap(), &output, (1, usize::MAX, seed)).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        assert!(error.to_string().contains(named), "{error}");
    }
}

#[test]
fn alpha_zero_is_the_plain_base_bit_for_bit() {
    let Some(bench) = bench() else { return };
    let folder = tempfile::tempdir().unwrap();
    let sieved = bench.compress("int4-ortho", folder.path());
    let plain = bench.compress("int4", folder.path());
    let read = |folder: &Path| std::fs::read(folder.join("model.safetensors")).unwrap();
    assert!(read(&sieved) == read(&plain), "the base of int4-ortho is int4");
    let logits = |folder: &Path, alpha| {
        let engine = engine(&open(folder));
        let mut logits = Vec::new();
        engine.start().push(&bench.stream[..100], alpha, Rows::All, &mut logits).unwrap();
        logits.iter().map(|l| l.to_bits()).collect::<Vec<_>>()
    };
    let (zero, half, one) = (Alpha::ZERO, Alpha::new(0.5).unwrap(), Alpha::ONE);
    assert!(logits(&sieved, zero) == logits(&plain, one));
    assert!(logits(&sieved, one) != logits(&sieved, zero));
    assert!(logits(&sieved, half) != logits(&sieved, zero) && logits(&sieved, half) != logits(&sieved, one));
    let with_stream = logits(&sieved, zero);
    std::fs::remove_file(sieved.join(ORTHO)).unwrap();
    assert!(logits(&sieved, one) == with_stream, "without the sidecar there is only the base");
}

#[test]
fn every_step_up_in_method_or_bits_lowers_the_divergence() {
    let Some(bench) = bench() else { return };
    let folder = tempfile::tempdir().unwrap();
    for bits in ["4", "3", "2"] {
        let rtn = bench.compress(&format!("rtn{bits}"), folder.path());
        let gptq = bench.compress(&format!("int{bits}"), folder.path());
        let kl = |path: &Path| bench.divergence(path, Alpha::ONE);
        assert!(kl(&gptq) < kl(&rtn), "GPTQ beats rounding at {bits} bits");
    }
    ortho_beats_its_base_and_the_largest_residuals(&bench, "int3-ortho", folder.path());
}

/// What a model with an attention sink shows and stories260K does not: an error in what the
/// first token of a window gives is an error everywhere.
#[test]
fn on_smollm2_every_step_up_in_method_lowers_the_divergence() {
    let Some(bench) = smollm2_bench() else { return };
    let folder = tempfile::tempdir().unwrap();
    let base = ortho_beats_its_base_and_the_largest_residuals(&bench, "int4-ortho", folder.path());
    let rtn = bench.divergence(&bench.compress("rtn4", folder.path()), Alpha::ONE);
    // 0.69 is what was seen; with unweighted value layers and grid fits by 1 / U_jj^2 it was above 1.
    assert!(base < 0.8 * rtn, "GPTQ {base} clearly beats rounding {rtn}");
}

/// The divergence of the base.
fn ortho_beats_its_base_and_the_largest_residuals(bench: &Bench, recipe: &str, folder: &Path) -> f64 {
    let ortho = bench.compress(recipe, folder);
    let report = bench.measure(&ortho, &[Alpha::ZERO, Alpha::ONE]);
    let (base, sieved) = (report.divergence[0].mean, report.divergence[1].mean);
    assert!(sieved < base, "ortho {sieved} beats its own base {base}");
    let peer = bench.divergence(&bench.compress_peer(recipe, folder), Alpha::ONE);
    assert!(sieved < peer, "ortho {sieved} beats the largest residuals {peer} at equal density");
    base
}
