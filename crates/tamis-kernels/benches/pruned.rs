//! Pruned weights as kept blocks and as bitmaps, at the shapes of three real models; blocks of
//! 100 % are the layout's own cost, and `dense` has the product without one. Every answer is
//! compared with sums in f64 before it is timed.
//!
//! `x1` multiplies one row of x with all linears of one block of the model, which come from
//! memory: bytes a second. `x512` multiplies a prompt: operations of the dense product a
//! second. `cargo bench -p tamis-kernels --bench pruned`.

mod setup;

use std::cell::OnceCell;
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use setup::{
    Bench, MODELS, Model, PROMPT, STREAMED, bytes, check_bytes, check_linear, noise, noise_iter,
    prompt_operations,
};
use tamis_kernels::linear::linear;
use tamis_kernels::pack::{BLOCK_SIDE, BitmapKind, BitmapMatrix, BlockKind, BlockMatrix, RowSource};
use tamis_kernels::{Cpu, Precision};

/// As for dense weights: less than 2048 sums in a lane, signs mixed, each within 2^-24, times x of
/// at most 1/2. Half of the weights are zero, which only makes the sum of |w| smaller with them.
const ERROR: f64 = 5e-6;

criterion_group!(name = benches; config = setup::criterion(); targets = bench);
criterion_main!(benches);

/// A way to store kept weights, and percent of them.
#[derive(Clone, Copy)]
enum Layout {
    Blocks(usize, BlockKind),
    Bitmap(usize, BitmapKind),
}

const LAYOUTS: [(Layout, &str); 8] = [
    (Layout::Blocks(100, BlockKind::Bf16), "blocks 100% bf16"),
    (Layout::Blocks(50, BlockKind::Bf16), "blocks 50% bf16"),
    (Layout::Blocks(25, BlockKind::Bf16), "blocks 25% bf16"),
    (Layout::Blocks(50, BlockKind::Int8), "blocks 50% int8"),
    (Layout::Blocks(50, BlockKind::Int4), "blocks 50% int4"),
    (Layout::Bitmap(50, BitmapKind::Bf16), "bitmap 50% bf16"),
    (Layout::Bitmap(50, BitmapKind::Int8 { group: 64 }), "bitmap 50% int8"),
    (Layout::Bitmap(50, BitmapKind::Int4 { group: 64 }), "bitmap 50% int4"),
];

/// Weights in one layout.
#[derive(Clone)]
enum Weights {
    Blocks(BlockMatrix),
    Bitmap(BitmapMatrix),
}

impl Layout {
    /// Bytes of a matrix.
    fn bytes(self, (n, k): (usize, usize)) -> usize {
        match self {
            Self::Blocks(percent, kind) => {
                let weights = BLOCK_SIDE * BLOCK_SIDE;
                let scales = BLOCK_SIDE * 2;
                let block = match kind {
                    BlockKind::Bf16 => weights * 2,
                    BlockKind::Int8 => weights + scales,
                    BlockKind::Int4 => weights / 2 + scales,
                };
                n / BLOCK_SIDE * 4 + n * k / weights * percent / 100 * (block + 2)
            }
            Self::Bitmap(percent, kind) => {
                let kept = n * k * percent / 100;
                n * 4
                    + n * k / 8
                    + match kind {
                        BitmapKind::Bf16 => kept * 2,
                        BitmapKind::Int8 { group } => kept + n * k / group * 2,
                        BitmapKind::Int4 { group } => kept.div_ceil(8) * 4 + n * k / group * 2,
                    }
            }
        }
    }

    fn make(self, (n, k): (usize, usize)) -> Weights {
        let values = noise(n * k, 1);
        let (weights, built) = match self {
            Self::Blocks(percent, kind) => {
                let kept = kept(n.div_ceil(BLOCK_SIDE) * k.div_ceil(BLOCK_SIDE), percent);
                let w = BlockMatrix::from_dense((n, k), &values, &kept, kind).expect("finite weights");
                let built = w.bytes();
                (Weights::Blocks(w), built)
            }
            Self::Bitmap(percent, kind) => {
                let kept = kept(n * k, percent);
                let w = BitmapMatrix::from_dense((n, k), &values, &kept, kind).expect("finite weights");
                let built = w.bytes();
                (Weights::Bitmap(w), built)
            }
        };
        check_bytes(self.bytes((n, k)), built);
        weights
    }
}

/// That share of so many, in random places, but exactly as many: one is kept with the chance
/// of those still needed among those still to come.
fn kept(len: usize, percent: usize) -> Vec<bool> {
    let mut needed = len * percent / 100;
    let mut keep = |(i, v): (usize, f32)| {
        let keep = f64::from(v + 0.5) * ((len - i) as f64) < needed as f64;
        needed -= usize::from(keep);
        keep
    };
    noise_iter(2).take(len).enumerate().map(&mut keep).collect()
}

impl Weights {
    fn rows(&self) -> &dyn RowSource {
        match self {
            Self::Blocks(w) => w,
            Self::Bitmap(w) => w,
        }
    }

    /// The product with noise of `m` rows, checked: x and y.
    fn checked(&self, cpu: &Cpu, m: usize, precision: Precision) -> (Vec<f32>, Vec<f32>) {
        let w = self.rows();
        let (x, mut y) = (noise(m * w.cols(), 3), vec![0.0; m * w.rows()]);
        linear(cpu, &x, w, precision, &mut y);
        check_linear(&x, w, precision, (&y, ERROR));
        (x, y)
    }
}

fn bench(c: &mut Criterion) {
    let mut bench = Bench::new(c);
    for model in &MODELS {
        for (layout, name) in LAYOUTS {
            let block = OnceCell::new();
            let block = || block.get_or_init(|| model.linears().map(|shape| layout.make(shape)));
            let case = Case { model, layout, name };
            for precision in [Precision::F32, Precision::Bf16] {
                case.one_row(&mut bench, precision, &block);
                case.prompt(&mut bench, precision, &block);
            }
        }
    }
}

type Block = [Weights; 4];

/// What is timed.
struct Case<'a> {
    model: &'a Model,
    layout: Layout,
    name: &'a str,
}

impl Case<'_> {
    fn name(&self, rows: usize, precision: Precision) -> String {
        let rounded = match precision {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        };
        format!("pruned {} x{rows} {} by {rounded}", self.model.name, self.name)
    }

    fn one_row<'b>(&self, bench: &mut Bench<'_>, precision: Precision, block: &dyn Fn() -> &'b Block) {
        let size: usize = self.model.linears().map(|shape| self.layout.bytes(shape)).iter().sum();
        let copies = STREAMED.div_ceil(size);
        let make = |cpu: &Cpu| {
            let inputs: Vec<_> = block().iter().map(|w| w.checked(cpu, 1, precision)).collect();
            (vec![block().clone(); copies], inputs)
        };
        bench.time(&self.name(1, precision), bytes(size * copies), make, |cpu, (blocks, inputs)| {
            for block in &*blocks {
                for (w, (x, y)) in block.iter().zip(&mut *inputs) {
                    linear(cpu, x, w.rows(), precision, black_box(y));
                }
            }
        });
    }

    fn prompt<'b>(&self, bench: &mut Bench<'_>, precision: Precision, block: &dyn Fn() -> &'b Block) {
        let gate = || &block()[2];
        let make = |cpu: &Cpu| gate().checked(cpu, PROMPT, precision);
        let operations = prompt_operations(self.model.gate());
        bench.time(&self.name(PROMPT, precision), operations, make, |cpu, (x, y)| {
            linear(cpu, x, gate().rows(), precision, black_box(y));
        });
    }
}
