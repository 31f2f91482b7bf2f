//! Sizes add up, with and without the sidecar.

use super::*;
use crate::artifact::inspect;
use crate::load::{Checkpoint, Ortho};

#[test]
fn sizes_add_up_to_the_files() {
    let dir = written();
    let checkpoint = Checkpoint::open(dir.path().to_str().unwrap()).unwrap();
    let whole = inspect(&checkpoint).unwrap();
    let data: u64 = whole.tensors.iter().map(|t| t.bytes).sum();
    let headers: u64 = ["model.safetensors", "ortho.safetensors"]
        .map(|name| {
            let bytes = fs::read(dir.path().join(name)).unwrap();
            8 + u64::from_le_bytes(bytes[..8].try_into().unwrap())
        })
        .iter()
        .sum();
    assert_eq!(data + headers, whole.file_bytes);
    assert_eq!(whole.bits_per_weight, 8.0 * data as f64 / whole.parameters as f64);

    let q = whole.tensors.iter().find(|t| t.name.ends_with("0.self_attn.q_proj.weight")).unwrap();
    // 64x64: codes, two scales a row, the shape, row starts, entries of four bytes.
    let expected = 64 * 64 / 2 + 64 * 2 * 2 + 16 + 65 * 4 + 4 * q.ortho_entries as u64;
    assert_eq!(q.bytes, expected);

    fs::remove_file(dir.path().join("ortho.safetensors")).unwrap();
    let base = inspect(&Checkpoint::open(dir.path().to_str().unwrap()).unwrap()).unwrap();
    assert_eq!((whole.ortho, base.ortho), (Ortho::Present, Ortho::Absent));
    assert_eq!(base.parameters, whole.parameters);
    assert!(base.bits_per_weight < whole.bits_per_weight);
}
