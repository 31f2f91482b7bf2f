//! Integer weights by int8 activations at the shapes of three real models, alone and with an ortho
//! stream of 0.5 % of the weights. Every answer is compared with the product of the decoded
//! weights before it is timed.
//!
//! `decode` multiplies one row of x with all linears of one block of the model, in as many
//! copies as it takes to come from memory and not from a cache: bytes a second. `prefill`
//! multiplies 512 rows: operations a second. `cargo bench -p tamis-kernels --bench quantized`.

mod setup;

use std::cell::OnceCell;
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use half::f16;
use setup::{
    Bench, MODELS, Model, PROMPT, STREAMED, bytes, check_bytes, check_linear, noise, noise_iter,
    prompt_operations,
};
use tamis_kernels::pack::{
    GgmlMatrix, GgmlType, PackedMatrix, RowSource, SievedTiles, SparseRows, SparseTiles, TileMatrix,
};
use tamis_kernels::quantized::{Product, linear};
use tamis_kernels::{Cpu, Pool, Precision, default_threads};

/// Half a unit of int8 where the largest x is 1/2, that is 1/508, and a little for sums in f32.
const ERROR: f64 = 1.01 / 508.0;

/// Weights for each entry of the stream.
const WEIGHTS_PER_ENTRY: usize = 200;

/// Share of the stream that is added.
const ALPHA: f32 = 0.5;

criterion_group!(name = benches; config = setup::criterion(); targets = bench);
criterion_main!(benches);

fn bench(c: &mut Criterion) {
    let mut bench = Bench::new(c);
    for model in &MODELS {
        for bits in [2, 3, 4, 5, 8] {
            let layers = OnceCell::new();
            let make = || model.linears().map(|shape| Layer::new(shape, bits));
            for streamed in [false, true] {
                let case = Case { model, bits, streamed };
                case.decode(&mut bench, &|| layers.get_or_init(make));
                case.prefill(&mut bench, &|| layers.get_or_init(make));
            }
        }
    }
}

/// A matrix and its stream.
#[derive(Clone)]
struct Layer {
    weights: TileMatrix,
    stream: SparseTiles,
}

type Block = [Layer; 4];

impl Layer {
    fn new(shape: (usize, usize), bits: u32) -> Self {
        let pool = Pool::new(default_threads());
        // Packed integers have no 5 bits; GGUF has.
        let weights = match bits {
            5 => TileMatrix::from_ggml(&pool, &q5_0(shape)),
            _ => TileMatrix::from_packed(&pool, &packed(shape, bits)),
        };
        let weights = weights.expect("groups of whole blocks");
        check_bytes(stored(shape, bits), weights.bytes());
        Self { weights, stream: SparseTiles::from_rows(&sparse(shape)) }
    }

    fn multiply(&self, cpu: &Cpu, streamed: bool, x: &[f32], y: &mut [f32]) {
        let stream = streamed.then_some((&self.stream, ALPHA));
        linear(cpu, x, &mut [Product { weights: &self.weights, stream, y }]);
    }

    fn check(&self, streamed: bool, x: &[f32], y: &[f32]) {
        let alpha = if streamed { ALPHA } else { 0.0 };
        let sum = SievedTiles { base: &self.weights, ortho: &self.stream, alpha };
        check_linear(x, &sum, Precision::F32, (y, ERROR));
    }
}

fn packed((n, k): (usize, usize), bits: u32) -> PackedMatrix {
    let codes: Vec<u8> = noise_iter(1).take(n * k).map(|v| ((v + 0.5) * (1 << bits) as f32) as u8).collect();
    let scales = noise_iter(2).take(n * k / 64).map(|v| f16::from_f32(0.05 * v)).collect();
    PackedMatrix::from_codes((n, k), bits, 64, &codes, scales, None).expect("a valid matrix")
}

/// Random codes; the first two bytes of a block are its scale.
fn q5_0((n, k): (usize, usize)) -> GgmlMatrix {
    let kind = GgmlType::Q5_0;
    let len = kind.bytes_of(n * k).expect("whole blocks");
    let mut blocks: Vec<u8> = noise_iter(1).take(len).map(|v| ((v + 0.5) * 256.0) as u8).collect();
    for (block, v) in blocks.chunks_exact_mut(kind.block_bytes()).zip(noise_iter(2)) {
        block[..2].copy_from_slice(&f16::from_f32(0.05 * v).to_le_bytes());
    }
    GgmlMatrix::new(kind, n, k, blocks).expect("whole blocks")
}

/// Entries in random places, as many in each stretch of so many weights.
fn sparse((n, k): (usize, usize)) -> SparseRows {
    let stretches = (0..n * k).step_by(WEIGHTS_PER_ENTRY);
    let places: Vec<usize> = stretches
        .zip(noise_iter(4))
        .map(|(start, v)| start + ((v + 0.5) * WEIGHTS_PER_ENTRY as f32) as usize)
        .filter(|place| *place < n * k)
        .collect();
    let columns = places.iter().map(|place| (place % k) as u16).collect();
    let values = noise_iter(6).take(places.len()).map(f16::from_f32).collect();
    let starts = (0..=n).map(|row| places.partition_point(|place| *place < row * k) as u32).collect();
    SparseRows::new((n, k), starts, columns, values).expect("columns ascend")
}

/// Bytes of codes and scales.
fn stored((n, k): (usize, usize), bits: u32) -> usize {
    let group = if bits == 5 { 32 } else { 64 };
    n * k * bits as usize / 8 + n * k / group * 2
}

/// What is timed: a width, with or without the stream.
struct Case<'a> {
    model: &'a Model,
    bits: u32,
    streamed: bool,
}

impl Case<'_> {
    fn name(&self, op: &str) -> String {
        let stream = if self.streamed { "+ortho" } else { "" };
        format!("{op} {} int{}{stream}", self.model.name, self.bits)
    }

    /// Four bytes an entry; the masks of the stream's tiles are not counted.
    fn bytes(&self) -> usize {
        let entries = |(n, k)| if self.streamed { n * k / WEIGHTS_PER_ENTRY } else { 0 };
        self.model.linears().map(|shape| stored(shape, self.bits) + 4 * entries(shape)).iter().sum()
    }

    fn decode<'b>(&self, bench: &mut Bench<'_>, block: &dyn Fn() -> &'b Block) {
        let copies = STREAMED.div_ceil(self.bytes());
        let make = |cpu: &Cpu| {
            let make = |layer: &Layer| {
                let (x, mut y) = (noise(layer.weights.cols(), 3), vec![0.0; layer.weights.rows()]);
                layer.multiply(cpu, self.streamed, &x, &mut y);
                layer.check(self.streamed, &x, &y);
                (x, y)
            };
            let inputs: Vec<_> = block().iter().map(make).collect();
            (vec![block().clone(); copies], inputs)
        };
        bench.time(&self.name("decode"), bytes(self.bytes() * copies), make, |cpu, (blocks, inputs)| {
            for block in &*blocks {
                for (layer, (x, y)) in block.iter().zip(&mut *inputs) {
                    layer.multiply(cpu, self.streamed, x, black_box(y));
                }
            }
        });
    }

    fn prefill<'b>(&self, bench: &mut Bench<'_>, block: &dyn Fn() -> &'b Block) {
        let gate = || &block()[2];
        let (n, k) = self.model.gate();
        let make = |cpu: &Cpu| {
            let (x, mut y) = (noise(PROMPT * k, 5), vec![0.0; PROMPT * n]);
            gate().multiply(cpu, self.streamed, &x, &mut y);
            gate().check(self.streamed, &x, &y);
            (x, y)
        };
        bench.time(&self.name("prefill"), prompt_operations((n, k)), make, |cpu, (x, y)| {
            gate().multiply(cpu, self.streamed, x, black_box(y));
        });
    }
}
