//! Keys and values of one layer.
//!
//! Keys lie in blocks of 16 positions, `[position / 16][head][d][16]`: the scores of 16
//! positions are then plain multiply-adds over `d`, one lane a position, and no vector
//! is ever summed across. Values lie as `[position][head][d]`, `d` padded to 16.

use crate::aligned::{Aligned, numbers, numbers_mut};

/// Positions in a block of keys; also the padding of a value row.
pub(super) const BLOCK: usize = 16;

/// The cache has no room for more positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheFull {
    /// Positions asked for.
    pub wanted: usize,
    /// Positions there may be.
    pub capacity: usize,
}

impl std::fmt::Display for CacheFull {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { wanted, capacity } = self;
        write!(f, "the key-value cache holds {capacity} positions, {wanted} are wanted")
    }
}

impl std::error::Error for CacheFull {}

/// Keys and values of one layer. Memory grows with what is in it.
#[derive(Clone)]
pub struct KvLayer {
    kv_heads: usize,
    head_dim: usize,
    capacity: usize,
    len: usize,
    keys: Aligned,
    values: Aligned,
}

impl std::fmt::Debug for KvLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kv_heads, head_dim, capacity, len, .. } = self;
        write!(f, "KvLayer {{ {kv_heads} heads of {head_dim}, {len} of {capacity} positions }}")
    }
}

impl KvLayer {
    /// An empty cache for at most `capacity` positions.
    ///
    /// # Panics
    /// If a head has no width or there is none.
    pub fn new(kv_heads: usize, head_dim: usize, capacity: usize) -> Self {
        assert!(kv_heads > 0 && head_dim > 0, "{kv_heads} heads of {head_dim}");
        Self { kv_heads, head_dim, capacity, len: 0, keys: Aligned::new(), values: Aligned::new() }
    }

    /// Adds `m` positions: `k` and `v` are `[m, kv_heads * head_dim]`.
    ///
    /// # Panics
    /// If `k` and `v` are not the same whole number of rows.
    pub fn append(&mut self, k: &[f32], v: &[f32]) -> Result<(), CacheFull> {
        let width = self.kv_heads * self.head_dim;
        assert!(k.len().is_multiple_of(width) && k.len() == v.len(), "keys are no rows of {width}");
        let end = self.len + k.len() / width;
        if end > self.capacity {
            return Err(CacheFull { wanted: end, capacity: self.capacity });
        }
        self.grow(end);
        let (dim, stride) = (self.head_dim, self.value_stride());
        let keys = numbers_mut::<f32>(self.keys.lines(end.div_ceil(BLOCK) * width));
        let values = numbers_mut::<f32>(self.values.lines(end * stride / BLOCK));
        let padded = dim.next_multiple_of(BLOCK);
        for (i, (k, v)) in k.chunks_exact(width).zip(v.chunks_exact(width)).enumerate() {
            let position = self.len + i;
            let block = &mut keys[position / BLOCK * width * BLOCK..][..width * BLOCK];
            for (k, lanes) in k.iter().zip(block.chunks_exact_mut(BLOCK)) {
                lanes[position % BLOCK] = *k;
            }
            let rows = values[position * stride..][..stride].chunks_exact_mut(padded);
            for (v, row) in v.chunks_exact(dim).zip(rows) {
                row[..dim].copy_from_slice(v);
            }
        }
        self.len = end;
        Ok(())
    }

    /// Room for `end` positions; grows by half, never beyond the capacity.
    fn grow(&mut self, end: usize) {
        let per_block = self.kv_heads * self.head_dim;
        let held = self.keys.all().len() / per_block * BLOCK;
        if end > held {
            let room = end.max(held + held / 2).min(self.capacity.next_multiple_of(BLOCK));
            self.keys.reserve(room.div_ceil(BLOCK) * per_block);
            self.values.reserve(room * self.value_stride() / BLOCK);
        }
        self.keys.extend(end.div_ceil(BLOCK) * per_block);
        self.values.extend(end * self.value_stride() / BLOCK);
    }

    /// Positions held.
    pub fn len(&self) -> usize {
        self.len
    }
    /// Whether no position is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Most positions there may be.
    pub fn capacity(&self) -> usize {
        self.capacity
    }
    /// Heads of keys and values.
    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }
    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }
    /// Forgets all positions from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
    /// Forgets everything; keeps the memory.
    pub fn reset(&mut self) {
        self.len = 0;
    }
    /// Bytes of the buffers.
    pub fn bytes(&self) -> usize {
        (self.keys.all().len() + self.values.all().len()) * BLOCK * size_of::<f32>()
    }
    /// Bytes that attention reads for one position: its keys, and its values with their padding.
    pub fn position_bytes(&self) -> usize {
        (self.kv_heads * self.head_dim + self.value_stride()) * size_of::<f32>()
    }
    /// One number of a key.
    pub fn key(&self, head: usize, position: usize, d: usize) -> f32 {
        assert!(position < self.len && head < self.kv_heads && d < self.head_dim);
        self.key_block(position / BLOCK, head)[d * BLOCK + position % BLOCK]
    }
    /// One number of a value.
    pub fn value(&self, head: usize, position: usize, d: usize) -> f32 {
        assert!(position < self.len && head < self.kv_heads && d < self.head_dim);
        self.value_rows(head)[position * self.value_stride() + d]
    }

    /// Keys of one head in one block, `[d][16]`.
    pub(super) fn key_block(&self, block: usize, head: usize) -> &[f32] {
        let size = self.head_dim * BLOCK;
        &numbers::<f32>(self.keys.all())[(block * self.kv_heads + head) * size..][..size]
    }
    /// Numbers from one position to the next.
    pub(super) fn value_stride(&self) -> usize {
        self.kv_heads * self.head_dim.next_multiple_of(BLOCK)
    }
    /// Values from the first position of one head on.
    pub(super) fn value_rows(&self, head: usize) -> &[f32] {
        &numbers::<f32>(self.values.all())[head * self.head_dim.next_multiple_of(BLOCK)..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linear::noise;

    #[test]
    fn what_goes_in_comes_out_and_truncation_forgets() {
        for (heads, dim) in [(1, 8), (2, 16), (3, 5), (1, 80)] {
            let width = heads * dim;
            let (k, v) = (noise(37 * width, 1), noise(37 * width, 2));
            let mut cache = KvLayer::new(heads, dim, 40);
            for (k, v) in k.chunks(5 * width).zip(v.chunks(5 * width)) {
                cache.append(k, v).unwrap();
            }
            cache.truncate(20);
            cache.append(&k[20 * width..], &v[20 * width..]).unwrap();
            for i in 0..37 * width {
                let (position, head, d) = (i / width, i % width / dim, i % dim);
                assert_eq!((cache.key(head, position, d), cache.value(head, position, d)), (k[i], v[i]));
            }
            // 37 positions fill 3 blocks of keys, whose last 11 places are empty
            let held = 37 * cache.position_bytes() + 11 * width * size_of::<f32>();
            assert_eq!(cache.bytes(), held);
            let full = cache.append(&k[..4 * width], &v[..4 * width]).unwrap_err();
            assert_eq!((full.wanted, full.capacity, cache.len()), (41, 40, 37));
            cache.reset();
            assert!(cache.is_empty() && cache.append(&k, &v).is_ok());
        }
    }
}
