//! A whole run of recovery: model, teacher and texts in; a mended model and its account out. Prints nothing.

use std::ops::ControlFlow;
use std::path::Path;

use serde_json::json;

use super::checkpoint::{self, FOLDER, Folder, Record, reported};
use super::curve::Curve;
use super::estimate::{Estimate, Known};
use super::parameters::Parameters;
use super::peft::{masters, write_adapter};
use super::plan::Plan;
use super::report::{Account, KeptAccount, Point};
use super::residual;
use super::save::{changed, save};
use super::settings::Settings;
use super::stages::{self, Place};
use super::student::{Arithmetic, Student, mean_loss};
use super::survey::Survey;
use super::teacher::{self, Teacher};
use super::trainable::{Method, prepare};
use super::trainer::{Ended, Progress, Texts, Trainer, violations};
use crate::artifact::{Existing, MANIFEST, Resume, WORK, check_free, discard};
use crate::disk::digest::sha256;
use crate::disk::{atomic, inside, list};
use crate::error::{Error, Kind, Result};
use crate::job::rewrite::Notes;
use crate::load::Checkpoint;
use crate::load::adapter::ADAPTER_CONFIG;
use crate::memory;
use crate::model::Decoder;
use crate::model::footprint::Sizes;
use crate::workers::{Alone, Workers};

/// Everything that a run needs.
#[derive(Debug)]
pub struct Run<'a> {
    /// Who takes part.
    pub workers: &'a dyn Workers,
    /// The model to mend.
    pub checkpoint: &'a Checkpoint,
    /// The dense model.
    pub teacher: Option<&'a Checkpoint>,
    /// Arithmetic.
    pub how: Arithmetic<'a>,
    /// Everything else that decides the bytes of the result.
    pub settings: &'a Settings,
    /// Texts.
    pub texts: &'a Texts,
    /// Folder to write.
    pub output: &'a Path,
    /// What to do with unfinished and finished work there.
    pub policy: (Resume, Existing),
    /// File in which what the teacher says is kept for other runs; none for a file of this run, where text comes
    /// again.
    pub teacher_cache: Option<&'a Path>,
}

/// Folder of a state that was kept, before its step.
const KEPT: &str = "best-";

/// Losses of the dense model on both texts.
#[derive(Debug, Clone, Copy, Default)]
struct Dense {
    valid: Option<f64>,
    also: Option<f64>,
}

/// What the watcher is told.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// Before anything is trained: memory, and the dense model's perplexity if there is one.
    Begin(&'a Estimate, Option<f64>),
    /// The model as it was given has been measured: its perplexity.
    Before(f64),
    /// A step.
    Step(Progress<'a>),
    /// A stage of a run in stages begins.
    Stage(Place),
    /// A block of a stage was pruned.
    Prune(&'a crate::job::Step),
}

/// Sees every event; `Break` ends the run with everything saved.
pub type Watch<'f> = dyn FnMut(Event<'_>) -> ControlFlow<()> + 'f;

/// Bytes of all weights.
fn stored(checkpoint: &Checkpoint) -> u64 {
    Sizes::of(checkpoint).all
}

impl Run<'_> {
    /// Memory that the run will take. Errors: what [`Run::carry_out`] would say before it begins.
    pub fn estimate(&self) -> Result<Estimate> {
        self.settings.check()?;
        self.check_output()?;
        self.planned()
    }

    pub(super) fn planned(&self) -> Result<Estimate> {
        self.survey(&self.decoders()?.0)
    }

    /// The estimate of training this.
    fn survey(&self, decoder: &Decoder) -> Result<Estimate> {
        let survey = Survey::of(decoder, &self.settings.spec)?;
        let known = Known { survey, teacher: self.teacher.map_or(0, stored), tokens: self.texts.tokens() };
        Ok(Estimate::of(decoder.config(), known, self.settings))
    }

    /// Carries out the run; only the first worker writes, and knows how what it wrote measures. Errors: those
    /// of training and of writing.
    pub fn carry_out(&self, watch: &mut Watch<'_>) -> Result<Account> {
        let identity = self.identified()?;
        if let Some(account) = self.reported(&identity)? {
            return Ok(account);
        }
        let account = self.train(&identity, watch)?;
        if self.workers.is_first() {
            Folder::create(self.output)?.finish(&identity, &account)?;
        }
        Ok(account)
    }

    /// What this run has reported, where it was killed after all but the end of its clean-up.
    fn reported(&self, identity: &str) -> Result<Option<Account>> {
        let mut bytes = Vec::new();
        if self.workers.is_first() && self.policy.0 == Resume::Auto {
            let account = reported(self.output, identity)?.filter(|_| is_finished(self.output));
            bytes = account.map_or(Ok(bytes), |account| serde_json::to_vec(&account)).map_err(unreadable)?;
        }
        self.workers.share_all(&mut bytes);
        if bytes.is_empty() { Ok(None) } else { serde_json::from_slice(&bytes).map(Some).map_err(unreadable) }
    }

    /// The same, and leaves the run's own folder in the output, from which the result can be written again.
    pub(crate) fn mend(&self, watch: &mut Watch<'_>) -> Result<Account> {
        self.train(&self.identified()?, watch)
    }

    /// The digest of everything that decides the bytes of the result. Errors: settings without meaning; workers of
    /// which it is not the same.
    fn identified(&self) -> Result<String> {
        self.settings.check()?;
        let identity = self.identity()?;
        self.check_workers(&identity)?;
        Ok(identity)
    }

    fn train(&self, identity: &str, watch: &mut Watch<'_>) -> Result<Account> {
        if self.workers.is_first() {
            self.check_output()?;
        }
        let (student, teacher, estimate) = self.load()?;
        if self.workers.is_first() && self.policy.0 == Resume::Never {
            self.clear()?;
        }
        let trained_parameters = student.parameters.count();
        let dense = self.dense(teacher.as_ref())?;
        let begun = watch(Event::Begin(&estimate, dense.valid.map(f64::exp)));
        if self.workers.agree(begun).is_break() {
            return Err(Error::new(Kind::Stopped, "stopped before the first step"));
        }
        let teacher = teacher.map(|decoder| self.teacher(decoder)).transpose()?;
        let Self { workers, how, settings, texts, .. } = *self;
        let trainer = Trainer { workers, how, settings, texts, student, teacher };
        let ended = trainer.run(self.output, identity, &mut |progress| {
            watch(if progress.step == 0 { Event::Before(progress.loss.exp()) } else { Event::Step(progress) })
        })?;
        let mut account = self.account(&ended, dense, trained_parameters);
        account.predicted_memory_bytes = estimate.peak;
        if !workers.is_first() {
            drop(ended); // and with it the teacher's file, which is about to be removed
            workers.meet();
            return Ok(account);
        }
        self.write(ended, identity.to_owned(), &mut account)?;
        workers.meet();
        Ok(account)
    }

    /// Workers with other inputs would each mend another model.
    fn check_workers(&self, identity: &str) -> Result<()> {
        let batch = self.settings.batch;
        self.workers.check_same(identity.as_bytes(), "model, text and settings")?;
        self.workers.check_busy(batch, &format!("a batch of {batch}"), "--batch")
    }

    /// Throws away what unfinished commands have left in the output folder.
    pub(super) fn clear(&self) -> Result<()> {
        checkpoint::discard(self.output)?;
        stages::discard(self.output)?;
        discard(self.output)
    }

    /// Refuses an output folder with something that is not to be replaced.
    pub(super) fn check_output(&self) -> Result<()> {
        let (resume, existing) = self.policy;
        let is_own = match checkpoint::publishing(self.output)? {
            Some(identity) => identity == self.identity()?.as_bytes(),
            None => false,
        };
        if !is_own {
            check_finished(self.output, existing)?;
        }
        if resume == Resume::Auto && stages::are_begun(self.output)? {
            return Err(Error::usage("the folder holds an unfinished run in stages").file(self.output).next(
                "give its command again, choose another output folder, or discard it: --resume never",
            ));
        }
        if self.settings.spec.method != Method::Lora {
            self.checkpoint.check_carried()?;
        }
        if self.settings.spec.method != Method::Lora && !self.output.join(FOLDER).exists() {
            check_free(self.output, self.policy)?;
        }
        self.check_cache()
    }

    /// Both models, and what training them will take, before it is taken. Errors: [`Kind::Memory`](crate::Kind::Memory).
    fn load(&self) -> Result<(Student, Option<Decoder>, Estimate)> {
        let (decoder, teacher) = self.decoders()?;
        let estimate = self.survey(&decoder)?;
        estimate.plan().check()?;
        let mut student = prepare(decoder, &self.settings.spec)?;
        if let Some(dense) = teacher.as_ref().filter(|_| self.settings.residual) {
            residual::start(&mut student, dense, self.settings.seed)?;
        }
        student.refresh(self.how)?;
        Ok((student, teacher, estimate))
    }

    /// Both models as they are given.
    fn decoders(&self) -> Result<(Decoder, Option<Decoder>)> {
        let ops = self.how.ops;
        let largest = self.texts.train.largest() as usize;
        let vocab = self.checkpoint.config().vocab;
        if largest >= vocab {
            return Err(Error::bad_data(format!("token {largest} is not in a vocabulary of {vocab}"))
                .next("the tokenizer is not that of the model: fetch both again"));
        }
        let losses = self.settings.losses;
        match self.teacher {
            Some(teacher) if teacher.config().vocab != vocab => {
                let theirs = teacher.config().vocab;
                return Err(Error::usage(format!("the teacher has {theirs} tokens and the model {vocab}"))
                    .next("use the dense model that this one was made from"));
            }
            Some(teacher) => self.check_shape(teacher)?,
            None if losses.feature > 0.0 || losses.distillation > 0.0 => {
                return Err(Error::usage("outputs can be compared only with those of a dense model")
                    .next("pass --teacher MODEL, or leave --distill and --feature out"));
            }
            None if self.settings.residual => {
                return Err(Error::usage("adapters can begin as the residual only against a dense model")
                    .next("pass --teacher MODEL"));
            }
            None => {}
        }
        let bytes = stored(self.checkpoint) + self.teacher.map_or(0, stored);
        let smaller = "use a smaller model, or a machine with more memory";
        memory::Plan { what: "loading the models", bytes, smaller }.check_more()?;
        let student = Decoder::load(self.checkpoint, ops)?;
        Ok((student, self.teacher.map(|teacher| Decoder::load(teacher, ops)).transpose()?))
    }

    /// Blocks can be compared only where there are as many, of the same width.
    fn check_shape(&self, teacher: &Checkpoint) -> Result<()> {
        let shape = |c: &Checkpoint| (c.config().layers.len(), c.config().hidden);
        let (ours, theirs) = (shape(self.checkpoint), shape(teacher));
        let compared = self.settings.losses.feature > 0.0 || self.settings.residual;
        if compared && ours != theirs {
            let problem = format!("{ours:?} blocks and numbers a token, and the teacher has {theirs:?}");
            return Err(Error::usage(problem)
                .next("use the model's own dense original, or neither --feature nor --residual"));
        }
        Ok(())
    }

    fn teacher(&self, decoder: Decoder) -> Result<Teacher> {
        let losses = self.settings.losses;
        let mut teacher = Teacher::new(decoder, (losses.top, losses.temperature));
        if let Some((path, identity)) = self.cache()? {
            teacher.keep(path, &identity)?;
        }
        Ok(teacher)
    }

    /// Refuses a file of what a teacher said that is not about this one.
    pub(super) fn check_cache(&self) -> Result<()> {
        self.cache()?.map_or(Ok(()), |(path, identity)| teacher::open(path, &identity).map(drop))
    }

    /// The file that was asked for, and the digest of what decides what is in it.
    fn cache(&self) -> Result<Option<(&Path, String)>> {
        let (Some(path), Some(checkpoint)) = (self.teacher_cache, self.teacher) else { return Ok(None) };
        let losses = self.settings.losses;
        let all = json!({
            "teacher": checkpoint.digest()?,
            "train": self.texts.train.digest(),
            "top": losses.top,
            "temperature": losses.temperature,
            "cache": format!("{:?}", self.how.cache),
            "version": env!("CARGO_PKG_VERSION"),
        });
        Ok(Some((path, sha256(all.to_string().as_bytes()))))
    }

    /// Of the first worker alone.
    fn mean(&self, decoder: &Decoder, windows: &[u32]) -> Result<f64> {
        mean_loss(self.how, &Alone, decoder, (windows, self.settings.length))
    }

    fn dense(&self, teacher: Option<&Decoder>) -> Result<Dense> {
        let Some(teacher) = teacher else { return Ok(Dense::default()) };
        let mean =
            |windows: &[u32]| mean_loss(self.how, self.workers, teacher, (windows, self.settings.length));
        let also = self.texts.also.as_deref().map(mean).transpose()?;
        Ok(Dense { valid: Some(mean(&self.texts.valid)?), also })
    }

    pub(super) fn identity(&self) -> Result<String> {
        let teacher = self.teacher.map(Checkpoint::fingerprint).transpose()?;
        let ids = |tokens: &[u32]| sha256(&tokens.iter().flat_map(|t| t.to_le_bytes()).collect::<Vec<u8>>());
        let all = json!({
            "settings": self.settings,
            "model": self.checkpoint.fingerprint()?,
            "teacher": teacher,
            "train": self.texts.train.digest(),
            "valid": ids(&self.texts.valid),
            "also": self.texts.also.as_deref().map(ids),
            "version": env!("CARGO_PKG_VERSION"),
        });
        Ok(sha256(all.to_string().as_bytes()))
    }

    fn account(&self, ended: &Ended, dense: Dense, trained_parameters: usize) -> Account {
        let history = &ended.record.history;
        let (first, last) = (&history[0], &history[history.len() - 1]);
        let best = history.iter().min_by(|a, b| a.valid.total_cmp(&b.valid)).unwrap_or(first);
        let tokens = (ended.record.step * self.settings.batch * self.settings.length) as u64;
        let dense_perplexity = dense.valid.map(f64::exp);
        let also = |p: &Point| p.also.map(f64::exp);
        Account {
            dense_perplexity,
            dense_also: dense.also.map(f64::exp),
            before: first.perplexity(),
            after: last.perplexity(),
            best: best.perplexity(),
            best_step: best.step,
            saved: best.perplexity(),
            also: also(first).zip(also(last)).zip(also(best)).map(|((a, b), c)| [a, b, c]),
            recovered_fraction: Account::fraction(first.perplexity(), best.perplexity(), dense_perplexity),
            trend_percent: 100.0 * (best.perplexity() / first.perplexity() - 1.0),
            gap: dense_perplexity.map(|dense| best.perplexity() - dense),
            steps: ended.record.step,
            tokens,
            tokens_per_second: tokens as f64 / last.seconds.max(1e-9),
            peak_memory_bytes: 0,
            begin_memory_bytes: 0,
            predicted_memory_bytes: 0,
            mask_violations: violations(&ended.student),
            skipped_steps: ended.record.skipped / self.settings.batch,
            trained_parameters,
            stages: vec![],
            kept: vec![],
            history: history.clone(),
        }
    }

    /// Removes what an earlier run kept beside its best.
    fn remove_others(&self) -> Result<()> {
        for path in list(self.output)? {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let is_step = name.strip_prefix(KEPT).is_some_and(|step| step.parse::<usize>().is_ok());
            let ours = || [MANIFEST, ADAPTER_CONFIG, WORK].iter().any(|name| path.join(name).exists());
            if is_step && ours() {
                atomic::remove_folder(self.output, name, MANIFEST)?;
            }
        }
        Ok(())
    }

    /// Writes the states that were kept beside the best, each as a folder of its own.
    fn write_others(
        &self,
        (plan, parameters): (&Plan, &mut Parameters),
        record: &Record,
        identity: &str,
    ) -> Result<Vec<KeptAccount>> {
        let work = Folder::create(self.output)?;
        self.remove_others()?;
        let mut others = Vec::new();
        for (place, kept) in record.kept().iter().enumerate().skip(1) {
            work.restore_kept(parameters, record, place)?;
            let folder = format!("{KEPT}{:07}", kept.step);
            let place = inside(self.output, &folder)?;
            let recipe = json!({ "recover": self.settings, "step": kept.step });
            let notes = Notes { identity: identity.to_owned(), recipe, seed: self.settings.seed };
            self.write_trained((plan, parameters), &place, notes)?;
            others.push(KeptAccount { step: kept.step, perplexity: kept.valid.exp(), folder });
        }
        if !others.is_empty() {
            work.restore_kept(parameters, record, 0)?;
        }
        Ok(others)
    }

    /// Writes what was trained: a model, or an adapter.
    fn write_trained(&self, trained: (&Plan, &Parameters), output: &Path, notes: Notes) -> Result<()> {
        let config = self.checkpoint.config();
        if self.settings.spec.method != Method::Lora {
            return save(self.checkpoint, &changed(config, self.how.ops, trained), output, notes);
        }
        let base = self.checkpoint.path().to_string_lossy();
        write_adapter(output, &self.settings.spec.lora, &base, &masters(config, trained))
    }

    /// Writes the result, reads it again and measures what was written.
    fn write(&self, ended: Ended, identity: String, account: &mut Account) -> Result<()> {
        Folder::create(self.output)?.publish(&identity)?;
        let Ended { student, record, teacher } = ended;
        let Student { decoder, mut parameters, plan } = student;
        drop((teacher, decoder));
        parameters.finish();
        account.kept = self.write_others((&plan, &mut parameters), &record, &identity)?;
        let perplexity = Curve::of(&account.history, account.dense_perplexity).svg();
        atomic::write(&self.output.join("curve.svg"), perplexity.as_bytes())?;
        let notes = Notes { identity, recipe: json!({ "recover": self.settings }), seed: self.settings.seed };
        self.write_trained((&plan, &parameters), self.output, notes)?;
        if self.settings.spec.method == Method::Lora {
            // Its masters are written as they are, so what was measured last is what is read.
            return Ok(());
        }
        drop((plan, parameters));
        let written = Checkpoint::open(&self.output.to_string_lossy())?;
        let decoder = Decoder::load(&written, self.how.ops)?;
        account.saved = self.mean(&decoder, &self.texts.valid)?.exp();
        if let (Some(windows), Some(also)) = (&self.texts.also, &mut account.also) {
            also[2] = self.mean(&decoder, windows)?.exp();
        }
        account.recovered_fraction =
            Account::fraction(account.before, account.saved, account.dense_perplexity);
        account.trend_percent = 100.0 * (account.saved / account.before - 1.0);
        account.gap = account.dense_perplexity.map(|dense| account.saved - dense);
        Ok(())
    }
}

/// Refuses a folder with a complete model or adapter in it, unless that may be replaced.
pub(crate) fn check_finished(output: &Path, existing: Existing) -> Result<()> {
    if existing == Existing::Refuse && is_finished(output) {
        return Err(Error::usage("the folder already holds a complete model")
            .file(output)
            .next("`--overwrite` replaces it; another output folder keeps it"));
    }
    Ok(())
}

/// Whether a complete model or adapter is there.
pub(crate) fn is_finished(output: &Path) -> bool {
    [MANIFEST, ADAPTER_CONFIG].iter().any(|name| output.join(name).exists())
}

fn unreadable(e: serde_json::Error) -> Error {
    Error::new(Kind::NonFinite, format!("the account cannot be written: {e}"))
}
