//! Timings at real shapes, printed; run with `--ignored --nocapture` in release mode.
//! Not a criterion bench because it also wants the receipts (arXiv 2210.17323 layers).

use std::num::NonZeroUsize;
use std::time::Instant;

use crate::compress::synthetic::{Normal, weights};
use crate::compress::*;
use crate::units::{Bits, GroupSize};

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

#[test]
#[ignore = "prints timings; run it in release mode"]
fn timings_at_smollm2_shapes() {
    for (rows, cols) in [(576, 576), (1536, 576), (576, 1536)] {
        let data = weights(rows, cols, 1);
        let w = Weights { data: &data, rows, cols };
        let gram = banded_gram(cols);
        for group in [GroupSize::Of(64), GroupSize::Of(128)] {
            for (bits, order, ortho) in [
                (4, ActivationOrder::None, OrthoMode::None),
                (4, ActivationOrder::Static, OrthoMode::None),
                (3, ActivationOrder::Static, OrthoMode::Quality),
                (3, ActivationOrder::Static, OrthoMode::Joint),
            ] {
                let plan = TensorPlan {
                    bits: Bits::new(bits).unwrap(),
                    group,
                    order,
                    ortho,
                    ..TensorPlan::default()
                };
                let started = Instant::now();
                let evidence = Evidence::prepare(&gram, plan.damping, plan.order);
                let factor = started.elapsed();
                for threads in [1, 2] {
                    let threads = Threads::new(NonZeroUsize::new(threads).unwrap());
                    let receipt = compress_tensor(&w, Some(&evidence), &plan, threads).unwrap().receipt;
                    println!(
                        "{rows}x{cols} {group:?} int{bits} {order:?} {ortho:?} {threads:?}: {:.3} s (factor {factor:.3?}) {:.5} -> {:.5}, {:.3} bits",
                        receipt.seconds,
                        receipt.base_error.unwrap(),
                        receipt.error.unwrap(),
                        receipt.bits_per_weight
                    );
                }
            }
        }
    }
}
