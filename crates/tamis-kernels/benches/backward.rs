//! The gradients of the linear map beside the map itself, at the widths of a small model, in
//! operations a second. Some of each answer is compared with sums in f64 before it is timed.
//! `cargo bench -p tamis-kernels --bench backward`.

mod setup;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use half::bf16;
use setup::{Bench, elements, noise};
use tamis_kernels::linear::{input_gradient, linear, weight_gradient};
use tamis_kernels::pack::DenseF32;
use tamis_kernels::{Cpu, Precision};

/// Rows of a batch.
const ROWS: usize = 1024;

/// Out and in of the linears of SmolLM2 135M.
const SHAPES: [(usize, usize); 4] = [(576, 576), (1536, 576), (576, 1536), (192, 576)];

/// At most 1536 products of at most 1/4, rounded about 100 times at sums that stay below 64.
const TOLERANCE: f64 = 2e-4;

criterion_group!(name = benches; config = setup::criterion(); targets = linears);
criterion_main!(benches);

/// x, W, dy and room for a result.
type State = (Vec<f32>, DenseF32, Vec<f32>, Vec<f32>);

fn linears(c: &mut Criterion) {
    let mut bench = Bench::new(c);
    for (n, k) in SHAPES {
        let work = || elements(2 * ROWS * n * k);
        let make = |len: usize| -> State {
            let w = DenseF32::new(n, k, noise(n * k, 2)).expect("as many numbers as the shape");
            (noise(ROWS * k, 1), w, noise(ROWS * n, 3), vec![0.0; len])
        };
        for (precision, name) in [(Precision::F32, "f32"), (Precision::Bf16, "bf16")] {
            let forward = |cpu: &Cpu, (x, w, _, y): &mut State| linear(cpu, x, w, precision, black_box(y));
            bench.time(&format!("forward {n}x{k} {name}"), work(), |_| make(ROWS * n), forward);
            let input = |cpu: &Cpu, (_, w, dy, dx): &mut State| {
                input_gradient(cpu, dy, w, precision, black_box(dx));
            };
            let checked = |cpu: &Cpu| {
                let mut state = make(ROWS * k);
                input(cpu, &mut state);
                check_input(&state, (n, k), precision);
                state
            };
            bench.time(&format!("input gradient {n}x{k} {name}"), work(), checked, input);
            let weight = |cpu: &Cpu, (x, _, dy, dw): &mut State| {
                weight_gradient(cpu, (dy, n), (x, k), precision, black_box(dw));
            };
            let checked = |cpu: &Cpu| {
                let mut state = make(n * k);
                weight(cpu, &mut state);
                check_weight(&state, (n, k), precision);
                state
            };
            bench.time(&format!("weight gradient {n}x{k} {name}"), work(), checked, weight);
        }
    }
}

fn rounded(v: f32, precision: Precision) -> f64 {
    match precision {
        Precision::F32 => f64::from(v),
        Precision::Bf16 => bf16::from_f32(v).to_f64(),
    }
}

/// A few entries of a result `[rows, width]`; all would take longer than the bench.
fn compare(result: &[f32], width: usize, exact: impl Fn(usize, usize) -> f64) {
    let rows = result.len() / width;
    for i in (0..rows).rev().step_by(rows.div_ceil(8)) {
        for j in (0..width).rev().step_by(width.div_ceil(8)) {
            let (sum, exact) = (f64::from(result[i * width + j]), exact(i, j));
            assert!((sum - exact).abs() <= TOLERANCE, "entry {i}, {j} is {sum}, not {exact}");
        }
    }
}

fn check_input((_, w, dy, dx): &State, (n, k): (usize, usize), precision: Precision) {
    use tamis_kernels::pack::RowSource;
    let w = w.as_f32().expect("dense rows");
    compare(dx, k, |i, j| {
        (0..n).map(|r| rounded(dy[i * n + r], precision) * rounded(w[r * k + j], precision)).sum()
    });
}

fn check_weight((x, _, dy, dw): &State, (n, k): (usize, usize), precision: Precision) {
    compare(dw, k, |i, j| {
        (0..ROWS).map(|r| rounded(dy[r * n + i], precision) * rounded(x[r * k + j], precision)).sum()
    });
}
