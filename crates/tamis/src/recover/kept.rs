//! Which weights of a matrix are trained, and their values one after another in the order of the
//! matrix. Knows no layer. The mask is that of the stored layout; a zero among the values says nothing.

/// A mask over `len` weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    words: Vec<u64>,
    len: usize,
    count: usize,
}

impl Kept {
    /// From one flag a weight.
    pub fn new(flags: &[bool]) -> Self {
        let word =
            |flags: &[bool]| flags.iter().enumerate().fold(0, |w, (i, kept)| w | u64::from(*kept) << i);
        let words: Vec<u64> = flags.chunks(64).map(word).collect();
        let count = words.iter().map(|w| w.count_ones() as usize).sum();
        Self { words, len: flags.len(), count }
    }
    /// Weights that are kept.
    pub fn count(&self) -> usize {
        self.count
    }
    /// One flag a weight.
    pub fn flags(&self) -> Vec<bool> {
        (0..self.len).map(|i| self.words[i / 64] >> (i % 64) & 1 == 1).collect()
    }
    /// Places of the kept weights, ascending.
    fn places(&self) -> impl Iterator<Item = usize> + '_ {
        self.words.iter().enumerate().flat_map(|(index, &word)| {
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
    /// The kept of `dense`.
    pub fn gather(&self, dense: &[f32]) -> Vec<f32> {
        assert_eq!(dense.len(), self.len);
        self.places().map(|at| dense[at]).collect()
    }
    /// Adds the kept of `dense` to `sums`.
    pub fn gather_add(&self, dense: &[f32], sums: &mut [f32]) {
        assert!(dense.len() == self.len && sums.len() == self.count);
        self.places().zip(sums).for_each(|(at, sum)| *sum += dense[at]);
    }
    /// Calls `put(place, value)` for every kept weight.
    pub fn scatter(&self, values: &[f32], mut put: impl FnMut(usize, f32)) {
        assert_eq!(values.len(), self.count);
        self.places().zip(values).for_each(|(at, value)| put(at, *value));
    }
    /// Weights that the mask leaves out and that are not zero.
    pub fn violations(&self, dense: &[f32]) -> usize {
        assert_eq!(dense.len(), self.len);
        let kept = |i: usize| self.words[i / 64] >> (i % 64) & 1 == 1;
        dense.iter().enumerate().filter(|(i, w)| **w != 0.0 && !kept(*i)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gathered_is_scattered_back() {
        for len in [0, 1, 63, 64, 65, 200] {
            let flags: Vec<bool> = (0..len).map(|i| i * i % 7 < 3).collect();
            let kept = Kept::new(&flags);
            assert_eq!((kept.flags(), kept.count()), (flags.clone(), flags.iter().filter(|f| **f).count()));
            let dense: Vec<f32> = (0..len).map(|i| i as f32 - 9.5).collect();
            let compact = kept.gather(&dense);
            let mut back = vec![0.0; len];
            kept.scatter(&compact, |at, value| back[at] = value);
            assert!((0..len).all(|i| back[i] == if flags[i] { dense[i] } else { 0.0 }));
            let mut twice = compact.clone();
            kept.gather_add(&dense, &mut twice);
            assert!(twice.iter().zip(&compact).all(|(a, b)| *a == 2.0 * b));
            assert_eq!(kept.violations(&back), 0);
            assert_eq!(kept.violations(&dense), len - kept.count());
        }
    }
}
