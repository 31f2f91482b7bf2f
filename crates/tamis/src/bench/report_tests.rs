//! Rates and fractions from times known by hand.

use std::num::NonZeroUsize;

use super::*;
use crate::bench::limits::{Bandwidth, Peak, Unit};
use crate::bench::{Cost, Test};
use crate::ops::{CacheType, Isa, Precision};
use crate::units::Alpha;

fn row(prompt: usize, generate: usize, seconds: &[f64]) -> Option<Row> {
    let facts = Facts {
        model: "small".into(),
        file_bytes: 11,
        weight_bytes: 10,
        context: 12,
        has_ortho: true,
        load_seconds: 0.5,
    };
    let rules = Rules {
        batch: NonZeroUsize::new(4).unwrap(),
        repetitions: NonZeroUsize::new(seconds.len().max(1)).unwrap(),
        warmup: Warmup::None,
        isa: Isa::SCALAR,
        precision: Precision::F32,
        cache: CacheType::F32,
    };
    let test = Test::new(prompt, generate).unwrap();
    let case = Case { test, depth: 3, alpha: Alpha::ZERO, threads: NonZeroUsize::MIN };
    let part = |tokens: usize| Cost { bytes: 1_000 * tokens as u64, operations: 4_000 * tokens as u64 };
    let limits = Limits {
        read: (generate > 0).then_some(Bandwidth { rate: 8_000.0, buffer: 64 }),
        peak: (prompt > 0).then_some(Peak { rate: 64_000.0, unit: Unit::F32 }),
    };
    let first = |s: f64| (prompt > 0).then_some(s / 2.0);
    let samples: Vec<Sample> =
        seconds.iter().map(|&s| Sample { seconds: s, first_logits: first(s) }).collect();
    let cost = TestCost { prompt: part(prompt), generate: part(generate) };
    let measured = Measured { case: &case, samples: &samples, cost, limits, peak_memory: Some(77) };
    Row::new(&facts, &rules, measured)
}

#[test]
fn single_tokens_are_held_against_bandwidth() {
    // 8 tokens in 2 and in 4 seconds: 4 and 2 a second
    let row = row(0, 8, &[2.0, 4.0]).unwrap();
    assert_eq!((row.test.as_str(), row.samples.as_slice()), ("tg8", [4.0, 2.0].as_slice()));
    assert_eq!((row.mean_tokens_per_second, row.sd), (3.0, 2f64.sqrt()));
    assert_eq!((row.min, row.median, row.max), (2.0, 3.0, 4.0));
    assert_eq!((row.bytes_per_token, row.flops_per_token), (1_000.0, 4_000.0));
    assert_eq!((row.gb_per_second, row.tflops_per_second), (3e-6, 12e-9));
    assert_eq!(row.roofline_fraction, 3_000.0 / 8_000.0);
    assert_eq!((row.read_bandwidth_gb_per_second, row.peak_tflops_per_second), (Some(8e-6), None));
    assert_eq!(row.time_to_first_token_seconds, None);
    assert!(!row.beyond_context, "3 and 8 tokens fit 12");
}

#[test]
fn prompts_are_held_against_arithmetic_and_both_against_both() {
    let prompt = row(8, 0, &[2.0, 2.0]).unwrap();
    assert_eq!(prompt.roofline_fraction, 16_000.0 / 64_000.0);
    assert_eq!(prompt.time_to_first_token_seconds, Some(1.0));
    assert_eq!((prompt.peak_unit, prompt.read_bandwidth_bytes), (Some("f32 fma"), None));
    // 8 prompt tokens need 0.5 s at least, 4 single ones 0.5 s; they took 2
    let both = row(8, 4, &[2.0]).unwrap();
    assert_eq!((both.roofline_fraction, both.sd), (0.5, 0.0));
    assert!(both.beyond_context, "3, 8 and 4 tokens do not fit 12");
}

#[test]
fn no_samples_make_no_row() {
    assert_eq!(row(8, 4, &[]), None);
}
