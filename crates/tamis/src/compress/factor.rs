//! The Gram matrix of a linear's inputs and the triangular factor of its inverse
//! that the column sweep needs. It knows no weights, no grids and no files.
//!
//! Frantar 2022, arXiv 2210.17323, step 3 ("Cholesky reformulation").

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor::{LltRegularization, cholesky_in_place, cholesky_in_place_scratch};
use faer::linalg::triangular_inverse::invert_lower_triangular;
use faer::{Mat, Par, Spec};
use serde::{Deserialize, Serialize};

use super::order::Order;
use crate::error::{Error, Kind, Result};
use crate::units::Damping;

/// Dampings that are tried, in this order, once the requested one has failed.
const LADDER: [f64; 7] = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0];

/// `H = (1/tokens) * sum x x^T` over the inputs `x` of a linear.
#[derive(Debug, Clone, PartialEq)]
pub struct Gram {
    size: usize,
    tokens: u64,
    h: Vec<f64>, // [size, size], symmetric
}

/// What it took to factor a Gram matrix.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct FactorRecord {
    /// Damping that worked, as a share of the mean diagonal.
    pub damping: f64,
    /// Attempts, the successful one included.
    pub tries: u32,
    /// Columns whose input was zero on every token.
    pub dead_columns: usize,
    /// What was added to the diagonal.
    pub lambda: f64,
}

/// `U`, upper triangular with `H^-1 = U^T U`, in the sweep's column order.
#[derive(Debug, Clone)]
pub struct InverseFactor {
    order: Order,
    columns: Vec<f32>, // U[0..=j, j] for j = 0, 1, ..., one after the other
}

impl Gram {
    /// Takes `sum x x^T` (`[size, size]`; its lower triangle is read) over `tokens` inputs.
    pub fn new(size: usize, tokens: u64, sum: Vec<f64>) -> Result<Self> {
        if size == 0 || Some(sum.len()) != size.checked_mul(size) {
            return Err(Error::bad_data(format!("{} values for a {size}x{size} Gram matrix", sum.len())));
        }
        if let Some(at) = sum.iter().position(|v| !v.is_finite()) {
            let (row, col) = (at / size, at % size);
            return Err(Error::new(
                Kind::NonFinite,
                format!("Gram matrix holds {} at ({row}, {col})", sum[at]),
            )
            .next("look for NaN or infinity in the calibration activations"));
        }
        let mut h = sum;
        let share = 1.0 / tokens.max(1) as f64;
        for i in 0..size {
            for j in 0..=i {
                let mean = h[i * size + j] * share;
                h[i * size + j] = mean;
                h[j * size + i] = mean;
            }
            if h[i * size + i] < 0.0 {
                return Err(Error::bad_data(format!("Gram matrix has a negative diagonal at {i}")));
            }
        }
        Ok(Self { size, tokens, h })
    }

    /// Input features.
    pub fn size(&self) -> usize {
        self.size
    }
    /// Inputs that were summed.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }
    /// `H[i, j]`.
    pub fn at(&self, i: usize, j: usize) -> f64 {
        self.h[i * self.size + j]
    }
    /// `H_jj` for every `j`.
    pub fn diagonal(&self) -> Vec<f64> {
        (0..self.size).map(|j| self.at(j, j)).collect()
    }
    /// Columns whose input was zero on every token.
    pub fn dead_columns(&self) -> usize {
        self.diagonal().iter().filter(|&&d| d == 0.0).count()
    }

    /// Mean of the diagonal over live columns; 1 where no column is alive, so that
    /// whatever is added to the diagonal is positive.
    pub fn scale(&self) -> f64 {
        let live = self.size - self.dead_columns();
        let trace: f64 = self.diagonal().iter().sum();
        if trace > 0.0 { trace / live as f64 } else { 1.0 }
    }

    /// `H_ij` made fit for factoring: a dead column gets the mean diagonal (it is
    /// decoupled from all others, so any positive number gives the same sweep, in
    /// which its weights are rounded plainly and kept; pruning makes them zero first),
    /// and every column gets lambda.
    fn damped(&self, i: usize, j: usize, lambda: f64, dead: f64) -> f64 {
        let h = self.at(i, j);
        match (i == j, h == 0.0) {
            (false, _) => h,
            (true, false) => h + lambda,
            (true, true) => dead + lambda,
        }
    }

    /// Factors the inverse, with more damping where the requested one is not enough.
    pub fn factor(&self, damping: Damping, order: &Order) -> Result<(InverseFactor, FactorRecord)> {
        let (scale, dead_columns) = (self.scale(), self.dead_columns());
        let stronger = LADDER.into_iter().filter(|&d| d > damping.get());
        for (tries, damping) in (1..).zip(std::iter::once(damping.get()).chain(stronger)) {
            let lambda = damping * scale;
            if let Some(factor) = self.inverse_factor(lambda, scale, order) {
                return Ok((factor, FactorRecord { damping, tries, dead_columns, lambda }));
            }
        }
        Err(Error::new(Kind::Quality, "Gram matrix cannot be factored, not even with 100 % damping")
            .next("use more or other calibration text, or allow round-to-nearest for this linear"))
    }

    // U without ever forming H^-1. With the reversal P (P P = I, P^T = P):
    //
    //   P H P = L L^T                     Cholesky of the reversed matrix
    //   H = (P L P)(P L P)^T = R R^T      R := P L P is upper triangular
    //   H^-1 = R^-T R^-1 = U^T U          U := R^-1 = P L^-1 P, upper triangular
    //
    // so U_ij = (L^-1)_{k-1-i, k-1-j}: one Cholesky and one triangular inverse. Since
    // the factor with a positive diagonal is unique, this is the factor of the paper.
    fn inverse_factor(&self, lambda: f64, dead: f64, order: &Order) -> Option<InverseFactor> {
        let k = self.size;
        let reversed = |p: usize| order.original(k - 1 - p);
        let mut l = Mat::from_fn(k, k, |i, j| self.damped(reversed(i), reversed(j), lambda, dead));
        let mut memory = MemBuffer::new(cholesky_in_place_scratch::<f64>(k, Par::Seq, Spec::default()));
        cholesky_in_place(
            l.as_mut(),
            LltRegularization { dynamic_regularization_delta: 0.0, dynamic_regularization_epsilon: 0.0 },
            Par::Seq,
            MemStack::new(&mut memory),
            Spec::default(),
        )
        .ok()?;
        let mut inverse = Mat::<f64>::zeros(k, k);
        invert_lower_triangular(inverse.as_mut(), l.as_ref(), Par::Seq);
        let mut columns = Vec::with_capacity(k * (k + 1) / 2);
        for j in 0..k {
            columns.extend((0..=j).map(|i| inverse[(k - 1 - i, k - 1 - j)] as f32));
        }
        let pivots_positive = (0..k).all(|j| columns[start(j) + j] > 0.0);
        let usable = pivots_positive && columns.iter().all(|u| u.is_finite());
        usable.then(|| InverseFactor { order: order.clone(), columns })
    }

    /// `H + lambda I` in f32. A dead column has lambda alone: it cannot be heard.
    pub fn damped_f32(&self, lambda: f64) -> Vec<f32> {
        let k = self.size;
        (0..k * k).map(|at| self.damped(at / k, at % k, lambda, 0.0) as f32).collect()
    }
}

/// Where column `j` of a packed upper triangle starts.
fn start(j: usize) -> usize {
    j * (j + 1) / 2
}

impl InverseFactor {
    /// Columns.
    pub fn size(&self) -> usize {
        self.order.len()
    }
    /// `U[0..=j, j]`.
    #[inline]
    pub fn column(&self, j: usize) -> &[f32] {
        &self.columns[start(j)..start(j + 1)]
    }
    /// `U_jj`.
    pub fn pivot(&self, j: usize) -> f32 {
        self.columns[start(j) + j]
    }
    /// The order the columns are in.
    pub fn order(&self) -> &Order {
        &self.order
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::naive::invert;
    use crate::compress::synthetic::correlated_gram;

    /// f32 storage of U: 24 bits of mantissa, entries of order one.
    const FACTOR_F32: f64 = 1e-5;

    #[test]
    fn factor_squares_to_the_inverse() {
        let gram = correlated_gram(37, 200, 1);
        for order in [Order::natural(37), Order::by_activation(&gram)] {
            let (u, record) = gram.factor(Damping::new(0.01).unwrap(), &order).unwrap();
            let h = |i: usize, j: usize| {
                let ridge = if i == j { record.lambda } else { 0.0 };
                gram.at(order.original(i), order.original(j)) + ridge
            };
            let dense: Vec<f64> = (0..37 * 37).map(|at| h(at / 37, at % 37)).collect();
            let naive = invert(&dense, 37);
            let biggest = naive.iter().fold(0.0f64, |m, v| m.max(v.abs()));
            for i in 0..37 {
                for j in i..37 {
                    let product: f64 =
                        (0..=i).map(|m| f64::from(u.column(i)[m]) * f64::from(u.column(j)[m])).sum();
                    assert!((product - naive[i * 37 + j]).abs() < FACTOR_F32 * biggest, "({i}, {j})");
                }
            }
            assert_eq!(record.tries, 1);
        }
    }

    #[test]
    fn activation_order_falls_and_is_a_permutation() {
        let gram = correlated_gram(20, 100, 2);
        let order = Order::by_activation(&gram);
        let diagonal = gram.diagonal();
        let mut seen: Vec<_> = (0..20).map(|p| order.original(p)).collect();
        assert!(seen.windows(2).all(|w| diagonal[w[0]] >= diagonal[w[1]]));
        seen.sort_unstable();
        assert_eq!(seen, (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn dead_columns_are_counted_and_leave_the_others_alone() {
        let mut sum: Vec<f64> = vec![0.0; 16];
        sum[0] = 4.0;
        sum[5] = 2.0;
        sum[4] = 1.0;
        let gram = Gram::new(4, 1, sum).unwrap();
        let (u, record) = gram.factor(Damping::new(0.01).unwrap(), &Order::natural(4)).unwrap();
        assert_eq!(record.dead_columns, 2);
        assert_eq!(&u.column(3)[..3], [0.0; 3]);
        assert!(u.pivot(3) > 0.0);
    }

    #[test]
    fn indefinite_matrix_climbs_the_ladder_and_says_so() {
        // Eigenvalues 4 and -2 around a mean diagonal of 1: only lambda > 2 would do.
        let hopeless = Gram::new(2, 1, vec![1.0, 3.0, 3.0, 1.0]).unwrap();
        assert!(hopeless.factor(Damping::new(0.01).unwrap(), &Order::natural(2)).is_err());
        // Eigenvalue -0.15: 1, 2, 5 and 10 % fail, 20 % works.
        let mended = Gram::new(2, 1, vec![1.0, 1.15, 1.15, 1.0]).unwrap();
        let (_, record) = mended.factor(Damping::new(0.01).unwrap(), &Order::natural(2)).unwrap();
        assert_eq!((record.damping, record.tries), (0.2, 5));
    }

    #[test]
    fn non_finite_gram_is_refused() {
        let error = Gram::new(1, 1, vec![f64::NAN]).unwrap_err();
        assert_eq!(error.kind(), Kind::NonFinite);
    }
}
