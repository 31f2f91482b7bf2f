//! From a decoder and a method to a plan and its masters. Knows no data and no loss.
//!
//! LoRA: Hu 2021, arXiv 2106.09685. Norms and biases alone mend much: Zimmer 2023, arXiv 2312.15230.

use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use super::kept::Kept;
use super::parameters::Parameters;
use super::plan::{BlockPlan, NormPlan, Pair, Plan, Trained};
use super::student::Student;
use super::survey::{Survey, addition, filled};
use crate::error::{Error, Result};
use crate::model::block::{NormRole, Role};
use crate::model::{Block, Config, Decoder, NormWeights, Weight};
use crate::ops::Reference;
use crate::units::Alpha;

/// What is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Everything.
    Full,
    /// The kept weights of pruned linears, all weights of the others, norms and biases.
    Masked,
    /// Low-rank adapters beside frozen linears, kept apart.
    Lora,
    /// Low-rank adapters under the masks of pruned linears, merged at the end.
    MaskLora,
}

/// Adapters: which linears, how large, and their factor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoraSpec {
    /// Rows of `A`.
    pub rank: usize,
    /// The factor on `B A` is this over the rank, or over its root.
    pub alpha: f32,
    /// Whether the factor is rank-stabilised: over the root of the rank.
    pub rank_stabilised: bool,
    /// Ends of the names of the linears that get one: `q_proj`.
    pub targets: Vec<String>,
}

impl LoraSpec {
    /// The factor on `B A`.
    pub fn scale(&self) -> f32 {
        self.alpha / if self.rank_stabilised { (self.rank as f32).sqrt() } else { self.rank as f32 }
    }
    /// Whether a linear of this name gets an adapter.
    pub fn matches(&self, name: &str) -> bool {
        self.targets.iter().any(|target| ends(name, target))
    }
    /// Refuses targets that are none of the linears of these names.
    pub(super) fn check(&self, names: &[String]) -> Result<()> {
        let next = "name linears as the model does: q_proj, v_proj, gate_proj";
        if self.targets.is_empty() {
            return Err(Error::usage("no linear is named that an adapter could be beside").next(next));
        }
        match self.targets.iter().find(|target| !names.iter().any(|name| ends(name, target))) {
            Some(target) => Err(Error::usage(format!("no linear is called {target}")).next(next)),
            None => Ok(()),
        }
    }
}

/// Whether the last parts of a name are these.
fn ends(name: &str, last: &str) -> bool {
    name == last || name.strip_suffix(last).is_some_and(|first| first.ends_with('.'))
}

/// What is trained besides what the method names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extras {
    /// Norms and biases.
    pub norms: bool,
    /// Embedding and head.
    pub embedding: bool,
}

/// What is trained, in full.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// The method.
    pub method: Method,
    /// Adapters, where the method has some.
    pub lora: LoraSpec,
    /// What else.
    pub extras: Extras,
    /// Draws the first values of `A`.
    pub seed: u64,
}

/// Trains one block as `spec` says. Errors: those of [`prepare`], but for targets and masks that match nothing.
pub fn prepare_block(
    config: &Config,
    spec: &Spec,
    (block, index): (&Block, usize),
) -> Result<(BlockPlan, Parameters)> {
    let mut builder = Builder::new(config, spec);
    let plan = builder.block(block, index)?;
    Ok((plan, builder.parameters))
}

/// Trains `decoder` as `spec` says. Errors: those of [`Survey::of`]; no memory.
pub fn prepare(decoder: Decoder, spec: &Spec) -> Result<Student> {
    Survey::of(&decoder, spec)?;
    let mut builder = Builder::new(decoder.config(), spec);
    let mut plan = Plan::default();
    for (index, block) in decoder.blocks().iter().enumerate() {
        plan.blocks.push(builder.block(block, index)?);
    }
    builder.ends(&decoder, &mut plan)?;
    let parameters = builder.parameters;
    Ok(Student { decoder, parameters, plan })
}

struct Builder<'a> {
    config: &'a Config,
    spec: &'a Spec,
    parameters: Parameters,
    random: ChaCha8Rng,
}

impl<'a> Builder<'a> {
    fn new(config: &'a Config, spec: &'a Spec) -> Self {
        let random = ChaCha8Rng::seed_from_u64(spec.seed);
        Self { config, spec, parameters: Parameters::default(), random }
    }

    fn block(&mut self, block: &Block, index: usize) -> Result<BlockPlan> {
        let mut plan = BlockPlan::FROZEN;
        for role in Role::ALL {
            let Some(linear) = block.linear(role) else { continue };
            let name = role.name(self.config, index);
            plan.linear_mut(role).weight =
                self.weight(&name, &linear.weight).map_err(|e| e.tensor(name.clone()))?;
            if let Some(bias) = linear.bias.as_ref().filter(|_| self.spec.extras.norms) {
                plan.linear_mut(role).bias =
                    Some(self.parameters.add(format!("{name}.bias"), bias.clone(), false)?);
            }
        }
        for role in NormRole::ALL {
            if let Some(norm) = block.norm(role).filter(|_| self.spec.extras.norms) {
                let norm = self.norm(&role.name(self.config, index), norm)?;
                plan.set_norm(role, norm);
            }
        }
        Ok(plan)
    }

    fn weight(&mut self, name: &str, weight: &Weight) -> Result<Trained> {
        let Spec { method, lora, .. } = self.spec;
        let tensor = format!("{name}.weight");
        let kept = || weight.kept().map(|flags| Arc::new(Kept::new(&flags)));
        Ok(match method {
            Method::Full if weight.is_pruned() => return Err(filled()),
            Method::Full => Trained::Dense(self.parameters.add(tensor, weight.to_f32(Alpha::ONE), true)?),
            Method::Masked => match kept() {
                Some(kept) => {
                    let values = kept.gather(&Reference, &weight.to_f32(Alpha::ONE));
                    Trained::Kept(self.parameters.add(tensor, values, true)?, kept)
                }
                None => Trained::Dense(self.parameters.add(tensor, weight.to_f32(Alpha::ONE), true)?),
            },
            Method::Lora | Method::MaskLora if !lora.matches(name) => Trained::Frozen,
            Method::Lora => Trained::LowRank(self.pair(name, weight)?),
            Method::MaskLora => {
                let pair = self.pair(name, weight)?;
                let kept =
                    kept().unwrap_or_else(|| Arc::new(Kept::new(&vec![true; weight.rows() * weight.cols()])));
                let base = Arc::new(kept.gather(&Reference, &weight.to_f32(Alpha::ONE)));
                Trained::Masked(pair, kept, base)
            }
        })
    }

    /// `A` uniform in `+-1 / sqrt(in)`, as `torch.nn.Linear` and peft draw it; `B` zero.
    fn pair(&mut self, name: &str, weight: &Weight) -> Result<Pair> {
        let (rows, cols, rank) = (weight.rows(), weight.cols(), self.spec.lora.rank);
        addition(&self.spec.lora, (rows, cols))?;
        let bound = 1.0 / (cols as f32).sqrt();
        let a = (0..rank * cols).map(|_| bound * (self.random.next_u32() as f32 / (1u64 << 31) as f32 - 1.0));
        let a = a.collect();
        Ok(Pair {
            a: self.parameters.add(format!("{name}.lora_A.weight"), a, true)?,
            b: self.parameters.add(format!("{name}.lora_B.weight"), vec![0.0; rows * rank], true)?,
            rank,
            scale: self.spec.lora.scale(),
        })
    }

    fn norm(&mut self, name: &str, norm: &NormWeights) -> Result<NormPlan> {
        let scale = self.parameters.add(format!("{name}.weight"), norm.scale.clone(), false)?;
        let bias = norm.bias.as_ref();
        let bias = bias.map(|bias| self.parameters.add(format!("{name}.bias"), bias.clone(), false));
        Ok(NormPlan { scale, bias: bias.transpose()? })
    }

    fn ends(&mut self, decoder: &Decoder, plan: &mut Plan) -> Result<()> {
        let names = self.config.architecture.family().names;
        if let Some(norm) = decoder.crown().final_norm().filter(|_| self.spec.extras.norms) {
            plan.final_norm = Some(self.norm(names.final_norm, norm)?);
        }
        if self.spec.extras.embedding {
            let table = |weight: &Weight| weight.to_f32(Alpha::ONE);
            let embedding = table(&decoder.stem().embedding().weight);
            plan.embedding =
                Some(self.parameters.add(format!("{}.weight", names.embedding), embedding, true)?);
            if !self.config.tied {
                let head = table(&decoder.crown().head().weight);
                plan.head = Some(self.parameters.add(format!("{}.weight", names.head), head, true)?);
            }
        }
        Ok(())
    }
}
