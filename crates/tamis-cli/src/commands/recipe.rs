//! `tamis recipe`: list, show and check recipes.

use tamis::compress::Method;
use tamis::recipe::Recipe;

use crate::args::{self, RecipeAction};
use crate::streams::{print_json, print_text};
use crate::table::Table;

/// `tamis recipe`.
pub(crate) fn run(args: &args::Recipe) -> anyhow::Result<()> {
    match &args.action {
        RecipeAction::List { json: true } => print_json(&Recipe::list()),
        RecipeAction::List { json: false } => {
            let mut table = Table::new(&["recipe", "bits", "group", "ortho", "zeros"]);
            let mut notes = String::new();
            for summary in Recipe::list() {
                let recipe = Recipe::named(&summary.name)?;
                table.row(std::iter::once(summary.name.clone()).chain(weights(&recipe)).collect());
                notes += &format!("  {:<11} {}\n", summary.name, summary.description);
            }
            print_text(&format!("{table}\n{notes}\nnext: tamis recipe show int4-ortho > my.toml\n"))
        }
        RecipeAction::Show { name } => print_text(Recipe::named(name)?.source_text()),
        RecipeAction::Check { file } => {
            let recipe = Recipe::from_file(file)?;
            print_text(&format!("ok: {} ({} overrides)\n", recipe.name, recipe.overrides.len()))
        }
    }
}

/// What a recipe makes of a weight, in the order of the list's columns.
fn weights(recipe: &Recipe) -> [String; 4] {
    let whole = recipe.to_json();
    let default = &whole["default"];
    let text = |value: &serde_json::Value| value.to_string().replace('"', "");
    if recipe.default.method == Method::Prune {
        let zeros = format!("{:.0} %", 100.0 * recipe.default.pruning.share().get());
        return [text(&default["pruning"]["kept"]), "-".into(), "-".into(), zeros];
    }
    [text(&default["bits"]), text(&default["group"]), text(&default["ortho"]), "-".into()]
}
