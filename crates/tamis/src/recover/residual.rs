//! Adapters that begin as what compression took away: `B A` is the best product of its rank to `D = W - W'`, by
//! subspace iteration. Without it `B` is zero and the first steps go into finding what is known already.
//!
//! Halko 2011, arXiv 0909.4061; for pruning residuals Mozaffari 2024 (SLiM), arXiv 2410.09615. Here in the plain
//! norm: the inputs' Gram matrix is not at hand when training begins.

use faer::Mat;
use faer::linalg::matmul::matmul;
use faer::{Accum, MatRef, Par};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::plan::{Pair, Trained};
use super::student::Student;
use crate::compress::Threads;
use crate::error::{Error, Kind, Result};
use crate::model::Decoder;
use crate::model::block::Role;
use crate::units::Alpha;

/// Passes over the residual; each sharpens the subspace by the square of the ratio of singular values.
const PASSES: usize = 4;
/// Share of the largest singular value below which there is nothing but rounding. Rows are of the size of their
/// value's root, so their squares compare as the values do.
const NOTHING: f32 = 1e-6;
/// Columns beyond the rank that are carried along.
const SPARE: usize = 8;

/// Sets every low-rank pair of `student` to the residual of its linear against that of `dense`.
pub fn start(student: &mut Student, dense: &Decoder, seed: u64) -> Result<()> {
    for index in 0..student.plan.blocks.len() {
        for role in Role::ALL {
            let Trained::LowRank(pair) = student.plan.blocks[index].linear(role).weight else { continue };
            let here = student.decoder.blocks()[index].linear(role);
            let there = dense.blocks()[index].linear(role);
            let (Some(here), Some(there)) = (here, there) else { continue };
            let shape = (there.weight.rows(), there.weight.cols());
            if shape != (here.weight.rows(), here.weight.cols()) {
                return Err(Error::usage("the teacher's linear has another shape than the model's")
                    .tensor(role.name(dense.config(), index))
                    .next("use the dense model that this one was made from"));
            }
            let mut residual = there.weight.to_f32(Alpha::ONE);
            let now = here.weight.to_f32(Alpha::ONE);
            residual.iter_mut().zip(now).for_each(|(d, w)| *d -= w);
            // On a thread of its own: see `Threads::map`.
            let number = seed ^ (index * Role::ALL.len() + role as usize) as u64;
            let factors = Threads::ONE.map(1, |_| low_rank((&residual, shape), pair.rank, number)).remove(0);
            let name = role.name(dense.config(), index);
            put(student, pair, factors.map_err(|e| e.tensor(name))?);
        }
    }
    Ok(())
}

/// `s B A` is the product of the factors: the root of the scale goes to each.
fn put(student: &mut Student, pair: Pair, factors: (Vec<f32>, Vec<f32>)) {
    let parameters = student.parameters.all_mut();
    let (b, a) = beginnings(factors, pair.rank, &parameters[pair.a].values);
    let share = 1.0 / pair.scale.sqrt();
    let scaled = |values: Vec<f32>| values.into_iter().map(|v| v * share).collect();
    (parameters[pair.b].values, parameters[pair.a].values) = (scaled(b), scaled(a));
}

/// The factors, but where the residual has no more directions a row of `A` as it was drawn and a column of zeros in `B`:
/// two zeros would never learn.
fn beginnings((mut b, mut a): (Vec<f32>, Vec<f32>), rank: usize, drawn: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let cols = a.len() / rank;
    let sizes: Vec<f32> = a.chunks_exact(cols).map(|row| row.iter().map(|v| v * v).sum()).collect();
    let largest = sizes.iter().copied().fold(0.0, f32::max);
    for (r, _) in sizes.iter().enumerate().filter(|(_, size)| **size <= NOTHING * largest) {
        a[r * cols..][..cols].copy_from_slice(&drawn[r * cols..][..cols]);
        b.iter_mut().skip(r).step_by(rank).for_each(|v| *v = 0.0);
    }
    (b, a)
}

/// `B [rows, rank]` and `A [rank, cols]` with `B A` nearest to `d [rows, cols]`.
fn low_rank(
    (d, (rows, cols)): (&[f32], (usize, usize)),
    rank: usize,
    seed: u64,
) -> Result<(Vec<f32>, Vec<f32>)> {
    let d = MatRef::from_row_major_slice(d, rows, cols);
    let width = (rank + SPARE).min(rows).min(cols);
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut y = Mat::from_fn(rows, width, |_, _| random.next_u32() as f32 / u32::MAX as f32 - 0.5);
    for _ in 0..PASSES {
        // Q spans D D^T Y: each pass multiplies a direction by the square of its singular value.
        let q = y.qr().compute_thin_Q();
        let mut z = Mat::zeros(cols, width);
        matmul(z.as_mut(), Accum::Replace, d.transpose(), q.as_ref(), 1.0, Par::Seq);
        matmul(y.as_mut(), Accum::Replace, d, z.as_ref(), 1.0, Par::Seq);
    }
    let q = y.qr().compute_thin_Q();
    let mut small = Mat::zeros(width, cols);
    matmul(small.as_mut(), Accum::Replace, q.transpose(), d, 1.0, Par::Seq);
    // The best part of rank `rank` of Q Q^T D, by the eigenvectors of the small square.
    let mut square = Mat::zeros(width, width);
    matmul(square.as_mut(), Accum::Replace, small.as_ref(), small.transpose(), 1.0, Par::Seq);
    let eigen = square.self_adjoint_eigen(faer::Side::Lower).map_err(|_| {
        Error::new(Kind::Quality, "the residual against the teacher cannot be decomposed")
            .next("leave --residual out")
    })?;
    // Eigenvalues ascend.
    let best = |i: usize, j: usize| if j < width { eigen.U()[(i, width - 1 - j)] } else { 0.0 };
    let turn = Mat::from_fn(width, rank, best);
    let mut b = Mat::zeros(rows, rank);
    matmul(b.as_mut(), Accum::Replace, q.as_ref(), turn.as_ref(), 1.0, Par::Seq);
    let mut a = Mat::zeros(rank, cols);
    matmul(a.as_mut(), Accum::Replace, turn.transpose(), small.as_ref(), 1.0, Par::Seq);
    // Equal sizes of both factors: each takes the root of the singular value.
    let sizes: Vec<f32> = (0..rank).map(|r| a.row(r).norm_l2().max(f32::MIN_POSITIVE).sqrt()).collect();
    let b = (0..rows).flat_map(|i| (0..rank).map(move |r| (i, r))).map(|(i, r)| b[(i, r)] * sizes[r]);
    let b: Vec<f32> = b.collect();
    let a = (0..rank).flat_map(|r| (0..cols).map(move |j| (r, j))).map(|(r, j)| a[(r, j)] / sizes[r]);
    Ok((b, a.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(n: usize, by: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * by + by).sin()).collect()
    }

    fn product(b: &[f32], a: &[f32], (rows, rank, cols): (usize, usize, usize)) -> Vec<f32> {
        let at = |i: usize, j: usize| (0..rank).map(|r| b[i * rank + r] * a[r * cols + j]).sum();
        (0..rows * cols).map(|n| at(n / cols, n % cols)).collect()
    }

    #[test]
    fn a_residual_of_low_rank_is_found_exactly() {
        let d = product(&values(40 * 3, 0.7), &values(3 * 24, 1.3), (40, 3, 24));
        let (b, a) = low_rank((&d, (40, 24)), 3, 1).unwrap();
        let worst =
            product(&b, &a, (40, 3, 24)).iter().zip(&d).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-4, "{worst}");
        assert_eq!(low_rank((&d, (40, 24)), 3, 1).unwrap(), (b, a));
    }

    #[test]
    fn directions_that_the_residual_has_not_can_still_learn() {
        let drawn = values(5 * 24, 0.3);
        // Sines of a sum are two products of sines and cosines, so this residual has rank 2.
        for (d, found) in
            [(product(&values(40 * 3, 0.7), &values(3 * 24, 1.3), (40, 3, 24)), 2), (vec![0.0; 40 * 24], 0)]
        {
            let (b, a) = beginnings(low_rank((&d, (40, 24)), 5, 1).unwrap(), 5, &drawn);
            let own = a.chunks_exact(24).zip(drawn.chunks_exact(24)).filter(|(a, drawn)| a == drawn).count();
            assert_eq!(own, 5 - found);
            let worst =
                product(&b, &a, (40, 5, 24)).iter().zip(&d).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-4, "{worst}");
        }
    }

    #[test]
    fn what_is_left_shrinks_with_the_rank() {
        let d = values(32 * 48, 2.1);
        let left = |rank| {
            let (b, a) = low_rank((&d, (32, 48)), rank, 5).unwrap();
            let found = product(&b, &a, (32, rank, 48));
            found.iter().zip(&d).map(|(x, y)| (x - y).powi(2)).sum::<f32>()
        };
        let errors: Vec<f32> = [1, 2, 8, 32].into_iter().map(left).collect();
        assert!(errors.windows(2).all(|e| e[1] < e[0]) && errors[3] < 1e-3 * errors[0], "{errors:?}");
    }
}
