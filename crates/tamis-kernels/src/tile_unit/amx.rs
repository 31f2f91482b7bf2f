//! The real tile unit, one instruction a method, and how it is found. Knows no product but
//! the one it is tried with.
//!
//! Rust has no stable intrinsics for it, so the instructions are written as assembly. No type
//! lives in a tile register, so the compiler never touches one between two of these blocks; and
//! a block that is not `pure` is neither dropped nor moved past another. None says `nomem`:
//! what a block reads is written before it, the 64 bytes of the configuration too.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count, __get_cpuid_max};
use std::sync::OnceLock;

use super::{Config, ROW_BYTES, ROWS, TILES, TileUnit, multiplies_right};

/// Proof that this CPU has AMX-TILE and AMX-INT8, that this process may use them, and that they
/// gave the right product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Amx {
    /// Whether the CPU has AMX-BF16 besides.
    pub(crate) bf16: bool,
}

impl Amx {
    /// Asks CPU and system once a process. Linux gives tiles only to a process that asks,
    /// and then to all its threads, those of later too.
    pub(crate) fn detect() -> Option<Self> {
        static FOUND: OnceLock<Option<Amx>> = OnceLock::new();
        *FOUND.get_or_init(|| {
            let mut unit = Self { bf16: features()? };
            (has_known_tiles() && permitted() && multiplies_right(&mut unit)).then_some(unit)
        })
    }
}

/// Where the CPU has tiles and int8 products and the system saves tiles: whether it has bf16
/// products as well.
fn features() -> Option<bool> {
    const OSXSAVE: u32 = 1 << 27;
    const TILE_STATE: u64 = 1 << 17 | 1 << 18;
    let (bf16, tile, int8) = (1 << 22, 1 << 24, 1 << 25);
    if __get_cpuid_max(0).0 < 0x1e || __cpuid(1).ecx & OSXSAVE == 0 {
        return None;
    }
    let has = __cpuid_count(7, 0).edx;
    if has & tile == 0 || has & int8 == 0 || enabled_states() & TILE_STATE != TILE_STATE {
        return None;
    }
    Some(has & bf16 != 0)
}

/// Register files that the system saves (XCR0); the caller has seen OSXSAVE.
fn enabled_states() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: `xgetbv` exists where OSXSAVE is set, and register 0 then does.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nostack, nomem)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Whether palette 1 has the tiles of `Config`, and the product unit takes them whole.
fn has_known_tiles() -> bool {
    let palette = __cpuid_count(0x1d, 1);
    let (tile_bytes, row_bytes) = (palette.eax >> 16, palette.ebx & 0xffff);
    let (tiles, rows) = (palette.ebx >> 16, palette.ecx & 0xffff);
    let known = [tile_bytes, row_bytes, tiles, rows].map(|n| n as usize)
        == [ROWS * ROW_BYTES, ROW_BYTES, TILES, ROWS];
    let product = __cpuid_count(0x1e, 0).ebx;
    let (most_quads, most_bytes) = (product & 0xff, product >> 8 & 0xffff);
    __cpuid_count(0x1d, 0).eax >= 1
        && known
        && most_quads as usize >= ROWS
        && most_bytes as usize >= ROW_BYTES
}

/// `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)` for this process.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XFEATURE_XTILEDATA: u64 = 18;
    let result: i64;
    // SAFETY: the call takes two numbers and changes no memory of this process; the kernel
    // overwrites rcx and r11.
    unsafe {
        asm!("syscall", inlateout("rax") ARCH_PRCTL => result, in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result == 0
}

/// How other systems give tiles to a process has not been tried: they are not used there.
#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

impl TileUnit for Amx {
    #[inline(always)]
    fn configure(&mut self, config: &Config) {
        // SAFETY: the token proves the instruction; `Config` holds 64 bytes of valid shapes.
        unsafe { asm!("ldtilecfg [{}]", in(reg) config, options(nostack, preserves_flags)) }
    }
    #[inline(always)]
    fn release(&mut self) {
        // SAFETY: the token proves the instruction, which needs no configuration.
        unsafe { asm!("tilerelease", options(nostack, preserves_flags)) }
    }
    #[inline(always)]
    unsafe fn zero<const T: usize>(&mut self) {
        // SAFETY: the caller has configured the tile.
        unsafe { asm!("tilezero tmm{}", const T, options(nostack, preserves_flags)) }
    }
    #[inline(always)]
    unsafe fn load<const T: usize>(&mut self, from: *const u8, stride: usize) {
        // SAFETY: as above; the caller vouches for the rows in memory.
        unsafe {
            asm!("tileloadd tmm{}, [{} + {}*1]", const T, in(reg) from, in(reg) stride,
                options(nostack, preserves_flags));
        }
    }
    #[inline(always)]
    unsafe fn store<const T: usize>(&mut self, to: *mut u8, stride: usize) {
        // SAFETY: as above.
        unsafe {
            asm!("tilestored [{} + {}*1], tmm{}", in(reg) to, in(reg) stride, const T,
                options(nostack, preserves_flags));
        }
    }
    #[inline(always)]
    unsafe fn multiply<const C: usize, const A: usize, const B: usize>(&mut self) {
        // Destination, signed bytes, unsigned bytes.
        // SAFETY: the caller has configured three different tiles that fit.
        unsafe {
            asm!("tdpbsud tmm{}, tmm{}, tmm{}", const C, const A, const B,
                options(nostack, preserves_flags));
        }
    }
}
