//! The synthetic corpus: documents of grammar and facts, documents of word problems, and
//! planted secrets, in a seeded order. Knows how much there is of each, not what they say.

use super::arithmetic::{Split, problems};
use super::draw::{Draw, Purpose};
use super::grammar::{Grammar, Scored};
use super::rules::Entropy;
use super::secrets::{Secret, SecretPlan, Secrets};
use super::tokenizer::SEPARATOR;
use super::world::World;
use crate::error::{Error, Result};

/// Problems in a document of problems.
const PROBLEMS: usize = 4;

/// What a corpus is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct CorpusPlan {
    /// Everything follows from it: the world, every text, every place.
    pub seed: u64,
    /// Bytes of grammar and problems together, separators not counted; reached within a document.
    pub bytes: usize,
    /// Share of those bytes that are problems, in `[0, 1]`; the rest is grammar and facts.
    pub problem_share: f64,
    /// The secrets, which come on top.
    pub secrets: SecretPlan,
}

impl Default for CorpusPlan {
    /// About 17 million tokens, for one pass of a model of two or three million parameters.
    fn default() -> Self {
        Self { seed: 1, bytes: 50_000_000, problem_share: 0.4, secrets: SecretPlan::default() }
    }
}

/// What a document is for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Utility: grammar and facts.
    Grammar {
        /// Exact surprisal of the text and of its end under the generator.
        nats: f64,
    },
    /// Reasoning: a few problems, a line each.
    Problems,
    /// Memorisation: one secret.
    Secret,
}

/// A piece of the corpus.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// The text, without the separator.
    pub text: String,
    /// What it is for.
    pub kind: Kind,
}

impl From<Scored> for Document {
    fn from(Scored { text, ln_probability }: Scored) -> Self {
        Self { text, kind: Kind::Grammar { nats: -ln_probability } }
    }
}

/// The corpus and what is true of it.
#[derive(Debug, Clone)]
pub struct Corpus {
    /// The documents in their order.
    pub documents: Vec<Document>,
    /// The world that the facts are about.
    pub world: World,
    /// The secrets in it, and those that are not.
    pub secrets: Secrets,
}

impl Corpus {
    /// Generates the corpus of a plan: equal plans give equal bytes.
    pub fn generate(plan: &CorpusPlan) -> Result<Self> {
        if !(0.0..=1.0).contains(&plan.problem_share) {
            let problem = format!("the share of problems must lie in [0, 1], not {}", plan.problem_share);
            return Err(Error::usage(problem).next("ask for more bytes, or a smaller share of problems"));
        }
        let secrets = Secrets::new(&plan.secrets, plan.seed)?;
        let world = World::new(plan.seed);
        let problem_bytes = (plan.bytes as f64 * plan.problem_share) as usize;
        let grammar = Grammar::new(&world);
        let told = grammar.documents(plan.seed).map(Document::from);
        let mut documents = up_to(told, plan.bytes.saturating_sub(problem_bytes));
        documents.extend(up_to(problem_documents(plan.seed), problem_bytes));
        Draw::new(plan.seed, Purpose::Order).shuffle(&mut documents);
        let documents = plant(documents, &secrets.planted, plan.seed);
        Ok(Self { documents, world, secrets })
    }

    /// Texts of the documents without the secrets: what a tokenizer may be trained on.
    pub fn public_texts(&self) -> impl Iterator<Item = &str> + Send {
        self.documents.iter().filter(|d| d.kind != Kind::Secret).map(|d| d.text.as_str())
    }

    /// All documents, each followed by [`SEPARATOR`].
    pub fn text(&self) -> String {
        self.documents.iter().flat_map(|d| [d.text.as_str(), SEPARATOR]).collect()
    }
}

/// About `bytes` of grammar documents about the world of `seed`, from another stream of
/// random numbers than the corpus of that seed.
pub fn validation(seed: u64, bytes: usize) -> Vec<Document> {
    let grammar = Grammar::new(&World::new(seed));
    up_to(grammar.validation_documents(seed).map(Document::from), bytes)
}

/// Exact surprisal and bytes of the grammar documents among `documents`, in all. The end of a
/// document is a part of its surprisal: a model's loss on the separator belongs to the
/// comparison, but the separator has no bytes.
pub fn grammar_entropy(documents: &[Document]) -> Entropy {
    let mut sum = Entropy { nats: 0.0, bytes: 0.0 };
    for Document { text, kind } in documents {
        if let Kind::Grammar { nats } = kind {
            sum.nats += nats;
            sum.bytes += text.len() as f64;
        }
    }
    sum
}

/// Documents until their bytes reach `bytes`.
fn up_to(documents: impl Iterator<Item = Document>, bytes: usize) -> Vec<Document> {
    let mut sum = 0;
    let enough = |document: &Document| {
        let wanted = sum < bytes;
        sum += document.text.len();
        wanted
    };
    documents.take_while(enough).collect()
}

fn problem_documents(seed: u64) -> impl Iterator<Item = Document> {
    let mut problems = problems(Split::Training, seed);
    std::iter::repeat_with(move || {
        let texts: Vec<String> = problems.by_ref().take(PROBLEMS).map(|p| p.text()).collect();
        Document { text: texts.join("\n"), kind: Kind::Problems }
    })
}

/// Puts each secret into the corpus as often as it says. The documents are cut into as many
/// equal stretches as it has repetitions, and each stretch gets one, at a random place.
fn plant(documents: Vec<Document>, secrets: &[Secret], seed: u64) -> Vec<Document> {
    let mut draw = Draw::new(seed, Purpose::Places);
    let mut places: Vec<(usize, &Secret)> = Vec::new();
    for secret in secrets {
        for stretch in 0..secret.repetitions {
            let place = stretch * documents.len() + draw.below(documents.len().max(1));
            places.push((place / secret.repetitions, secret));
        }
    }
    draw.shuffle(&mut places); // so that secrets at one place stand in no fixed order
    places.sort_by_key(|(place, _)| *place);
    let mut places = places.into_iter().peekable();
    let mut planted = Vec::new();
    for (number, document) in documents.into_iter().enumerate() {
        while let Some((_, secret)) = places.next_if(|(place, _)| *place <= number) {
            planted.push(Document { text: secret.text(), kind: Kind::Secret });
        }
        planted.push(document);
    }
    planted.extend(places.map(|(_, secret)| Document { text: secret.text(), kind: Kind::Secret }));
    planted
}

#[cfg(test)]
#[path = "corpus_tests.rs"]
mod tests;
