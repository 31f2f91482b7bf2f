//! Pruning in stages with training between: every stage leaves out more weights of what the last one mended, and
//! mends it again, with the dense model as the teacher throughout. Prints nothing.
//!
//! Gradual pruning: Zhu 2017, arXiv 1710.01878; layer-wise pruning between trainings: Kurtic 2023, arXiv 2310.06927.
//!
//! ```text
//! OUT/.stages/plan.json         digest of everything that decides the bytes
//!             teacher.bin       what the teacher said, for all stages
//!             2/pruned          from 1/mended; goes when 2 is done
//!             2/mended          an ordinary run of recovery; goes when 3 is pruned
//!             2/metrics.jsonl   its numbers
//!             2/account.json    written last: the stage is done
//! ```

use std::path::{Path, PathBuf};

use serde_json::json;

use super::checkpoint;
use super::curve::Curve;
use super::estimate::Estimate;
use super::log;
use super::parameters::Parameters;
use super::report::Account;
use super::run::{Event, Run, Watch, is_finished};
use super::save::copy;
use super::settings::Settings;
use super::trainable::Method;
use crate::artifact::{Existing, MANIFEST, Resume};
use crate::compress::Threads;
use crate::disk::digest::sha256;
use crate::disk::{self, RunFolder, atomic, create_folder, inside, read_small, read_text};
use crate::error::{Error, Kind, Result};
use crate::job::rewrite::Notes;
use crate::job::{self, Calibration, Job};
use crate::load::Checkpoint;
use crate::model::block::Role;
use crate::ops::Ops;
use crate::recipe::Recipe;
use crate::units::Sparsity;
use crate::workers::Alone;

/// Name of the folder inside the output folder.
pub const FOLDER: &str = ".stages";
const PLAN: &str = "plan.json";
const ACCOUNT: &str = "account.json";
const PRUNED: &str = "pruned";
const MENDED: &str = "mended";
/// Longest file of a run that is read.
const LIMIT: u64 = 1 << 30;

/// How every stage leaves out weights.
#[derive(Debug, Clone)]
pub struct Pruning<'a> {
    /// What to do; each stage sets its share of zeros.
    pub recipe: &'a Recipe,
    /// Text that decides what goes; the same for all stages.
    pub calibration: Option<Calibration>,
    /// Arithmetic of the calibration.
    pub ops: &'a dyn Ops,
    /// Threads of the pruning itself.
    pub threads: Threads,
}

/// A run in stages.
#[derive(Debug)]
pub struct Stages<'a> {
    /// The whole run: `checkpoint` is the dense model, `steps` and `warmup` are those of all stages together.
    pub run: Run<'a>,
    /// How every stage prunes.
    pub pruning: Pruning<'a>,
    /// Share of zeros after each stage, rising.
    pub sparsities: Vec<Sparsity>,
}

/// Which stage a run is in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    /// Counted from 1.
    pub number: usize,
    /// Stages in all.
    pub count: usize,
    /// Share of zeros of this one.
    pub sparsity: Sparsity,
}

/// Shares of zeros of `count` stages by the cubic schedule: `s_t = s_f + (s_i - s_f) (1 - t / n)^3`, from `first`
/// on, or from the stage after a dense model. Errors: no stage, or one alone that has to begin at `first`.
pub fn cubic(first: Option<f64>, last: f64, count: usize) -> Result<Vec<f64>> {
    let from = usize::from(first.is_none());
    if count + from < 2 {
        return Err(Error::usage(format!("{count} stages do not lead from one share of zeros to another"))
            .next("give --cubic more stages"));
    }
    let steps = (count - 1 + from) as f64;
    let share = |t: usize| last + (first.unwrap_or(0.0) - last) * (1.0 - t as f64 / steps).powi(3);
    Ok((from..count + from).map(share).collect())
}

impl Stages<'_> {
    /// Refuses what has no meaning.
    fn check(&self) -> Result<()> {
        let shares: Vec<f64> = self.sparsities.iter().map(|s| s.get()).collect();
        if shares.is_empty() || shares[0] <= 0.0 || !shares.is_sorted_by(|a, b| a < b) {
            return Err(Error::usage(format!(
                "shares of zeros must rise from stage to stage, not {shares:?}"
            ))
            .next("try --stages 0.5,0.7,0.8"));
        }
        if !matches!(self.run.settings.spec.method, Method::Masked | Method::MaskLora) {
            return Err(Error::usage("only the methods masked and masklora keep the zeros of a stage")
                .next("try --method masked"));
        }
        if self.run.settings.steps <= shares.len() {
            let problem = format!("{} steps for {} stages", self.run.settings.steps, shares.len());
            return Err(Error::usage(problem).next("give at least one step more than there are stages"));
        }
        if self.run.settings.keep > 1 {
            return Err(Error::usage("a run in stages has one result").next("leave out --keep-best"));
        }
        if self.run.workers.size() > 1 {
            return Err(Error::usage("a run in stages is not shared between processes")
                .next("start it without mpirun, or prune and recover stage by stage"));
        }
        for index in 0..shares.len() {
            self.job(self.run.checkpoint, &self.recipe(index)?, self.run.output).check()?;
        }
        self.run.settings.check()
    }

    /// Settings of stage `index`: every stage takes one part of the steps and the last one two; each goes on in the
    /// text where the one before it stopped.
    pub fn settings(&self, index: usize) -> Settings {
        let (whole, count) = (self.run.settings, self.sparsities.len());
        let part = whole.steps / (count + 1);
        let before = index * part;
        let steps = if index + 1 == count { whole.steps - before } else { part };
        let mut settings =
            Settings { steps, every: whole.every.min(steps), skip: before * whole.batch, ..whole.clone() };
        settings.optimiser.warmup = whole.optimiser.warmup * steps / whole.steps;
        settings
    }

    /// Memory of training, at most as much as with the zeros of the first stage, and of pruning.
    pub fn estimate(&self) -> Result<(Estimate, job::Estimate)> {
        self.check()?;
        self.check_output()?;
        let recipe = self.recipe(0)?;
        let pruning = job::Estimate::of(&self.job(self.run.checkpoint, &recipe, self.run.output))?;
        let tensors = self.run.checkpoint.tensors();
        if tensors.tensors().keys().any(|name| tensors.is_pruned(name)) {
            return Ok((self.run.planned()?, pruning));
        }
        // A dense model has no masks, so all its linears are counted, and then what the first stage keeps of them.
        let mut settings = self.run.settings.clone();
        let masked = settings.spec.method == Method::Masked;
        settings.spec.method = if masked { Method::Full } else { Method::Lora };
        let mut estimate = Run { settings: &settings, ..self.run }.planned()?;
        let density = 1.0 - self.sparsities[0].get();
        if masked {
            let linears = Parameters::bytes(self.weights(|_| true));
            let left_out = linears - (linears as f64 * density) as u64;
            estimate.optimiser -= left_out;
            estimate.peak -= left_out;
        } else {
            let base = 4.0 * self.weights(|name| settings.spec.lora.matches(name)) as f64 * density;
            estimate.base = base as u64;
            estimate.peak += estimate.base;
        }
        Ok((estimate, pruning))
    }

    /// Weights of the decoder's linears of which `counts` holds.
    fn weights(&self, counts: impl Fn(&str) -> bool) -> usize {
        let config = self.run.checkpoint.config();
        let of = |index, role: &Role| {
            let (rows, cols) = role.shape(config);
            if role.is_in(config) && counts(&role.name(config, index)) { rows * cols } else { 0 }
        };
        (0..config.layers.len())
            .map(|index| Role::ALL.iter().map(|role| of(index, role)).sum::<usize>())
            .sum()
    }

    /// Carries out all stages. Errors: [`Kind::Stopped`] when the watcher asked for it; those of pruning, of
    /// training and of writing.
    pub fn carry_out(&self, watch: &mut Watch<'_>) -> Result<Account> {
        self.check()?;
        self.run.check_cache()?;
        let (training, pruning) = self.estimate()?;
        training.plan().check()?;
        pruning.plan().check()?;
        let identity = self.identity()?;
        if self.run.policy.0 == Resume::Auto {
            let reported = disk::finished(self.run.output, (FOLDER, PLAN), &identity)?;
            if let Some(account) = reported.filter(|_| is_finished(self.run.output)) {
                return Ok(account);
            }
        }
        let work = self.begin(&identity)?;
        let mut accounts = Vec::new();
        for index in 0..self.sparsities.len() {
            let folder = self.folder(index)?;
            let account = match account(&folder)? {
                Some(account) => account,
                None => self.stage(index, watch)?,
            };
            atomic::remove_folder(&folder, PRUNED, MANIFEST)?;
            accounts.push(account);
        }
        let account = self.join(&accounts)?;
        self.publish(identity.clone(), &account)?;
        work.report(&identity, &account)?;
        work.remove(PLAN)?;
        Ok(account)
    }

    fn work(&self) -> Result<PathBuf> {
        inside(self.run.output, FOLDER)
    }

    fn folder(&self, index: usize) -> Result<PathBuf> {
        inside(&self.work()?, &(index + 1).to_string())
    }

    /// What stage `index` has mended.
    fn mended(&self, index: usize) -> Result<Checkpoint> {
        Checkpoint::open(&inside(&self.folder(index)?, MENDED)?.to_string_lossy())
    }

    /// Refuses an output folder with something that is not to be replaced.
    fn check_output(&self) -> Result<()> {
        let goes_on = self.run.policy.0 == Resume::Auto;
        if goes_on && inside(self.run.output, checkpoint::FOLDER)?.exists() {
            return Err(Error::usage("the folder holds an unfinished run without stages")
                .file(self.run.output)
                .next(
                    "give its command again, choose another output folder, or discard it: --resume never",
                ));
        }
        if goes_on && are_begun(self.run.output)? {
            // A finished model there is this run's own, which was killed before it removed its stages.
            return Ok(());
        }
        self.run.check_output()
    }

    /// Takes over what an earlier run of the same identity left, or begins a new one.
    fn begin(&self, identity: &str) -> Result<RunFolder> {
        self.check_output()?;
        if self.run.policy.0 == Resume::Never {
            self.run.clear()?;
        }
        let work = RunFolder::create(self.run.output, FOLDER)?;
        let plan = work.entry(PLAN)?;
        if !plan.exists() {
            // What a removal that was killed has left is nobody's.
            work.clear(PLAN)?;
            atomic::write(&plan, identity.as_bytes())?;
        } else if read_small(&plan, LIMIT)? != identity.as_bytes() {
            let problem = "this folder holds an unfinished run in stages with other settings, model or text";
            return Err(Error::usage(problem)
                .file(self.run.output)
                .next("give the same command again, another output folder, or --resume never"));
        }
        Ok(work)
    }

    fn identity(&self) -> Result<String> {
        let shares: Vec<f64> = self.sparsities.iter().map(|s| s.get()).collect();
        let calibration = self.pruning.calibration.as_ref().map(Calibration::digest);
        let all = json!({
            "run": self.run.identity()?,
            "sparsities": shares,
            "recipe": self.pruning.recipe.hash(),
            "calibration": calibration,
        });
        Ok(sha256(all.to_string().as_bytes()))
    }

    fn recipe(&self, index: usize) -> Result<Recipe> {
        let mut recipe = self.pruning.recipe.clone();
        recipe.leave_out(self.sparsities[index])?;
        Ok(recipe)
    }

    fn job<'b>(&'b self, checkpoint: &'b Checkpoint, recipe: &'b Recipe, output: &'b Path) -> Job<'b> {
        let Pruning { ref calibration, ops, threads, .. } = self.pruning;
        let (calibration, policy) = (calibration.clone(), (Resume::Auto, Existing::Refuse));
        Job { checkpoint, recipe, calibration, ops, threads, workers: &Alone, output, policy }
    }

    /// Prunes and mends, each from where it was left.
    fn stage(&self, index: usize, watch: &mut Watch<'_>) -> Result<Account> {
        let (count, sparsity) = (self.sparsities.len(), self.sparsities[index]);
        if watch(Event::Stage(Place { number: index + 1, count, sparsity })).is_break() {
            return Err(Error::new(Kind::Stopped, format!("stopped before stage {}", index + 1))
                .next("give the same command again to go on"));
        }
        let folder = self.folder(index)?;
        create_folder(&folder)?;
        let (pruned, mended) = (inside(&folder, PRUNED)?, inside(&folder, MENDED)?);
        if !pruned.join(MANIFEST).exists() {
            self.prune(index, &pruned, watch)?;
        }
        if index > 0 {
            atomic::remove_folder(&self.folder(index - 1)?, MENDED, MANIFEST)?;
        }
        let settings = self.settings(index);
        let cache = inside(&self.work()?, "teacher.bin")?;
        let whole = self.run.settings.steps * self.run.settings.batch;
        let come_again = whole > self.run.texts.train.count();
        let checkpoint = Checkpoint::open(&pruned.to_string_lossy())?;
        let run = Run {
            checkpoint: &checkpoint,
            settings: &settings,
            output: &mended,
            // A model without its account was written by a run that was killed before it wrote that.
            policy: (Resume::Auto, Existing::Overwrite),
            teacher_cache: self.run.teacher_cache.or(come_again.then_some(&*cache)),
            ..self.run
        };
        let account = run.mend(watch)?;
        let lines = read_text(&inside(&mended, log::METRICS)?, LIMIT)?;
        atomic::write(&inside(&folder, log::METRICS)?, lines.as_bytes())?;
        let bytes = serde_json::to_vec_pretty(&account)
            .map_err(|e| Error::new(Kind::NonFinite, format!("the account cannot be written: {e}")))?;
        atomic::write(&inside(&folder, ACCOUNT)?, &bytes)?;
        Ok(account)
    }

    /// Leaves out the share of stage `index` of what the stage before it mended.
    fn prune(&self, index: usize, output: &Path, watch: &mut Watch<'_>) -> Result<()> {
        let recipe = self.recipe(index)?;
        let last = index.checked_sub(1).map(|last| self.mended(last)).transpose()?;
        let checkpoint = last.as_ref().unwrap_or(self.run.checkpoint);
        self.job(checkpoint, &recipe, output).run(&mut |step| watch(Event::Prune(step)))?;
        Ok(())
    }

    /// The account of the whole. What is measured of the result, `before` among it, is that of the last stage, whose
    /// zeros it has; steps, tokens and history are those of all.
    fn join(&self, accounts: &[Account]) -> Result<Account> {
        let last = accounts.last().ok_or_else(|| Error::defect("a run in stages without a stage"))?;
        let mut whole = Account { steps: 0, tokens: 0, skipped_steps: 0, ..last.clone() };
        let recipe = self.recipe(0)?;
        let pruning = job::Estimate::of(&self.job(self.run.checkpoint, &recipe, self.run.output))?;
        whole.predicted_memory_bytes = pruning.peak;
        whole.history.clear();
        let mut seconds = 0.0;
        for (account, sparsity) in accounts.iter().zip(&self.sparsities) {
            whole.best_step = whole.steps + account.best_step;
            let shifted = account.history.iter().map(|p| p.after(whole.steps, seconds));
            whole.history.extend(shifted);
            whole.stages.push(account.stage(sparsity.get()));
            whole.steps += account.steps;
            whole.tokens += account.tokens;
            whole.skipped_steps += account.skipped_steps;
            whole.predicted_memory_bytes = whole.predicted_memory_bytes.max(account.predicted_memory_bytes);
            seconds += account.history.last().map_or(0.0, |p| p.seconds);
        }
        whole.tokens_per_second = whole.tokens as f64 / seconds.max(1e-9);
        Ok(whole)
    }

    /// Writes what the last stage mended as the result. May be done twice.
    fn publish(&self, identity: String, account: &Account) -> Result<()> {
        let count = self.sparsities.len();
        let mended = self.mended(count - 1)?;
        let curve = Curve::of(&account.history, account.dense_perplexity).svg();
        let steps = account.stages.iter().map(|stage| stage.steps);
        let metrics = |(index, steps)| Ok((inside(&self.folder(index)?, log::METRICS)?, steps));
        log::join(self.run.output, &(0..count).zip(steps).map(metrics).collect::<Result<Vec<_>>>()?)?;
        atomic::write(&self.run.output.join("curve.svg"), curve.as_bytes())?;
        let recipe = json!({ "recover": self.run.settings, "stages": account.stages, "prune": self.recipe(count - 1)?.to_json() });
        let notes = Notes { identity, recipe, seed: self.run.settings.seed };
        copy(&mended, self.run.output, notes)
    }
}

/// Whether a run in stages has begun in `output`.
pub(super) fn are_begun(output: &Path) -> Result<bool> {
    Ok(inside(output, FOLDER)?.join(PLAN).exists())
}

/// Throws away what an unfinished run in stages has left in `output`.
pub(super) fn discard(output: &Path) -> Result<()> {
    disk::discard(output, FOLDER, PLAN)
}

/// The account of a stage that is done.
fn account(folder: &Path) -> Result<Option<Account>> {
    let path = inside(folder, ACCOUNT)?;
    if !path.exists() {
        return Ok(None);
    }
    let bytes = read_small(&path, LIMIT)?;
    serde_json::from_slice(&bytes).map(Some).map_err(|e| {
        Error::bad_data(format!("not the account of a stage: {e}"))
            .file(&path)
            .next("--resume never begins anew")
    })
}
