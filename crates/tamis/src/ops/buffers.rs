//! Memory of activations that is used again: a step asks for gigabytes, and fresh memory costs a page fault every
//! 4 KiB. Knows nothing of what is in it.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Vectors that nobody uses at the moment; they are freed with the last handle and the last buffer.
#[derive(Debug, Default, Clone)]
pub struct Buffers {
    free: Arc<Mutex<Vec<Vec<f32>>>>,
}

/// Some numbers, whose memory goes back where it came from.
#[derive(Debug)]
pub struct Buffer {
    values: Vec<f32>,
    len: usize,
    home: Buffers,
}

impl Buffers {
    fn free(&self) -> MutexGuard<'_, Vec<Vec<f32>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Numbers that the caller overwrites, all of them; where assertions are on they are not numbers until then.
    pub fn take(&self, len: usize) -> Buffer {
        let mut free = self.free();
        // Sizes come back step after step; one that is a little too large is as good as a fresh one.
        let fits = |v: &Vec<f32>| (len..=len + len / 2).contains(&v.len());
        let best = (0..free.len()).filter(|i| fits(&free[*i])).min_by_key(|i| free[*i].len());
        let found = best.map(|i| free.swap_remove(i));
        drop(free);
        let mut values = found.unwrap_or_else(|| vec![0.0; len]);
        if cfg!(debug_assertions) {
            values.fill(f32::NAN);
        }
        Buffer { values, len, home: self.clone() }
    }
    /// Frees what nobody uses.
    pub fn release(&self) {
        self.free().clear();
    }
    /// Zeros.
    pub fn zeros(&self, len: usize) -> Buffer {
        let mut buffer = self.take(len);
        buffer.fill(0.0);
        buffer
    }
    /// The numbers given.
    pub fn copy(&self, values: &[f32]) -> Buffer {
        let mut buffer = self.take(values.len());
        buffer.copy_from_slice(values);
        buffer
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let values = std::mem::take(&mut self.values);
        self.home.free().push(values);
    }
}

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.values[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_and_old_numbers_do_not() {
        let buffers = Buffers::default();
        let first = buffers.copy(&[1.0; 8]);
        let address = first.as_ptr();
        drop(first);
        assert!(buffers.take(100).as_ptr() != address, "far too small");
        let again = buffers.take(6);
        assert_eq!((again.as_ptr(), again.len()), (address, 6));
        assert!(!cfg!(debug_assertions) || again.iter().all(|v| v.is_nan()));
        assert!(buffers.take(6).as_ptr() != address, "in use");
        drop(again);
        assert_eq!(&*buffers.zeros(7), &[0.0; 7]);
    }
}
