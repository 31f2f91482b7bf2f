//! Weights packed by compressed-tensors itself (`scripts/golden/pack_quantized.py`) are
//! read as the numbers it decompresses, and are written again as the bytes it wrote.
//! Files are parsed here by the safetensors crate, which tamis's own reader does not use.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use half::f16;
use safetensors::SafeTensors;
use tamis::artifact::{ArtifactSource, Existing, Finish, Identity, Part, Resume, Writer};
use tamis::load::TensorSource as _;
use tamis::units::Alpha;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/pack_quantized")
}

#[test]
fn weights_are_what_compressed_tensors_decompresses() {
    let bytes = fs::read(golden().join("expected.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let source = ArtifactSource::open(&golden()).unwrap();
    assert_eq!(source.tensors().len(), expected.len());
    for name in expected.names() {
        let weight = source.weight(name).unwrap().to_f32(Alpha::ONE);
        // Ours is exact; theirs is the same product rounded once, to the type of the scale.
        let ours: Vec<u8> = weight.iter().flat_map(|w| f16::from_f32(*w).to_le_bytes()).collect();
        assert!(ours == expected.tensor(name).unwrap().data(), "{name}");
    }
}

#[test]
fn what_we_write_is_what_compressed_tensors_writes() {
    let source = ArtifactSource::open(&golden()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let identity = Identity::new("recipe".into(), "model".into(), None);
    let options = (Resume::default(), Existing::default());
    let mut writer = Writer::create_or_resume(dir.path(), &identity, options).unwrap();
    let tensors: Vec<_> =
        source.tensors().keys().map(|name| (name.clone(), source.read(name).unwrap())).collect();
    writer.put(Part::Block(0), &tensors, BTreeMap::new()).unwrap();
    writer.finish(Finish::default()).unwrap();

    let theirs = fs::read(golden().join("model.safetensors")).unwrap();
    let ours = fs::read(dir.path().join("model.safetensors")).unwrap();
    let (theirs, ours) =
        (SafeTensors::deserialize(&theirs).unwrap(), SafeTensors::deserialize(&ours).unwrap());
    assert_eq!(ours.len(), theirs.len());
    for (name, tensor) in theirs.iter() {
        let own = ours.tensor(name).unwrap();
        assert_eq!((own.dtype(), own.shape()), (tensor.dtype(), tensor.shape()), "{name}");
        assert!(own.data() == tensor.data(), "{name}");
    }
}
