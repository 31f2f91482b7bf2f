//! Eight f32 in a 256-bit register: AVX2, FMA and F16C.

use std::arch::x86_64::*;

use super::Lanes;

/// Proof that this CPU has AVX2, FMA and F16C: only `detect` makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Avx2(());

impl Avx2 {
    pub(crate) fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        has.then_some(Self(()))
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

/// `MASKS[8 - n..]` starts with `n` lanes of all ones.
static MASKS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

impl Lanes for Avx2 {
    type F = __m256;
    const WIDTH: usize = 8;
    // 12 sums, 3 vectors of x and 1 of W fill the 16 registers.
    const TILE: (usize, usize) = (3, 4);

    #[inline(always)]
    fn splat(self, value: f32) -> __m256 {
        with_token!(_mm256_set1_ps(value))
    }
    #[inline(always)]
    unsafe fn load_ptr(self, from: *const f32) -> __m256 {
        // SAFETY: the caller promises 8 readable values.
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, count: usize) -> __m256 {
        let mask = &MASKS[8 - count..][..8];
        // SAFETY: the mask slice has 8 values; masked-off lanes of `from` are not read.
        unsafe { _mm256_maskload_ps(from, _mm256_loadu_si256(mask.as_ptr().cast())) }
    }
    #[inline(always)]
    unsafe fn store_ptr(self, to: *mut f32, value: __m256) {
        // SAFETY: the caller promises 8 writable values.
        unsafe { _mm256_storeu_ps(to, value) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, from: *const half::f16) -> __m256 {
        // SAFETY: the caller promises 8 readable values.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }
    #[inline(always)]
    unsafe fn load_bf16_of_pairs<const ODD: bool>(self, from: *const u16) -> __m256 {
        // A bf16 is the upper half of an f32.
        // SAFETY: the caller promises 16 readable values.
        unsafe {
            let pairs = _mm256_loadu_si256(from.cast());
            _mm256_castsi256_ps(match ODD {
                true => _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff_0000_u32 as i32)),
                false => _mm256_slli_epi32::<16>(pairs),
            })
        }
    }
    #[inline(always)]
    unsafe fn load_integers(self, from: *const u32, bits: u32, place: u32) -> __m256 {
        // Up to the top of the word, then down again with the sign.
        // SAFETY: the caller promises 8 readable words.
        unsafe {
            let up = _mm_cvtsi32_si128((32 - bits * (place + 1)) as i32);
            let down = _mm_cvtsi32_si128((32 - bits) as i32);
            let words = _mm256_sll_epi32(_mm256_loadu_si256(from.cast()), up);
            _mm256_cvtepi32_ps(_mm256_sra_epi32(words, down))
        }
    }
    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        with_token!(_mm256_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        with_token!(_mm256_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        with_token!(_mm256_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        with_token!(_mm256_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        with_token!(_mm256_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        with_token!(_mm256_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        with_token!(_mm256_min_ps(a, b))
    }
    #[inline(always)]
    fn select_lt(self, a: __m256, b: __m256, yes: __m256, no: __m256) -> __m256 {
        with_token!(_mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b)))
    }
    #[inline(always)]
    fn round(self, a: __m256) -> __m256 {
        with_token!(_mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a))
    }
    #[inline(always)]
    fn pow2(self, n: __m256) -> __m256 {
        with_token!({
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))
        })
    }
    #[inline(always)]
    fn round_bf16(self, a: __m256) -> __m256 {
        // bits + 0x7fff + (lowest kept bit), then cut; a NaN is kept as it is, quiet.
        with_token!({
            let bits = _mm256_castps_si256(a);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
            let cut = _mm256_and_si256(up, _mm256_set1_epi32(0xffff_0000_u32 as i32));
            let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(a, a);
            _mm256_blendv_ps(_mm256_castsi256_ps(cut), _mm256_add_ps(a, a), nan)
        })
    }
    #[inline(always)]
    unsafe fn load_pairs(self, from: *const u16) -> [__m256; 2] {
        // A bf16 is the upper half of an f32.
        // SAFETY: the caller promises 16 readable values.
        let pairs = unsafe { _mm256_loadu_si256(from.cast()) };
        with_token!([
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs)),
            _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(0xffff_0000_u32 as i32))),
        ])
    }
    #[inline(always)]
    unsafe fn load_halves(self, from: *const u16) -> __m256 {
        // SAFETY: the caller promises 8 readable values.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }
    #[inline(always)]
    fn sum4(self, [a, b, c, d]: [__m256; 4]) -> [f32; 4] {
        with_token!({
            // Halves of a and b side by side, so that one add folds both.
            let low = _mm256_permute2f128_ps::<0x20>(a, b);
            let ab = _mm256_add_ps(low, _mm256_permute2f128_ps::<0x31>(a, b));
            let low = _mm256_permute2f128_ps::<0x20>(c, d);
            let cd = _mm256_add_ps(low, _mm256_permute2f128_ps::<0x31>(c, d));
            let low = _mm256_shuffle_ps::<0b01_00_01_00>(ab, cd);
            let s = _mm256_add_ps(low, _mm256_shuffle_ps::<0b11_10_11_10>(ab, cd));
            let s = _mm256_add_ps(s, _mm256_permute_ps::<0b10_11_00_01>(s)); // a a c c | b b d d
            let ac = _mm256_castps256_ps128(s);
            let bd = _mm256_extractf128_ps::<1>(s);
            let mut out = [0.0; 4];
            _mm_storeu_ps(out.as_mut_ptr(), _mm_blend_ps::<0b1010>(ac, bd)); // a b c d
            out
        })
    }
}
