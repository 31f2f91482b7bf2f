//! Causal attention with a cache, grouped heads, sliding window and capped scores:
//! `s[t] = scale q . k_t`, capped as `c tanh(s / c)`; `out = sum_t softmax(s)_t v_t` over
//! the positions `t` that the query may see. Knows no rotation and no projection.
//!
//! A query's arithmetic is fixed by its own position: scores are multiply-adds in the
//! order of `d`, exponentials are summed in lanes by absolute position, values are
//! added in the order of positions. Which queries share a tile changes which loads
//! are shared and nothing else, so one step and a long prompt give the same bits.

mod cache;
pub mod scalar;
mod tile;

pub use cache::{CacheFull, KvLayer};

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
    let AttentionParams { heads, kv_heads, head_dim, .. } = *params;
    let width = heads * head_dim;
    assert!(width > 0 && q.len().is_multiple_of(width), "{} values are no rows of {width}", q.len());
    assert_eq!(out.len(), q.len());
    assert_eq!((cache.kv_heads(), cache.head_dim()), (kv_heads, head_dim), "cache of another shape");
    assert!(heads.is_multiple_of(kv_heads), "{heads} heads do not share {kv_heads}");
    assert!(params.window != Some(0), "a window of no positions");
    let m = q.len() / width;
    assert!(m == 0 || start.checked_add(m).is_some_and(|end| end <= cache.len()), "keys are missing");
    let rows = m * (heads / kv_heads);
    let tiles = rows.div_ceil(TASK_ROWS);
    let out = Disjoint::new(out);
    cpu.pool.run(tiles * kv_heads, &|task| {
        // The last queries see the most keys: they go first, so that threads end together.
        let (tile, head) = (tiles - 1 - task / kv_heads, task % kv_heads);
        let first = tile * TASK_ROWS;
        let rows = first..(first + TASK_ROWS).min(rows);
        tile::run(cpu.isa, tile::Task { q, start, cache, params, head, rows, out: &out });
    });
}

#[cfg(test)]
mod tests;
