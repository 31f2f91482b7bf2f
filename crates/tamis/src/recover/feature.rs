//! The difference of every block's output from the teacher's, and its gradient. Knows no block and no logits.
//!
//! SquareHead: Kurtic 2023, arXiv 2310.06927.

use crate::ops::{Ops, each_piece};

/// What every block's output is compared with.
#[derive(Debug, Clone, Copy)]
pub struct Features<'a> {
    /// The teacher's residual streams after each of its blocks, `[blocks][m, hidden]`.
    pub streams: &'a [Vec<f32>],
    /// Factor on the loss.
    pub factor: f32,
}

/// The rows that are compared.
#[derive(Debug, Clone, Copy)]
pub struct Rows {
    /// Rows of a sequence.
    pub length: usize,
    /// Numbers of a row.
    pub width: usize,
    /// Rows of the whole step: what sums are divided by.
    pub all: usize,
}

/// Rows that one task handles.
const TOGETHER: usize = 16;

impl Features<'_> {
    /// The loss after block `index`, summed over rows, of the student's stream `x [m, hidden]`; adds the gradient
    /// of its mean to `dx`.
    pub fn pull(
        self,
        ops: &dyn Ops,
        (x, index): (&[f32], usize),
        Rows { length, width, all }: Rows,
        dx: &mut [f32],
    ) -> f64 {
        // Of a sequence s, with student x and teacher t after each of L blocks:
        //   loss = 1/L sum_blocks sum_s (x - t)^2 / sum_s t^2,  d loss / dx = 2 (x - t) / (L sum_s t^2).
        // Every sequence has its own divisor, so it counts the same whatever runs beside it. A sum over rows counts
        // the loss of a sequence once for each of its rows.
        let teacher = &self.streams[index];
        assert!(x.len() == teacher.len() && x.len() == dx.len());
        let mut sums = vec![[0.0f64; 2]; x.len() / width];
        each_piece(ops, &mut sums, TOGETHER, &|piece, sums| {
            for (row, [difference, square]) in (piece * TOGETHER..).zip(sums) {
                for (x, t) in x[row * width..][..width].iter().zip(&teacher[row * width..]) {
                    *difference += f64::from(x - t).powi(2);
                    *square += f64::from(*t).powi(2);
                }
            }
        });
        let share = length as f64 / self.streams.len() as f64;
        let mut loss = 0.0;
        let mut slopes = Vec::new();
        for sequence in sums.chunks(length) {
            let sum = |of: usize| sequence.iter().map(|row| row[of]).sum::<f64>();
            let square = sum(1).max(f64::from(f32::MIN_POSITIVE));
            loss += share * sum(0) / square;
            slopes.push((f64::from(self.factor) * share * 2.0 / (square * all as f64)) as f32);
        }
        each_piece(ops, dx, TOGETHER * width, &|piece, dx| {
            for (row, dx) in (piece * TOGETHER..).zip(dx.chunks_exact_mut(width)) {
                let slope = slopes[row / length];
                let pairs = x[row * width..].iter().zip(&teacher[row * width..]);
                dx.iter_mut().zip(pairs).for_each(|(dx, (x, t))| *dx += slope * (x - t));
            }
        });
        loss
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::{Cpu, Isa, Precision, Reference};

    fn values(len: usize, phase: f32) -> Vec<f32> {
        (0..len).map(|i| (i as f32 * 0.37 + phase).sin()).collect()
    }

    #[test]
    fn threads_and_company_change_nothing_and_equals_have_no_loss() {
        let rows = Rows { length: 19, width: 5, all: 57 };
        let streams = [values(3 * 95, 0.0), values(3 * 95, 1.0)];
        let x = values(3 * 95, 0.4);
        let features = Features { streams: &streams, factor: 0.5 };
        let mut dx = vec![0.0; x.len()];
        let loss = features.pull(&Reference, (&x, 1), rows, &mut dx);
        let cpu = Cpu::new(Isa::detect(), 3, Precision::F32);
        let mut parts = 0.0;
        for sequence in 0..3 {
            let range = sequence * 95..(sequence + 1) * 95;
            let streams = streams.each_ref().map(|s| s[range.clone()].to_vec());
            let features = Features { streams: &streams, ..features };
            let mut alone = vec![0.0; 95];
            parts += features.pull(&cpu, (&x[range.clone()], 1), rows, &mut alone);
            assert_eq!(alone, dx[range]);
        }
        assert_eq!(loss, parts);
        dx.fill(0.0);
        assert_eq!(features.pull(&cpu, (&streams[0], 0), rows, &mut dx), 0.0);
        assert!(dx.iter().all(|g| *g == 0.0));
    }

    #[test]
    fn a_student_of_nothing_is_off_by_one_a_row() {
        let streams = [values(20, 0.3)];
        let rows = Rows { length: 4, width: 5, all: 4 };
        let features = Features { streams: &streams, factor: 1.0 };
        let loss = features.pull(&Reference, (&[0.0; 20], 0), rows, &mut [0.0; 20]);
        assert!((loss - 4.0).abs() < 1e-12, "{loss}");
    }
}
