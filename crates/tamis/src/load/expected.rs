//! What a configuration asks of the tensors, checked from the index alone: names, shapes, types. No weight is read,
//! so that whatever opens a model, to inspect it or to work on it for hours, is refused for the same reasons at
//! once.

use std::path::Path;

use super::TensorSource;
use crate::error::{Error, Result};
use crate::model::block::{NormRole, Role};
use crate::model::config::{Norm, NormPlacement, Positions};
use crate::model::{Architecture, Config};

/// What to do about a model whose parts are of several.
const AGAIN: &str = "configuration and weights are not of the same model: fetch both again";

/// A layer by its name, and the shape of its `.weight`.
type Layer = (String, Vec<usize>);

/// Errors where `source`, which lies at `path`, does not hold what `config` asks for: a tensor is missing, of
/// another shape, of a type that cannot be read; a bias is in some blocks only; there are more blocks.
pub(crate) fn check(config: &Config, source: &dyn TensorSource, path: &Path) -> Result<()> {
    let held = |name: &str| source.tensors().contains_key(name);
    let missing = |name: &str| Err(Error::bad_data("missing").tensor(name).file(path).next(AGAIN));
    let expect = |name: &str, shape: &[usize]| match source.tensors().get(name) {
        None => missing(name),
        Some(info) => info.expect_shape(name, shape).and_then(|()| source.check(name)),
    };
    let blocks: Vec<Vec<Layer>> = (0..config.layers.len()).map(|index| block(config, index)).collect();
    for (layer, shape) in ends(config).iter().chain(blocks.iter().flatten()) {
        expect(&format!("{layer}.weight"), shape)?;
        if may_be_biased(config, shape) && held(&format!("{layer}.bias")) {
            expect(&format!("{layer}.bias"), &shape[..1])?;
        }
    }
    for place in 0..blocks[0].len() {
        let all = || blocks.iter().map(|block| format!("{}.bias", block[place].0));
        let (role, shape) = &blocks[0][place];
        let wanted = may_be_biased(config, shape) && all().any(|name| held(&name));
        if let Some(name) = all().find(|name| (wanted || must_be_biased(config, role)) && !held(name)) {
            return missing(&name);
        }
    }
    check_count(config, source)
}

/// What stands before and behind the blocks.
fn ends(config: &Config) -> Vec<Layer> {
    let names = config.architecture.family().names;
    let table = vec![config.vocab, config.embedding_width];
    let mut all = vec![(names.embedding, table.clone())];
    if let (Positions::Learned { offset }, Some(name)) = (&config.positions, names.positions) {
        all.push((name, vec![config.context + offset, config.hidden]));
    }
    if config.embedding_width != config.hidden {
        all.push((names.project_in.unwrap_or_default(), vec![config.hidden, config.embedding_width]));
        all.push((names.project_out.unwrap_or_default(), vec![config.embedding_width, config.hidden]));
    }
    if config.placement != NormPlacement::After {
        all.push((names.final_norm, vec![config.hidden]));
    }
    if !config.tied {
        all.push((names.head, table));
    }
    all.into_iter().map(|(name, shape)| (name.to_owned(), shape)).collect()
}

fn block(config: &Config, index: usize) -> Vec<Layer> {
    let linear = |role: Role| {
        let (rows, cols) = role.shape(config);
        (role.name(config, index), vec![rows, cols])
    };
    let norm = |role: NormRole| (role.name(config, index), vec![role.width(config)]);
    let linears = Role::ALL.into_iter().filter(|role| role.is_in(config)).map(linear);
    linears.chain(NormRole::ALL.into_iter().filter(|role| role.is_in(config)).map(norm)).collect()
}

/// Whether a bias of such a layer plays a role: an RMS norm has none.
fn may_be_biased(config: &Config, shape: &[usize]) -> bool {
    shape.len() == 2 || matches!(config.norm, Norm::Layer { .. })
}

/// Qwen2 is Llama with these biases.
fn must_be_biased(config: &Config, layer: &str) -> bool {
    let names = config.architecture.family().names;
    config.architecture == Architecture::Qwen2
        && [names.q, names.k, names.v].iter().any(|n| layer.ends_with(n))
}

/// No block is left over.
fn check_count(config: &Config, source: &dyn TensorSource) -> Result<()> {
    let prefix = format!("{}.", config.architecture.family().names.block);
    let count = config.layers.len();
    let index = |name: &str| name.strip_prefix(&prefix)?.split('.').next()?.parse::<usize>().ok();
    match source.tensors().iter().find(|(name, _)| index(name).is_some_and(|index| index >= count)) {
        None => Ok(()),
        Some((name, info)) => {
            Err(Error::bad_data(format!("belongs to no block; the configuration asks for {count} blocks"))
                .file(&info.file)
                .tensor(name)
                .next(AGAIN))
        }
    }
}

#[cfg(test)]
#[path = "expected_tests.rs"]
mod tests;
