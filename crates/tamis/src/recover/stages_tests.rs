//! Pruning in stages on a tiny model: exact zeros, resumption to the same bits from any place, and what a cubic
//! schedule is. Knows no real text.

use std::ops::ControlFlow;
use std::path::Path;

use super::report::Account;
use super::run::{Event, Run};
use super::settings::Settings;
use super::stages::{FOLDER, Pruning, Stages, cubic};
use super::trainable::Method;
use super::trainer::Texts;
use super::trainer_tests::{cpu, dense, how, settings, steps, texts, weights};
use crate::artifact::{Existing, Resume};
use crate::compress::Threads;
use crate::error::{Kind, Result};
use crate::load::Checkpoint;
use crate::ops::Precision;
use crate::recipe::{Format, Recipe};
use crate::units::Sparsity;
use crate::workers::Alone;

const HOLES: &str =
    "name = \"holes\"\n[default]\nmethod = \"prune\"\nscore = \"magnitude\"\nsparsity = 0.5\n";
const SHARES: [f64; 2] = [0.25, 0.5];

struct Setup {
    dense: Checkpoint,
    texts: Texts,
    settings: Settings,
}

impl Setup {
    fn new() -> Self {
        let dense = dense();
        let texts = texts(dense.config().vocab);
        // 12 steps of 3 sequences pass over the 33 of the text once and a little more.
        let mut settings = Settings { every: 3, ..settings(Method::Masked) };
        settings.losses.feature = 0.2;
        Self { dense, texts, settings }
    }

    /// Runs until `stop` says so.
    fn run(
        &self,
        output: &Path,
        threads: usize,
        stop: &mut dyn FnMut(&Event<'_>) -> bool,
    ) -> Result<Account> {
        self.stages(output, threads, Resume::Auto, stop)
    }

    fn stages(
        &self,
        output: &Path,
        threads: usize,
        resume: Resume,
        stop: &mut dyn FnMut(&Event<'_>) -> bool,
    ) -> Result<Account> {
        self.with((output, threads, resume), |stages| {
            stages.carry_out(&mut |event| {
                if stop(&event) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
        })
    }

    fn with<R>(
        &self,
        (output, threads, resume): (&Path, usize, Resume),
        f: impl FnOnce(&Stages<'_>) -> R,
    ) -> R {
        let ops = cpu(threads, Precision::Bf16);
        let recipe = Recipe::parse(HOLES, Format::Toml, Path::new("holes.toml")).unwrap();
        f(&Stages {
            run: Run {
                workers: &Alone,
                checkpoint: &self.dense,
                teacher: Some(&self.dense),
                how: how(&ops),
                settings: &self.settings,
                texts: &self.texts,
                output,
                policy: (resume, Existing::Refuse),
                teacher_cache: None,
            },
            pruning: Pruning { recipe: &recipe, calibration: None, ops: &ops, threads: Threads::ONE },
            sparsities: SHARES.map(|s| Sparsity::new(s).unwrap()).into(),
        })
    }
}

fn never(_: &Event<'_>) -> bool {
    false
}

#[test]
fn a_run_in_stages_has_the_zeros_of_the_last_and_an_account_of_all() {
    let setup = Setup::new();
    let dir = tempfile::tempdir().unwrap();
    let account = setup.run(dir.path(), 2, &mut never).unwrap();
    let [first, last] = &account.stages[..] else { panic!("{:?}", account.stages) };
    assert_eq!((first.sparsity, first.steps, last.sparsity, last.steps), (0.25, 4, 0.5, 8));
    assert_eq!((account.steps, account.mask_violations), (12, 0));
    assert_eq!((account.before, account.saved), (last.before, last.saved));
    let steps: Vec<usize> = account.history.iter().map(|p| p.step).collect();
    assert_eq!(steps, [0, 3, 4, 4, 7, 10, 12]);
    assert!(account.history.windows(2).all(|p| p[0].seconds <= p[1].seconds && p[0].epoch <= p[1].epoch));
    assert!(account.dense_perplexity.is_some());
    let mended = Checkpoint::open(dir.path().to_str().unwrap()).unwrap();
    let mut linears = 0;
    for name in mended.tensors().tensors().keys().filter(|name| name.contains("_proj")) {
        let kept = mended.tensors().weight(name).unwrap().kept().unwrap();
        assert_eq!(2 * kept.iter().filter(|kept| **kept).count(), kept.len(), "{name}");
        linears += 1;
    }
    assert!(linears > 0);
    assert!(!dir.path().join(FOLDER).exists());
    let metrics = std::fs::read_to_string(dir.path().join("metrics.jsonl")).unwrap();
    assert_eq!(metrics.lines().count(), 12 + account.history.len());
    let last: serde_json::Value = serde_json::from_str(metrics.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&last["stage"], &last["step"], &last["validation"]["step"]),
        (&2.into(), &12.into(), &12.into())
    );
    assert!(account.history.iter().all(|p| p.feature.is_some() == p.train.is_some()), "{metrics}");
    assert_eq!(setup.run(dir.path(), 2, &mut never).unwrap_err().kind(), Kind::Usage, "it is finished");
}

#[test]
fn a_run_in_stages_goes_on_from_any_place_to_the_same_bits() {
    let setup = Setup::new();
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    setup.run(whole.path(), 1, &mut never).unwrap();
    // Stopped in training of the first, before the second, while it prunes, in its training; other threads.
    let mut seen = Vec::new();
    for (attempt, threads) in [(0, 1), (1, 2), (2, 1), (3, 3)] {
        let mut stage = 0;
        let result = setup.run(parts.path(), threads, &mut |event| {
            match event {
                Event::Stage(place) => stage = place.number,
                Event::Step(p) if stage == 1 => seen.push((attempt, p.step)),
                _ => {}
            }
            match (attempt, event) {
                (0, Event::Step(p)) => p.step == 2,
                (1, Event::Stage(place)) => place.number == 2,
                (2, Event::Prune(step)) => stage == 2 && step.done == 1,
                (3, Event::Step(p)) => stage == 2 && p.step == 5,
                _ => false,
            }
        });
        assert_eq!(result.unwrap_err().kind(), Kind::Stopped, "attempt {attempt}");
        assert!(parts.path().join(FOLDER).exists());
    }
    assert!(seen.iter().all(|(attempt, step)| (*attempt == 0) == (*step <= 2) && *attempt <= 1), "{seen:?}");
    setup.run(parts.path(), 2, &mut never).unwrap();
    assert_eq!(weights(whole.path()), weights(parts.path()));
    assert_eq!(steps(whole.path()), steps(parts.path()));
}

#[test]
fn the_memory_planned_is_that_of_the_first_stage() {
    for method in [Method::Masked, Method::MaskLora] {
        let mut setup = Setup::new();
        setup.settings.spec.method = method;
        setup.settings.spec.extras.embedding = true;
        let dir = tempfile::tempdir().unwrap();
        let here = (dir.path(), 1, Resume::Auto);
        let planned = setup.with(here, |stages| stages.estimate().unwrap().0);
        let stopped = setup.run(dir.path(), 1, &mut |event| matches!(event, Event::Step(_)));
        assert_eq!(stopped.unwrap_err().kind(), Kind::Stopped);
        let pruned = dir.path().join(FOLDER).join("1/pruned");
        let pruned = Checkpoint::open(pruned.to_str().unwrap()).unwrap();
        let first = setup.with(here, |stages| Run { checkpoint: &pruned, ..stages.run }.planned().unwrap());
        assert_eq!((planned.optimiser, planned.base), (first.optimiser, first.base), "{method:?}");
        assert_eq!(method == Method::MaskLora, planned.base > 0);
    }
}

#[test]
fn what_was_begun_otherwise_is_not_taken_over_unless_asked_to_begin_anew() {
    let mut setup = Setup::new();
    let (one, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    setup.run(one.path(), 1, &mut never).unwrap();
    setup.settings.seed = 9;
    let stopped = setup.run(dir.path(), 1, &mut |event| matches!(event, Event::Step(p) if p.step == 2));
    assert_eq!(stopped.unwrap_err().exit_code(), 75);
    setup.settings.seed = 3;
    assert_eq!(setup.run(dir.path(), 1, &mut never).unwrap_err().kind(), Kind::Usage);
    setup.stages(dir.path(), 1, Resume::Never, &mut never).unwrap();
    assert_eq!(weights(one.path()), weights(dir.path()));
    setup.settings.spec.method = Method::Full;
    assert_eq!(setup.run(dir.path(), 1, &mut never).unwrap_err().kind(), Kind::Usage);
}

#[test]
fn runs_with_and_without_stages_do_not_share_a_folder() {
    let setup = Setup::new();
    let (staged, plain) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    setup.run(staged.path(), 1, &mut |event| matches!(event, Event::Step(_))).unwrap_err();
    let pruned = staged.path().join(FOLDER).join("1/pruned");
    let pruned = Checkpoint::open(pruned.to_str().unwrap()).unwrap();
    let train = |output: &Path, stop: bool| {
        setup.with((output, 1, Resume::Auto), |stages| {
            Run { checkpoint: &pruned, ..stages.run }
                .carry_out(&mut |event| match event {
                    Event::Step(_) if stop => ControlFlow::Break(()),
                    _ => ControlFlow::Continue(()),
                })
                .unwrap_err()
        })
    };
    let error = train(staged.path(), false);
    assert!(error.to_string().contains("unfinished run in stages"), "{error}");
    assert_eq!(train(plain.path(), true).kind(), Kind::Stopped);
    let error = setup.run(plain.path(), 1, &mut never).unwrap_err();
    assert!(error.to_string().contains("unfinished run without stages"), "{error}");
    setup.stages(plain.path(), 1, Resume::Never, &mut never).unwrap();
}

#[test]
fn a_cubic_schedule_rises_ever_more_slowly() {
    assert_eq!(cubic(Some(0.5), 0.75, 3).unwrap(), [0.5, 0.71875, 0.75]);
    assert_eq!(cubic(None, 0.5, 2).unwrap(), [0.4375, 0.5]);
    assert_eq!(cubic(None, 0.9, 1).unwrap(), [0.9]);
    assert!(cubic(Some(0.5), 0.75, 1).is_err() && cubic(None, 0.5, 0).is_err());
}
