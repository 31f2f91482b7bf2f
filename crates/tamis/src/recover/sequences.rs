//! Training text: tokens cut into sequences of equal length, never padded, in an order that a seed and
//! the number of the epoch decide. Knows no model.
//!
//! A sequence of `length` inputs has `length` targets, so it takes one token more; neighbours share it.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::calibrate::below;
use crate::disk::digest::sha256;
use crate::error::{Error, Result};

/// The sequences of one text.
#[derive(Debug, Clone)]
pub struct Sequences {
    tokens: Vec<u32>,
    length: usize,
}

impl Sequences {
    /// Cuts `tokens`. Errors: fewer tokens than one sequence takes.
    pub fn new(tokens: Vec<u32>, length: usize) -> Result<Self> {
        if length == 0 || tokens.len() <= length {
            let problem =
                format!("{} tokens of text hold no sequence of {length} and its next token", tokens.len());
            return Err(Error::bad_data(problem).next("give more text, or a smaller --length"));
        }
        Ok(Self { tokens, length })
    }
    /// Number of sequences.
    pub fn count(&self) -> usize {
        (self.tokens.len() - 1) / self.length
    }
    /// Tokens of a sequence.
    pub fn length(&self) -> usize {
        self.length
    }
    /// What is read of sequence `index`, and what follows each of its tokens.
    pub fn get(&self, index: usize) -> (&[u32], &[u32]) {
        let start = index * self.length;
        (&self.tokens[start..start + self.length], &self.tokens[start + 1..][..self.length])
    }
    /// Tokens of the whole text.
    pub fn tokens(&self) -> usize {
        self.tokens.len()
    }
    /// Largest token.
    pub fn largest(&self) -> u32 {
        self.tokens.iter().copied().max().unwrap_or(0)
    }
    /// SHA-256 of length and tokens.
    pub fn digest(&self) -> String {
        let mut bytes = (self.length as u64).to_le_bytes().to_vec();
        bytes.extend(self.tokens.iter().flat_map(|t| t.to_le_bytes()));
        sha256(&bytes)
    }
    /// The index of the `number`-th sequence of training, counted over all epochs: each epoch takes every
    /// sequence once.
    pub fn order(&self, seed: u64) -> Order {
        Order { count: self.count(), seed, epoch: None, places: Vec::new() }
    }
}

/// A shuffled order for every epoch, made when it is asked for.
#[derive(Debug)]
pub struct Order {
    count: usize,
    seed: u64,
    epoch: Option<usize>,
    places: Vec<usize>,
}

impl Order {
    /// The sequence that is the `number`-th to be learnt.
    pub fn at(&mut self, number: usize) -> usize {
        let epoch = number / self.count;
        if self.epoch != Some(epoch) {
            let mut random = ChaCha8Rng::seed_from_u64(self.seed);
            random.set_stream(epoch as u64 + 1);
            self.places = (0..self.count).collect();
            for place in 0..self.count {
                let other = place + below(&mut random, self.count - place);
                self.places.swap(place, other);
            }
            self.epoch = Some(epoch);
        }
        self.places[number % self.count]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_takes_every_sequence_once_and_targets_follow() {
        let sequences = Sequences::new((0..101).collect(), 10).unwrap();
        assert_eq!(sequences.count(), 10);
        let (inputs, targets) = sequences.get(9);
        assert_eq!((inputs[9], targets[0], targets[9]), (99, 91, 100));
        let mut order = sequences.order(7);
        let epochs: Vec<Vec<usize>> =
            (0..3).map(|e| (0..10).map(|i| order.at(e * 10 + i)).collect()).collect();
        for epoch in &epochs {
            let mut sorted = epoch.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..10).collect::<Vec<_>>());
        }
        assert_ne!(epochs[0], epochs[1]);
        // Any place is reached at once, as after a resumption.
        assert_eq!(sequences.order(7).at(25), epochs[2][5]);
        assert_ne!((0..10).map(|i| sequences.order(8).at(i)).collect::<Vec<_>>(), epochs[0]);
    }

    #[test]
    fn too_little_text_is_an_error() {
        assert!(Sequences::new(vec![0; 10], 10).is_err());
        assert_eq!(Sequences::new(vec![0; 11], 10).unwrap().count(), 1);
    }
}
