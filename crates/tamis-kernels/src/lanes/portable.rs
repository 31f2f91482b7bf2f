//! Eight f32 in a plain array: any CPU, and Miri. The compiler turns the loops into
//! whatever vectors its baseline has. `a * b + c` rounds twice, because a software
//! fused multiply-add would be a hundred times slower.

use super::Lanes;

const N: usize = 8;

/// Plain arrays; needs no proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Portable;

#[inline(always)]
fn zip(a: [f32; N], b: [f32; N], f: impl Fn(f32, f32) -> f32) -> [f32; N] {
    let mut out = [0.0; N];
    for i in 0..N {
        out[i] = f(a[i], b[i]);
    }
    out
}

impl Lanes for Portable {
    type F = [f32; N];
    const WIDTH: usize = N;
    const TILE: (usize, usize) = (3, 4);

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F {
        [value; N]
    }
    #[inline(always)]
    unsafe fn load_ptr(self, from: *const f32) -> Self::F {
        // SAFETY: the caller promises `N` readable values; no alignment is assumed.
        unsafe { from.cast::<[f32; N]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_first(self, from: *const f32, count: usize) -> Self::F {
        let mut out = [0.0; N];
        // SAFETY: the caller promises `count` readable values.
        out[..count].copy_from_slice(unsafe { std::slice::from_raw_parts(from, count) });
        out
    }
    #[inline(always)]
    unsafe fn store_ptr(self, to: *mut f32, value: Self::F) {
        // SAFETY: the caller promises `N` writable values; no alignment is assumed.
        unsafe { to.cast::<[f32; N]>().write_unaligned(value) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, from: *const half::f16) -> Self::F {
        // SAFETY: the caller promises `N` readable values; no alignment is assumed.
        unsafe { from.cast::<[half::f16; N]>().read_unaligned() }.map(half::f16::to_f32)
    }
    #[inline(always)]
    unsafe fn load_bf16_of_pairs<const ODD: bool>(self, from: *const u16) -> Self::F {
        // SAFETY: the caller promises so many values; no alignment is assumed.
        let pairs = unsafe { from.cast::<[[u16; 2]; N]>().read_unaligned() };
        // A bf16 is the upper half of an f32.
        pairs.map(|pair| f32::from_bits(u32::from(pair[usize::from(ODD)]) << 16))
    }
    #[inline(always)]
    unsafe fn load_integers(self, from: *const u32, bits: u32, place: u32) -> Self::F {
        // SAFETY: the caller promises `N` readable words; no alignment is assumed.
        let words = unsafe { from.cast::<[u32; N]>().read_unaligned() };
        // Up to the top of the word, then down again with the sign.
        words.map(|word| ((word << (32 - bits * (place + 1))) as i32 >> (32 - bits)) as f32)
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        self.add(self.mul(a, b), c)
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn select_lt(self, a: Self::F, b: Self::F, yes: Self::F, no: Self::F) -> Self::F {
        let mut out = no;
        for i in 0..N {
            if a[i] < b[i] {
                out[i] = yes[i];
            }
        }
        out
    }
    #[inline(always)]
    fn round(self, a: Self::F) -> Self::F {
        // Adding 1.5 * 2^23 leaves no fraction bits, so the addition itself rounds.
        zip(a, [12_582_912.0; N], |a, big| (a + big) - big)
    }
    #[inline(always)]
    fn pow2(self, n: Self::F) -> Self::F {
        zip(n, n, |n, _| f32::from_bits(((n as i32 + 127) as u32) << 23))
    }
    #[inline(always)]
    fn round_bf16(self, a: Self::F) -> Self::F {
        zip(a, a, |a, _| half::bf16::from_f32(a).to_f32())
    }
    #[inline(always)]
    unsafe fn load_pairs(self, from: *const u16) -> [Self::F; 2] {
        // SAFETY: the caller promises `2 * N` readable values; no alignment is assumed.
        let pairs = unsafe { from.cast::<[[u16; 2]; N]>().read_unaligned() };
        [0, 1].map(|i| pairs.map(|pair| f32::from_bits(u32::from(pair[i]) << 16)))
    }
    #[inline(always)]
    unsafe fn load_halves(self, from: *const u16) -> Self::F {
        // SAFETY: the caller promises `N` readable values; no alignment is assumed.
        let halves = unsafe { from.cast::<[u16; N]>().read_unaligned() };
        halves.map(|half| half::f16::from_bits(half).to_f32())
    }
    #[inline(always)]
    fn sum4(self, v: [Self::F; 4]) -> [f32; 4] {
        let tree = |v: [f32; N]| {
            let s = [v[0] + v[4], v[1] + v[5], v[2] + v[6], v[3] + v[7]];
            (s[0] + s[2]) + (s[1] + s[3])
        };
        [tree(v[0]), tree(v[1]), tree(v[2]), tree(v[3])]
    }
}
