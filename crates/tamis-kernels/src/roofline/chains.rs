//! Arithmetic in registers: independent chains of multiply-adds. One chain waits for its
//! own last sum; enough of them side by side keep every unit of a core busy.

use super::Unit;
use crate::isa::{Isa, Kernel};
use crate::lanes::Lanes;

/// Factor of an f32 chain: with [`GAIN`] its sums go towards 1 and never become subnormal.
pub(super) const DECAY: f32 = 0.75;
/// Addend of an f32 chain.
pub(super) const GAIN: f32 = 0.25;
/// Operands of a dot product: small whole numbers, exact in bf16 and in int8.
pub(super) const FACTORS: (i8, i8) = (1, 2);

/// Operations of one thread and the sum of all its lanes.
pub(super) fn run(isa: Isa, unit: Unit, (chains, rounds): (usize, usize)) -> (u64, f64) {
    match chains {
        4 => of::<4>(isa, unit, rounds),
        8 => of::<8>(isa, unit, rounds),
        12 => of::<12>(isa, unit, rounds),
        24 => of::<24>(isa, unit, rounds),
        _ => panic!("{chains} chains are not one of {:?}", super::CHAINS),
    }
}

fn of<const N: usize>(isa: Isa, unit: Unit, rounds: usize) -> (u64, f64) {
    match unit {
        Unit::F32 => isa.run(F32Chains::<N> { rounds }),
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        Unit::Bf16 => super::avx512::bf16::<N>(isa, rounds),
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        Unit::Int8 => super::avx512::int8::<N>(isa, rounds),
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        Unit::Bf16 | Unit::Int8 => panic!("the caller asks the instruction set first"),
    }
}

struct F32Chains<const N: usize> {
    rounds: usize,
}

impl<const N: usize> Kernel for F32Chains<N> {
    type Output = (u64, f64);

    /// `s_c <- s_c * DECAY + GAIN` for every chain `c`, which starts at `c`. The product depends
    /// on the sum, so none can be taken out of the loop.
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> (u64, f64) {
        let (decay, gain) = (l.splat(DECAY), l.splat(GAIN));
        let mut sums = [l.splat(0.0); N];
        for c in 0..N {
            sums[c] = l.splat(c as f32);
        }
        for _ in 0..self.rounds {
            for c in 0..N {
                sums[c] = l.fma(sums[c], decay, gain);
            }
        }
        let mut total = 0.0;
        for c in 0..N {
            total += f64::from(l.sum(sums[c]));
        }
        ((self.rounds * N * L::WIDTH * 2) as u64, total)
    }
}
