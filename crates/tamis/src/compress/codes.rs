//! The grids and codes of a strip while it is quantised, and their assembly into one
//! packed matrix. It knows neither sweep nor evidence.
//!
//! Layout: compressed-tensors `pack-quantized`, see `tamis_kernels::pack`; grids as in
//! GPTQ (Frantar 2022, arXiv 2210.17323).

use half::f16;
use tamis_kernels::pack::PackedMatrix;

use super::fit::{Fitted, fit};
use super::grid::{GridSpec, LaneGrid, Symmetry};
use super::lanes::{LANES, Lanes};
use crate::error::{Error, Result};

/// Grids and codes of one strip, columns in the model's order.
#[derive(Debug, Clone)]
pub struct StripGrids<'a> {
    spec: &'a GridSpec,
    h: &'a [f32],
    grids: Vec<LaneGrid>,
    codes: Vec<[u8; LANES]>,
}

/// A quantised strip, `[rows, cols]` and `[rows, groups]`.
#[derive(Debug, Clone, PartialEq)]
pub struct CodedStrip {
    codes: Vec<u8>,
    scales: Vec<f16>,
    zeros: Vec<u8>,
}

impl<'a> StripGrids<'a> {
    /// No group fitted yet; `h` weighs the columns in the fits.
    pub fn new(spec: &'a GridSpec, h: &'a [f32]) -> Self {
        Self { spec, h, grids: Vec::new(), codes: vec![[0; LANES]; h.len()] }
    }

    /// Columns of a group.
    pub fn group(&self) -> usize {
        self.spec.group.length(self.h.len())
    }

    /// Fits the first group that has no grid yet; `columns` are its columns.
    pub fn fit_next(&mut self, columns: &[Lanes]) -> Fitted {
        let start = self.grids.len() * self.group();
        let fitted = fit(columns, &self.h[start..start + columns.len()], self.spec);
        self.grids.push(fitted.grid);
        fitted
    }

    /// Fits all groups to the columns of the whole strip.
    pub fn fit_all(&mut self, columns: &[Lanes]) {
        for group in columns.chunks(self.group()) {
            self.fit_next(group);
        }
    }

    /// Rounds column `original`, keeps its codes, returns the grid points.
    pub fn round(&mut self, original: usize, w: &Lanes) -> Lanes {
        let grid = &self.grids[original / self.group()];
        let codes = &mut self.codes[original];
        std::array::from_fn(|l| {
            let step = grid.step(l, w[l]);
            codes[l] = grid.code(l, step);
            grid.scale()[l] * step
        })
    }

    /// Row-major codes and scales of the first `rows` lanes.
    pub fn finish(&self, rows: usize) -> CodedStrip {
        let by_row = |row| self.grids.iter().map(move |grid| (grid.scale()[row], grid.zero()[row]));
        CodedStrip {
            codes: (0..rows).flat_map(|row| self.codes.iter().map(move |codes| codes[row])).collect(),
            scales: (0..rows).flat_map(|row| by_row(row).map(|(s, _)| f16::from_f32(s))).collect(),
            zeros: (0..rows).flat_map(|row| by_row(row).map(|(_, z)| z as u8)).collect(),
        }
    }
}

/// Puts the strips of a `[rows, cols]` matrix together.
pub fn assemble(shape: (usize, usize), spec: &GridSpec, strips: &[CodedStrip]) -> Result<PackedMatrix> {
    let codes: Vec<u8> = strips.iter().flat_map(|s| s.codes.iter().copied()).collect();
    let scales = strips.iter().flat_map(|s| s.scales.iter().copied()).collect();
    let zeros = match spec.symmetry {
        Symmetry::Symmetric => None,
        Symmetry::Asymmetric => Some(strips.iter().flat_map(|s| s.zeros.iter().copied()).collect()),
    };
    PackedMatrix::from_codes(shape, spec.bits.get(), spec.group.length(shape.1), &codes, scales, zeros)
        .map_err(|error| Error::bad_data(error.to_string()))
}
