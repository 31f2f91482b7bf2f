//! Round-to-nearest: every weight to the nearest point of its group's grid, on the same
//! grids that GPTQ uses. It knows no error compensation.
//!
//! The baseline of Frantar 2022, arXiv 2210.17323.

use super::codes::{CodedStrip, StripGrids};
use super::grid::GridSpec;
use super::lanes::Weights;
use super::order::Order;

/// Rounds strip `strip`; `h` weighs the columns in the grid fits.
pub fn quantise_strip(w: &Weights<'_>, h: &[f32], spec: &GridSpec, strip: usize) -> CodedStrip {
    let columns = w.gather(strip, &Order::natural(w.cols));
    let mut grids = StripGrids::new(spec, h);
    grids.fit_all(&columns);
    for (j, column) in columns.iter().enumerate() {
        grids.round(j, column);
    }
    grids.finish(w.rows_of(strip).len())
}
