//! Keys and values of one layer: how many there are, and in which type they are kept.
//! Where a number lies is known to `rows` (f32) and `blocks` (the compact types).

use std::str::FromStr;

use super::blocks::{Blocks, Code};
use super::rows::Rows;
use crate::memory::{OutOfMemory, tried};

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

/// The type of the numbers in a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CacheType {
    /// 32 bits, as they come.
    F32,
    /// bfloat16: 8 bits of precision, the range of f32.
    Bf16,
    /// IEEE half: 11 bits of precision, up to 65504.
    F16,
    /// 8 bits and an f32 scale for each position and head, its largest magnitude / 127.
    Int8,
}

impl CacheType {
    /// All types, the most precise first.
    pub const ALL: [Self; 4] = [Self::F32, Self::F16, Self::Bf16, Self::Int8];
}

impl std::fmt::Display for CacheType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::Int8 => "int8",
        })
    }
}

impl FromStr for CacheType {
    type Err = String;
    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|kind| kind.to_string() == name);
        found.ok_or_else(|| format!("unknown cache type {name:?}: use one of f32, bf16, f16, int8"))
    }
}

/// Keys and values of one layer. Memory grows with what is in it.
#[derive(Clone)]
pub struct KvLayer {
    kv_heads: usize,
    head_dim: usize,
    capacity: usize,
    len: usize,
    kind: CacheType,
    store: Store,
}

/// Where the numbers are.
#[derive(Clone)]
pub(super) enum Store {
    Rows(Rows),
    Blocks(Blocks),
}

impl std::fmt::Debug for KvLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kv_heads, head_dim, capacity, len, kind, .. } = self;
        write!(f, "KvLayer {{ {kv_heads} {kind} heads of {head_dim}, {len} of {capacity} positions }}")
    }
}

impl KvLayer {
    /// An empty cache for at most `capacity` positions.
    ///
    /// # Panics
    /// If a head has no width or there is none.
    pub fn new(kv_heads: usize, head_dim: usize, capacity: usize, kind: CacheType) -> Self {
        assert!(kv_heads > 0 && head_dim > 0, "{kv_heads} heads of {head_dim}");
        let blocks = |code| Store::Blocks(Blocks::new(code, kv_heads, head_dim));
        let store = match kind {
            CacheType::F32 => Store::Rows(Rows::new(kv_heads, head_dim)),
            CacheType::Bf16 => blocks(Code::Bf16),
            CacheType::F16 => blocks(Code::F16),
            CacheType::Int8 => blocks(Code::Int8),
        };
        Self { kv_heads, head_dim, capacity, len: 0, kind, store }
    }

    /// Adds `m` positions, rounded to the type: `k` and `v` are `[m, kv_heads * head_dim]`.
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
        self.grow(end).unwrap_or_else(|none| none.give_up());
        match &mut self.store {
            Store::Rows(rows) => {
                rows.put_keys(self.len, k);
                rows.put_values(self.len, v);
            }
            Store::Blocks(blocks) => blocks.put(self.len, k, v),
        }
        self.len = end;
        Ok(())
    }

    /// Makes room for `end` positions in all, at most as many as there may be, where there is memory for them;
    /// without it, [`KvLayer::append`] does, and a process that has no memory ends there.
    pub fn reserve(&mut self, end: usize) -> Result<(), OutOfMemory> {
        tried(|| self.grow(end.min(self.capacity)))
    }

    fn grow(&mut self, end: usize) -> Result<(), OutOfMemory> {
        match &mut self.store {
            Store::Rows(rows) => rows.grow(end, self.capacity),
            Store::Blocks(blocks) => blocks.grow(end),
        }
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
    /// Type of the numbers.
    pub fn kind(&self) -> CacheType {
        self.kind
    }
    /// Forgets all positions from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
    /// Forgets everything; keeps the memory.
    pub fn reset(&mut self) {
        self.len = 0;
        if let Store::Blocks(blocks) = &mut self.store {
            blocks.reset();
        }
    }
    /// Bytes of the buffers.
    pub fn bytes(&self) -> usize {
        let lines = match &self.store {
            Store::Rows(rows) => rows.lines(),
            Store::Blocks(blocks) => blocks.lines(),
        };
        lines * size_of::<crate::aligned::Line>()
    }
    /// Bytes that attention reads for one position: its key and its value with their padding.
    pub fn position_bytes(&self) -> usize {
        match &self.store {
            Store::Rows(rows) => rows.position_bytes(),
            Store::Blocks(blocks) => blocks.position_bytes(),
        }
    }
    /// One number of a key, as it is kept.
    pub fn key(&self, head: usize, position: usize, d: usize) -> f32 {
        assert!(position < self.len && head < self.kv_heads && d < self.head_dim);
        match &self.store {
            Store::Rows(rows) => rows.key(head, position, d),
            Store::Blocks(blocks) => blocks.key(head, position, d),
        }
    }
    /// One number of a value, as it is kept.
    pub fn value(&self, head: usize, position: usize, d: usize) -> f32 {
        assert!(position < self.len && head < self.kv_heads && d < self.head_dim);
        match &self.store {
            Store::Rows(rows) => rows.value(head, position, d),
            Store::Blocks(blocks) => blocks.value(head, position, d),
        }
    }
    /// Where the numbers are.
    pub(super) fn store(&self) -> &Store {
        &self.store
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linear::noise;

    /// The number nearest to `x` that the type can hold; `largest` is the greatest magnitude
    /// of the head's row.
    fn kept(kind: CacheType, x: f32, largest: f32) -> f32 {
        match kind {
            CacheType::F32 => x,
            CacheType::Bf16 => half::bf16::from_f32(x).to_f32(),
            CacheType::F16 => half::f16::from_f32(x).to_f32(),
            CacheType::Int8 => {
                let scale = largest / 127.0;
                (x * (1.0 / scale)).round_ties_even() * scale
            }
        }
    }

    #[test]
    fn what_goes_in_comes_out_and_truncation_forgets() {
        for kind in CacheType::ALL {
            for (heads, dim) in [(1, 8), (2, 16), (3, 5), (1, 80)] {
                let width = heads * dim;
                let (k, v) = (noise(77 * width, 1), noise(77 * width, 2));
                let mut cache = KvLayer::new(heads, dim, 80, kind);
                for (k, v) in k.chunks(7 * width).zip(v.chunks(7 * width)) {
                    cache.append(k, v).unwrap();
                }
                cache.truncate(20);
                cache.append(&k[20 * width..], &v[20 * width..]).unwrap();
                for i in 0..77 * width {
                    let (position, head, d) = (i / width, i % width / dim, i % dim);
                    let largest =
                        |x: &[f32]| x[i / dim * dim..][..dim].iter().fold(0.0f32, |m, x| m.max(x.abs()));
                    let expected = (kept(kind, k[i], largest(&k)), kept(kind, v[i], largest(&v)));
                    assert_eq!((cache.key(head, position, d), cache.value(head, position, d)), expected);
                }
                let full = cache.append(&k[..4 * width], &v[..4 * width]).unwrap_err();
                assert_eq!((full.wanted, full.capacity, cache.len()), (81, 80, 77));
                cache.reset();
                assert!(cache.is_empty() && cache.append(&k, &v).is_ok());
            }
        }
    }

    #[test]
    fn int8_keeps_the_ends_of_its_range_and_shows_what_is_not_finite() {
        let rows = [[1e38, -1e38], [0.0, 0.0], [1e-40, -1e-40], [1e-30, 1e-30], [f32::NAN, 1.0]];
        let mut cache = KvLayer::new(1, 2, 5, CacheType::Int8);
        cache.append(rows.as_flattened(), rows.as_flattened()).unwrap();
        let near = |position, d, x: f32| (cache.key(0, position, d) / x - 1.0).abs() < 1e-6;
        assert!(near(0, 0, 1e38) && near(0, 1, -1e38) && near(3, 0, 1e-30));
        assert_eq!([cache.value(0, 1, 0), cache.value(0, 2, 0), cache.value(0, 2, 1)], [0.0; 3]);
        assert!(cache.key(0, 4, 0).is_nan() && cache.value(0, 4, 1).is_nan());
    }

    #[test]
    fn compact_types_take_half_and_a_quarter_of_the_memory() {
        let bytes = |kind| {
            let mut cache = KvLayer::new(2, 64, 256, kind);
            cache.append(&[0.0; 256 * 128], &[0.0; 256 * 128]).unwrap();
            cache.bytes()
        };
        let numbers = 2 * 256 * 128;
        assert_eq!(CacheType::ALL.map(bytes), [numbers * 4, numbers * 2, numbers * 2, numbers * 17 / 16]);
    }

    #[test]
    fn memory_moves_seldom_while_positions_come_one_by_one() {
        for kind in CacheType::ALL {
            let mut cache = KvLayer::new(1, 16, 5000, kind);
            let (mut moves, mut places) = (0, [std::ptr::null(); 2]);
            for _ in 0..5000 {
                cache.append(&[0.5; 16], &[0.5; 16]).unwrap();
                let now = match &cache.store {
                    Store::Rows(rows) => rows.places(),
                    Store::Blocks(blocks) => blocks.places(),
                };
                moves += usize::from(now != places);
                places = now;
            }
            // 16 positions grow by half 15 times to 5000; the first steps round to a block.
            assert!(moves <= 20, "{kind}: {moves}");
        }
    }

    #[test]
    fn names_round_trip_and_others_are_refused() {
        for kind in CacheType::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        assert!("f64".parse::<CacheType>().unwrap_err().contains("int8"));
    }
}
