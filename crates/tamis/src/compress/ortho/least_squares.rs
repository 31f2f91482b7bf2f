//! The best values on a given support of one row, as the support grows. It knows neither
//! how the support is chosen nor how values are stored.
//!
//! Orthogonal matching pursuit with a growing Cholesky factor (Rubinstein 2008, after
//! Pati 1993); as a repair of quantised layers in the setting of arXiv 2306.03078.

use super::SparseRow;
use crate::compress::lanes::Weights;
use crate::compress::threads::Threads;

/// A growing least-squares fit of one row.
//
// min_s (r - s) H (r - s)^T with s zero off the support O has H_OO s_O = (H r)_O.
// With H_OO = L L^T: L y = (H r)_O, L^T s_O = y. A new column appends one row to L
// (the solution of L l = H_O,new and the pivot sqrt(H_new,new - l.l)) and one entry to
// y; nothing earlier changes.
#[derive(Debug, Clone, Default)]
pub struct RowFit {
    support: Vec<u32>,
    l: Vec<f64>, // rows of L, packed: row n starts at n (n + 1) / 2
    y: Vec<f64>,
}

/// A column whose pivot keeps less than this share of its diagonal is a combination of
/// columns already held, to within f32 of H; it is left out.
const LEAST_PIVOT: f64 = 1e-6;

impl RowFit {
    /// Adds column `j`, given `h` `[k, k]` and `hr = H r`; columns already held, or
    /// dependent on those held, are left out.
    pub fn push(&mut self, j: u32, h: &[f32], hr: &[f32]) {
        if self.support.contains(&j) {
            return;
        }
        let j = j as usize;
        let h_j = &h[j * hr.len()..][..hr.len()];
        let n = self.support.len();
        let mut row = Vec::with_capacity(n + 1);
        for m in 0..n {
            let l_m = &self.l[m * (m + 1) / 2..][..m + 1];
            let dot: f64 = l_m[..m].iter().zip(&row).map(|(a, b): (&f64, &f64)| a * b).sum();
            row.push((f64::from(h_j[self.support[m] as usize]) - dot) / l_m[m]);
        }
        let pivot = f64::from(h_j[j]) - row.iter().map(|v| v * v).sum::<f64>();
        if pivot <= LEAST_PIVOT * f64::from(h_j[j]) {
            return;
        }
        let pivot = pivot.sqrt();
        let dot: f64 = row.iter().zip(&self.y).map(|(l, y)| l * y).sum();
        self.y.push((f64::from(hr[j]) - dot) / pivot);
        row.push(pivot);
        self.l.extend(row);
        self.support.push(j as u32);
    }

    /// Columns held, in the order they came.
    pub fn support(&self) -> &[u32] {
        &self.support
    }

    /// The best values on the support.
    pub fn values(&self) -> Vec<f32> {
        let mut s = self.y.clone();
        for m in (0..s.len()).rev() {
            let l_m = &self.l[m * (m + 1) / 2..][..m + 1];
            s[m] /= l_m[m];
            let s_m = s[m];
            s[..m].iter_mut().zip(l_m).for_each(|(s, l)| *s -= l * s_m);
        }
        s.into_iter().map(|v| v as f32).collect()
    }
}

/// The best values on supports that are already chosen, given `hr = H r` of the residual.
pub fn refit(rows: &[SparseRow], hr: &Weights<'_>, h: &[f32], threads: Threads) -> Vec<SparseRow> {
    threads.map(rows.len(), |at| {
        let hr = &hr.data[at * hr.cols..][..hr.cols];
        let mut fit = RowFit::default();
        rows[at].0.iter().for_each(|&j| fit.push(j, h, hr));
        (fit.support().to_vec(), fit.values())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::synthetic::{Normal, correlated_gram};

    #[test]
    fn gradient_vanishes_on_the_support() {
        let k = 30;
        let gram = correlated_gram(k, 200, 5);
        let h = gram.damped_f32(0.01);
        let mut normal = Normal::new(6);
        let r: Vec<f32> = (0..k).map(|_| normal.next()).collect();
        let dot = |j: usize, v: &[f32]| (0..k).map(|i| h[j * k + i] * v[i]).sum::<f32>();
        let hr: Vec<f32> = (0..k).map(|j| dot(j, &r)).collect();
        let mut fit = RowFit::default();
        for j in [7, 3, 29, 3, 0] {
            fit.push(j, &h, &hr);
        }
        assert_eq!(fit.support(), [7, 3, 29, 0]);
        let mut rest = r.clone();
        fit.support().iter().zip(fit.values()).for_each(|(&j, s)| rest[j as usize] -= s);
        for &j in fit.support() {
            let g = dot(j as usize, &rest);
            assert!(g.abs() < 1e-4 * hr[j as usize].abs().max(1.0), "{g}");
        }
    }
}
