//! f32 keys and values of one layer. Knows no rounding and no length.
//!
//! Keys lie in blocks of 16 positions, `[position / 16][head][d][16]`: the scores of 16
//! positions are then plain multiply-adds over `d`, one lane a position, and no vector
//! is ever summed across. Values lie as `[position][head][d]`, `d` padded to 16.

#[cfg(test)]
use crate::aligned::Line;
use crate::aligned::{Aligned, numbers, numbers_mut};
use crate::memory::OutOfMemory;

/// Positions in a block of keys; also the padding of a value row.
pub(super) const BLOCK: usize = 16;

/// Keys and values, f32.
#[derive(Clone)]
pub(super) struct Rows {
    kv_heads: usize,
    head_dim: usize,
    keys: Aligned,
    values: Aligned,
}

impl Rows {
    pub(super) fn new(kv_heads: usize, head_dim: usize) -> Self {
        Self { kv_heads, head_dim, keys: Aligned::new(), values: Aligned::new() }
    }

    pub(super) fn position_bytes(&self) -> usize {
        (self.kv_heads * self.head_dim + self.value_stride()) * size_of::<f32>()
    }

    /// Makes room for `end` positions; grows by half, never beyond the capacity.
    pub(super) fn grow(&mut self, end: usize, capacity: usize) -> Result<(), OutOfMemory> {
        let per_block = self.kv_heads * self.head_dim;
        let held = self.keys.room() / per_block * BLOCK;
        if end > held {
            let room = end.max(held + held / 2).min(capacity).next_multiple_of(BLOCK);
            self.keys.reserve(room / BLOCK * per_block)?;
            self.values.reserve(room * self.value_stride() / BLOCK)?;
        }
        self.keys.extend(end.div_ceil(BLOCK) * per_block);
        self.values.extend(end * self.value_stride() / BLOCK);
        Ok(())
    }

    /// Writes keys `[m, kv_heads * head_dim]` of the positions from `start` on; there is room.
    pub(super) fn put_keys(&mut self, start: usize, k: &[f32]) {
        let width = self.kv_heads * self.head_dim;
        let end = start + k.len() / width;
        let keys = numbers_mut::<f32>(self.keys.lines(end.div_ceil(BLOCK) * width));
        for (position, k) in (start..).zip(k.chunks_exact(width)) {
            let block = &mut keys[position / BLOCK * width * BLOCK..][..width * BLOCK];
            for (k, lanes) in k.iter().zip(block.chunks_exact_mut(BLOCK)) {
                lanes[position % BLOCK] = *k;
            }
        }
    }

    /// Writes values, of the same shape.
    pub(super) fn put_values(&mut self, start: usize, v: &[f32]) {
        let (dim, stride) = (self.head_dim, self.value_stride());
        let width = self.kv_heads * dim;
        let end = start + v.len() / width;
        let values = numbers_mut::<f32>(self.values.lines(end * stride / BLOCK));
        for (position, v) in (start..).zip(v.chunks_exact(width)) {
            let rows = values[position * stride..][..stride].chunks_exact_mut(dim.next_multiple_of(BLOCK));
            for (v, row) in v.chunks_exact(dim).zip(rows) {
                row[..dim].copy_from_slice(v);
            }
        }
    }

    /// Where the buffers lie.
    #[cfg(test)]
    pub(super) fn places(&self) -> [*const Line; 2] {
        [self.keys.all().as_ptr(), self.values.all().as_ptr()]
    }
    /// One number of a key.
    pub(super) fn key(&self, head: usize, position: usize, d: usize) -> f32 {
        self.key_block(position / BLOCK, head)[d * BLOCK + position % BLOCK]
    }
    /// One number of a value.
    pub(super) fn value(&self, head: usize, position: usize, d: usize) -> f32 {
        self.value_rows(head)[position * self.value_stride() + d]
    }
    /// Lines of the buffers.
    pub(super) fn lines(&self) -> usize {
        self.keys.all().len() + self.values.all().len()
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
