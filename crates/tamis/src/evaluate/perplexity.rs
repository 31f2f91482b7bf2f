//! From the negative log-likelihoods of scored tokens to a perplexity with its standard error
//! and everything needed to know which perplexity it is. Knows no model.
//!
//! With `l_i = -ln p(t_i | before)`, `m = mean l`, `s` the sample standard deviation of `l`:
//!
//! * value `exp(m)`;
//! * standard error `exp(m) s / sqrt(n)`: by the delta method, as `d exp(m) / dm = exp(m)` and
//!   `s / sqrt(n)` is the standard error of the mean. llama.cpp prints the same number. It
//!   treats tokens as independent; neighbours are not, so it is a lower bound;
//! * against a baseline on the same tokens: `ln(ppl / ppl_base) = mean(l - l_base)` with the
//!   standard error of *that* mean, which is far smaller, because both share the text.

use serde::Serialize;

use super::windows::{Document, Windows};
use crate::error::{Error, Kind, Result};
use crate::units::Alpha;

/// A perplexity, and which one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Perplexity {
    /// Ortho share it was measured at.
    pub alpha: Alpha,
    /// `exp` of the mean negative log-likelihood of a token.
    pub value: f64,
    /// Standard error of `value`.
    pub stderr: f64,
    /// Scored tokens.
    pub tokens: usize,
    /// Windows (`lm-eval`: documents) that were scored.
    pub windows: usize,
    /// Windows (`lm-eval`: documents) that the text has.
    pub windows_available: usize,
    /// Name of the protocol.
    pub protocol: &'static str,
    /// Length of a window.
    pub context: usize,
    /// Distance of windows, where they overlap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stride: Option<usize>,
    /// Where BOS stood.
    pub bos: String,
    /// By words and bytes, under `lm-eval`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document: Option<DocumentPerplexity>,
    /// Against the dense model, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Comparison>,
}

/// Perplexity by units that do not depend on the tokenizer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct DocumentPerplexity {
    /// `exp(sum l / words)`.
    pub word_perplexity: f64,
    /// `exp(sum l / bytes)`.
    pub byte_perplexity: f64,
    /// `sum l / (bytes ln 2)`.
    pub bits_per_byte: f64,
    /// Sizes of the documents.
    #[serde(flatten)]
    pub size: Document,
}

/// A perplexity beside that of the dense model on the same tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Comparison {
    /// The dense model's perplexity.
    pub value: f64,
    /// Its standard error.
    pub stderr: f64,
    /// `ln(perplexity / baseline)`.
    pub log_ratio: f64,
    /// Standard error of `log_ratio`, from the differences token by token.
    pub log_ratio_stderr: f64,
}

/// Mean of numbers and the standard error of that mean (0 for a single number).
pub(super) fn mean_and_stderr(numbers: impl ExactSizeIterator<Item = f64> + Clone) -> (f64, f64) {
    let n = numbers.len() as f64;
    let mean = numbers.clone().sum::<f64>() / n;
    // In a second pass: the difference of two sums would cancel.
    let squares: f64 = numbers.map(|x| (x - mean) * (x - mean)).sum();
    let stderr = if n > 1.0 { (squares / (n - 1.0) / n).sqrt() } else { 0.0 };
    (mean, stderr)
}

impl Perplexity {
    /// From the negative log-likelihoods `nll` of all scored tokens, in order, and the dense
    /// model's. Errors with [`Kind::NonFinite`] if the perplexity overflows.
    pub(super) fn new(alpha: Alpha, nll: &[f64], windows: &Windows, dense: Option<&[f64]>) -> Result<Self> {
        let (mean, error) = mean_and_stderr(nll.iter().copied());
        let value = mean.exp();
        if !value.is_finite() {
            return Err(Error::new(
                Kind::NonFinite,
                format!("the mean loss at alpha {alpha} is {mean}, which no perplexity can hold"),
            )
            .next("the model is broken: check how it was made"));
        }
        Ok(Self {
            alpha,
            value,
            stderr: value * error,
            tokens: nll.len(),
            windows: windows.taken,
            windows_available: windows.available,
            protocol: windows.protocol.name(),
            context: windows.protocol.context(),
            stride: windows.protocol.stride(),
            bos: windows.bos.to_string(),
            document: windows.document.map(|size| DocumentPerplexity::new(nll, size)),
            baseline: dense.map(|dense| Comparison::new(nll, dense)),
        })
    }
}

impl DocumentPerplexity {
    fn new(nll: &[f64], size: Document) -> Self {
        let sum: f64 = nll.iter().sum();
        Self {
            word_perplexity: (sum / size.words as f64).exp(),
            byte_perplexity: (sum / size.bytes as f64).exp(),
            bits_per_byte: sum / size.bytes as f64 / std::f64::consts::LN_2,
            size,
        }
    }
}

impl Comparison {
    fn new(nll: &[f64], dense: &[f64]) -> Self {
        let (mean, error) = mean_and_stderr(dense.iter().copied());
        let (log_ratio, log_ratio_stderr) = mean_and_stderr(nll.iter().zip(dense).map(|(l, d)| l - d));
        Self { value: mean.exp(), stderr: mean.exp() * error, log_ratio, log_ratio_stderr }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_error_is_llama_cpps() {
        let nll = [1.0, 2.5, 0.25, 4.0, 3.0];
        let (mean, error) = mean_and_stderr(nll.iter().copied());
        // llama.cpp: sqrt((E l^2 - (E l)^2) / (n - 1)).
        let squares = nll.iter().map(|l| l * l).sum::<f64>() / 5.0;
        assert!((error - ((squares - mean * mean) / 4.0).sqrt()).abs() < 1e-15);
        assert_eq!(mean_and_stderr([2.0].iter().copied()), (2.0, 0.0));
    }

    #[test]
    fn equal_models_differ_by_exactly_nothing() {
        let nll = [1.0, 2.5, 0.25];
        let comparison = Comparison::new(&nll, &nll);
        assert_eq!((comparison.log_ratio, comparison.log_ratio_stderr), (0.0, 0.0));
    }

    #[test]
    fn document_metrics_follow_their_definitions() {
        let size = Document { documents: 1, words: 2, bytes: 8 };
        let metrics = DocumentPerplexity::new(&[1.0, 3.0], size);
        assert!((metrics.word_perplexity - 2f64.exp()).abs() < 1e-12);
        assert!((metrics.byte_perplexity - 0.5f64.exp()).abs() < 1e-12);
        assert!((metrics.bits_per_byte - 0.5 / std::f64::consts::LN_2).abs() < 1e-12);
    }
}
