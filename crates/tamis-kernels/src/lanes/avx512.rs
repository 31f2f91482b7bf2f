//! Sixteen f32 in a 512-bit register: AVX-512 F, BW, VL and DQ.

use std::arch::x86_64::*;

use super::math::EXP2;
use super::{Avx2, Lanes};

/// Proof that this CPU has AVX-512 F, BW, VL and DQ, POPCNT (and all of `Avx2`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Avx512(());

/// Proof that the CPU has AVX-512 BF16 besides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Avx512Bf16(Avx512);

/// Proof that the CPU has AVX-512 VBMI2 besides, which spreads 8- and 16-bit lanes by a mask, and
/// counts of bits (POPCNT, BMI 1 and 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Avx512Vbmi2(());

impl Avx512 {
    pub(crate) fn detect() -> Option<Self> {
        let has = Avx2::detect().is_some()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("popcnt");
        has.then_some(Self(()))
    }
    pub(crate) fn with_bf16(self) -> Option<Avx512Bf16> {
        is_x86_feature_detected!("avx512bf16").then_some(Avx512Bf16(self))
    }
    pub(crate) fn with_vbmi2(self) -> Option<Avx512Vbmi2> {
        let has = is_x86_feature_detected!("avx512vbmi2")
            && is_x86_feature_detected!("popcnt")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2");
        has.then_some(Avx512Vbmi2(()))
    }
}

impl Avx512Bf16 {
    /// The vectors without the bf16 instructions.
    #[inline(always)]
    pub(crate) fn lanes(self) -> Avx512 {
        self.0
    }
    /// # Safety
    /// `from` points at 32 readable numbers.
    #[inline(always)]
    pub(crate) unsafe fn load(self, from: *const u16) -> __m512bh {
        // SAFETY: the caller's promise; the token proves the instruction.
        self.bf16(unsafe { _mm512_loadu_si512(from.cast()) })
    }
    /// The same two numbers everywhere.
    ///
    /// # Safety
    /// `from` points at two readable numbers.
    #[inline(always)]
    pub(crate) unsafe fn broadcast(self, from: *const u16) -> __m512bh {
        // SAFETY: as above.
        self.bf16(unsafe { _mm512_set1_epi32(from.cast::<i32>().read_unaligned()) })
    }
    /// `sums + a[0] b[0] + a[1] b[1]`, lane by lane.
    #[inline(always)]
    pub(crate) fn multiply_add(self, a: __m512bh, b: __m512bh, sums: __m512) -> __m512 {
        // SAFETY: the token proves the instruction; no memory is touched.
        unsafe { _mm512_dpbf16_ps(sums, a, b) }
    }
    /// Bits seen as 32 numbers.
    #[inline(always)]
    pub(crate) fn bf16(self, bits: __m512i) -> __m512bh {
        // SAFETY: both are 512 bits without invalid patterns.
        unsafe { std::mem::transmute(bits) }
    }
}

/// Wraps intrinsics that only need the features that the token proves.
macro_rules! with_token {
    ($e:expr) => {
        // SAFETY: the `self` in scope proves that the CPU has these instructions;
        // the intrinsics touch no memory.
        unsafe { $e }
    };
}

impl Lanes for Avx512 {
    type F = __m512;
    const WIDTH: usize = 16;
    // 24 sums, 4 vectors of x and 1 of W, in 32 registers: 10 loads for 24 products.
    const TILE: (usize, usize) = (4, 6);

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        with_token!(_mm512_set1_ps(value))
    }
    #[inline(always)]
    unsafe fn load_ptr(self, from: *const f32) -> __m512 {
        // SAFETY: the caller promises 16 readable values.
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, count: usize) -> __m512 {
        let mask = ((1u32 << count) - 1) as __mmask16;
        // SAFETY: masked-off lanes are not read.
        unsafe { _mm512_maskz_loadu_ps(mask, from) }
    }
    #[inline(always)]
    unsafe fn store_ptr(self, to: *mut f32, value: __m512) {
        // SAFETY: the caller promises 16 writable values.
        unsafe { _mm512_storeu_ps(to, value) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, from: *const half::f16) -> __m512 {
        // SAFETY: the caller promises 16 readable values.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }
    #[inline(always)]
    unsafe fn load_bf16_of_pairs<const ODD: bool>(self, from: *const u16) -> __m512 {
        // A bf16 is the upper half of an f32.
        // SAFETY: the caller promises 32 readable values.
        unsafe {
            let pairs = _mm512_loadu_si512(from.cast());
            _mm512_castsi512_ps(match ODD {
                true => _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32 as i32)),
                false => _mm512_slli_epi32::<16>(pairs),
            })
        }
    }
    #[inline(always)]
    unsafe fn load_integers(self, from: *const u32, bits: u32, place: u32) -> __m512 {
        // Up to the top of the word, then down again with the sign.
        // SAFETY: the caller promises 16 readable words.
        unsafe {
            let up = _mm_cvtsi32_si128((32 - bits * (place + 1)) as i32);
            let down = _mm_cvtsi32_si128((32 - bits) as i32);
            let words = _mm512_sll_epi32(_mm512_loadu_si512(from.cast()), up);
            _mm512_cvtepi32_ps(_mm512_sra_epi32(words, down))
        }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        with_token!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        with_token!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        with_token!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        with_token!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        with_token!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        with_token!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        with_token!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn select_lt(self, a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 {
        with_token!(_mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), no, yes))
    }
    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        with_token!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }
    #[inline(always)]
    fn pow2(self, n: __m512) -> __m512 {
        with_token!({
            let exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
            _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponent))
        })
    }
    #[inline(always)]
    fn round_bf16(self, a: __m512) -> __m512 {
        // bits + 0x7fff + (lowest kept bit), then cut; a NaN is kept as it is, quiet.
        with_token!({
            let bits = _mm512_castps_si512(a);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            let cut = _mm512_and_si512(up, _mm512_set1_epi32(0xffff_0000_u32 as i32));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a);
            _mm512_mask_add_ps(_mm512_castsi512_ps(cut), nan, a, a)
        })
    }
    #[inline(always)]
    unsafe fn load_pairs(self, from: *const u16) -> [__m512; 2] {
        // A bf16 is the upper half of an f32.
        // SAFETY: the caller promises 32 readable values.
        let pairs = unsafe { _mm512_loadu_si512(from.cast()) };
        with_token!([
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)),
            _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32 as i32))),
        ])
    }
    #[inline(always)]
    unsafe fn load_halves(self, from: *const u16) -> __m512 {
        // SAFETY: the caller promises 16 readable values.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }
    #[inline(always)]
    fn exp2(self, x: __m512) -> __m512 {
        // `f = x - floor x` and `p 2^(floor x)` are one instruction each, at any x.
        with_token!({
            let f = _mm512_reduce_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(x);
            let mut p = _mm512_set1_ps(EXP2[0]);
            for c in &EXP2[1..] {
                p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(*c));
            }
            _mm512_scalef_ps(_mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0)), x)
        })
    }
    #[inline(always)]
    fn max_lane(self, v: __m512) -> f32 {
        with_token!(_mm512_reduce_max_ps(v))
    }
    #[inline(always)]
    fn sum4(self, [a, b, c, d]: [__m512; 4]) -> [f32; 4] {
        with_token!({
            // Halves side by side, so that one add folds two vectors; then quarters.
            let low = _mm512_shuffle_f32x4::<0b01_00_01_00>(a, b);
            let ab = _mm512_add_ps(low, _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b));
            let low = _mm512_shuffle_f32x4::<0b01_00_01_00>(c, d);
            let cd = _mm512_add_ps(low, _mm512_shuffle_f32x4::<0b11_10_11_10>(c, d));
            let even = _mm512_shuffle_f32x4::<0b10_00_10_00>(ab, cd);
            let s = _mm512_add_ps(even, _mm512_shuffle_f32x4::<0b11_01_11_01>(ab, cd));
            let s = _mm512_add_ps(s, _mm512_permute_ps::<0b01_00_11_10>(s));
            let s = _mm512_add_ps(s, _mm512_permute_ps::<0b10_11_00_01>(s));
            let pick = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
            let packed = _mm512_castps512_ps128(_mm512_permutexvar_ps(pick, s));
            let mut out = [0.0; 4];
            _mm_storeu_ps(out.as_mut_ptr(), packed);
            out
        })
    }
}
