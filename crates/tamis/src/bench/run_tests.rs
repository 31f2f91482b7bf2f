//! What is run, not how long it takes.

use super::*;
use crate::error::Kind;
use crate::load::{Checkpoint, testdata};
use crate::ops::Reference;

const REPETITIONS: usize = 3;

fn decoder(name: &str) -> Option<Decoder> {
    let path = testdata::golden_models()?.join(name);
    Some(Decoder::load(&Checkpoint::open(path.to_str().unwrap()).unwrap(), &Reference).unwrap())
}

fn rules(warmup: Warmup) -> Rules {
    Rules {
        batch: NonZeroUsize::new(4).unwrap(),
        repetitions: NonZeroUsize::new(REPETITIONS).unwrap(),
        warmup,
        isa: Isa::detect(),
        precision: Precision::F32,
        cache: CacheType::F32,
    }
}

fn case(test: (usize, usize), depth: usize) -> Case {
    let test = Test::new(test.0, test.1).unwrap();
    Case { test, depth, alpha: Alpha::ONE, threads: NonZeroUsize::MIN }
}

#[test]
fn every_repetition_starts_at_the_depth_and_runs_all_tokens() {
    let Some(decoder) = decoder("llama-gqa") else { return };
    for (warmup, extra) in [(Warmup::Once, 1), (Warmup::None, 0)] {
        let mut bench = Bench::new(&decoder, rules(warmup));
        for (test, depth) in [((9, 0), 0), ((0, 5), 0), ((9, 5), 6), ((4, 0), 6), ((1, 1), 0)] {
            let mut runs = 0;
            let samples = bench.run(&case(test, depth), &mut || runs += 1).unwrap();
            assert_eq!((samples.len(), runs), (REPETITIONS, REPETITIONS + extra));
            assert_eq!(bench.filled.as_ref().unwrap().cache.len(), depth + test.0 + test.1);
            for Sample { seconds, first_logits } in samples {
                assert_eq!(first_logits.is_some(), test.0 > 0);
                assert!(seconds > 0.0 && first_logits.is_none_or(|first| first > 0.0 && first <= seconds));
            }
        }
    }
}

#[test]
fn a_case_longer_than_the_context_needs_it_extended() {
    let Some(mut decoder) = decoder("llama-gqa") else { return };
    let own = decoder.config().context;
    let long = case((own, 1), 0);
    let error = Bench::new(&decoder, rules(Warmup::None)).run(&long, &mut || ()).unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    decoder.extend_context(own - 1).unwrap();
    assert_eq!(decoder.config().context, own, "it is never made shorter");
    decoder.extend_context(own + 1).unwrap();
    assert_eq!(Bench::new(&decoder, rules(Warmup::None)).run(&long, &mut || ()).unwrap().len(), 3);
}

#[test]
fn learned_positions_cannot_be_extended() {
    let Some(mut decoder) = decoder("opt-125m-like") else { return };
    let own = decoder.config().context;
    decoder.extend_context(own).unwrap();
    assert_eq!(decoder.extend_context(own + 1).unwrap_err().kind(), Kind::Usage);
}

#[test]
fn random_tokens_are_tokens_and_always_the_same() {
    for vocab in [1, 67, 49152] {
        let tokens = random_tokens(TEST_SEED, vocab, 1000);
        assert!(tokens.iter().all(|&t| (t as usize) < vocab));
        assert_eq!(tokens[..10], random_tokens(TEST_SEED, vocab, 10));
        assert_eq!(tokens == random_tokens(DEPTH_SEED, vocab, 1000), vocab == 1);
    }
}
