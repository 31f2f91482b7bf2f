//! The loop on a tiny model with its steps shared by several workers. Knows no real text.

use std::ops::ControlFlow;
use std::path::Path;

use super::report::Account;
use super::run::{Event, Run};
use super::settings::{Optimiser, Settings};
use super::trainable::Method;
use super::trainer_tests::{Setup, cpu, how, settings, weights};
use crate::error::{Kind, Result};
use crate::load::Checkpoint;
use crate::ops::Precision;
use crate::workers::threads::together;

/// What each of `size` workers got; `until` is where the last of them stops.
fn run_together(
    setup: &Setup,
    size: usize,
    settings: &Settings,
    (output, until): (&Path, usize),
) -> Vec<Result<Account>> {
    together(size, |workers| {
        let ops = cpu(1, Precision::F32);
        let run = Run { workers, ..setup.run(how(&ops), settings, output) };
        run.carry_out(&mut |event| match event {
            Event::Step(p) if p.step >= until && workers.rank() + 1 == size => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        })
    })
}

/// Gradients of a step that were added up in another order differ in their last bits, and AdamW makes steps of
/// its full rate of differences where a gradient is next to zero; so weights are compared as a whole.
const ORDER_OF_SUMS: f64 = 1e-3;

#[test]
fn many_workers_mend_as_one_does() {
    let setup = Setup::new();
    let settings = Settings { batch: 4, ..settings(Method::Masked) };
    let mended = |size: usize| {
        let dir = tempfile::tempdir().unwrap();
        let accounts = run_together(&setup, size, &settings, (dir.path(), usize::MAX));
        let account = accounts.into_iter().next().unwrap().unwrap();
        let checkpoint = Checkpoint::open(dir.path().to_str().unwrap()).unwrap();
        let names: Vec<String> = checkpoint.tensors().tensors().keys().cloned().collect();
        let matrix = |name: &String| checkpoint.tensors().weight(name).ok();
        let values: Vec<f32> =
            names.iter().filter_map(matrix).flat_map(|w| w.to_f32(crate::units::Alpha::ONE)).collect();
        (account, values, weights(dir.path()))
    };
    let (one, alone, _) = mended(1);
    assert!(one.best < one.before);
    for size in [2, 3] {
        let (many, values, bytes) = mended(size);
        assert!((many.best / one.best - 1.0).abs() < ORDER_OF_SUMS, "{} {}", many.best, one.best);
        assert_eq!((many.steps, many.history.len(), many.tokens), (one.steps, one.history.len(), one.tokens));
        let square =
            |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>();
        let difference = square(&mut values.iter().zip(&alone).map(|(a, b)| a - b));
        let off = (difference / square(&mut alone.iter().copied())).sqrt();
        assert!(off < ORDER_OF_SUMS, "{size} workers: {off:e}");
        assert_eq!(bytes, mended(size).2, "the same number of workers gives the same bits");
    }
}

#[test]
fn a_wish_of_one_worker_stops_all_and_they_go_on_to_the_same_bits() {
    let setup = Setup::new();
    let settings = Settings { batch: 4, ..settings(Method::Masked) };
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    run_together(&setup, 2, &settings, (whole.path(), usize::MAX));
    for until in [4, 7] {
        for result in run_together(&setup, 2, &settings, (parts.path(), until)) {
            let error = result.unwrap_err();
            assert_eq!(error.kind(), Kind::Stopped);
            assert!(error.to_string().contains(&format!("stopped after step {until}")), "{error}");
        }
    }
    for result in run_together(&setup, 2, &settings, (parts.path(), usize::MAX)) {
        assert_eq!(result.unwrap().steps, 12);
    }
    assert_eq!(weights(whole.path()), weights(parts.path()));
}

#[test]
fn workers_agree_about_numbers_that_are_not_finite_and_about_what_cannot_be_shared() {
    let setup = Setup::new();
    let mut settings = Settings { batch: 2, ..settings(Method::Masked) };
    let dir = tempfile::tempdir().unwrap();
    for result in run_together(&setup, 3, &settings, (dir.path(), usize::MAX)) {
        assert_eq!(result.unwrap_err().kind(), Kind::Usage, "a batch of two for three");
    }
    settings.optimiser = Optimiser { lr: 1e38, clip: 0.0, ..settings.optimiser };
    for result in run_together(&setup, 2, &settings, (dir.path(), usize::MAX)) {
        assert_eq!(result.unwrap_err().kind(), Kind::NonFinite);
    }
    let unlike = together(2, |workers| {
        let ops = cpu(1, Precision::F32);
        let settings = Settings { seed: workers.rank() as u64, ..settings.clone() };
        let run = Run { workers, ..setup.run(how(&ops), &settings, dir.path()) };
        run.carry_out(&mut |_| ControlFlow::Continue(())).unwrap_err().kind()
    });
    assert_eq!(unlike, [Kind::Usage, Kind::Usage]);
}
