//! Which weights of a matrix are trained, and their values one after another in the order of the
//! matrix. Knows no layer. The mask is that of the stored layout; a zero among the values says nothing.

use crate::ops::{Ops, each_part, each_piece};

/// Words of a piece, which one task handles: 16,384 weights.
const PIECE: usize = 256;

/// A mask over `len` weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    words: Vec<u64>,
    /// Kept weights before each piece, and all of them.
    starts: Vec<usize>,
    len: usize,
}

impl Kept {
    /// From one flag a weight.
    pub fn new(flags: &[bool]) -> Self {
        let word =
            |flags: &[bool]| flags.iter().enumerate().fold(0, |w, (i, kept)| w | u64::from(*kept) << i);
        let words: Vec<u64> = flags.chunks(64).map(word).collect();
        let mut starts = vec![0];
        for piece in words.chunks(PIECE) {
            let count: usize = piece.iter().map(|w| w.count_ones() as usize).sum();
            starts.push(starts[starts.len() - 1] + count);
        }
        Self { words, starts, len: flags.len() }
    }
    /// Weights that are kept.
    pub fn count(&self) -> usize {
        self.starts[self.starts.len() - 1]
    }
    /// The kept of `dense`.
    pub fn gather(&self, ops: &dyn Ops, dense: &[f32]) -> Vec<f32> {
        let mut values = vec![0.0; self.count()];
        self.gather_add(ops, dense, &mut values);
        values
    }
    /// Adds the kept of `dense` to `sums`.
    pub fn gather_add(&self, ops: &dyn Ops, dense: &[f32], sums: &mut [f32]) {
        assert!(dense.len() == self.len && sums.len() == self.count());
        let (mut parts, mut rest) = (Vec::new(), sums);
        for ends in self.starts.windows(2) {
            let (part, behind) = rest.split_at_mut(ends[1] - ends[0]);
            parts.push(part);
            rest = behind;
        }
        each_part(ops, parts, &|piece, sums| {
            self.places(piece).zip(sums).for_each(|(at, sum)| *sum += dense[piece * PIECE * 64 + at]);
        });
    }
    /// Sets `dense` to the kept weights, each made by `make(place, value)`; the others stay as they are.
    pub fn scatter<T: Send>(
        &self,
        ops: &dyn Ops,
        (values, dense): (&[f32], &mut [T]),
        make: &(dyn Fn(usize, f32) -> T + Sync),
    ) {
        assert!(dense.len() == self.len && values.len() == self.count());
        each_piece(ops, dense, PIECE * 64, &|piece, dense| {
            let first = piece * PIECE * 64;
            let values = &values[self.starts[piece]..self.starts[piece + 1]];
            self.places(piece).zip(values).for_each(|(at, value)| dense[at] = make(first + at, *value));
        });
    }
    /// Weights that the mask leaves out and that are not zero.
    pub fn violations(&self, dense: &[f32]) -> usize {
        assert_eq!(dense.len(), self.len);
        let kept = |i: usize| self.words[i / 64] >> (i % 64) & 1 == 1;
        dense.iter().enumerate().filter(|(i, w)| **w != 0.0 && !kept(*i)).count()
    }
    /// Places of the kept weights of a piece, ascending, counted from its first weight.
    fn places(&self, piece: usize) -> impl Iterator<Item = usize> + '_ {
        let words = &self.words[piece * PIECE..self.words.len().min((piece + 1) * PIECE)];
        words.iter().enumerate().flat_map(|(index, &word)| {
            let mut left = word;
            std::iter::from_fn(move || {
                let bit = left.trailing_zeros() as usize;
                (left != 0).then(|| {
                    left &= left - 1;
                    index * 64 + bit
                })
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Reference;

    #[test]
    fn what_is_gathered_is_scattered_back() {
        for len in [0, 1, 63, 64, 65, 200, 16_383, 16_384, 16_385, 40_000] {
            let flags: Vec<bool> = (0..len).map(|i: usize| i.wrapping_mul(i) % 7 < 3).collect();
            let kept = Kept::new(&flags);
            assert_eq!(kept.count(), flags.iter().filter(|f| **f).count());
            let dense: Vec<f32> = (0..len).map(|i| i as f32 - 9.5).collect();
            let compact = kept.gather(&Reference, &dense);
            let mut back = vec![0.0; len];
            kept.scatter(&Reference, (&compact, &mut back), &|_, value| value);
            assert!((0..len).all(|i| back[i] == if flags[i] { dense[i] } else { 0.0 }));
            let mut twice = compact.clone();
            kept.gather_add(&Reference, &dense, &mut twice);
            assert!(twice.iter().zip(&compact).all(|(a, b)| *a == 2.0 * b));
            assert_eq!(kept.violations(&back), 0);
            assert_eq!(kept.violations(&dense), len - kept.count());
        }
    }
}
