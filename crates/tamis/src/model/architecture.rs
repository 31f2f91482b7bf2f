//! The supported families and the roles that their tensors play.
//!
//! Everything inside tamis calls a tensor by its Hugging Face name; a family's
//! [`Names`] table says which name plays which [`Role`].

use serde::{Deserialize, Serialize};

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
