//! Which keys of a section its method has a use for. A key that would change nothing is an error: whoever wrote it
//! expects it to. Knows no values.

use super::{Changes, Recipe};
use crate::compress::Method;
use crate::error::{Error, Kind, Result};

impl Recipe {
    /// Refuses keys of `[default]`, which are `default`, and of overrides that no method which a plan may have can use.
    ///
    /// An override that names a method has that one. Any other section may meet all methods that the recipe names.
    pub(super) fn check_keys(&self, default: &Changes) -> Result<()> {
        let named = self.overrides.iter().filter_map(|o| o.changes.method);
        let all: Vec<Method> = std::iter::once(self.default.method).chain(named).collect();
        if let Some(key) = default.unused(&all) {
            return Err(refusal(key, "[default]", &all));
        }
        for change in &self.overrides {
            let own: Vec<Method> = change.changes.method.map_or_else(|| all.clone(), |own| vec![own]);
            if let Some(key) = change.changes.unused(&own) {
                let section = format!("override \"{}\"", change.pattern.as_str());
                return Err(self.at_line(refusal(key, &section, &own), change));
            }
        }
        Ok(())
    }
}

impl Changes {
    /// The first key that is given and that none of `methods` has a use for.
    fn unused(&self, methods: &[Method]) -> Option<&'static str> {
        let quantises = methods.iter().any(|method| matches!(method, Method::Rtn | Method::Gptq));
        let prunes = methods.contains(&Method::Prune);
        let either = quantises || prunes;
        let given = [
            ("bits", self.bits.is_some(), quantises),
            ("group", self.group.is_some(), either),
            ("symmetry", self.symmetry.is_some(), quantises),
            ("clip", self.clip.is_some(), quantises),
            ("order", self.order.is_some(), either),
            ("damping", self.damping.is_some(), either),
            ("density", self.density.is_some(), quantises),
            ("score", self.score.is_some(), prunes),
            ("pattern", self.pattern.is_some(), prunes),
            ("sparsity", self.sparsity.is_some(), prunes),
            ("kept", self.kept.is_some(), prunes),
            ("update", self.update.is_some(), prunes),
            ("rounds", self.rounds.is_some(), prunes),
            ("least", self.least.is_some(), prunes),
            ("permute", self.permute.is_some(), prunes),
        ];
        given.into_iter().find(|(_, given, used)| *given && !used).map(|(key, ..)| key)
    }
}

fn refusal(key: &str, section: &str, methods: &[Method]) -> Error {
    let name = |method: &Method| match method {
        Method::Rtn => "\"rtn\"",
        Method::Gptq => "\"gptq\"",
        Method::Prune => "\"prune\"",
        Method::Keep => "\"keep\"",
    };
    let mut names: Vec<&str> = methods.iter().map(name).collect();
    names.sort_unstable();
    names.dedup();
    let next = match (key, methods.contains(&Method::Prune)) {
        ("bits", true) => "leave it out; `kept` says how kept weights are stored",
        ("density", true) => "leave it out; `sparsity` is the share of weights that go",
        ("bits" | "symmetry" | "clip" | "density", _) => "leave it out, or use method \"rtn\" or \"gptq\"",
        ("group" | "order" | "damping", _) => "leave it out, or use another method",
        _ => "leave it out, or use method \"prune\"",
    };
    Error::new(Kind::Recipe, format!("`{key}` in {section} does nothing with method {}", names.join(" or ")))
        .next(next)
}
