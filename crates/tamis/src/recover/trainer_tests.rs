//! The loop on tiny models: resumption to the same bits, masks that hold, numbers that are not finite, and
//! what is written. Knows no real text.

use std::ops::ControlFlow;
use std::path::Path;

use super::checkpoint::FOLDER;
use super::run::{Event, Run};
use super::sequences::Sequences;
use super::settings::{Losses, Optimiser, Schedule, Settings};
use super::student::{Arithmetic, Checkpointing};
use super::trainable::{Extras, LoraSpec, Method, Spec};
use super::trainer::{Texts, violations};
use crate::artifact::{Existing, Resume};
use crate::compress::Threads;
use crate::error::Kind;
use crate::job::Job;
use crate::load::Checkpoint;
use crate::ops::{Backward, CacheType, Cpu, Isa, Precision};
use crate::recipe::{Format, Recipe};
use crate::workers::Alone;

const HOLES: &str = "name = \"holes\"\n[default]\nmethod = \"prune\"\nscore = \"magnitude\"\nsparsity = 0.5\n\
                     [[override]]\nmatch = \"**.o_proj\"\nmethod = \"keep\"\n";

pub(super) fn dense() -> Checkpoint {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/models/llama-gqa");
    Checkpoint::open(folder).unwrap()
}

pub(super) fn cpu(threads: usize, precision: Precision) -> Cpu {
    Cpu::new(Isa::detect(), threads, precision)
}

/// The dense model with half of its weights left out.
fn pruned(folder: &Path) -> Checkpoint {
    let checkpoint = dense();
    let recipe = Recipe::parse(HOLES, Format::Toml, Path::new("holes.toml")).unwrap();
    let job = Job {
        checkpoint: &checkpoint,
        recipe: &recipe,
        calibration: None,
        ops: &cpu(1, Precision::F32),
        threads: Threads::ONE,
        workers: &Alone,
        output: folder,
        policy: (Resume::Auto, Existing::Refuse),
    };
    job.run(&mut |_| ControlFlow::Continue(())).unwrap();
    Checkpoint::open(folder.to_str().unwrap()).unwrap()
}

/// A stream with a pattern that can be learnt.
pub(super) fn texts(vocab: usize) -> Texts {
    let stream =
        |from: usize, len: usize| (from..from + len).map(|i| ((i * i / 3) % 17 % vocab) as u32).collect();
    Texts {
        train: Sequences::new(stream(0, 400), 12).unwrap(),
        valid: stream(400, 48),
        also: Some(stream(1000, 24)),
    }
}

pub(super) fn settings(method: Method) -> Settings {
    let lora = LoraSpec {
        rank: 2,
        alpha: 4.0,
        rank_stabilised: false,
        targets: vec!["q_proj".into(), "up_proj".into()],
    };
    let spec = Spec { method, lora, extras: Extras { norms: true, embedding: false }, seed: 3 };
    Settings {
        spec,
        losses: Losses { next_token: 0.5, distillation: 0.5, feature: 0.0, temperature: 1.0, top: 8 },
        optimiser: Optimiser {
            lr: 5e-3,
            schedule: Schedule::Cosine,
            warmup: 2,
            betas: (0.9, 0.999),
            eps: 1e-8,
            weight_decay: 0.01,
            clip: 1.0,
        },
        steps: 12,
        skip: 0,
        batch: 3,
        length: 12,
        dropout: 0.1,
        residual: false,
        every: 4,
        keep: 1,
        windows: 4,
        patience: None,
        improvement: 0.0,
        seed: 3,
        recompute: false,
    }
}

pub(super) fn how(ops: &dyn Backward) -> Arithmetic<'_> {
    Arithmetic { ops, cache: CacheType::F32, exact: false, checkpointing: Checkpointing::Off }
}

/// Stops a run after this step.
fn until(stop: usize) -> impl FnMut(Event<'_>) -> ControlFlow<()> {
    move |event| match event {
        Event::Step(p) if p.step >= stop => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    }
}

pub(super) struct Setup {
    student: Checkpoint,
    teacher: Checkpoint,
    texts: Texts,
    _folder: tempfile::TempDir,
}

impl Setup {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (student, teacher) = (pruned(&folder.path().join("pruned")), dense());
        let texts = texts(teacher.config().vocab);
        Self { student, teacher, texts, _folder: folder }
    }
    pub(super) fn run<'a>(
        &'a self,
        how: Arithmetic<'a>,
        settings: &'a Settings,
        output: &'a Path,
    ) -> Run<'a> {
        Run {
            workers: &Alone,
            checkpoint: &self.student,
            teacher: Some(&self.teacher),
            how,
            settings,
            texts: &self.texts,
            output,
            policy: (Resume::Auto, Existing::Refuse),
            teacher_cache: None,
        }
    }
}

pub(super) fn weights(folder: &Path) -> Vec<u8> {
    std::fs::read(folder.join("model.safetensors")).unwrap()
}

/// The lines of a log that are steps: those of validations tell the time.
pub(super) fn steps(folder: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    text.lines().filter(|l| !l.contains("validation")).map(str::to_owned).collect()
}

#[test]
fn every_method_mends_and_keeps_every_zero() {
    let setup = Setup::new();
    let ops = cpu(2, Precision::Bf16);
    for method in [Method::Masked, Method::MaskLora] {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings { steps: 40, every: 10, ..settings(method) };
        let account = setup
            .run(how(&ops), &settings, dir.path())
            .carry_out(&mut |_| ControlFlow::Continue(()))
            .unwrap();
        assert!(account.best < account.before, "{method:?} {} {}", account.best, account.before);
        assert_eq!((account.mask_violations, account.steps, account.history.len()), (0, 40, 5));
        assert!((account.saved / account.best - 1.0).abs() < 0.02, "{} {}", account.saved, account.best);
        assert!(account.dense_perplexity.is_some() && account.also.is_some());
        let mended = Checkpoint::open(dir.path().to_str().unwrap()).unwrap();
        let mut moved = 0;
        for (name, info) in setup.student.tensors().tensors().iter().filter(|(_, info)| info.shape.len() == 2)
        {
            let (before, after) =
                (setup.student.tensors().weight(name).unwrap(), mended.tensors().weight(name).unwrap());
            assert_eq!(before.kept(), after.kept(), "{name}");
            assert_eq!(info.dtype, mended.tensors().tensors()[name].dtype, "{name}");
            moved += usize::from(
                before.to_f32(crate::units::Alpha::ONE) != after.to_f32(crate::units::Alpha::ONE),
            );
        }
        assert!(moved > 0);
        assert!(!dir.path().join(FOLDER).exists());
        let metrics = std::fs::read_to_string(dir.path().join("metrics.jsonl")).unwrap();
        assert_eq!(metrics.lines().count(), 40 + 5);
    }
}

#[test]
fn a_run_that_was_stopped_ends_with_the_same_bits() {
    let setup = Setup::new();
    let settings = settings(Method::Masked);
    let whole = tempfile::tempdir().unwrap();
    let ops = cpu(1, Precision::Bf16);
    setup.run(how(&ops), &settings, whole.path()).carry_out(&mut |_| ControlFlow::Continue(())).unwrap();
    // Stopped twice, at a validation and between two; other threads; activations computed again.
    let parts = tempfile::tempdir().unwrap();
    for (stop, threads, checkpointing) in
        [(4, 2, Checkpointing::Off), (7, 1, Checkpointing::Blocks), (99, 3, Checkpointing::Off)]
    {
        let ops = cpu(threads, Precision::Bf16);
        let how = Arithmetic { checkpointing, ..how(&ops) };
        let result = setup.run(how, &settings, parts.path()).carry_out(&mut until(stop));
        assert_eq!(result.is_ok(), stop == 99);
        assert!(result.is_ok() || result.unwrap_err().kind() == Kind::Stopped);
    }
    assert_eq!(weights(whole.path()), weights(parts.path()));
    assert_eq!(steps(whole.path()), steps(parts.path()));
}

#[test]
fn the_best_states_are_kept_beside_the_result_also_by_a_run_that_was_stopped() {
    let setup = Setup::new();
    let settings = Settings { steps: 20, keep: 3, ..settings(Method::Masked) };
    let (whole, parts, one) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ops = cpu(1, Precision::Bf16);
    let run = |settings: &Settings, folder: &Path, stop: usize| {
        setup.run(how(&ops), settings, folder).carry_out(&mut until(stop))
    };
    let account = run(&settings, whole.path(), 99).unwrap();
    assert!(run(&settings, parts.path(), 12).is_err());
    run(&settings, parts.path(), 99).unwrap();
    let mut points: Vec<(f64, usize)> = account.history.iter().map(|p| (p.perplexity(), p.step)).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    assert_eq!(points[0].1, account.best_step);
    assert_eq!(account.kept.len(), 2);
    for (kept, point) in account.kept.iter().zip(&points[1..]) {
        assert_eq!((kept.perplexity, kept.step), *point);
        let folder = |root: &Path| root.join(&kept.folder);
        assert_eq!(weights(&folder(whole.path())), weights(&folder(parts.path())));
        assert_ne!(weights(&folder(whole.path())), weights(whole.path()));
        let checkpoint = Checkpoint::open(folder(whole.path()).to_str().unwrap()).unwrap();
        let decoder = crate::model::Decoder::load(&checkpoint, &ops).unwrap();
        let windows = (&setup.texts.valid[..], settings.length);
        let loss = super::student::mean_loss(how(&ops), &Alone, &decoder, windows).unwrap();
        assert!((loss.exp() / kept.perplexity - 1.0).abs() < 0.02, "{} {}", loss.exp(), kept.perplexity);
    }
    assert_eq!(weights(whole.path()), weights(parts.path()));
    run(&Settings { keep: 1, ..settings }, one.path(), 99).unwrap();
    assert_eq!(weights(whole.path()), weights(one.path()), "the result is the best, whatever else is kept");
    assert_eq!(std::fs::read_dir(one.path()).unwrap().flatten().filter(|e| e.path().is_dir()).count(), 0);
}

#[test]
fn an_unfinished_run_of_other_settings_is_not_taken_over() {
    let setup = Setup::new();
    let (one, dir) = (settings(Method::Masked), tempfile::tempdir().unwrap());
    let ops = cpu(1, Precision::Bf16);
    let stopped = setup.run(how(&ops), &one, dir.path()).carry_out(&mut until(0));
    assert_eq!(stopped.unwrap_err().exit_code(), 75);
    let other = Settings { seed: 9, ..one };
    let error = setup.run(how(&ops), &other, dir.path()).carry_out(&mut |_| ControlFlow::Continue(()));
    assert_eq!(error.unwrap_err().kind(), Kind::Usage);
}

#[test]
fn rates_that_break_the_numbers_are_halved_and_then_given_up() {
    let setup = Setup::new();
    let mut settings = settings(Method::Masked);
    settings.optimiser = Optimiser { lr: 1e38, clip: 0.0, ..settings.optimiser };
    let ops = cpu(1, Precision::Bf16);
    let dir = tempfile::tempdir().unwrap();
    let error = setup
        .run(how(&ops), &settings, dir.path())
        .carry_out(&mut |_| ControlFlow::Continue(()))
        .unwrap_err();
    assert_eq!((error.kind(), error.exit_code()), (Kind::NonFinite, 5), "{error}");
    assert!(error.to_string().contains("5 times"), "{error}");
}

#[test]
fn a_rate_that_is_bearable_when_halved_is_halved_and_the_run_goes_on() {
    let setup = Setup::new();
    // The first steps only raise the rate, so the run has something to go back to.
    let mut settings = Settings { steps: 8, every: 1, ..settings(Method::Masked) };
    settings.optimiser = Optimiser { lr: RUINOUS, warmup: 8, clip: 0.0, ..settings.optimiser };
    let run = |threads: usize, stops: &[usize]| {
        let dir = tempfile::tempdir().unwrap();
        let ops = cpu(threads, Precision::F32);
        for stop in stops {
            let result = setup.run(how(&ops), &settings, dir.path()).carry_out(&mut until(*stop));
            assert_eq!(result.unwrap_err().kind(), Kind::Stopped);
        }
        let run = setup.run(how(&ops), &settings, dir.path());
        let account = run.carry_out(&mut |_| ControlFlow::Continue(())).unwrap();
        (account, steps(dir.path()))
    };
    let (account, lines) = run(1, &[]);
    assert!(account.skipped_steps > 0 && account.steps == 8, "{account:?}");
    assert!(account.history.iter().all(|point| point.valid.is_finite()));
    assert_eq!(run(2, &[3]).1, lines);
}

/// A learning rate at which this model's products leave the range of f32 in the last of 8 steps of warm-up, and at a
/// fraction of which they do not.
const RUINOUS: f64 = 1e4;

#[test]
fn requests_that_would_not_do_what_they_say_are_refused() {
    let setup = Setup::new();
    let ops = cpu(1, Precision::F32);
    let dir = tempfile::tempdir().unwrap();
    let refused = |settings: &Settings, teacher: bool, says: &str| {
        let teacher = teacher.then_some(&setup.teacher);
        let run = Run { teacher, ..setup.run(how(&ops), settings, dir.path()) };
        for error in
            [run.estimate().unwrap_err(), run.carry_out(&mut |_| ControlFlow::Continue(())).unwrap_err()]
        {
            assert!(error.kind() == Kind::Usage && error.to_string().contains(says), "{error}");
        }
    };
    refused(&settings(Method::Lora), true, "low-rank additions alone");
    refused(&settings(Method::Full), true, "fill its holes");
    refused(&settings(Method::Masked), false, "--teacher");
    refused(&Settings { residual: true, ..settings(Method::Masked) }, true, "--residual");
    refused(&Settings { batch: 0, ..settings(Method::Masked) }, true, "at least 1");
    let mut wrong = settings(Method::MaskLora);
    wrong.spec.lora.targets.push("up_prj".into());
    refused(&wrong, true, "no linear is called up_prj");
    let mut wrong = settings(Method::Masked);
    wrong.optimiser.clip = f32::NAN;
    refused(&wrong, true, "--clip");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is begun");
}

#[test]
fn additions_with_noise_end_with_the_same_bits_after_a_stop() {
    let setup = Setup::new();
    let mut settings = settings(Method::Lora);
    settings.spec.extras.norms = false;
    let ops = cpu(1, Precision::Bf16);
    let adapter = |stops: &[usize], dropout: f32| {
        let settings = Settings { dropout, ..settings.clone() };
        let dir = tempfile::tempdir().unwrap();
        for stop in stops.iter().copied().chain([99]) {
            let result = setup.run(how(&ops), &settings, dir.path()).carry_out(&mut until(stop));
            assert_eq!(result.is_ok(), stop == 99);
        }
        std::fs::read(dir.path().join("adapter_model.safetensors")).unwrap()
    };
    assert_eq!(adapter(&[], 0.1), adapter(&[2, 7], 0.1));
    assert_ne!(adapter(&[], 0.1), adapter(&[], 0.0));
}

#[test]
fn a_run_that_was_stopped_before_its_first_step_keeps_the_first_validation_in_its_log() {
    let setup = Setup::new();
    let settings = settings(Method::Masked);
    let ops = cpu(1, Precision::Bf16);
    let dir = tempfile::tempdir().unwrap();
    let run = setup.run(how(&ops), &settings, dir.path());
    let stopped = run.carry_out(&mut |event| match event {
        Event::Before(_) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    assert_eq!(stopped.unwrap_err().kind(), Kind::Stopped);
    let account = run.carry_out(&mut |_| ControlFlow::Continue(())).unwrap();
    let metrics = std::fs::read_to_string(dir.path().join("metrics.jsonl")).unwrap();
    assert_eq!(metrics.lines().count(), 12 + account.history.len());
}

#[test]
fn one_run_a_folder_and_nothing_is_thrown_away_for_a_request_that_is_refused() {
    let setup = Setup::new();
    let settings = settings(Method::Masked);
    let ops = cpu(1, Precision::Bf16);
    let dir = tempfile::tempdir().unwrap();
    let run = setup.run(how(&ops), &settings, dir.path());
    let held = super::checkpoint::Folder::create(dir.path()).unwrap();
    let error = run.carry_out(&mut |_| ControlFlow::Continue(())).unwrap_err();
    assert!(error.to_string().contains("is writing this folder"), "{error}");
    drop(held);
    let stopped = run.carry_out(&mut until(0));
    assert_eq!(stopped.unwrap_err().kind(), Kind::Stopped);
    let record = dir.path().join(FOLDER).join("record.json");
    let anew = |settings: &Settings| {
        let run =
            Run { policy: (Resume::Never, Existing::Refuse), ..setup.run(how(&ops), settings, dir.path()) };
        run.carry_out(&mut |_| ControlFlow::Continue(()))
    };
    let hopeless = Settings { steps: 0, ..settings.clone() };
    assert_eq!(anew(&hopeless).unwrap_err().kind(), Kind::Usage);
    assert!(record.exists());
    assert_eq!(anew(&Settings { seed: 9, ..settings.clone() }).unwrap().steps, 12);
}

#[test]
fn training_that_only_hurts_ends_early_with_what_it_began_with() {
    let setup = Setup::new();
    let mut settings = Settings { steps: 400, every: 1, patience: Some(3), ..settings(Method::Masked) };
    settings.optimiser = Optimiser { lr: 5.0, warmup: 0, ..settings.optimiser };
    let ops = cpu(1, Precision::Bf16);
    let dir = tempfile::tempdir().unwrap();
    let account =
        setup.run(how(&ops), &settings, dir.path()).carry_out(&mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!((account.best_step, account.best), (0, account.before));
    assert!(account.steps <= 4, "{}", account.steps);
}

#[test]
fn a_planted_weight_outside_the_mask_is_found() {
    let setup = Setup::new();
    let ops = cpu(1, Precision::Bf16);
    let decoder = crate::model::Decoder::load(&setup.student, &ops).unwrap();
    let mut student = super::trainable::prepare(decoder, &settings(Method::Masked).spec).unwrap();
    student.refresh(how(&ops)).unwrap();
    assert_eq!(violations(&student), 0);
    let linear = student.decoder.blocks_mut()[1].linear_mut(crate::model::block::Role::Up).unwrap();
    let kept = setup.student.tensors().weight("model.layers.1.mlp.up_proj.weight").unwrap().kept().unwrap();
    let mut values = linear.weight.to_f32(crate::units::Alpha::ONE);
    let hole = kept.iter().position(|kept| !kept).unwrap();
    values[hole] = 1e-3;
    linear.weight = linear.weight.with_values(&values).unwrap();
    assert_eq!(violations(&student), 1);
}
