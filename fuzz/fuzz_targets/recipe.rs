//! A recipe in either format, applied to two linears.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use tamis::recipe::{Format, Recipe};

fuzz_target!(|text: &str| {
    for format in [Format::Toml, Format::Yaml] {
        if let Ok(recipe) = Recipe::parse(text, format, Path::new("recipe")) {
            recipe.resolve(&["model.layers.0.mlp.up_proj", "model.layers.1.mlp.down_proj"]).ok();
        }
    }
});
