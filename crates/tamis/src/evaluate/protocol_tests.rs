//! Windows of every protocol on texts of numbers, at the lengths where rules change.

use super::*;
use crate::error::Kind;

/// "Tokenises" a text of spaces-separated numbers.
fn numbers(text: &str) -> Result<Vec<u32>> {
    Ok(text.split_whitespace().filter_map(|w| w.parse().ok()).collect())
}

fn text(tokens: usize) -> String {
    (100..100 + tokens).map(|t| format!("{t} ")).collect()
}

fn cut(protocol: Protocol, tokens: usize, start: Option<u32>) -> Result<Windows> {
    protocol.windows(&text(tokens), &numbers, Specials { start, bos: Some(1), eos: Some(2) }, None)
}

/// (first token, tokens, scored) of every window.
fn shape(windows: &Windows) -> Vec<(u32, usize, std::ops::Range<usize>)> {
    windows.list.iter().map(|w| (w.tokens[0], w.tokens.len(), w.scored.clone())).collect()
}

#[test]
fn gptq_drops_the_tail_and_scores_all_but_the_first() {
    let gptq = Protocol::Gptq { context: 4 };
    for tokens in [8, 9, 11] {
        let windows = cut(gptq, tokens, None).unwrap();
        assert_eq!(shape(&windows), [(100, 4, 1..4), (104, 4, 1..4)]);
        assert_eq!((windows.scored(), windows.fed(), windows.bos), (6, 6, Bos::None));
    }
    assert_eq!(cut(gptq, 4, None).unwrap().list.len(), 1);
    assert_eq!(cut(gptq, 12, None).unwrap().list.len(), 3);
}

#[test]
fn gptq_has_the_tokenizers_bos_once() {
    let windows = cut(Protocol::Gptq { context: 4 }, 7, Some(1)).unwrap();
    assert_eq!(shape(&windows), [(1, 4, 1..4), (103, 4, 1..4)]);
    assert_eq!(windows.bos, Bos::Text(1));
    assert_eq!(windows.bos.to_string(), "token 1 once, before the text");
}

#[test]
fn llamacpp_scores_second_halves_and_puts_bos_into_every_window() {
    let llamacpp = Protocol::LlamaCpp { context: 8 };
    assert_eq!(shape(&cut(llamacpp, 23, None).unwrap()), [(100, 8, 5..8), (108, 8, 5..8)]);
    let windows = cut(llamacpp, 15, Some(1)).unwrap();
    assert_eq!(shape(&windows), [(1, 8, 5..8), (1, 8, 5..8)]);
    assert_eq!((windows.list[0].tokens[1], windows.list[1].tokens[1]), (100, 108));
    assert_eq!(windows.bos, Bos::Window(1));
}

#[test]
fn hf_scores_every_token_but_the_first_once() {
    for (context, stride) in [(8, 3), (8, 8), (8, 1), (5, 4), (2, 1), (2, 2)] {
        for tokens in 2..40 {
            let windows = cut(Protocol::HuggingFace { context, stride }, tokens, None).unwrap();
            let scored: Vec<u32> =
                windows.list.iter().flat_map(|w| w.tokens[w.scored.clone()].to_vec()).collect();
            // Without overlap the first token of a window has nothing to predict it.
            let lost =
                |t: u32| if stride == context { (t - 100).is_multiple_of(context as u32) } else { t == 100 };
            let all: Vec<u32> = (100..100 + tokens as u32).filter(|t| !lost(*t)).collect();
            assert_eq!(scored, all, "{context} {stride} {tokens}");
            assert!(windows.list.iter().all(|w| w.tokens.len() <= context && w.scored.start > 0));
        }
    }
}

#[test]
fn hf_windows_are_those_of_the_documentation() {
    let windows = cut(Protocol::HuggingFace { context: 8, stride: 4 }, 18, None).unwrap();
    assert_eq!(shape(&windows), [(100, 8, 1..8), (104, 8, 4..8), (108, 8, 4..8), (112, 6, 4..6)]);
}

#[test]
fn lm_eval_rolls_over_documents() {
    let page = |tokens: std::ops::Range<u32>| tokens.map(|t| format!("{t} ")).collect::<String>();
    let file = format!(" = A = \n{}\n = B = \n{}\n", page(100..110), page(200..203));
    let specials = Specials { start: None, bos: None, eos: Some(2) };
    let windows = Protocol::LmEval { context: 4 }.windows(&file, &numbers, specials, None).unwrap();
    let tokens: Vec<(Vec<u32>, _)> =
        windows.list.iter().map(|w| (w.tokens.clone(), w.scored.clone())).collect();
    assert_eq!(
        tokens,
        [
            (vec![2, 100, 101, 102, 103], 1..5),
            (vec![103, 104, 105, 106, 107], 1..5),
            // Two tokens are left; the context is filled up to four.
            (vec![105, 106, 107, 108, 109], 3..5),
            (vec![2, 200, 201, 202], 1..4),
        ]
    );
    let document = windows.document.unwrap();
    assert_eq!((document.documents, document.bytes), (2, file.len() - 1));
    assert_eq!((windows.bos, windows.scored()), (Bos::Document(2), 13));
}

#[test]
fn a_limit_keeps_the_first_and_says_how_many_there_were() {
    let limit = NonZeroUsize::new(2);
    let windows =
        Protocol::Gptq { context: 4 }.windows(&text(40), &numbers, Specials::default(), limit).unwrap();
    assert_eq!((windows.list.len(), windows.taken, windows.available), (2, 2, 10));
    let file = " = A = \n1 2\n = B = \n3\n = C = \n4\n";
    let specials = Specials { bos: Some(9), ..Specials::default() };
    let windows = Protocol::LmEval { context: 4 }.windows(file, &numbers, specials, limit).unwrap();
    assert_eq!((windows.list.len(), windows.taken, windows.available), (2, 2, 3));
    assert_eq!(windows.document.unwrap().documents, 2);
}

#[test]
fn short_texts_are_refused_with_both_numbers() {
    for (protocol, tokens, needed) in [
        (Protocol::Gptq { context: 8 }, 7, "needs 8"),
        (Protocol::LlamaCpp { context: 8 }, 15, "needs 16"),
        (Protocol::HuggingFace { context: 8, stride: 4 }, 1, "needs 2"),
    ] {
        let error = cut(protocol, tokens, None).unwrap_err();
        assert_eq!(error.kind(), Kind::Usage);
        assert!(error.problem().contains(&format!("has {tokens} tokens")), "{error}");
        assert!(error.problem().contains(needed), "{error}");
    }
    assert!(cut(Protocol::LmEval { context: 8 }, 0, None).is_err());
}

#[test]
fn lengths_without_sense_are_refused() {
    for protocol in [
        Protocol::Gptq { context: 1 },
        Protocol::LlamaCpp { context: 3 },
        Protocol::HuggingFace { context: 8, stride: 0 },
        Protocol::HuggingFace { context: 8, stride: 9 },
    ] {
        assert_eq!(cut(protocol, 100, None).unwrap_err().kind(), Kind::Usage, "{protocol:?}");
    }
}
