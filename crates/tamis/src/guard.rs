//! Calls into code that may panic on what a file says. A panic in there becomes an answer, and nothing is printed.
//! It cannot help against a full stack or an allocation that fails, so what is guarded is checked first all the same.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    /// Whether this thread is inside [`guarded`].
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// The work panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Panicked;

/// Does `work`. What it has changed when it panics must not be used again.
pub(crate) fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    quieten();
    let outside = INSIDE.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    INSIDE.set(outside);
    done.map_err(|_| Panicked)
}

/// Puts a panic hook before the one that is there, which hears of every panic but those inside [`guarded`].
///
/// The library has no global state; this is the one exception. A panic reaches the hook of the process before it can
/// be caught, and the usual hook prints a trace: a defect of tamis, to all appearances, where a file is at fault.
fn quieten() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let loud = take_hook();
        set_hook(Box::new(move |panic| {
            // A thread that is ending has no flag any more, and is in no guard.
            if !INSIDE.try_with(Cell::get).unwrap_or(false) {
                loud(panic);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_answer() {
        assert_eq!(guarded(|| 1), Ok(1));
        assert_eq!(guarded(|| -> u8 { panic!("quiet") }), Err(Panicked));
        assert_eq!(guarded(|| guarded(|| -> u8 { panic!("quiet") })), Ok(Err(Panicked)));
        assert!(!INSIDE.get());
    }

    /// Other threads are as loud as ever, also while one is inside.
    #[test]
    fn only_what_is_guarded_is_quiet() {
        let heard = || INSIDE.get();
        assert!(!heard());
        let other = guarded(|| (heard(), std::thread::spawn(heard).join().unwrap()));
        assert_eq!(other, Ok((true, false)));
    }
}
