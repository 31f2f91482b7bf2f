//! Weighted rewriting rules: a probabilistic grammar that draws a text with its exact
//! log-probability, and gives the exact entropy of what it draws. Knows no words.
//!
//! A rule names only rules defined before it. So there is no recursion, every language is
//! finite, and entropy and mean length are computed once, when a rule is defined.

use std::collections::BTreeMap;

use super::draw::Draw;

/// Surprisal and length: of texts in all, or the means over what a rule draws.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Entropy {
    /// Nats.
    pub nats: f64,
    /// Bytes.
    pub bytes: f64,
}

impl Entropy {
    /// Nats per byte: a ratio of sums or of means, not a mean of ratios.
    pub fn per_byte(&self) -> f64 {
        self.nats / self.bytes
    }
}

/// Rules by name.
#[derive(Debug, Clone, Default)]
pub(super) struct Rules {
    names: BTreeMap<String, usize>,
    rules: Vec<Rule>,
}

#[derive(Debug, Clone)]
struct Rule {
    alternatives: Vec<Alternative>,
    total: u32, // sum of the weights
    entropy: Entropy,
}

#[derive(Debug, Clone)]
struct Alternative {
    up_to: u32, // weights of the alternatives before this one, and its own
    probability: f64,
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone)]
enum Piece {
    Text(String),
    Rule(usize),
}

impl Rules {
    /// Defines a rule by weighted templates, in which `{name}` stands for an earlier rule.
    /// A name that is new twice or not yet known is a mistake in this crate: it panics.
    pub(super) fn define<T: AsRef<str>>(&mut self, name: &str, templates: &[(u32, T)]) {
        let total = templates.iter().map(|(weight, _)| weight).sum();
        let mut up_to = 0;
        let mut alternatives = Vec::new();
        for (weight, template) in templates {
            up_to += weight;
            let probability = f64::from(*weight) / f64::from(total);
            alternatives.push(Alternative { up_to, probability, pieces: self.pieces(template.as_ref()) });
        }
        let entropy = self.entropy_of(&alternatives);
        let earlier = self.names.insert(name.into(), self.rules.len());
        assert!(earlier.is_none() && total > 0, "rule {name} is defined once and has weight");
        self.rules.push(Rule { alternatives, total, entropy });
    }

    /// Defines a rule by templates of equal weight.
    pub(super) fn define_even<T: AsRef<str>>(&mut self, name: &str, templates: &[T]) {
        let weighted: Vec<(u32, &str)> = templates.iter().map(|t| (1, t.as_ref())).collect();
        self.define(name, &weighted);
    }

    fn pieces(&self, template: &str) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut rest = template;
        while let Some((text, tail)) = rest.split_once('{') {
            let (name, after) = tail.split_once('}').expect("every brace of a template is closed");
            if !text.is_empty() {
                pieces.push(Piece::Text(text.into()));
            }
            pieces.push(Piece::Rule(self.index(name)));
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.into()));
        }
        pieces
    }

    // H(rule) = sum over alternatives a of p_a (-ln p_a + sum of H over the rules in a):
    // the chain rule, as what a draws is independent of what was drawn before.
    fn entropy_of(&self, alternatives: &[Alternative]) -> Entropy {
        let mut sum = Entropy { nats: 0.0, bytes: 0.0 };
        for Alternative { probability, pieces, .. } in alternatives {
            sum.nats -= probability * probability.ln();
            for piece in pieces {
                let part = match piece {
                    Piece::Text(text) => Entropy { nats: 0.0, bytes: text.len() as f64 },
                    Piece::Rule(rule) => self.rules[*rule].entropy,
                };
                sum.nats += probability * part.nats;
                sum.bytes += probability * part.bytes;
            }
        }
        sum
    }

    fn index(&self, name: &str) -> usize {
        *self.names.get(name).unwrap_or_else(|| panic!("rule {name} is defined before it is used"))
    }

    /// Mean surprisal and length of a rule's derivations. It is the entropy of its texts
    /// if no text has two derivations; [`Self::probability`] is how that is tested.
    pub(super) fn entropy(&self, name: &str) -> Entropy {
        self.rules[self.index(name)].entropy
    }

    /// Draws a text into `text` and gives the log-probability of its derivation, in nats.
    pub(super) fn draw(&self, name: &str, draw: &mut Draw, text: &mut String) -> f64 {
        self.draw_rule(self.index(name), draw, text)
    }

    fn draw_rule(&self, rule: usize, draw: &mut Draw, text: &mut String) -> f64 {
        let Rule { alternatives, total, .. } = &self.rules[rule];
        let number = draw.below(*total as usize) as u32;
        let chosen = &alternatives[alternatives.partition_point(|a| a.up_to <= number)];
        let mut ln_probability = chosen.probability.ln();
        for piece in &chosen.pieces {
            match piece {
                Piece::Text(literal) => text.push_str(literal),
                Piece::Rule(inner) => ln_probability += self.draw_rule(*inner, draw, text),
            }
        }
        ln_probability
    }

    /// Probability of a whole text, summed over all its derivations; zero outside the language.
    pub(super) fn probability(&self, name: &str, text: &str) -> f64 {
        let ends = self.ends_of_rule(self.index(name), text, 0);
        ends.get(&text.len()).copied().unwrap_or(0.0)
    }

    /// Where a derivation of `rule` that begins at `start` may end, with probabilities.
    fn ends_of_rule(&self, rule: usize, text: &str, start: usize) -> BTreeMap<usize, f64> {
        let mut ends = BTreeMap::new();
        for Alternative { probability, pieces, .. } in &self.rules[rule].alternatives {
            let mut open = BTreeMap::from([(start, *probability)]);
            for piece in pieces {
                open = self.ends_of_piece(piece, text, &open);
            }
            open.into_iter().for_each(|(end, p)| *ends.entry(end).or_insert(0.0) += p);
        }
        ends
    }

    fn ends_of_piece(&self, piece: &Piece, text: &str, open: &BTreeMap<usize, f64>) -> BTreeMap<usize, f64> {
        let mut ends = BTreeMap::new();
        for (&start, &before) in open {
            match piece {
                Piece::Text(literal) if text[start..].starts_with(literal.as_str()) => {
                    *ends.entry(start + literal.len()).or_insert(0.0) += before;
                }
                Piece::Text(_) => {}
                Piece::Rule(rule) => {
                    for (end, p) in self.ends_of_rule(*rule, text, start) {
                        *ends.entry(end).or_insert(0.0) += before * p;
                    }
                }
            }
        }
        ends
    }
}

#[cfg(test)]
mod tests {
    use super::super::draw::Purpose;
    use super::*;

    fn small() -> Rules {
        let mut rules = Rules::default();
        rules.define_even("noun", &["dog", "cat", "bird"]);
        rules.define("phrase", &[(3, "the {noun}"), (1, "a small {noun}")]);
        rules.define("sentence", &[(2, "{phrase} runs."), (1, "{phrase} sees {phrase}.")]);
        rules
    }

    /// All 3 * 2 + (3 * 2)^2 = 42 texts of the small grammar.
    fn all_texts() -> Vec<String> {
        let nouns = ["dog", "cat", "bird"];
        let phrases: Vec<String> =
            nouns.iter().flat_map(|n| [format!("the {n}"), format!("a small {n}")]).collect();
        let runs = phrases.iter().map(|p| format!("{p} runs."));
        let sees = phrases.iter().flat_map(|p| phrases.iter().map(move |q| format!("{p} sees {q}.")));
        runs.chain(sees).collect()
    }

    #[test]
    fn probabilities_of_all_texts_sum_to_one_and_give_the_entropy() {
        let rules = small();
        let probabilities: Vec<f64> = all_texts().iter().map(|t| rules.probability("sentence", t)).collect();
        assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        let nats: f64 = probabilities.iter().map(|p| -p * p.ln()).sum();
        assert!((nats - rules.entropy("sentence").nats).abs() < 1e-12);
        let bytes: f64 = all_texts().iter().zip(&probabilities).map(|(t, p)| t.len() as f64 * p).sum();
        assert!((bytes - rules.entropy("sentence").bytes).abs() < 1e-12);
    }

    #[test]
    fn drawn_surprisal_tends_to_the_entropy() {
        let rules = small();
        let mut draw = Draw::new(5, Purpose::Grammar);
        let (mut sum, mut squares, count) = (0.0, 0.0, 20_000);
        for _ in 0..count {
            let mut text = String::new();
            let nats = -rules.draw("sentence", &mut draw, &mut text);
            assert!((nats + rules.probability("sentence", &text).ln()).abs() < 1e-12, "{text}");
            sum += nats;
            squares += nats * nats;
        }
        let mean = sum / f64::from(count);
        let error = ((squares / f64::from(count) - mean * mean) / f64::from(count)).sqrt();
        let exact = rules.entropy("sentence").nats;
        assert!((mean - exact).abs() < 4.0 * error, "{mean} {exact} {error}");
    }

    #[test]
    fn two_derivations_of_one_text_are_summed() {
        let mut rules = Rules::default();
        rules.define("double", &[(1, "ab"), (1, "ab"), (2, "a")]);
        rules.define_even("rest", &["", "b"]);
        rules.define_even("all", &["{double}{rest}"]);
        // "ab" is "ab" + "" by two ways, and "a" + "b"
        assert!((rules.probability("all", "ab") - 0.5).abs() < 1e-12);
        assert_eq!(rules.probability("all", "abc"), 0.0);
    }
}
