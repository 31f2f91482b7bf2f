//! The loop: batch, gradients, step, and every so often validation, assertion of the masks, and a save. Knows
//! no files but its own folder, and prints nothing.
//!
//! Many workers share each step: every one learns from its part of the batch, the gradients are summed, and
//! each steps its own copy of the masters, to the same bits. Every decision is made from numbers that all have:
//! sums, or what the first one read. The first one alone writes.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use super::books::Books;
use super::checkpoint::Record;
use super::crown::{Goal, Losses};
use super::feature::Features;
use super::gradient::Dropout;
use super::report::Point;
use super::sequences::{Order, Sequences};
use super::settings::Settings;
use super::student::{Arithmetic, Batch, Student, mean_loss};
use super::teacher::{Said, Teacher};
use crate::disk::inside;
use crate::error::{Error, Kind, Result};
use crate::model::block::Role;
use crate::units::Alpha;
use crate::workers::Workers;

/// Times that numbers may cease to be finite before the run gives up.
const TRIES: usize = 4;

/// What is learnt from and what is measured on.
#[derive(Debug)]
pub struct Texts {
    /// Training text.
    pub train: Sequences,
    /// Whole windows of the validation text.
    pub valid: Vec<u32>,
    /// Of a second text, which nothing is chosen by.
    pub also: Option<Vec<u32>>,
}

impl Texts {
    /// Tokens of all of them.
    pub fn tokens(&self) -> usize {
        self.train.tokens() + self.valid.len() + self.also.as_ref().map_or(0, Vec::len)
    }
}

/// Where a run stands.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// Steps done.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
    /// Loss of the last step.
    pub loss: f64,
    /// The last validation.
    pub point: Option<&'a Point>,
}

/// Sees the first validation as step 0, and every step; `Break` finishes it, saves, and ends the run.
pub type Watch<'f> = dyn FnMut(Progress<'_>) -> ControlFlow<()> + 'f;

/// A training run.
#[derive(Debug)]
pub struct Trainer<'a> {
    /// Who takes part.
    pub workers: &'a dyn Workers,
    /// Arithmetic.
    pub how: Arithmetic<'a>,
    /// Everything that decides its bytes.
    pub settings: &'a Settings,
    /// Texts.
    pub texts: &'a Texts,
    /// What is trained.
    pub student: Student,
    /// The dense teacher.
    pub teacher: Option<Teacher>,
}

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    /// The student with the masters of the best validation.
    pub student: Student,
    /// The teacher.
    pub teacher: Option<Teacher>,
    /// Steps, history and the like.
    pub record: Record,
}

/// What a step did.
struct Stepped {
    losses: Losses,
    rate: f64,
    grad_norm: f64,
}

/// Sums since the last validation.
#[derive(Default)]
struct Since {
    losses: Losses,
    steps: usize,
    time: Duration,
}

impl<'a> Trainer<'a> {
    /// Trains until the last step, or until nothing gets better. `output` holds the folder of the run and its
    /// metrics. Errors: [`Kind::Stopped`] when the watcher asked for it; [`Kind::NonFinite`] after too many
    /// steps without finite numbers; those of writing.
    pub fn run(mut self, output: &Path, identity: &str, watch: &mut Watch<'_>) -> Result<Ended> {
        self.settings.check()?;
        let mut books = Books::create(output, self.workers)?;
        let mut record = match books.record(identity)? {
            Some(record) => {
                record.check(self.settings).map_err(|e| e.or_file(books.path()))?;
                books.restore(&mut self.student.parameters, &record)?;
                record
            }
            None => Record::new(identity.into()),
        };
        let Settings { skip, steps, batch, .. } = *self.settings;
        let come_again = skip + steps * batch > self.texts.train.count();
        // The first worker has made the folder; where another does not see it, it asks the teacher every time.
        let keeps = |teacher: &&mut Teacher| come_again && !teacher.keeps() && books.path().is_dir();
        if let Some(teacher) = self.teacher.as_mut().filter(keeps) {
            teacher.keep(&inside(books.path(), "teacher.bin")?, identity)?;
        }
        self.student.refresh(self.how)?;
        books.open_log(output, (!record.history.is_empty()).then_some(record.step))?;
        if record.history.is_empty() {
            if !self.validate(&mut books, &mut record, (None, Since::default()))? {
                return Err(Error::new(
                    Kind::NonFinite,
                    "the model's loss is not finite before any training",
                )
                .next("check the model with tamis eval"));
            }
            let (steps, point) = (self.settings.steps, &record.history[0]);
            let begin = Progress { step: 0, steps, loss: point.valid, point: Some(point) };
            if self.workers.agree(watch(begin)).is_break() {
                return Err(stopped(0, &books));
            }
        }
        self.steps(&mut books, &mut record, watch)?;
        books.restore_best(&mut self.student.parameters, &record)?;
        self.student.refresh(self.how)?;
        Ok(Ended { student: self.student, teacher: self.teacher, record })
    }

    fn steps(&mut self, books: &mut Books<'a>, record: &mut Record, watch: &mut Watch<'_>) -> Result<()> {
        let steps = self.settings.steps;
        let (mut since, mut failures) = (Since::default(), 0);
        let mut order = self.texts.train.order(self.settings.seed);
        self.how.ops.buffers().release();
        while record.step < steps && !self.is_stale(record) {
            let started = Instant::now();
            let stepped = self.step(record, &mut order)?;
            // The step counts, whatever became of it: `retreat` passes over it.
            record.step += 1;
            let Some(stepped) = stepped else {
                failures += 1;
                self.retreat(books, record, failures)?;
                since = Since::default();
                continue;
            };
            since.time += started.elapsed();
            since.steps += 1;
            since.losses += stepped.losses;
            let mean = stepped.losses.next_token / self.rows() as f64;
            books.step(record.step, &stepped.losses, self.rows(), (stepped.rate, stepped.grad_norm))?;
            let due = record.step.is_multiple_of(self.settings.every) || record.step == steps;
            let mut told = |record: &Record| {
                watch(Progress { step: record.step, steps, loss: mean, point: record.history.last() })
            };
            let mut stop = self.workers.agree(told(record)).is_break();
            if due || stop {
                if !self.validate(books, record, (Some(&stepped), std::mem::take(&mut since)))? {
                    failures += 1;
                    self.retreat(books, record, failures)?;
                }
                // Nobody comes back from here before the first has saved.
                stop |= self.workers.agree(told(record)).is_break();
            }
            if stop && record.step < steps {
                return Err(stopped(record.step, books));
            }
        }
        Ok(())
    }

    fn is_stale(&self, record: &Record) -> bool {
        self.settings.patience.is_some_and(|patience| record.stale >= patience)
    }

    /// Tokens that a step learns from.
    fn rows(&self) -> usize {
        self.settings.batch * self.settings.length
    }

    /// One step; nothing where loss or gradients are not finite.
    fn step(&mut self, record: &Record, order: &mut Order) -> Result<Option<Stepped>> {
        let Settings { batch, length, dropout, seed, .. } = *self.settings;
        let first = self.settings.skip + record.step * batch + record.skipped;
        let numbers: Vec<usize> = self.workers.part(first..first + batch).collect();
        self.student.parameters.clear_grads();
        let mut losses = Losses::default();
        for numbers in numbers.chunks(self.settings.together()) {
            if numbers.len() < self.settings.together() {
                // A short rest of a batch: what the others left is too large for it.
                self.how.ops.buffers().release();
            }
            let places: Vec<usize> = numbers.iter().map(|number| order.at(*number)).collect();
            let noise =
                Dropout { share: dropout, seed: seed ^ (numbers[0] as u64).wrapping_mul(0x9e37_79b9) };
            losses += self.learn(&places, (length, noise))?;
        }
        self.add_up(&mut losses);
        let grad_norm = self.student.parameters.grad_norm(self.how.ops);
        if !(grad_norm.is_finite() && losses.all().iter().all(|loss| loss.is_finite())) {
            return Ok(None);
        }
        let rate = self.update(record, grad_norm)?;
        Ok(Some(Stepped { losses, rate, grad_norm }))
    }

    /// Losses of the sequences at `places`, which go through the model together; adds their gradients.
    fn learn(&mut self, places: &[usize], (length, dropout): (usize, Dropout)) -> Result<Losses> {
        let (mut tokens, mut targets) = (Vec::new(), Vec::new());
        for index in places {
            let (inputs, next) = self.texts.train.get(*index);
            tokens.extend_from_slice(inputs);
            targets.extend_from_slice(next);
        }
        let rows = self.rows();
        let weights = self.settings.losses;
        let said = match &mut self.teacher {
            Some(teacher) => teacher.say(self.how, weights, (places, &tokens))?,
            None => Said::default(),
        };
        let features = said.streams.as_deref();
        let goal = Goal {
            targets: &targets,
            next_token: weights.next_token,
            teacher: said.opinions.as_ref(),
            distillation: weights.distillation,
            temperature: weights.temperature,
            features: features.map(|streams| Features { streams, factor: weights.feature }),
            rows,
        };
        self.student.learn(self.how, Batch { tokens: &tokens, length, dropout }, goal)
    }

    /// Sums gradients and losses over all workers.
    fn add_up(&mut self, losses: &mut Losses) {
        self.student.parameters.all_mut().iter_mut().for_each(|p| self.workers.sum(&mut p.grads));
        let mut sums = losses.all();
        self.workers.sum_f64(&mut sums);
        *losses = Losses::from(sums);
    }

    /// The step of the optimiser; gives the learning rate.
    fn update(&mut self, record: &Record, grad_norm: f64) -> Result<f64> {
        let optimiser = &self.settings.optimiser;
        let rate = record.rate * optimiser.rate(record.step + 1, self.settings.steps);
        let step = optimiser.adam((record.step + 1, rate), grad_norm);
        self.student.parameters.step(self.how.ops, &step);
        self.student.refresh(self.how)?;
        Ok(rate)
    }

    /// Back to the last save, past the batches since then, at half the rate.
    fn retreat(&mut self, books: &mut Books<'a>, record: &mut Record, failures: usize) -> Result<()> {
        if failures > TRIES {
            return Err(Error::new(
                Kind::NonFinite,
                format!("loss or gradients were not finite at step {}, {failures} times", record.step),
            )
            .next("choose a smaller --lr, or --clip 1"));
        }
        let failed = record.step;
        let identity = record.identity.clone();
        let saved = books.record(&identity)?.ok_or_else(|| Error::defect("the run's record is gone"))?;
        let (rate, skipped) = (record.rate / 2.0, record.skipped);
        *record = saved;
        record.rate = rate;
        record.skipped = skipped + (failed - record.step) * self.settings.batch;
        self.how.ops.buffers().release();
        books.restore(&mut self.student.parameters, record)?;
        books.rewind(record.step)?;
        self.student.refresh(self.how)
    }

    /// Measures, asserts the masks, and saves; gives whether what was measured is finite, and only then has saved.
    fn validate(
        &mut self,
        books: &mut Books<'a>,
        record: &mut Record,
        (last, since): (Option<&Stepped>, Since),
    ) -> Result<bool> {
        let violations = violations(&self.student);
        if violations > 0 {
            return Err(Error::new(
                Kind::Quality,
                format!("{violations} weights outside the masks are not zero"),
            ));
        }
        let buffers = self.how.ops.buffers();
        buffers.release();
        let length = self.settings.length;
        let mean =
            |windows: &[u32]| mean_loss(self.how, self.workers, &self.student.decoder, (windows, length));
        let valid = mean(&self.texts.valid)?;
        if !valid.is_finite() {
            return Ok(false);
        }
        let also = self.texts.also.as_deref().map(mean).transpose()?;
        let seconds = since.time.as_secs_f64();
        let tokens = (since.steps * self.rows()) as f64;
        let share = |sum: f64| (since.steps > 0).then(|| sum / tokens);
        let best = record.history.iter().map(|p| p.valid).fold(f64::INFINITY, f64::min);
        record.history.push(Point {
            step: record.step,
            epoch: (self.settings.skip + record.step * self.settings.batch) as f64
                / self.texts.train.count() as f64,
            valid,
            also,
            train: share(since.losses.next_token),
            divergence: share(since.losses.divergence).filter(|_| self.teacher.is_some()),
            feature: share(since.losses.feature).filter(|_| self.settings.losses.feature > 0.0),
            rate: last.map_or(0.0, |s| s.rate),
            grad_norm: last.map_or(0.0, |s| s.grad_norm),
            tokens_per_second: (since.steps > 0).then(|| tokens / seconds),
            seconds: record.history.last().map_or(0.0, |p| p.seconds) + seconds,
        });
        // Improvements count from the first validation on: a model that only gets worse is not trained on.
        record.stale = if valid < best - self.settings.improvement { 0 } else { record.stale + 1 };
        // A save takes memory of its own.
        buffers.release();
        books.save(&self.student.parameters, record, self.settings.keep)?;
        Ok(true)
    }
}

fn stopped(step: usize, books: &Books<'_>) -> Error {
    Error::new(Kind::Stopped, format!("stopped after step {step}"))
        .file(books.path())
        .next("give the same command again to go on")
}

/// Weights outside the masks that are not zero.
pub fn violations(student: &Student) -> usize {
    let blocks = student.decoder.blocks().iter().zip(&student.plan.blocks);
    let of_block = |(block, plan): (&crate::model::Block, &super::plan::BlockPlan)| -> usize {
        let of_role = |role: Role| -> usize {
            let (Some(linear), Some(kept)) = (block.linear(role), plan.linear(role).weight.mask()) else {
                return 0;
            };
            kept.violations(&linear.weight.to_f32(Alpha::ONE))
        };
        Role::ALL.into_iter().map(of_role).sum()
    };
    blocks.map(of_block).sum()
}
