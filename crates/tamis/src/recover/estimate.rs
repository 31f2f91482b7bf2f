//! Memory of a training run, known before it starts.
//!
//! Peak = the program + the tokens + both models as they run + masters, gradients and moments + what is written down on the
//! way forward + the widest moments of the way back and of the head, whose memory is kept.

use serde::Serialize;

use super::crown::ROWS;
use super::parameters::Parameters;
use super::plan::{BlockPlan, Trained};
use super::settings::Settings;
use super::student::Student;
use super::trainer::Texts;
use crate::model::block::Role;
use crate::model::{Config, Decoder};

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

/// Measured resident size of the command with an open checkpoint and its tokenizer.
const PROGRAM: u64 = 80 << 20;

impl Estimate {
    /// Of training `student` with these settings.
    pub fn of(student: &Student, teacher: Option<&Decoder>, settings: &Settings, texts: &Texts) -> Self {
        let config = student.decoder.config();
        let tokens = (settings.together() * settings.length) as u64;
        let distilled = teacher.is_some() && settings.losses.distillation > 0.0;
        let optimiser = Parameters::bytes(student.parameters.count());
        let base = student.plan.blocks.iter().map(base).sum();
        let tape = tape(config, settings, tokens);
        let work = back(config, tokens) + head(config, distilled) + weights(config);
        let streams = if settings.losses.feature > 0.0 { config.layers.len() + 1 } else { 0 };
        let features = 4 * tokens * (config.hidden * streams) as u64;
        let student = model(&student.decoder);
        let teacher = teacher.map_or(0, model);
        let text = 4 * texts.tokens() as u64;
        let peak = PROGRAM + text + student + teacher + optimiser + base + tape + features + work;
        Self { student, teacher, optimiser, base, tape, features, work, text, program: PROGRAM, peak }
    }
}

fn base(plan: &BlockPlan) -> u64 {
    let of = |role: &Role| match &plan.linear(*role).weight {
        Trained::Masked(_, _, base) => 4 * base.len() as u64,
        _ => 0,
    };
    Role::ALL.iter().map(of).sum()
}

/// Bytes of all weights as they are held now; a tied head counts once.
fn model(decoder: &Decoder) -> u64 {
    let linears = |block: &crate::model::Block| {
        Role::ALL.iter().filter_map(|role| block.linear(*role)).map(|l| l.weight.bytes()).sum::<usize>()
    };
    let head = if decoder.config().tied { 0 } else { decoder.crown().head().weight.bytes() };
    let blocks: usize = decoder.blocks().iter().map(linears).sum();
    (blocks + decoder.stem().embedding().weight.bytes() + head) as u64
}

/// What each block writes down, of all tokens: the stream twice, queries, keys, values, the mix, gate and up.
fn tape(config: &Config, settings: &Settings, tokens: u64) -> u64 {
    let (wide, narrow) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    let gate = usize::from(config.activation.gated());
    let raw = if config.qk_norm { wide + narrow } else { 0 };
    let block = 2 * config.hidden + 2 * wide + 2 * narrow + raw + (1 + gate) * config.intermediate;
    let layers = config.layers.len();
    let floats = if settings.recompute { block + layers * config.hidden } else { layers * block };
    4 * tokens * floats as u64
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
