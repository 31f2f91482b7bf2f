//! The queries of a call, and tiles of them. Knows no keys.
//!
//! A row is one query of one head of the group that shares a head of keys and values; row
//! `r` is query `r / group`, so neighbours see almost the same keys.

use std::ops::Range;

use super::{AttentionParams, KvLayer};

/// Queries `[m, heads * head_dim]` at positions `start, start + step, ...`.
#[derive(Clone, Copy)]
pub(super) struct Queries<'a> {
    q: &'a [f32],
    start: usize,
    step: usize,
    pub(super) params: &'a AttentionParams,
}

/// Some rows of one head of keys and values.
#[derive(Clone)]
pub(super) struct Tile<'a> {
    queries: Queries<'a>,
    pub(super) params: &'a AttentionParams,
    /// Head of keys and values.
    pub(super) head: usize,
    pub(super) rows: Range<usize>,
}

impl<'a> Queries<'a> {
    /// # Panics
    /// If shapes do not agree or the cache ends before the last query.
    pub(super) fn of(
        q: &'a [f32],
        (start, step): (usize, usize),
        cache: &KvLayer,
        params: &'a AttentionParams,
    ) -> Self {
        let AttentionParams { heads, kv_heads, head_dim, .. } = *params;
        let width = heads * head_dim;
        assert!(width > 0 && q.len().is_multiple_of(width), "{} values are no rows of {width}", q.len());
        assert_eq!((cache.kv_heads(), cache.head_dim()), (kv_heads, head_dim), "cache of another shape");
        assert!(heads.is_multiple_of(kv_heads), "{heads} heads do not share {kv_heads}");
        assert!(params.window != Some(0), "a window of no positions");
        assert!(step > 0, "queries at one position");
        let m = q.len() / width;
        let last = |m: usize| (m - 1).checked_mul(step).and_then(|way| way.checked_add(start));
        assert!(m == 0 || last(m).is_some_and(|last| last < cache.len()), "keys are missing");
        Self { q, start, step, params }
    }

    /// Query heads that share a head of keys and values.
    pub(super) fn group(&self) -> usize {
        self.params.heads / self.params.kv_heads
    }
    /// Rows of one head of keys and values.
    pub(super) fn rows(&self) -> usize {
        self.q.len() / (self.params.kv_heads * self.params.head_dim)
    }
    /// Rows `tile * tall` to `(tile + 1) * tall`, as far as there are any.
    pub(super) fn tile(&self, tile: usize, head: usize, tall: usize) -> Tile<'a> {
        let rows = tile * tall..((tile + 1) * tall).min(self.rows());
        Tile { queries: *self, params: self.params, head, rows }
    }
}

impl<'a> Tile<'a> {
    /// Index in `q` and `out` of the first number of a row of the tile.
    pub(super) fn offset(&self, row: usize) -> usize {
        let (row, group) = (self.rows.start + row, self.queries.group());
        let (query, member) = (row / group, row % group);
        (query * self.params.heads + self.head * group + member) * self.params.head_dim
    }
    /// The query of a row.
    pub(super) fn query(&self, row: usize) -> &'a [f32] {
        &self.queries.q[self.offset(row)..][..self.params.head_dim]
    }
    /// Positions that a row sees.
    pub(super) fn visible(&self, row: usize) -> Range<usize> {
        let query = (self.rows.start + row) / self.queries.group();
        let end = self.queries.start + query * self.queries.step + 1;
        self.params.window.map_or(0, |window| end.saturating_sub(window))..end
    }
    /// Positions that any row sees; there is a row.
    pub(super) fn reach(&self) -> Range<usize> {
        self.visible(0).start..self.visible(self.rows.len() - 1).end
    }
}
