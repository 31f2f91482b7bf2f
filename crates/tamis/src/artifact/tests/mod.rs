//! Tests of the whole folder; each file is one promise. The model here is two small
//! blocks that use every way of storing a tensor.

mod hostile;
mod inspect;
mod overwrite;
mod pruned;
mod resume;
mod round_trip;
mod switch;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use half::{bf16, f16};
use serde_json::json;
use tamis_kernels::pack::{DenseF32, DenseHalf, HalfData, PackedMatrix, SparseRows};

use super::{ArtifactSource, Existing, Finish, Identity, Manifest, Part, Resume, Stored, Writer};
use crate::error::Result;
use crate::model::Weight;

/// A small fixed generator: tests must not depend on another crate's stream.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }
    fn unit(&mut self) -> f32 {
        self.next() as f32 / (1u64 << 31) as f32 - 0.5
    }
}

/// Which grid: bits, group, and zero points where it has them.
#[derive(Clone, Copy)]
pub(super) struct Grid(pub(super) u32, pub(super) usize, pub(super) Zeros);

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Zeros {
    Symmetric,
    Asymmetric,
}

pub(super) fn packed(dice: &mut Dice, shape: (usize, usize), Grid(bits, group, zeros): Grid) -> PackedMatrix {
    let groups = shape.0 * shape.1.div_ceil(group);
    let mut code = |_| (dice.next() & ((1 << bits) - 1)) as u8;
    let codes: Vec<u8> = (0..shape.0 * shape.1).map(&mut code).collect();
    let zeros = (zeros == Zeros::Asymmetric).then(|| (0..groups).map(&mut code).collect());
    let scales = (0..groups).map(|_| f16::from_f32(0.01 + dice.unit().abs())).collect();
    PackedMatrix::from_codes(shape, bits, group, &codes, scales, zeros).unwrap()
}

/// About one entry in eight.
pub(super) fn sparse(dice: &mut Dice, (rows, cols): (usize, usize)) -> SparseRows {
    let (mut starts, mut columns, mut values) = (vec![0], vec![], vec![]);
    for _ in 0..rows {
        for col in 0..cols {
            if dice.next().is_multiple_of(8) {
                columns.push(col as u16);
                values.push(f16::from_f32(dice.unit()));
            }
        }
        starts.push(columns.len() as u32);
    }
    SparseRows::new((rows, cols), starts, columns, values).unwrap()
}

pub(super) fn sieved(dice: &mut Dice, shape: (usize, usize), grid: Grid) -> Weight {
    let base = packed(dice, shape, grid);
    let ortho = sparse(dice, shape);
    Weight::Sieved { base, ortho }
}

const HIDDEN: usize = 64;
const VOCAB: usize = 96;
const INNER: usize = 40;

pub(super) type Tensors = Vec<(String, Stored)>;

/// Parts of the test model in the order a driver would make them.
pub(super) fn model() -> Vec<(Part, Tensors)> {
    let mut dice = Dice(7);
    let bf = (0..VOCAB * HIDDEN).map(|_| bf16::from_f32(dice.unit())).collect();
    let embedding = DenseHalf::new(VOCAB, HIDDEN, HalfData::Bf16(bf)).unwrap();
    let mut parts =
        vec![(Part::Embedding, vec![("model.embed_tokens.weight".into(), Weight::Half(embedding).into())])];
    for index in 0..2 {
        parts.push((Part::Block(index), block(&mut dice, index)));
    }
    let head = packed(&mut dice, (VOCAB, HIDDEN), Grid(8, HIDDEN, Zeros::Symmetric));
    let norm = (0..HIDDEN).map(|_| dice.unit()).collect::<Vec<f32>>();
    let head = Weight::Packed(head).into();
    parts
        .push((Part::Head, vec![("model.norm.weight".into(), norm.into()), ("lm_head.weight".into(), head)]));
    parts
}

fn block(dice: &mut Dice, index: usize) -> Tensors {
    use Zeros::{Asymmetric, Symmetric};
    let square = (HIDDEN, HIDDEN);
    let f32s = (0..INNER * HIDDEN).map(|_| dice.unit()).collect();
    let f32s = DenseF32::new(INNER, HIDDEN, f32s).unwrap();
    let weights: [(&str, Stored); 8] = [
        ("self_attn.q_proj.weight", sieved(dice, square, Grid(4, 32, Symmetric)).into()),
        ("self_attn.k_proj.weight", sieved(dice, (16, HIDDEN), Grid(3, 32, Asymmetric)).into()),
        (
            "self_attn.v_proj.weight",
            Weight::Packed(packed(dice, (16, HIDDEN), Grid(4, 64, Symmetric))).into(),
        ),
        ("self_attn.q_proj.bias", (0..HIDDEN).map(|_| dice.unit()).collect::<Vec<f32>>().into()),
        ("self_attn.o_proj.weight", Weight::Packed(packed(dice, square, Grid(4, 32, Asymmetric))).into()),
        ("mlp.up_proj.weight", Weight::Packed(packed(dice, (INNER, HIDDEN), Grid(2, 64, Symmetric))).into()),
        (
            "mlp.down_proj.weight",
            Weight::Packed(packed(dice, (HIDDEN, INNER), Grid(3, 32, Asymmetric))).into(),
        ),
        ("mlp.gate_proj.weight", Weight::F32(f32s).into()),
    ];
    let norms = ["input_layernorm.weight", "post_attention_layernorm.weight"];
    let norms = norms.map(|name| (name, Stored::from(vec![1.0; HIDDEN])));
    weights.into_iter().chain(norms).map(|(n, s)| (format!("model.layers.{index}.{n}"), s)).collect()
}

pub(super) fn receipts(part: Part) -> BTreeMap<String, serde_json::Value> {
    // A number whose shortest decimal form does not survive every JSON parser.
    BTreeMap::from([(part.to_string(), json!({ "error": 0.1 + 0.2, "loss": 2.0f64.sqrt() / 3.0 }))])
}

pub(super) fn identity() -> Identity {
    Identity::new("r".into(), "m".into(), Some("c".into()))
}

pub(super) fn finish() -> Finish {
    let config = json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": VOCAB,
        "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 1, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 64, "rope_theta": 10000.0, "hidden_act": "silu",
        "tie_word_embeddings": false,
    });
    Finish {
        config: config.as_object().unwrap().clone(),
        files: BTreeMap::from([("tokenizer.json".into(), b"{}".to_vec())]),
        recipe: json!({ "name": "test" }),
        seed: 3,
        run: json!({ "peak_bytes": 1 }),
    }
}

pub(super) fn open(folder: &Path) -> Result<Writer> {
    Writer::create_or_resume(folder, &identity(), (Resume::Auto, Existing::Refuse))
}

/// Stores every part that is not stored yet, then finishes.
pub(super) fn complete(mut writer: Writer) -> Manifest {
    for (part, tensors) in model() {
        if !writer.finished().contains(&part) {
            writer.put(part, &tensors, receipts(part)).unwrap();
        }
    }
    writer.finish(finish()).unwrap()
}

/// The finished test artifact.
pub(super) fn written() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    complete(open(dir.path()).unwrap());
    dir
}

/// Name -> bytes of every file of a folder.
pub(super) fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let read = |e: fs::DirEntry| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap());
    fs::read_dir(folder).unwrap().map(|e| read(e.unwrap())).collect()
}

/// Stored tensors hold floats without an order on NaN, so equality goes through their parts.
pub(super) fn assert_same(name: &str, a: &Stored, b: &Stored) {
    use Stored::{Matrix, Vector};
    let same = match (a, b) {
        (Vector(a), Vector(b)) => a == b,
        (Matrix(Weight::F32(a)), Matrix(Weight::F32(b))) => a == b,
        (Matrix(Weight::Half(a)), Matrix(Weight::Half(b))) => a == b,
        (Matrix(Weight::Packed(a)), Matrix(Weight::Packed(b))) => a == b,
        (Matrix(Weight::Sieved { base, ortho }), Matrix(Weight::Sieved { base: b, ortho: o })) => {
            base == b && ortho == o
        }
        _ => false,
    };
    assert!(same, "{name} differs");
}

pub(super) fn source(folder: &Path) -> ArtifactSource {
    ArtifactSource::open(folder).unwrap()
}
