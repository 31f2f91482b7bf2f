//! Which instruction sets this CPU has, found at run time. An `Isa` value can only
//! be made by asking the CPU, so holding one is the proof that its kernels may run.

use std::sync::OnceLock;

#[cfg(all(target_arch = "x86_64", not(miri)))]
use crate::lanes::{Avx2, Avx512, Avx512Bf16, Avx512Vbmi2};
use crate::lanes::{Lanes, Portable};
#[cfg(all(target_arch = "x86_64", not(miri)))]
use crate::tile_unit::amx::Amx;

/// The environment variable that pins the instruction set: `scalar`, `avx2`, `avx512` or `amx`.
pub const ISA_VARIABLE: &str = "TAMIS_ISA";

/// An instruction set that this CPU has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Isa(Kind);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Scalar,
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    Avx2(Avx2),
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    Avx512 {
        base: Avx512,
        bf16: Option<Avx512Bf16>,
        vbmi2: Option<Avx512Vbmi2>,
        vnni: bool,
    },
    /// All of AVX-512 with VNNI and BF16, and tiles.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    Amx {
        base: Avx512,
        bf16: Avx512Bf16,
        vbmi2: Option<Avx512Vbmi2>,
        tiles: Amx,
    },
}

/// A kernel that is written once for any vector; `run` must be `#[inline(always)]`.
pub(crate) trait Kernel {
    type Output;
    fn run<L: Lanes>(self, lanes: L) -> Self::Output;
}

impl Isa {
    /// Plain code: every CPU has it.
    pub const SCALAR: Self = Self(Kind::Scalar);

    /// All instruction sets of this CPU, from plain to best.
    pub fn available() -> Vec<Self> {
        #[allow(unused_mut, reason = "only x86-64 adds to the list")]
        let mut all = vec![Self::SCALAR];
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        {
            all.extend(Avx2::detect().map(|t| Self(Kind::Avx2(t))));
            if let Some(base) = Avx512::detect() {
                let (bf16, vbmi2) = (base.with_bf16(), base.with_vbmi2());
                let vnni = is_x86_feature_detected!("avx512vnni");
                all.push(Self(Kind::Avx512 { base, bf16, vbmi2, vnni }));
                if let (Some(bf16), true, Some(tiles)) = (bf16, vnni, Amx::detect()) {
                    all.push(Self(Kind::Amx { base, bf16, vbmi2, tiles }));
                }
            }
        }
        all
    }

    /// The best instruction set of this CPU.
    pub fn detect() -> Self {
        Self::available().pop().unwrap_or(Self::SCALAR)
    }

    /// The instruction set of that name, if the CPU has it.
    pub fn named(name: &str) -> Result<Self, String> {
        let known = ["scalar", "avx2", "avx512", "amx"];
        if !known.contains(&name) {
            return Err(format!("unknown instruction set {name:?}: use one of {}", known.join(", ")));
        }
        let found = Self::available().into_iter().find(|isa| isa.name() == name);
        found.ok_or_else(|| format!("this CPU has no {name}: leave {ISA_VARIABLE} out to take its best"))
    }

    /// What `TAMIS_ISA` names, or the best where it is unset or empty.
    pub fn from_env() -> Result<Self, String> {
        match std::env::var(ISA_VARIABLE) {
            Ok(name) if !name.is_empty() => Self::named(&name),
            _ => Ok(Self::detect()),
        }
    }

    /// The set for code that has no `Cpu` at hand, found once: `from_env`, or plain
    /// code where the variable is wrong (the caller that reads it reports that).
    pub(crate) fn ambient() -> Self {
        static FOUND: OnceLock<Isa> = OnceLock::new();
        *FOUND.get_or_init(|| Self::from_env().unwrap_or(Self::SCALAR))
    }

    /// `scalar`, `avx2`, `avx512` or `amx`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Scalar => "scalar",
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            Kind::Avx2(_) => "avx2",
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            Kind::Avx512 { .. } => "avx512",
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            Kind::Amx { .. } => "amx",
        }
    }

    /// Whether products of bf16 pairs run in hardware (`vdpbf16ps`).
    pub fn has_bf16(self) -> bool {
        match self.0 {
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            Kind::Avx512 { bf16, .. } => bf16.is_some(),
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            Kind::Amx { .. } => true,
            _ => false,
        }
    }

    /// Whether products of int8 quads run in hardware (`vpdpbusd`).
    pub fn has_vnni(self) -> bool {
        match self.0 {
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            Kind::Avx512 { vnni, .. } => vnni,
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            Kind::Amx { .. } => true,
            _ => false,
        }
    }

    /// Whether the CPU also multiplies tiles of bf16 pairs (`tdpbf16ps`); nothing uses it here.
    pub fn has_tile_bf16(self) -> bool {
        match self.0 {
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            Kind::Amx { tiles, .. } => tiles.bf16,
            _ => false,
        }
    }

    /// The unit that multiplies tiles of int8.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    pub(crate) fn tiles(self) -> Option<Amx> {
        match self.0 {
            Kind::Amx { tiles, .. } => Some(tiles),
            _ => None,
        }
    }

    #[cfg(all(target_arch = "x86_64", not(miri)))]
    pub(crate) fn bf16(self) -> Option<Avx512Bf16> {
        match self.0 {
            Kind::Avx512 { bf16, .. } => bf16,
            Kind::Amx { bf16, .. } => Some(bf16),
            _ => None,
        }
    }

    #[cfg(all(target_arch = "x86_64", not(miri)))]
    pub(crate) fn vbmi2(self) -> Option<Avx512Vbmi2> {
        match self.0 {
            Kind::Avx512 { vbmi2, .. } | Kind::Amx { vbmi2, .. } => vbmi2,
            _ => None,
        }
    }

    #[cfg(all(target_arch = "x86_64", not(miri)))]
    pub(crate) fn avx2(self) -> Option<Avx2> {
        match self.0 {
            Kind::Avx2(token) => Some(token),
            _ => None,
        }
    }

    #[cfg(all(target_arch = "x86_64", not(miri)))]
    pub(crate) fn avx512(self) -> Option<Avx512> {
        match self.0 {
            Kind::Avx512 { base, .. } | Kind::Amx { base, .. } => Some(base),
            _ => None,
        }
    }

    /// All instruction sets of this CPU, and AVX-512 once more without its bf16 products.
    #[cfg(test)]
    pub(crate) fn variants() -> Vec<Self> {
        let mut all = Self::available();
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        all.extend(
            Avx512::detect().map(|base| Self(Kind::Avx512 { base, bf16: None, vbmi2: None, vnni: false })),
        );
        all
    }

    /// Runs a kernel inside a function compiled for this instruction set.
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            Kind::Scalar => kernel.run(Portable),
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            // SAFETY: the token proves the features that the function enables.
            Kind::Avx2(token) => unsafe { on_avx2(token, kernel) },
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            // SAFETY: as above.
            Kind::Avx512 { base, .. } | Kind::Amx { base, .. } => unsafe { on_avx512(base, kernel) },
        }
    }
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
#[target_feature(enable = "avx2,fma,f16c")]
fn on_avx2<K: Kernel>(token: Avx2, kernel: K) -> K::Output {
    kernel.run(token)
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
fn on_avx512<K: Kernel>(token: Avx512, kernel: K) -> K::Output {
    kernel.run(token)
}

/// Defines a function over `isa` whose body is compiled once per instruction set.
macro_rules! per_isa {
    ($(#[$meta:meta])* $vis:vis fn $name:ident<$l:ident>($lanes:ident $(, $arg:ident: $ty:ty)* $(,)?)
     $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name(isa: $crate::isa::Isa, $($arg: $ty),*) $(-> $ret)? {
            struct Body<T>(T);
            impl $crate::isa::Kernel for Body<($($ty,)*)> {
                #[allow(unused_parens, reason = "one type in parentheses is that type, none is unit")]
                type Output = ($($ret)?);
                #[inline(always)]
                fn run<$l: $crate::lanes::Lanes>(self, $lanes: $l) -> Self::Output {
                    let ($($arg,)*) = self.0;
                    $body
                }
            }
            isa.run(Body(($($arg,)*)))
        }
    };
}
pub(crate) use per_isa;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_unknown_ones_are_refused() {
        for isa in Isa::available() {
            assert_eq!(Isa::named(isa.name()), Ok(isa));
        }
        assert!(Isa::named("mmx").unwrap_err().contains("scalar, avx2, avx512, amx"));
        assert_eq!(Isa::available()[0], Isa::SCALAR);
    }
}
