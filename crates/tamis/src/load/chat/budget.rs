//! What a template may spend: a number of bytes, charged for every value it makes.
//!
//! A value is charged what it would take if written out, shared parts counted each
//! time. So a list that holds a list twice, forty deep, is seen for what it is, and
//! nothing that is printed, compared or dropped later is larger than the budget or
//! deeper than [`DEPTH`].

use std::sync::atomic::{AtomicU64, Ordering};

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

/// Deepest nesting of lists and maps.
const DEPTH: usize = 32;
/// Bytes that every template may make, and a multiple of its input on top: a
/// conversation passes through several concatenations on its way out.
const BASE: u64 = 4 << 20;
const PER_INPUT_BYTE: u64 = 64;
/// Charge of a value besides its text.
const VALUE: u64 = 16;

/// Bytes that are left.
#[derive(Debug)]
pub(super) struct Budget(AtomicU64);

impl Budget {
    /// The budget of a rendering whose template and messages have `bytes` bytes.
    pub(super) fn for_input(bytes: usize) -> Self {
        Self(AtomicU64::new(BASE + PER_INPUT_BYTE * bytes as u64))
    }

    /// Takes `bytes`.
    pub(super) fn take(&self, bytes: u64) -> Result<(), Error> {
        let left = self.0.load(Ordering::Relaxed);
        match left.checked_sub(bytes) {
            Some(left) => {
                self.0.store(left, Ordering::Relaxed);
                Ok(())
            }
            None => Err(refused("the template makes more text than its limit")),
        }
    }

    /// Takes what a value costs. Namespaces may hold data only: with namespaces or macros
    /// in them, chains could be built that are too deep to be dropped.
    pub(super) fn charge(&self, value: &Value) -> Result<(), Error> {
        let holds_names = is_namespace(value);
        self.walk(value, 0, &mut |inner, depth| match depth > 0 && holds_names && !is_data(inner) {
            true => Err(refused("a namespace may hold data only")),
            false => Ok(()),
        })
    }

    /// As [`Self::charge`] for a value that a namespace is to hold.
    pub(super) fn charge_data(&self, value: &Value) -> Result<(), Error> {
        self.walk(value, 0, &mut |inner, _| match is_data(inner) {
            true => Ok(()),
            false => Err(refused("a namespace may hold data only")),
        })
    }

    fn walk(
        &self,
        value: &Value,
        depth: usize,
        check: &mut dyn FnMut(&Value, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.take(VALUE + value.as_str().map_or(0, |s| s.len() as u64))?;
        check(value, depth)?;
        let map = value.kind() == ValueKind::Map;
        if !map && !matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
            return Ok(());
        }
        if depth == DEPTH {
            return Err(refused("values are nested too deeply"));
        }
        for item in value.try_iter()? {
            if map {
                self.walk(&value.get_item(&item)?, depth + 1, check)?;
            }
            self.walk(&item, depth + 1, check)?;
        }
        Ok(())
    }
}

fn is_namespace(value: &Value) -> bool {
    value.as_object().is_some_and(|o| o.type_name().ends_with("::Namespace"))
}

/// Whether a value is plain data: no namespace, macro or other live object.
fn is_data(value: &Value) -> bool {
    !matches!(value.kind(), ValueKind::Plain | ValueKind::Invalid) && !is_namespace(value)
}

pub(super) fn refused(problem: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem)
}
