//! Named f32 arrays in a safetensors file of their own, adapters and interrupted runs: written whole or not at
//! all, read with every length and the digest checked. Knows no model.

use std::path::Path;

use super::codec::{from_bytes, to_bytes};
use super::container::{Container, Dtype, Slot, file_order, header};
use crate::disk::atomic::Pending;
use crate::disk::digest::Hasher;
use crate::disk::digest::sha256_file;
use crate::error::{Error, Result};
use crate::load::check_finite;

/// An array: name, shape, values.
pub(crate) type Array<'a> = (String, Vec<usize>, &'a [f32]);

/// Writes arrays; gives the file's SHA-256.
pub(crate) fn write(path: &Path, vectors: &[Array<'_>]) -> Result<String> {
    let slot =
        |(name, shape, _): &Array<'_>| Slot { name: name.clone(), dtype: Dtype::F32, shape: shape.clone() };
    let mut slots: Vec<Slot> = vectors.iter().map(slot).collect();
    file_order(&mut slots);
    let head = header(&slots);
    let bytes = head.len() as u64 + vectors.iter().map(|(.., v)| size_of_val(*v) as u64).sum::<u64>();
    let mut file = Pending::create(path, bytes)?;
    let mut hasher = Hasher::default();
    let mut append = |piece: &[u8]| {
        hasher.update(piece);
        file.append(piece)
    };
    append(&head)?;
    for slot in &slots {
        let (.., values) = vectors.iter().find(|(name, ..)| *name == slot.name).expect("made from these");
        for piece in values.chunks(1 << 20) {
            append(&to_bytes(piece))?;
        }
    }
    file.commit()?;
    Ok(hasher.hex())
}

/// Arrays that were written.
#[derive(Debug)]
pub(crate) struct Numbers(Container);

impl Numbers {
    /// Opens the file. Errors: another digest.
    pub(crate) fn open(path: &Path, digest: &str) -> Result<Self> {
        // The structure first: a file that is far too long is not hashed.
        let container = Container::open(path)?;
        if sha256_file(path)?.0 != digest {
            return Err(Error::bad_data("the SHA-256 is not the one that was written down").file(path));
        }
        Ok(Self(container))
    }

    /// Reads the vector of this name. Errors: it is missing, of another length, or holds NaN or infinity.
    pub(crate) fn read(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        let slot = Slot { name: name.to_owned(), dtype: Dtype::F32, shape: vec![len] };
        let (values, entry) = (from_bytes(&self.0.read(&slot)?), self.0.check(&slot)?);
        check_finite(&values, entry.offset).map_err(|e| e.file(self.0.path()).tensor(name))?;
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_come_back_and_damage_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let (a, b) = (vec![1.5f32, -0.0, f32::MIN_POSITIVE], vec![2.0f32]);
        let digest = write(&path, &[("b".into(), vec![1], &b[..]), ("a".into(), vec![3], &a[..])]).unwrap();
        let file = Numbers::open(&path, &digest).unwrap();
        assert_eq!((file.read("a", 3).unwrap(), file.read("b", 1).unwrap()), (a, b));
        assert!(file.read("a", 4).is_err());
        assert!(file.read("c", 1).is_err());
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(Numbers::open(&path, &digest).is_err());
    }
}
