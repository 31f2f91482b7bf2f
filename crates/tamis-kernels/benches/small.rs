//! The ops between linears at the widths of three real models: norms, rotation, activations, the
//! softmax family. Every answer is compared with the reference before it is timed.
//!
//! One row: bytes read and written a second, mostly in the cache. A prompt: numbers a second.
//! `cargo bench -p tamis-kernels --bench small`.

mod setup;

use std::cell::OnceCell;
use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use setup::{Bench, MODELS, Model, PROMPT, bytes, close, elements, noise};
use tamis_kernels::Cpu;
use tamis_kernels::activation::{self, add, gelu, gelu_mul, gelu_tanh, gelu_tanh_mul, relu, silu, silu_mul};
use tamis_kernels::norm::{self, layer_norm, rms_norm};
use tamis_kernels::rope::{self, rope};
use tamis_kernels::softmax::{self, exp_in_place, kl_divergence, log_softmax, log_sum_exp, softmax};

/// Numbers of the size of one, after a few roundings of 2^-24 each.
const TOLERANCE: f32 = 2e-6;

criterion_group!(
    name = benches;
    config = setup::criterion();
    targets = norms, ropes, activations, sums, softmaxes, rows
);
criterion_main!(benches);

/// `moved` arrays of `len` f32, or as many numbers.
fn amount(m: usize, len: usize, moved: usize) -> Throughput {
    if m == 1 { bytes(4 * moved * len) } else { elements(len) }
}

fn norms(c: &mut Criterion) {
    const EPS: f32 = 1e-5;
    let mut bench = Bench::new(c);
    for (Model { name, hidden, .. }, m) in MODELS.iter().flat_map(|model| [(model, 1), (model, PROMPT)]) {
        let (len, n) = (m * hidden, *hidden);
        let inputs = || (noise(len, 1), noise(n, 2), noise(n, 3), vec![0.0; len], vec![0.0; len]);
        let rms = |cpu: &Cpu| {
            let (x, w, _, mut out, mut expected) = inputs();
            rms_norm(cpu, &x, &w, EPS, &mut out);
            norm::scalar::rms_norm(&x, &w, EPS, &mut expected);
            close(&out, &expected, TOLERANCE);
            (x, w, out)
        };
        bench.time(&format!("rms_norm {name} x{m}"), amount(m, len, 2), rms, |cpu, (x, w, out)| {
            rms_norm(cpu, x, w, EPS, black_box(out));
        });
        let layer = |cpu: &Cpu| {
            let (x, w, b, mut out, mut expected) = inputs();
            layer_norm(cpu, &x, &w, &b, EPS, &mut out);
            norm::scalar::layer_norm(&x, &w, &b, EPS, &mut expected);
            close(&out, &expected, TOLERANCE);
            (x, w, b, out)
        };
        bench.time(&format!("layer_norm {name} x{m}"), amount(m, len, 2), layer, |cpu, (x, w, b, out)| {
            layer_norm(cpu, x, w, b, EPS, black_box(out));
        });
    }
}

/// The queries of a prompt. A rotation keeps the length, so it can be done again and again.
fn ropes(c: &mut Criterion) {
    let mut bench = Bench::new(c);
    for (model, m) in MODELS.iter().flat_map(|model| [(model, 1), (model, PROMPT)]) {
        let Model { name, heads, head_dim, .. } = *model;
        let len = m * heads * head_dim;
        let make = |cpu: &Cpu| {
            let angles = noise(m * head_dim / 2, 2);
            let cos: Vec<f32> = angles.iter().map(|a| a.cos()).collect();
            let sin: Vec<f32> = angles.iter().map(|a| a.sin()).collect();
            let (mut x, mut expected) = (noise(len, 1), noise(len, 1));
            rope(cpu, &mut x, heads, head_dim, &cos, &sin);
            rope::scalar::rope(&mut expected, heads, head_dim, &cos, &sin);
            close(&x, &expected, TOLERANCE);
            (x, cos, sin)
        };
        bench.time(&format!("rope {name} x{m}"), amount(m, len, 2), make, |cpu, (x, cos, sin)| {
            rope(cpu, black_box(x), heads, head_dim, cos, sin);
        });
    }
}

/// An activation and its reference; `up` is only read by the gated ones.
type Curve = (&'static str, fn(&Cpu, &mut [f32], &[f32]), fn(f32, f32) -> f64, usize);

/// Name, op, reference, and how many arrays go through: one more for `up`.
const CURVES: [Curve; 7] = [
    ("silu_mul", silu_mul, |x, up| activation::scalar::silu(x) * f64::from(up), 3),
    ("gelu_tanh_mul", gelu_tanh_mul, |x, up| activation::scalar::gelu_tanh(x) * f64::from(up), 3),
    ("gelu_mul", gelu_mul, |x, up| activation::scalar::gelu(x) * f64::from(up), 3),
    ("silu", |cpu, x, _| silu(cpu, x), |x, _| activation::scalar::silu(x), 2),
    ("gelu_tanh", |cpu, x, _| gelu_tanh(cpu, x), |x, _| activation::scalar::gelu_tanh(x), 2),
    ("gelu", |cpu, x, _| gelu(cpu, x), |x, _| activation::scalar::gelu(x), 2),
    ("relu", |cpu, x, _| relu(cpu, x), |x, _| f64::from(x.max(0.0)), 2),
];

/// Numbers from -4 to 4, where the curves bend.
fn activations(c: &mut Criterion) {
    let mut bench = Bench::new(c);
    for (Model { name, intermediate, .. }, m) in MODELS.iter().flat_map(|model| [(model, 1), (model, PROMPT)])
    {
        let len = m * intermediate;
        for (op, run, reference, moved) in CURVES {
            let cell = OnceCell::new();
            let up = || cell.get_or_init(|| noise(len, 2));
            let make = |cpu: &Cpu| {
                let source: Vec<f32> = noise(len, 1).iter().map(|v| 8.0 * v).collect();
                let mut x = source.clone();
                run(cpu, &mut x, up());
                // The reference of GELU is a series: a row of it is enough.
                let last = len - intermediate..len;
                let expected: Vec<f32> = last.clone().map(|i| reference(source[i], up()[i]) as f32).collect();
                close(&x[last], &expected, TOLERANCE);
                source
            };
            bench.time_in_place(&format!("{op} {name} x{m}"), amount(m, len, moved), make, |cpu, x| {
                run(cpu, black_box(x), up());
            });
        }
    }
}

/// The residual, `a += b`. Summands as small as b make a grow slowly, so it needs no fresh copies.
fn sums(c: &mut Criterion) {
    let mut bench = Bench::new(c);
    for (Model { name, hidden, .. }, m) in MODELS.iter().flat_map(|model| [(model, 1), (model, PROMPT)]) {
        let len = m * hidden;
        let make = |cpu: &Cpu| {
            let (mut a, b) = (noise(len, 1), noise(len, 2));
            let expected: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
            add(cpu, &mut a, &b);
            // One rounded sum of the same two numbers.
            close(&a, &expected, 0.0);
            (a, b)
        };
        bench.time(&format!("add {name} x{m}"), amount(m, len, 3), make, |cpu, (a, b)| {
            add(cpu, black_box(a), b);
        });
    }
}

/// Rows of logits from -8 to 8.
fn logits(m: usize, vocab: usize, seed: u64) -> Vec<f32> {
    noise(m * vocab, seed).iter().map(|v| 16.0 * v).collect()
}

/// Asserts that the last row of `x` is `reference` of its exact log-probabilities.
fn check_last(x: &[f32], logits: &[f32], (n, tolerance): (usize, f32), reference: fn(f64) -> f64) {
    let (x, logits) = (&x[x.len() - n..], &logits[logits.len() - n..]);
    let total = softmax::scalar::log_sum_exp(logits);
    let expected: Vec<f32> = logits.iter().map(|v| reference(f64::from(*v) - total) as f32).collect();
    close(x, &expected, tolerance);
}

/// An op on rows of logits, what it makes of an exact log-probability, and how close it comes.
type Family = (&'static str, fn(&Cpu, &mut [f32], usize), fn(f64) -> f64, f32);

const SOFTMAXES: [Family; 2] = [
    // A log-probability is down to -24, and is rounded to 2^-20 a few times.
    ("log_softmax", log_softmax, |v| v, 4e-6),
    // With logits up to 8 of a vocabulary of 49152, a probability is below 1e-3.
    ("softmax", softmax, f64::exp, 1e-9),
];

/// Rows over a vocabulary: one, and more than a cache holds.
fn softmaxes(c: &mut Criterion) {
    const MANY: usize = 32;
    let mut bench = Bench::new(c);
    for (Model { name, vocab, .. }, m) in MODELS.iter().flat_map(|model| [(model, 1), (model, MANY)]) {
        let (len, n) = (m * vocab, *vocab);
        for (op, run, reference, tolerance) in SOFTMAXES {
            let make = |cpu: &Cpu| {
                let source = logits(m, n, 1);
                let mut x = source.clone();
                run(cpu, &mut x, n);
                check_last(&x, &source, (n, tolerance), reference);
                source
            };
            bench.time_in_place(&format!("{op} {name} x{m}"), amount(m, len, 2), make, |cpu, x| {
                run(cpu, black_box(x), n);
            });
        }
    }
}

/// What takes one row and no pool: the parts of a cross-entropy, a divergence, exponentials.
fn rows(c: &mut Criterion) {
    /// Sums of a vocabulary in f64, of blocks of 512 in f32: about 2^-24 times a small number.
    const CLOSE: f64 = 1e-5;
    let mut bench = Bench::on_one_thread(c);
    for Model { name, vocab: n, .. } in &MODELS {
        let make = |cpu: &Cpu| {
            let x = logits(1, *n, 1);
            let error = log_sum_exp(cpu.isa, &x) - softmax::scalar::log_sum_exp(&x);
            assert!(error.abs() <= CLOSE, "log-sum-exp is off by {error}");
            x
        };
        bench.time(&format!("log_sum_exp {name}"), bytes(4 * n), make, |cpu, x| {
            black_box(log_sum_exp(cpu.isa, black_box(x)));
        });
        let make = |cpu: &Cpu| {
            let (mut p, mut q) = (logits(1, *n, 1), logits(1, *n, 2));
            log_softmax(cpu, &mut p, *n);
            log_softmax(cpu, &mut q, *n);
            let error = kl_divergence(cpu.isa, &p, &q) - softmax::scalar::kl_divergence(&p, &q);
            assert!(error.abs() <= CLOSE, "the divergence is off by {error}");
            (p, q)
        };
        bench.time(&format!("kl_divergence {name}"), bytes(8 * n), make, |cpu, (p, q)| {
            black_box(kl_divergence(cpu.isa, black_box(p), q));
        });
        let make = |cpu: &Cpu| {
            let source = noise(*n, 1);
            let mut x = source.clone();
            exp_in_place(cpu.isa, &mut x);
            let expected: Vec<f32> = source.iter().map(|v| f64::from(*v).exp() as f32).collect();
            close(&x, &expected, TOLERANCE);
            source
        };
        bench.time_in_place(&format!("exp {name}"), bytes(8 * n), make, |cpu, x| {
            exp_in_place(cpu.isa, black_box(x));
        });
    }
}
