//! What calibration learns about a block, on stories260K.

use tamis::load::Checkpoint;
use tamis::model::block::{Block, Pass, Span};
use tamis::model::decoder::Stem;
use tamis::model::rotation::Rotation;
use tamis::ops::{CacheType, Cpu, Isa, KvLayer, Ops, Precision, Reference};
use tamis::units::Alpha;

use crate::places::data;

const LENGTH: usize = 50;
/// Weights are sums of up to 8 x 50 softmax values in f32, and scores come from f32 products.
const NEAR: f32 = 1e-4;

#[test]
fn every_query_asked_shares_out_one_unit_of_attention() {
    let Some(path) = data("models/stories260K") else { return };
    let checkpoint = Checkpoint::open(path.to_str().unwrap()).unwrap();
    let config = checkpoint.config();
    let (stem, block) = (Stem::load(&checkpoint).unwrap(), Block::load(&checkpoint, 0).unwrap());
    let positions: Vec<usize> = (0..LENGTH).chain(0..LENGTH).collect();
    let rotations = Rotation::all(config, &positions);
    let tokens: Vec<u32> = (0..2 * LENGTH as u32).map(|i| 3 + i * 37 % 500).collect();
    let received = |ops: &dyn Ops, step| {
        let x = stem.embed(ops, config, &tokens, &positions).unwrap();
        let pass = Pass { ops, config, rotations: &rotations, alpha: Alpha::ONE };
        let mut caches =
            [(); 2].map(|()| KvLayer::new(config.kv_heads, config.head_dim, LENGTH, CacheType::F32));
        let mut spans: Vec<Span<'_>> = caches.iter_mut().map(|cache| Span { rows: LENGTH, cache }).collect();
        block.attention_received(pass, &block.attention_input(pass, &x), &mut spans, step)
    };
    for step in [1, 8, 1000] {
        let plain = received(&Reference, step);
        for sequence in plain.chunks(LENGTH) {
            let asked = LENGTH.div_ceil(step);
            let total: f32 = sequence.iter().sum();
            let expected = (asked * step) as f32;
            assert!((total - expected).abs() < NEAR * expected, "{step}: {total}, not {expected}");
            assert!(sequence.iter().all(|w| *w > 0.0), "the last query, which sees all, is asked");
        }
        let fast = received(&Cpu::new(Isa::from_env().unwrap(), 2, Precision::F32), step);
        for (a, b) in fast.iter().zip(&plain) {
            assert!((a - b).abs() < NEAR * b.max(1.0), "{step}: {a}, not {b}");
        }
    }
}
