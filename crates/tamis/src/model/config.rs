//! The shape and the switches of a decoder, the same for every architecture.
//! Knows nothing of files: `model/llama.rs` and its neighbours fill it in.

use serde::Serialize;

use super::Architecture;

/// Everything the forward pass has to know besides the weights.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Config {
    /// Family.
    pub architecture: Architecture,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the MLP.
    pub intermediate: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Features a head.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Longest sequence the model was made for.
    pub context: usize,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Kind of normalisation and its epsilon.
    pub norm: Norm,
    /// Where the norms of a block stand.
    pub placement: NormPlacement,
    /// Whether queries and keys are RMS-normalised per head before RoPE (Qwen3, Gemma 3).
    pub qk_norm: bool,
    /// MLP non-linearity.
    pub activation: Activation,
    /// Factor on `q . k` (`1/sqrt(head_dim)` unless the config says otherwise).
    pub attention_scale: f32,
    /// `softcap * tanh(score / softcap)` on attention scores.
    pub attention_softcap: Option<f32>,
    /// The same on the logits.
    pub logit_softcap: Option<f32>,
    /// Factor on the embedding (`sqrt(hidden)` for Gemma, 1 elsewhere).
    pub embedding_scale: f32,
    /// Width of the embedding where it differs from `hidden` (OPT-350m's project_in/out).
    pub embedding_width: usize,
    /// How positions enter.
    pub positions: Positions,
    /// One entry a layer.
    pub layers: Vec<Layer>,
}

impl Config {
    /// Numbers of a token at the widest moment of a block: gate, up, down's input; or h, q, k, v, the mix.
    pub fn widest(&self) -> u64 {
        let attention = self.heads * self.head_dim;
        let mlp = 3 * self.intermediate + 2 * self.hidden;
        let mix = 2 * self.hidden + 4 * attention + 4 * self.kv_heads * self.head_dim;
        mlp.max(mix) as u64
    }
}

/// What differs from layer to layer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Layer {
    /// Sliding window: a query sees this many latest keys, itself included.
    pub window: Option<usize>,
    /// Index into the rotary tables of [`Positions::Rotary`].
    pub rope: usize,
}

/// Normalisation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Norm {
    /// `x / rms(x) * w`.
    Rms {
        /// Added to the mean square.
        eps: f32,
    },
    /// `(x - mean) / std * w + b`.
    Layer {
        /// Added to the variance.
        eps: f32,
    },
}

/// Where a block normalises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NormPlacement {
    /// Before attention and before the MLP (Llama and most).
    Before,
    /// After each residual addition (OPT-350m); such a model has no final norm.
    After,
    /// Before and after each sub-layer, inside the residual branch (Gemma 3).
    Both,
}

/// MLP non-linearity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// `silu(gate) * up`.
    SwiGlu,
    /// `gelu_tanh(gate) * up`.
    GeGluTanh,
    /// `relu(fc1)`, no gate.
    Relu,
    /// `gelu(fc1)` (erf), no gate.
    Gelu,
}

impl Activation {
    /// Whether the MLP has a gate projection.
    pub fn gated(self) -> bool {
        matches!(self, Self::SwiGlu | Self::GeGluTanh)
    }
}

/// How positions enter the model.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Positions {
    /// Rotary embedding, half-split pairs (Su 2021, arXiv 2104.09864).
    Rotary(Vec<Rope>),
    /// A learned table; position `p` reads row `p + offset` (OPT: offset 2).
    Learned {
        /// Rows to skip.
        offset: usize,
    },
}

/// One rotary table.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// Change of the frequencies for longer contexts.
    pub scaling: RopeScaling,
}

/// Rotary frequency scaling, as in Hugging Face `rope_scaling` / `rope_parameters`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RopeScaling {
    /// None.
    Default,
    /// All frequencies divided by `factor`.
    Linear {
        /// Divisor.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided, high kept, a smooth band between.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Edge of the low band.
        low_freq_factor: f64,
        /// Edge of the high band.
        high_freq_factor: f64,
        /// Context before the extension.
        original_context: f64,
    },
}

impl Rope {
    /// Inverse frequencies of the `head_dim / 2` pairs.
    pub fn inverse_frequencies(&self, head_dim: usize) -> Vec<f64> {
        (0..head_dim / 2)
            .map(|i| self.theta.powf(-2.0 * i as f64 / head_dim as f64))
            .map(|f| self.scaling.apply(f))
            .collect()
    }
}

impl RopeScaling {
    /// Llama 3's rule as in transformers' `_compute_llama3_parameters`.
    fn apply(self, frequency: f64) -> f64 {
        match self {
            Self::Default => frequency,
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let wavelength = 2.0 * std::f64::consts::PI / frequency;
                if wavelength < original_context / high_freq_factor {
                    return frequency;
                }
                if wavelength > original_context / low_freq_factor {
                    return frequency / factor;
                }
                let smooth =
                    (original_context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        }
    }
}
