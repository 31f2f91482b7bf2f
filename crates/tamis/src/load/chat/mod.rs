//! Chat templates: a model's own Jinja text that turns messages into a prompt.
//!
//! A template is a program from a stranger. It runs in `minijinja` without a loader, on
//! fuel, and every value that it makes is charged to a budget ([`budget`]), so it can
//! neither hang nor take the process's memory. The engine has no such limit of its own:
//! a string doubled in a loop costs it a few instructions. Guards are therefore put
//! into the compiled instructions ([`program`]), which needs the engine's unstable
//! interface; a child process under `ulimit` would need a program to start and works on
//! one system only, and looking for `x ~ x` in the text misses `join`, `replace`,
//! captures and macros.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::gguf::Metadata;
use super::tokenizer::{read_json, spelling};
use crate::disk::read_text;
use crate::error::{Error, Result, one_line};
use crate::guard::{Panicked, guarded};

mod budget;
mod builtins;
mod date;
mod program;

use budget::Budget;

/// Longest template that is read. The longest in use have about 20 KB.
const TEMPLATE_LIMIT: usize = 64 << 10;

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions for the whole conversation.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// What templates call it.
    fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who.
    pub role: Role,
    /// What is said.
    pub content: String,
}

/// Whether the prompt ends where the assistant is to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GenerationPrompt {
    /// Ends with the opening of an assistant turn.
    Open,
    /// Ends with the last message.
    None,
}

/// A model's chat template and the tokens that it writes by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatTemplate {
    source: String,
    bos: String,
    eos: String,
    /// The file that it came from.
    origin: Option<PathBuf>,
    /// Time since 1970 that `strftime_now` shows; none for the clock's.
    now: Option<Duration>,
}

impl ChatTemplate {
    /// Takes a template and the spelling of the begin and end tokens. Fails where it does
    /// not parse or uses what chat templates have no need of.
    pub fn new(source: String, bos: String, eos: String) -> Result<Self> {
        if source.len() > TEMPLATE_LIMIT {
            return Err(refused(&format!("{} bytes; at most {TEMPLATE_LIMIT}", source.len())));
        }
        answer(guarded(|| program::compile(&source).map(drop)))?;
        Ok(Self { source, bos, eos, origin: None, now: None })
    }

    /// The template of a folder: `chat_template.jinja`, or the one in
    /// `tokenizer_config.json` (of several named ones, `default`).
    pub fn from_hf_folder(folder: &Path) -> Result<Option<Self>> {
        let config_path = folder.join("tokenizer_config.json");
        let config = read_json(&config_path)?;
        let file = folder.join("chat_template.jinja");
        let (source, path) = if file.exists() {
            let text = read_text(&file, TEMPLATE_LIMIT as u64)?;
            (text, file)
        } else {
            match config.get("chat_template").and_then(default_template) {
                Some(text) => (text.to_string(), config_path),
                None => return Ok(None),
            }
        };
        let token = |key: &str| config.get(key).and_then(spelling).unwrap_or_default().to_string();
        Self::new(source, token("bos_token"), token("eos_token"))
            .map(|template| Some(template.of_file(&path)))
            .map_err(|e| e.or_file(path))
    }

    /// The template of the GGUF file at `path`.
    pub fn from_gguf(metadata: &Metadata, path: &Path) -> Result<Option<Self>> {
        let template = Self::in_metadata(metadata).map_err(|e| e.or_file(path))?;
        Ok(template.map(|template| template.of_file(path)))
    }

    fn of_file(self, path: &Path) -> Self {
        Self { origin: Some(path.to_path_buf()), ..self }
    }

    fn in_metadata(metadata: &Metadata) -> Result<Option<Self>> {
        let Some(source) = metadata.text("tokenizer.chat_template")? else { return Ok(None) };
        let tokens = metadata.texts("tokenizer.ggml.tokens")?.unwrap_or_default();
        let token = |name: &str| -> Result<String> {
            let id = metadata.usize(&format!("tokenizer.ggml.{name}_token_id"))?;
            Ok(id.and_then(|id| tokens.get(id)).cloned().unwrap_or_default())
        };
        Self::new(source.to_string(), token("bos")?, token("eos")?).map(Some)
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The same template with a fixed time for `strftime_now`, in seconds since 1970, UTC.
    pub fn at(mut self, unix_seconds: u64) -> Self {
        self.now = Some(Duration::from_secs(unix_seconds));
        self
    }

    /// The prompt for a conversation.
    pub fn render(&self, messages: &[Message], prompt: GenerationPrompt) -> Result<String> {
        let now = self.now.or_else(|| SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok());
        let text: usize = messages.iter().map(|m| "assistant".len() + m.content.len() + 64).sum();
        let budget = Arc::new(Budget::for_input(text + self.source.len()));
        let env = builtins::environment(&budget, now.unwrap_or_default(), messages.len());
        let turn = |m: &Message| minijinja::context! { role => m.role.name(), content => m.content.as_str() };
        let context = minijinja::context! {
            messages => messages.iter().map(turn).collect::<Vec<_>>(),
            add_generation_prompt => prompt == GenerationPrompt::Open,
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
            tools => (),
            documents => (),
        };
        answer(guarded(|| program::run(&env, &self.source, context))).map_err(|e| match &self.origin {
            Some(path) => e.or_file(path),
            None => e,
        })
    }
}

/// The template in `tokenizer_config.json`: a string, or a list of named ones.
fn default_template(value: &Json) -> Option<&str> {
    value.as_str().or_else(|| {
        let named = |name: &str| value.as_array()?.iter().find(|t| t.get("name").is_some_and(|n| n == name));
        named("default")?.get("template")?.as_str()
    })
}

/// What the engine gave, or why it gave nothing: it failed, or it panicked.
fn answer<T>(result: Result<Result<T, minijinja::Error>, Panicked>) -> Result<T> {
    let error = match result {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error,
        Err(Panicked) => return Err(refused("the template engine cannot make sense of it")),
    };
    let place = error.line().map_or_else(String::new, |line| format!("line {line}: "));
    let (kind, detail) = (error.kind(), error.detail().unwrap_or_default());
    Err(refused(&format!("{place}{kind}: {detail}")))
}

fn refused(problem: &str) -> Error {
    Error::bad_data(format!("chat template: {}", one_line(problem)))
        .next("check the template, or give the prompt as plain text")
}

#[cfg(test)]
mod tests;
