//! The filters against transformers' processors, draws against their distribution.

use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Golden {
    logits: Vec<f32>,
    seen: Vec<u32>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    temperature: f32,
    top_k: usize,
    top_p: f32,
    min_p: f32,
    repetition_penalty: f32,
    tokens: Vec<u32>,
    probabilities: Vec<f64>,
}

fn with(change: impl FnOnce(&mut SamplerSettings)) -> Sampler {
    let mut settings = SamplerSettings { temperature: 1.0, ..SamplerSettings::default() };
    change(&mut settings);
    Sampler::new(settings).unwrap()
}

fn kept(sampler: &Sampler, logits: &[f32]) -> Vec<u32> {
    sampler.distribution(logits, &[]).unwrap().iter().map(|(token, _)| *token).collect()
}

#[test]
fn distributions_agree_with_transformers() {
    let golden: Golden = serde_json::from_str(include_str!("../../tests/golden/sampler.json")).unwrap();
    for case in &golden.cases {
        let sampler = Sampler::new(SamplerSettings {
            temperature: case.temperature,
            top_k: case.top_k,
            top_p: case.top_p,
            min_p: case.min_p,
            repetition_penalty: case.repetition_penalty,
            seed: 0,
        })
        .unwrap();
        let got = sampler.distribution(&golden.logits, &golden.seen).unwrap();
        let tokens: Vec<u32> = got.iter().map(|(token, _)| *token).collect();
        assert_eq!(tokens, case.tokens, "{:?}", sampler.settings);
        for ((_, p), expected) in got.iter().zip(&case.probabilities) {
            assert!((p - expected).abs() < 2e-6, "{:?}: {p} {expected}", sampler.settings);
        }
    }
    assert!(golden.cases.len() > 10);
}

#[test]
fn greedy_takes_the_largest_and_the_lowest_id_on_ties() {
    let mut sampler = Sampler::greedy();
    assert_eq!(sampler.next(&[0.0, 3.0, 1.0, 3.0], &[]).unwrap(), 1);
    let settings = SamplerSettings { repetition_penalty: 2.0, ..SamplerSettings::default() };
    let mut penalised = Sampler::new(settings).unwrap();
    assert_eq!(penalised.next(&[0.0, 3.0, 1.0, 3.0], &[1, 1, 9]).unwrap(), 3);
    assert_eq!(penalised.next(&[-1.0, -1.5], &[0]).unwrap(), 1, "a negative logit falls too");
}

#[test]
fn draws_follow_the_distribution() {
    let logits: Vec<f32> = (0..12).map(|i| ((i * 7) % 12) as f32 * 0.4).collect();
    for mut sampler in [with(|_| {}), with(|s| s.top_k = 4), with(|s| (s.top_p, s.temperature) = (0.8, 1.7))]
    {
        let expected = sampler.distribution(&logits, &[]).unwrap();
        let draws = 40_000;
        let mut counts = [0usize; 12];
        for _ in 0..draws {
            counts[sampler.next(&logits, &[]).unwrap() as usize] += 1;
        }
        // Chi squared; 31.3 is the 99.9 % point for 11 degrees of freedom.
        let chi: f64 = expected
            .iter()
            .map(|(t, p)| (counts[*t as usize] as f64 - p * draws as f64).powi(2) / (p * draws as f64))
            .sum();
        assert!(chi < 31.3, "{chi}");
        assert_eq!(expected.iter().map(|(t, _)| counts[*t as usize]).sum::<usize>(), draws);
    }
}

#[test]
fn a_seed_fixes_the_tokens() {
    let logits: Vec<f32> = (0..50).map(|i| (i as f32 * 0.37).sin() * 3.0).collect();
    let draw = |seed| {
        let mut sampler = with(|s| s.seed = seed);
        (0..12).map(|_| sampler.next(&logits, &[]).unwrap()).collect::<Vec<u32>>()
    };
    assert_eq!(draw(7), draw(7));
    assert_ne!(draw(7), draw(8));
    // ChaCha8 and the draw are portable: these are the tokens on every machine.
    assert_eq!(draw(7), PORTABLE);
}

const PORTABLE: [u32; 12] = [4, 4, 36, 37, 23, 19, 3, 38, 19, 42, 5, 20];

#[test]
fn filters_at_their_edges() {
    let tied = [1.0, 2.0, 2.0, 0.0];
    assert_eq!(kept(&with(|s| s.top_k = 1), &tied), [1, 2], "a tie with the last is kept");
    assert_eq!(kept(&with(|s| s.top_k = 99), &tied), [1, 2, 0, 3]);
    assert_eq!(kept(&with(|s| s.top_p = 1e-6), &tied), [1]);
    assert_eq!(kept(&with(|s| s.min_p = 1.0), &tied), [1, 2]);
    // Halves: 1/2, 1/4, 1/8, ...; exactly half of the mass lies before the second token.
    let halves: Vec<f32> = (0..4).map(|i| -(i as f32) * std::f32::consts::LN_2).collect();
    assert_eq!(kept(&with(|s| s.top_p = 0.54), &halves), [0, 1]);
    assert_eq!(kept(&with(|s| s.top_p = 0.5), &halves), [0]);
    let mut cold = with(|s| s.temperature = 1e-30);
    assert_eq!(cold.next(&[0.0, 1.0, 0.5], &[]).unwrap(), 1);
}

#[test]
fn settings_out_of_range_are_usage_errors() {
    type Change = fn(&mut SamplerSettings);
    let changes: [(Change, &str); 7] = [
        (|s| s.temperature = -0.1, "temperature must be 0 or more, not -0.1"),
        (|s| s.temperature = f32::NAN, "temperature"),
        (|s| s.top_p = 0.0, "top-p must lie in (0, 1], not 0"),
        (|s| s.top_p = 1.1, "top-p"),
        (|s| s.min_p = -1.0, "min-p"),
        (|s| s.repetition_penalty = 0.0, "repetition penalty must be above 0, not 0"),
        (|s| s.repetition_penalty = f32::INFINITY, "repetition penalty"),
    ];
    for (change, message) in changes {
        let mut settings = SamplerSettings::default();
        change(&mut settings);
        let error = Sampler::new(settings).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        assert!(error.problem().starts_with(message), "{error}");
    }
}

#[test]
fn logits_that_are_not_finite_are_an_error() {
    for mut sampler in [Sampler::greedy(), with(|_| {}), with(|s| s.top_k = 1)] {
        let error = sampler.next(&[0.0, f32::NAN], &[]).unwrap_err();
        assert_eq!(error.kind(), Kind::NonFinite);
    }
}
