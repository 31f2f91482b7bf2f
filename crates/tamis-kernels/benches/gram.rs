//! The Gram matrix of a layer's inputs and the transpose below it, at the widths of three real
//! models. Every answer is compared with sums in f64 before it is timed.
//! `cargo bench -p tamis-kernels --bench gram`.

mod setup;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use half::bf16;
use setup::{Bench, MODELS, PROMPT, bytes, elements, noise};
use tamis_kernels::gram::{gram_add, transpose};
use tamis_kernels::{Cpu, Precision};

/// 512 products of at most 1/4 in 8 or more lanes: sums below 64 that are rounded about 64 times
/// to 2^-24 of themselves, 2.4e-4 at worst; signs mix, so a third is enough.
const TOLERANCE: f64 = 8e-5;

criterion_group!(name = benches; config = setup::criterion(); targets = grams, transposes);
criterion_main!(benches);

/// Half of the square is computed, `m k (k + 1)` operations.
fn grams(c: &mut Criterion) {
    let mut bench = Bench::new(c);
    for model in &MODELS {
        for k in [model.hidden, model.intermediate] {
            for (precision, name) in [(Precision::F32, "f32"), (Precision::Bf16, "bf16")] {
                let make = |cpu: &Cpu| {
                    let (x, mut g) = (noise(PROMPT * k, 1), vec![0.0f64; k * k]);
                    gram_add(cpu, &x, k, precision, &mut g);
                    check(&x, k, precision, &g);
                    (x, g)
                };
                let name = format!("gram {} x{PROMPT} {k} {name}", model.name);
                bench.time(&name, elements(PROMPT * k * (k + 1)), make, |cpu, (x, g)| {
                    gram_add(cpu, x, k, precision, black_box(&mut g[..]));
                });
            }
        }
    }
}

/// Some entries above, on and below the diagonal; all of them would take longer than the bench.
fn check(x: &[f32], k: usize, precision: Precision, g: &[f64]) {
    let round = |v: f32| match precision {
        Precision::F32 => f64::from(v),
        Precision::Bf16 => bf16::from_f32(v).to_f64(),
    };
    let places = || (0..k).rev().step_by(k.div_ceil(20));
    for (i, j) in places().flat_map(|i| places().map(move |j| (i, j))) {
        let exact: f64 = x.chunks_exact(k).map(|row| round(row[i]) * round(row[j])).sum();
        let sum = g[i * k + j];
        assert!((sum - exact).abs() <= TOLERANCE, "entry {i}, {j} is {sum}, not {exact}");
    }
}

/// Bytes read and written.
fn transposes(c: &mut Criterion) {
    let mut bench = Bench::new(c);
    for model in &MODELS {
        let k = model.intermediate;
        let make = |cpu: &Cpu| {
            let (x, mut out) = (noise(PROMPT * k, 1), vec![0.0; PROMPT * k]);
            transpose(cpu, &x, k, &mut out);
            let same = (0..x.len()).all(|i| out[i % k * PROMPT + i / k] == x[i]);
            // Numbers are moved, not computed.
            assert!(same, "a number is not where it belongs");
            (x, out)
        };
        let name = format!("transpose {} x{PROMPT} {k}", model.name);
        bench.time(&name, bytes(8 * PROMPT * k), make, |cpu, (x, out)| {
            transpose(cpu, x, k, black_box(out));
        });
    }
}
