//! Calibration windows: `samples` sequences of exactly `length` tokens, never padded.
//! Documents are joined end to end (with a separator token where the model has one),
//! the joined stream is cut into windows, and the seed chooses among them.
//! Knows token ids only.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::disk::digest::sha256;
use crate::error::{Error, Result};
use crate::workers::Workers;

/// Windows of equal length, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Windows {
    length: usize,
    tokens: Vec<u32>, // [samples, length]
}

impl Windows {
    /// Tokens a window.
    pub fn length(&self) -> usize {
        self.length
    }
    /// Number of windows.
    pub fn count(&self) -> usize {
        self.tokens.len() / self.length
    }
    /// SHA-256 of length and tokens: equal digests mean equal windows.
    pub fn digest(&self) -> String {
        let mut bytes = (self.length as u64).to_le_bytes().to_vec();
        bytes.extend(self.tokens.iter().flat_map(|t| t.to_le_bytes()));
        sha256(&bytes)
    }
    /// The first `count` windows, or all where there are no more.
    #[must_use]
    pub fn first(&self, count: usize) -> Self {
        let tokens = self.tokens.len().min(count.saturating_mul(self.length));
        Self { length: self.length, tokens: self.tokens[..tokens].to_vec() }
    }
    /// One worker's part of them.
    #[must_use]
    pub fn part(&self, workers: &dyn Workers) -> Self {
        let tokens = workers.part(self.tokens.chunks_exact(self.length)).flatten().copied().collect();
        Self { length: self.length, tokens }
    }
    /// The first `length` tokens of every window.
    #[must_use]
    pub fn beginnings(&self, length: usize) -> Self {
        let length = length.min(self.length);
        let tokens = self.tokens.chunks_exact(self.length).flat_map(|w| &w[..length]).copied().collect();
        Self { length, tokens }
    }
    /// All tokens, `[count, length]`.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }
}

/// Cuts `stream` into windows of `length` and chooses `samples` of them by `seed`, without
/// repetition, in the order of the text. Errors if the text holds fewer windows than that.
pub fn choose_windows(stream: &[u32], samples: usize, length: usize, seed: u64) -> Result<Windows> {
    choose_apart(stream, (samples, 0), length, seed).map(|(windows, _)| windows)
}

/// The same windows, and `held_out` others that are none of them.
pub fn choose_apart(
    stream: &[u32],
    (samples, held_out): (usize, usize),
    length: usize,
    seed: u64,
) -> Result<(Windows, Windows)> {
    if samples == 0 || length < 2 {
        return Err(Error::usage("calibration needs at least one sample of two tokens")
            .next("try --samples 128 --length 2048"));
    }
    let available = stream.len() / length;
    let wanted = samples.saturating_add(held_out);
    if available < wanted {
        let problem = format!(
            "{} tokens of calibration text hold {available} windows of {length}, not {wanted}",
            stream.len()
        );
        let fitting = available.saturating_sub(held_out);
        return Err(Error::bad_data(problem)
            .next(format!("give more text, or pass --samples {fitting} or a smaller --length")));
    }
    // partial Fisher-Yates: the first `samples` places are a uniform choice, whatever follows
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut order: Vec<usize> = (0..available).collect();
    for place in 0..wanted {
        let other = place + below(&mut random, available - place);
        order.swap(place, other);
    }
    let cut = |chosen: &mut [usize]| {
        chosen.sort_unstable();
        let tokens = chosen.iter().flat_map(|&w| &stream[w * length..(w + 1) * length]).copied().collect();
        Windows { length, tokens }
    };
    let (chosen, others) = order[..wanted].split_at_mut(samples);
    Ok((cut(chosen), cut(others)))
}

/// Uniform number below `bound` by rejection.
pub(crate) fn below(random: &mut ChaCha8Rng, bound: usize) -> usize {
    let bound = bound as u64;
    let limit = u64::MAX - u64::MAX % bound;
    loop {
        let number = random.next_u64();
        if number < limit {
            return (number % bound) as usize;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn windows_are_whole_distinct_and_repeatable() {
        let stream: Vec<u32> = (0..1000).collect();
        let a = choose_windows(&stream, 7, 100, 3).unwrap();
        assert_eq!(a, choose_windows(&stream, 7, 100, 3).unwrap());
        assert_ne!(a, choose_windows(&stream, 7, 100, 4).unwrap());
        let starts: Vec<u32> = a.tokens().chunks(100).map(|w| w[0]).collect();
        assert!(starts.windows(2).all(|s| s[0] < s[1]), "{starts:?}");
        assert!(a.tokens().chunks(100).all(|w| w.windows(2).all(|t| t[0] + 1 == t[1])));
    }

    #[test]
    fn held_out_windows_are_others_and_change_no_choice() {
        let stream: Vec<u32> = (0..1000).collect();
        let (a, b) = choose_apart(&stream, (6, 3), 100, 3).unwrap();
        assert_eq!(a, choose_windows(&stream, 6, 100, 3).unwrap());
        assert_eq!((b.count(), a.first(2).count(), a.first(9).count()), (3, 2, 6));
        let short = b.beginnings(4);
        assert_eq!((short.count(), short.length(), &short.tokens()[4..8]), (3, 4, &b.tokens()[100..104]));
        assert!(b.tokens().iter().all(|t| !a.tokens().contains(t)));
        assert!(choose_apart(&stream, (8, 3), 100, 3).is_err());
    }

    #[test]
    fn too_little_text_is_an_error_that_says_what_would_fit() {
        let error = choose_windows(&[0; 999], 10, 100, 0).unwrap_err();
        assert_eq!(error.kind(), Kind::BadData);
        assert!(error.to_string().contains("--samples 9"), "{error}");
    }
}
