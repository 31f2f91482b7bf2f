//! A conversation: the messages so far, each answer appended, the cache reused as long as a new
//! prompt extends the old one. Knows no template and no tokenizer: a closure turns messages
//! into a prompt.

use std::ops::ControlFlow;

use super::generate::{Detokenise, Event, Finish, Options, Timing};
use super::sampler::Sampler;
use super::session::Session;
use crate::error::{Error, Result};
pub use crate::load::chat::{Message, Role};
use crate::model::LanguageModel;

/// An answer that is over.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// All of it.
    pub text: String,
    /// Why it ended; `None` if the caller broke it off.
    pub finish: Option<Finish>,
    /// How fast it went.
    pub timing: Timing,
}

/// Messages to the prompt that asks for the next answer.
pub type Render<'a> = dyn Fn(&[Message]) -> Result<Vec<u32>> + 'a;

/// A conversation with one model.
pub struct Chat<'m> {
    session: Session<'m>,
    messages: Vec<Message>,
    render: Box<Render<'m>>,
}

impl<'m> Chat<'m> {
    /// Without messages yet.
    pub fn new(model: &'m dyn LanguageModel, render: Box<Render<'m>>) -> Self {
        Self { session: Session::new(model), messages: Vec::new(), render }
    }
    /// Appends a message without asking for an answer: instructions, or earlier turns.
    pub fn push(&mut self, message: Message) {
        self.messages.push(message);
    }
    /// All messages.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }
    /// Starts anew with the instructions kept.
    pub fn restart(&mut self) {
        self.messages.retain(|message| message.role == Role::System);
        self.session.clear();
    }

    /// Says `text` as the user and appends the answer; `each` hears of it as it comes and may
    /// break it off, which keeps what was said.
    ///
    /// After an error the conversation is as before. One that has outgrown the context is an
    /// error: messages are never dropped in silence.
    pub fn say(
        &mut self,
        text: &str,
        options: &Options,
        sampler: &mut Sampler,
        stream: Box<dyn Detokenise + '_>,
        each: &mut dyn FnMut(&Event) -> ControlFlow<()>,
    ) -> Result<Reply> {
        let before = self.messages.len();
        self.push(Message { role: Role::User, content: text.to_owned() });
        let reply = self.answer(options, sampler, stream, each);
        match &reply {
            Ok(reply) => self.push(Message { role: Role::Assistant, content: reply.text.clone() }),
            Err(_) => self.messages.truncate(before),
        }
        reply
    }

    fn answer(
        &mut self,
        options: &Options,
        sampler: &mut Sampler,
        stream: Box<dyn Detokenise + '_>,
        each: &mut dyn FnMut(&Event) -> ControlFlow<()>,
    ) -> Result<Reply> {
        let prompt = (self.render)(&self.messages)?;
        let (tokens, new, context) = (prompt.len(), options.max_tokens, self.session.context());
        if new > context.saturating_sub(tokens) {
            return Err(Error::usage(format!(
                "the conversation has {tokens} tokens, and {new} more exceed the model's context of {context}"
            ))
            .next("start a new conversation, or lower --max-tokens"));
        }
        let mut generation = self.session.generate(&prompt, options, sampler, stream)?;
        let mut answer = String::new();
        while let Some(event) = generation.next() {
            let event = event?;
            let (Event::Token { text, .. } | Event::Finished { text, .. }) = &event;
            answer += text;
            let broken = each(&event).is_break();
            if let Event::Finished { reason, timing, .. } = event {
                return Ok(Reply { text: answer, finish: Some(reason), timing });
            }
            if broken {
                let timing = generation.timing();
                answer += &generation.break_off()?;
                return Ok(Reply { text: answer, finish: None, timing });
            }
        }
        unreachable!("a generation ends with `Finished` or an error")
    }
}

#[cfg(test)]
#[path = "chat_tests.rs"]
mod tests;
