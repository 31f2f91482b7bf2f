//! The order of a run: embedding, blocks, head, finish.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use serde_json::{Value, json};

use super::allocate::{Share, allocate, assume, check_texts};
use super::estimate::Estimate;
use super::outcome::Outcome;
use super::parts::{block_tensors, end_bits_per_weight, head_tensors, names_of, restore, stem_tensors};
use super::permute;
use super::publish::publish;
use crate::artifact::{
    Existing, Finish, Identity, Manifest, Part, Resume, Stored, Writer, check_resumable, finish_interrupted,
};
use crate::calibrate::{Walk, Windows};
use crate::compress::{
    Compressed, Evidence, Gram, Method, OrthoMode, Pattern, Receipt, TensorPlan, Threads, Update, Weights,
    compress_tensor,
};
use crate::disk::digest::sha256;
use crate::error::{Error, Kind, Result};
use crate::load::Checkpoint;
use crate::model::Config;
use crate::model::block::{Block, Role};
use crate::model::decoder::Stem;
use crate::ops::Ops;
use crate::recipe::Recipe;
use crate::units::Alpha;
use crate::workers::Workers;

/// Calibration windows and the hash of what they were made of.
#[derive(Debug, Clone)]
pub struct Calibration {
    /// The windows.
    pub windows: Windows,
    /// Windows that are none of these, where the recipe's allocation judges on some.
    pub held_out: Option<Windows>,
    /// Seed that chose them.
    pub seed: u64,
}

impl Calibration {
    /// One hash of all windows.
    pub fn digest(&self) -> String {
        let own = self.windows.digest();
        self.held_out.as_ref().map_or(own.clone(), |other| sha256((own + &other.digest()).as_bytes()))
    }
}

/// Everything a run needs.
#[derive(Debug)]
pub struct Job<'a> {
    /// Source model.
    pub checkpoint: &'a Checkpoint,
    /// What to do with it.
    pub recipe: &'a Recipe,
    /// Text to calibrate on; only round-to-nearest without ortho does without.
    pub calibration: Option<Calibration>,
    /// Arithmetic of the calibration.
    pub ops: &'a dyn Ops,
    /// Threads of the compression itself.
    pub threads: Threads,
    /// Who takes part: each shows its windows, and all compress the same. The first alone writes.
    pub workers: &'a dyn Workers,
    /// Folder to write.
    pub output: &'a Path,
    /// What to do with unfinished and finished work in it.
    pub policy: (Resume, Existing),
}

/// Where a run stands.
#[derive(Debug, Clone)]
pub struct Step {
    /// Blocks done.
    pub done: usize,
    /// Blocks in all.
    pub total: usize,
    /// What has just been done.
    pub what: String,
}

/// Tensors of a compressed block and the receipts of its linears.
type Finished = (Vec<(String, Stored)>, Vec<(String, Receipt)>);

/// Sees every step; `Break` stops the run at the next block boundary with all finished work kept.
pub type Watch<'f> = dyn FnMut(&Step) -> ControlFlow<()> + 'f;

impl Job<'_> {
    /// Errors where recipe, model and calibration do not fit each other: all that [`Job::run`] can know before it
    /// begins the output folder.
    pub fn check(&self) -> Result<()> {
        self.checkpoint.check_carried()?;
        let mut plans = self.plans()?;
        if let Some(calibration) = &self.calibration {
            Walk::check_length(self.checkpoint.config(), &calibration.windows)?;
        }
        check_texts(self)?;
        assume(self, &mut plans)?;
        plans.check(self.checkpoint)
    }

    /// Errors where the output folder holds what the policy does not allow to replace or to go on with. Leaves no
    /// trace.
    pub fn check_output(&self) -> Result<()> {
        check_resumable(self.output, &self.identity()?, self.policy)
    }

    fn plans(&self) -> Result<Plans> {
        let plans = Plans::resolve(self.checkpoint, self.recipe)?;
        plans.check_calibration(self.calibration.is_some())?;
        Ok(plans)
    }

    /// Carries out the run. Errors: [`Kind::Stopped`] when the watcher asked for it; those of
    /// loading, compressing and writing.
    pub fn run(&self, watch: &mut Watch<'_>) -> Result<Outcome> {
        self.check()?;
        if let Some(outcome) = self.finished()? {
            return Ok(outcome);
        }
        Estimate::of(self)?.plan().check()?;
        let mut plans = self.plans()?;
        let mut writer = self.writer()?;
        let finished = writer.as_ref().map_or(0, |writer| writer.finished().len());
        let shares = allocate(self, &mut plans, watch)?;
        let mut outcome = Outcome::new(if self.is_alone() { finished } else { 0 }, shares);
        let mut walk = self.walk(&mut writer, &plans)?;
        let total = self.checkpoint.config().layers.len();
        for index in 0..total {
            let part = Part::Block(index);
            let finished = writer.as_ref().is_some_and(|writer| writer.finished().contains(&part));
            // Many cannot replay: the others may not see the folder, and wait for the sums.
            let replayed = writer.as_ref().filter(|_| finished && self.is_alone());
            let what = if let Some(writer) = replayed {
                self.replay(writer, index, walk.as_mut())?;
                "replayed"
            } else {
                let (tensors, receipts) = self.block(index, &plans, walk.as_mut())?;
                let kept = receipts.iter().map(|(name, r)| Ok((name.clone(), durable(r)?)));
                if let Some(writer) = writer.as_mut().filter(|_| !finished) {
                    writer.put(part, &tensors, kept.collect::<Result<_>>()?)?;
                }
                outcome.extend(receipts);
                "compressed"
            };
            let step = Step { done: index + 1, total, what: format!("block {index} {what}") };
            if self.workers.agree(watch(&step)).is_break() && index + 1 < total {
                return Err(Error::new(Kind::Stopped, format!("stopped after block {index}"))
                    .file(self.output)
                    .next("give the same command again to go on"));
            }
        }
        drop(walk);
        let Some(mut writer) = writer else {
            self.workers.meet();
            return Ok(outcome);
        };
        if !writer.finished().contains(&Part::Head) {
            writer.put(
                Part::Head,
                &head_tensors(self.checkpoint, self.recipe, self.threads)?,
                BTreeMap::new(),
            )?;
        }
        let manifest = publish(writer, self.extras(&outcome.shares)?)?;
        outcome.finish(&manifest)?;
        self.workers.meet();
        Ok(outcome)
    }

    /// What a run like this has left in the output folder, where it was killed after all but the end of it.
    fn finished(&self) -> Result<Option<Outcome>> {
        let mut manifest = Vec::new();
        if self.workers.is_first() {
            let found = finish_interrupted(self.output, &self.identity()?, self.policy)?;
            manifest = found.map_or(manifest, |found| found.to_bytes());
        }
        self.workers.share_all(&mut manifest);
        if manifest.is_empty() {
            return Ok(None);
        }
        let manifest = Manifest::parse(&manifest)?;
        let parts = self.checkpoint.config().layers.len() + 2;
        let mut outcome = Outcome::new(parts, Vec::new());
        outcome.finish(&manifest)?;
        Ok(Some(outcome))
    }

    fn is_alone(&self) -> bool {
        self.workers.size() == 1
    }

    /// The first worker's writer. Errors: workers that would not make the same model.
    fn writer(&self) -> Result<Option<Writer>> {
        let identity = self.identity()?;
        self.workers.check_same(json!(identity).to_string().as_bytes(), "model, text and recipe")?;
        if let Some(calibration) = &self.calibration {
            let windows = calibration.windows.count();
            self.workers.check_busy(windows, &format!("a text of {windows} windows"), "--samples")?;
        }
        let create = || {
            let mut writer = Writer::create_or_resume(self.output, &identity, self.policy)?;
            writer.retain(&|part| names_of(self.checkpoint, part));
            Ok(writer)
        };
        self.workers.is_first().then(create).transpose()
    }

    /// This worker's windows before the first block.
    fn walk(&self, writer: &mut Option<Writer>, plans: &Plans) -> Result<Option<Walk<'_>>> {
        let stem = self.stem(writer.as_mut())?;
        let walk = self.calibration.as_ref().map(|calibration| {
            let (config, windows) = (self.checkpoint.config(), calibration.windows.part(self.workers));
            let walk = Walk::start(self.ops, config, &stem, &windows, plans.replay_alpha())?;
            Ok(walk.among(self.workers))
        });
        walk.transpose()
    }

    fn identity(&self) -> Result<Identity> {
        // Another number of workers adds in another order.
        let size = self.workers.size();
        let digest =
            |c: &Calibration| if size == 1 { c.digest() } else { format!("{} by {size}", c.digest()) };
        let calibration = self.calibration.as_ref().map(digest);
        Ok(Identity::new(self.recipe.hash(), self.checkpoint.fingerprint()?, calibration))
    }

    /// The stem as the finished model will have it.
    fn stem(&self, writer: Option<&mut Writer>) -> Result<Stem> {
        let tensors = || stem_tensors(self.checkpoint, self.recipe, self.threads);
        let stored = match writer {
            Some(writer) => {
                if !writer.finished().contains(&Part::Embedding) {
                    writer.put(Part::Embedding, &tensors()?, BTreeMap::new())?;
                }
                writer.read(Part::Embedding)?
            }
            None => tensors()?,
        };
        let mut stem = Stem::load(self.checkpoint)?;
        for (name, stored) in stored {
            if let Stored::Matrix(weight) = stored {
                stem.replace(self.checkpoint.config(), &name, weight);
            }
        }
        Ok(stem)
    }

    fn replay(&self, writer: &Writer, index: usize, walk: Option<&mut Walk<'_>>) -> Result<()> {
        if let Some(walk) = walk {
            let mut block = Block::load(self.checkpoint, index)?;
            restore(&mut block, self.checkpoint.config(), index, writer.read(Part::Block(index))?)?;
            walk.pass_through(&block);
        }
        Ok(())
    }

    fn block(&self, index: usize, plans: &Plans, walk: Option<&mut Walk<'_>>) -> Result<Finished> {
        let config = self.checkpoint.config();
        let mut block = Block::load(self.checkpoint, index)?;
        let mut receipts = Vec::new();
        let mut replace = |roles: &[Role], gram: Option<&Gram>, block: &mut Block| {
            let mut shared: Vec<Evidence> = Vec::new();
            if let Some(gram) = gram {
                permute::sort(block, (config, index), plans, (roles, gram))?;
            }
            for &role in roles {
                let name = role.name(config, index);
                let plan = plans.plan(&name);
                let evidence = gram.map(|gram| prepared(&mut shared, gram, plan));
                let compressed = self.linear(block, role, evidence, plan).map_err(|e| e.tensor(&name))?;
                receipts.push((name, compressed.receipt.clone()));
                if let Some(linear) = block.linear_mut(role) {
                    linear.weight = compressed.weight;
                }
            }
            Ok(())
        };
        match walk {
            Some(walk) => {
                walk.compress(&mut block, &mut |roles, gram, block| replace(roles, Some(&gram), block))?;
            }
            None => replace(&present(&block), None, &mut block)?,
        }
        Ok((block_tensors(self.checkpoint, index, block)?, receipts))
    }

    fn linear(
        &self,
        block: &Block,
        role: Role,
        evidence: Option<&Evidence>,
        plan: &TensorPlan,
    ) -> Result<Compressed> {
        let weight = &block.linear(role).ok_or_else(|| Error::defect("a role without a layer"))?.weight;
        if plan.method == Method::Keep {
            return Compressed::untouched(weight);
        }
        let data = weight.to_f32(Alpha::ONE);
        let weights = Weights { rows: weight.rows(), cols: weight.cols(), data: &data };
        compress_tensor(&weights, evidence, plan, self.threads)
    }

    fn extras(&self, shares: &[Share]) -> Result<Finish> {
        let mut recipe = self.recipe.to_json();
        if !shares.is_empty() {
            let named = shares.iter().map(|s| (s.unit.clone(), s.share.into()));
            recipe["allocation"]["shares"] = Value::Object(named.collect());
        }
        Ok(Finish {
            config: self.checkpoint.hf_config()?,
            files: self.checkpoint.text_files()?,
            recipe,
            seed: self.calibration.as_ref().map_or(0, |c| c.seed),
            run: Value::Null,
        })
    }
}

/// A receipt without what differs from run to run: the manifest is the same after a resumed run.
fn durable(receipt: &Receipt) -> Result<Value> {
    let mut value = serde_json::to_value(receipt)
        .map_err(|e| Error::new(Kind::NonFinite, format!("a receipt cannot be written: {e}")))?;
    if let Some(fields) = value.as_object_mut() {
        fields.remove("seconds");
    }
    Ok(value)
}

pub(super) fn prepared<'e>(shared: &'e mut Vec<Evidence>, gram: &Gram, plan: &TensorPlan) -> &'e Evidence {
    let wanted = (plan.damping, plan.order);
    let at = shared.iter().position(|e| (e.damping(), e.order()) == wanted).unwrap_or_else(|| {
        shared.push(Evidence::prepare(gram, plan.damping, plan.order));
        shared.len() - 1
    });
    &shared[at]
}

fn present(block: &Block) -> Vec<Role> {
    Role::ALL.into_iter().filter(|role| block.linear(*role).is_some()).collect()
}

/// The linears that every block of a model has.
pub(super) fn linear_roles(config: &Config) -> Vec<Role> {
    Role::ALL.into_iter().filter(|r| *r != Role::Gate || config.activation.gated()).collect()
}

/// Names of all linears that a recipe speaks about.
pub(super) fn linear_names(config: &Config) -> Vec<String> {
    let roles = linear_roles(config);
    (0..config.layers.len()).flat_map(|i| roles.iter().map(move |r| r.name(config, i))).collect()
}

/// Errors: a method under which a pruned linear would lose its mask without a word; `sorts` where units are sorted.
fn check_mask(method: Method, sorts: bool) -> Result<()> {
    match method {
        Method::Rtn | Method::Gptq => Err(Error::usage(
            "is pruned, and quantised it would be dense: its mask would be lost",
        )
        .next(
            "prune it again with kept = \"int8\" or \"int4\" in the recipe (--kept), which keeps holes; or \
                 make the model dense first: tamis export",
        )),
        Method::Keep if sorts => {
            Err(Error::usage("is pruned and left as it is, but sorted units would move under its mask")
                .next("leave permute out"))
        }
        Method::Keep | Method::Prune => Ok(()),
    }
}

/// The recipe, tensor by tensor.
pub(super) struct Plans {
    by_name: BTreeMap<String, TensorPlan>,
}

impl Plans {
    pub(super) fn resolve(checkpoint: &Checkpoint, recipe: &Recipe) -> Result<Self> {
        let names = linear_names(checkpoint.config());
        Ok(Self { by_name: recipe.resolve(&names)?.into_iter().collect() })
    }

    /// The plan of a linear, which must be one of the model's.
    pub(super) fn plan(&self, name: &str) -> &TensorPlan {
        &self.by_name[name]
    }

    /// The same, to be changed.
    pub(super) fn plan_mut(&mut self, name: &str) -> &mut TensorPlan {
        self.by_name.get_mut(name).expect("only linears of the model are asked for")
    }

    /// Bytes of all tensors of the finished model: codes, scales, ortho, and the rest as the recipe has it.
    pub(super) fn stored_bytes(&self, checkpoint: &Checkpoint, recipe: &Recipe) -> u64 {
        let tensors = checkpoint.tensors().tensors();
        let bits = |(name, info): (&String, &crate::load::TensorInfo)| {
            let weights: f64 = info.shape.iter().map(|n| *n as f64).product();
            let Some(plan) = name.strip_suffix(".weight").and_then(|n| self.by_name.get(n)) else {
                return weights * end_bits_per_weight(checkpoint, recipe, name);
            };
            if plan.method == Method::Keep && checkpoint.tensors().is_pruned(name) {
                return info.bytes as f64 * 8.0;
            }
            let cols = info.shape.last().copied().unwrap_or(1);
            weights * plan.bits_per_weight(cols)
        };
        (tensors.iter().map(bits).sum::<f64>() / 8.0) as u64
    }

    pub(super) fn needs_calibration(&self) -> bool {
        self.by_name.values().any(TensorPlan::needs_evidence)
    }

    pub(super) fn refits(&self) -> bool {
        self.by_name.values().any(|p| p.method == Method::Prune && p.pruning.update == Update::Refit)
    }

    /// Whether all weights of a linear are compared with each other.
    pub(super) fn compares_all(&self) -> bool {
        let all = |p: &TensorPlan| p.method == Method::Prune && p.pruning.pattern == Pattern::Matrix;
        self.by_name.values().any(all)
    }

    /// Errors: a linear that its pattern cannot cut; one that is pruned already and would lose its mask.
    fn check(&self, checkpoint: &Checkpoint) -> Result<()> {
        let source = checkpoint.tensors();
        let sorts = self.by_name.values().any(|p| p.method == Method::Prune && p.pruning.permute);
        for (name, plan) in &self.by_name {
            let tensor = format!("{name}.weight");
            let cols = source.tensors().get(&tensor).and_then(|info| info.shape.last().copied());
            if let (Method::Prune, Some(cols)) = (plan.method, cols) {
                plan.pruning.check_width(cols).map_err(|e| e.tensor(&tensor))?;
            }
            if source.is_pruned(&tensor) {
                check_mask(plan.method, sorts).map_err(|e| e.tensor(&tensor).file(checkpoint.path()))?;
            }
        }
        Ok(())
    }

    fn check_calibration(&self, given: bool) -> Result<()> {
        if given || !self.needs_calibration() {
            return Ok(());
        }
        Err(Error::usage("this recipe needs calibration text")
            .next("pass --calibration FILE (.txt or .jsonl)"))
    }

    /// A base-first stream leaves the base exactly as it would be without one, so finished blocks
    /// are replayed as base alone; a joint base is only right together with its stream.
    fn replay_alpha(&self) -> Alpha {
        let joint = self.by_name.values().any(|p| p.ortho == OrthoMode::Joint);
        if joint { Alpha::ONE } else { Alpha::ZERO }
    }
}
