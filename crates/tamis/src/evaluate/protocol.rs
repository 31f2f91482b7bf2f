//! The four perplexities in use, each as a way to cut a text into [`Windows`]. A difference of
//! 0.5 between two tools is usually the protocol and not the model, so a figure is never
//! shown without its name. Knows no model: scoring is the same for all.
//!
//! | name | windows | scored | source |
//! |---|---|---|---|
//! | `gptq` | the text tokenised once, cut every `context` tokens, tail dropped | all but the first token | GPTQ, arXiv 2210.17323, and the SparseGPT and Wanda scripts |
//! | `hf` | as long as `context`, `stride` apart, the last one ends with the text | tokens that no earlier window held | transformers documentation, "Perplexity of fixed-length models" |
//! | `llamacpp` | as `gptq`, first token replaced by BOS if the tokenizer adds one | the second half | llama.cpp `tools/perplexity` |
//! | `lm-eval` | a page at a time, detokenised, BOS (else EOS) in front, rolling | all tokens | lm-evaluation-harness, task `wikitext` 2.0 |

use std::num::NonZeroUsize;

use super::wikitext;
use super::windows::{Bos, Document, Window, Windows};
use crate::error::{Error, Result};
use crate::load::Tokenizer;

/// Encodes a text *without* special tokens: placing them is the protocol's business.
pub type Encode<'a> = dyn Fn(&str) -> Result<Vec<u32>> + 'a;

/// A tokenizer's special tokens, as far as perplexity depends on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Specials {
    /// What the tokenizer puts before every text, if anything (Llama: BOS, SmolLM2: nothing).
    pub start: Option<u32>,
    /// Beginning of sequence, added or not.
    pub bos: Option<u32>,
    /// End of sequence.
    pub eos: Option<u32>,
}

impl From<&Tokenizer> for Specials {
    fn from(tokenizer: &Tokenizer) -> Self {
        let bos = tokenizer.bos();
        Self { start: bos.filter(|_| tokenizer.adds_bos()), bos, eos: tokenizer.eos().first().copied() }
    }
}

/// A rule that turns a text into windows. Lengths are in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// One encoding of the whole text, windows `[i C, (i+1) C)` for `i < floor(T / C)`, `C - 1`
    /// targets each. BOS only where the tokenizer adds it, so once, in the first window.
    ///
    /// The scripts multiply each window's mean loss by `C` and divide by `n C`; as all windows
    /// have equally many targets, that is the mean over all targets, which is used here. Their
    /// text is the data set's rows joined by blank lines, which is *not* `wiki.test.raw`
    /// (fewer line ends): pass [`wikitext::joined_rows`] of the file to compare with papers,
    /// the file itself to compare with tools that read files.
    Gptq {
        /// Length of a window (papers: 2048).
        context: usize,
    },
    /// Windows `[i S, i S + C)`, until one reaches the end; each token is scored once, with the
    /// longest context that some window gives it. `S = C` is `gptq` with the tail kept.
    ///
    /// The documentation's code weighs a later window by its targets less one; here every
    /// target weighs the same. Over a test split the two differ by
    /// some 1e-5, over five windows by 1e-3.
    HuggingFace {
        /// Length of a window.
        context: usize,
        /// Distance of windows (512 in the documentation). Above `context`, text would be
        /// skipped: refused.
        stride: usize,
    },
    /// Windows as in `gptq`; targets `C/2 + 1 .. C`, so that each has at least half a window
    /// of context. If the tokenizer adds BOS, it stands before the text *and* replaces the
    /// first token of every window. A text under two windows is refused, as llama.cpp does.
    LlamaCpp {
        /// Length of a window (llama.cpp: 512).
        context: usize,
    },
    /// WikiText pages ([`wikitext::pages`], [`wikitext::detokenise`]), each its own sequence
    /// that starts with BOS, or EOS where there is no BOS. The first window scores `C` tokens,
    /// later ones the next `C` (the last one the rest, with its context filled up to `C`).
    /// Besides the token perplexity gives `exp(-LL / words)`, `exp(-LL / bytes)` and
    /// `-LL / (bytes ln 2)` by the words and bytes of the pages *before* detokenising.
    LmEval {
        /// Longest input (the harness: the model's context).
        context: usize,
    },
}

impl Protocol {
    /// Name on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gptq { .. } => "gptq",
            Self::HuggingFace { .. } => "hf",
            Self::LlamaCpp { .. } => "llamacpp",
            Self::LmEval { .. } => "lm-eval",
        }
    }
    /// Longest input of a window.
    pub fn context(self) -> usize {
        match self {
            Self::Gptq { context }
            | Self::HuggingFace { context, .. }
            | Self::LlamaCpp { context }
            | Self::LmEval { context } => context,
        }
    }
    /// Distance of windows where they may overlap.
    pub fn stride(self) -> Option<usize> {
        match self {
            Self::HuggingFace { stride, .. } => Some(stride),
            _ => None,
        }
    }
    /// What [`Windows::taken`] and a limit count.
    pub fn unit(self) -> &'static str {
        if matches!(self, Self::LmEval { .. }) { "documents" } else { "windows" }
    }

    /// Cuts `text`, and keeps the first `limit` windows (`lm-eval`: documents).
    ///
    /// Errors: lengths that make no sense, a text too short for one window, the encoder's.
    pub fn windows(
        self,
        text: &str,
        encode: &Encode<'_>,
        specials: Specials,
        limit: Option<NonZeroUsize>,
    ) -> Result<Windows> {
        self.check()?;
        let limit = limit.map_or(usize::MAX, NonZeroUsize::get);
        if let Self::LmEval { context } = self {
            return self.by_document(&wikitext::pages(text), encode, specials, (context, limit));
        }
        let mut tokens: Vec<u32> = specials.start.into_iter().collect();
        tokens.extend(encode(text)?);
        self.check_length(tokens.len())?;
        let bos = match (self, specials.start) {
            (_, None) => Bos::None,
            (Self::LlamaCpp { .. }, Some(id)) => Bos::Window(id),
            (_, Some(id)) => Bos::Text(id),
        };
        let all = self.cut(&tokens);
        let available = all.len();
        let list: Vec<Window> = all
            .into_iter()
            .take(limit)
            .map(|(range, scored)| window(tokens[range].to_vec(), scored, bos))
            .collect();
        let taken = list.len();
        Ok(Windows { protocol: self, list, bos, available, taken, document: None })
    }

    fn check(self) -> Result<()> {
        let context = self.context();
        let least = if matches!(self, Self::LlamaCpp { .. }) { 4 } else { 2 };
        if context < least {
            let name = self.name();
            return Err(Error::usage(format!(
                "a context of {context} tokens leaves nothing to score under protocol {name}"
            ))
            .next(format!("use --context {least} or more")));
        }
        match self.stride() {
            Some(0) => Err(Error::usage("a stride of 0 never moves on").next("use --stride 1 or more")),
            Some(stride) if stride > context => {
                Err(Error::usage(format!("stride {stride} skips text between windows of {context} tokens"))
                    .next(format!(
                        "use --stride {context} or less, or --windows to score a part of the text"
                    )))
            }
            _ => Ok(()),
        }
    }

    fn check_length(self, tokens: usize) -> Result<()> {
        let needed = match self {
            Self::Gptq { context } => context,
            Self::LlamaCpp { context } => 2 * context,
            Self::HuggingFace { .. } | Self::LmEval { .. } => 2,
        };
        if tokens >= needed {
            return Ok(());
        }
        let (name, context) = (self.name(), self.context());
        Err(Error::usage(format!(
            "the text has {tokens} tokens, and protocol {name} needs {needed} for a context of {context}"
        ))
        .next("give a longer text or a smaller --context"))
    }

    /// Ranges of a text of `T` tokens, with the scored positions inside each.
    fn cut(self, tokens: &[u32]) -> Vec<(std::ops::Range<usize>, std::ops::Range<usize>)> {
        let total = tokens.len();
        match self {
            Self::Gptq { context } => {
                (0..total / context).map(|i| (i * context..(i + 1) * context, 1..context)).collect()
            }
            Self::LlamaCpp { context } => (0..total / context)
                .map(|i| (i * context..(i + 1) * context, context / 2 + 1..context))
                .collect(),
            Self::HuggingFace { context, stride } => overlapping(total, context, stride),
            Self::LmEval { .. } => unreachable!("lm-eval is cut by document"),
        }
    }

    fn by_document(
        self,
        pages: &[String],
        encode: &Encode<'_>,
        specials: Specials,
        (context, limit): (usize, usize),
    ) -> Result<Windows> {
        let prefix = specials.bos.or(specials.eos).ok_or_else(|| {
            Error::usage(
                "protocol lm-eval starts every document with BOS or EOS, and this tokenizer has neither",
            )
            .next("use --protocol gptq")
        })?;
        let (mut list, mut document) = (Vec::new(), Document::default());
        for page in pages.iter().take(limit) {
            list.extend(rolling(&encode(&wikitext::detokenise(page))?, prefix, context));
            document.documents += 1;
            document.words += wikitext::words(page);
            document.bytes += page.len();
        }
        if list.is_empty() {
            return Err(Error::usage("the text has 0 tokens, and protocol lm-eval needs 1")
                .next("give a text with WikiText pages"));
        }
        let (bos, available, taken) = (Bos::Document(prefix), pages.len(), document.documents);
        Ok(Windows { protocol: self, list, bos, available, taken, document: Some(document) })
    }
}

fn window(mut tokens: Vec<u32>, scored: std::ops::Range<usize>, bos: Bos) -> Window {
    if let Bos::Window(id) = bos {
        tokens[0] = id;
    }
    Window { tokens, scored }
}

/// `hf`: a window's new tokens are those past the end of the one before it.
fn overlapping(
    total: usize,
    context: usize,
    stride: usize,
) -> Vec<(std::ops::Range<usize>, std::ops::Range<usize>)> {
    let (mut list, mut end_before, mut begin) = (Vec::new(), 0, 0);
    while end_before < total {
        let end = (begin + context).min(total);
        let first = (end_before - begin).max(1);
        // A lone last token that starts its own window has nothing to predict it.
        if first < end - begin {
            list.push((begin..end, first..end - begin));
        }
        (end_before, begin) = (end, begin + stride);
    }
    list
}

/// `lm-eval`'s rolling windows with a context of one token, of one document. The harness
/// counts a window's *input*, so a window here has up to `context + 1` tokens, the last of
/// which is only a target.
fn rolling(document: &[u32], prefix: u32, context: usize) -> Vec<Window> {
    let mut list = Vec::new();
    let first = document.len().min(context);
    if first > 0 {
        let mut tokens = vec![prefix];
        tokens.extend(&document[..first]);
        list.push(Window { tokens, scored: 1..first + 1 });
    }
    let mut done = first;
    while done < document.len() {
        let fresh = (document.len() - done).min(context);
        let end = done + fresh;
        let tokens = document[end - context - 1..end].to_vec();
        list.push(Window { tokens, scored: context + 1 - fresh..context + 1 });
        done = end;
    }
    list
}

#[cfg(test)]
#[path = "protocol_tests.rs"]
mod tests;
