//! An untrained model as a folder like any other: weights normal with a deviation of 0.02, those that write into
//! the residual stream smaller by the root of twice the number of blocks (Radford 2019, GPT-2), norms one.

use std::collections::BTreeMap;
use std::path::Path;

use half::bf16;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde_json::{Map, Value, json};
use tamis_kernels::pack::{DenseHalf, HalfData};

use super::plan::{Plan, Shape};
use crate::artifact::{Finish, Identity, Part, Stored, Writer};
use crate::error::{Error, Result};
use crate::job::publish::publish;
use crate::model::Weight;

const DEVIATION: f64 = 0.02;

/// Writes the model of `plan` with these text files.
pub fn write(plan: &Plan, files: Vec<(String, Vec<u8>)>, folder: &Path) -> Result<()> {
    let shape = &plan.model;
    let files: BTreeMap<String, Vec<u8>> = files.into_iter().collect();
    let vocab = vocabulary(&files["tokenizer.json"])?;
    let identity = Identity::new(json!(plan).to_string(), "none".into(), None);
    let mut writer = Writer::create_or_resume(folder, &identity, Default::default())?;
    let mut random = Random(ChaCha8Rng::seed_from_u64(plan.training.seed));
    let table = random.matrix((vocab, shape.hidden), DEVIATION)?;
    put(&mut writer, Part::Embedding, vec![("model.embed_tokens.weight".into(), table)])?;
    for index in 0..shape.layers {
        let tensors = block(shape, index, &mut random)?;
        put(&mut writer, Part::Block(index), tensors)?;
    }
    put(&mut writer, Part::Head, vec![("model.norm.weight".into(), vec![1.0; shape.hidden].into())])?;
    let config = config(shape, vocab);
    let recipe = json!(plan);
    publish(writer, Finish { config, files, recipe, seed: plan.training.seed, run: Value::Null })?;
    Ok(())
}

fn put(writer: &mut Writer, part: Part, tensors: Vec<(String, Stored)>) -> Result<()> {
    // The random numbers of a part that is there already have been drawn all the same.
    if writer.finished().contains(&part) { Ok(()) } else { writer.put(part, &tensors, BTreeMap::new()) }
}

fn block(shape: &Shape, index: usize, random: &mut Random) -> Result<Vec<(String, Stored)>> {
    let Shape { hidden, intermediate, layers, heads, kv_heads, .. } = *shape;
    let narrow = hidden / heads * kv_heads;
    let small = DEVIATION / (2.0 * layers as f64).sqrt();
    let linears = [
        ("self_attn.q_proj", (hidden, hidden), DEVIATION),
        ("self_attn.k_proj", (narrow, hidden), DEVIATION),
        ("self_attn.v_proj", (narrow, hidden), DEVIATION),
        ("self_attn.o_proj", (hidden, hidden), small),
        ("mlp.gate_proj", (intermediate, hidden), DEVIATION),
        ("mlp.up_proj", (intermediate, hidden), DEVIATION),
        ("mlp.down_proj", (hidden, intermediate), small),
    ];
    let mut tensors = Vec::new();
    for (name, shape, deviation) in linears {
        tensors.push((format!("model.layers.{index}.{name}.weight"), random.matrix(shape, deviation)?));
    }
    for name in ["input_layernorm", "post_attention_layernorm"] {
        tensors.push((format!("model.layers.{index}.{name}.weight"), vec![1.0; hidden].into()));
    }
    Ok(tensors)
}

pub(super) fn config(shape: &Shape, vocab: usize) -> Map<String, Value> {
    let config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": shape.context,
        "rope_theta": shape.rope_theta,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": true,
        "torch_dtype": "bfloat16",
    });
    config.as_object().cloned().unwrap_or_default()
}

/// Entries of a `tokenizer.json`, rounded up to whole blocks of 16.
pub(super) fn vocabulary(json: &[u8]) -> Result<usize> {
    let bad = |e: String| Error::bad_data(format!("the tokenizer: {e}"));
    let value: Value = serde_json::from_slice(json).map_err(|e| bad(e.to_string()))?;
    let ids =
        value["model"]["vocab"].as_object().map(|v| v.values().filter_map(Value::as_u64).collect::<Vec<_>>());
    let added =
        value["added_tokens"].as_array().map(|all| all.iter().filter_map(|t| t["id"].as_u64()).collect());
    let all = ids.into_iter().chain(added).flatten();
    let largest = all.max().ok_or_else(|| bad("no vocabulary".into()))?;
    usize::try_from(largest + 1).map(|n| n.next_multiple_of(16)).map_err(|e| bad(e.to_string()))
}

/// Normal numbers by the polar-free form of Box and Muller.
struct Random(ChaCha8Rng);

impl Random {
    fn matrix(&mut self, (rows, cols): (usize, usize), deviation: f64) -> Result<Stored> {
        let values = (0..rows * cols).map(|_| bf16::from_f64(self.normal() * deviation)).collect();
        let weight = DenseHalf::new(rows, cols, HalfData::Bf16(values));
        weight.map(|w| Stored::Matrix(Weight::Half(w))).map_err(|e| Error::bad_data(e.to_string()))
    }
    fn normal(&mut self) -> f64 {
        let mut unit = || (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let (radius, angle) = (1.0 - unit(), unit());
        (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
    }
}
