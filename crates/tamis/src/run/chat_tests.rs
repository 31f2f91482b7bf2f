//! Conversations with a model that counts.

use super::super::generate::tests::Bytes;
use super::*;
use crate::error::Kind;
use crate::model::toy::Toy;
use crate::units::Alpha;

/// Token 1, the content's bytes and token 2 a message.
fn render(messages: &[Message]) -> Result<Vec<u32>> {
    let mut ids = Vec::new();
    for message in messages {
        ids.push(1);
        ids.extend(message.content.bytes().map(u32::from));
        ids.push(2);
    }
    // The answer's own beginning.
    ids.push(1);
    Ok(ids)
}

/// After token 1 comes "a", then the alphabet.
fn alphabet() -> Toy {
    Toy::new(256, |last, next| match last {
        1 => (next == 97).into(),
        _ if next == last + 1 => 9.0,
        _ => 0.0,
    })
}

fn options(max_tokens: usize, eos: u32) -> Options {
    Options { max_tokens, stop: Vec::new(), eos: vec![eos], alpha: Alpha::ONE }
}

fn say(chat: &mut Chat<'_>, text: &str, options: &Options) -> Result<Reply> {
    let (mut sampler, stream) = (Sampler::greedy(), Box::<Bytes>::default());
    chat.say(text, options, &mut sampler, stream, &mut |_| ControlFlow::Continue(()))
}

#[test]
fn a_conversation_reuses_its_cache() {
    let toy = alphabet();
    let mut chat = Chat::new(&toy, Box::new(render));
    chat.push(Message { role: Role::System, content: "be".into() });
    let first = say(&mut chat, "hi", &options(20, 100)).unwrap();
    assert_eq!((first.text.as_str(), first.finish), ("abc", Some(Finish::EndOfSequence)));
    assert_eq!((first.timing.prompt_tokens, first.timing.reused_tokens), (9, 0));
    let second = say(&mut chat, "more", &options(20, 100)).unwrap();
    // Cached: the prompt of 9 and "abc"; new: 2, 1 m o r e 2, 1.
    assert_eq!((second.timing.prompt_tokens, second.timing.reused_tokens), (8, 12));
    let roles: Vec<Role> = chat.messages().iter().map(|m| m.role).collect();
    assert_eq!(roles, [Role::System, Role::User, Role::Assistant, Role::User, Role::Assistant]);
    assert_eq!(toy.started.get(), 1);
    chat.restart();
    assert_eq!(chat.messages().len(), 1);
    assert_eq!(say(&mut chat, "hi", &options(20, 100)).unwrap().timing.reused_tokens, 0);
}

#[test]
fn outgrowing_the_context_is_an_error_that_changes_nothing() {
    let mut toy = alphabet();
    toy.context = 20;
    let mut chat = Chat::new(&toy, Box::new(render));
    say(&mut chat, "hi", &options(10, 100)).unwrap();
    let error = say(&mut chat, "more", &options(10, 100)).unwrap_err();
    assert_eq!(error.kind(), Kind::Usage);
    let message = "the conversation has 16 tokens, and 10 more exceed the model's context of 20";
    assert_eq!(error.problem(), message);
    assert_eq!(chat.messages().len(), 2);
    assert_eq!(say(&mut chat, "more", &options(4, 100)).unwrap().text, "abc");
}

#[test]
fn breaking_off_keeps_what_was_said() {
    let toy = alphabet();
    let mut chat = Chat::new(&toy, Box::new(render));
    let options = Options { stop: vec!["bcx".into()], ..options(20, 0) };
    let mut tokens = 0;
    let mut each = |_: &Event| {
        tokens += 1;
        if tokens == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let (mut sampler, stream) = (Sampler::greedy(), Box::<Bytes>::default());
    let reply = chat.say("hi", &options, &mut sampler, stream, &mut each).unwrap();
    assert_eq!((reply.text.as_str(), reply.finish), ("abc", None), "held-back text included");
    assert_eq!(chat.messages()[1].content, "abc");
}
