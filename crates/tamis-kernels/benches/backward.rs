//! Gradients at the widths of a small model: of the linear map and of attention beside the
//! forward way, in operations a second; of the rest in numbers a second. Answers are compared with
//! sums in f64 or with the references before they are timed.
//! `cargo bench -p tamis-kernels --bench backward`.

mod setup;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use half::bf16;
use setup::{Bench, MODELS, elements, noise};
use tamis_kernels::activation::silu_mul_gradient;
use tamis_kernels::adam::{AdamStep, adam_step};
use tamis_kernels::attention::{
    AttentionParams, CacheType, KvLayer, Sequence, SequenceGradient, attend, attend_gradient, scalar,
};
use tamis_kernels::linear::{input_gradient, linear, weight_gradient};
use tamis_kernels::loss::cross_entropy;
use tamis_kernels::norm::{NormInput, rms_norm_gradient};
use tamis_kernels::pack::{DenseF32, RowSource};
use tamis_kernels::{Cpu, Precision};

/// Rows of a batch.
const ROWS: usize = 1024;

/// Out and in of the linears of SmolLM2 135M.
const SHAPES: [(usize, usize); 4] = [(576, 576), (1536, 576), (576, 1536), (192, 576)];

/// At most 1536 products of at most 1/4, rounded about 100 times at sums that stay below 64.
const TOLERANCE: f64 = 2e-4;

criterion_group!(name = benches; config = setup::criterion(); targets = linears, attention, others);
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

/// bf16 rounds every operand to 2^-9 of itself; sums of hundreds of them move by some of that.
const ATTENTION_TOLERANCE: f64 = 1e-2;

/// A causal sequence: 4 operations for each number of a query and each position that it sees
/// forward, 10 back.
fn attention(c: &mut Criterion) {
    let mut bench = Bench::new(c);
    let model = &MODELS[0];
    let (heads, kv_heads, head_dim) = (model.heads, model.kv_heads, model.head_dim);
    let scale = 1.0 / (head_dim as f32).sqrt();
    let params = AttentionParams { heads, kv_heads, head_dim, scale, softcap: None, window: None };
    let (width, kv_width) = (heads * head_dim, model.kv_width());
    for m in [256, ROWS] {
        let pairs = width * m * (m + 1) / 2;
        let inputs = || [noise(m * width, 1), noise(m * kv_width, 2), noise(m * kv_width, 3)];
        let make = |_: &Cpu| {
            let [q, k, v] = inputs();
            let mut cache = KvLayer::new(kv_heads, head_dim, m, CacheType::Bf16);
            cache.append(&k, &v).expect("there is room");
            (q, cache, vec![0.0; m * width])
        };
        bench.time(&format!("attention x{m}"), elements(4 * pairs), make, |cpu, (q, cache, out)| {
            attend(cpu, q, 0, cache, &params, black_box(out));
        });
        for (precision, name) in [(Precision::F32, "f32"), (Precision::Bf16, "bf16")] {
            let run = |cpu: &Cpu, state: &mut ([Vec<f32>; 3], Vec<f32>, [Vec<f32>; 3])| {
                let ([q, k, v], dout, [dq, dk, dv]) = state;
                let to = SequenceGradient { q: dq, k: dk, v: dv };
                attend_gradient(cpu, Sequence { q, k, v }, &params, precision, black_box(dout), to);
            };
            let make = |cpu: &Cpu| {
                let mut state = (inputs(), noise(m * width, 4), inputs());
                run(cpu, &mut state);
                let ([q, k, v], dout, found) = &state;
                let exact = scalar::attend_gradient(Sequence { q, k, v }, &params, dout);
                for (a, b) in found.iter().flatten().zip(exact.iter().flatten()) {
                    let near = (f64::from(*a) - b).abs() <= ATTENTION_TOLERANCE * (1.0 + b.abs());
                    assert!(near, "a gradient is {a}, not {b}");
                }
                state
            };
            bench.time(&format!("attention gradient x{m} {name}"), elements(10 * pairs), make, run);
        }
    }
}

/// The rest, whose answers the tests compare.
fn others(c: &mut Criterion) {
    let mut bench = Bench::new(c);
    let (hidden, inner, vocab) = (MODELS[0].hidden, MODELS[0].intermediate, MODELS[0].vocab);
    let (rows, len) = (64, ROWS * inner);
    bench.time_in_place(
        "cross entropy",
        elements(rows * vocab),
        |_| noise(rows * vocab, 1),
        |cpu, logits| cross_entropy(cpu, logits, &vec![5; rows], 1.0, &mut vec![0.0; rows]),
    );
    let make = |_: &Cpu| [1, 2, 3, 4, 5].map(|seed| noise(len, seed));
    bench.time("silu gradient and two copies", elements(len), make, |cpu, [gate, up, dy, dgate, dup]| {
        // Gradients of gradients would shrink to slow subnormal numbers.
        dgate.copy_from_slice(gate);
        dup.copy_from_slice(up);
        silu_mul_gradient(cpu, dgate, dup, black_box(dy));
    });
    let make = |_: &Cpu| {
        [noise(ROWS * hidden, 1), noise(hidden, 2), noise(ROWS * hidden, 3), vec![0.0; ROWS * hidden]]
    };
    bench.time("rms norm gradient", elements(ROWS * hidden), make, |cpu, [x, weight, dy, dx]| {
        let mut sums = vec![0.0; hidden];
        rms_norm_gradient(cpu, NormInput { x, weight, eps: 1e-5 }, dy, black_box(dx), &mut sums);
    });
    let step = AdamStep {
        lr: 1e-3,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        gradient_scale: 1.0,
        step: 1,
    };
    let make = |_: &Cpu| [noise(len, 1), noise(len, 2), vec![0.0; len], vec![0.0; len]];
    bench.time("adam step", elements(len), make, |cpu, [p, g, m, v]| {
        adam_step(cpu, p, black_box(g), (m, v), &step);
    });
}
