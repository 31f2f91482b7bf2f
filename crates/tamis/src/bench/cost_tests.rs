//! Costs against numbers known by hand and against counting position by position.

use std::collections::BTreeSet;

use super::*;
use crate::load::{Checkpoint, testdata};
use crate::ops::{CacheType, Reference};

fn decoder(name: &str) -> Option<Decoder> {
    let path = testdata::golden_models()?.join(name);
    Some(Decoder::load(&Checkpoint::open(path.to_str().unwrap()).unwrap(), &Reference).unwrap())
}

/// Width 32, 4 heads of 8, 2 of keys and values, MLP 44, vocabulary 67, 2 layers, all f32.
const LINEARS: u64 = 2 * (32 * 32 + 2 * 16 * 32 + 32 * 32 + 3 * 44 * 32);
const HEAD: u64 = 67 * 32;
/// Two norms a block.
const NORMS: u64 = 2 * 2 * 32;
/// Keys of 2 heads, values of 2 heads padded to 16.
const POSITION: u64 = 4 * (2 * 8 + 2 * 16);

#[test]
fn one_token_of_a_small_model_by_hand() {
    let Some(decoder) = decoder("llama-gqa") else { return };
    let costs = Costs::of(&decoder, Alpha::ONE, CacheType::F32);
    let body = 4 * (LINEARS + NORMS + 32); // and a row of the embedding
    let attention = |seen: u64| 2 * seen * 4 * (4 * 8);
    let expected = Cost { bytes: body + 2 * POSITION, operations: 2 * LINEARS + attention(1) };
    assert_eq!(costs.pass(0, 1, Rows::None), expected);
    let with_head = Cost { bytes: 4 * (HEAD + 32), operations: 2 * HEAD }; // and the final norm
    assert_eq!(costs.pass(0, 1, Rows::Last), expected + with_head);
    // three tokens: the weights are read once, the rows of the embedding three times
    let three = Cost {
        bytes: body + 4 * 2 * 32 + 2 * 10 * POSITION,
        operations: 3 * 2 * LINEARS + attention(8 + 9 + 10),
    };
    assert_eq!(costs.pass(7, 3, Rows::None), three);
    assert_eq!(costs.pass(7, 0, Rows::All), Cost::default());
    assert_eq!(weight_bytes(&decoder), 4 * (LINEARS + NORMS + 32 + 2 * HEAD), "untied");
}

#[test]
fn a_tied_head_is_in_memory_once_and_read_as_a_head() {
    let Some(decoder) = decoder("opt-350m-like") else { return };
    let costs = Costs::of(&decoder, Alpha::ONE, CacheType::F32);
    let embedding = decoder.stem().embedding().weight.bytes() as u64;
    let step = costs.pass(0, 1, Rows::Last).bytes;
    assert!(step > embedding && weight_bytes(&decoder) < step + embedding);
    // the whole table of positions is in memory, one row of it is read
    let positions = decoder.stem().positions().unwrap().bytes() as u64;
    let cache = 2 * KvCache::new(decoder.config(), 0, CacheType::F32).position_bytes() as u64;
    let rows = costs.token_bytes;
    assert_eq!(weight_bytes(&decoder) - positions, step - cache - rows);
}

#[test]
fn windows_count_what_the_tokens_see() {
    for name in ["llama-gqa", "mistral-window", "gemma3"] {
        let Some(decoder) = decoder(name) else { return };
        let costs = Costs::of(&decoder, Alpha::ONE, CacheType::F32);
        let layers = &decoder.config().layers;
        for start in [0, 1, 3, 4, 5, 6, 20] {
            for tokens in [1, 2, 4, 5, 6, 9] {
                let (mut read, mut seen) = (0, 0);
                for layer in layers {
                    let sees = |token: usize| {
                        (0..=token).filter(move |p| layer.window.is_none_or(|w| token - p < w))
                    };
                    let all = start..start + tokens;
                    seen += all.clone().map(|t| sees(t).count() as u64).sum::<u64>();
                    read += all.flat_map(sees).collect::<BTreeSet<_>>().len() as u64;
                }
                let (m, body) = (tokens as u64, costs.body);
                let expected = Cost {
                    bytes: body.bytes + m * costs.token_bytes + read * costs.position_bytes,
                    operations: m * body.operations + seen * costs.position_operations,
                };
                assert_eq!(costs.pass(start, tokens, Rows::None), expected, "{name} {start} {tokens}");
            }
        }
    }
}

#[test]
fn a_test_is_the_sum_of_its_passes() {
    let Some(decoder) = decoder("llama-gqa") else { return };
    let costs = Costs::of(&decoder, Alpha::ONE, CacheType::F32);
    let batch = NonZeroUsize::new(4).unwrap();
    let cost = costs.test(Test::new(9, 2).unwrap(), 5, batch);
    let prompt = costs.pass(5, 4, Rows::None) + costs.pass(9, 4, Rows::None) + costs.pass(13, 1, Rows::Last);
    assert_eq!(cost.prompt, prompt);
    assert_eq!(cost.generate, costs.pass(14, 1, Rows::Last) + costs.pass(15, 1, Rows::Last));
    // the same arithmetic in one batch, with the weights read once instead of three times
    let whole = costs.test(Test::new(9, 0).unwrap(), 5, NonZeroUsize::new(9).unwrap());
    assert_eq!(whole.prompt.operations, prompt.operations);
    assert!(whole.prompt.bytes < prompt.bytes && whole.generate == Cost::default());
}

#[test]
fn batches_cover_the_prompt_and_only_the_last_has_logits() {
    let batches = |n, size| batches(n, NonZeroUsize::new(size).unwrap()).collect::<Vec<_>>();
    assert_eq!(batches(5, 2), [(0, 2, Rows::None), (2, 2, Rows::None), (4, 1, Rows::Last)]);
    assert_eq!(batches(4, 4), [(0, 4, Rows::Last)]);
    assert_eq!(batches(1, 512), [(0, 1, Rows::Last)]);
    assert_eq!(batches(0, 512), []);
}
