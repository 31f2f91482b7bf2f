//! Activations rounded to int8, block by block (the formula is in `quantized`).

use crate::aligned::{Aligned, numbers};
use crate::isa::per_isa;
use crate::lanes::Lanes;
use crate::pool::{Cpu, Disjoint};

/// Rows of x in codes.
#[derive(Clone, Copy)]
pub(super) struct Codes<'a> {
    /// `[m][blocks * block]`, zeros behind the last column.
    pub(super) codes: &'a [i8],
    /// `t`, `[blocks][m]`; NaN for a block with a number that is not finite.
    pub(super) scales: &'a [f32],
    /// `u`, `[blocks][m]`.
    pub(super) sums: &'a [i32],
    pub(super) m: usize,
    pub(super) blocks: usize,
    pub(super) block: usize,
}

impl<'a> Codes<'a> {
    /// Codes of a row.
    pub(super) fn row(&self, row: usize) -> &'a [i8] {
        let width = self.blocks * self.block;
        &self.codes[row * width..][..width]
    }
    /// `t` and `u` of a block of a row.
    pub(super) fn unit(&self, row: usize, block: usize) -> (f32, i32) {
        (self.scales[block * self.m + row], self.sums[block * self.m + row])
    }
}

/// Rows that one task rounds.
const ROWS: usize = 32;

/// Rounds rows of `k` values in blocks of `block`.
pub(super) fn quantize<'a>(
    cpu: &Cpu,
    x: &[f32],
    (k, block): (usize, usize),
    [codes, scales, sums]: &'a mut [Aligned; 3],
) -> Codes<'a> {
    let (m, blocks) = (x.len() / k, k.div_ceil(block));
    let width = blocks * block;
    let all_codes = Disjoint::new(codes.numbers::<i8>(m * width));
    let all_scales = Disjoint::new(scales.numbers::<f32>(m * blocks));
    let all_sums = Disjoint::new(sums.numbers::<i32>(m * blocks));
    cpu.pool.run(m.div_ceil(ROWS), &|task| {
        for row in task * ROWS..((task + 1) * ROWS).min(m) {
            // SAFETY: every row belongs to one task.
            let codes = unsafe { all_codes.slice(row * width, width) };
            quantize_row(cpu.isa, &x[row * k..][..k], block, codes, &mut |index, scale, sum| {
                // SAFETY: as above: one number for every row and block.
                unsafe {
                    all_scales.slice(index * m + row, 1)[0] = scale;
                    all_sums.slice(index * m + row, 1)[0] = sum;
                }
            });
        }
    });
    Codes {
        codes: &numbers(codes.all())[..m * width],
        scales: &numbers(scales.all())[..m * blocks],
        sums: &numbers(sums.all())[..m * blocks],
        m,
        blocks,
        block,
    }
}

per_isa! {
    /// Rounds one row; `codes` has whole blocks, zeros are put behind the last value. `unit` is
    /// given the number of a block, its scale and its sum.
    fn quantize_row<L>(l, x: &[f32], block: usize, codes: &mut [i8], unit: &mut dyn FnMut(usize, f32, i32)) {
        for (index, (x, codes)) in x.chunks(block).zip(codes.chunks_exact_mut(block)).enumerate() {
            let mut padded = [0.0f32; 64];
            padded[..x.len()].copy_from_slice(x);
            let padded = &mut padded[..block];
            let scale = round_block(l, padded);
            let mut sum = 0;
            for (code, value) in codes.iter_mut().zip(padded.iter()) {
                // Whole numbers within 127, or NaN, which is made 0: the scale says so.
                *code = *value as i8;
                sum += i32::from(*code);
            }
            unit(index, scale, sum);
        }
    }
}

/// Rounds a block in place to whole numbers within 127; gives their unit.
#[inline(always)]
fn round_block<L: Lanes>(l: L, x: &mut [f32]) -> f32 {
    let zero = l.splat(0.0);
    // `max` alone would skip a NaN: a product with 0 is 0 for finite numbers only.
    let (mut largest, mut poison) = (zero, zero);
    for x in x.chunks_exact(L::WIDTH) {
        let x = l.load(x);
        largest = l.max(largest, l.max(x, l.sub(zero, x)));
        poison = l.fma(x, zero, poison);
    }
    let largest = l.max_lane(largest);
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    // A largest below 2^-121 has no finite inverse: all of the block rounds to 0.
    let inverse = l.splat(if inverse.is_finite() { inverse } else { 0.0 });
    for x in x.chunks_exact_mut(L::WIDTH) {
        let rounded = l.round(l.mul(l.load(x), inverse));
        l.store(x, rounded);
    }
    largest / 127.0 + l.sum(poison)
}
