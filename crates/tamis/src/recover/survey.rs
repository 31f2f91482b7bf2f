//! What training a decoder as asked comes to, counted before anything is taken for it; and what cannot be trained so.
//! Knows no data and no loss.

use super::trainable::{LoraSpec, Method, Spec};
use crate::error::{Error, Result};
use crate::model::block::Role;
use crate::model::{Decoder, Linear, NormWeights, Weight};

/// Numbers and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Survey {
    /// Numbers that are trained.
    pub trained: usize,
    /// Kept weights that additions under masks start from.
    pub base: usize,
    /// Bytes of all weights as they run, trained ones at 16 bits; a tied head counts once.
    pub running: u64,
}

impl Survey {
    /// Of `decoder`, trained as `spec` says. Errors: targets that match no linear; masks where nothing is pruned;
    /// linears that cannot be trained like that.
    pub fn of(decoder: &Decoder, spec: &Spec) -> Result<Self> {
        let config = decoder.config();
        let mut survey = Self::default();
        let (mut names, mut pruned) = (Vec::new(), false);
        for (index, block) in decoder.blocks().iter().enumerate() {
            for role in Role::ALL {
                let Some(linear) = block.linear(role) else { continue };
                let name = role.name(config, index);
                survey.linear(spec, &name, linear).map_err(|e| e.tensor(name.clone()))?;
                pruned |= linear.weight.is_pruned() && counts(spec, &name);
                names.push(name);
            }
            block.norms().for_each(|norm| survey.norm(spec, norm));
        }
        if let Some(norm) = decoder.crown().final_norm() {
            survey.norm(spec, norm);
        }
        survey.end(spec, &decoder.stem().embedding().weight);
        if !config.tied {
            survey.end(spec, &decoder.crown().head().weight);
        }
        if matches!(spec.method, Method::Lora | Method::MaskLora) {
            spec.lora.check(&names)?;
        }
        if matches!(spec.method, Method::Masked | Method::MaskLora) && !pruned {
            return Err(Error::usage("no linear of this model is pruned, so there is no mask to keep")
                .next("prune first (tamis compress --recipe wanda50), or use --method full or lora"));
        }
        Ok(survey)
    }

    fn linear(&mut self, spec: &Spec, name: &str, linear: &Linear) -> Result<()> {
        let weight = &linear.weight;
        let shape = (weight.rows(), weight.cols());
        let all = shape.0 * shape.1;
        let kept = || weight.kept().map_or(all, |kept| kept.iter().filter(|kept| **kept).count());
        if spec.extras.norms {
            self.trained += linear.bias.as_ref().map_or(0, Vec::len);
        }
        let (trained, base, running) = match spec.method {
            Method::Full if weight.is_pruned() => return Err(filled()),
            Method::Full => (all, 0, 2 * all),
            Method::Masked => (kept(), 0, 2 * all),
            Method::Lora | Method::MaskLora if !counts(spec, name) => (0, 0, weight.bytes()),
            Method::Lora => (addition(&spec.lora, shape)?, 0, weight.bytes()),
            Method::MaskLora => (addition(&spec.lora, shape)?, kept(), 2 * all),
        };
        self.trained += trained;
        self.base += base;
        self.running += running as u64;
        Ok(())
    }

    fn norm(&mut self, spec: &Spec, norm: &NormWeights) {
        if spec.extras.norms {
            self.trained += norm.scale.len() + norm.bias.as_ref().map_or(0, Vec::len);
        }
    }

    /// Embedding or head.
    fn end(&mut self, spec: &Spec, weight: &Weight) {
        let all = if spec.extras.embedding { weight.rows() * weight.cols() } else { 0 };
        self.trained += all;
        self.running += if all > 0 { 2 * all as u64 } else { weight.bytes() as u64 };
    }
}

/// Whether a linear of this name is trained.
fn counts(spec: &Spec, name: &str) -> bool {
    matches!(spec.method, Method::Full | Method::Masked) || spec.lora.matches(name)
}

/// Numbers of an addition to a linear of `rows` outputs and `cols` inputs.
pub(super) fn addition(spec: &LoraSpec, (rows, cols): (usize, usize)) -> Result<usize> {
    let rank = spec.rank;
    if rank == 0 || rank > rows.min(cols) {
        let problem = format!("rank {rank} for a linear of {cols} inputs and {rows} outputs");
        return Err(Error::usage(problem).next("choose a smaller --rank"));
    }
    Ok(rank * (rows + cols))
}

/// The method full leaves nothing out.
pub(super) fn filled() -> Error {
    Error::usage("this linear is pruned, and the method full would fill its holes")
        .next("use --method masked, or export the model dense first")
}
