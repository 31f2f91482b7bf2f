//! What the benches have in common: the shapes of three real models, numbers to multiply, the
//! comparison before the clock starts, and the clock's settings. Knows no op.
//!
//! A case is `op model case isa/threads`; criterion takes a part of that, or a regular expression,
//! behind `--` and runs what matches. `TAMIS_ISA=avx2` takes another instruction set.

#![allow(dead_code, reason = "every bench is a program of its own and takes what it needs")]

use std::time::Duration;

use criterion::{BatchSize, Bencher, BenchmarkId, Criterion, Throughput};
use half::{bf16, f16};
use tamis_kernels::pack::RowSource;
use tamis_kernels::{Cpu, Isa, Precision, default_threads};

/// Rows of a prompt.
pub(crate) const PROMPT: usize = 512;

/// Bytes that one row of x is multiplied with: more than a core's share of the last cache.
pub(crate) const STREAMED: usize = 192 << 20;

/// The widths of a model.
pub(crate) struct Model {
    pub(crate) name: &'static str,
    pub(crate) hidden: usize,
    pub(crate) intermediate: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) vocab: usize,
}

/// SmolLM2, Llama 3.2 and Llama 3.1.
pub(crate) const MODELS: [Model; 3] = [
    Model {
        name: "135M",
        hidden: 576,
        intermediate: 1536,
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        vocab: 49152,
    },
    Model {
        name: "1B",
        hidden: 2048,
        intermediate: 8192,
        heads: 32,
        kv_heads: 8,
        head_dim: 64,
        vocab: 128_256,
    },
    Model {
        name: "8B",
        hidden: 4096,
        intermediate: 14336,
        heads: 32,
        kv_heads: 8,
        head_dim: 128,
        vocab: 128_256,
    },
];

impl Model {
    /// The linears of a block, `[out, in]`, each kind once.
    pub(crate) fn linears(&self) -> [(usize, usize); 4] {
        let Self { hidden, intermediate, .. } = *self;
        [(hidden, hidden), (self.kv_width(), hidden), self.gate(), (hidden, intermediate)]
    }
    /// The gate of the feed-forward part: what a prompt is multiplied with.
    pub(crate) fn gate(&self) -> (usize, usize) {
        (self.intermediate, self.hidden)
    }
    /// Width of keys and values.
    pub(crate) fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}

/// Ten samples of a second in all: a file of many cases ends within minutes. The command
/// line overrides it.
pub(crate) fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
}

/// What runs the cases: criterion, and one thread as well as all.
pub(crate) struct Bench<'a> {
    criterion: &'a mut Criterion,
    cpus: Vec<Cpu>,
}

impl<'a> Bench<'a> {
    pub(crate) fn new(criterion: &'a mut Criterion) -> Self {
        let isa = Isa::from_env().expect("an instruction set of this CPU");
        let mut threads = vec![1, default_threads()];
        threads.dedup();
        Self { criterion, cpus: threads.into_iter().map(|threads| Cpu::new(isa, threads)).collect() }
    }

    /// For ops that take no pool.
    pub(crate) fn on_one_thread(criterion: &'a mut Criterion) -> Self {
        let mut bench = Self::new(criterion);
        bench.cpus.truncate(1);
        bench
    }

    /// Times `run` on what `make` gives, which also checks the answer. `make` is called once, and only
    /// for a case that was asked for: all inputs together would not fit into memory.
    pub(crate) fn time<S>(
        &mut self,
        name: &str,
        amount: Throughput,
        make: impl Fn(&Cpu) -> S,
        run: impl Fn(&Cpu, &mut S),
    ) {
        self.each(name, amount, make, |cpu, state, b| b.iter(|| run(cpu, state)));
    }

    /// The same for an op that overwrites its input: each run gets a fresh copy, made outside the
    /// clock, because numbers that shrink from run to run end as slow subnormal ones.
    pub(crate) fn time_in_place(
        &mut self,
        name: &str,
        amount: Throughput,
        make: impl Fn(&Cpu) -> Vec<f32>,
        run: impl Fn(&Cpu, &mut [f32]),
    ) {
        self.each(name, amount, make, |cpu, source, b| {
            b.iter_batched_ref(|| source.clone(), |x| run(cpu, x), BatchSize::LargeInput);
        });
    }

    fn each<S>(
        &mut self,
        name: &str,
        amount: Throughput,
        make: impl Fn(&Cpu) -> S,
        run: impl Fn(&Cpu, &mut S, &mut Bencher<'_>),
    ) {
        for cpu in &self.cpus {
            let mut group = self.criterion.benchmark_group(format!("{name} {}", cpu.isa.name()));
            group.throughput(amount.clone());
            let mut state = None;
            group.bench_function(BenchmarkId::from_parameter(cpu.pool.threads()), |b| {
                run(cpu, state.get_or_insert_with(|| make(cpu)), b);
            });
            group.finish();
        }
    }
}

/// Bytes a second, as for one row.
pub(crate) fn bytes(count: usize) -> Throughput {
    Throughput::Bytes(count as u64)
}

/// Operations or numbers a second, as for many rows.
pub(crate) fn elements(count: usize) -> Throughput {
    Throughput::Elements(count as u64)
}

/// Operations of the dense product of a prompt, two for each weight and row.
pub(crate) fn prompt_operations((n, k): (usize, usize)) -> Throughput {
    elements(2 * PROMPT * n * k)
}

/// Numbers from -1/2 to 1/2, the same for the same seed.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<f32> {
    noise_iter(seed).take(len).collect()
}

/// The same without end.
pub(crate) fn noise_iter(seed: u64) -> impl Iterator<Item = f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    })
}

/// Asserts that all numbers are that close to those of a reference.
pub(crate) fn close(values: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(values.len(), expected.len());
    for (i, (a, b)) in values.iter().zip(expected).enumerate() {
        assert!((a - b).abs() <= tolerance, "number {i} is {a}, the reference says {b}");
    }
}

/// Asserts that the last row of `y = x W^T` is, for some rows of W up to the last, the sum in f64
/// within `error` times the sum of |w|; `error` is what each x may be off by. A stream is
/// multiplied with x as it is, whatever the precision.
pub(crate) fn check_linear(
    x: &[f32],
    weights: &dyn RowSource,
    precision: Precision,
    (y, error): (&[f32], f64),
) {
    let (n, k) = (weights.rows(), weights.cols());
    let (x, y) = (&x[x.len() - k..], &y[y.len() - n..]);
    let round = |v: f32| match precision {
        Precision::F32 => f64::from(v),
        Precision::Bf16 => bf16::from_f32(v).to_f64(),
    };
    let parts = weights.parts();
    let dense = parts.map_or(weights, |(base, ..)| base);
    let mut row = vec![0.0; k];
    for j in (0..n).rev().step_by(n.div_ceil(200)) {
        dense.decode_row(j, &mut row);
        let mut exact: f64 = x.iter().zip(&row).map(|(&x, &w)| round(x) * round(w)).sum();
        if let Some((_, stream, alpha)) = parts {
            let (columns, values) = stream.row(j);
            let product = |(c, v): (&u16, &f16)| f64::from(x[usize::from(*c)]) * v.to_f64();
            exact += f64::from(alpha) * columns.iter().zip(values).map(product).sum::<f64>();
        }
        let size: f64 = row.iter().map(|w| f64::from(w.abs())).sum();
        assert!((f64::from(y[j]) - exact).abs() <= error * size, "output {j} is {}, not {exact}", y[j]);
    }
}

/// Asserts that a rate in bytes, which is fixed before the weights are made, counts what they take.
/// Tiles and rows may end with padding: 2 %.
pub(crate) fn check_bytes(counted: usize, built: usize) {
    let share = counted as f64 / built as f64;
    assert!((share - 1.0).abs() < 0.02, "{counted} bytes are counted, the weights take {built}");
}
