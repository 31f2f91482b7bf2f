//! Whole compression runs on a real full-precision model (stories260K): resume, threads,
//! the alpha switch, and that each method is worth its cost.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tamis::artifact::{Existing, ORTHO, Resume, verify};
use tamis::calibrate::choose_windows;
use tamis::compress::Threads;
use tamis::error::Kind;
use tamis::evaluate::{Evaluation, Protocol, Report, Specials};
use tamis::job::{Calibration, Estimate, Job, Outcome};
use tamis::load::{AddSpecial, Checkpoint};
use tamis::model::{Decoder, Engine, LanguageModel, Rows};
use tamis::ops::{Cpu, Isa, Precision};
use tamis::recipe::{Format, Recipe};
use tamis::units::Alpha;

use crate::places::data;

struct Bench {
    checkpoint: Checkpoint,
    stream: Vec<u32>,
    text: String,
}

fn bench() -> Option<Bench> {
    let model = data("models/stories260K")?;
    let stories = data("tinystories/tinystories_2MiB.txt")?;
    let checkpoint = Checkpoint::open(model.to_str().unwrap()).unwrap();
    let stories = std::fs::read_to_string(stories).unwrap();
    let cut = stories.char_indices().nth(200_000).unwrap().0;
    let tokenizer = checkpoint.tokenizer().unwrap();
    let stream = tokenizer.encode(&stories[..cut], AddSpecial::Nothing).unwrap();
    Some(Bench { checkpoint, stream, text: stories[cut..].chars().take(60_000).collect() })
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
        let windows = choose_windows(&self.stream, 24, 256, seed).unwrap();
        let job = Job {
            checkpoint: &self.checkpoint,
            recipe,
            calibration: Some(Calibration { windows, seed }),
            ops: &*ops,
            threads: Threads::new(NonZeroUsize::new(threads).unwrap()),
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

    fn measure(&self, model: &Path, alphas: &[Alpha]) -> Report {
        let engine =
            |checkpoint: &Checkpoint| Engine::new(Decoder::load(checkpoint).unwrap(), cpu(2, Precision::F32));
        let tokenizer = self.checkpoint.tokenizer().unwrap();
        let encode = |text: &str| tokenizer.encode(text, AddSpecial::Nothing);
        let specials = Specials::from(&tokenizer);
        let windows = Protocol::Gptq { context: 256 }.windows(&self.text, &encode, specials, None).unwrap();
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
        let engine = Engine::new(Decoder::load(&open(folder)).unwrap(), cpu(2, Precision::F32));
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
    let kl = |path: &Path, alpha| bench.measure(path, &[alpha]).divergence[0].mean;
    for bits in ["4", "3", "2"] {
        let rtn = bench.compress(&format!("rtn{bits}"), folder.path());
        let gptq = bench.compress(&format!("int{bits}"), folder.path());
        assert!(kl(&gptq, Alpha::ONE) < kl(&rtn, Alpha::ONE), "GPTQ beats rounding at {bits} bits");
    }
    let ortho = bench.compress("int3-ortho", folder.path());
    let report = bench.measure(&ortho, &[Alpha::ZERO, Alpha::ONE]);
    assert!(report.divergence[1].mean < report.divergence[0].mean, "ortho beats its own base");
    let peer = Recipe::named("int3-ortho").unwrap().source_text().replace("\"quality\"", "\"top-residual\"");
    let peer = Recipe::parse(&peer, Format::Toml, Path::new("peer.toml")).unwrap();
    let output = folder.path().join("top-residual");
    bench.run(&peer, &output, (2, usize::MAX, 0)).unwrap();
    assert!(
        report.divergence[1].mean < kl(&output, Alpha::ONE),
        "and the largest residuals at equal density"
    );
}
