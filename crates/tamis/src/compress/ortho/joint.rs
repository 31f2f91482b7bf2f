//! Joint ortho: outliers leave the base while it is being made, so that neither the grids
//! nor the error compensation have to carry them. Best at alpha = 1; the base alone is
//! *not* the plain base. It knows nothing about alpha.
//!
//! SpQR (Dettmers 2023, arXiv 2306.03078), with a budget in place of its threshold. The
//! caller refits the values once the base is final (`least_squares.rs`): 0.3-5 % less error
//! on synthetic layers.

use half::f16;

use super::SparseRow;
use super::select::{row_of, top_entries};
use crate::compress::codes::{CodedStrip, StripGrids};
use crate::compress::fit::fit;
use crate::compress::gptq::{self, Fitting, Task};
use crate::compress::grid::GridSpec;
use crate::compress::lanes::{LANES, Lanes, Weights, each};
use crate::compress::order::Order;
use crate::compress::sweep::{Column, Decide, sweep};
use crate::compress::threads::Threads;

/// A base and the stream it was made with.
pub type Joint = (Vec<CodedStrip>, Vec<SparseRow>);

/// Most entries of one group that are tried as the cause of a wide grid.
const SUSPECTS: usize = 8;

/// Sweeps twice: once to find the `budget` entries that cost most, once without them.
//
// SpQR takes a weight out when its price (w - q)^2 / U_jj^2 exceeds a threshold during
// the sweep, and when leaving it out of the grid fit lowers its group's loss enough. Both
// are prices in the layer's loss, so every entry gets the larger of the two: the first as
// a plain sweep finds it, the second on the original weights. The `budget` highest of the
// whole matrix become holes, and a second sweep fits its grids without them and passes on
// no error from them. A threshold guessed beforehand could exceed the budget; this cannot.
pub fn quantise(task: &Task<'_>, budget: usize, threads: Threads) -> Joint {
    let w = task.w;
    let suspects = (2 * budget * task.spec.group.length(w.cols)).div_ceil(w.rows * w.cols).min(SUSPECTS);
    let scores = threads.map(w.strips(), |strip| scores(task, suspects, strip)).concat();
    let scores = Weights { data: &scores, ..w };
    let chosen = top_entries((w.rows, w.cols), budget, &|row, out| row_of(&scores, row, out), threads);
    let hollow = |strip| hollow_strip(task, &chosen[w.rows_of(strip)], strip);
    let (strips, rows): (Vec<_>, Vec<_>) = threads.map(w.strips(), hollow).into_iter().unzip();
    (strips, rows.concat())
}

/// Scores of a strip, row-major.
fn scores(task: &Task<'_>, suspects: usize, strip: usize) -> Vec<f32> {
    let Task { w, spec, factored, .. } = *task;
    let mut scores = savings(&w.gather(strip, &Order::natural(w.cols)), &factored.price, spec, suspects);
    let (_, e) = gptq::sweep_strip(task, strip);
    for (position, e) in e.iter().enumerate() {
        let score = &mut scores[factored.u.order().original(position)];
        *score = each(|l| score[l].max(e[l] * e[l]));
    }
    (0..w.rows_of(strip).len()).flat_map(|l| scores.iter().map(move |s| s[l])).collect()
}

/// What taking each group's widest entries out of its grid fit saves, one after the other.
fn savings(columns: &[Lanes], price: &[f32], spec: &GridSpec, suspects: usize) -> Vec<Lanes> {
    let group = spec.group.length(columns.len());
    let mut savings = vec![[0.0; LANES]; columns.len()];
    let parts = columns.chunks(group).zip(price.chunks(group)).zip(savings.chunks_mut(group));
    for ((columns, price), savings) in parts {
        let mut rest = columns.to_vec();
        let mut loss = fit(&rest, price, spec).loss;
        for _ in 0..suspects {
            let widest = widest(&rest);
            (0..LANES).for_each(|l| rest[widest[l]][l] = 0.0);
            let without = fit(&rest, price, spec).loss;
            (0..LANES).for_each(|l| savings[widest[l]][l] = (loss[l] - without[l]).max(0.0));
            loss = without;
        }
    }
    savings
}

/// Position of each lane's largest magnitude.
fn widest(columns: &[Lanes]) -> [usize; LANES] {
    std::array::from_fn(|l| {
        let size = |j: &usize| columns[*j][l].abs();
        (0..columns.len()).max_by(|a, b| size(a).total_cmp(&size(b))).unwrap_or(0)
    })
}

/// A decision in which some entries leave the base.
struct Hollow<'a> {
    grids: StripGrids<'a>,
    fitting: Fitting,
    holes: &'a [u16], // by original column, one bit a lane
    stream: Vec<SparseRow>,
}

/// Zero lies on every grid, so an entry set to zero has no say in its fit.
fn without_holes(columns: &[Lanes], holes: &[u16]) -> Vec<Lanes> {
    let hollow = |(w, hole): (&Lanes, &u16)| each(|l| if hole >> l & 1 == 1 { 0.0 } else { w[l] });
    columns.iter().zip(holes).map(hollow).collect()
}

impl Decide for Hollow<'_> {
    fn enter(&mut self, at: usize, ahead: &[Lanes]) {
        match self.fitting {
            Fitting::Before => {}
            Fitting::OnEntry => {
                self.grids.fit_next(&without_holes(ahead, &self.holes[at..]));
            }
        }
    }

    /// A hole keeps its nearest code and the stream holds the rest, rounded to f16, so
    /// that what little error the rounding makes is compensated too.
    fn decide(&mut self, at: Column, w: &Lanes) -> Lanes {
        let mut q = self.grids.round(at.original, w);
        for l in (0..LANES).filter(|l| self.holes[at.original] >> l & 1 == 1) {
            let s = f16::from_f32(w[l] - q[l]).to_f32();
            self.stream[l].0.push(at.original as u32);
            self.stream[l].1.push(s);
            q[l] += s;
        }
        q
    }
}

/// Quantises a strip of which `chosen` (columns by row) leave the base.
fn hollow_strip(task: &Task<'_>, chosen: &[Vec<u32>], strip: usize) -> (CodedStrip, Vec<SparseRow>) {
    let Task { w, spec, h, factored, fitting } = *task;
    let mut holes = vec![0u16; w.cols];
    for (lane, columns) in chosen.iter().enumerate() {
        columns.iter().for_each(|&j| holes[j as usize] |= 1 << lane);
    }
    let mut grids = StripGrids::new(spec, h);
    if fitting == Fitting::Before {
        grids.fit_all(&without_holes(&w.gather(strip, &Order::natural(w.cols)), &holes));
    }
    let block = fitting.block(grids.group());
    let stream = vec![SparseRow::default(); LANES];
    let mut hollow = Hollow { grids, fitting, holes: &holes, stream };
    sweep(&mut w.gather(strip, factored.u.order()), &factored.u, block, &mut hollow);
    hollow.stream.truncate(chosen.len());
    (hollow.grids.finish(chosen.len()), hollow.stream)
}
