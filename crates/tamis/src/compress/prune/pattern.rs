//! Which weights a pattern drops, given what they are worth. Knows no weights.
//!
//! Rows as in Sun 2023, arXiv 2306.11695; N of M as in Mishra 2021, arXiv 2104.08378.
//!
//! Of equal scores the one that comes first is dropped first, as by a stable sort: so a mask
//! depends on nothing but its scores.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::mask::Mask;
use super::tiers::Tiers;
use crate::error::{Error, Result};
use crate::units::Sparsity;

/// What is compared with what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Pattern {
    /// Weights of one output: every row loses the same number (Wanda's choice). SparseGPT compares those of 16
    /// outputs and 128 inputs with each other.
    Rows,
    /// All weights of the matrix; not with SparseGPT.
    Matrix,
    /// `keep` weights of every `of` inputs of an output.
    OfEach {
        /// Weights that stay.
        keep: usize,
        /// Neighbours that they are chosen from.
        of: usize,
    },
    /// Blocks of so many rows and columns, which stay or go as a whole.
    Blocks {
        /// Rows of a block.
        rows: usize,
        /// Columns of a block.
        cols: usize,
    },
    /// Blocks of 16 x 16, each in one of some tiers.
    Tiers(Tiers),
}

impl Pattern {
    /// The share of zeros that the pattern itself says.
    pub fn sparsity(self) -> Option<Sparsity> {
        match self {
            Self::OfEach { keep, of } => Sparsity::new(1.0 - keep as f64 / of as f64).ok(),
            _ => None,
        }
    }
    /// Whether any share of zeros may be asked for.
    pub(crate) fn is_free(self) -> bool {
        match self {
            Self::OfEach { .. } => false,
            Self::Tiers(tiers) => tiers.range() == (0.0, 1.0),
            _ => true,
        }
    }
    /// Neighbours that are compared, and how many of them go, for a linear of `cols` inputs. Errors: inputs
    /// that are not whole groups.
    pub(super) fn neighbours(keep: usize, of: usize, cols: usize) -> Result<(usize, usize)> {
        if of == 0 || keep > of || !cols.is_multiple_of(of) {
            let problem = format!("{cols} inputs are not whole groups to keep {keep} of {of}");
            return Err(Error::usage(problem).next("choose another pattern for this linear, or skip it"));
        }
        Ok((of, of - keep))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rows => f.write_str("rows"),
            Self::Matrix => f.write_str("matrix"),
            Self::OfEach { keep, of } => write!(f, "{keep}:{of}"),
            Self::Blocks { rows, cols } => write!(f, "{rows}x{cols}"),
            Self::Tiers(tiers) if *tiers == Tiers::default() => f.write_str("tiers"),
            Self::Tiers(tiers) => tiers.fmt(f),
        }
    }
}

impl FromStr for Pattern {
    type Err = Error;
    /// `rows`, `matrix`, `2:4` (keep 2 of every 4), `16x16` (rows x columns of a block), `tiers`, or the tiers that are
    /// allowed with commas between them.
    fn from_str(text: &str) -> Result<Self> {
        const MOST: usize = 1 << 16;
        let pair = |separator| -> Option<(usize, usize)> {
            let (a, b) = text.split_once(separator)?;
            Some((a.parse().ok()?, b.parse().ok()?))
        };
        match (text, pair(':'), pair('x')) {
            ("rows", ..) => Ok(Self::Rows),
            ("matrix", ..) => Ok(Self::Matrix),
            ("tiers", ..) => Ok(Self::Tiers(Tiers::default())),
            (list, ..) if list.contains(',') => list.parse().map(Self::Tiers),
            (_, Some((keep, of)), _) if 0 < keep && keep <= of && of <= MOST => Ok(Self::OfEach { keep, of }),
            (_, _, Some((rows, cols))) if (1..=MOST).contains(&rows) && (1..=MOST).contains(&cols) => {
                Ok(Self::Blocks { rows, cols })
            }
            _ => Err(Error::usage(format!("{text:?} is no pattern"))
                .next(
                    "use \"rows\", \"matrix\", \"2:4\" (2 of 4 are kept), \"16x16\" (blocks), \"tiers\" or a list \
                     of them (\"dense, 2:4, 1/4, none\")",
                )),
        }
    }
}

impl TryFrom<String> for Pattern {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.to_string()
    }
}

/// Keeps the best weights of `[rows, cols]` scores.
///
/// Errors: `cols` that are not whole groups of a pattern of neighbours. Blocks have scores of their
/// own ([`blocks`]).
pub fn weights(pattern: Pattern, scores: &[f32], cols: usize, sparsity: Sparsity) -> Result<Mask> {
    let mut kept = vec![true; scores.len()];
    let (group, dropped) = match pattern {
        Pattern::Rows => (cols, sparsity.zeros(cols)),
        Pattern::Matrix => (scores.len(), sparsity.zeros(scores.len())),
        Pattern::OfEach { keep, of } => Pattern::neighbours(keep, of, cols)?,
        Pattern::Blocks { .. } | Pattern::Tiers(_) => {
            return Err(Error::usage(format!("\"{pattern}\" is not chosen weight by weight"))
                .next("choose a pattern of rows, matrices or N of M"));
        }
    };
    if group > 0 {
        let groups = scores.chunks_exact(group).zip(kept.chunks_exact_mut(group));
        groups.for_each(|(scores, kept)| drop_lowest(scores, dropped, kept));
    }
    Ok(Mask::new(cols, kept))
}

/// Clears the flags of the `count` lowest scores.
pub(super) fn drop_lowest<S: PartialOrd + Copy>(scores: &[S], count: usize, kept: &mut [bool]) {
    if count == 0 {
        return;
    }
    let mut order: Vec<usize> = (0..scores.len()).collect();
    let worth = |a: &usize, b: &usize| {
        scores[*a].partial_cmp(&scores[*b]).expect("scores are numbers").then(a.cmp(b))
    };
    let (lowest, last, _) = order.select_nth_unstable_by(count - 1, worth);
    lowest.iter().chain([&*last]).for_each(|&at| kept[at] = false);
}

/// A matrix cut into blocks.
#[derive(Debug, Clone, Copy)]
pub struct Blocked {
    /// Rows and columns of the matrix.
    pub shape: (usize, usize),
    /// Rows and columns of a block.
    pub block: (usize, usize),
    /// Blocks that every strip of rows, and every strip of columns, keeps at least.
    pub least: usize,
}

/// Keeps the best blocks of a matrix, given the score of each, `[strip][block]`, but leaves no strip of
/// rows or columns with fewer than `least`. The last block of a strip may be smaller.
///
/// The number of zeros is that of the sparsity, less than a block apart from it, unless the floors forbid it.
pub fn blocks(scores: &[f64], cut: Blocked, sparsity: Sparsity) -> Mask {
    let ((rows, cols), (r, c)) = (cut.shape, cut.block);
    let (strips, across) = (rows.div_ceil(r), cols.div_ceil(c));
    assert_eq!(scores.len(), strips * across, "a score for each block");
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]).then(a.cmp(b)));
    let (mut in_strip, mut in_column) = (vec![across; strips], vec![strips; across]);
    let (mut kept, mut left) = (vec![true; scores.len()], sparsity.zeros(rows * cols));
    for at in order {
        let (strip, column) = (at / across, at % across);
        let size = r.min(rows - strip * r) * c.min(cols - column * c);
        if size > left || in_strip[strip] <= cut.least || in_column[column] <= cut.least {
            continue;
        }
        kept[at] = false;
        left -= size;
        in_strip[strip] -= 1;
        in_column[column] -= 1;
    }
    let flags = (0..rows * cols).map(|at| kept[at / cols / r * across + at % cols / c]);
    Mask::new(cols, flags.collect())
}
