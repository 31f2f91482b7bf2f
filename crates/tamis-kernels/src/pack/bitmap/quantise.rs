//! Kept weights of a bitmap to integers: `code = round(w / scale)`, a scale for some columns of a row. Knows no
//! calibration: what is least is the squared error of the weights themselves.

use half::f16;

use super::BitmapData;
use crate::pack::{PackError, symmetric_code, symmetric_scale};

/// Codes of 8 bits on grids that reach the largest weight.
pub(super) fn to_int8(of: (&[f32], &[bool]), cols: usize, group: usize) -> Result<BitmapData, PackError> {
    const MOST: f32 = 127.0;
    let (mut codes, mut scales) = (Vec::new(), Vec::new());
    for chosen in groups(of, cols, group) {
        let scale = symmetric_scale(chosen.iter(), MOST)?;
        scales.push(scale);
        codes.extend(chosen.iter().map(|w| symmetric_code(*w, scale, MOST) as i8));
    }
    Ok(BitmapData::Int8 { codes, scales, group })
}

/// Codes of 4 bits on the best of some grids.
pub(super) fn to_int4(of: (&[f32], &[bool]), cols: usize, group: usize) -> Result<BitmapData, PackError> {
    let (mut words, mut scales, mut count) = (Vec::new(), Vec::new(), 0);
    for chosen in groups(of, cols, group) {
        let scale = searched_scale(&chosen)?;
        scales.push(scale);
        for w in chosen {
            if count % 8 == 0 {
                words.push(0);
            }
            let code = symmetric_code(w, scale, MOST_OF_4) as u32 & 15;
            *words.last_mut().expect("a word was just added") |= code << (count % 8 * 4);
            count += 1;
        }
    }
    Ok(BitmapData::Int4 { words, scales, group })
}

/// Kept weights of each group, row by row.
fn groups<'a>(
    (weights, kept): (&'a [f32], &'a [bool]),
    cols: usize,
    group: usize,
) -> impl Iterator<Item = Vec<f32>> + 'a {
    let rows = weights.chunks(cols).zip(kept.chunks(cols));
    let pieces = rows.flat_map(move |(weights, kept)| weights.chunks(group).zip(kept.chunks(group)));
    pieces
        .map(|(weights, kept)| weights.iter().zip(kept).filter(|(_, kept)| **kept).map(|(w, _)| *w).collect())
}

/// The largest code of 4 bits; the grid is symmetric.
const MOST_OF_4: f32 = 7.0;

/// Ends of a grid that are tried, in largest weights: few weights are large, and a finer grid serves the others.
const ENDS: [f32; 9] = [1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6];

/// The scale with the least squared error; of equal ones the largest. Weights that lie on a grid that they fill keep it.
fn searched_scale(weights: &[f32]) -> Result<f16, PackError> {
    let whole = symmetric_scale(weights.iter(), MOST_OF_4)?;
    let error = |scale: f16| -> f64 {
        let off = |w: &f32| *w - scale.to_f32() * symmetric_code(*w, scale, MOST_OF_4) as f32;
        weights.iter().map(|w| f64::from(off(w)).powi(2)).sum()
    };
    let mut best = (error(whole), whole);
    for end in &ENDS[1..] {
        let scale = f16::from_f32(whole.to_f32() * end);
        let candidate = (error(scale), scale);
        if candidate.0 < best.0 {
            best = candidate;
        }
    }
    Ok(best.1)
}
