//! A real GGUF file: opens, and q of block 0 is un-permuted as the formula says.

use super::*;
use crate::load::{Checkpoint, testdata};
use crate::model::config::Norm;
use crate::units::Alpha;

#[test]
fn row_order_inverts_the_converter() {
    // The converter: [heads, 2, half] -> [heads, half, 2].
    let (heads, half) = (3, 4);
    let model: Vec<usize> = (0..heads * 2 * half).collect();
    let mut file = Vec::new();
    for head in 0..heads {
        for i in 0..half {
            for part in 0..2 {
                file.push(model[head * 2 * half + part * half + i]);
            }
        }
    }
    assert_eq!(RowOrder::PairsOf { half }.restore(file, 1), model);
}

#[test]
fn smollm2_opens() {
    let Some(path) = testdata::smollm2() else { return };
    let model = Checkpoint::open(path.to_str().unwrap()).unwrap();
    let config = model.config();
    assert_eq!((config.hidden, config.intermediate, config.layers.len()), (576, 1536, 30));
    assert_eq!((config.heads, config.kv_heads, config.head_dim, config.vocab), (9, 3, 64, 49_152));
    assert_eq!((config.tied, config.context, config.norm), (true, 8192, Norm::Rms { eps: 1e-5 }));
    assert_eq!(model.tensors().tensors().len(), 272);
    let name = "model.layers.0.self_attn.q_proj.weight";
    let q = model.tensors().weight(name).unwrap();
    model.tensors().tensors()[name].expect_shape(name, &[576, 576]).unwrap();
    assert_eq!(q.bytes(), 576 * 576 / 32 * 20);

    let file = GgufFile::open(&path).unwrap();
    let tensor = &file.header.tensors["blk.0.attn_q.weight"];
    let raw = file.file.read::<u8>(tensor.offset, tensor.bytes as usize).unwrap();
    let Storage::Blocks(kind) = tensor.storage else { panic!("q is in blocks") };
    let raw = Weight::Ggml(GgmlMatrix::new(kind, 576, 576, raw).unwrap()).to_f32(Alpha::ZERO);
    let q = q.to_f32(Alpha::ZERO);
    for (head, half, i) in [(0, 0, 0), (0, 1, 0), (3, 1, 31), (8, 0, 17)] {
        let (ours, theirs) = (head * 64 + half * 32 + i, head * 64 + i * 2 + half);
        assert_eq!(q[ours * 576..][..576], raw[theirs * 576..][..576]);
    }
    assert_ne!(q, raw);
    assert_eq!(model.tensors().vector("model.norm.weight").unwrap().len(), 576);
    for name in model.tensors().tensors().keys().filter(|n| !n.contains("norm")) {
        model.tensors().weight(name).unwrap();
    }
}
