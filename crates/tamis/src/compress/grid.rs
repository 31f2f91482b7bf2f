//! The grid of a quantisation group: which numbers a weight may become. It knows
//! neither how a grid is chosen (`fit.rs`) nor in which order weights are rounded.
//!
//! Uniform integer grids as in GPTQ (Frantar 2022, arXiv 2210.17323), with scales in
//! f16 and offset-binary codes as in compressed-tensors `pack-quantized`:
//!
//! `w = s (code - zero)`, `code` in `[0, 2^b - 1]`, `zero` an integer in the same range.
//!
//! A symmetric grid has `zero = 2^(b-1)` everywhere. Its one surplus code lies below
//! zero, so `s` may be negative: then the surplus lies above zero, on the side of the
//! group's largest weight (the sign trick of GGUF `Q4_0`).

use half::f16;
use serde::{Deserialize, Serialize};

use super::lanes::{LANES, Lanes, each};
use crate::units::{Bits, GroupSize};

/// Where a group's grid has its zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Symmetry {
    /// In the middle; no zero point is stored.
    Symmetric,
    /// At an integer code of its own for each group.
    Asymmetric,
}

/// How a group's scale is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClipSearch {
    /// The smallest scale that clips nothing.
    Off,
    /// The scale (and zero) with the least squared error, weighted by how much the
    /// inputs make of each column where calibration has shown it.
    Search,
}

/// What the grids of a matrix look like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GridSpec {
    /// Width of a code.
    pub bits: Bits,
    /// Columns that share a scale.
    pub group: GroupSize,
    /// Where the zero lies.
    pub symmetry: Symmetry,
    /// How the scale is found.
    pub clip: ClipSearch,
}

/// One group's grid for each of the sixteen rows of a strip.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LaneGrid {
    scale: Lanes,
    inverse: Lanes,
    low: Lanes,  // lowest code minus zero, = -zero
    high: Lanes, // highest code minus zero
}

/// `1.5 * 2^23`: adding and taking away this number rounds an f32 of magnitude below
/// `2^22` to the nearest integer, ties to even, without a call and in any lane width.
const ROUNDER: f32 = 12_582_912.0;

impl LaneGrid {
    /// Rounds the scales to f16 first, so that codes are chosen for the scale that is
    /// stored. A scale that f16 cannot hold becomes the nearest one it can, and never
    /// zero: an all-zero group must still have a grid.
    pub fn new(scale: &Lanes, zero: &Lanes, bits: Bits) -> Self {
        let top = bits.max_code() as f32;
        let scale = each(|l| storable(scale[l]));
        Self {
            scale,
            inverse: each(|l| 1.0 / scale[l]),
            low: each(|l| -zero[l]),
            high: each(|l| top - zero[l]),
        }
    }

    /// Zero code of the symmetric grid.
    pub fn middle(bits: Bits) -> Lanes {
        [(1 << (bits.get() - 1)) as f32; LANES]
    }

    /// Nearest code minus zero of `w` in lane `l`.
    #[inline(always)]
    pub fn step(&self, l: usize, w: f32) -> f32 {
        let x = w * self.inverse[l];
        let x = if x < self.low[l] { self.low[l] } else { x };
        let x = if x > self.high[l] { self.high[l] } else { x };
        (x + ROUNDER) - ROUNDER
    }

    /// Nearest grid point of `w` in lane `l`.
    #[inline(always)]
    pub fn nearest(&self, l: usize, w: f32) -> f32 {
        self.scale[l] * self.step(l, w)
    }

    /// Code of a step.
    pub fn code(&self, l: usize, step: f32) -> u8 {
        (step - self.low[l]) as u8
    }

    /// Scales.
    pub fn scale(&self) -> &Lanes {
        &self.scale
    }

    /// Zero codes.
    pub fn zero(&self) -> Lanes {
        each(|l| -self.low[l])
    }

    /// Takes over the lanes of `other` that are marked.
    pub fn replace(&mut self, other: &Self, marked: &[bool; LANES]) {
        for l in (0..LANES).filter(|&l| marked[l]) {
            self.scale[l] = other.scale[l];
            self.inverse[l] = other.inverse[l];
            self.low[l] = other.low[l];
            self.high[l] = other.high[l];
        }
    }

    /// `sum_j h_j (w_j - q_j)^2` in every lane.
    pub fn loss(&self, columns: &[Lanes], h: &[f32]) -> Lanes {
        let mut sum = [0.0; LANES];
        for (w, &h) in columns.iter().zip(h) {
            for l in 0..LANES {
                let d = w[l] - self.nearest(l, w[l]);
                sum[l] += h * (d * d);
            }
        }
        sum
    }
}

/// The f16 nearest to `s`, kept away from zero and infinity.
fn storable(s: f32) -> f32 {
    let tiny = f16::MIN_POSITIVE_SUBNORMAL.to_f32();
    let size = s.abs().clamp(tiny, f16::MAX.to_f32());
    f16::from_f32(size).to_f32().copysign(s)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_cover_the_whole_range_and_decode_to_the_nearest_value() {
        for bits in [2, 3, 4, 8].map(|b| Bits::new(b).unwrap()) {
            for zero in [0.0, 1.0, bits.max_code() as f32] {
                let grid = LaneGrid::new(&[0.25; LANES], &[zero; LANES], bits);
                for code in 0..=bits.max_code() {
                    let w = 0.25 * (code as f32 - zero);
                    let step = grid.step(0, w + 0.1);
                    assert_eq!((u32::from(grid.code(0, step)), grid.nearest(0, w + 0.1)), (code, w));
                }
                assert_eq!(grid.code(3, grid.step(3, 1e9)), bits.max_code() as u8);
                assert_eq!(grid.code(3, grid.step(3, -1e9)), 0);
            }
        }
    }

    #[test]
    fn unstorable_scales_become_storable_ones() {
        assert_eq!(storable(0.0), f16::MIN_POSITIVE_SUBNORMAL.to_f32());
        assert_eq!(storable(-1e-30), -f16::MIN_POSITIVE_SUBNORMAL.to_f32());
        assert_eq!(storable(1e9), f16::MAX.to_f32());
        assert_eq!(storable(0.1), f16::from_f32(0.1).to_f32());
    }
}
