//! The recipes that come with the program.

use std::path::Path;

use super::parse::nearest;
use super::{Format, Recipe};
use crate::error::{Error, Result};

/// Name and text, the recommended ones first.
const RECIPES: [(&str, &str); 16] = [
    ("int4-ortho", include_str!("embedded/int4-ortho.toml")),
    ("int4", include_str!("embedded/int4.toml")),
    ("int3-ortho", include_str!("embedded/int3-ortho.toml")),
    ("int3", include_str!("embedded/int3.toml")),
    ("int2-ortho", include_str!("embedded/int2-ortho.toml")),
    ("int2", include_str!("embedded/int2.toml")),
    ("int8", include_str!("embedded/int8.toml")),
    ("rtn8", include_str!("embedded/rtn8.toml")),
    ("rtn4", include_str!("embedded/rtn4.toml")),
    ("rtn3", include_str!("embedded/rtn3.toml")),
    ("rtn2", include_str!("embedded/rtn2.toml")),
    ("wanda50", include_str!("embedded/wanda50.toml")),
    ("sparsegpt50", include_str!("embedded/sparsegpt50.toml")),
    ("2of4", include_str!("embedded/2of4.toml")),
    ("tiers50", include_str!("embedded/tiers50.toml")),
    ("block16-25", include_str!("embedded/block16-25.toml")),
];

/// One line of the list of recipes.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    /// What [`Recipe::named`] takes.
    pub name: String,
    /// What it is for.
    pub description: String,
}

impl Recipe {
    /// The recipe of this name.
    pub fn named(name: &str) -> Result<Self> {
        let Some((known, text)) = RECIPES.iter().find(|(known, _)| *known == name) else {
            let names: Vec<&str> = RECIPES.iter().map(|(known, _)| *known).collect();
            let next = match nearest(name, names.iter().copied()) {
                Some(near) => format!("did you mean {near:?}?"),
                None => "give a file, or one of the names".into(),
            };
            let problem = format!("no recipe is called {name:?}; there are {}", names.join(", "));
            return Err(Error::usage(problem).next(next));
        };
        Self::parse(text, Format::Toml, Path::new(&format!("{known}.toml")))
    }

    /// The recipe of this name, or in this file: a name has no dot and no slash.
    pub fn open(spec: &str) -> Result<Self> {
        if spec.contains(['.', '/', '\\']) { Self::from_file(Path::new(spec)) } else { Self::named(spec) }
    }

    /// All recipes that come with the program.
    pub fn list() -> Vec<Summary> {
        let summary = |(name, _): &(&str, &str)| {
            let recipe = Self::named(name).expect("the tests parse every embedded recipe");
            Summary { name: recipe.name, description: recipe.description }
        };
        RECIPES.iter().map(summary).collect()
    }
}
