//! Models whose perplexity and divergence are known in closed form.

use super::*;
use crate::evaluate::{Protocol, Specials};
use crate::model::toy::Toy;

fn threads(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).unwrap()
}

/// `tokens` tokens below `vocab`, from a fixed recurrence.
fn windows(protocol: Protocol, tokens: usize, vocab: u64) -> Windows {
    let encode = |_: &str| {
        let mut state = 7u64;
        let next = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            ((state >> 33) % vocab) as u32
        };
        Ok((0..tokens).map(next).collect())
    };
    protocol.windows("", &encode, Specials::default(), None).unwrap()
}

fn run(model: &Toy, alphas: &[Alpha], baseline: Option<&Toy>, windows: &Windows) -> Result<Report> {
    let baseline = baseline.map(|m| m as &dyn LanguageModel);
    Evaluation { model, alphas, baseline, windows, threads: threads(2) }.run(&mut |_| {})
}

#[test]
fn uniform_logits_have_the_vocabulary_as_perplexity() {
    for protocol in [
        Protocol::Gptq { context: 300 },
        Protocol::LlamaCpp { context: 300 },
        Protocol::HuggingFace { context: 300, stride: 100 },
    ] {
        let windows = windows(protocol, 1000, 37);
        let report = run(&Toy::uniform(37), &[Alpha::ONE], None, &windows).unwrap();
        let ppl = &report.perplexity[0];
        assert!((ppl.value - 37.0).abs() < 1e-4, "{protocol:?}: {}", ppl.value);
        assert!(ppl.stderr < 1e-9, "{}", ppl.stderr);
        assert_eq!(ppl.tokens, windows.scored());
        assert!(report.divergence.is_empty());
    }
}

#[test]
fn a_bigram_model_has_its_known_perplexity() {
    // The next token is the last one plus one with probability 3/4, any of the other 7 with 1/28.
    let toy = Toy::new(8, |last, next| if next == (last + 1) % 8 { 21f32.ln() } else { 0.0 });
    let windows = windows(Protocol::Gptq { context: 257 }, 1000, 8);
    let nll: Vec<f64> = windows
        .list
        .iter()
        .flat_map(|w| w.tokens.windows(2))
        .map(|pair| if pair[1] == (pair[0] + 1) % 8 { -(0.75f64.ln()) } else { 28f64.ln() })
        .collect();
    let expected = (nll.iter().sum::<f64>() / nll.len() as f64).exp();
    let ppl = run(&toy, &[Alpha::ONE], None, &windows).unwrap().perplexity.remove(0);
    assert!((ppl.value / expected - 1.0).abs() < 1e-6, "{} {expected}", ppl.value);
    assert_eq!((ppl.tokens, ppl.windows, ppl.context, ppl.protocol), (768, 3, 257, "gptq"));
}

#[test]
fn a_model_does_not_diverge_from_itself() {
    let toy = Toy::new(50, |last, next| ((last * 31 + next * 17) % 23) as f32 * 0.3);
    let windows = windows(Protocol::Gptq { context: 200 }, 900, 50);
    let report = run(&toy, &[Alpha::ONE], Some(&toy), &windows).unwrap();
    let divergence = &report.divergence[0];
    assert_eq!((divergence.mean, divergence.max, divergence.same_top1), (0.0, 0.0, 1.0));
    let beside = report.perplexity[0].baseline.unwrap();
    assert_eq!((beside.value, beside.log_ratio), (report.perplexity[0].value, 0.0));
}

#[test]
fn divergence_falls_with_alpha_and_matches_its_closed_form() {
    // Dense: uniform over 4. At alpha 0, token 3 is e times as likely.
    let dense = Toy::uniform(4);
    let model = Toy::uniform(4).with_error(|_, next| if next == 3 { 1.0 } else { 0.0 });
    let alphas = [0.0, 0.5, 1.0].map(|a| Alpha::new(a).unwrap());
    let windows = windows(Protocol::HuggingFace { context: 64, stride: 10 }, 500, 4);
    let report = run(&model, &alphas, Some(&dense), &windows).unwrap();
    for (d, c) in report.divergence.iter().zip([1.0f64, 0.5, 0.0]) {
        // KL(uniform || q) = ln(3 + e^c) - ln 4 - c / 4.
        let expected = (3.0 + c.exp()).ln() - 4f64.ln() - c / 4.0;
        for value in [d.mean, d.median, d.p99, d.max] {
            assert!((value - expected).abs() < 1e-11, "{c}: {value} {expected}");
        }
        // On ties the dense model picks token 0, the disturbed one token 3.
        assert_eq!(d.same_top1, if c == 0.0 { 1.0 } else { 0.0 });
    }
}

#[test]
fn threads_change_no_bit() {
    let dense = Toy::new(60, |last, next| ((last * 7 + next * 11) % 29) as f32 * 0.21);
    let model = Toy::new(60, |last, next| ((last * 7 + next * 11) % 29) as f32 * 0.2);
    let windows = windows(Protocol::LlamaCpp { context: 300 }, 700, 60);
    let evaluation = |n| {
        let (alphas, threads): (&[Alpha], _) = (&[Alpha::ZERO, Alpha::ONE], threads(n));
        Evaluation { model: &model, alphas, baseline: Some(&dense), windows: &windows, threads }
            .run(&mut |_| {})
            .unwrap()
    };
    let one = evaluation(1);
    for n in [2, 3, 200] {
        assert_eq!(one, evaluation(n), "{n}");
    }
}

#[test]
fn rows_that_only_fill_the_cache_cost_no_logits_and_progress_ends_at_its_total() {
    assert_eq!(chunks(&(2..6)), [0..1, 1..5]);
    assert_eq!(chunks(&(CHUNK + 3..CHUNK + 5)), [0..CHUNK, CHUNK..CHUNK + 2, CHUNK + 2..CHUNK + 4]);
    let toy = Toy::uniform(5);
    let windows = windows(Protocol::HuggingFace { context: 300, stride: 100 }, 700, 5);
    let (mut last, mut calls) = (Progress { done: 0, total: 0, unit: "" }, 0);
    let evaluation = Evaluation {
        model: &toy,
        alphas: &[Alpha::ONE],
        baseline: None,
        windows: &windows,
        threads: threads(1),
    };
    evaluation.run(&mut |p| (last, calls) = (p, calls + 1)).unwrap();
    assert_eq!(last, Progress { done: windows.fed(), total: windows.fed(), unit: "tokens" });
    assert!(calls > 5);
    assert_eq!(toy.pushed.get(), windows.fed());
}

#[test]
fn nan_logits_are_an_error_that_names_the_place() {
    let bad = Toy::new(9, |last, next| if (last, next) == (4, 2) { f32::NAN } else { 0.0 });
    let good = Toy::uniform(9);
    let windows = windows(Protocol::Gptq { context: 100 }, 300, 9);
    let error = run(&bad, &[Alpha::ONE], None, &windows).unwrap_err();
    assert_eq!(error.kind(), Kind::NonFinite);
    assert!(error.problem().starts_with("the model at alpha 1 gives NaN or Inf at position"), "{error}");
    let error = run(&good, &[Alpha::ONE], Some(&bad), &windows).unwrap_err();
    assert!(error.problem().starts_with("the baseline"), "{error}");
}

#[test]
fn what_cannot_be_compared_is_refused_before_the_run() {
    let windows = windows(Protocol::Gptq { context: 100 }, 300, 9);
    let toy = Toy::uniform(9);
    let mut small = Toy::uniform(9);
    small.context = 98;
    for error in [
        run(&toy, &[], None, &windows),
        run(&toy, &[Alpha::ONE], Some(&Toy::uniform(10)), &windows),
        run(&Toy::uniform(8), &[Alpha::ONE], None, &windows),
        run(&small, &[Alpha::ONE], None, &windows),
        run(&toy, &[Alpha::ONE], Some(&small), &windows),
    ] {
        assert_eq!(error.unwrap_err().kind(), Kind::Usage);
    }
    assert_eq!(toy.pushed.get(), 0);
    small.context = 99;
    assert!(run(&small, &[Alpha::ONE], None, &windows).is_ok());
}
