//! Speed of the hot kernels: the best of a few runs, on one thread and on all.
//! Every answer is checked against the reference before it is timed. Run with
//! `cargo bench -p tamis-kernels --bench kernels`, `TAMIS_ISA=avx2` for another instruction set.

mod timing;

use std::hint::black_box;

use half::f16;
use tamis_kernels::attention::{self, AttentionParams, CacheType, KvLayer, attend};
use tamis_kernels::gram::{self, gram_add};
use tamis_kernels::linear::{self, Precision, linear};
use tamis_kernels::pack::{DenseF32, PackedMatrix, RowSource};
use tamis_kernels::{Cpu, Isa, default_threads};
use timing::{best, close, noise, report};

fn main() {
    let isa = Isa::from_env().expect("an instruction set of this CPU");
    println!("{}, bf16 {}", isa.name(), if isa.has_bf16() { "in hardware" } else { "by rounding" });
    peak(isa);
    let wanted = std::env::args().nth(1).filter(|a| !a.starts_with('-')).and_then(|a| a.parse().ok());
    for threads in wanted.map_or(vec![1, default_threads()], |threads| vec![threads]) {
        let cpu = Cpu::new(isa, threads);
        println!("\n{threads} thread(s)");
        for (m, n, k) in [(512, 576, 576), (512, 1536, 576), (512, 576, 1536), (2048, 576, 1536)] {
            bench_linear(&cpu, m, n, k);
        }
        bench_gemv(&cpu, 1536, 576);
        bench_decode(&cpu);
        bench_gram(&cpu, 4096, 576);
        bench_gram(&cpu, 4096, 1536);
        bench_attention(&cpu, 2048);
    }
}

/// The product of a tile that never leaves the L1 cache: what the core can do.
fn peak(isa: Isa) {
    let cpu = Cpu::new(isa, 1);
    let (m, n, k) = (12, 12, 384);
    let x = noise(m * k);
    let w = DenseF32::new(n, k, noise(n * k)).unwrap();
    let mut y = vec![0.0; m * n];
    for precision in [Precision::F32, Precision::Bf16] {
        let time = best(cpu.pool.threads(), || {
            for _ in 0..200 {
                linear(&cpu, &x, &w, precision, black_box(&mut y));
            }
        });
        report(&format!("in L1, {precision:?}"), 200.0 * 2.0 * (m * n * k) as f64, "GFLOP/s", time);
    }
}

fn bench_linear(cpu: &Cpu, m: usize, n: usize, k: usize) {
    let x = noise(m * k);
    let w = DenseF32::new(n, k, noise(n * k)).unwrap();
    let mut y = vec![0.0; m * n];
    for precision in [Precision::F32, Precision::Bf16] {
        let mut expected = vec![0.0; 3 * n];
        linear::scalar::linear(&x[..3 * k], &w, precision, &mut expected);
        linear(cpu, &x, &w, precision, &mut y);
        close(&y[..3 * n], &expected, 1e-3);
        let time = best(cpu.pool.threads(), || linear(cpu, &x, &w, precision, black_box(&mut y)));
        let name = format!("linear {m}x{k} -> {n} {precision:?}");
        report(&name, 2.0 * (m * n * k) as f64, "GFLOP/s", time);
    }
}

fn packed(n: usize, k: usize, bits: u32) -> PackedMatrix {
    let codes: Vec<u8> = (0..n * k).map(|i| ((i * 2_654_435_761) >> 16) as u8 & ((1 << bits) - 1)).collect();
    let scales = vec![f16::from_f32(0.01); n * k.div_ceil(128)];
    PackedMatrix::from_codes((n, k), bits, 128, &codes, scales, None).unwrap()
}

/// One token by so many matrices that they come from memory.
fn bench_gemv(cpu: &Cpu, n: usize, k: usize) {
    for bits in [4, 8] {
        let one = packed(n, k, bits);
        let count = (96 << 20) / one.bytes();
        let all: Vec<_> = (0..count).map(|_| one.clone()).collect();
        let (x, mut y) = (noise(k), vec![0.0; n]);
        let mut expected = vec![0.0; n];
        linear::scalar::linear(&x, &one, Precision::F32, &mut expected);
        for precision in [Precision::F32, Precision::Bf16] {
            linear(cpu, &x, &one, precision, &mut y);
            close(&y, &expected, 2e-2);
            let time = best(cpu.pool.threads(), || {
                for w in &all {
                    linear(cpu, &x, w, precision, black_box(&mut y));
                }
            });
            report(
                &format!("gemv int{bits} {k} -> {n} {precision:?}"),
                (count * one.bytes()) as f64,
                "GB/s",
                time,
            );
        }
    }
}

/// Rows decoded out of the cache: weights a second.
fn bench_decode(cpu: &Cpu) {
    if cpu.pool.threads() > 1 {
        return;
    }
    for bits in [2, 3, 4, 8] {
        let w = packed(64, 576, bits);
        let mut row = vec![0.0; 576];
        let time = best(cpu.pool.threads(), || {
            for i in 0..64 * 20 {
                w.decode_row(i % 64, black_box(&mut row));
            }
        });
        report(&format!("decode int{bits} (weights)"), 64.0 * 20.0 * 576.0, "G/s", time);
    }
}

fn bench_gram(cpu: &Cpu, m: usize, k: usize) {
    let x = noise(m * k);
    let mut g = vec![0.0f64; k * k];
    for precision in [Precision::F32, Precision::Bf16] {
        g.fill(0.0);
        gram_add(cpu, &x[..20 * k], k, precision, &mut g);
        let mut expected = vec![0.0; k * k];
        gram::scalar::gram_add(&x[..20 * k], k, precision, &mut expected);
        assert!(g.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-4), "the answer is wrong");
        let time = best(cpu.pool.threads(), || gram_add(cpu, &x, k, precision, black_box(&mut g)));
        // Half of the square is computed: m k (k + 1) operations.
        report(&format!("gram {m}x{k} {precision:?}"), (m * k * (k + 1)) as f64, "GFLOP/s", time);
    }
}

fn bench_attention(cpu: &Cpu, len: usize) {
    let scale = 0.125;
    let params = AttentionParams { heads: 9, kv_heads: 3, head_dim: 64, scale, softcap: None, window: None };
    let mut cache = KvLayer::new(3, 64, len, CacheType::F32);
    cache.append(&noise(len * 192), &noise(len * 192)).unwrap();
    let q = noise(len * 576);
    let mut out = vec![0.0; len * 576];
    attend(cpu, &q, 0, &cache, &params, &mut out);
    let mut expected = vec![0.0; 5 * 576];
    attention::scalar::attend(&q[..5 * 576], 0, &cache, &params, &mut expected);
    close(&out[..5 * 576], &expected, 1e-5);
    let time = best(cpu.pool.threads(), || attend(cpu, &q, 0, &cache, &params, black_box(&mut out)));
    // Scores and values: 4 operations for each of 64 x 9 numbers and each visible pair.
    report(&format!("attention {len} tokens"), 4.0 * 576.0 * (len * (len + 1) / 2) as f64, "GFLOP/s", time);
    let last = &q[..576];
    let time = best(cpu.pool.threads(), || {
        for _ in 0..20 {
            attend(cpu, last, len - 1, &cache, &params, black_box(&mut out[..576]));
        }
    });
    report("attention, one step at the end", 20.0 * (len * 192 * 8) as f64, "GB/s", time);
}
