//! Merged models: their logits are those of model and adapter, masks stay as they are, and what would
//! be lost is refused unless it is asked for.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::PathBuf;

use half::{bf16, f16};
use tamis_kernels::pack::{BitmapMatrix, BlockMatrix, DenseHalf, HalfData, SparseRows};

use super::*;
use crate::artifact::verify;
use crate::compress::Threads;
use crate::job::Job;
use crate::load::open_adapter;
use crate::model::block::Role;
use crate::model::{Block, Decoder, KvCache, Sequence};
use crate::ops::{CacheType, Reference};
use crate::recipe::{Format, Recipe};

/// Largest difference of a logit, relative to the largest: one rounding of `W + s B A` to f32 against two
/// products in f32.
const F32: f32 = 1e-5;
/// The same where the sum is rounded to f16: eleven bits, through two layers.
const F16: f32 = 1e-2;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path.to_str().unwrap()).unwrap()
}

fn compressed(recipe: &Recipe, output: &Path) -> Checkpoint {
    let job = Job {
        checkpoint: &open(&golden("models/llama-gqa")),
        recipe,
        calibration: None,
        ops: &Reference,
        threads: Threads::new(NonZeroUsize::MIN),
        workers: &crate::workers::Alone,
        output,
        policy: (Resume::Auto, Existing::Refuse),
    };
    job.run(&mut |_| ControlFlow::Continue(())).unwrap();
    open(output)
}

fn logits(checkpoint: &Checkpoint, adapter: Option<&Adapter>) -> Vec<f32> {
    let mut decoder = Decoder::load(checkpoint, &Reference).unwrap();
    if let Some(adapter) = adapter {
        adapter.attach(&mut decoder).unwrap();
    }
    let tokens: Vec<u32> = (3..27).collect();
    let mut cache = KvCache::new(decoder.config(), tokens.len(), CacheType::F32);
    let mut batch = [Sequence { tokens: &tokens, cache: &mut cache }];
    let hidden = decoder.hidden(&Reference, &mut batch, Alpha::ONE).unwrap();
    let mut logits = Vec::new();
    decoder.logits(&Reference, &hidden, Alpha::ONE, &mut logits);
    logits
}

fn off(found: &[f32], expected: &[f32]) -> f32 {
    let largest = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest
}

const NOTHING: Losses = Losses { keep_zeros: false, dequantise: false };
const ZEROS: Losses = Losses { keep_zeros: true, dequantise: false };
const INTEGERS: Losses = Losses { keep_zeros: false, dequantise: true };

fn merge(checkpoint: &Checkpoint, adapter: &Adapter, losses: Losses, output: &Path) -> Result<Checkpoint> {
    let policy = (Resume::Auto, Existing::Refuse);
    let merge = Merge { checkpoint, adapter, losses, ops: &Reference, output, policy };
    let mut seen = Vec::new();
    merge.run(&mut |done, total| seen.push((done, total)))?;
    assert_eq!(seen, [(1, 4), (2, 4), (3, 4), (4, 4)], "embedding, two blocks, head");
    verify(output).unwrap();
    Ok(open(output))
}

#[test]
fn merged_logits_are_those_of_model_and_adapter() {
    for (model, name) in [("llama-gqa", "llama-gqa"), ("qwen2", "qwen2-patterns")] {
        let checkpoint = open(&golden("models").join(model));
        let adapter = open_adapter(&golden("adapters").join(name), checkpoint.config()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let merged = merge(&checkpoint, &adapter, NOTHING, &folder.path().join("out")).unwrap();
        let worst = off(&logits(&merged, None), &logits(&checkpoint, Some(&adapter)));
        assert!(worst <= F32, "{model}: {worst}");
        assert!(off(&logits(&checkpoint, None), &logits(&checkpoint, Some(&adapter))) > 0.1);
    }
}

#[test]
fn masks_stay_and_only_kept_weights_change() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = Recipe::named("wanda50").unwrap().source_text().replace("\"wanda\"", "\"magnitude\"");
    let recipe = Recipe::parse(&recipe, Format::Toml, Path::new("magnitude.toml")).unwrap();
    let pruned = compressed(&recipe, &folder.path().join("pruned"));
    let adapter = open_adapter(&golden("adapters/llama-gqa"), pruned.config()).unwrap();
    let out = folder.path().join("out");
    for losses in [NOTHING, INTEGERS] {
        let error = merge(&pruned, &adapter, losses, &out).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        assert!(error.to_string().contains("--keep-zeros"), "{error}");
        assert!(!out.exists(), "nothing is written before it is refused");
    }
    let merged = merge(&pruned, &adapter, ZEROS, &out).unwrap();
    let mut changed = 0;
    for index in 0..2 {
        let (before, after) = (Block::load(&pruned, index).unwrap(), Block::load(&merged, index).unwrap());
        for role in Role::ALL {
            let (old, new) = (&before.linear(role).unwrap().weight, &after.linear(role).unwrap().weight);
            let kept = old.kept().expect("all linears are pruned");
            assert_eq!(Some(&kept), new.kept().as_ref(), "{role:?}");
            let values = new.to_f32(Alpha::ONE);
            assert_eq!(values.iter().zip(&kept).filter(|(w, kept)| **w != 0.0 && !**kept).count(), 0);
            changed += usize::from(old.to_f32(Alpha::ONE) != new.to_f32(Alpha::ONE));
        }
    }
    assert_eq!(changed, adapter.names().count());
}

#[test]
fn integers_give_way_to_sixteen_bits_only_when_asked() {
    let folder = tempfile::tempdir().unwrap();
    let quantised = compressed(&Recipe::named("rtn4").unwrap(), &folder.path().join("rtn4"));
    let adapter = open_adapter(&golden("adapters/llama-gqa"), quantised.config()).unwrap();
    let out = folder.path().join("out");
    let error = merge(&quantised, &adapter, ZEROS, &out).unwrap_err();
    assert!(error.to_string().contains("--dequantise"), "{error}");
    let merged = merge(&quantised, &adapter, INTEGERS, &out).unwrap();
    let worst = off(&logits(&merged, None), &logits(&quantised, Some(&adapter)));
    assert!(worst <= F16, "{worst}");
    let block = Block::load(&merged, 1).unwrap();
    assert!(matches!(block.linear(Role::Q).unwrap().weight, Weight::Half(_)));
    assert!(matches!(block.linear(Role::K).unwrap().weight, Weight::Packed(_)), "no addition, no change");
}

/// A weight of every pruned layout, 20 x 50.
fn pruned_weights() -> Vec<(Weight, bool)> {
    use tamis_kernels::pack::{BitmapKind, BlockKind};
    let shape = (20, 50);
    let values: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.37).sin()).collect();
    let kept: Vec<bool> = (0..1000).map(|i| i % 7 < 3).collect();
    let blocks = [true, false, false, true, false, true, true, false];
    let bitmap = |kind| Weight::Bitmap(BitmapMatrix::from_dense(shape, &values, &kept, kind).unwrap());
    let block = |kind| Weight::Blocks(BlockMatrix::from_dense(shape, &values, &blocks, kind).unwrap());
    vec![
        (bitmap(BitmapKind::Bf16), false),
        (bitmap(BitmapKind::Int8 { group: 32 }), true),
        (bitmap(BitmapKind::Int4 { group: 32 }), true),
        (block(BlockKind::Bf16), false),
        (block(BlockKind::Int8), true),
        (block(BlockKind::Int4), true),
        (Weight::Sparse(SparseRows::from_dense(shape, &values, &kept).unwrap()), false),
    ]
}

#[test]
fn every_pruned_layout_keeps_its_mask_and_gets_the_sum() {
    let a = (0..2 * 50).map(|i| (i as f32 * 0.11).cos()).collect();
    let b = (0..20 * 2).map(|i| (i as f32 * 0.23).cos()).collect();
    let part = LowRank::new((20, 50), a, b, 0.5).unwrap();
    let product = part.product(&Reference);
    let all = Losses { keep_zeros: true, dequantise: true };
    for (weight, integers) in pruned_weights() {
        assert!(merged(&weight, &part, INTEGERS, &Reference).is_err());
        assert_eq!(merged(&weight, &part, ZEROS, &Reference).is_err(), integers, "{weight:?}");
        let (kept, before) = (weight.kept().unwrap(), weight.to_f32(Alpha::ONE));
        let sum = merged(&weight, &part, all, &Reference).unwrap();
        assert_eq!(sum.kept().unwrap(), kept);
        for (at, after) in sum.to_f32(Alpha::ONE).into_iter().enumerate() {
            let wanted = if kept[at] { before[at] + product[at] } else { 0.0 };
            assert!((after - wanted).abs() <= wanted.abs() / 128.0, "{at}: {after} {wanted}");
        }
    }
}

#[test]
fn half_types_stay_and_overflow_is_an_error() {
    let part = LowRank::new((1, 2), vec![1.0, 0.0], vec![60000.0], 1.0).unwrap();
    let f16_weight = |v: f32| {
        let data = HalfData::F16(vec![f16::from_f32(v), f16::from_f32(1.0)]);
        Weight::Half(DenseHalf::new(1, 2, data).unwrap())
    };
    let sum = merged(&f16_weight(1.0), &part, NOTHING, &Reference).unwrap();
    assert!(matches!(&sum, Weight::Half(half) if matches!(half.data(), HalfData::F16(_))));
    let error = merged(&f16_weight(60000.0), &part, NOTHING, &Reference).unwrap_err();
    assert_eq!(error.kind(), Kind::NonFinite);
    let bf16_weight = DenseHalf::new(1, 2, HalfData::Bf16(vec![bf16::ONE; 2])).unwrap();
    let sum = merged(&Weight::Half(bf16_weight), &part, NOTHING, &Reference).unwrap();
    assert!(matches!(&sum, Weight::Half(half) if matches!(half.data(), HalfData::Bf16(_))));
    assert!(
        merged(
            &f16_weight(1.0),
            &LowRank::new((2, 1), vec![1.0], vec![1.0; 2], 1.0).unwrap(),
            NOTHING,
            &Reference
        )
        .is_err()
    );
}
