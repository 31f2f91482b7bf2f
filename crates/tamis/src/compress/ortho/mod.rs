//! The sparse stream on top of a quantised base, `W ~ B + S`. Each file makes S in one
//! way; none knows how B was packed.
//!
//! Dense-and-sparse splits: SpQR (Dettmers 2023, arXiv 2306.03078), SqueezeLLM (Kim 2023,
//! arXiv 2306.07629). Orthogonal matching pursuit: Pati 1993.

pub mod joint;
pub mod least_squares;
pub mod quality;
pub mod select;
pub mod top_residual;

use half::f16;
use tamis_kernels::pack::SparseRows;

use crate::error::{Error, Result};

/// One row of a stream: columns, in any order, and their values.
pub type SparseRow = (Vec<u32>, Vec<f32>);

/// Rounds the values to f16, sorts each row by column and packs the rows.
pub fn pack(shape: (usize, usize), rows: &[SparseRow]) -> Result<SparseRows> {
    let (mut starts, mut columns, mut values) = (vec![0u32], Vec::new(), Vec::new());
    for (support, numbers) in rows {
        let mut row: Vec<(u32, f32)> = support.iter().copied().zip(numbers.iter().copied()).collect();
        row.sort_unstable_by_key(|&(column, _)| column);
        for (column, value) in row {
            columns.push(u16::try_from(column).map_err(|_| too_wide(shape.1))?);
            values.push(f16::from_f32(value));
        }
        starts.push(
            u32::try_from(columns.len()).map_err(|_| {
                Error::usage("over 2^32 ortho entries").next("choose a smaller ortho density")
            })?,
        );
    }
    SparseRows::new(shape, starts, columns, values).map_err(|error| Error::bad_data(error.to_string()))
}

fn too_wide(cols: usize) -> Error {
    Error::usage(format!("{cols} input features: an ortho stream holds at most 65536"))
        .next("use ortho \"none\" for this linear")
}
