//! Rotary position embedding, half-split (arXiv 2104.09864, the layout of Llama):
//! `x[i], x[i + half] = x[i] cos_i - x[i + half] sin_i, x[i + half] cos_i + x[i] sin_i`.
//!
//! Knows no base frequency and no scaling: the tables `cos, sin [m, half]` hold them.
//! `half` may be less than half a head; the rest of the head stays as it is. The
//! backward pass is the same rotation with `-sin`.

pub mod scalar;

use crate::isa::per_isa;
use crate::pool::Cpu;

/// Values of x in a task.
const TASK_VALUES: usize = 1 << 14;

/// Rotates `x [m, heads, head_dim]` in place by tables `[m, half]`.
///
/// # Panics
/// If the lengths do not agree or `2 * half > head_dim`.
pub fn rope(cpu: &Cpu, x: &mut [f32], heads: usize, head_dim: usize, cos: &[f32], sin: &[f32]) {
    turn(cpu, Turn::Forth, x, (heads, head_dim), (cos, sin));
}

/// The gradient of `rope`: rotates `dy [m, heads, head_dim]` back, in place.
///
/// # Panics
/// As `rope`.
pub fn rope_gradient(cpu: &Cpu, dy: &mut [f32], heads: usize, head_dim: usize, cos: &[f32], sin: &[f32]) {
    turn(cpu, Turn::Back, dy, (heads, head_dim), (cos, sin));
}

#[derive(Clone, Copy)]
enum Turn {
    Forth,
    Back,
}

fn turn(cpu: &Cpu, turn: Turn, x: &mut [f32], shape: (usize, usize), (cos, sin): (&[f32], &[f32])) {
    let (heads, head_dim) = shape;
    let width = heads * head_dim;
    assert!(width > 0 && x.len().is_multiple_of(width), "{} values are no rows of {width}", x.len());
    let m = x.len() / width;
    assert_eq!(cos.len(), sin.len());
    if m == 0 {
        return;
    }
    let half = cos.len() / m;
    assert!(cos.len() == m * half && 2 * half <= head_dim, "tables of {half} for heads of {head_dim}");
    if half == 0 {
        return;
    }
    let rows = (TASK_VALUES / width).max(1);
    cpu.pool.run_chunks(x, rows * width, &|task, x| {
        let first = task * rows * half;
        let count = x.len() / width * half;
        let tables = (&cos[first..first + count], &sin[first..first + count]);
        rotate(cpu.isa, turn, x, (width, head_dim, half), tables);
    });
}

per_isa! {
    fn rotate<L>(l, turn: Turn, x: &mut [f32], shape: (usize, usize, usize), tables: (&[f32], &[f32])) {
        let (width, head_dim, half) = shape;
        // Times 1 or -1: no rounding.
        let sign = l.splat(match turn {
            Turn::Forth => 1.0,
            Turn::Back => -1.0,
        });
        let tables = tables.0.chunks_exact(half).zip(tables.1.chunks_exact(half));
        for (x, (cos, sin)) in x.chunks_exact_mut(width).zip(tables) {
            for head in x.chunks_exact_mut(head_dim) {
                let (low, high) = head[..2 * half].split_at_mut(half);
                let mut i = 0;
                while i + L::WIDTH <= half {
                    let (a, b) = (l.load(&low[i..]), l.load(&high[i..]));
                    let (c, s) = (l.load(&cos[i..]), l.mul(sign, l.load(&sin[i..])));
                    l.store(&mut low[i..], l.sub(l.mul(a, c), l.mul(b, s)));
                    l.store(&mut high[i..], l.add(l.mul(b, c), l.mul(a, s)));
                    i += L::WIDTH;
                }
                let (a, b) = (l.load_short(&low[i..]), l.load_short(&high[i..]));
                let (c, s) = (l.load_short(&cos[i..]), l.mul(sign, l.load_short(&sin[i..])));
                l.store_short(&mut low[i..], l.sub(l.mul(a, c), l.mul(b, s)));
                l.store_short(&mut high[i..], l.add(l.mul(b, c), l.mul(a, s)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use crate::linear::noise;

    #[test]
    fn every_isa_gives_the_reference_bits() {
        // No fused multiply-add and no sum: the roundings are the reference's own.
        for (m, heads, dim, half) in
            [(0, 1, 8, 4), (1, 1, 2, 1), (3, 2, 8, 4), (2, 3, 80, 16), (40, 9, 64, 32)]
        {
            let (cos, sin) = (noise(m * half, 1), noise(m * half, 2));
            let x = noise(m * heads * dim, 3);
            let mut expected = x.clone();
            scalar::rope(&mut expected, heads, dim, &cos, &sin);
            for isa in Isa::available() {
                for threads in [1, 3] {
                    let mut y = x.clone();
                    rope(&Cpu::new(isa, threads), &mut y, heads, dim, &cos, &sin);
                    assert_eq!(y, expected);
                }
            }
        }
    }

    /// Differences of a linear map over a step of 1 are exact up to the roundings of f32
    /// values below 1.
    const DIFFERENCE: f64 = 1e-6;

    #[test]
    fn every_isa_gives_the_bits_of_the_reference_gradient_and_that_is_the_difference() {
        for (m, heads, dim, half) in [(0, 1, 8, 4), (1, 1, 2, 1), (2, 3, 80, 16), (3, 2, 64, 32)] {
            let (cos, sin) = (noise(m * half, 1), noise(m * half, 2));
            let (x, dy) = (noise(m * heads * dim, 3), noise(m * heads * dim, 4));
            let mut expected = dy.clone();
            scalar::rope_gradient(&mut expected, heads, dim, &cos, &sin);
            for (isa, threads) in Isa::available().into_iter().flat_map(|isa| [(isa, 1), (isa, 3)]) {
                let mut dx = dy.clone();
                rope_gradient(&Cpu::new(isa, threads), &mut dx, heads, dim, &cos, &sin);
                assert_eq!(dx, expected);
            }
            for i in 0..x.len() {
                let loss = |by: f32| -> f64 {
                    let mut y = x.clone();
                    y[i] += by;
                    scalar::rope(&mut y, heads, dim, &cos, &sin);
                    y.iter().zip(&dy).map(|(y, dy)| f64::from(*y) * f64::from(*dy)).sum()
                };
                assert!((loss(0.5) - loss(-0.5) - f64::from(expected[i])).abs() < DIFFERENCE);
            }
        }
    }

    #[test]
    #[should_panic(expected = "tables of 5")]
    fn tables_wider_than_the_head_are_refused() {
        rope(&Cpu::new(Isa::SCALAR, 1), &mut [0.0; 8], 1, 8, &[0.0; 5], &[0.0; 5]);
    }
}
