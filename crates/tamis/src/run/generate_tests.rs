//! A model that counts, with the text of token `t` written below.

use super::*;
use crate::error::{Error, Kind};
use crate::model::toy::Toy;

/// Token `t` is byte `t`: text appears when the bytes form characters.
#[derive(Default)]
pub(crate) struct Bytes(Vec<u8>);

impl Detokenise for Bytes {
    fn push(&mut self, token: u32) -> Result<String> {
        self.0.push(u8::try_from(token).map_err(|_| Error::bad_data("not a byte"))?);
        let complete = match std::str::from_utf8(&self.0) {
            Ok(text) => text.len(),
            Err(error) => error.valid_up_to(),
        };
        let rest = self.0.split_off(complete);
        Ok(String::from_utf8(std::mem::replace(&mut self.0, rest)).unwrap())
    }
    fn finish(self: Box<Self>) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.0).into_owned())
    }
}

fn options(max_tokens: usize, stop: &[&str], eos: &[u32]) -> Options {
    let stop = stop.iter().map(|s| (*s).to_owned()).collect();
    Options { max_tokens, stop, eos: eos.to_vec(), alpha: Alpha::ONE }
}

/// Token ids, text and end of an answer of a model to a prompt.
fn answer(model: &Toy, prompt: &[u32], options: &Options) -> (Vec<u32>, String, Finish, Timing) {
    let (mut session, mut sampler, stream) =
        (Session::new(model), Sampler::greedy(), Box::<Bytes>::default());
    let (mut ids, mut all, mut end) = (Vec::new(), String::new(), None);
    for event in session.generate(prompt, options, &mut sampler, stream).unwrap() {
        assert!(end.is_none(), "nothing follows the end");
        match event.unwrap() {
            Event::Token { id, text } => {
                ids.push(id);
                all += &text;
            }
            Event::Finished { text, reason, timing } => {
                all += &text;
                end = Some((reason, timing));
            }
        }
    }
    let (reason, timing) = end.unwrap();
    (ids, all, reason, timing)
}

#[test]
fn length_ends_with_all_text_emitted() {
    let toy = Toy::counting(256);
    let (ids, text, finish, timing) =
        answer(&toy, b"xyabc".map(u32::from).as_slice(), &options(3, &["fgh"], &[]));
    assert_eq!((ids, text.as_str(), finish), (vec![100, 101, 102], "def", Finish::Length));
    assert_eq!((timing.prompt_tokens, timing.reused_tokens, timing.new_tokens), (5, 0, 3));
    assert!(
        timing.first_token >= timing.prefill && timing.prefill_rate() > 0.0 && timing.decode_rate() > 0.0
    );
    assert_eq!(toy.pushed.get(), 7, "the last token is never fed");
}

#[test]
fn eos_ends_without_its_text() {
    let toy = Toy::counting(256);
    let (ids, text, finish, timing) = answer(&toy, &[96], &options(50, &["defg"], &[7, 102]));
    assert_eq!((ids, text.as_str(), finish), (vec![97, 98, 99, 100, 101], "abcde", Finish::EndOfSequence));
    assert_eq!(timing.new_tokens, 6);
    let (ids, text, finish, _) = answer(&toy, &[96], &options(50, &[], &[97]));
    assert_eq!((ids.len(), text.as_str(), finish), (0, "", Finish::EndOfSequence));
}

#[test]
fn a_stop_string_over_tokens_ends_before_itself() {
    let toy = Toy::counting(256);
    let (ids, text, finish, _) = answer(&toy, &[96], &options(50, &["zzz", "def"], &[]));
    assert_eq!((ids.len(), text.as_str(), finish), (6, "abc", Finish::Stop("def".into())));
    let (_, text, finish, _) = answer(&toy, &[96], &options(6, &["def"], &[]));
    assert_eq!((text.as_str(), finish), ("abc", Finish::Stop("def".into())), "at the very last token");
}

#[test]
fn half_characters_are_never_shown_and_marked_at_the_end() {
    // "é" is C3 A9.
    let toy = Toy::new(256, |last, next| match (last, next) {
        (0, 0xC3) | (0xC3, 0xA9) | (0xA9, 0xC3) => 9.0,
        _ => 0.0,
    });
    assert_eq!(answer(&toy, &[0], &options(4, &[], &[])).1, "éé");
    assert_eq!(answer(&toy, &[0], &options(3, &[], &[])).1, "é\u{fffd}");
}

#[test]
fn long_prompts_are_read_in_pieces() {
    let toy = Toy::counting(256);
    let prompt: Vec<u32> = (0..1200).map(|i| i % 256).collect();
    assert_eq!(answer(&toy, &prompt, &options(2, &[], &[])).0, [176, 177]);
    assert_eq!(toy.pushed.get(), 1201);
}

#[test]
fn what_cannot_work_is_refused_before_the_run() {
    let mut toy = Toy::counting(256);
    toy.context = 10;
    for (prompt, max_tokens, message) in [
        (vec![], 3, "the prompt has no tokens"),
        (vec![1], 0, "0 new tokens"),
        (vec![1, 256], 3, "the prompt has token 256"),
        (vec![1; 8], 3, "a prompt of 8 tokens and 3 new ones exceed the model's context of 10"),
        (vec![1; 11], 1, "a prompt of 11 tokens and 1 new ones"),
    ] {
        let (mut session, mut sampler, stream) =
            (Session::new(&toy), Sampler::greedy(), Box::<Bytes>::default());
        let result = session.generate(&prompt, &options(max_tokens, &[], &[]), &mut sampler, stream);
        let error = result.err().unwrap();
        assert_eq!(error.kind(), Kind::Usage);
        assert!(error.problem().starts_with(message), "{error}");
    }
    assert_eq!(toy.pushed.get(), 0);
    assert_eq!(answer(&toy, &[1; 8], &options(2, &[], &[])).0.len(), 2, "exactly the context fits");
}

#[test]
fn an_error_ends_the_answer() {
    let toy =
        Toy::new(256, |last, next| if (last, next) == (1, 9) { f32::NAN } else { (next == last + 1).into() });
    let (mut session, mut sampler, stream) = (Session::new(&toy), Sampler::greedy(), Box::<Bytes>::default());
    let mut generation = session.generate(&[0], &options(9, &[], &[]), &mut sampler, stream).unwrap();
    assert!(matches!(generation.next(), Some(Ok(Event::Token { id: 1, .. }))));
    assert_eq!(generation.next().unwrap().unwrap_err().kind(), Kind::NonFinite);
    assert!(generation.next().is_none());
}

#[test]
fn a_session_reuses_what_a_prompt_extends_at_the_same_alpha() {
    let toy = Toy::counting(256);
    let mut session = Session::new(&toy);
    let mut run = |prompt: &[u32], alpha: Alpha| {
        let options = Options { alpha, ..options(2, &[], &[]) };
        let (mut sampler, stream) = (Sampler::greedy(), Box::<Bytes>::default());
        let last = session.generate(prompt, &options, &mut sampler, stream).unwrap().last();
        let Some(Ok(Event::Finished { timing, .. })) = last else { panic!("no end") };
        (timing.reused_tokens, timing.prompt_tokens)
    };
    assert_eq!(run(&[1, 2], Alpha::ONE), (0, 2));
    // In the cache: 1, 2 and the first new token 3.
    assert_eq!(run(&[1, 2, 3, 4, 9], Alpha::ONE), (3, 2));
    assert_eq!(run(&[1, 2, 3, 4, 9, 10], Alpha::ONE), (0, 6), "nothing new to feed: no logits to draw from");
    assert_eq!(run(&[1, 2, 3, 4, 9, 10, 11, 12], Alpha::ZERO), (0, 8), "another alpha");
    assert_eq!(run(&[1, 5, 3, 4, 9, 10, 11, 12, 13, 14], Alpha::ZERO), (0, 10), "another beginning");
}
