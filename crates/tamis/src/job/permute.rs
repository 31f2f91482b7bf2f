//! Sorts the units of a block that may be sorted for free, before blocks of weights are chosen: hidden units of
//! the MLP, and channels of values inside a head. What the block computes stays the same but for rounding, and the
//! new order is stored: nothing is looked up at run time. Knows no masks.
//!
//! What a unit is worth is a product: how large its inputs' linears make it, and how much the linear behind it reads it.

use tamis_kernels::pack::DenseF32;

use super::run::Plans;
use crate::compress::prune::permute::{column_worth, columns, falling, row_worth, rows};
use crate::compress::{Gram, Method};
use crate::error::{Error, Result};
use crate::model::block::{Block, Role};
use crate::model::{Config, Linear, Weight};
use crate::units::Alpha;

/// Sorts what the linears of `roles`, which see `gram`, make, where their plans ask for it.
pub(super) fn sort(
    block: &mut Block,
    (config, index): (&Config, usize),
    plans: &Plans,
    (roles, gram): (&[Role], &Gram),
) -> Result<()> {
    let asked = |role: &Role| {
        let plan = plans.plan(&role.name(config, index));
        plan.method == Method::Prune && plan.pruning.permute
    };
    if !roles.iter().any(asked) {
        return Ok(());
    }
    let h = gram.diagonal();
    if roles.contains(&Role::Up) {
        units(block, &h)
    } else if roles.contains(&Role::V) {
        channels(block, config, &h)
    } else {
        Ok(())
    }
}

/// Rows of gate and up, columns of down.
fn units(block: &mut Block, h: &[f64]) -> Result<()> {
    let inputs = [Role::Gate, Role::Up].into_iter().filter(|role| block.linear(*role).is_some());
    let inputs: Vec<Role> = inputs.collect();
    let mut worth = read(block, Role::Down);
    for role in &inputs {
        times(&mut worth, &made(block, *role, h));
    }
    let order = falling(&worth);
    inputs.into_iter().try_for_each(|role| sort_rows(block, role, &order))?;
    sort_columns(block, Role::Down, &order)
}

/// Rows of v inside each of its heads, and the columns of o of all heads that read it.
fn channels(block: &mut Block, config: &Config, h: &[f64]) -> Result<()> {
    let (dim, group) = (config.head_dim, config.heads / config.kv_heads);
    let (made, read) = (made(block, Role::V, h), read(block, Role::O));
    let (mut of_values, mut of_output) = (Vec::new(), Vec::new());
    for head in 0..config.kv_heads {
        let readers = head * group..(head + 1) * group;
        let mut worth: Vec<f64> =
            (0..dim).map(|c| readers.clone().map(|q| read[q * dim + c]).sum()).collect();
        times(&mut worth, &made[head * dim..][..dim]);
        let order = falling(&worth);
        of_values.extend(order.iter().map(|c| head * dim + c));
        of_output.extend(readers.flat_map(|q| order.iter().map(move |c| q * dim + c)));
    }
    sort_rows(block, Role::V, &of_values)?;
    sort_columns(block, Role::O, &of_output)
}

fn times(worth: &mut [f64], other: &[f64]) {
    worth.iter_mut().zip(other).for_each(|(w, o)| *w *= o);
}

fn made(block: &Block, role: Role, h: &[f64]) -> Vec<f64> {
    block.linear(role).map_or(Vec::new(), |linear| row_worth(&linear.weight.to_f32(Alpha::ONE), h))
}

fn read(block: &Block, role: Role) -> Vec<f64> {
    let of = |l: &Linear| column_worth(&l.weight.to_f32(Alpha::ONE), l.weight.cols());
    block.linear(role).map_or(Vec::new(), of)
}

fn sort_rows(block: &mut Block, role: Role, order: &[usize]) -> Result<()> {
    let Some(linear) = block.linear_mut(role) else { return Ok(()) };
    let cols = linear.weight.cols();
    let sorted = rows(&linear.weight.to_f32(Alpha::ONE), cols, order);
    linear.bias = linear.bias.take().map(|bias| rows(&bias, 1, order));
    linear.weight = dense((order.len(), cols), sorted)?;
    Ok(())
}

fn sort_columns(block: &mut Block, role: Role, order: &[usize]) -> Result<()> {
    let Some(linear) = block.linear_mut(role) else { return Ok(()) };
    let sorted = columns(&linear.weight.to_f32(Alpha::ONE), order);
    linear.weight = dense((linear.weight.rows(), order.len()), sorted)?;
    Ok(())
}

fn dense((rows, cols): (usize, usize), data: Vec<f32>) -> Result<Weight> {
    DenseF32::new(rows, cols, data).map(Weight::F32).map_err(|e| Error::bad_data(e.to_string()))
}
