//! What a run did, summed up for people: one line a kind of linear.

use std::collections::BTreeMap;

use serde::Serialize;

use super::allocate::Share;
use crate::artifact::Manifest;
use crate::compress::{Fallback, Receipt};
use crate::error::{Error, Result};

/// A finished run.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Parts taken over from an earlier, interrupted run.
    pub resumed_parts: usize,
    /// How the zeros were spread; empty where every layer lost the same.
    pub shares: Vec<Share>,
    /// All receipts by name of the linear.
    pub receipts: BTreeMap<String, Receipt>,
    /// Bytes of all files.
    pub file_bytes: u64,
}

/// Receipts of all linears with the same last name part (`q_proj`, ...).
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Group {
    /// Number of linears.
    pub linears: usize,
    /// Mean bits a weight, ortho included.
    pub bits_per_weight: f64,
    /// Mean share of the weights that were pruned.
    pub sparsity: f64,
    /// Mean relative output error of the base; none without calibration.
    pub base_error: Option<f64>,
    /// The same with ortho.
    pub error: Option<f64>,
    /// Most damping that was needed.
    pub damping: f64,
    /// Columns never reached by calibration.
    pub dead_columns: usize,
    /// Outputs of which no weight was kept.
    pub dead_outputs: usize,
    /// Linears that fell back to round-to-nearest.
    pub fallbacks: usize,
}

impl Outcome {
    pub(super) fn new(resumed_parts: usize, shares: Vec<Share>) -> Self {
        Self { resumed_parts, shares, receipts: BTreeMap::new(), file_bytes: 0 }
    }

    pub(super) fn extend(&mut self, receipts: Vec<(String, Receipt)>) {
        self.receipts.extend(receipts);
    }

    /// Takes receipts of resumed parts and the sizes from the manifest.
    pub(super) fn finish(&mut self, manifest: &Manifest) -> Result<()> {
        for (name, value) in &manifest.receipts {
            if !self.receipts.contains_key(name) {
                let mut value = value.clone();
                if let Some(fields) = value.as_object_mut() {
                    fields.insert("seconds".into(), 0.0.into());
                }
                let receipt = serde_json::from_value(value)
                    .map_err(|e| Error::bad_data(format!("a receipt cannot be read: {e}")).tensor(name))?;
                self.receipts.insert(name.clone(), receipt);
            }
        }
        self.file_bytes = manifest.files.values().map(|f| f.bytes).sum();
        Ok(())
    }

    /// Linears that fell back to round-to-nearest, with the reason.
    pub fn fallbacks(&self) -> Vec<(&str, &str)> {
        let mut found = Vec::new();
        for (name, receipt) in &self.receipts {
            if let Fallback::Rtn(reason) = &receipt.fallback {
                found.push((name.as_str(), reason.as_str()));
            }
        }
        found
    }

    /// Receipts by the last part of the linear's name.
    pub fn groups(&self) -> BTreeMap<&str, Group> {
        let mut groups: BTreeMap<&str, Group> = BTreeMap::new();
        for (name, receipt) in &self.receipts {
            let last = name.rsplit('.').next().unwrap_or(name);
            groups.entry(last).or_default().add(receipt);
        }
        for group in groups.values_mut() {
            let share = 1.0 / group.linears as f64;
            group.bits_per_weight *= share;
            group.sparsity *= share;
            group.base_error = group.base_error.map(|sum| sum * share);
            group.error = group.error.map(|sum| sum * share);
        }
        groups
    }
}

impl Group {
    fn add(&mut self, receipt: &Receipt) {
        self.linears += 1;
        self.bits_per_weight += receipt.bits_per_weight;
        self.sparsity += receipt.sparsity;
        let plus = |sum: Option<f64>, value: Option<f64>| value.map(|v| v + sum.unwrap_or(0.0)).or(sum);
        self.base_error = plus(self.base_error, receipt.base_error);
        self.error = plus(self.error, receipt.error);
        self.damping = self.damping.max(receipt.damping.unwrap_or(0.0));
        self.dead_columns += receipt.dead_columns;
        self.dead_outputs += receipt.dead_outputs;
        self.fallbacks += usize::from(receipt.fallback != Fallback::None);
    }
}
