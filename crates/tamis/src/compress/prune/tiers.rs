//! Tiers: every block of 16 x 16 is kept whole, thinned to N of M neighbours, thinned to its best weights, or left out,
//! so that a linear has the zeros that are asked for at the least loss. Knows no weights, only what each is worth.
//!
//! Source: none. Blocks of several kinds in one matrix are known from hand-set shares (35 % dense, 45 % 2:4 and so on);
//! here the loss decides. N of M as in Mishra 2021, arXiv 2104.08378.
//!
//! A knapsack: block `b` in tier `t` has `z_bt` zeros and loses `l_bt`; find `min sum l` with `sum z` given. Of each
//! block only the lower convex hull of its points `(z, l)` matters. Going along all hulls by rising slope, loss per
//! zero, every sum that is reached is reached at the least loss (Sinha 1979, multiple-choice knapsack).

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use super::mask::Mask;
use super::pattern::{Pattern, drop_lowest};
use crate::compress::lanes::LANES;
use crate::compress::threads::Threads;
use crate::error::{Error, Result};
use crate::units::Sparsity;

/// Rows and columns of a block; its rows are those of a strip of the sweep.
pub const SIDE: usize = LANES;

/// Tiers that one matrix may have.
const MOST: usize = 6;

/// How much of a block stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// All.
    Dense,
    /// `keep` of every `of` neighbours in a row.
    OfEach {
        /// Weights that stay.
        keep: u8,
        /// Neighbours that they are chosen from: a divisor of 16.
        of: u8,
    },
    /// The best `keep / of` of the weights, wherever in the block they stand.
    Best {
        /// Numerator.
        keep: u8,
        /// Denominator.
        of: u8,
    },
    /// Nothing.
    Removed,
}

impl Tier {
    /// The share of zeros of a whole block.
    pub fn sparsity(self) -> f64 {
        match self {
            Self::Dense => 0.0,
            Self::OfEach { keep, of } => 1.0 - f64::from(keep) / f64::from(of),
            Self::Best { keep, of } => {
                let size = SIDE * SIDE;
                (size - best(size, keep, of)) as f64 / size as f64
            }
            Self::Removed => 1.0,
        }
    }

    /// Which weights stay of a block whose weights are worth `worth`, rows of `cols`.
    pub(super) fn keep<S: PartialOrd + Copy>(self, worth: &[S], cols: usize) -> Vec<bool> {
        let mut kept = vec![self != Self::Removed; worth.len()];
        match self {
            Self::Dense | Self::Removed => {}
            Self::OfEach { keep, of } => {
                let (keep, of) = (usize::from(keep), usize::from(of));
                // Groups end with rows: `of` divides the columns.
                debug_assert!(cols.is_multiple_of(of));
                let groups = worth.chunks(of).zip(kept.chunks_mut(of));
                groups.for_each(|(worth, kept)| drop_lowest(worth, of - keep, kept));
            }
            Self::Best { keep, of } => {
                drop_lowest(worth, worth.len() - best(worth.len(), keep, of), &mut kept);
            }
        }
        kept
    }
}

/// Weights that are the best `keep / of` of `size`.
fn best(size: usize, keep: u8, of: u8) -> usize {
    size * usize::from(keep) / usize::from(of)
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dense => f.write_str("dense"),
            Self::OfEach { keep, of } => write!(f, "{keep}:{of}"),
            Self::Best { keep, of } => write!(f, "{keep}/{of}"),
            Self::Removed => f.write_str("none"),
        }
    }
}

impl FromStr for Tier {
    type Err = Error;
    /// `dense`, `2:4`, `1/4`, `none`.
    fn from_str(text: &str) -> Result<Self> {
        let pair = |separator| -> Option<(u8, u8)> {
            let (a, b) = text.split_once(separator)?;
            let (keep, of): (u8, u8) = (a.parse().ok()?, b.parse().ok()?);
            (0 < keep && keep < of).then_some((keep, of))
        };
        match (text, pair(':'), pair('/')) {
            ("dense", ..) => Ok(Self::Dense),
            ("none", ..) => Ok(Self::Removed),
            (_, Some((keep, of)), _) if SIDE.is_multiple_of(of.into()) => Ok(Self::OfEach { keep, of }),
            (_, _, Some((keep, of))) => Ok(Self::Best { keep, of }),
            _ => Err(Error::usage(format!("{text:?} is no tier")).next(
                "use \"dense\", \"2:4\" (2 of 4 neighbours stay; 2, 4, 8 or 16), \"1/4\" (the best quarter of a \
                 block) or \"none\"",
            )),
        }
    }
}

/// The tiers that blocks may be in: at least one, none twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tiers([Option<Tier>; MOST]);

impl Default for Tiers {
    /// Dense, 2:4, the best quarter, nothing.
    fn default() -> Self {
        let (two, quarter) = (Tier::OfEach { keep: 2, of: 4 }, Tier::Best { keep: 1, of: 4 });
        Self([Some(Tier::Dense), Some(two), Some(quarter), Some(Tier::Removed), None, None])
    }
}

impl Tiers {
    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = Tier> + '_ {
        self.0.iter().flatten().copied()
    }

    /// The smallest and the largest share of zeros that a mixture has.
    pub(super) fn range(&self) -> (f64, f64) {
        let shares = || self.all().map(Tier::sparsity);
        (shares().fold(1.0, f64::min), shares().fold(0.0, f64::max))
    }

    /// Errors: a share of zeros that no mixture has.
    pub(super) fn check(&self, sparsity: Sparsity) -> Result<()> {
        let (least, most) = self.range();
        if (least..=most).contains(&sparsity.get()) {
            return Ok(());
        }
        let problem =
            format!("tiers {self} leave out {least} to {most} of the weights, not {}", sparsity.get());
        Err(Error::usage(problem).next("allow \"dense\" and \"none\" too, or ask for another share"))
    }

    /// Errors: inputs that are not whole groups of the neighbours of a tier.
    pub(super) fn check_width(&self, cols: usize) -> Result<()> {
        self.all().try_for_each(|tier| match tier {
            Tier::OfEach { keep, of } => Pattern::neighbours(keep.into(), of.into(), cols).map(drop),
            Tier::Dense | Tier::Best { .. } | Tier::Removed => Ok(()),
        })
    }
}

impl fmt::Display for Tiers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.all().map(|tier| tier.to_string()).collect();
        f.write_str(&names.join(", "))
    }
}

impl FromStr for Tiers {
    type Err = Error;
    /// Tiers with commas between them.
    fn from_str(text: &str) -> Result<Self> {
        let mut tiers = [None; MOST];
        for (index, name) in text.split(',').enumerate() {
            let tier = name.trim().parse()?;
            if tiers.contains(&Some(tier)) || index == MOST {
                return Err(Error::usage(format!("tiers {text:?}"))
                    .next(format!("name each tier once, and at most {MOST} of them")));
            }
            tiers[index] = Some(tier);
        }
        Ok(Self(tiers))
    }
}

/// What each weight is worth, `[rows, cols]`: what is lost if it is left out, losses adding up.
#[derive(Debug, Clone, Copy)]
pub struct Losses<'a> {
    /// Row-major.
    pub data: &'a [f64],
    /// Inputs.
    pub cols: usize,
}

impl Losses<'_> {
    fn rows(&self) -> usize {
        self.data.len() / self.cols
    }
    fn across(&self) -> usize {
        self.cols.div_ceil(SIDE)
    }
    /// First row and first column of a block.
    fn corner(&self, index: usize) -> (usize, usize) {
        (index / self.across() * SIDE, index % self.across() * SIDE)
    }
    /// The losses of one block, and its columns.
    fn block(&self, index: usize) -> (Vec<f64>, usize) {
        let (top, left) = self.corner(index);
        let columns = left..self.cols.min(left + SIDE);
        let rows = top..self.rows().min(top + SIDE);
        (
            rows.flat_map(|row| &self.data[row * self.cols..][columns.clone()]).copied().collect(),
            columns.len(),
        )
    }
}

/// The tier of every block.
#[derive(Debug, Clone, PartialEq)]
pub struct Tiered {
    shape: (usize, usize),
    /// `[strip][block of the strip]`.
    pub tiers: Vec<Tier>,
    /// Zeros in all.
    pub zeros: usize,
    /// What is lost in all, as far as losses add up.
    pub loss: f64,
}

impl Tiered {
    /// Tiers of the blocks of a strip.
    pub(super) fn strip(&self, strip: usize) -> &[Tier] {
        let across = self.shape.1.div_ceil(SIDE);
        &self.tiers[strip * across..][..across]
    }

    /// The mask where each block keeps what is worth most.
    pub fn mask(&self, losses: Losses<'_>) -> Mask {
        let (rows, cols) = self.shape;
        let mut kept = vec![false; rows * cols];
        for (index, tier) in self.tiers.iter().enumerate() {
            let (worth, width) = losses.block(index);
            let (top, left) = losses.corner(index);
            for (row, of_row) in tier.keep(&worth, width).chunks_exact(width).enumerate() {
                kept[(top + row) * cols + left..][..width].copy_from_slice(of_row);
            }
        }
        Mask::new(cols, kept)
    }
}

/// A block in one of its tiers.
#[derive(Debug, Clone, Copy)]
struct Point {
    tier: Tier,
    zeros: usize,
    loss: f64,
}

/// From one corner of a block's hull to the next.
#[derive(Debug, Clone, Copy)]
struct Step {
    block: usize,
    from: Point,
    to: Point,
}

impl Step {
    /// Loss per zero.
    fn slope(&self) -> f64 {
        (self.to.loss - self.from.loss) / (self.to.zeros - self.from.zeros) as f64
    }
}

/// The lower convex hull of a block's points, by rising zeros; never empty.
fn hull(tiers: Tiers, worth: &[f64], cols: usize) -> Vec<Point> {
    let point = |tier: Tier| {
        let kept = tier.keep(worth, cols);
        let gone = worth.iter().zip(&kept).filter(|(_, kept)| !**kept);
        let (zeros, loss) = gone.fold((0, 0.0), |(zeros, loss), (w, _)| (zeros + 1, loss + w));
        Point { tier, zeros, loss }
    };
    let mut points: Vec<Point> = tiers.all().map(point).collect();
    points.sort_by(|a, b| a.zeros.cmp(&b.zeros).then(a.loss.total_cmp(&b.loss)));
    points.dedup_by_key(|point| point.zeros);
    let mut hull: Vec<Point> = Vec::with_capacity(points.len());
    for next in points {
        let step = |from: Point, to: Point| Step { block: 0, from, to }.slope();
        while let [.., a, b] = hull[..]
            && step(a, b) >= step(b, next)
        {
            hull.pop();
        }
        hull.push(next);
    }
    hull
}

/// Chooses the tier of every block; `least` blocks of each strip of rows and of columns are not removed.
/// The number of zeros is that of the sparsity, or less than a block under it, unless the floors forbid it.
///
/// Errors: inputs that are not whole groups of neighbours; a share that the tiers cannot have.
pub fn choose(
    tiers: Tiers,
    losses: Losses<'_>,
    (sparsity, least): (Sparsity, usize),
    threads: Threads,
) -> Result<Tiered> {
    tiers.check(sparsity)?;
    tiers.check_width(losses.cols)?;
    let (rows, across) = (losses.rows(), losses.across());
    let hulls = threads.map(rows.div_ceil(SIDE), |strip| -> Vec<Vec<Point>> {
        let of_block = |index| {
            let (worth, cols) = losses.block(index);
            hull(tiers, &worth, cols)
        };
        (strip * across..(strip + 1) * across).map(of_block).collect()
    });
    let hulls: Vec<Vec<Point>> = hulls.into_iter().flatten().collect();
    let mut at: Vec<Point> = hulls.iter().map(|hull| hull[0]).collect();
    descend(&mut at, steps(&hulls), (across, least), sparsity.zeros(losses.data.len()));
    Ok(Tiered {
        shape: (rows, losses.cols),
        zeros: at.iter().map(|point| point.zeros).sum(),
        loss: at.iter().map(|point| point.loss).sum(),
        tiers: at.into_iter().map(|point| point.tier).collect(),
    })
}

/// All steps by rising slope; of equal ones that of the earlier block, and the earlier of a block, comes first.
fn steps(hulls: &[Vec<Point>]) -> Vec<Step> {
    let of_block = |(block, hull): (usize, &Vec<Point>)| -> Vec<Step> {
        hull.windows(2).map(|pair| Step { block, from: pair[0], to: pair[1] }).collect()
    };
    let mut steps: Vec<Step> = hulls.iter().enumerate().flat_map(of_block).collect();
    let order = |a: &Step, b: &Step| -> Ordering {
        a.slope().total_cmp(&b.slope()).then(a.block.cmp(&b.block)).then(a.to.zeros.cmp(&b.to.zeros))
    };
    steps.sort_by(order);
    steps
}

/// Takes steps until the next would leave out more than `zeros`.
fn descend(at: &mut [Point], steps: Vec<Step>, (across, least): (usize, usize), zeros: usize) {
    let mut total: usize = at.iter().map(|point| point.zeros).sum();
    let there = |at: &[Point], places: &mut dyn Iterator<Item = usize>| {
        places.filter(|&place| at[place].tier != Tier::Removed).count()
    };
    for step in steps {
        let more = step.to.zeros - step.from.zeros;
        if total + more > zeros {
            break;
        }
        if step.to.tier == Tier::Removed {
            let (strip, column) = (step.block / across, step.block % across);
            let in_strip = there(at, &mut (strip * across..(strip + 1) * across));
            let in_column = there(at, &mut (column..at.len()).step_by(across));
            if in_strip <= least || in_column <= least {
                continue;
            }
        }
        total += more;
        at[step.block] = step.to;
    }
}
