//! What a dot product is made of: an element, a vector of elements, a multiply-add.
//! Three kinds: f32 as it is, f32 rounded to bf16 (any CPU), bf16 pairs in hardware.

use std::ops::Range;

use super::Precision;
use super::many::SIDE;
use crate::aligned::Plain;
use crate::isa::{Isa, Kernel};
use crate::lanes::Lanes;
#[cfg(all(target_arch = "x86_64", not(miri)))]
use crate::lanes::{Avx512, Avx512Bf16};
#[cfg(all(target_arch = "x86_64", not(miri)))]
use crate::pack::BlockData;
use crate::pack::{BLOCK_WEIGHTS, BlockMatrix, RowSource};

/// A kind of dot product.
pub(crate) trait Dot: Copy + Send + Sync {
    /// The vector of sums.
    type Sums: Lanes;
    /// What operands are stored as.
    type Element: Plain;
    /// A vector of elements.
    type Vector: Copy;
    /// Elements in a vector.
    const STEP: usize;
    /// Elements that a lane takes.
    const LANE: usize = Self::STEP / <Self::Sums as Lanes>::WIDTH;
    /// The element that is 0.
    const ZERO: Self::Element;

    fn sums(self) -> Self::Sums;
    /// # Safety
    /// `from` points at `STEP` readable elements.
    unsafe fn load(self, from: *const Self::Element) -> Self::Vector;
    /// # Safety
    /// `from` points at `count` readable elements, `count < STEP`; the rest is zero.
    unsafe fn load_first(self, from: *const Self::Element, count: usize) -> Self::Vector;
    /// The elements of one lane (`STEP / WIDTH`) in every lane.
    /// # Safety
    /// `from` points at that many readable elements.
    unsafe fn broadcast(self, from: *const Self::Element) -> Self::Vector;
    /// `sums + a * b`.
    fn multiply_add(self, a: Self::Vector, b: Self::Vector, sums: SumsOf<Self>) -> SumsOf<Self>;
    /// Converts a row of f32; `to` has the same length.
    fn convert(self, from: &[f32], to: &mut [Self::Element]);
    /// Two rows side by side, as the lanes of a vector take them: `to[2 c + r] = rows[r][c]`, the
    /// second with zeros behind its end; only the first row where a lane takes one element.
    fn interleave(self, rows: [&[f32]; 2], to: &mut [Self::Element]);
    /// `SIDE` rows of elements, `from.1` apart, side by side: what a lane takes of each, for each of `depth`
    /// steps, whose results are `to.1` apart.
    #[inline(always)]
    fn turn(self, from: (&[Self::Element], usize), depth: usize, to: (&mut [Self::Element], usize)) {
        for p in 0..depth {
            let to = &mut to.0[p * to.1..][..SIDE * Self::LANE];
            for (row, to) in to.chunks_exact_mut(Self::LANE).enumerate() {
                to.copy_from_slice(&from.0[row * from.1 + p * Self::LANE..][..Self::LANE]);
            }
        }
    }
    /// Elements as f32, where they need no conversion.
    fn borrow_mut(elements: &mut [Self::Element]) -> Option<&mut [f32]>;
    /// The rows of a matrix as elements, where it stores them as such.
    fn stored(weights: &dyn RowSource) -> Option<&[Self::Element]>;
    /// `y[i] = x . W[rows.start + i]`, the bits of `tile`, straight from what is stored; `false`
    /// where there is no such way.
    #[inline(always)]
    fn dots(self, _: &dyn RowSource, _x: &[Self::Element], _: Range<usize>, _y: &mut [f32]) -> bool {
        false
    }
    /// The blocks of a matrix, where it stores them as `decode_block` gives them.
    fn stored_blocks(weights: &BlockMatrix) -> Option<&[Self::Element]>;
    /// A block as elements `[16 / pair][16 rows][pair]`, where a lane takes `pair` of them.
    fn decode_block(self, weights: &BlockMatrix, block: usize, to: &mut [Self::Element]);
    /// Writes a row of a matrix as elements; `spare` takes it as f32, where that is needed.
    #[inline(always)]
    fn decode(self, weights: &dyn RowSource, row: usize, spare: &mut [f32], to: &mut [Self::Element]) {
        if let Some(to) = Self::borrow_mut(to) {
            return weights.decode_row(row, to);
        }
        weights.decode_row(row, spare);
        self.convert(spare, to);
    }
}

/// The vector of sums of a kind of dot product.
pub(crate) type SumsOf<D> = <<D as Dot>::Sums as Lanes>::F;

/// Rows ready for the dot product, whatever its element is.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a> {
    bytes: &'a [u8],
    element: usize,
    /// Elements from one row to the next.
    pub(crate) stride: usize,
}

impl<'a> Operand<'a> {
    pub(crate) fn new<T: Plain>(elements: &'a [T], stride: usize) -> Self {
        // SAFETY: plain numbers have no padding, so all their bytes are initialised.
        let bytes = unsafe { std::slice::from_raw_parts(elements.as_ptr().cast(), size_of_val(elements)) };
        Self { bytes, element: size_of::<T>(), stride }
    }
    /// The elements; `T` must be the type that they were made of.
    pub(crate) fn elements<T: Plain>(&self) -> &'a [T] {
        let start: *const T = self.bytes.as_ptr().cast();
        assert!(self.element == size_of::<T>() && start.is_aligned());
        // SAFETY: right size and alignment, and any bytes are a value of a plain type.
        unsafe { std::slice::from_raw_parts(start, self.bytes.len() / self.element) }
    }
}

/// A kernel that is written once for any dot product; `run` must be `#[inline(always)]`.
pub(crate) trait DotKernel {
    type Output;
    fn run<D: Dot>(self, dot: D) -> Self::Output;
}

/// f32 products.
#[derive(Clone, Copy)]
struct Exact<L>(L);

/// f32 products of operands rounded to bf16.
#[derive(Clone, Copy)]
struct Rounded<L>(L);

macro_rules! f32_dot {
    ($name:ident, $borrows:expr, |$self:ident, $from:ident, $to:ident| $convert:block) => {
        impl<L: Lanes> Dot for $name<L> {
            type Sums = L;
            type Element = f32;
            type Vector = L::F;
            const STEP: usize = L::WIDTH;
            const ZERO: f32 = 0.0;

            #[inline(always)]
            fn sums(self) -> L {
                self.0
            }
            #[inline(always)]
            unsafe fn load(self, from: *const f32) -> L::F {
                // SAFETY: the caller's promise.
                unsafe { self.0.load_ptr(from) }
            }
            #[inline(always)]
            unsafe fn load_first(self, from: *const f32, count: usize) -> L::F {
                // SAFETY: the caller's promise.
                unsafe { self.0.load_first(from, count) }
            }
            #[inline(always)]
            unsafe fn broadcast(self, from: *const f32) -> L::F {
                // SAFETY: the caller's promise.
                self.0.splat(unsafe { *from })
            }
            #[inline(always)]
            fn multiply_add(self, a: L::F, b: L::F, sums: L::F) -> L::F {
                self.0.fma(a, b, sums)
            }
            #[inline(always)]
            fn convert($self, $from: &[f32], $to: &mut [f32]) $convert
            #[inline(always)]
            fn interleave(self, rows: [&[f32]; 2], to: &mut [f32]) {
                self.convert(rows[0], to);
            }
            #[inline(always)]
            fn borrow_mut(elements: &mut [f32]) -> Option<&mut [f32]> {
                $borrows.then_some(elements)
            }
            #[inline(always)]
            fn stored(weights: &dyn RowSource) -> Option<&[f32]> {
                weights.as_f32().filter(|_| $borrows)
            }
            #[inline(always)]
            fn stored_blocks(_: &BlockMatrix) -> Option<&[f32]> {
                None
            }
            #[inline(always)]
            fn decode_block(self, weights: &BlockMatrix, block: usize, to: &mut [f32]) {
                if $borrows {
                    return weights.decode_block(self.0, block, to);
                }
                let mut exact = [0.0; BLOCK_WEIGHTS];
                weights.decode_block(self.0, block, &mut exact);
                self.convert(&exact, to);
            }
        }
    };
}

f32_dot!(Exact, true, |self, from, to| { to.copy_from_slice(from) });
f32_dot!(Rounded, false, |self, from, to| {
    let l = self.0;
    let (mut from, mut to) = (from.chunks_exact(L::WIDTH), to.chunks_exact_mut(L::WIDTH));
    for (from, to) in from.by_ref().zip(to.by_ref()) {
        l.store(to, l.round_bf16(l.load(from)));
    }
    l.store_short(to.into_remainder(), l.round_bf16(l.load_short(from.remainder())));
});

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod hardware {
    use std::arch::x86_64::*;

    use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

    use super::*;

    /// Two products a lane and step (`vdpbf16ps`).
    #[derive(Clone, Copy)]
    pub(super) struct Pairs(pub(super) Avx512Bf16, pub(super) Isa);

    #[inline(always)]
    fn mask(count: usize) -> u32 {
        ((1u64 << count) - 1) as u32
    }

    /// `0, 16, 1, 17, ...`.
    const INTERLEAVED: [u16; 32] = {
        let mut order = [0; 32];
        let mut i = 0;
        while i < 32 {
            order[i] = (i / 2 + i % 2 * 16) as u16;
            i += 1;
        }
        order
    };

    impl Dot for Pairs {
        type Sums = Avx512;
        type Element = u16;
        type Vector = __m512bh;
        const STEP: usize = 32;
        const ZERO: u16 = 0;

        #[inline(always)]
        fn sums(self) -> Avx512 {
            self.0.lanes()
        }
        #[inline(always)]
        unsafe fn load(self, from: *const u16) -> __m512bh {
            // SAFETY: the caller promises 32 readable elements.
            unsafe { self.0.load(from) }
        }
        #[inline(always)]
        unsafe fn load_first(self, from: *const u16, count: usize) -> __m512bh {
            // SAFETY: masked-off elements are not read.
            self.0.bf16(unsafe { _mm512_maskz_loadu_epi16(mask(count), from.cast()) })
        }
        #[inline(always)]
        unsafe fn broadcast(self, from: *const u16) -> __m512bh {
            // SAFETY: the caller promises two readable elements.
            unsafe { self.0.broadcast(from) }
        }
        #[inline(always)]
        fn multiply_add(self, a: __m512bh, b: __m512bh, sums: __m512) -> __m512 {
            self.0.multiply_add(a, b, sums)
        }
        #[inline(always)]
        fn convert(self, from: &[f32], to: &mut [u16]) {
            assert_eq!(from.len(), to.len());
            let (mut from, mut to) = (from.chunks_exact(32), to.chunks_exact_mut(32));
            for (from, to) in from.by_ref().zip(to.by_ref()) {
                // SAFETY: both pieces have 32 values; the token proves the instructions.
                unsafe {
                    let low = _mm512_loadu_ps(from.as_ptr());
                    let high = _mm512_loadu_ps(from.as_ptr().add(16));
                    let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
                    _mm512_storeu_si512(to.as_mut_ptr().cast(), both);
                }
            }
            let (from, to) = (from.remainder(), to.into_remainder());
            let mut row = [0.0f32; 32];
            row[..from.len()].copy_from_slice(from);
            // SAFETY: `row` has 32 values; only `to.len()` elements are written.
            unsafe {
                let (low, high) = (_mm512_loadu_ps(row.as_ptr()), _mm512_loadu_ps(row.as_ptr().add(16)));
                let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(high, low));
                _mm512_mask_storeu_epi16(to.as_mut_ptr().cast(), mask(to.len()), both);
            }
        }
        #[inline(always)]
        fn interleave(self, rows: [&[f32]; 2], to: &mut [u16]) {
            assert_eq!(to.len(), 2 * rows[0].len());
            for (i, to) in to.chunks_mut(32).enumerate() {
                let mut padded = [[0.0f32; 16]; 2];
                let mut start = [rows[0].as_ptr(); 2];
                for (r, row) in rows.iter().enumerate() {
                    let row = &row[(i * 16).min(row.len())..];
                    start[r] = row.as_ptr();
                    if row.len() < 16 {
                        padded[r][..row.len()].copy_from_slice(row);
                        start[r] = padded[r].as_ptr();
                    }
                }
                // SAFETY: both starts have 16 values; only `to.len()` elements are written.
                unsafe {
                    let (even, odd) = (_mm512_loadu_ps(start[0]), _mm512_loadu_ps(start[1]));
                    let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(odd, even));
                    let turn = _mm512_loadu_si512(INTERLEAVED.as_ptr().cast());
                    let both = _mm512_permutexvar_epi16(turn, both);
                    _mm512_mask_storeu_epi16(to.as_mut_ptr().cast(), mask(to.len()), both);
                }
            }
        }
        #[inline(always)]
        fn borrow_mut(_: &mut [u16]) -> Option<&mut [f32]> {
            None
        }
        #[inline(always)]
        fn stored(weights: &dyn RowSource) -> Option<&[u16]> {
            weights.as_bf16().map(HalfFloatSliceExt::reinterpret_cast)
        }
        #[inline(always)]
        fn dots(self, weights: &dyn RowSource, x: &[u16], rows: Range<usize>, y: &mut [f32]) -> bool {
            weights.dots_bf16(self.1, x.reinterpret_cast(), rows, y)
        }
        #[inline(always)]
        fn stored_blocks(weights: &BlockMatrix) -> Option<&[u16]> {
            match weights.data() {
                BlockData::Bf16(values) => Some(values.reinterpret_cast()),
                BlockData::Integers { .. } => None,
            }
        }
        #[inline(always)]
        fn decode_block(self, weights: &BlockMatrix, block: usize, to: &mut [u16]) {
            assert_eq!(to.len(), BLOCK_WEIGHTS);
            let mut exact = [0.0; BLOCK_WEIGHTS];
            weights.decode_block(self.sums(), block, &mut exact);
            for (from, to) in exact.chunks_exact(32).zip(to.chunks_exact_mut(32)) {
                // SAFETY: both pieces have 32 values; the token proves the instructions.
                unsafe {
                    let even = _mm512_loadu_ps(from.as_ptr());
                    let odd = _mm512_loadu_ps(from.as_ptr().add(16));
                    let both: __m512i = std::mem::transmute(_mm512_cvtne2ps_pbh(odd, even));
                    let turn = _mm512_loadu_si512(INTERLEAVED.as_ptr().cast());
                    _mm512_storeu_si512(to.as_mut_ptr().cast(), _mm512_permutexvar_epi16(turn, both));
                }
            }
        }
        #[inline(always)]
        fn decode(self, weights: &dyn RowSource, row: usize, spare: &mut [f32], to: &mut [u16]) {
            if !weights.decode_bf16(self.1, row, to.reinterpret_cast_mut()) {
                weights.decode_row(row, spare);
                self.convert(spare, to);
            }
        }
    }
}

/// Runs a kernel with the dot product of that precision on that instruction set.
pub(crate) fn run_dot<K: DotKernel>(isa: Isa, precision: Precision, kernel: K) -> K::Output {
    struct OnLanes<K>(K, Precision);
    impl<K: DotKernel> Kernel for OnLanes<K> {
        type Output = K::Output;
        #[inline(always)]
        fn run<L: Lanes>(self, lanes: L) -> K::Output {
            match self.1 {
                Precision::F32 => self.0.run(Exact(lanes)),
                Precision::Bf16 => self.0.run(Rounded(lanes)),
            }
        }
    }
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if let (Precision::Bf16, Some(token)) = (precision, isa.bf16()) {
        // SAFETY: the token proves the features that the function enables.
        return unsafe { on_bf16(token, isa, kernel) };
    }
    isa.run(OnLanes(kernel, precision))
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
fn on_bf16<K: DotKernel>(token: Avx512Bf16, isa: Isa, kernel: K) -> K::Output {
    kernel.run(hardware::Pairs(token, isa))
}
