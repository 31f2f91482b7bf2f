//! OPT: learned positions (table offset by 2), LayerNorm, biases everywhere, ReLU without a
//! gate, tied head. The 350M model normalises after each residual addition and has an
//! embedding narrower than the model. Knows no GGUF form (llama.cpp has none).
//!
//! Sources: arXiv 2205.01068; transformers `configuration_opt.py`, `modeling_opt.py`.

use serde_json::Value;

use super::architecture::{Family, GgufRotary, Names, NormStorage};
use super::config::{Activation, Layer, Norm, NormPlacement, Positions, Rope, RopeScaling};
use super::fields::HfFields;
use super::{Architecture, Config, llama};
use crate::error::{Error, Result};
use crate::load::gguf::Metadata;

/// What the readers have to know of the family.
pub const FAMILY: Family = Family {
    architecture: Architecture::Opt,
    hf_types: &["opt"],
    gguf_name: None,
    names: &NAMES,
    norms: NormStorage::AsUsed,
    gguf_rotary: GgufRotary::Halves,
    from_hf,
    from_gguf,
};

const NAMES: Names = Names {
    embedding: "model.decoder.embed_tokens",
    positions: Some("model.decoder.embed_positions"),
    project_in: Some("model.decoder.project_in"),
    project_out: Some("model.decoder.project_out"),
    final_norm: "model.decoder.final_layer_norm",
    head: "lm_head",
    block: "model.decoder.layers",
    attention_norm: "self_attn_layer_norm",
    q: "self_attn.q_proj",
    k: "self_attn.k_proj",
    v: "self_attn.v_proj",
    o: "self_attn.out_proj",
    q_norm: "self_attn.q_norm",
    k_norm: "self_attn.k_norm",
    post_attention_norm: None,
    mlp_norm: "final_layer_norm",
    gate: None,
    up: "fc1",
    down: "fc2",
    post_mlp_norm: None,
};

/// Rows of the position table before that of position 0.
const OFFSET: usize = 2;
/// torch's default, which the configuration cannot change.
const EPS: f32 = 1e-5;

/// Configuration from `config.json`.
fn from_hf(json: &Value) -> Result<Config> {
    let fields = HfFields::new(json);
    refuse_unsupported(&fields)?;
    let hidden = fields.size("hidden_size")?;
    let heads = fields.size("num_attention_heads")?;
    if !hidden.is_multiple_of(heads) {
        return Err(Error::bad_data(format!("configuration: hidden_size {hidden} over {heads} heads")));
    }
    let layers = fields.layers("num_hidden_layers")?;
    let shape = llama::Shape { hidden, heads, kv_heads: heads, head_dim: hidden / heads, layers };
    let before = fields.flag_or("do_layer_norm_before", true)?;
    Ok(Config {
        architecture: Architecture::Opt,
        intermediate: fields.size("ffn_dim")?,
        vocab: fields.size("vocab_size")?,
        context: fields.size_or("max_position_embeddings", 2048)?,
        tied: fields.flag_or("tie_word_embeddings", true)?,
        norm: Norm::Layer { eps: EPS },
        placement: if before { NormPlacement::Before } else { NormPlacement::After },
        activation: activation(&fields)?,
        embedding_width: fields.size_or("word_embed_proj_dim", hidden)?,
        positions: Positions::Learned { offset: OFFSET },
        layers: vec![Layer { window: None, rope: 0 }; layers],
        ..llama::rotary_decoder(shape, NO_ROPE)
    })
}

/// Overwritten by the learned positions.
const NO_ROPE: Rope = Rope { theta: 10_000.0, scaling: RopeScaling::Default };

fn activation(fields: &HfFields) -> Result<Activation> {
    match fields.text("activation_function")?.unwrap_or("relu") {
        "relu" => Ok(Activation::Relu),
        "gelu" => Ok(Activation::Gelu),
        other => {
            Err(Error::bad_data(format!("configuration: activation_function {other:?} is not supported"))
                .next("relu and gelu are"))
        }
    }
}

fn refuse_unsupported(fields: &HfFields) -> Result<()> {
    let refuse = |problem: &str| {
        Err(Error::bad_data(format!("configuration: {problem}"))
            .next("use one of the published OPT models, or one saved by transformers 4.20 or later"))
    };
    if fields.flag_or("_remove_final_layer_norm", false)? && fields.flag_or("do_layer_norm_before", true)? {
        return refuse("_remove_final_layer_norm: a pre-norm OPT without its final norm is not supported");
    }
    if !fields.flag_or("layer_norm_elementwise_affine", true)? {
        return refuse("layer_norm_elementwise_affine is false: norms without weights are not supported");
    }
    Ok(())
}

fn from_gguf(_: &Metadata) -> Result<Config> {
    Err(Error::bad_data("OPT has no GGUF form").next("use the Hugging Face folder"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::golden_configs::{read, same_in_all_forms};
    use super::*;

    #[test]
    fn reads_the_pre_norm_model() {
        let config = same_in_all_forms("opt-125m-like");
        assert_eq!((config.architecture, config.placement), (Architecture::Opt, NormPlacement::Before));
        assert_eq!((config.intermediate, config.context, config.tied), (52, 40, true));
        assert_eq!((config.embedding_width, config.kv_heads, config.head_dim), (32, 4, 8));
        assert_eq!(config.positions, Positions::Learned { offset: 2 });
        assert_eq!((config.norm, config.activation), (Norm::Layer { eps: 1e-5 }, Activation::Relu));
    }

    #[test]
    fn reads_the_post_norm_model() {
        let config = same_in_all_forms("opt-350m-like");
        assert_eq!((config.placement, config.embedding_width, config.hidden), (NormPlacement::After, 20, 32));
    }

    #[test]
    fn what_is_not_computed_is_refused() {
        for (key, value) in [
            ("_remove_final_layer_norm", json!(true)),
            ("layer_norm_elementwise_affine", json!(false)),
            ("activation_function", json!("tanh")),
            ("ffn_dim", json!(-3)),
            ("hidden_size", json!(33)),
            ("do_layer_norm_before", json!("yes")),
        ] {
            let mut json = read("opt-125m-like/config.json");
            json[key] = value;
            let error = from_hf(&json).unwrap_err();
            assert!(error.exit_code() == 65 && error.to_string().contains(key), "{error}");
        }
    }
}
