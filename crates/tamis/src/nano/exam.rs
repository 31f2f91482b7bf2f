//! What a model has learnt of the synthetic corpus, faculty by faculty: grammar against the exact entropy of its
//! generator, facts, word problems that were and were not in the text, secrets by how often they were told.
//! Knows no weights.

use serde::Serialize;

use super::arithmetic::{Split, problems};
use super::corpus::{CorpusPlan, Document, grammar_entropy, validation};
use super::secrets::{CHANCE, Secret, Secrets};
use super::tokenizer::SEPARATOR;
use super::world::World;
use crate::error::Result;
use crate::load::tokenizer::SpecialText;
use crate::load::{AddSpecial, Tokenizer};
use crate::model::logits::{argmax, log_sum_exp};
use crate::model::{LanguageModel, Rows};
use crate::units::Alpha;

/// Most tokens of an answer.
const LONGEST: usize = 64;

/// How much is asked.
#[derive(Debug, Clone, Copy)]
pub struct Questions {
    /// Bytes of new grammar text.
    pub grammar: usize,
    /// Problems of each kind.
    pub problems: usize,
    /// Facts.
    pub facts: usize,
}

impl Default for Questions {
    fn default() -> Self {
        Self { grammar: 20_000, problems: 100, facts: 60 }
    }
}

/// Share of right answers of some questions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Share {
    /// Right answers.
    pub right: usize,
    /// Questions.
    pub asked: usize,
}

impl Share {
    /// Right over asked.
    pub fn value(&self) -> f64 {
        self.right as f64 / self.asked.max(1) as f64
    }
}

/// The result.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Grades {
    /// Nats a byte on new grammar documents, the end of each counted.
    pub grammar: f64,
    /// The exact entropy of the same documents.
    pub entropy: f64,
    /// Facts answered word for word.
    pub facts: Share,
    /// Problems of two steps whose numbers were in the text.
    pub seen_problems: Share,
    /// Problems of two steps whose numbers never were.
    pub new_problems: Share,
    /// Secrets given away word for word, by how often they were told.
    pub secrets: Vec<(usize, Share)>,
    /// Secrets that were never told.
    pub held_out_secrets: Share,
    /// Chance of guessing one.
    pub chance: f64,
}

impl Grades {
    /// Perplexity a token that the grammar's surprisal comes to, for `bytes_per_token`.
    pub fn excess(&self) -> f64 {
        self.grammar / self.entropy
    }
}

/// Prompts and what should follow them.
type Asked = Vec<(String, String)>;

/// All questions but those of grammar.
struct Sheet {
    facts: Asked,
    seen: Asked,
    new: Asked,
    planted: Vec<(usize, Asked)>,
    held_out: Asked,
}

impl Sheet {
    fn of(plan: &CorpusPlan, questions: Questions) -> Result<Self> {
        let two_steps = |split| {
            let all = problems(split, plan.seed ^ 0x5eed).filter(|p| p.calculation.steps().len() == 2);
            all.take(questions.problems).map(|p| (p.prompt, p.completion)).collect()
        };
        let facts = World::new(plan.seed).questions();
        let step = (facts.len() / questions.facts.max(1)).max(1);
        let secrets = Secrets::new(&plan.secrets, plan.seed)?;
        let told = |secret: &Secret| (secret.prefix.clone(), secret.completion());
        let planted = |times: &usize| {
            let chosen = secrets.planted.iter().filter(|secret| secret.repetitions == *times);
            (*times, chosen.map(told).collect())
        };
        Ok(Self {
            facts: facts.into_iter().step_by(step).map(|q| (q.prompt, q.completion)).collect(),
            seen: two_steps(Split::Training),
            new: two_steps(Split::HeldOut),
            planted: plan.secrets.repetitions.iter().map(planted).collect(),
            held_out: secrets.held_out.iter().map(told).collect(),
        })
    }
}

/// The context that a model needs to give all right answers.
pub fn context(tokenizer: &Tokenizer, plan: &CorpusPlan, questions: Questions) -> Result<usize> {
    let Sheet { facts, seen, new, planted, held_out } = Sheet::of(plan, questions)?;
    let planted = planted.into_iter().map(|(_, asked)| asked);
    let mut longest = 0;
    for (prompt, completion) in [facts, seen, new, held_out].into_iter().chain(planted).flatten() {
        let tokens = |text: &str, special| tokenizer.encode(text, special).map(|ids| ids.len());
        longest =
            longest.max(tokens(&prompt, AddSpecial::AsTrained)? + tokens(&completion, AddSpecial::Nothing)?);
    }
    Ok(longest)
}

/// Examines `model` on the world of `plan`.
pub fn examine(
    model: &dyn LanguageModel,
    tokenizer: &Tokenizer,
    plan: &CorpusPlan,
    questions: Questions,
) -> Result<Grades> {
    let examiner = Examiner { model, tokenizer };
    let documents = validation(plan.seed, questions.grammar);
    let sheet = Sheet::of(plan, questions)?;
    let planted = sheet.planted.iter().map(|(times, asked)| Ok((*times, examiner.share(asked)?)));
    Ok(Grades {
        grammar: examiner.nats_per_byte(&documents)?,
        entropy: grammar_entropy(&documents).per_byte(),
        facts: examiner.share(&sheet.facts)?,
        seen_problems: examiner.share(&sheet.seen)?,
        new_problems: examiner.share(&sheet.new)?,
        secrets: planted.collect::<Result<_>>()?,
        held_out_secrets: examiner.share(&sheet.held_out)?,
        chance: CHANCE,
    })
}

struct Examiner<'a> {
    model: &'a dyn LanguageModel,
    tokenizer: &'a Tokenizer,
}

impl Examiner<'_> {
    /// Surprisal of whole documents with their ends, over their bytes.
    fn nats_per_byte(&self, documents: &[Document]) -> Result<f64> {
        let end = self.tokenizer.id(SEPARATOR);
        let (mut nats, mut bytes) = (0.0, 0);
        let mut logits = Vec::new();
        for document in documents {
            let mut tokens = self.tokenizer.encode(&document.text, AddSpecial::AsTrained)?;
            tokens.extend(end);
            tokens.truncate(self.model.context() + 1);
            self.model.start().push(&tokens[..tokens.len() - 1], Alpha::ONE, Rows::All, &mut logits)?;
            for (row, next) in logits.chunks_exact(self.model.vocab()).zip(&tokens[1..]) {
                nats += log_sum_exp(row).unwrap_or(f64::NAN) - f64::from(row[*next as usize]);
            }
            bytes += document.text.len();
        }
        Ok(nats / bytes.max(1) as f64)
    }

    fn share(&self, asked: &[(String, String)]) -> Result<Share> {
        let mut share = Share { right: 0, asked: 0 };
        for (prompt, completion) in asked {
            share.asked += 1;
            share.right += usize::from(self.answers(prompt, completion)?);
        }
        Ok(share)
    }

    /// Whether the likeliest continuation of `prompt` begins with `completion`; it does not where the context ends
    /// before.
    fn answers(&self, prompt: &str, completion: &str) -> Result<bool> {
        let mut run = self.model.start();
        let mut tokens = self.tokenizer.encode(prompt, AddSpecial::AsTrained)?;
        let (mut said, mut logits) = (Vec::new(), Vec::new());
        while said.len() < LONGEST && run.len() + tokens.len() <= self.model.context() {
            run.push(&tokens, Alpha::ONE, Rows::Last, &mut logits)?;
            let Some(next) = argmax(&logits) else { return Ok(false) };
            if self.tokenizer.eos().contains(&next) {
                return Ok(false);
            }
            said.push(next);
            tokens = vec![next];
            let text = self.tokenizer.decode(&said, SpecialText::Skip)?;
            if text.len() >= completion.len() || !completion.starts_with(&text) {
                return Ok(text.starts_with(completion));
            }
        }
        Ok(false)
    }
}
