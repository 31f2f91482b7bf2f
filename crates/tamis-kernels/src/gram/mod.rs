//! The Gram matrix of a layer's inputs: `G[i, j] += sum_t x[t, i] * x[t, j]`.
//! Knows no Hessian, damping or layer.
//!
//! The trick: x is transposed once to `[k, m]`; then `G` is the product of those rows
//! by themselves and the tiles of `linear` do it. Only panels on and above the
//! diagonal are computed, then mirrored. Sums over one block of tokens are f32; blocks
//! and calls are added in `T`.

pub mod scalar;
mod transpose;

use std::cell::Cell;

use crate::aligned::Aligned;
use crate::linear::{Dot, DotKernel, Operand, Precision, Rows, Sink, product, run_dot};
use crate::pool::{Cpu, Disjoint};

pub use transpose::transpose;

/// Rows of a panel of `G`: a multiple of the tile sizes.
const PANEL: usize = 96;

/// What `G` is kept in.
pub trait Total: Copy + Send + Sync + std::ops::AddAssign {
    /// The nearest value to an f32.
    fn from_f32(value: f32) -> Self;
}

impl Total for f32 {
    fn from_f32(value: f32) -> Self {
        value
    }
}

impl Total for f64 {
    fn from_f32(value: f32) -> Self {
        Self::from(value)
    }
}

/// `g += x^T x` for `x [m, k]`, `g [k, k]`; `g` must be symmetric and stays so.
///
/// # Panics
/// If `x` is not whole rows or `g` is not `k * k` values.
pub fn gram_add<T: Total>(cpu: &Cpu, x: &[f32], k: usize, precision: Precision, g: &mut [T]) {
    assert!(k > 0 && x.len().is_multiple_of(k), "{} values are no rows of {k}", x.len());
    assert_eq!(Some(g.len()), k.checked_mul(k), "g must be {k}x{k}");
    let m = x.len() / k;
    if m == 0 {
        return;
    }
    let mut buffer = COLUMNS.take();
    let columns = transpose::operand(cpu, precision, (x, k), &mut buffer);
    let panels = k.div_ceil(PANEL);
    let out = Square { values: Disjoint::new(g), size: k };
    cpu.pool.run(panels * (panels + 1) / 2, &|task| {
        let (low, high) = pair(task);
        run_dot(cpu.isa, precision, Block { columns, m, low, high, out: &out });
    });
    COLUMNS.set(buffer.kept());
    mirror(cpu, g, k);
}

thread_local! {
    /// The calling thread's transposed x.
    static COLUMNS: Cell<Aligned> = const { Cell::new(Aligned::new()) };
}

/// The `task`-th pair `low <= high`, counting `(0,0) (0,1) (1,1) (0,2) ...`.
fn pair(task: usize) -> (usize, usize) {
    let mut high = ((((8 * task + 1) as f64).sqrt() - 1.0) / 2.0) as usize;
    // The square root may be off by one in its last place.
    while high * (high + 1) / 2 > task {
        high -= 1;
    }
    while (high + 1) * (high + 2) / 2 <= task {
        high += 1;
    }
    (task - high * (high + 1) / 2, high)
}

/// One panel pair of `G`.
struct Block<'a, T> {
    columns: Operand<'a>,
    m: usize,
    low: usize,
    high: usize,
    out: &'a Square<'a, T>,
}

impl<T: Total> DotKernel for Block<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<D: Dot>(self, dot: D) {
        let (elements, stride) = (self.columns.elements::<D::Element>(), self.columns.stride);
        let panel = |index: usize| {
            let first = index * PANEL;
            let count = PANEL.min(self.out.size - first);
            Rows::new(&elements[first * stride..], stride, count, self.m)
        };
        let origin = (self.low * PANEL, self.high * PANEL);
        let sink = BlockSink { out: self.out, origin };
        product(dot, panel(self.low), panel(self.high), &sink);
    }
}

/// `G`, written by all tasks.
struct Square<'a, T> {
    values: Disjoint<'a, T>,
    size: usize,
}

/// One panel pair in `G`.
struct BlockSink<'a, T> {
    out: &'a Square<'a, T>,
    origin: (usize, usize),
}

impl<T: Total> Sink for BlockSink<'_, T> {
    type Total = T;
    #[inline(always)]
    fn place(&self, row: usize, column: usize, len: usize) -> &mut [T] {
        let start = (self.origin.0 + row) * self.out.size + self.origin.1 + column;
        // SAFETY: each panel pair is one task, and pairs do not overlap.
        unsafe { self.out.values.slice(start, len) }
    }
    #[inline(always)]
    fn combine(mut total: T, value: f32, _first: bool) -> T {
        total += T::from_f32(value);
        total
    }
    #[inline(always)]
    fn wants(&self, row: usize, column_end: usize) -> bool {
        self.origin.0 + row < self.origin.1 + column_end
    }
}

/// Copies what is above the diagonal below it, a panel of rows a task.
fn mirror<T: Total>(cpu: &Cpu, g: &mut [T], k: usize) {
    let all = Disjoint::new(g);
    cpu.pool.run(k.div_ceil(PANEL), &|panel| {
        let rows = panel * PANEL..((panel + 1) * PANEL).min(k);
        for first in (0..rows.end).step_by(PANEL) {
            for i in rows.clone() {
                let end = (first + PANEL).min(i);
                for j in first..end.max(first) {
                    // SAFETY: tasks write only below the diagonal, each its own rows,
                    // and read only above it.
                    unsafe { all.slice(i * k + j, 1)[0] = all.slice(j * k + i, 1)[0] };
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use crate::linear::noise;

    #[test]
    fn pairs_count_the_upper_triangle() {
        let mut task = 0;
        for high in 0..300 {
            for low in 0..=high {
                assert_eq!(pair(task), (low, high));
                task += 1;
            }
        }
    }

    #[test]
    fn every_isa_agrees_with_the_reference() {
        for (m, k) in [(0, 5), (1, 1), (3, 17), (40, 48), (65, 50), (33, 100), (1601, 20)] {
            let x = noise(m * k, 5);
            for precision in [Precision::F32, Precision::Bf16] {
                let mut expected = vec![1.0; k * k];
                scalar::gram_add(&x, k, precision, &mut expected);
                for isa in Isa::available() {
                    let mut g = vec![1.0f64; k * k];
                    gram_add(&Cpu::new(isa, 2), &x, k, precision, &mut g);
                    for (a, b) in g.iter().zip(&expected) {
                        assert!((a - b).abs() <= 1e-5 * (m as f64).sqrt(), "{} {a} {b}", isa.name());
                    }
                    for i in 0..k {
                        for j in 0..k {
                            assert_eq!(g[i * k + j].to_bits(), g[j * k + i].to_bits());
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn threads_do_not_change_bits() {
        let (m, k) = (300, 150);
        let x = noise(m * k, 6);
        for isa in Isa::available() {
            let run = |threads| {
                let mut g = vec![0.0f32; k * k];
                gram_add(&Cpu::new(isa, threads), &x, k, Precision::Bf16, &mut g);
                g
            };
            let one = run(1);
            assert!([2, 3, 8].into_iter().all(|threads| run(threads) == one));
        }
    }
}
