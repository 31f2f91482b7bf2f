//! Causal attention with a cache, grouped heads, sliding window and capped scores:
//! `s[t] = scale q . k_t`, capped as `c tanh(s / c)`; `out = sum_t softmax(s)_t v_t` over
//! the positions `t` that the query may see. Knows no rotation and no projection.
//!
//! A query's arithmetic is fixed by its own position: scores are multiply-adds in the
//! order of `d`, exponentials are summed in lanes by absolute position, values are
//! added in the order of positions. Which queries share a tile changes which loads
//! are shared and nothing else, so one step and a long prompt give the same bits.
//!
//! An f32 cache goes through `tile`, all scores of a row at once; the compact types go
//! through `flash`, block by block.

mod blocks;
mod cache;
mod flash;
mod gradient;
mod queries;
mod rows;
pub mod scalar;
mod tile;

pub use cache::{CacheFull, CacheType, KvLayer};
pub use gradient::{Sequence, SequenceGradient, attend_gradient};

use cache::Store;
use queries::Queries;

use crate::pool::{Cpu, Disjoint};

/// Shape and rule of the attention of one layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionParams {
    /// Query heads.
    pub heads: usize,
    /// Heads of keys and values; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Factor on the scores, commonly `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Scores are kept within plus and minus this, by tanh.
    pub softcap: Option<f32>,
    /// A query sees itself and the `window - 1` positions before it.
    pub window: Option<usize>,
}

/// Query rows (query times head of a group) in a task.
const TASK_ROWS: usize = 32;

/// Attention of queries `q [m, heads * head_dim]`, the first at position `start`, over
/// a cache that already holds their own keys; writes `out`, of the same shape.
///
/// # Panics
/// If shapes do not agree or the cache ends before the last query.
pub fn attend(
    cpu: &Cpu,
    q: &[f32],
    start: usize,
    cache: &KvLayer,
    params: &AttentionParams,
    out: &mut [f32],
) {
    assert_eq!(out.len(), q.len());
    let queries = Queries::of(q, (start, 1), cache, params);
    let rows = match cache.store() {
        Store::Rows(rows) => rows,
        Store::Blocks(blocks) => return flash::attend(cpu, queries, blocks, out),
    };
    let tiles = queries.rows().div_ceil(TASK_ROWS);
    let out = Disjoint::new(out);
    cpu.pool.run(tiles * params.kv_heads, &|task| {
        // The last queries see the most keys: they go first, so that threads end together.
        let (tile, head) = (tiles - 1 - task / params.kv_heads, task % params.kv_heads);
        let task = tile::Task { tile: queries.tile(tile, head, TASK_ROWS), cache: rows };
        tile::run(cpu.isa, task, tile::Sink::Values(&out));
    });
}

/// The attention that every position of the cache receives: `out[t]` is the sum of
/// `softmax(s)_t` over all heads of the queries `q [m, heads * head_dim]`, which stand at
/// `start, start + step, ...`. The values in the cache are not looked at. The sum over
/// all positions is `m * heads`.
///
/// # Panics
/// If shapes do not agree, `out` is not one number for each position of the cache, or the
/// cache ends before the last query.
pub fn received(
    cpu: &Cpu,
    q: &[f32],
    (start, step): (usize, usize),
    cache: &KvLayer,
    params: &AttentionParams,
    out: &mut [f32],
) {
    assert_eq!(out.len(), cache.len());
    let queries = Queries::of(q, (start, step), cache, params);
    let decoded;
    let keys = match cache.store() {
        Store::Rows(rows) => rows,
        Store::Blocks(blocks) => {
            decoded = blocks.plain_keys(cache.len());
            &decoded
        }
    };
    let tiles = queries.rows().div_ceil(TASK_ROWS);
    // One row of sums a task, added in the order of tasks: no sum depends on the threads.
    let mut parts = vec![0.0; tiles * out.len()];
    let rows = Disjoint::new(&mut parts);
    cpu.pool.run(tiles, &|task| {
        let tile = tiles - 1 - task;
        // SAFETY: every tile belongs to one task.
        let sums = unsafe { rows.slice(tile * out.len(), out.len()) };
        for head in 0..params.kv_heads {
            let task = tile::Task { tile: queries.tile(tile, head, TASK_ROWS), cache: keys };
            tile::run(cpu.isa, task, tile::Sink::Received(sums));
        }
    });
    out.fill(0.0);
    for part in parts.chunks_exact(out.len().max(1)) {
        out.iter_mut().zip(part).for_each(|(out, sum)| *out += sum);
    }
}

#[cfg(test)]
mod tests;
