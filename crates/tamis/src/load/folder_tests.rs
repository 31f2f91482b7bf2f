//! Folders of shards, and what is refused in them.

use half::{bf16, f16};
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::Kind;
use crate::units::Alpha;

/// Name, type, shape and bytes of a tensor.
pub(crate) type Given<'a> = (&'a str, &'a str, &'a [usize], Vec<u8>);

/// A Llama of width 4 with so many blocks, all weights 1, but for the tensors that are `given`.
pub(crate) fn tiny_llama(layers: usize, given: &[Given<'_>]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let config = json!({
        "model_type": "llama", "hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": layers,
        "num_attention_heads": 1, "vocab_size": 4,
    });
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let mut names: Vec<(String, &[usize])> =
        ["model.embed_tokens", "lm_head"].map(|n| (n.into(), &[4, 4][..])).into();
    names.push(("model.norm".into(), &[4]));
    for index in 0..layers {
        let linears =
            ["self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down"];
        names.extend(linears.map(|n| (format!("model.layers.{index}.{n}_proj"), &[4, 4][..])));
        let norms = ["input_layernorm", "post_attention_layernorm"];
        names.extend(norms.map(|n| (format!("model.layers.{index}.{n}"), &[4][..])));
    }
    names.iter_mut().for_each(|(name, _)| name.push_str(".weight"));
    let ones = |shape: &[usize]| f32s(&vec![1.0; shape.iter().product()]);
    let usual = names.iter().filter(|(name, _)| given.iter().all(|(other, ..)| other != name));
    let usual = usual.map(|(name, shape)| (name.as_str(), "F32", *shape, ones(shape)));
    let tensors: Vec<Given<'_>> = usual.chain(given.iter().cloned()).collect();
    std::fs::write(folder.path().join("model.safetensors"), safetensors_file(&tensors)).unwrap();
    folder
}

/// A safetensors file of `(name, dtype, shape, bytes)`.
pub(crate) fn safetensors_file(tensors: &[(&str, &str, &[usize], Vec<u8>)]) -> Vec<u8> {
    let mut at = 0;
    let mut header = serde_json::Map::new();
    for (name, dtype, shape, data) in tensors {
        let offsets = [at, at + data.len()];
        at += data.len();
        header.insert(
            (*name).into(),
            serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}),
        );
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    tensors.iter().for_each(|t| bytes.extend(&t.3));
    bytes
}

pub(crate) fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn folder(files: &[(&str, Vec<u8>)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

fn index(entries: &[(&str, &str)]) -> Vec<u8> {
    let map: serde_json::Map<_, _> = entries.iter().map(|(t, f)| ((*t).into(), (*f).into())).collect();
    serde_json::to_vec(&serde_json::json!({ "metadata": {}, "weight_map": map })).unwrap()
}

fn open(folder: &TempDir) -> Result<SafetensorsSource> {
    SafetensorsSource::open_folder(folder.path())
}

#[test]
fn the_three_types_are_read_from_shards() {
    let values = [1.0f32, -2.5, 0.0, 65504.0, 1e-3, 3.0];
    let halves: Vec<u8> = values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect();
    let brains: Vec<u8> = values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect();
    let one = safetensors_file(&[("a", "F32", &[2, 3], f32s(&values)), ("b", "F16", &[3, 2], halves)]);
    let two = safetensors_file(&[("c", "BF16", &[6], brains)]);
    let names = [("a", "1.safetensors"), ("b", "1.safetensors"), ("c", "2.safetensors")];
    let folder = folder(&[("1.safetensors", one), ("2.safetensors", two), (INDEX, index(&names))]);
    let source = open(&folder).unwrap();
    assert_eq!(source.weight("a").unwrap().to_f32(Alpha::ZERO), values);
    let rounded: Vec<f32> = values.iter().map(|&v| f16::from_f32(v).to_f32()).collect();
    assert_eq!(source.weight("b").unwrap().to_f32(Alpha::ZERO), rounded);
    let rounded: Vec<f32> = values.iter().map(|&v| bf16::from_f32(v).to_f32()).collect();
    assert_eq!(source.vector("c").unwrap(), rounded);
    assert_eq!(source.tensors()["b"].shape, [3, 2]);
    source.tensors()["b"].expect_shape("b", &[3, 2]).unwrap();
    let error = source.tensors()["b"].expect_shape("b", &[2, 3]).unwrap_err();
    assert_eq!(error.exit_code(), 65);
    for wrong in [source.weight("c").err(), source.vector("a").err(), source.weight("d").err()] {
        assert_eq!(wrong.unwrap().exit_code(), 65);
    }
}

#[test]
fn non_finite_weights_are_refused_with_their_place() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let file = safetensors_file(&[("w", "F32", &[2, 2], f32s(&[0.0, 1.0, bad, f32::NAN]))]);
        let offset = file.len() - 8;
        let error = open(&folder(&[(SINGLE, file)])).unwrap().weight("w").unwrap_err();
        let text = error.to_string();
        assert_eq!(error.exit_code(), 65);
        assert!(text.contains("tensor w") && text.contains(&format!("at byte {offset}")), "{text}");
        assert!(text.contains(SINGLE) && text.contains("weight 2"), "{text}");
    }
    let file = safetensors_file(&[("w", "BF16", &[1], vec![0xc0, 0x7f]), ("v", "F16", &[1], vec![0, 0xfc])]);
    let folder = folder(&[(SINGLE, file)]);
    let source = open(&folder).unwrap();
    assert!(source.vector("w").is_err() && source.vector("v").is_err());
}

#[test]
fn unsupported_types_are_named() {
    let file = safetensors_file(&[("w", "F64", &[1, 1], vec![0; 8]), ("v", "I32", &[1], vec![0; 4])]);
    let folder = folder(&[(SINGLE, file)]);
    let source = open(&folder).unwrap();
    for (error, dtype) in [(source.weight("w").unwrap_err(), "F64"), (source.vector("v").unwrap_err(), "I32")]
    {
        assert!(error.to_string().contains(dtype) && error.to_string().contains("next:"), "{error}");
    }
}

#[test]
fn an_index_cannot_lead_out_of_its_folder() {
    for shard in [
        "../x.safetensors",
        "/etc/x.safetensors",
        "a/b.safetensors",
        "./x.safetensors",
        "..\\x.safetensors",
        "C:x.safetensors",
        "..",
        "",
        ".safetensors",
        "x.bin",
        "x\0.safetensors",
        "x\n.safetensors",
    ] {
        let error = parse_index(&index(&[("w", shard)])).unwrap_err();
        assert_eq!(error.exit_code(), 65, "{shard:?}");
        assert!(error.to_string().contains("tensor w"), "{error}");
    }
    assert!(parse_index(&index(&[("w", "model-00001-of-00002.safetensors")])).is_ok());
    for json in [&b"{}"[..], b"[]", b"{\"weight_map\":{}}", b"{\"weight_map\":{\"a\":1}}", b"\xff"] {
        assert_eq!(parse_index(json).unwrap_err().exit_code(), 65);
    }
}

#[test]
fn shards_must_hold_what_the_index_says() {
    let w = || safetensors_file(&[("w", "F32", &[1], f32s(&[1.0]))]);
    let v = || safetensors_file(&[("v", "F32", &[1], f32s(&[1.0]))]);
    let two = [("w", "1.safetensors"), ("v", "2.safetensors")];
    let good = folder(&[("1.safetensors", w()), ("2.safetensors", v()), (INDEX, index(&two))]);
    open(&good).unwrap();
    let missing = folder(&[("1.safetensors", w()), (INDEX, index(&two))]);
    let error = open(&missing).unwrap_err();
    assert_eq!(error.kind(), Kind::Missing);
    assert!(error.to_string().contains("2.safetensors"), "{error}");
    let swapped = folder(&[("1.safetensors", v()), ("2.safetensors", w()), (INDEX, index(&two))]);
    assert_eq!(open(&swapped).unwrap_err().exit_code(), 65);
    let twice = folder(&[("1.safetensors", w()), ("2.safetensors", w()), (INDEX, index(&two))]);
    assert!(open(&twice).unwrap_err().to_string().contains("two shards"));
}

#[test]
fn folders_without_safetensors_are_refused() {
    assert_eq!(open(&folder(&[])).unwrap_err().kind(), Kind::Missing);
    let error = open(&folder(&[("pytorch_model.bin", vec![0x80, 2])])).unwrap_err();
    assert_eq!(error.exit_code(), 65);
    assert!(error.to_string().contains("pickle"), "{error}");
}

#[test]
fn every_truncation_of_a_file_is_refused() {
    let bytes = safetensors_file(&[("w", "F32", &[2], f32s(&[1.0, 2.0]))]);
    for end in 0..bytes.len() {
        let error = open(&folder(&[(SINGLE, bytes[..end].to_vec())])).unwrap_err();
        assert_eq!(error.exit_code(), 65, "cut at {end}: {error}");
        assert!(error.to_string().contains(SINGLE), "{error}");
    }
}
