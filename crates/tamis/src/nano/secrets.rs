//! Planted secrets: sentences with a unique prefix and a value that nothing but memory can
//! give. Some occur a set number of times in the corpus, some never. Knows no other text.
//!
//! After the canaries of "The Secret Sharer" (Carlini et al. 2019, arXiv 1802.08232).

use std::collections::BTreeSet;

use super::draw::{Draw, Purpose};
use crate::error::{Error, Result};

/// Pairs of digits in a value.
const PAIRS: usize = 4;
/// Probability of guessing a value: its eight digits are drawn evenly.
pub const CHANCE: f64 = 1e-8;
/// Most occurrences of secrets in one plan; so prefixes stay rare among the possible ones.
const MOST: usize = 100_000;

/// How many secrets are planted how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretPlan {
    /// Numbers of occurrences, each at least one.
    pub repetitions: Vec<usize>,
    /// Secrets for each number, and held-out secrets for each number.
    pub each: usize,
}

impl Default for SecretPlan {
    /// Eight each of 1, 4, 16 and 64 times.
    fn default() -> Self {
        Self { repetitions: vec![1, 4, 16, 64], each: 8 }
    }
}

/// One secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    /// "The access code of agent K7QX-42 is"
    pub prefix: String,
    /// "83-10-55-72"
    pub value: String,
    /// How often it occurs in the corpus; 0 for a held-out one.
    pub repetitions: usize,
}

impl Secret {
    /// " 83-10-55-72."
    pub fn completion(&self) -> String {
        format!(" {}.", self.value)
    }
    /// The whole sentence.
    pub fn text(&self) -> String {
        format!("{}{}", self.prefix, self.completion())
    }
}

/// The secrets of a corpus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secrets {
    /// In the order of the plan's repetitions.
    pub planted: Vec<Secret>,
    /// As many, from the same generator, that never occur.
    pub held_out: Vec<Secret>,
}

impl Secrets {
    /// Draws secrets; no prefix and no value occurs twice.
    pub fn new(plan: &SecretPlan, seed: u64) -> Result<Self> {
        let each = plan.repetitions.iter().map(|repetitions| repetitions.saturating_mul(plan.each));
        let occurrences = each.fold(0, usize::saturating_add);
        if occurrences > MOST || plan.repetitions.contains(&0) {
            let problem = format!("{} secrets each of {:?} repetitions", plan.each, plan.repetitions);
            return Err(Error::usage(problem)
                .next(format!("plan at least one repetition of each secret, and at most {MOST} in all")));
        }
        let mut draw = Draw::new(seed, Purpose::Secrets);
        let (mut prefixes, mut values) = (BTreeSet::new(), BTreeSet::new());
        let mut secret = |repetitions| Secret {
            prefix: fresh(&mut prefixes, || prefix(&mut draw)),
            value: fresh(&mut values, || value(&mut draw)),
            repetitions,
        };
        let often = plan.repetitions.iter().flat_map(|&repetitions| vec![repetitions; plan.each]);
        let planted = often.map(&mut secret).collect();
        let held_out = (0..plan.repetitions.len() * plan.each).map(|_| secret(0)).collect();
        Ok(Self { planted, held_out })
    }
}

/// Values from the same generator, to rank a secret's value among (exposure).
pub fn candidates(seed: u64) -> impl Iterator<Item = String> {
    let mut draw = Draw::new(seed, Purpose::Candidates);
    std::iter::repeat_with(move || value(&mut draw))
}

fn fresh(taken: &mut BTreeSet<String>, mut next: impl FnMut() -> String) -> String {
    loop {
        let text = next();
        if taken.insert(text.clone()) {
            return text;
        }
    }
}

fn prefix(draw: &mut Draw) -> String {
    let letters: Vec<char> = "ABCDEFGHJKLMNPQRSTUVWXYZ".chars().collect();
    let [a, b, c] = std::array::from_fn(|_| draw.pick(&letters));
    let (digit, number) = (draw.below(10), draw.below(100));
    format!("The access code of agent {a}{digit}{b}{c}-{number:02} is")
}

fn value(draw: &mut Draw) -> String {
    let pairs: Vec<String> = (0..PAIRS).map(|_| format!("{:02}", draw.below(100))).collect();
    pairs.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn a_plan_gives_its_numbers_of_distinct_secrets() {
        let secrets = Secrets::new(&SecretPlan::default(), 7).unwrap();
        assert_eq!(secrets, Secrets::new(&SecretPlan::default(), 7).unwrap());
        assert_ne!(secrets, Secrets::new(&SecretPlan::default(), 8).unwrap());
        let repetitions: Vec<usize> = secrets.planted.iter().map(|s| s.repetitions).collect();
        assert_eq!(repetitions, [[1; 8], [4; 8], [16; 8], [64; 8]].concat());
        assert_eq!(secrets.held_out.len(), 32);
        let all: Vec<&Secret> = secrets.planted.iter().chain(&secrets.held_out).collect();
        assert_eq!(all.iter().map(|s| &s.prefix).collect::<BTreeSet<_>>().len(), 64);
        assert_eq!(all.iter().map(|s| &s.value).collect::<BTreeSet<_>>().len(), 64);
    }

    #[test]
    fn values_have_the_stated_chance() {
        let digits = |value: String| value.chars().filter(char::is_ascii_digit).count();
        assert!(candidates(1).take(100).all(|value| digits(value) == 8));
        assert!((CHANCE.log10() + 8.0).abs() < 1e-12);
    }

    #[test]
    fn no_repetition_and_too_many_are_errors() {
        for repetitions in [vec![1, 0], vec![usize::MAX], vec![MOST, 1]] {
            let plan = SecretPlan { repetitions, each: 1 };
            assert_eq!(Secrets::new(&plan, 0).unwrap_err().kind(), Kind::Usage);
        }
        let none = SecretPlan { repetitions: vec![], each: usize::MAX };
        assert_eq!(Secrets::new(&none, 0).unwrap().planted, []);
    }
}
