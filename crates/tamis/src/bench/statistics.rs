//! Mean, spread and ends of a few measurements. Knows no unit.

/// What a list of numbers comes to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// `sum x / n`.
    pub mean: f64,
    /// Standard deviation of the sample, `sqrt(sum (x - mean)^2 / (n - 1))`; 0 for one number.
    pub sd: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// The middle one, or the mean of the middle two.
    pub median: f64,
}

impl Summary {
    /// Of `samples`; nothing for no samples.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let n = sorted.len();
        let mean = samples.iter().sum::<f64>() / n as f64;
        let squares: f64 = samples.iter().map(|x| (x - mean).powi(2)).sum();
        let sd = if n > 1 { (squares / (n - 1) as f64).sqrt() } else { 0.0 };
        let median = (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0;
        Some(Self { mean, sd, min, max, median })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_known_by_hand() {
        // deviations -3, -1, -1, 1, 4: squares 28, over 4
        let summary = Summary::of(&[6.0, 2.0, 4.0, 4.0, 9.0]).unwrap();
        assert_eq!((summary.mean, summary.sd), (5.0, 7f64.sqrt()));
        assert_eq!((summary.min, summary.median, summary.max), (2.0, 4.0, 9.0));
        assert_eq!(Summary::of(&[3.0, 1.0]).unwrap().median, 2.0);
    }

    #[test]
    fn one_number_has_no_spread_and_none_has_no_summary() {
        let one = Summary { mean: 7.0, sd: 0.0, min: 7.0, max: 7.0, median: 7.0 };
        assert_eq!(Summary::of(&[7.0]), Some(one));
        assert_eq!(Summary::of(&[]), None);
    }
}
