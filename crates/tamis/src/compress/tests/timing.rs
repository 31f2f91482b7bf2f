//! Timings at real shapes, printed; run with `--ignored --nocapture` in release mode.
//! Not a criterion bench because it also wants the receipts (arXiv 2210.17323 layers).

use std::time::Instant;

use super::*;
use crate::compress::synthetic::{Normal, weights};

/// A cheap positive definite Gram matrix: products of neighbours, not tokens.
fn banded_gram(k: usize) -> Gram {
    let mut normal = Normal::new(k as u64);
    let mut sum = vec![0.0; k * k];
    for _ in 0..k {
        let x: Vec<f64> = (0..k).map(|_| f64::from(normal.next())).collect();
        for i in 0..k {
            for j in i.saturating_sub(40)..=i {
                sum[i * k + j] += 0.2 * x[i] * x[j];
            }
        }
    }
    (0..k).for_each(|i| sum[i * k + i] += 4.0 * k as f64);
    Gram::new(k, k as u64, sum).unwrap()
}

const REPEATS: usize = 5;

/// Best of a few runs: the machine may be busy with other work.
fn time(w: &Weights<'_>, gram: &Gram, plan: &TensorPlan, threads: Threads) {
    let started = Instant::now();
    let evidence = Evidence::prepare(gram, plan.damping, plan.order);
    let factor = started.elapsed().as_secs_f64();
    let run = || compress_tensor(w, Some(&evidence), plan, threads).unwrap().receipt;
    let mut runs: Vec<Receipt> = (0..REPEATS).map(|_| run()).collect();
    runs.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    let Receipt { seconds, base_error, error, bits_per_weight, .. } = &runs[0];
    let (rows, cols, TensorPlan { bits, group, order, ortho, .. }) = (w.rows, w.cols, plan);
    println!("{rows}x{cols} int{} {group:?} {order:?} {ortho:?} {threads:?}", bits.get());
    println!("    {seconds:.3} s, factor {factor:.3} s, {bits_per_weight:.3} bits");
    println!("    error {:.5} -> {:.5}", base_error.unwrap(), error.unwrap());
}

#[test]
#[ignore = "prints timings; run it in release mode"]
fn timings_at_smollm2_shapes() {
    for (rows, cols) in [(576, 576), (1536, 576), (576, 1536)] {
        let data = weights(rows, cols, 1);
        let w = Weights { data: &data, rows, cols };
        let gram = banded_gram(cols);
        for (bits, group, order, ortho) in [
            (4, GroupSize::Of(64), ActivationOrder::None, OrthoMode::None),
            (4, GroupSize::Of(64), ActivationOrder::Static, OrthoMode::None),
            (4, GroupSize::Of(128), ActivationOrder::Static, OrthoMode::None),
            (3, GroupSize::Of(128), ActivationOrder::Static, OrthoMode::Quality),
            (3, GroupSize::Of(128), ActivationOrder::Static, OrthoMode::Joint),
        ] {
            let plan = TensorPlan { order, ortho, ..plan(bits, group) };
            time(&w, &gram, &plan, Threads::ONE);
            time(&w, &gram, &plan, threads(2));
        }
    }
}
