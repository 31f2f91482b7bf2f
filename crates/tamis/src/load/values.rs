//! Checks on tensor values and shapes that every reader makes.

use bytemuck::Pod;
use half::{bf16, f16};

use crate::error::{Error, Kind, Result};

/// A float as files store it.
pub(crate) trait Float: Pod {
    /// Whether it is neither NaN nor infinite.
    fn finite(self) -> bool;
    /// Turns the bytes of a little-endian file into this machine's order.
    fn swapped(self) -> Self;
}

macro_rules! float {
    ($float:ty, $bits:ty) => {
        impl Float for $float {
            fn finite(self) -> bool {
                self.is_finite()
            }
            fn swapped(self) -> Self {
                Self::from_bits(<$bits>::from_le(self.to_bits()))
            }
        }
    };
}
float!(f32, u32);
float!(f16, u16);
float!(bf16, u16);

/// Little-endian file order to this machine's; nothing to do on most.
pub(crate) fn from_le<T: Float>(data: &mut [T]) {
    if cfg!(target_endian = "big") {
        data.iter_mut().for_each(|v| *v = v.swapped());
    }
}

/// Refuses NaN and infinity; `offset` is the file offset of the first value.
pub(crate) fn check_finite<T: Float>(data: &[T], offset: u64) -> Result<()> {
    // A branch-free pass first: the search for the place is only paid by bad tensors.
    if data.iter().fold(true, |ok, v| ok & v.finite()) {
        return Ok(());
    }
    let at = data.iter().position(|v| !v.finite()).unwrap_or(0);
    Err(non_finite(at, offset + (at * size_of::<T>()) as u64))
}

/// The refusal of a NaN or infinite weight.
pub(crate) fn non_finite(index: usize, offset: u64) -> Error {
    Error::new(Kind::BadData, format!("weight {index} is NaN or infinite"))
        .offset(offset)
        .next("the file is damaged or the model diverged in training: fetch it again or use another")
}

/// Rows and columns of a two-dimensional shape whose product is a length that exists.
pub(crate) fn expect_matrix(name: &str, shape: &[usize]) -> Result<(usize, usize)> {
    match *shape {
        [rows, cols] if rows > 0 && cols > 0 && rows.checked_mul(cols).is_some() => Ok((rows, cols)),
        _ => Err(Error::bad_data(format!("shape {shape:?} where a matrix is needed")).tensor(name)),
    }
}

/// Length of a one-dimensional shape.
pub(crate) fn expect_vector(name: &str, shape: &[usize]) -> Result<usize> {
    match *shape {
        [n] if n > 0 => Ok(n),
        _ => Err(Error::bad_data(format!("shape {shape:?} where a vector is needed")).tensor(name)),
    }
}
