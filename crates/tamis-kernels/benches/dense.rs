//! Weights that are multiplied as floats, at the shapes of three real models: stored as f32, bf16
//! and f16, and rows decoded from packed integers, from these with an ortho stream of sparse rows,
//! and from a K type of GGUF. Every answer is compared with sums in f64 before it is timed.
//!
//! `x1` multiplies one row of x with all linears of one block, which come from memory:
//! bytes a second. `x512` multiplies a prompt: operations a second. `head` is one row by
//! the vocabulary. `cargo bench -p tamis-kernels --bench dense`.

mod setup;

use std::cell::OnceCell;
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use half::{bf16, f16};
use setup::{
    Bench, MODELS, Model, PROMPT, STREAMED, bytes, check_linear, elements, noise, noise_iter,
    prompt_operations,
};
use tamis_kernels::linear::linear;
use tamis_kernels::pack::{
    DenseF32, DenseHalf, GgmlMatrix, GgmlType, HalfData, PackedMatrix, RowSource, SievedRows, SparseRows,
};
use tamis_kernels::{Cpu, Precision};

/// A lane adds less than 2048 products whose signs mix; each sum is within 2^-24 of the largest
/// partial sum, so the share lost is about 2^-24 times the root of that number: 3e-6, times x
/// of at most 1/2. Three times as much is allowed.
const ERROR: f64 = 5e-6;

/// Columns for each entry of the stream.
const COLUMNS_PER_ENTRY: usize = 200;

criterion_group!(name = benches; config = setup::criterion(); targets = bench, decode_rows, head);
criterion_main!(benches);

/// A way to store weights.
#[derive(Clone, Copy)]
enum Kind {
    F32,
    Bf16,
    F16,
    Int(u32),
    Sieved,
    Q4K,
}

const KINDS: [(Kind, &str); 7] = [
    (Kind::F32, "f32"),
    (Kind::Bf16, "bf16"),
    (Kind::F16, "f16"),
    (Kind::Int(4), "int4"),
    (Kind::Int(8), "int8"),
    (Kind::Sieved, "int4+ortho"),
    (Kind::Q4K, "Q4_K"),
];

/// Weights of one kind.
#[derive(Clone)]
enum Weights {
    F32(DenseF32),
    Half(DenseHalf),
    Int(PackedMatrix),
    Sieved(PackedMatrix, SparseRows),
    Q4K(GgmlMatrix),
}

impl Kind {
    /// Bytes of a matrix, as `Weights` stores them.
    fn bytes(self, (n, k): (usize, usize)) -> usize {
        let packed = |bits| n * k * bits as usize / 8 + n * k / 64 * 2;
        match self {
            Self::F32 => n * k * 4,
            Self::Bf16 | Self::F16 => n * k * 2,
            Self::Int(bits) => packed(bits),
            Self::Sieved => packed(4) + n * (k.div_ceil(COLUMNS_PER_ENTRY) * 4 + 4),
            Self::Q4K => n * k / 256 * 144,
        }
    }

    /// K types come in blocks of 256 columns, which 576 are not.
    fn fits(self, model: &Model) -> bool {
        !matches!(self, Self::Q4K) || model.hidden.is_multiple_of(256)
    }

    fn make(self, (n, k): (usize, usize)) -> Weights {
        let values = noise_iter(1).take(n * k);
        let half = |data| Weights::Half(DenseHalf::new(n, k, data).expect("whole rows"));
        match self {
            Self::F32 => Weights::F32(DenseF32::new(n, k, values.collect()).expect("whole rows")),
            Self::Bf16 => half(HalfData::Bf16(values.map(bf16::from_f32).collect())),
            Self::F16 => half(HalfData::F16(values.map(f16::from_f32).collect())),
            Self::Int(bits) => Weights::Int(packed((n, k), bits)),
            Self::Sieved => Weights::Sieved(packed((n, k), 4), sparse((n, k))),
            Self::Q4K => Weights::Q4K(q4_k((n, k))),
        }
    }
}

impl Weights {
    /// Calls `run` with the weights as rows.
    fn with<T>(&self, run: impl FnOnce(&dyn RowSource) -> T) -> T {
        match self {
            Self::F32(w) => run(w),
            Self::Half(w) => run(w),
            Self::Int(w) => run(w),
            Self::Sieved(base, ortho) => run(&SievedRows { base, ortho, alpha: 0.5 }),
            Self::Q4K(w) => run(w),
        }
    }

    /// The product with noise of `m` rows, checked: x and y.
    fn checked(&self, cpu: &Cpu, m: usize, precision: Precision) -> (Vec<f32>, Vec<f32>) {
        self.with(|w| {
            let (x, mut y) = (noise(m * w.cols(), 3), vec![0.0; m * w.rows()]);
            linear(cpu, &x, w, precision, &mut y);
            check_linear(&x, w, precision, (&y, ERROR));
            (x, y)
        })
    }
}

fn packed((n, k): (usize, usize), bits: u32) -> PackedMatrix {
    let codes: Vec<u8> = noise_iter(1).take(n * k).map(|v| ((v + 0.5) * (1 << bits) as f32) as u8).collect();
    let scales = noise_iter(2).take(n * k / 64).map(|v| f16::from_f32(0.05 * v)).collect();
    PackedMatrix::from_codes((n, k), bits, 64, &codes, scales, None).expect("a valid matrix")
}

/// An entry at a random place of each stretch of columns.
fn sparse((n, k): (usize, usize)) -> SparseRows {
    let stretches = k.div_ceil(COLUMNS_PER_ENTRY);
    let column = |(i, v): (usize, f32)| {
        let start = i % stretches * COLUMNS_PER_ENTRY;
        (start + ((v + 0.5) * COLUMNS_PER_ENTRY.min(k - start) as f32) as usize) as u16
    };
    let columns = noise_iter(4).take(n * stretches).enumerate().map(column).collect();
    let values = noise_iter(6).take(n * stretches).map(f16::from_f32).collect();
    let starts = (0..=n).map(|row| (row * stretches) as u32).collect();
    SparseRows::new((n, k), starts, columns, values).expect("columns ascend")
}

/// Random codes and 6-bit scales; the first four bytes of a block are two f16.
fn q4_k((n, k): (usize, usize)) -> GgmlMatrix {
    let kind = GgmlType::Q4K;
    let len = kind.bytes_of(n * k).expect("whole blocks");
    let mut blocks: Vec<u8> = noise_iter(1).take(len).map(|v| ((v + 0.5) * 256.0) as u8).collect();
    for block in blocks.chunks_exact_mut(kind.block_bytes()) {
        block[..2].copy_from_slice(&f16::from_f32(1e-3).to_le_bytes());
        block[2..4].copy_from_slice(&f16::from_f32(5e-3).to_le_bytes());
    }
    GgmlMatrix::new(kind, n, k, blocks).expect("whole blocks")
}

fn bench(c: &mut Criterion) {
    let mut bench = Bench::new(c);
    for model in &MODELS {
        for (kind, name) in KINDS.into_iter().filter(|(kind, _)| kind.fits(model)) {
            let block = OnceCell::new();
            let block = || block.get_or_init(|| model.linears().map(|shape| kind.make(shape)));
            let case = Case { model, kind, name };
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
    kind: Kind,
    name: &'a str,
}

impl Case<'_> {
    fn name(&self, rows: usize, precision: Precision) -> String {
        let rounded = match precision {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        };
        format!("linear {} x{rows} {} by {rounded}", self.model.name, self.name)
    }

    fn one_row<'b>(&self, bench: &mut Bench<'_>, precision: Precision, block: &dyn Fn() -> &'b Block) {
        let size: usize = self.model.linears().map(|shape| self.kind.bytes(shape)).iter().sum();
        let copies = STREAMED.div_ceil(size);
        let make = |cpu: &Cpu| {
            let inputs: Vec<_> = block().iter().map(|w| w.checked(cpu, 1, precision)).collect();
            (vec![block().clone(); copies], inputs)
        };
        bench.time(&self.name(1, precision), bytes(size * copies), make, |cpu, (blocks, inputs)| {
            for block in &*blocks {
                for (w, (x, y)) in block.iter().zip(&mut *inputs) {
                    w.with(|w| linear(cpu, x, w, precision, black_box(y)));
                }
            }
        });
    }

    fn prompt<'b>(&self, bench: &mut Bench<'_>, precision: Precision, block: &dyn Fn() -> &'b Block) {
        let gate = || &block()[2];
        let make = |cpu: &Cpu| gate().checked(cpu, PROMPT, precision);
        let operations = prompt_operations(self.model.gate());
        bench.time(&self.name(PROMPT, precision), operations, make, |cpu, (x, y)| {
            gate().with(|w| linear(cpu, x, w, precision, black_box(y)));
        });
    }
}

/// One row by a 16-bit vocabulary: the last linear of a model that is quantised elsewhere.
fn head(c: &mut Criterion) {
    let mut bench = Bench::new(c);
    for model in &MODELS {
        let shape = (model.vocab, model.hidden);
        let make = |cpu: &Cpu| {
            let weights = Kind::Bf16.make(shape);
            let (x, y) = weights.checked(cpu, 1, Precision::F32);
            (weights, x, y)
        };
        let size = bytes(Kind::Bf16.bytes(shape));
        bench.time(&format!("head {} bf16 by f32", model.name), size, make, |cpu, (weights, x, y)| {
            weights.with(|w| linear(cpu, x, w, Precision::F32, black_box(y)));
        });
    }
}

/// Rows of packed integers from the cache to f32: weights a second.
fn decode_rows(c: &mut Criterion) {
    /// So many that they stay in the cache.
    const ROWS: usize = 64;
    let mut bench = Bench::on_one_thread(c);
    for model in &MODELS {
        for bits in [2, 3, 4, 8] {
            let k = model.hidden;
            let make = |_: &Cpu| {
                let (w, mut row) = (packed((ROWS, k), bits), vec![0.0; k]);
                w.decode_row(0, &mut row);
                let codes: Vec<f32> =
                    noise(k, 1).iter().map(|v| ((v + 0.5) * (1 << bits) as f32).floor()).collect();
                let middle = (1 << (bits - 1)) as f32;
                let weight = |(i, code): (usize, &f32)| w.scales()[i / 64].to_f32() * (code - middle);
                let expected: Vec<f32> = codes.iter().enumerate().map(weight).collect();
                // One product of the same two numbers: the same bits.
                setup::close(&row, &expected, 0.0);
                (w, row)
            };
            let name = format!("decode rows {} int{bits}", model.name);
            bench.time(&name, elements(ROWS * k), make, |_, (w, row)| {
                (0..ROWS).for_each(|i| w.decode_row(i, black_box(row)));
            });
        }
    }
}
