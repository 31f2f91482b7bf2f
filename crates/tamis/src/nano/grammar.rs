//! Simple English from a probabilistic grammar: short sentences with agreement, small
//! stories with pronouns, and facts of a [`World`], told and asked. Every document comes
//! with its exact log-probability. Knows nothing of word problems and secrets.
//!
//! # Why the log-probability of the derivation is that of the text
//!
//! The entropy of the text is that of its derivation only if no text has two derivations.
//! Here that holds, given the world, because
//! * every word list holds a word once, and lists that may stand in the same place share none;
//! * verb forms differ, and a verb of a fact is in no other list, so a predicate shows its rule;
//! * only a subject carries a phrase or clause of its own, so what follows an object belongs
//!   to the verb;
//! * a sentence that begins with a pronoun or "Then" only continues a passage, and a question
//!   is always followed by its answer, so passages end where they seem to;
//! * a document ends by its separator, so the number of its passages is seen.
//!
//! [`Grammar::ln_probability`] sums over all derivations, and the tests compare the two.

use super::draw::{Draw, Purpose};
use super::rules::{Entropy, Rules};
use super::words::{self, list};
use super::world::{Fact, Pronoun, World};

/// Fewest and most passages of a document, each number equally likely.
const PASSAGES: (usize, usize) = (3, 9);

/// A text and its log-probability.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// The text.
    pub text: String,
    /// Natural logarithm of the probability that the generator draws it.
    pub ln_probability: f64,
}

/// The grammar of one world.
#[derive(Debug, Clone)]
pub struct Grammar {
    rules: Rules,
}

impl Grammar {
    /// Builds the rules: words, phrases, clauses, passages, documents.
    pub fn new(world: &World) -> Self {
        let mut rules = Rules::default();
        define_words(&mut rules);
        define_phrases(&mut rules);
        define_predicates(&mut rules);
        for case in [UPPER, LOWER] {
            define_clauses(&mut rules, case);
        }
        define_sentences(&mut rules);
        define_stories(&mut rules, world);
        define_facts(&mut rules, world);
        rules.define("passage", &[(10, "{sentence}"), (4, "{story}"), (8, "{fact}")]);
        let documents: Vec<String> =
            (PASSAGES.0..=PASSAGES.1).map(|count| vec!["{passage}"; count].join(" ")).collect();
        rules.define_even("document", &documents);
        Self { rules }
    }

    /// Documents without end, the same for the same seed.
    pub fn documents(&self, seed: u64) -> impl Iterator<Item = Scored> + '_ {
        self.draws("document", Draw::new(seed, Purpose::Grammar))
    }

    /// Documents of another stream of the same seed, to validate on.
    pub fn validation_documents(&self, seed: u64) -> impl Iterator<Item = Scored> + '_ {
        self.draws("document", Draw::new(seed, Purpose::Validation))
    }

    fn draws(&self, rule: &'static str, mut draw: Draw) -> impl Iterator<Item = Scored> + '_ {
        std::iter::repeat_with(move || {
            let mut text = String::new();
            let ln_probability = self.rules.draw(rule, &mut draw, &mut text);
            Scored { text, ln_probability }
        })
    }

    /// Exact entropy and mean length of a document, its separator not counted.
    pub fn entropy(&self) -> Entropy {
        self.rules.entropy("document")
    }

    /// Log-probability of a whole document, summed over all derivations; minus infinity for
    /// a text that the grammar never draws.
    pub fn ln_probability(&self, document: &str) -> f64 {
        self.rules.probability("document", document).ln()
    }
}

/// How the first letter of a clause is written; it is also the mark in its rule names.
#[derive(Debug, Clone, Copy)]
struct Case {
    mark: &'static str,
    the: &'static str,
    a: &'static str,
    some: &'static str,
    two: &'static str,
}

const UPPER: Case = Case { mark: "Upper", the: "The", a: "A", some: "Some", two: "Two" };
const LOWER: Case = Case { mark: "lower", the: "the", a: "a", some: "some", two: "two" };

fn define_words(rules: &mut Rules) {
    let lists = [
        ("creature", words::CREATURES),
        ("thing", words::THINGS),
        ("place", words::PLACES),
        ("plain", words::PLAIN_ADJECTIVES),
        ("vowel", words::VOWEL_ADJECTIVES),
        ("adverb", words::ADVERBS),
        ("preposition", words::PREPOSITIONS),
    ];
    for (name, words) in lists {
        rules.define_even(name, &list(words));
    }
    for (kind, words) in [("transitive", words::TRANSITIVE), ("intransitive", words::INTRANSITIVE)] {
        for (form, place) in [("s", 0), ("base", 1), ("past", 2)] {
            let forms: Vec<&str> = list(words).into_iter().skip(place).step_by(3).collect();
            rules.define_even(&format!("{kind}-{form}"), &forms);
        }
    }
    rules.define("adjective", &[(5, "{plain}"), (1, "{vowel}")]);
    rules.define_even(
        "time",
        &["In the morning", "At night", "Every day", "In winter", "After dinner", "At noon"],
    );
    rules.define_even("then", &["Yesterday", "Last week", "One day", "Long ago", "Last summer"]);
}

/// Noun phrases: of creatures in both cases, of things only within a sentence.
fn define_phrases(rules: &mut Rules) {
    define_nouns(rules, UPPER, "creature");
    define_nouns(rules, LOWER, "creature");
    define_nouns(rules, LOWER, "thing");
    let objects = [
        (4, "{lower-thing}"),
        (3, "{lower-creature}"),
        (1, "{lower-thing-many}"),
        (1, "{lower-creature-many}"),
    ];
    rules.define("object", &objects);
    rules.define("where", &[(3, "in the {place}"), (4, "{preposition} the {place}")]);
}

fn define_nouns(rules: &mut Rules, Case { mark, the, a, some, two }: Case, noun: &str) {
    let one = [
        (5, format!("{the} {{{noun}}}")),
        (3, format!("{the} {{adjective}} {{{noun}}}")),
        (2, format!("{a} {{{noun}}}")),
        (2, format!("{a} {{plain}} {{{noun}}}")),
        (1, format!("{a}n {{vowel}} {{{noun}}}")),
    ];
    rules.define(&format!("{mark}-{noun}"), &one);
    let many = [
        (4, format!("{the} {{{noun}}}s")),
        (2, format!("{the} {{adjective}} {{{noun}}}s")),
        (2, format!("{some} {{{noun}}}s")),
        (1, format!("{two} {{adjective}} {{{noun}}}s")),
    ];
    rules.define(&format!("{mark}-{noun}-many"), &many);
}

/// What is said of a subject, and what stands between it and its verb, in all verb forms.
fn define_predicates(rules: &mut Rules) {
    for form in ["s", "base", "past"] {
        let predicates = [
            (3, format!("{{intransitive-{form}}}")),
            (2, format!("{{intransitive-{form}}} {{where}}")),
            (2, format!("{{intransitive-{form}}} {{adverb}}")),
            (6, format!("{{transitive-{form}}} {{object}}")),
            (2, format!("{{transitive-{form}}} {{object}} {{where}}")),
        ];
        rules.define(&format!("predicate-{form}"), &predicates);
        let inner = [(1, format!(" that {{transitive-{form}}} {{object}}")), (1, " {where}".to_string())];
        rules.define(&format!("modifier-{form}"), &inner);
    }
    rules.define("says-one", &[(12, "{predicate-s}"), (2, "is {adjective}")]);
    rules.define("says-many", &[(12, "{predicate-base}"), (2, "are {adjective}")]);
}

/// Clauses about the present with one or many subjects, and about the past.
fn define_clauses(rules: &mut Rules, Case { mark, .. }: Case) {
    let present = [
        (8, format!("{{{mark}-creature}} {{says-one}}")),
        (3, format!("{{{mark}-creature}}{{modifier-s}} {{says-one}}")),
        (4, format!("{{{mark}-creature-many}} {{says-many}}")),
        (2, format!("{{{mark}-creature-many}}{{modifier-base}} {{says-many}}")),
    ];
    rules.define(&format!("{mark}-present"), &present);
    let past = [
        (3, format!("{{{mark}-creature}} {{predicate-past}}")),
        (1, format!("{{{mark}-creature}}{{modifier-past}} {{predicate-past}}")),
        (1, format!("{{{mark}-creature-many}} {{predicate-past}}")),
    ];
    rules.define(&format!("{mark}-past"), &past);
}

fn define_sentences(rules: &mut Rules) {
    let sentences = [
        (8, "{Upper-present}."),
        (4, "{Upper-past}."),
        (2, "{time}, {lower-present}."),
        (2, "{then}, {lower-past}."),
        (1, "{Upper-present}, and {lower-present}."),
        (1, "{Upper-past}, but {lower-past}."),
        (1, "{Upper-creature} {says-one}. It {says-one}."),
        (1, "{Upper-creature-many} {says-many}. They {says-many}."),
    ];
    rules.define("sentence", &sentences);
}

/// Passages about one or two people, who are then referred to by a pronoun.
fn define_stories(rules: &mut Rules, world: &World) {
    for (rule, pronoun) in [("she", Pronoun::She), ("he", Pronoun::He)] {
        let people = world.people.iter().filter(|p| p.pronoun == pronoun);
        rules.define_even(rule, &people.map(|p| p.name).collect::<Vec<_>>());
    }
    let mut stories = Vec::new();
    for (rule, upper) in [("she", "She"), ("he", "He")] {
        stories.extend([
            (2, format!("{{{rule}}} {{predicate-s}}.")),
            (3, format!("{{{rule}}} {{predicate-s}}. {upper} {{predicate-s}}.")),
            (2, format!("{{{rule}}} {{predicate-past}}. Then {rule} {{predicate-past}}.")),
            (1, format!("{{{rule}}} {{predicate-s}}. {upper} is {{adjective}}.")),
        ]);
    }
    stories.push((2, "{she} and {he} {predicate-base}. They {predicate-base}.".into()));
    stories.push((1, "{he} and {she} {predicate-past}. Then they {predicate-past}.".into()));
    rules.define("story", &stories);
}

/// Facts: a question with its answer, a statement, or two facts of one person.
fn define_facts(rules: &mut Rules, world: &World) {
    let sheets = world.fact_sheets();
    let mut entities = Vec::new();
    for (number, facts) in sheets.iter().enumerate() {
        let mut passages: Vec<(u32, String)> = Vec::new();
        for (place, fact) in facts.iter().enumerate() {
            let answer = &fact.statements[0];
            passages.push((6, format!("{} {answer}", fact.question)));
            passages.extend(fact.statements.iter().map(|statement| (3, statement.clone())));
            if let Some(person) = world.people.get(number) {
                let others = facts.iter().enumerate().filter(|(other, _)| *other != place);
                passages.extend(others.map(|(_, other)| (1, two_facts(person.pronoun, answer, other))));
            }
        }
        rules.define(&format!("entity-{number}"), &passages);
        entities.push(format!("{{entity-{number}}}"));
    }
    rules.define_even("fact", &entities);
}

fn two_facts(pronoun: Pronoun, statement: &str, other: &Fact) -> String {
    let pronoun = match pronoun {
        Pronoun::He => "He",
        Pronoun::She => "She",
    };
    format!("{statement} {pronoun} {}", other.predicate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_document_has_two_derivations() {
        let grammar = Grammar::new(&World::new(1));
        for Scored { text, ln_probability } in grammar.documents(2).take(600) {
            let marginal = grammar.ln_probability(&text);
            assert!((marginal - ln_probability).abs() < 1e-9, "{marginal} {ln_probability} {text}");
        }
        assert_eq!(grammar.ln_probability("The dogs runs."), f64::NEG_INFINITY);
    }

    #[test]
    fn drawn_documents_have_the_exact_entropy_and_length() {
        let grammar = Grammar::new(&World::new(1));
        let count = 20_000;
        let mean_and_error = |values: &[f64]| {
            let n = values.len() as f64;
            let mean = values.iter().sum::<f64>() / n;
            let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
            (mean, (variance / n).sqrt())
        };
        let documents: Vec<Scored> = grammar.documents(2).take(count).collect();
        let nats: Vec<f64> = documents.iter().map(|d| -d.ln_probability).collect();
        let bytes: Vec<f64> = documents.iter().map(|d| d.text.len() as f64).collect();
        let exact = grammar.entropy();
        for (values, exact) in [(nats, exact.nats), (bytes, exact.bytes)] {
            let (mean, error) = mean_and_error(&values);
            assert!((mean - exact).abs() < 4.0 * error, "{mean} +- {error}, not {exact}");
        }
    }

    #[test]
    fn streams_repeat_and_differ() {
        let grammar = Grammar::new(&World::new(1));
        let texts = |seed| grammar.documents(seed).take(50).collect::<Vec<_>>();
        assert_eq!(texts(1), texts(1));
        assert_ne!(texts(1), texts(2));
        assert_ne!(texts(1), grammar.validation_documents(1).take(50).collect::<Vec<_>>());
    }

    #[test]
    fn text_is_plain() {
        let grammar = Grammar::new(&World::new(1));
        for Scored { text, .. } in grammar.documents(3).take(500) {
            assert!(text.is_ascii() && !text.contains("  ") && !text.contains(['{', '}']), "{text}");
            assert!(!text.contains(|c: char| c.is_ascii_digit()), "numbers belong to the problems: {text}");
            assert!(text.ends_with('.') && text.starts_with(|c: char| c.is_ascii_uppercase()), "{text}");
        }
    }
}
