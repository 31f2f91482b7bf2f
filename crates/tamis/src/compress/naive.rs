//! Optimal brain surgery column by column, in f64, with the inverse eliminated step by
//! step: slow, plain, and the oracle of `sweep.rs`. It knows one row at a time.
//!
//! Frantar 2022, arXiv 2210.17323, before its Cholesky step (that is OBQ, arXiv
//! 2208.11580, in a fixed order).

/// Sweeps one row `w [k]` under the damped Gram matrix `h [k, k]`, columns in the order
/// given; `decide(j, w)` says what `w[j]` becomes when the row stands at `w`.
pub fn sweep_row(w: &[f64], h: &[f64], decide: &mut dyn FnMut(usize, &[f64]) -> f64) -> Vec<f64> {
    let k = w.len();
    let mut w = w.to_vec();
    let mut inverse = invert(h, k);
    for j in 0..k {
        let q = decide(j, &w);
        let e = (w[j] - q) / inverse[j * k + j];
        for l in j + 1..k {
            w[l] -= e * inverse[j * k + l];
        }
        w[j] = q;
        // Row and column j leave H: the inverse of what is left is the Schur complement.
        let row: Vec<f64> = inverse[j * k..(j + 1) * k].to_vec();
        for a in j + 1..k {
            for b in j + 1..k {
                inverse[a * k + b] -= row[a] * row[b] / row[j];
            }
        }
    }
    w
}

/// Inverse of a symmetric positive definite matrix `[k, k]` by Gauss and Jordan.
pub fn invert(h: &[f64], k: usize) -> Vec<f64> {
    let mut a = h.to_vec();
    let mut inverse: Vec<f64> = (0..k * k).map(|at| f64::from(u8::from(at / k == at % k))).collect();
    for j in 0..k {
        let pivot = a[j * k + j];
        for m in [&mut a, &mut inverse] {
            m[j * k..(j + 1) * k].iter_mut().for_each(|v| *v /= pivot);
        }
        for i in (0..k).filter(|&i| i != j) {
            let factor = a[i * k + j];
            for c in 0..k {
                a[i * k + c] -= factor * a[j * k + c];
                inverse[i * k + c] -= factor * inverse[j * k + c];
            }
        }
    }
    inverse
}
