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

/// Rows that one task handles.
const TOGETHER: usize = 16;

impl Features<'_> {
    /// The loss after block `index`, summed over rows, of the student's stream `x [m, hidden]`; adds the gradient
    /// of its mean over the step's `rows` to `dx`.
    pub fn pull(
        self,
        ops: &dyn Ops,
        (x, index): (&[f32], usize),
        (hidden, rows): (usize, usize),
        dx: &mut [f32],
    ) -> f64 {
        let share = 1.0 / self.streams.len() as f64;
        let losses = RowLosses::new(ops, (x, &self.streams[index]), hidden);
        losses.pull(ops, (f64::from(self.factor) * share / rows as f64) as f32, dx);
        share * losses.sum()
    }
}

/// Of every row of a student `x` and a teacher `t`, `|x - t|^2 / |t|^2`.
///
/// The paper divides by the mean of all rows. The stream of a sequence's first token can be thousands of times
/// larger than the others (Sun 2024, arXiv 2402.17762), and would be all that such a mean sees.
#[derive(Debug)]
pub struct RowLosses<'a> {
    rows: (&'a [f32], &'a [f32]),
    width: usize,
    /// `|x - t|^2` and `|t|^2`.
    squares: Vec<[f64; 2]>,
}

impl<'a> RowLosses<'a> {
    /// Those of `x` and `t [m, width]`.
    pub fn new(ops: &dyn Ops, (x, t): (&'a [f32], &'a [f32]), width: usize) -> Self {
        assert_eq!(x.len(), t.len());
        let mut squares = vec![[0.0f64; 2]; x.len() / width];
        each_piece(ops, &mut squares, TOGETHER, &|piece, squares| {
            for (row, [difference, square]) in (piece * TOGETHER..).zip(squares) {
                for (x, t) in x[row * width..][..width].iter().zip(&t[row * width..]) {
                    *difference += f64::from(x - t).powi(2);
                    *square += f64::from(*t).powi(2);
                }
                *square = square.max(f64::from(f32::MIN_POSITIVE));
            }
        });
        Self { rows: (x, t), width, squares }
    }

    /// Their sum.
    pub fn sum(&self) -> f64 {
        self.squares.iter().map(|[difference, square]| difference / square).sum()
    }

    /// Adds `factor` times the gradient of the sum to `dx [m, width]`.
    pub fn pull(&self, ops: &dyn Ops, factor: f32, dx: &mut [f32]) {
        let ((x, t), width) = (self.rows, self.width);
        assert_eq!(x.len(), dx.len());
        each_piece(ops, dx, TOGETHER * width, &|piece, dx| {
            for (row, dx) in (piece * TOGETHER..).zip(dx.chunks_exact_mut(width)) {
                let slope = (2.0 * f64::from(factor) / self.squares[row][1]) as f32;
                let pairs = x[row * width..].iter().zip(&t[row * width..]);
                dx.iter_mut().zip(pairs).for_each(|(dx, (x, t))| *dx += slope * (x - t));
            }
        });
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
        let rows = (5, 57);
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
        // 57 rows are added one after another or in three sums: the last bits of an f64 may differ, threads change none.
        assert!((loss - parts).abs() < 1e-12 * loss, "{loss} {parts}");
        let mut again = vec![0.0; x.len()];
        assert_eq!(features.pull(&cpu, (&x, 1), rows, &mut again), loss);
        assert_eq!(again, dx);
        dx.fill(0.0);
        assert_eq!(features.pull(&cpu, (&streams[0], 0), rows, &mut dx), 0.0);
        assert!(dx.iter().all(|g| *g == 0.0));
    }

    #[test]
    fn a_student_of_nothing_is_off_by_one_a_row() {
        let streams = [values(20, 0.3)];
        let rows = (5, 4);
        let features = Features { streams: &streams, factor: 1.0 };
        let loss = features.pull(&Reference, (&[0.0; 20], 0), rows, &mut [0.0; 20]);
        assert!((loss - 4.0).abs() < 1e-12, "{loss}");
    }
}
