//! Memory of a training run, known before it starts.
//!
//! Peak = the program + the tokens + both models as they run + masters, gradients and moments + what is written down on the
//! way forward + the widest moments of the way back and of the head, whose memory is kept.

use serde::Serialize;

use super::crown::ROWS;
use super::parameters::Parameters;
use super::settings::Settings;
use super::survey::Survey;
use crate::load::Checkpoint;
use crate::memory::{PROGRAM, Plan};
use crate::model::Config;
use crate::model::block::Role;
use crate::model::footprint::Sizes;

/// Bytes a run will take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Estimate {
    /// The student as it runs.
    pub student: u64,
    /// The teacher.
    pub teacher: u64,
    /// Masters, gradients and moments: 16 bytes a trained number.
    pub optimiser: u64,
    /// What low-rank additions under masks start from: the kept weights once more.
    pub base: u64,
    /// What the way forward writes down.
    pub tape: u64,
    /// The teacher's streams after its blocks, and one of the student's, where they are compared.
    pub features: u64,
    /// The widest moment besides.
    pub work: u64,
    /// Tokens of all texts.
    pub text: u64,
    /// The program itself: code, tokenizer.
    pub program: u64,
    /// Most memory at any moment.
    pub peak: u64,
}

/// What is known before anything is taken.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// What training comes to.
    pub survey: Survey,
    /// Bytes of the teacher's weights.
    pub teacher: u64,
    /// Tokens of all texts.
    pub tokens: usize,
}

impl Estimate {
    /// Of training a model like this with these settings.
    pub fn of(config: &Config, known: Known, settings: &Settings) -> Self {
        let Known { survey, teacher, tokens: text } = known;
        let tokens = (settings.together() as u64).saturating_mul(settings.length as u64);
        let distilled = teacher > 0 && settings.losses.distillation > 0.0;
        let optimiser = Parameters::bytes(survey.trained);
        let base = 4 * survey.base as u64;
        let tape = tape(config, settings, tokens);
        let work = back(config, tokens) + head(config, distilled) + weights(config);
        let streams = if settings.losses.feature > 0.0 { config.layers.len() + 1 } else { 0 };
        let features = 4 * tokens * (config.hidden * streams) as u64;
        let (student, text) = (survey.running, 4 * text as u64);
        let peak = PROGRAM + text + student + teacher + optimiser + base + tape + features + work;
        Self { student, teacher, optimiser, base, tape, features, work, text, program: PROGRAM, peak }
    }

    /// What is refused where there is less memory.
    pub fn plan(&self) -> Plan<'static> {
        let smaller =
            "use --recompute, a smaller --length, another --method (lora) or fewer windows of --data";
        Plan { what: "training this model", bytes: self.peak, smaller }
    }
}

/// Bytes of mending one block after the other, with `tokens` tokens of which `together` go through a block at once:
/// streams of both models, a block of each, all of one trained, and the embeddings before that.
pub(super) fn local((model, teacher): (&Checkpoint, &Checkpoint), tokens: usize, together: usize) -> u64 {
    let (config, here, there) = (model.config(), Sizes::of(model), Sizes::of(teacher));
    let (together, streams) = (together as u64, 2 * 4 * (tokens * config.hidden) as u64);
    let numbers: usize =
        Role::ALL.iter().map(|role| role.shape(config)).map(|(rows, cols)| rows * cols).sum();
    let trained = Parameters::bytes(numbers) + 2 * numbers as u64 + weights(config);
    let block = here.block + there.block + trained + 4 * together * block(config) + back(config, together);
    PROGRAM + 4 * tokens as u64 + streams + block.max(here.embedding.max(there.embedding))
}

/// Numbers that a block writes down of a token: the stream twice, queries, keys, values, the mix, gate and up.
fn block(config: &Config) -> u64 {
    let (wide, narrow) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    let gate = usize::from(config.activation.gated());
    let raw = if config.qk_norm { wide + narrow } else { 0 };
    (2 * config.hidden + 2 * wide + 2 * narrow + raw + (1 + gate) * config.intermediate) as u64
}

/// What all blocks write down of all tokens.
fn tape(config: &Config, settings: &Settings, tokens: u64) -> u64 {
    let (block, layers) = (block(config), config.layers.len() as u64);
    let floats = if settings.recompute { block + layers * config.hidden as u64 } else { layers * block };
    4 * tokens * floats
}

/// The widest moment of a block on its way back: the MLP's gradients beside its inputs.
fn back(config: &Config, tokens: u64) -> u64 {
    4 * tokens * (5 * config.intermediate + 5 * config.hidden) as u64
}

/// Logits of a few rows, their copies, and the teacher's.
fn head(config: &Config, distilled: bool) -> u64 {
    let copies = if distilled { 3 } else { 1 };
    4 * (ROWS * config.vocab) as u64 * copies
}

/// A gradient of a linear of each size, in whose places kept weights are added up.
fn weights(config: &Config) -> u64 {
    let (wide, narrow) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    4 * (config.hidden * (wide + narrow + config.intermediate)) as u64
}
