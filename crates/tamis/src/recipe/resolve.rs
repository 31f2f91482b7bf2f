//! A recipe and the names of a model's linears to one plan a linear. Fails before any
//! work is done: on a pattern without a match, on a plan without meaning.

use super::parse::nearest;
use super::{Override, Recipe};
use crate::compress::{Method, TensorPlan};
use crate::error::{Error, Kind, Result};

impl Recipe {
    /// The plan of every linear in `names` (with or without `.weight`), in their order.
    pub fn resolve<S: AsRef<str>>(&self, names: &[S]) -> Result<Vec<(String, TensorPlan)>> {
        self.check(names)?;
        let plan = |name: &S| {
            let name = name.as_ref();
            let stem = stem(name);
            let matching = self.overrides.iter().filter(|o| o.pattern.matches(stem));
            let plan = matching.fold(self.default.clone(), |plan, o| o.changes.apply(plan));
            let wrong = |e: Error| self.located(e.of_kind(Kind::Recipe).tensor(name));
            plan.check().map_err(wrong)?;
            Ok((name.to_owned(), plan))
        };
        names.iter().map(plan).collect()
    }

    /// Every override matches at least one of `names`.
    pub fn check<S: AsRef<str>>(&self, names: &[S]) -> Result<()> {
        for change in &self.overrides {
            if !names.iter().any(|n| change.pattern.matches(stem(n.as_ref()))) {
                return Err(self.unmatched(change, names));
            }
        }
        Ok(())
    }

    /// Plans that have no meaning on their own, whatever the model.
    pub(super) fn check_plans(&self) -> Result<()> {
        let problem = self.allocation.check().and_then(|()| self.check_allocation());
        problem.map_err(|e| self.located(e.of_kind(Kind::Recipe)))?;
        let alone = self.overrides.iter().map(|o| (Some(o), o.changes.apply(self.default.clone())));
        for (change, plan) in std::iter::once((None, self.default.clone())).chain(alone) {
            plan.check().map_err(|e| {
                let error = self.located(e.of_kind(Kind::Recipe));
                change.map_or(error.clone(), |c| self.at_line(error, c))
            })?;
        }
        Ok(())
    }

    fn check_allocation(&self) -> Result<()> {
        let free = self.default.method == Method::Prune && self.default.pruning.pattern.is_free();
        if !self.allocation.is_level() && !free {
            return Err(Error::usage(
                "allocation needs pruning with a share of zeros that is free to choose",
            )
            .next("leave the allocation out, or use a pattern such as \"rows\""));
        }
        Ok(())
    }

    /// Whether allocation may choose the share of a linear: no override says it, nor does its pattern.
    pub(crate) fn governs(&self, name: &str, plan: &TensorPlan) -> bool {
        let says = |o: &Override| o.changes.sparsity.is_some() && o.pattern.matches(stem(name));
        let free = plan.method == Method::Prune && plan.pruning.pattern.is_free();
        free && !self.overrides.iter().any(says)
    }

    fn unmatched<S: AsRef<str>>(&self, change: &Override, names: &[S]) -> Error {
        let pattern = change.pattern.as_str();
        let problem = format!("override \"{pattern}\" matches none of the {} linears", names.len());
        let mut shapes: Vec<String> = names.iter().map(|n| generalised(stem(n.as_ref()))).collect();
        shapes.sort();
        shapes.dedup();
        let error = self.at_line(self.located(Error::new(Kind::Recipe, problem)), change);
        match (nearest(pattern, shapes.iter().map(String::as_str)), shapes.first()) {
            (Some(near), _) => error.next(format!("did you mean \"{near}\"?")),
            (None, Some(first)) => error.next(format!("linears are called \"{first}\" and the like")),
            (None, None) => error,
        }
    }

    fn located(&self, error: Error) -> Error {
        error.or_file(&self.source.origin)
    }

    /// Adds the line of an override: the first that holds its pattern.
    pub(super) fn at_line(&self, error: Error, change: &Override) -> Error {
        let holds = |line: &str| line.contains(change.pattern.as_str());
        match self.source.text.lines().position(holds) {
            Some(index) => error.line(index as u64 + 1),
            None => error,
        }
    }
}

fn stem(name: &str) -> &str {
    name.strip_suffix(".weight").unwrap_or(name)
}

/// `model.layers.3.mlp.up_proj` -> `model.layers.*.mlp.up_proj`.
fn generalised(name: &str) -> String {
    let star = |part| if str::parse::<usize>(part).is_ok() { "*" } else { part };
    name.split('.').map(star).collect::<Vec<_>>().join(".")
}
