//! Integer weights by int8 activations at the shapes of three real models. Every answer is
//! compared with the product of the decoded weights before it is timed.
//!
//! Decoding multiplies one row of x with all linears of one block of the model, in as many
//! copies as it takes to come from memory and not from a cache: bytes a second. Prefill
//! multiplies 512 rows: operations a second. `cargo bench -p tamis-kernels --bench quantized`.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use half::f16;
use tamis_kernels::pack::{PackedMatrix, RowSource, TileMatrix};
use tamis_kernels::quantized::{Product, linear};
use tamis_kernels::{Cpu, Isa, Pool, default_threads};

/// Name, and the shapes `[out, in]` of the linears of a block.
const MODELS: [(&str, &[(usize, usize)]); 3] = [
    ("135M", &[(576, 576), (192, 576), (1536, 576), (576, 1536)]),
    ("1B", &[(2048, 2048), (512, 2048), (8192, 2048), (2048, 8192)]),
    ("8B", &[(4096, 4096), (1024, 4096), (14336, 4096), (4096, 14336)]),
];

/// More than a core's share of the last cache.
const STREAMED: usize = 192 << 20;

fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..len).map(|_| next()).collect()
}

fn weights((n, k): (usize, usize), bits: u32) -> TileMatrix {
    let codes: Vec<u8> = noise(n * k, 1).iter().map(|v| ((v + 0.5) * (1 << bits) as f32) as u8).collect();
    let scales = noise(n * k / 64, 2).iter().map(|v| f16::from_f32(0.05 * v)).collect();
    let packed = PackedMatrix::from_codes((n, k), bits, 64, &codes, scales, None).expect("a valid matrix");
    TileMatrix::from_packed(&Pool::new(default_threads()), &packed).expect("groups of 64")
}

fn multiply(cpu: &Cpu, x: &[f32], weights: &TileMatrix, y: &mut [f32]) {
    linear(cpu, x, &mut [Product { weights, stream: None, y }]);
}

/// The first outputs of the last row of x against sums in f64.
fn check(x: &[f32], weights: &TileMatrix, y: &[f32]) {
    let (n, k) = (weights.rows(), weights.cols());
    let (x, y) = (&x[x.len() - k..], &y[y.len() - n..]);
    let mut row = vec![0.0; k];
    for j in 0..n.min(20) {
        weights.decode_row(j, &mut row);
        let exact: f64 = x.iter().zip(&row).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
        let size: f64 = row.iter().map(|w| f64::from(w.abs())).sum();
        assert!((f64::from(y[j]) - exact).abs() < size / 127.0, "{} for {exact}", y[j]);
    }
}

fn bench(c: &mut Criterion) {
    let isa = Isa::from_env().expect("an instruction set of this CPU");
    for threads in [1, default_threads()] {
        let cpu = Cpu::new(isa, threads);
        for (model, shapes) in MODELS {
            for bits in [4, 3, 8] {
                let matrices: Vec<_> = shapes.iter().map(|shape| weights(*shape, bits)).collect();
                decode(c, &cpu, &format!("{} {model} int{bits}", isa.name()), &matrices);
                prefill(c, &cpu, &format!("{} {model} int{bits}", isa.name()), &matrices[2]);
            }
        }
    }
}

fn decode(c: &mut Criterion, cpu: &Cpu, name: &str, matrices: &[TileMatrix]) {
    let bytes: usize = matrices.iter().map(TileMatrix::bytes).sum();
    let copies: Vec<Vec<TileMatrix>> = (0..STREAMED.div_ceil(bytes)).map(|_| matrices.to_vec()).collect();
    let inputs: Vec<_> = matrices.iter().map(|w| (noise(w.cols(), 3), vec![0.0; w.rows()])).collect();
    for (w, (x, y)) in matrices.iter().zip(&mut inputs.clone()) {
        multiply(cpu, x, w, y);
        check(x, w, y);
    }
    let mut group = c.benchmark_group("decode");
    group.sample_size(10).throughput(Throughput::Bytes((bytes * copies.len()) as u64));
    group.bench_function(BenchmarkId::new(name, cpu.pool.threads()), |b| {
        let mut inputs = inputs.clone();
        b.iter(|| {
            for matrices in &copies {
                for (w, (x, y)) in matrices.iter().zip(&mut inputs) {
                    multiply(cpu, x, w, black_box(y));
                }
            }
        });
    });
    group.finish();
}

fn prefill(c: &mut Criterion, cpu: &Cpu, name: &str, w: &TileMatrix) {
    let x = noise(512 * w.cols(), 5);
    let mut y = vec![0.0; 512 * w.rows()];
    multiply(cpu, &x, w, &mut y);
    check(&x, w, &y);
    let mut group = c.benchmark_group("prefill 512");
    group.sample_size(10).throughput(Throughput::Elements((2 * 512 * w.rows() * w.cols()) as u64));
    group.bench_function(BenchmarkId::new(name, cpu.pool.threads()), |b| {
        b.iter(|| multiply(cpu, &x, w, black_box(&mut y)));
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
