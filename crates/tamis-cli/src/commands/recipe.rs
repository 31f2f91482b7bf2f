//! `tamis recipe`: list, show and check recipes.

use tamis::recipe::Recipe;

use super::{print_json, print_text};
use crate::args::{self, RecipeAction};
use crate::table::Table;

/// `tamis recipe`.
pub(crate) fn run(args: &args::Recipe) -> anyhow::Result<()> {
    match &args.action {
        RecipeAction::List { json: true } => print_json(&Recipe::list()),
        RecipeAction::List { json: false } => {
            let mut table = Table::new(&["recipe", "bits", "group", "ortho"]);
            let mut notes = String::new();
            for summary in Recipe::list() {
                let recipe = Recipe::named(&summary.name)?;
                let text = |key: &str| recipe.to_json()["default"][key].to_string().replace('"', "");
                table.row(vec![summary.name.clone(), text("bits"), text("group"), text("ortho")]);
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
