//! Speed of the layouts of pruned weights against dense bf16: one token and 512, at layer
//! shapes of real models. Every answer is checked against the reference before it is timed.
//! Run with `cargo bench -p tamis-kernels --bench pruned`; behind `--` a number of threads, a shape
//! such as `576x1536`, and how the name of a layout begins.

mod timing;

use std::hint::black_box;

use half::bf16;
use tamis_kernels::linear::{self, Precision, linear};
use tamis_kernels::pack::{BitmapKind, BitmapMatrix, BlockKind, BlockMatrix, DenseHalf, HalfData, RowSource};
use tamis_kernels::{Cpu, Isa, default_threads};
use timing::{best, close, noise, report};

/// Output and input features.
const SHAPES: [(usize, usize); 6] =
    [(576, 1536), (1536, 576), (49152, 576), (2048, 8192), (8192, 2048), (14336, 4096)];

fn main() {
    let isa = Isa::from_env().expect("an instruction set of this CPU");
    println!("{}, bf16 {}", isa.name(), if isa.has_bf16() { "in hardware" } else { "by rounding" });
    let mut arguments = std::env::args().skip(1).filter(|a| !a.starts_with('-'));
    let threads = arguments.next().and_then(|a| a.parse().ok()).unwrap_or_else(default_threads);
    let only = arguments.next();
    let bench = Bench { cpu: Cpu::new(isa, threads), layout: arguments.next().unwrap_or_default() };
    println!("{threads} thread(s)");
    for (n, k) in SHAPES {
        let shape = format!("{n}x{k}");
        if only.as_ref().is_none_or(|only| *only == shape) {
            println!("\n{shape}");
            bench.shape_of(n, k);
        }
    }
}

/// What is measured: all layouts whose names begin so.
struct Bench {
    cpu: Cpu,
    layout: String,
}

impl Bench {
    fn shape_of(&self, n: usize, k: usize) {
        let values = noise(n * k);
        let halves = HalfData::Bf16(values.iter().map(|&v| bf16::from_f32(v)).collect());
        let dense = DenseHalf::new(n, k, halves).unwrap();
        self.both("dense bf16", dense, n * k * 2);
        for (percent, kind) in [
            (100, BlockKind::Bf16),
            (50, BlockKind::Bf16),
            (25, BlockKind::Bf16),
            (50, BlockKind::Int8),
            (50, BlockKind::Int4),
        ] {
            let kept = mask(n.div_ceil(16) * k.div_ceil(16), percent);
            let blocks = BlockMatrix::from_dense((n, k), &values, &kept, kind).unwrap();
            let bytes = blocks.bytes();
            self.both(&format!("blocks {percent} % {kind:?}"), blocks, bytes);
        }
        let kept = mask(n * k, 50);
        for kind in [BitmapKind::Bf16, BitmapKind::Int8 { group: 64 }] {
            let bitmap = BitmapMatrix::from_dense((n, k), &values, &kept, kind).unwrap();
            let bytes = bitmap.bytes();
            self.both(&format!("bitmap 50 % {kind:?}"), bitmap, bytes);
        }
    }

    /// One token and many. The weights are copied until no cache holds them.
    fn both<W: RowSource + Clone>(&self, name: &str, weights: W, bytes: usize) {
        if !name.starts_with(&self.layout) {
            return;
        }
        let cpu = &self.cpu;
        let (n, k) = (weights.rows(), weights.cols());
        let copies = vec![weights; (192usize << 20).div_ceil(bytes)];
        for (m, copies) in [(1, &copies[..]), (512, &copies[..1])] {
            let (x, mut y) = (noise(m * k), vec![0.0; m * n]);
            for precision in [Precision::F32, Precision::Bf16] {
                if m > 1 && precision == Precision::F32 {
                    continue;
                }
                let some = m.min(2);
                let mut expected = vec![0.0; some * n];
                linear::scalar::linear(&x[..some * k], &copies[0], precision, &mut expected);
                linear(cpu, &x, &copies[0], precision, &mut y);
                close(&y[..some * n], &expected, 2e-3);
                let time = best(cpu.pool.threads(), || {
                    for w in copies {
                        linear(cpu, &x, w, precision, black_box(&mut y));
                    }
                });
                let name = format!("{name}, {m} row(s), {precision:?}");
                match m {
                    1 => report(&name, bytes as f64, "GB/s", time / copies.len() as u32),
                    _ => report(&name, 2.0 * (m * n * k) as f64, "GFLOP/s of the dense product", time),
                }
            }
        }
    }
}

/// That share of so many, at random.
fn mask(len: usize, percent: u32) -> Vec<bool> {
    // Read from the end, so that it does not follow the weights, which are the same noise.
    noise(len).iter().rev().map(|v| (v + 0.5) * 100.0 < percent as f32).collect()
}
