//! One answer as an iterator: tokens with the text that became final, then how it ended and how
//! long it took. Text comes from a [`Detokenise`],
//! of which it knows nothing more.

use std::time::{Duration, Instant};

use super::sampler::Sampler;
use super::session::Session;
use super::stop::StopFilter;
use crate::error::Result;
use crate::load::TextStream;
use crate::model::Rows;
use crate::units::Alpha;

/// Tokens of one answer to text, one at a time, never half a character.
pub trait Detokenise {
    /// Takes a token, returns the text that is complete by now; often empty.
    fn push(&mut self, token: u32) -> Result<String>;
    /// What is left when no more tokens come: half characters as U+FFFD.
    fn finish(self: Box<Self>) -> Result<String>;
}

impl Detokenise for TextStream<'_> {
    fn push(&mut self, token: u32) -> Result<String> {
        TextStream::push(self, token)
    }
    fn finish(self: Box<Self>) -> Result<String> {
        TextStream::finish(*self)
    }
}

/// What is wanted besides the prompt.
#[derive(Debug, Clone)]
pub struct Options {
    /// Most tokens to generate.
    pub max_tokens: usize,
    /// Strings that end the answer and are not part of it.
    pub stop: Vec<String>,
    /// Tokens that end the answer and are not part of it.
    pub eos: Vec<u32>,
    /// Ortho share.
    pub alpha: Alpha,
}

/// What a [`Generation`] yields: any number of `Token`, then one `Finished`.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A token was generated.
    Token {
        /// Its id.
        id: u32,
        /// Text that became final with it; not always its own.
        text: String,
    },
    /// No more tokens come.
    Finished {
        /// Text that had been held back.
        text: String,
        /// Why.
        reason: Finish,
        /// How fast it went.
        timing: Timing,
    },
}

/// Why an answer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finish {
    /// The model ended it.
    EndOfSequence,
    /// A stop string came.
    Stop(String),
    /// As many tokens as were allowed.
    Length,
}

/// Where the time went; what the consumer does between two items does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timing {
    /// Prompt tokens that were computed.
    pub prompt_tokens: usize,
    /// Prompt tokens that were in the cache already.
    pub reused_tokens: usize,
    /// Tokens that were generated, an end-of-sequence token included.
    pub new_tokens: usize,
    /// Time for the prompt.
    pub prefill: Duration,
    /// Time to the first token: prefill and the first draw.
    pub first_token: Duration,
    /// Time for the tokens after the first.
    pub decode: Duration,
}

impl Timing {
    /// Prompt tokens a second, those from the cache not counted.
    pub fn prefill_rate(&self) -> f64 {
        rate(self.prompt_tokens, self.prefill)
    }
    /// Tokens a second after the first one.
    pub fn decode_rate(&self) -> f64 {
        rate(self.new_tokens.saturating_sub(1), self.decode)
    }
}

fn rate(tokens: usize, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { tokens as f64 / time.as_secs_f64() }
}

/// A running answer; see [`Session::generate`]. After an error it yields nothing more.
pub struct Generation<'s, 'm> {
    session: &'s mut Session<'m>,
    sampler: &'s mut Sampler,
    /// Gone once its end was read.
    stream: Option<Box<dyn Detokenise + 's>>,
    filter: StopFilter,
    prompt: Vec<u32>,
    options: Options,
    logits: Vec<f32>,
    timing: Timing,
    state: State,
}

enum State {
    /// The prompt was not read yet.
    Prompt,
    /// This token was yielded and is not in the cache yet.
    After(u32),
    /// All tokens were yielded.
    Ending(Finish),
    Over,
}

impl<'s, 'm> Generation<'s, 'm> {
    pub(super) fn new(
        session: &'s mut Session<'m>,
        prompt: &[u32],
        options: &Options,
        sampler: &'s mut Sampler,
        stream: Box<dyn Detokenise + 's>,
    ) -> Result<Self> {
        Ok(Self {
            session,
            sampler,
            stream: Some(stream),
            filter: StopFilter::new(&options.stop)?,
            prompt: prompt.to_vec(),
            options: options.clone(),
            logits: Vec::new(),
            timing: Timing::default(),
            state: State::Prompt,
        })
    }

    /// Ends the answer here and returns the text that was held back.
    pub fn break_off(mut self) -> Result<String> {
        self.held_back()
    }

    fn held_back(&mut self) -> Result<String> {
        let rest = self.stream.take().map_or(Ok(String::new()), Detokenise::finish)?;
        let passed = self.filter.push(&rest);
        Ok(if passed.stop.is_some() { passed.text } else { passed.text + &self.filter.finish() })
    }

    /// Times so far.
    pub fn timing(&self) -> Timing {
        self.timing
    }

    fn step(&mut self) -> Result<Option<Event>> {
        // If anything below fails, the generation is over.
        match std::mem::replace(&mut self.state, State::Over) {
            State::Over => Ok(None),
            State::Ending(reason) => {
                let text = if matches!(reason, Finish::Stop(_)) { String::new() } else { self.held_back()? };
                Ok(Some(Event::Finished { text, reason, timing: self.timing }))
            }
            State::Prompt => {
                let token = self.first()?;
                self.take(token)
            }
            State::After(last) => {
                let begin = Instant::now();
                self.session.push(&[last], Rows::Last, &mut self.logits)?;
                let token = self.sampler.next(&self.logits, self.session.ids())?;
                self.timing.decode += begin.elapsed();
                self.take(token)
            }
        }
    }

    /// Reads the prompt and draws the first token.
    fn first(&mut self) -> Result<u32> {
        let begin = Instant::now();
        let reused = self.session.prefill(&self.prompt, self.options.alpha, &mut self.logits)?;
        self.timing.reused_tokens = reused;
        self.timing.prompt_tokens = self.prompt.len() - reused;
        self.timing.prefill = begin.elapsed();
        let token = self.sampler.next(&self.logits, self.session.ids())?;
        self.timing.first_token = begin.elapsed();
        Ok(token)
    }

    /// Decides what a drawn token means.
    fn take(&mut self, id: u32) -> Result<Option<Event>> {
        self.timing.new_tokens += 1;
        if self.options.eos.contains(&id) {
            self.state = State::Ending(Finish::EndOfSequence);
            return self.step();
        }
        let stream = self.stream.as_mut().expect("it is taken at the end only");
        let piece = stream.push(id)?;
        let passed = self.filter.push(&piece);
        self.state = match passed.stop {
            Some(stop) => State::Ending(Finish::Stop(stop)),
            None if self.timing.new_tokens == self.options.max_tokens => State::Ending(Finish::Length),
            None => State::After(id),
        };
        Ok(Some(Event::Token { id, text: passed.text }))
    }
}

impl Iterator for Generation<'_, '_> {
    type Item = Result<Event>;
    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}

#[cfg(test)]
#[path = "generate_tests.rs"]
pub(super) mod tests;
