//! The supported families and the roles that their tensors play.
//!
//! Everything inside tamis calls a tensor by its Hugging Face name; a family's
//! [`Names`] table says which name plays which [`Role`].

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::config::{Config, Positions};
use super::{gemma3, llama, mistral, opt, qwen2, qwen3};
use crate::error::{Error, Result};
use crate::load::gguf::Metadata;

/// A supported decoder family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Architecture {
    /// Llama 1 to 3.2 and SmolLM2.
    Llama,
    /// Mistral: Llama with a sliding window.
    Mistral,
    /// Qwen2 and Qwen2.5: Llama with biases on q, k and v.
    Qwen2,
    /// Qwen3: q/k norms.
    Qwen3,
    /// Gemma 3, text only.
    Gemma3,
    /// OPT.
    Opt,
}

/// How a Hugging Face file stores the weight `w` of an RMS norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormStorage {
    /// `w`.
    AsUsed,
    /// `w - 1` (Gemma); `Checkpoint::norm` adds the one. GGUF files hold `w`, and their
    /// reader gives what a Hugging Face file would hold.
    MinusOne,
}

/// How a GGUF file orders the q/k rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufRotary {
    /// First halves, then second halves of each head, as Hugging Face has it.
    Halves,
    /// Rotary pairs beside each other.
    Interleaved,
}

/// What the readers have to know of a family; each has one, in its own file.
#[derive(Debug)]
pub struct Family {
    /// Which family.
    pub architecture: Architecture,
    /// `model_type` values of `config.json`.
    pub hf_types: &'static [&'static str],
    /// `general.architecture` of GGUF; none where GGUF is not read.
    pub gguf_name: Option<&'static str>,
    /// Tensor names.
    pub names: &'static Names,
    /// Storage of norm weights in Hugging Face files.
    pub norms: NormStorage,
    /// Order of q/k rows in GGUF files.
    pub gguf_rotary: GgufRotary,
    /// Configuration from `config.json`.
    pub from_hf: fn(&Value) -> Result<Config>,
    /// Configuration from GGUF metadata.
    pub from_gguf: fn(&Metadata) -> Result<Config>,
}

/// All families that can be read. A new one is a file beside this and an entry here.
pub const FAMILIES: &[&Family] =
    &[&llama::FAMILY, &mistral::FAMILY, &qwen2::FAMILY, &qwen3::FAMILY, &gemma3::FAMILY, &opt::FAMILY];

impl Architecture {
    /// What the readers have to know.
    pub fn family(self) -> &'static Family {
        let family = FAMILIES.iter().find(|f| f.architecture == self);
        family.expect("every architecture that a configuration can name has a family")
    }
    /// By `model_type` of `config.json`.
    pub fn from_hf_type(model_type: &str) -> Result<Self> {
        let family = FAMILIES.iter().find(|f| f.hf_types.contains(&model_type));
        family.map(|f| f.architecture).ok_or_else(|| {
            let supported: Vec<_> = FAMILIES.iter().flat_map(|f| f.hf_types).copied().collect();
            unsupported(model_type, &supported)
        })
    }
    /// By `general.architecture` of GGUF.
    pub fn from_gguf_name(name: &str) -> Result<Self> {
        let family = FAMILIES.iter().find(|f| f.gguf_name == Some(name));
        family.map(|f| f.architecture).ok_or_else(|| {
            let supported: Vec<_> = FAMILIES.iter().filter_map(|f| f.gguf_name).collect();
            unsupported(name, &supported)
        })
    }
}

fn unsupported(name: &str, supported: &[&str]) -> Error {
    Error::bad_data(format!("architecture {name:?} is not supported"))
        .next(format!("use a model of one of these: {}", supported.join(", ")))
}

impl Config {
    /// Configuration from a `config.json`, checked.
    pub fn from_hf(json: &Value) -> Result<Self> {
        let model_type = json.get("model_type").and_then(Value::as_str);
        let model_type = model_type.ok_or_else(|| Error::bad_data("configuration: model_type is missing"))?;
        let family = Architecture::from_hf_type(model_type)?.family();
        (family.from_hf)(json)?.checked()
    }
    /// Configuration from GGUF metadata, checked.
    pub fn from_gguf(metadata: &Metadata) -> Result<Self> {
        let name = metadata.text("general.architecture")?;
        let name = name.ok_or_else(|| Error::bad_data("configuration: general.architecture is missing"))?;
        (Architecture::from_gguf_name(name)?.family().from_gguf)(metadata)?.checked()
    }
    /// Refuses sizes that do not fit together.
    pub fn checked(self) -> Result<Self> {
        let refuse = |problem: String| Err(Error::bad_data(format!("configuration: {problem}")));
        let Self { heads, kv_heads, head_dim, .. } = self;
        if heads == 0 || kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return refuse(format!("{heads} query heads over {kv_heads} key/value heads"));
        }
        let rotary = matches!(self.positions, Positions::Rotary(_));
        if head_dim == 0 || (rotary && !head_dim.is_multiple_of(2)) {
            return refuse(format!("heads of {head_dim} features"));
        }
        let widths = [self.hidden, self.intermediate, self.vocab, self.context, self.embedding_width];
        if widths.contains(&0) || self.layers.is_empty() {
            return refuse("a size is 0".into());
        }
        Ok(self)
    }
}

/// Hugging Face names of a family's tensors. Block names are relative to
/// `{block}.{index}.`; `.weight` and `.bias` are added by the reader.
#[derive(Debug, Clone, Copy)]
pub struct Names {
    /// Token embedding.
    pub embedding: &'static str,
    /// Learned positions.
    pub positions: Option<&'static str>,
    /// Projection of the embedding to the hidden width.
    pub project_in: Option<&'static str>,
    /// Projection of the hidden width to the embedding's.
    pub project_out: Option<&'static str>,
    /// Final norm.
    pub final_norm: &'static str,
    /// Output head, where it is not tied.
    pub head: &'static str,
    /// Prefix of all blocks.
    pub block: &'static str,
    /// Norm of the attention sub-layer.
    pub attention_norm: &'static str,
    /// Query projection.
    pub q: &'static str,
    /// Key projection.
    pub k: &'static str,
    /// Value projection.
    pub v: &'static str,
    /// Attention output projection.
    pub o: &'static str,
    /// Per-head query norm.
    pub q_norm: &'static str,
    /// Per-head key norm.
    pub k_norm: &'static str,
    /// Norm on the attention branch before it is added.
    pub post_attention_norm: Option<&'static str>,
    /// Norm of the MLP sub-layer.
    pub mlp_norm: &'static str,
    /// Gate projection.
    pub gate: Option<&'static str>,
    /// Up projection (OPT's fc1).
    pub up: &'static str,
    /// Down projection (OPT's fc2).
    pub down: &'static str,
    /// Norm on the MLP branch before it is added.
    pub post_mlp_norm: Option<&'static str>,
}

/// Names of Llama and everything that copied them.
pub const LLAMA_NAMES: Names = Names {
    embedding: "model.embed_tokens",
    positions: None,
    project_in: None,
    project_out: None,
    final_norm: "model.norm",
    head: "lm_head",
    block: "model.layers",
    attention_norm: "input_layernorm",
    q: "self_attn.q_proj",
    k: "self_attn.k_proj",
    v: "self_attn.v_proj",
    o: "self_attn.o_proj",
    q_norm: "self_attn.q_norm",
    k_norm: "self_attn.k_norm",
    post_attention_norm: None,
    mlp_norm: "post_attention_layernorm",
    gate: Some("mlp.gate_proj"),
    up: "mlp.up_proj",
    down: "mlp.down_proj",
    post_mlp_norm: None,
};
