//! Picks the entries of a matrix with the highest scores, whichever rows they lie in.
//! It knows nothing about what a score means.
//!
//! The global budget of SpQR (Dettmers 2023, arXiv 2306.03078): hard rows get more.

use crate::compress::lanes::Weights;
use crate::compress::threads::Threads;

/// Rows of one task.
const ROWS: usize = 16;
/// Buckets by the top 12 bits of a non-negative f32: eight to an octave.
const BUCKETS: usize = 1 << 11;

fn bucket(score: f32) -> usize {
    (score.to_bits() >> 20) as usize
}

/// The `count` entries of a `[rows, cols]` matrix with the highest positive score, as
/// columns by row, ascending; `score(row, out)` writes a row's scores (none negative).
/// Equal scores go to the lower row, then the lower column.
//
// Positive floats order as their bits do. A histogram of the top bits finds the bucket
// that holds the count-th score; everything above it is taken, only it is sorted. Scores
// are computed twice rather than stored.
pub fn top_entries(
    shape: (usize, usize),
    count: usize,
    score: &(dyn Fn(usize, &mut [f32]) + Sync),
    threads: Threads,
) -> Vec<Vec<u32>> {
    let (rows, cols) = shape;
    let visit = |task: usize, see: &mut dyn FnMut(u32, u32, f32)| {
        let mut scores = vec![0.0; cols];
        for row in task * ROWS..rows.min((task + 1) * ROWS) {
            score(row, &mut scores);
            scores.iter().enumerate().for_each(|(col, &s)| see(row as u32, col as u32, s));
        }
    };
    let tasks = rows.div_ceil(ROWS);
    let mut histogram = vec![0usize; BUCKETS];
    for part in threads.map(tasks, |task| {
        let mut part = vec![0u32; BUCKETS];
        visit(task, &mut |_, _, s| part[bucket(s)] += 1);
        part
    }) {
        histogram.iter_mut().zip(part).for_each(|(sum, n)| *sum += n as usize);
    }
    let edge = lowest_bucket(&histogram, count);
    let mut found: Vec<(f32, u32, u32)> = threads
        .map(tasks, |task| {
            let mut found = Vec::new();
            visit(task, &mut |row, col, s| {
                if s > 0.0 && bucket(s) >= edge {
                    found.push((s, row, col));
                }
            });
            found
        })
        .concat();
    by_row(&mut found, rows, count)
}

/// The first `count` of `(score, row, column)` by falling score, as columns by row.
fn by_row(found: &mut [(f32, u32, u32)], rows: usize, count: usize) -> Vec<Vec<u32>> {
    found.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let mut chosen = vec![Vec::new(); rows];
    for &(_, row, col) in found.iter().take(count) {
        chosen[row as usize].push(col);
    }
    chosen.iter_mut().for_each(|columns| columns.sort_unstable());
    chosen
}

/// The highest bucket at or above which at least `count` entries lie.
fn lowest_bucket(histogram: &[usize], count: usize) -> usize {
    let mut above = 0;
    for bucket in (0..histogram.len()).rev() {
        above += histogram[bucket];
        if above >= count {
            return bucket;
        }
    }
    0
}

/// Writes a row of a matrix as scores.
pub fn row_of(scores: &Weights<'_>, row: usize, out: &mut [f32]) {
    out.copy_from_slice(&scores.data[row * scores.cols..][..scores.cols]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::synthetic::Normal;

    #[test]
    fn takes_exactly_the_best_entries() {
        let (rows, cols) = (37, 21);
        let mut normal = Normal::new(1);
        // Rounding makes ties, which must fall to the lower row and column.
        let data: Vec<f32> = (0..rows * cols).map(|_| (4.0 * normal.next().abs()).round()).collect();
        let scores = Weights { data: &data, rows, cols };
        let mut order: Vec<usize> = (0..rows * cols).filter(|&i| data[i] > 0.0).collect();
        order.sort_by(|&a, &b| data[b].total_cmp(&data[a]).then(a.cmp(&b)));
        for count in [0, 1, 10, 100, 10_000] {
            let chosen = top_entries((rows, cols), count, &|r, out| row_of(&scores, r, out), Threads::ONE);
            let mut flat: Vec<usize> = chosen
                .iter()
                .enumerate()
                .flat_map(|(r, c)| c.iter().map(move |&c| r * cols + c as usize))
                .collect();
            let mut wanted = order[..count.min(order.len())].to_vec();
            flat.sort_unstable();
            wanted.sort_unstable();
            assert_eq!(flat, wanted, "{count}");
        }
    }
}
