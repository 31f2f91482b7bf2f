//! Memory before it is taken: what a run plans to hold, what this process may hold, and allocations that may fail.
//! Knows no model; who plans says what it is for and which setting makes it less.

mod limits;

use bytemuck::Zeroable;
use serde::Serialize;

pub use tamis_kernels::memory::{Allocator, OutOfMemory};

use crate::error::{Error, Kind, Result};
use crate::units::human_bytes;

/// Measured resident size of the command with an open checkpoint and tokenizer.
pub const PROGRAM: u64 = 64 << 20;

/// How much memory there is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Available {
    /// Bytes that this process may hold in all, those that it holds among them.
    pub bytes: u64,
    /// What sets the limit.
    pub limit: String,
}

/// What this process may hold: the least of its limits. None where the system does not tell (it does on Linux).
pub fn available() -> Option<Available> {
    limits::least(&limits::read, limits::Swap::Counted)
}

/// Bytes that can be taken without driving anything out, where the system tells.
pub fn unused() -> Option<u64> {
    let available = limits::least(&limits::read, limits::Swap::LeftOut)?;
    Some(available.bytes.saturating_sub(limits::held(&limits::read)?))
}

/// What some work will hold at most at once.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// The work: "compressing".
    pub what: &'a str,
    /// Bytes that the whole process will hold.
    pub bytes: u64,
    /// The settings that make it less.
    pub smaller: &'a str,
}

impl Plan<'_> {
    /// Errors: [`Kind::Memory`] where there is less.
    pub fn check(&self) -> Result<()> {
        self.against(available().as_ref())
    }

    /// The same, where the bytes come on top of what the process holds now.
    pub fn check_more(&self) -> Result<()> {
        let held = limits::held(&limits::read).unwrap_or(0);
        Plan { bytes: self.bytes.saturating_add(held), ..*self }.check()
    }

    fn against(&self, available: Option<&Available>) -> Result<()> {
        let Some(Available { bytes, limit }) = available.filter(|a| a.bytes < self.bytes) else {
            return Ok(());
        };
        let problem = format!(
            "{} takes up to {} of memory, and this process may hold {}: {limit}",
            self.what,
            human_bytes(self.bytes),
            human_bytes(*bytes)
        );
        Err(Error::new(Kind::Memory, problem)
            .next(format!("{}; or free memory, or raise the limit", self.smaller)))
    }
}

/// `count` zeros. Errors: [`Kind::Memory`].
pub fn zeros<T: Zeroable>(count: usize) -> Result<Vec<T>> {
    tamis_kernels::memory::zeros(count).map_err(none)
}

/// Room in `values` for `more`. Errors: [`Kind::Memory`].
pub fn reserve<T>(values: &mut Vec<T>, more: usize) -> Result<()> {
    let bytes = (more as u64).saturating_mul(size_of::<T>() as u64);
    tamis_kernels::memory::tried(|| values.try_reserve_exact(more)).map_err(|_| none(OutOfMemory { bytes }))
}

/// Errors: [`Kind::Memory`], where fewer threads run than were `asked` for.
pub(crate) fn check_threads(started: usize, asked: usize) -> Result<()> {
    if started >= asked {
        return Ok(());
    }
    Err(Error::new(Kind::Memory, format!("only {started} of {asked} threads could be started"))
        .next(format!("pass --threads {started}, or raise the limits (ulimit -v, ulimit -u)")))
}

/// As an error.
pub(crate) fn none(OutOfMemory { bytes }: OutOfMemory) -> Error {
    Error::new(Kind::Memory, format!("out of memory: {} more were wanted", human_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_refused_where_there_is_less() {
        let plan = Plan { what: "compressing", bytes: 3 << 30, smaller: "use fewer --samples" };
        assert!(plan.against(None).is_ok());
        let available = |bytes| Available { bytes, limit: "memory.max of /a".into() };
        assert!(plan.against(Some(&available(3 << 30))).is_ok());
        let error = plan.against(Some(&available((3 << 30) - 1))).unwrap_err();
        assert_eq!(error.kind(), Kind::Memory);
        let text = error.to_string();
        for part in ["compressing takes up to 3.0 GiB", "memory.max of /a", "next: use fewer --samples"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn what_there_is_no_memory_for_is_an_error() {
        assert_eq!(zeros::<u8>(3).unwrap(), [0; 3]);
        assert_eq!(zeros::<u64>(usize::MAX / 8).unwrap_err().kind(), Kind::Memory);
        assert_eq!(reserve(&mut vec![0u64], usize::MAX / 16).unwrap_err().kind(), Kind::Memory);
        assert_eq!(check_threads(1, 2).unwrap_err().kind(), Kind::Memory);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_may_hold_something() {
        let Available { bytes, limit } = available().unwrap();
        assert!(bytes > 1 << 20 && !limit.is_empty(), "{bytes} {limit}");
        assert!(unused().unwrap() < bytes);
    }
}
