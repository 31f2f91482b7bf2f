//! Changes to a recipe that the command line may ask for. A change that a recipe has no use for is an error.

use super::{Changes, Over, Override, Pattern, Recipe};
use crate::compress::{Kept, Method, Pruning};
use crate::error::{Error, Result};
use crate::units::Sparsity;

impl Recipe {
    /// Leaves out this share of the weights, where no override says otherwise.
    pub fn leave_out(&mut self, sparsity: Sparsity) -> Result<()> {
        self.pruning()?.sparsity = Some(sparsity);
        self.check_plans()
    }

    /// Stores kept weights as this, where no override says otherwise.
    pub fn store_kept_as(&mut self, kept: Kept) -> Result<()> {
        self.pruning()?.kept = kept;
        self.check_plans()
    }

    /// Spreads the zeros over the layers like this.
    pub fn allocate(&mut self, over: Over) -> Result<()> {
        self.pruning()?;
        self.allocation.over = over;
        self.check_plans()
    }

    /// Leaves the linears that match as they are.
    pub fn skip(&mut self, pattern: Pattern) -> Result<()> {
        let changes = Changes { method: Some(Method::Keep), ..Changes::default() };
        self.overrides.push(Override { pattern, changes });
        self.check_plans()
    }

    fn pruning(&mut self) -> Result<&mut Pruning> {
        if self.default.method == Method::Prune {
            return Ok(&mut self.default.pruning);
        }
        Err(Error::usage(format!("recipe {:?} does not prune", self.name)).next(
            "use wanda50, sparsegpt50, 2of4, tiers50 or block16-25, or a recipe with method = \"prune\"",
        ))
    }
}
