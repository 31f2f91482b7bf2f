//! Tensors to the bytes of their safetensors tensors and back. All numbers are little
//! endian. Reading checks everything: the bytes are hostile input.
//!
//! Zero points are packed along the *output* dimension, `[ceil(out * bits / 32), groups]`,
//! as compressed-tensors does (`packed_dim=0`); codes along the input dimension.

use std::collections::BTreeMap;

use half::{bf16, f16};
use tamis_kernels::pack::{
    DenseF32, DenseHalf, HalfData, PackError, PackedMatrix, RowSource as _, SparseRows, packed_words,
};

use super::container::{Container, Dtype, Slot};
use super::entry::{Encoding, Stored, TensorEntry, Vector, no_ggml, no_tiles};
use super::pruned;
use crate::disk::digest::sha256;
use crate::error::{Error, Kind, Result};
use crate::model::Weight;

/// A number with a fixed little-endian form.
pub(super) trait Number: Copy {
    type Bytes: AsRef<[u8]> + for<'a> TryFrom<&'a [u8]>;
    fn to_bytes(self) -> Self::Bytes;
    fn from_bytes(bytes: Self::Bytes) -> Self;
}

macro_rules! number {
    ($($t:ty: $n:literal),*) => {$(
        impl Number for $t {
            type Bytes = [u8; $n];
            fn to_bytes(self) -> [u8; $n] {
                self.to_le_bytes()
            }
            fn from_bytes(bytes: [u8; $n]) -> Self {
                <$t>::from_le_bytes(bytes)
            }
        }
    )*};
}
number!(i8: 1, u16: 2, u32: 4, i64: 8, f32: 4, f16: 2, bf16: 2);

/// The safetensors tensors of one tensor.
pub(super) type Payloads = Vec<(Slot, Vec<u8>)>;

pub(super) fn to_bytes<T: Number>(values: &[T]) -> Vec<u8> {
    let width = size_of::<T>();
    let mut bytes = vec![0; size_of_val(values)];
    for (out, value) in bytes.chunks_exact_mut(width).zip(values) {
        out.copy_from_slice(value.to_bytes().as_ref());
    }
    bytes
}

pub(super) fn from_bytes<T: Number>(bytes: &[u8]) -> Vec<T> {
    let number = |piece| T::Bytes::try_from(piece).map(T::from_bytes).ok().expect("exact chunks");
    bytes.chunks_exact(size_of::<T>()).map(number).collect()
}

/// Bytes of every safetensors tensor of `stored`, base first, in the order of
/// `Encoding::slots`. Errors: NaN or Inf, or a form that no file holds.
pub(super) fn encode(name: &str, stored: &Stored) -> Result<(TensorEntry, Payloads)> {
    let encoding = stored.encoding().map_err(|e| e.tensor(name))?;
    let shape = stored.shape();
    let slots = encoding.slots(name, &shape)?;
    let payloads = match stored {
        Stored::Vector(Vector::F32(v)) => vec![to_bytes(v)],
        Stored::Vector(Vector::Half(data)) => vec![half_bytes(data)],
        Stored::Matrix(Weight::F32(w)) => vec![to_bytes(w.data())],
        Stored::Matrix(Weight::Half(w)) => vec![half_bytes(w.data())],
        Stored::Matrix(Weight::Packed(base)) => base_bytes(base),
        Stored::Matrix(weight @ (Weight::Bitmap(_) | Weight::Blocks(_) | Weight::Sparse(_))) => {
            pruned::to_parts(weight)
        }
        Stored::Matrix(Weight::Ggml(_)) => return Err(no_ggml().tensor(name)),
        Stored::Matrix(Weight::Tiled { .. }) => return Err(no_tiles().tensor(name)),
        Stored::Matrix(Weight::Sieved { base, ortho }) => {
            let stream = [to_bytes(ortho.starts()), to_bytes(ortho.columns()), to_bytes(ortho.values())];
            base_bytes(base).into_iter().chain(stream).collect()
        }
    };
    let parts: Payloads = slots.all().cloned().zip(payloads).collect();
    for (slot, bytes) in &parts {
        assert_eq!(slot.bytes(), bytes.len(), "{}", slot.name);
        finite(slot, bytes).map_err(|(e, _)| e)?;
    }
    let sha256 = parts.iter().map(|(slot, bytes)| (slot.name.clone(), sha256(bytes))).collect();
    Ok((TensorEntry { name: name.into(), shape, encoding, sha256 }, parts))
}

fn half_bytes(data: &HalfData) -> Vec<u8> {
    match data {
        HalfData::F16(v) => to_bytes(v),
        HalfData::Bf16(v) => to_bytes(v),
    }
}

fn base_bytes(base: &PackedMatrix) -> Vec<Vec<u8>> {
    let shape = [base.rows() as i64, base.cols() as i64];
    let mut parts = vec![to_bytes(base.words()), to_bytes(base.scales()), to_bytes(&shape)];
    parts.extend(base.zeros().map(|zeros| to_bytes(&pack_zeros(zeros, base.groups(), base.bits()))));
    parts
}

/// `[rows, groups]` codes to words `[packed_words(rows), groups]`, each column a stream.
fn pack_zeros(zeros: &[u8], groups: usize, bits: u32) -> Vec<u32> {
    let rows = zeros.len() / groups;
    let mut words = vec![0u32; packed_words(rows, bits) * groups];
    for (row, codes) in zeros.chunks_exact(groups).enumerate() {
        let bit = row * bits as usize;
        for (g, &code) in codes.iter().enumerate() {
            let wide = u64::from(code) << (bit % 32);
            words[bit / 32 * groups + g] |= wide as u32;
            if wide >> 32 != 0 {
                words[(bit / 32 + 1) * groups + g] |= (wide >> 32) as u32;
            }
        }
    }
    words
}

fn unpack_zeros(words: &[u32], rows: usize, groups: usize, bits: u32) -> Vec<u8> {
    let code = |row: usize, g: usize| {
        let bit = row * bits as usize;
        let low = u64::from(words[bit / 32 * groups + g]) >> (bit % 32);
        let straddles = bit % 32 + bits as usize > 32;
        let high =
            if straddles { u64::from(words[(bit / 32 + 1) * groups + g]) << (32 - bit % 32) } else { 0 };
        ((low | high) & ((1 << bits) - 1)) as u8
    };
    (0..rows).flat_map(|row| (0..groups).map(move |g| (row, g))).map(|(row, g)| code(row, g)).collect()
}

/// Checks that all numbers of a float tensor are finite; the error comes with the byte
/// offset inside the tensor.
pub(super) fn finite(slot: &Slot, bytes: &[u8]) -> std::result::Result<(), (Error, usize)> {
    let (width, first) = match slot.dtype {
        Dtype::F32 => (4, position(bytes, |x: f32| x.is_finite())),
        Dtype::F16 => (2, position(bytes, f16::is_finite)),
        Dtype::Bf16 => (2, position(bytes, bf16::is_finite)),
        _ => return Ok(()),
    };
    let Some(index) = first else { return Ok(()) };
    let problem = format!("value {index} is NaN or infinite");
    Err((Error::new(Kind::NonFinite, problem).tensor(&slot.name), index * width))
}

fn position<T: Number>(bytes: &[u8], good: impl Fn(T) -> bool) -> Option<usize> {
    let number = |piece| T::Bytes::try_from(piece).map(T::from_bytes).ok().expect("exact chunks");
    bytes.chunks_exact(size_of::<T>()).position(|piece| !good(number(piece)))
}

/// Reads a slot and checks that its numbers are finite.
pub(super) fn read_slot(file: &Container, slot: &Slot) -> Result<Vec<u8>> {
    let bytes = file.read(slot)?;
    finite(slot, &bytes).map_err(|(e, at)| {
        let start = file.entry(&slot.name).map_or(0, |entry| entry.offset);
        e.file(file.path()).offset(start + at as u64)
    })?;
    Ok(bytes)
}

/// Builds a tensor from the bytes of its slots, which `read` fetches and has
/// checked for type, shape and finite numbers.
pub(super) fn decode(
    name: &str,
    shape: &[usize],
    encoding: Encoding,
    read: &dyn Fn(&Slot) -> Result<Vec<u8>>,
) -> Result<Stored> {
    let slots = encoding.slots(name, shape)?;
    let mut bytes = BTreeMap::new();
    for slot in slots.all() {
        let payload = read(slot)?;
        let suffix = slot.name.rsplit('.').next().expect("split yields one item");
        bytes.insert(suffix.to_owned(), payload);
    }
    let built = match encoding {
        Encoding::Integers { bits, group, symmetric, ortho } => {
            let form = Form { rows: shape[0], cols: shape[1], bits: bits.get(), group };
            integers(&form, (symmetric, ortho.is_some()), &bytes)
        }
        kept if kept.is_pruned() => {
            pruned::from_parts(kept, (shape[0], shape[1]), &bytes).map(Stored::Matrix)
        }
        dense => {
            let payload = bytes.into_values().next().expect("a dense tensor has one slot");
            plain(shape, dense, &payload)
        }
    };
    built.map_err(|e| Error::bad_data(e.0).tensor(name))
}

fn plain(shape: &[usize], encoding: Encoding, bytes: &[u8]) -> Result<Stored, PackError> {
    let half = match encoding {
        Encoding::F16 => Some(HalfData::F16(from_bytes(bytes))),
        Encoding::Bf16 => Some(HalfData::Bf16(from_bytes(bytes))),
        _ => None,
    };
    Ok(match (shape, half) {
        (&[rows, cols], Some(data)) => Stored::Matrix(Weight::Half(DenseHalf::new(rows, cols, data)?)),
        (&[rows, cols], None) => Stored::Matrix(Weight::F32(DenseF32::new(rows, cols, from_bytes(bytes))?)),
        (_, Some(data)) => Stored::Vector(Vector::Half(data)),
        (_, None) => Stored::Vector(Vector::F32(from_bytes(bytes))),
    })
}

struct Form {
    rows: usize,
    cols: usize,
    bits: u32,
    group: usize,
}

fn integers(
    form: &Form,
    (symmetric, sieved): (bool, bool),
    bytes: &BTreeMap<String, Vec<u8>>,
) -> Result<Stored, PackError> {
    let &Form { rows, cols, bits, group } = form;
    let stored: Vec<i64> = from_bytes(&bytes["weight_shape"]);
    if stored != [rows as i64, cols as i64] {
        return Err(PackError(format!("weight_shape says {stored:?}, expected [{rows}, {cols}]")));
    }
    let groups = cols.div_ceil(group);
    let zeros =
        (!symmetric).then(|| unpack_zeros(&from_bytes(&bytes["weight_zero_point"]), rows, groups, bits));
    let words = from_bytes(&bytes["weight_packed"]);
    let scales = from_bytes(&bytes["weight_scale"]);
    let base = PackedMatrix::from_words((rows, cols), bits, group, words, scales, zeros)?;
    if !sieved {
        return Ok(Stored::Matrix(Weight::Packed(base)));
    }
    let ortho = SparseRows::new(
        (rows, cols),
        from_bytes(&bytes["ortho_starts"]),
        from_bytes(&bytes["ortho_columns"]),
        from_bytes(&bytes["ortho_values"]),
    )?;
    Ok(Stored::Matrix(Weight::Sieved { base, ortho }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn zero_points_round_trip(
            (rows, groups, bits) in (1usize..70, 1usize..4, prop::sample::select(vec![2u32, 3, 4, 8])),
            seed in any::<u64>(),
        ) {
            let zeros: Vec<u8> = (0..rows * groups)
                .map(|i| (seed.wrapping_mul(i as u64 + 1) >> 40) as u8 & ((1u32 << bits) - 1) as u8)
                .collect();
            let words = pack_zeros(&zeros, groups, bits);
            prop_assert_eq!(words.len(), (rows * bits as usize).div_ceil(32) * groups);
            prop_assert_eq!(unpack_zeros(&words, rows, groups, bits), zeros);
        }
    }

    #[test]
    fn infinity_is_found_with_its_offset() {
        let slot = Slot { name: "a.weight".into(), dtype: Dtype::F16, shape: vec![3] };
        let bytes = to_bytes(&[f16::ONE, f16::INFINITY, f16::ONE]);
        let (error, at) = finite(&slot, &bytes).unwrap_err();
        assert_eq!((error.kind(), at), (Kind::NonFinite, 2));
    }
}
