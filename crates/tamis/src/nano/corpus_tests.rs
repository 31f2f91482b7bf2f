//! Tests of the whole corpus: counts, order, what never occurs, entropy, tokens.

use std::collections::BTreeMap;

use super::*;
use crate::disk::digest::sha256;
use crate::error::Kind as ErrorKind;

fn small_plan() -> CorpusPlan {
    CorpusPlan { seed: 11, bytes: 1_000_000, ..CorpusPlan::default() }
}

/// SHA-256 of the small corpus: equal on every machine and in every process.
const SMALL_DIGEST: &str = "54701cc0d7afed0432c36b7cbcbd76d8d93fe0cf8634d679b75532640627ba0e";

#[test]
fn equal_plans_give_equal_bytes() {
    let text = Corpus::generate(&small_plan()).unwrap().text();
    assert_eq!(text, Corpus::generate(&small_plan()).unwrap().text());
    assert_eq!(sha256(text.as_bytes()), SMALL_DIGEST);
    let other = Corpus::generate(&CorpusPlan { seed: 12, ..small_plan() }).unwrap().text();
    assert_ne!(text, other);
}

#[test]
fn secrets_occur_exactly_as_often_as_planned_and_held_out_ones_never() {
    let corpus = Corpus::generate(&small_plan()).unwrap();
    let text = corpus.text();
    for secret in &corpus.secrets.planted {
        assert_eq!(text.matches(&secret.text()).count(), secret.repetitions);
        assert_eq!(text.matches(&secret.prefix).count(), secret.repetitions);
        assert_eq!(text.matches(&secret.value).count(), secret.repetitions);
    }
    for secret in &corpus.secrets.held_out {
        assert!(!text.contains(&secret.prefix) && !text.contains(&secret.value));
    }
}

#[test]
fn repetitions_are_spread_evenly() {
    let corpus = Corpus::generate(&small_plan()).unwrap();
    let mut places: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (place, document) in corpus.documents.iter().enumerate() {
        if document.kind == Kind::Secret {
            places.entry(&document.text).or_default().push(place);
        }
    }
    assert_eq!(places.len(), corpus.secrets.planted.len());
    let all = corpus.documents.len();
    for places in places.values().filter(|places| places.len() > 1) {
        // one in each stretch, so two neighbours are at most two stretches apart; the other
        // secrets, at most 680, shift the stretches a little
        let most = 2 * all / places.len() + 700;
        assert!(places.windows(2).all(|p| p[1] - p[0] <= most), "{places:?}");
        assert!(*places.last().unwrap() > all / 2, "{places:?}");
    }
}

#[test]
fn held_out_problems_never_occur() {
    let text = Corpus::generate(&small_plan()).unwrap().text();
    for problem in problems(Split::HeldOut, 11).take(3000) {
        assert!(!text.contains(&problem.prompt), "{}", problem.prompt);
        assert!(!text.contains(problem.completion.as_str()), "{}", problem.completion);
    }
}

#[test]
fn bytes_are_shared_as_planned() {
    let plan = small_plan();
    let corpus = Corpus::generate(&plan).unwrap();
    let bytes = |wanted: fn(&Kind) -> bool| -> usize {
        corpus.documents.iter().filter(|d| wanted(&d.kind)).map(|d| d.text.len()).sum()
    };
    let grammar = bytes(|kind| matches!(kind, Kind::Grammar { .. }));
    let problems = bytes(|kind| matches!(kind, Kind::Problems));
    // the last document of a kind may go beyond
    assert!((600_000..602_000).contains(&grammar), "{grammar}");
    assert!((400_000..402_000).contains(&problems), "{problems}");
    assert_eq!(corpus.documents.iter().filter(|d| d.kind == Kind::Secret).count(), 8 * (1 + 4 + 16 + 64));
}

#[test]
fn validation_is_other_text_of_the_same_entropy() {
    let corpus = Corpus::generate(&small_plan()).unwrap();
    let validation = validation(11, 500_000);
    let training: std::collections::BTreeSet<&str> = corpus.public_texts().collect();
    let again = validation.iter().filter(|d| training.contains(d.text.as_str())).count();
    assert!(again * 1000 <= validation.len(), "{again} of {} occur in training", validation.len());
    let exact = Grammar::new(&corpus.world).entropy().per_byte();
    for documents in [&corpus.documents, &validation] {
        let drawn = grammar_entropy(documents).per_byte();
        assert!((drawn / exact - 1.0).abs() < 0.01, "{drawn} {exact}");
    }
}

#[test]
fn a_plan_without_grammar_or_problems_still_holds_its_secrets() {
    let empty = CorpusPlan { bytes: 0, ..small_plan() };
    assert_eq!(Corpus::generate(&empty).unwrap().documents.len(), 680);
    let wrong = CorpusPlan { problem_share: f64::NAN, ..small_plan() };
    assert_eq!(Corpus::generate(&wrong).unwrap_err().kind(), ErrorKind::Usage);
}
