//! Text to a checked recipe, with errors that name line, column and what was meant.
//! The only file that knows the two parsers.

use std::num::NonZeroUsize;
use std::path::Path;

use serde::Deserialize;

use super::{Allocation, Calibration, Changes, EndBits, MAX_BYTES, Override, Pattern, Recipe, Source};
use crate::compress::{
    ActivationOrder, ClipSearch, Criterion, Kept, Method, OnSingular, OrthoMode, Pattern as Pruned, Symmetry,
    TensorPlan, Update,
};
use crate::error::{Error, Kind, Result};
use crate::units::{Bits, Damping, Density, GroupSize, Sparsity};

/// How a recipe is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// TOML.
    Toml,
    /// YAML.
    Yaml,
}

impl Format {
    /// By extension; without a known one, a file whose first line with content is an
    /// assignment or a table is TOML.
    pub fn of(path: &Path, text: &str) -> Self {
        match path.extension().and_then(|e| e.to_str()) {
            Some("toml") => return Self::Toml,
            Some("yaml" | "yml") => return Self::Yaml,
            _ => {}
        }
        let first = text.lines().map(str::trim).find(|l| !l.is_empty() && !l.starts_with('#'));
        let toml =
            first.is_none_or(|l| l.starts_with('[') || l.split_once(':').unwrap_or((l, "")).0.contains('='));
        if toml { Self::Toml } else { Self::Yaml }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Raw {
    name: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    default: Section,
    #[serde(default, rename = "override")]
    overrides: Vec<Section>,
    #[serde(default)]
    embedding: EndBits,
    #[serde(default)]
    head: EndBits,
    on_singular: Option<OnSingular>,
    #[serde(default)]
    calibration: Calibration,
    #[serde(default)]
    allocation: Allocation,
}

/// `[default]` and `[[override]]` share their keys, so that a misplaced `match` gets a
/// message of its own. Not flattened: that would lose unknown keys and line numbers.
#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Section {
    r#match: Option<String>,
    method: Option<Method>,
    bits: Option<Bits>,
    group: Option<GroupSize>,
    symmetry: Option<Symmetry>,
    clip: Option<ClipSearch>,
    order: Option<ActivationOrder>,
    damping: Option<Damping>,
    ortho: Option<OrthoMode>,
    density: Option<Density>,
    score: Option<Criterion>,
    pattern: Option<Pruned>,
    sparsity: Option<Sparsity>,
    kept: Option<Kept>,
    update: Option<Update>,
    rounds: Option<NonZeroUsize>,
    least: Option<usize>,
    permute: Option<bool>,
}

impl Section {
    fn changes(&self) -> Changes {
        let &Self { method, bits, group, symmetry, clip, order, damping, ortho, density, .. } = self;
        let &Self { score, pattern, sparsity, kept, update, rounds, least, permute, .. } = self;
        Changes {
            method,
            bits,
            group,
            symmetry,
            clip,
            order,
            damping,
            ortho,
            density,
            score,
            pattern,
            sparsity,
            kept,
            update,
            rounds,
            least,
            permute,
        }
    }
}

impl Recipe {
    /// Parses `text`; `origin` is the file that messages name.
    pub fn parse(text: &str, format: Format, origin: &Path) -> Result<Self> {
        let named = |e: Error| e.or_file(origin);
        if text.len() as u64 > MAX_BYTES {
            let problem = format!("{} bytes; a recipe has at most {MAX_BYTES}", text.len());
            return Err(named(Error::new(Kind::Recipe, problem)));
        }
        let raw = match format {
            Format::Toml => from_toml(text),
            Format::Yaml => from_yaml(text),
        };
        let source = Source { text: text.into(), origin: origin.into() };
        raw.and_then(|raw| check(raw, source)).map_err(named)
    }
}

fn check(raw: Raw, source: Source) -> Result<Recipe> {
    let invalid = |problem: &str| Error::new(Kind::Recipe, problem);
    if raw.default.r#match.is_some() {
        return Err(
            invalid("`match` in [default], which holds for every linear").next("put it into an [[override]]")
        );
    }
    if raw.calibration.samples == 0 || raw.calibration.length == 0 {
        return Err(invalid("calibration needs at least one sample of at least one token"));
    }
    let overrides = raw.overrides.iter().enumerate().map(|(index, section)| {
        let Some(pattern) = &section.r#match else {
            let problem = format!("override {} has no `match`", index + 1);
            return Err(invalid(&problem).next("say which linears: match = \"model.layers.*.mlp.down_proj\""));
        };
        Ok(Override { pattern: Pattern::new(pattern)?, changes: section.changes() })
    });
    let changes = raw.default.changes();
    let recipe = Recipe {
        overrides: overrides.collect::<Result<_>>()?,
        default: TensorPlan {
            on_singular: raw.on_singular.unwrap_or(TensorPlan::default().on_singular),
            ..changes.apply(TensorPlan::default())
        },
        name: raw.name,
        description: raw.description,
        embedding: raw.embedding,
        head: raw.head,
        calibration: raw.calibration,
        allocation: raw.allocation,
        source,
    };
    recipe.check_keys(&changes)?;
    recipe.check_plans()?;
    Ok(recipe)
}

fn from_toml(text: &str) -> Result<Raw> {
    toml::from_str(text).map_err(|e| {
        let before = e.span().map(|span| &text[..span.start.min(text.len())]);
        let at = before.map(|b| {
            let line_start = b.rfind('\n').map_or(0, |i| i + 1);
            (1 + b.matches('\n').count() as u64, 1 + b[line_start..].chars().count() as u64)
        });
        report(e.message(), at)
    })
}

fn from_yaml(text: &str) -> Result<Raw> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: 16,
            max_nodes: 100_000,
            max_events: 200_000,
            max_aliases: 100,
            max_documents: 1,
        },
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|e| {
        let at = e.location().map(|l| (l.line(), l.column()));
        report(&e.without_snippet().to_string(), at)
    })
}

/// A parser's message, with its place and the known word nearest to an unknown one.
fn report(message: &str, at: Option<(u64, u64)>) -> Error {
    let mut error = match at {
        None => Error::new(Kind::Recipe, message.trim()),
        Some((line, column)) => {
            // serde-saphyr repeats the place at the end of its message.
            let repeated = format!(" at line {line}, column {column}");
            let text = message.trim();
            let text = text.strip_suffix(&repeated).unwrap_or(text);
            Error::new(Kind::Recipe, format!("{text} (column {column})")).line(line)
        }
    };
    if let Some(known) = meant(message) {
        error = error.next(format!("did you mean `{known}`?"));
    }
    error
}

/// serde says: unknown field `x`, expected one of `a`, `b` (or: expected `a` or `b`).
fn meant(message: &str) -> Option<&str> {
    let (unknown, expected) = message.split_once("unknown ")?.1.split_once(", expected ")?;
    let unknown = unknown.split('`').nth(1)?;
    let expected = expected.split(" at line ").next()?;
    let expected = expected.strip_prefix("one of ").unwrap_or(expected);
    let words = expected.split([',', ' ', '`']).filter(|w| !w.is_empty() && *w != "or");
    nearest(unknown, words)
}

/// The candidate that is most like `word`, where one is like it at all.
pub(super) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let scored = candidates.map(|c| (strsim::jaro_winkler(word, c), c));
    let (score, best) = scored.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (score > 0.7).then_some(best)
}
