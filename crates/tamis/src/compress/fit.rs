//! Chooses the grid of a group: range, then a search over smaller scales, then a
//! least-squares refinement. It knows nothing about the sweep that asks for it.
//!
//! Clip search as in GPTQ's reference code (Frantar 2022, arXiv 2210.17323, option
//! `mse`) and AWQ (Lin 2023, arXiv 2306.00978, section 4).
//!
//! What can be lossless: weights that already are `s (c - z)` with `s` in f16 and an
//! integer `z` in range (GGUF `Q4_0`, and `Q4_1` whose `m / d` is an integer) come back
//! exactly. `Q4_1` in general is `w = d c + m` with any `m / d`; its offset from the
//! nearest integer zero point is up to `d / 2` for *every* weight, and a grid that must
//! contain 0 cannot remove it. There the search gives what a fresh rounding would.

use super::grid::{ClipSearch, GridSpec, LaneGrid, Symmetry};
use super::lanes::{LANES, Lanes, each};

/// Scales that the search tries between the smallest and the full range.
const SHRINKS: usize = 24;
/// Rounds of refinement; each is taken only in the lanes where it lowers the loss.
const REFINEMENTS: usize = 2;

/// A fitted grid and its loss `sum_j h_j (w_j - q_j)^2`.
#[derive(Debug, Clone, Copy)]
pub struct Fitted {
    /// The grid.
    pub grid: LaneGrid,
    /// Its loss on the columns it was fitted to.
    pub loss: Lanes,
}

/// Fits a grid to the columns of one group; `h` weighs the columns.
pub fn fit(columns: &[Lanes], h: &[f32], spec: &GridSpec) -> Fitted {
    let (scale, zero) = full_range(columns, spec);
    let mut best = Fitted::of(LaneGrid::new(&scale, &zero, spec.bits), columns, h);
    if spec.clip == ClipSearch::Off {
        return best;
    }
    // Fewer codes want more clipping: with four levels the best step of a normal
    // sample lies near 0.4 of its full range, with sixteen near 0.7.
    let least = match spec.bits.get() {
        2 => 0.25,
        3 => 0.4,
        _ => 0.5,
    };
    for i in 0..SHRINKS {
        let p = least + (1.0 - least) * i as f32 / SHRINKS as f32;
        best.offer(LaneGrid::new(&each(|l| p * scale[l]), &zero, spec.bits), columns, h);
    }
    for _ in 0..REFINEMENTS {
        refine(&mut best, columns, h, spec);
    }
    best
}

impl Fitted {
    fn of(grid: LaneGrid, columns: &[Lanes], h: &[f32]) -> Self {
        Self { grid, loss: grid.loss(columns, h) }
    }

    /// Takes `candidate` in the lanes where its loss is lower.
    fn offer(&mut self, candidate: LaneGrid, columns: &[Lanes], h: &[f32]) {
        let loss = candidate.loss(columns, h);
        let better = std::array::from_fn(|l| loss[l] < self.loss[l]);
        self.grid.replace(&candidate, &better);
        self.loss = each(|l| if better[l] { loss[l] } else { self.loss[l] });
    }
}

/// Scale and zero of the smallest grid that clips nothing.
fn full_range(columns: &[Lanes], spec: &GridSpec) -> (Lanes, Lanes) {
    let (mut low, mut high) = ([0.0f32; LANES], [0.0f32; LANES]); // a grid always holds 0
    for w in columns {
        for l in 0..LANES {
            low[l] = low[l].min(w[l]);
            high[l] = high[l].max(w[l]);
        }
    }
    let top = spec.bits.max_code() as f32;
    match spec.symmetry {
        Symmetry::Symmetric => {
            // half steps below zero, half - 1 above; a negative scale swaps the sides.
            let zero = LaneGrid::middle(spec.bits);
            let half = zero[0];
            let scale = each(|l| {
                let upright = (-low[l] / half).max(high[l] / (half - 1.0));
                let mirrored = (high[l] / half).max(-low[l] / (half - 1.0));
                if upright <= mirrored { upright } else { -mirrored }
            });
            (scale, zero)
        }
        Symmetry::Asymmetric => {
            let scale = each(|l| (high[l] - low[l]) / top);
            let zero =
                each(|l| if scale[l] > 0.0 { (-low[l] / scale[l]).round().clamp(0.0, top) } else { 0.0 });
            (scale, zero)
        }
    }
}

/// Given the steps `c_j` of the present grid, the scale with the least loss is
/// `s = sum h w c / sum h c^2`; an asymmetric grid also tries its neighbouring zeros.
fn refine(best: &mut Fitted, columns: &[Lanes], h: &[f32], spec: &GridSpec) {
    let shifts: &[f32] = match spec.symmetry {
        Symmetry::Symmetric => &[0.0],
        Symmetry::Asymmetric => &[0.0, -1.0, 1.0],
    };
    let top = spec.bits.max_code() as f32;
    for shift in shifts {
        let zero = best.grid.zero().map(|z| (z + shift).clamp(0.0, top));
        let shifted = LaneGrid::new(best.grid.scale(), &zero, spec.bits);
        let scale = least_squares_scale(&shifted, columns, h);
        best.offer(LaneGrid::new(&scale, &zero, spec.bits), columns, h);
    }
}

fn least_squares_scale(grid: &LaneGrid, columns: &[Lanes], h: &[f32]) -> Lanes {
    let (mut wc, mut cc) = ([0.0f32; LANES], [0.0f32; LANES]);
    for (w, &h) in columns.iter().zip(h) {
        for l in 0..LANES {
            let c = grid.step(l, w[l]);
            wc[l] += h * (w[l] * c);
            cc[l] += h * (c * c);
        }
    }
    each(|l| if cc[l] > 0.0 { wc[l] / cc[l] } else { grid.scale()[l] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::synthetic::Normal;
    use crate::units::{Bits, GroupSize};
    use half::f16;
    use proptest::prelude::*;

    fn spec(bits: u32, symmetry: Symmetry, clip: ClipSearch) -> GridSpec {
        GridSpec { bits: Bits::new(bits).unwrap(), group: GroupSize::Of(32), symmetry, clip }
    }

    /// 32 weights `d (c - z)` in every lane, both ends of the code range used.
    fn on_grid(bits: u32, zero: i32, d: f32) -> Vec<Lanes> {
        let (top, d) = ((1 << bits) - 1, f16::from_f32(d).to_f32());
        let code = |j: i32, l: usize| if j < 2 { j * top } else { (j * 7 + l as i32) % (top + 1) };
        (0..32).map(|j| each(|l| d * (code(j, l) - zero) as f32)).collect()
    }

    #[test]
    fn all_zero_group_has_a_grid_and_stays_zero() {
        for symmetry in [Symmetry::Symmetric, Symmetry::Asymmetric] {
            for clip in [ClipSearch::Off, ClipSearch::Search] {
                let fitted = fit(&[[0.0; LANES]; 32], &[1.0; 32], &spec(4, symmetry, clip));
                assert_eq!((fitted.loss, fitted.grid.nearest(0, 0.0)), ([0.0; LANES], 0.0));
            }
        }
    }

    proptest! {
        #[test]
        fn weights_on_a_grid_come_back_exactly(
            bits in prop::sample::select(vec![2u32, 3, 4, 8]), zero in 0i32..255, d in 1e-4f32..10.0, mirror: bool,
        ) {
            let d = if mirror { -d } else { d };
            for clip in [ClipSearch::Off, ClipSearch::Search] {
                let columns = on_grid(bits, 1 << (bits - 1), d);
                prop_assert_eq!(fit(&columns, &[1.0; 32], &spec(bits, Symmetry::Symmetric, clip)).loss, [0.0; LANES]);
                let columns = on_grid(bits, zero % (1 << bits), d.abs());
                prop_assert_eq!(fit(&columns, &[1.0; 32], &spec(bits, Symmetry::Asymmetric, clip)).loss, [0.0; LANES]);
            }
        }
    }

    #[test]
    fn search_never_loses_to_the_full_range_and_wins_at_two_bits() {
        let mut normal = Normal::new(3);
        let columns: Vec<Lanes> = (0..64).map(|_| each(|_| normal.next())).collect();
        for bits in [2, 3, 4, 8] {
            for symmetry in [Symmetry::Symmetric, Symmetry::Asymmetric] {
                let off = fit(&columns, &[1.0; 64], &spec(bits, symmetry, ClipSearch::Off)).loss;
                let search = fit(&columns, &[1.0; 64], &spec(bits, symmetry, ClipSearch::Search)).loss;
                let sum = |loss: &Lanes| loss.iter().sum::<f32>();
                assert!((0..LANES).all(|l| search[l] <= off[l]));
                assert!(bits > 2 || sum(&search) < 0.7 * sum(&off), "{} {}", sum(&search), sum(&off));
            }
        }
    }
}
