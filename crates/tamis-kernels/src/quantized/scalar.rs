//! The reference: the formula, term by term. Fast paths give its bits.

use super::{Grid, Panel, Place, unpack};
use crate::aligned::Aligned;
use crate::pack::tiles::{QUAD, QUAD_BYTES, TILE};

pub(super) fn panel<'y>(panel: &Panel<'_>, place: &Place<'_, 'y>, scratch: &mut Aligned) {
    let x = panel.x;
    let codes = scratch.numbers::<u8>(panel.unpacked_bytes());
    for tile in panel.tiles.clone() {
        unpack(panel.weights, tile, codes);
        let grid = panel.grid(tile);
        for row in 0..x.m {
            let input = x.row(row);
            let columns = panel.columns(tile);
            let y = place(row, columns);
            for (lane, y) in y.iter_mut().enumerate() {
                *y = 0.0;
                for block in 0..x.blocks {
                    let q = &input[block * x.block..][..x.block];
                    let c = &codes[block * x.block * TILE..][..x.block * TILE];
                    let dot = q.iter().enumerate().map(|(i, q)| {
                        i32::from(*q) * i32::from(c[i / QUAD * QUAD_BYTES + lane * QUAD + i % QUAD])
                    });
                    *y = grid.add(*y, lane, block, dot.sum(), x.unit(row, block));
                }
            }
        }
    }
}

impl Grid<'_> {
    /// The sum so far with one block: `dot = sum q c`, `t` and `u` of the row of x.
    fn add(&self, sum: f32, lane: usize, block: usize, dot: i32, (t, u): (f32, i32)) -> f32 {
        let at = block / self.per_group * TILE + lane;
        let zero = self.zeros.map_or(self.middle, |zeros| i32::from(zeros[at]));
        let sum = ((dot - zero * u) as f32).mul_add(self.scales[at].to_f32() * t, sum);
        self.minima.map_or(sum, |minima| (u as f32).mul_add(minima[at].to_f32() * t, sum))
    }
}
