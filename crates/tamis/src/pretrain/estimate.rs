//! Memory of a training run from nothing, known from its configuration alone.

use serde_json::Value;

use super::bounds::weights;
use super::plan::{Data, Plan};
use super::{JSON_LIMIT, settings, start};
use crate::disk::{DataFile, read_small};
use crate::error::Result;
use crate::memory;
use crate::model::Config;
use crate::nano::tokenizer::VOCABULARY;
use crate::recover::estimate::{Estimate, Known};
use crate::recover::survey::Survey;

/// Bytes that a byte of text takes until it is tokens: documents, and a growing list of ids.
const A_BYTE: u64 = 6;
/// Bytes of text that a token stands for, at least.
const A_TOKEN: u64 = 2;

/// What is refused where there is less memory. Errors: those of the files that it names.
pub(super) fn plan(plan: &Plan) -> Result<memory::Plan<'static>> {
    let (vocab, bytes) = match &plan.data {
        Data::Nano(data) => (VOCABULARY, data.bytes as u64),
        Data::Files { train, valid, tokenizer } => {
            let length = |path| DataFile::open(path).map(|file| file.len());
            (
                start::vocabulary(&read_small(tokenizer, JSON_LIMIT)?)?,
                length(train)?.saturating_add(length(valid)?),
            )
        }
    };
    let config = Config::from_hf(&Value::Object(start::config(&plan.model, vocab)))?;
    let ends = (vocab * plan.model.hidden + plan.model.hidden) as u64;
    let trained = (weights(&plan.model) as u64).saturating_add(ends);
    let survey = Survey { trained: trained as usize, base: 0, running: 2 * trained };
    let tokens = (bytes / A_TOKEN) as usize;
    let training = Estimate::of(&config, Known { survey, teacher: 0, tokens }, &settings(plan, 1));
    let bytes = training.peak.saturating_add(bytes.saturating_mul(A_BYTE));
    let smaller = "choose smaller numbers in [model] (context, hidden, layers) or less text";
    Ok(memory::Plan { what: "training this model from nothing", bytes, smaller })
}
