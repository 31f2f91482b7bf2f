//! Logits of tiny random models of every family against Hugging Face transformers
//! (`tests/golden/README.md` says how they were made), on both op sets and in every way
//! of feeding tokens.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::SafeTensors;
use tamis::load::Checkpoint;
use tamis::model::{Decoder, Engine, KvCache, LanguageModel, Rows, Sequence};
use tamis::ops::{CacheType, Cpu, Isa, Ops, Precision, Reference};
use tamis::units::Alpha;

/// Largest difference of a logit, relative to the largest logit of the model: f32 through
/// three layers against f64. The worst seen is 2e-6.
const TOLERANCE: f32 = 1e-5;

fn models() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models");
    let mut found: Vec<PathBuf> = std::fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("golden.safetensors").exists())
        .collect();
    found.sort();
    assert!(found.len() >= 10, "only {} golden models", found.len());
    found
}

fn golden(folder: &Path) -> (Vec<u32>, Vec<f32>) {
    let bytes = std::fs::read(folder.join("golden.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tokens = file.tensor("tokens").unwrap();
    let ints = |size| tokens.data().chunks_exact(size).map(|b| u32::from(b[0])).collect();
    let tokens = ints(tokens.dtype().bitsize() / 8);
    let logits = file.tensor("logits").unwrap();
    (tokens, logits.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

fn op_sets() -> Vec<Arc<dyn Ops>> {
    let mut sets: Vec<Arc<dyn Ops>> = vec![Arc::new(Reference)];
    for isa in Isa::available() {
        sets.push(Arc::new(Cpu::new(isa, 2, Precision::F32)));
    }
    sets
}

fn score(engine: &Engine, tokens: &[u32], chunk: usize) -> Vec<f32> {
    let mut sequence = engine.start();
    let (mut all, mut logits) = (Vec::new(), Vec::new());
    for tokens in tokens.chunks(chunk) {
        sequence.push(tokens, Alpha::ONE, Rows::All, &mut logits).unwrap();
        all.extend_from_slice(&logits);
    }
    assert_eq!(sequence.len(), tokens.len());
    all
}

#[test]
fn every_family_gives_the_logits_of_transformers() {
    for folder in models() {
        let (tokens, expected) = golden(&folder);
        let largest = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let mut specs = vec![folder.clone()];
        specs.extend(Some(folder.join("model.gguf")).filter(|p| p.exists()));
        for spec in specs {
            let checkpoint = Checkpoint::open(spec.to_str().unwrap()).unwrap();
            let decoder = Decoder::load(&checkpoint, &Reference).unwrap();
            for ops in op_sets() {
                let logits =
                    score(&Engine::new(decoder.clone(), ops.clone(), CacheType::F32), &tokens, usize::MAX);
                assert_eq!(logits.len(), expected.len(), "{}", spec.display());
                let worst = logits.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(worst <= TOLERANCE * largest, "{} {ops:?}: {worst} of {largest}", spec.display());
            }
        }
    }
}

#[test]
fn chunks_steps_threads_and_batches_give_the_same_bits() {
    for folder in models() {
        let (tokens, _) = golden(&folder);
        let checkpoint = Checkpoint::open(folder.to_str().unwrap()).unwrap();
        let decoder = Decoder::load(&checkpoint, &Reference).unwrap();
        let engine = |threads| {
            let ops = Cpu::new(Isa::from_env().unwrap(), threads, Precision::F32);
            Engine::new(decoder.clone(), Arc::new(ops), CacheType::F32)
        };
        let whole = score(&engine(1), &tokens, usize::MAX);
        for (threads, chunk) in [(1, 1), (2, 1), (2, 7), (3, usize::MAX), (8, 5)] {
            assert_eq!(score(&engine(threads), &tokens, chunk), whole, "{folder:?} {threads} {chunk}");
        }
        assert_eq!(batched(&decoder, &tokens), whole, "{folder:?}");
    }
}

#[test]
fn rounded_activations_and_compact_caches_keep_their_bits_too() {
    use CacheType::{Bf16, F16, Int8};
    for folder in models() {
        let (tokens, _) = golden(&folder);
        let checkpoint = Checkpoint::open(folder.to_str().unwrap()).unwrap();
        for (precision, cache) in [(Precision::Int8, Bf16), (Precision::Bf16, F16), (Precision::Int8, Int8)] {
            let engine = |threads| {
                let ops = Arc::new(Cpu::new(Isa::from_env().unwrap(), threads, precision));
                Engine::new(Decoder::load(&checkpoint, &*ops).unwrap(), ops, cache)
            };
            let whole = score(&engine(1), &tokens, usize::MAX);
            for (threads, chunk) in [(1, 1), (2, 7), (8, 5)] {
                assert_eq!(score(&engine(threads), &tokens, chunk), whole, "{folder:?} {threads} {chunk}");
            }
        }
    }
}

/// Logits of the first of three unequal sequences that go through the model together.
fn batched(decoder: &Decoder, tokens: &[u32]) -> Vec<f32> {
    let ops = Cpu::new(Isa::from_env().unwrap(), 2, Precision::F32);
    let config = decoder.config();
    let mut caches: Vec<KvCache> =
        (0..3).map(|_| KvCache::new(config, tokens.len(), CacheType::F32)).collect();
    let lengths = [tokens.len(), 1, tokens.len() / 2];
    let mut batch: Vec<Sequence<'_>> = caches
        .iter_mut()
        .zip(lengths)
        .map(|(cache, length)| Sequence { tokens: &tokens[..length], cache })
        .collect();
    let hidden = decoder.hidden(&ops, &mut batch, Alpha::ONE).unwrap();
    let mut logits = Vec::new();
    decoder.logits(&ops, &hidden[..tokens.len() * config.hidden], Alpha::ONE, &mut logits);
    logits
}
