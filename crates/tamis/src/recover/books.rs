//! What a run keeps on disk, and how every worker gets at it: the first alone has folder and log, reads for the
//! others, and hands round what it read. Knows no training.

use std::path::{Path, PathBuf};

use super::checkpoint::{FOLDER, Folder, Record};
use super::crown::Losses;
use super::log::Log;
use super::parameters::Parameters;
use crate::error::Result;
use crate::workers::Workers;

/// Folder and log, where this worker has them.
#[derive(Debug)]
pub(super) struct Books<'a> {
    workers: &'a dyn Workers,
    path: PathBuf,
    folder: Option<Folder>,
    log: Option<Log>,
}

impl<'a> Books<'a> {
    /// Creates the folder in `output`.
    pub(super) fn create(output: &Path, workers: &'a dyn Workers) -> Result<Self> {
        let folder = if workers.is_first() { Some(Folder::create(output)?) } else { None };
        Ok(Self { workers, path: output.join(FOLDER), folder, log: None })
    }

    /// Where the folder is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The record of an earlier run, if there is one; from the same bytes for all.
    pub(super) fn record(&self, identity: &str) -> Result<Option<Record>> {
        let mut bytes = self.folder.as_ref().map_or(Ok(Vec::new()), Folder::record)?;
        self.workers.share_all(&mut bytes);
        if bytes.is_empty() {
            return Ok(None);
        }
        Record::parse(&bytes, identity).map(Some).map_err(|e| e.or_file(&self.path))
    }

    /// Masters and moments of the last save.
    pub(super) fn restore(&self, parameters: &mut Parameters, record: &Record) -> Result<()> {
        if let Some(folder) = &self.folder {
            folder.restore(parameters, record)?;
        }
        for p in parameters.all_mut() {
            [&mut p.values, &mut p.m, &mut p.v].into_iter().for_each(|v| self.workers.share_f32(v));
        }
        Ok(())
    }

    /// Masters of the best validation.
    pub(super) fn restore_best(&self, parameters: &mut Parameters, record: &Record) -> Result<()> {
        if let Some(folder) = &self.folder {
            folder.restore_kept(parameters, record, 0)?;
        }
        parameters.all_mut().iter_mut().for_each(|p| self.workers.share_f32(&mut p.values));
        Ok(())
    }

    /// Opens the log of a run that goes on after `step`, or of one that begins.
    pub(super) fn open_log(&mut self, output: &Path, step: Option<usize>) -> Result<()> {
        if self.folder.is_some() {
            self.log = Some(Log::open(output, step)?);
        }
        Ok(())
    }

    /// Notes a step.
    pub(super) fn step(
        &mut self,
        step: usize,
        losses: &Losses,
        rows: usize,
        rates: (f64, f64),
    ) -> Result<()> {
        self.log.as_mut().map_or(Ok(()), |log| log.step(step, losses, rows, rates))
    }

    /// Goes back to `step`.
    pub(super) fn rewind(&mut self, step: usize) -> Result<()> {
        self.log.as_mut().map_or(Ok(()), |log| log.rewind(step))
    }

    /// Notes the last validation and saves.
    pub(super) fn save(&mut self, parameters: &Parameters, record: &mut Record, keep: usize) -> Result<()> {
        if let (Some(log), Some(point)) = (&mut self.log, record.history.last()) {
            log.point(point)?;
        }
        self.folder.as_ref().map_or(Ok(()), |folder| folder.save(parameters, record, keep))
    }
}
