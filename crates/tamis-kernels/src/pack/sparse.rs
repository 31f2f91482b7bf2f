//! Sparse rows (CSR): the ortho stream, or a whole matrix of which little is left. 16-bit column,
//! f16 value: 32 bits an entry.

use half::f16;

use super::{PackError, RowSource};

/// A sparse matrix `[rows = out, cols = in]`, `1 <= cols <= 65536`, columns ascending in a row.
#[derive(Debug, Clone, PartialEq)]
pub struct SparseRows {
    cols: usize,
    starts: Vec<u32>, // [rows + 1]
    columns: Vec<u16>,
    values: Vec<f16>,
}

impl SparseRows {
    /// Takes the kept of the weights `[rows, cols]`, row-major; a kept weight may be zero.
    ///
    /// # Errors
    /// Lengths that do not agree; no column, more than 65536 or 2^32 kept weights; a kept weight that
    /// f16 cannot hold.
    pub fn from_dense(shape: (usize, usize), weights: &[f32], kept: &[bool]) -> Result<Self, PackError> {
        let (rows, cols) = shape;
        if rows.checked_mul(cols) != Some(weights.len()) || kept.len() != weights.len() || cols > 1 << 16 {
            let (weights, kept) = (weights.len(), kept.len());
            return Err(PackError(format!("{weights} weights, {kept} of them marked, for {rows}x{cols}")));
        }
        let (mut starts, mut columns, mut values) = (vec![0], Vec::new(), Vec::new());
        for (weights, kept) in weights.chunks(cols.max(1)).zip(kept.chunks(cols.max(1))) {
            for column in (0..cols).filter(|&column| kept[column]) {
                let value = f16::from_f32(weights[column]);
                if !value.is_finite() {
                    return Err(PackError(format!("f16 cannot hold a weight of {}", weights[column])));
                }
                columns.push(column as u16);
                values.push(value);
            }
            let count = u32::try_from(columns.len());
            starts.push(count.map_err(|_| PackError("2^32 kept weights or more".into()))?);
        }
        Self::new(shape, starts, columns, values)
    }

    /// Checks and takes the three arrays of a CSR matrix.
    pub fn new(
        shape: (usize, usize),
        starts: Vec<u32>,
        columns: Vec<u16>,
        values: Vec<f16>,
    ) -> Result<Self, PackError> {
        let (rows, cols) = shape;
        if cols == 0 || cols > 1 << 16 {
            return Err(PackError(format!("{cols} columns: a sparse row has 1 to 65536")));
        }
        if Some(starts.len()) != rows.checked_add(1) || starts[0] != 0 {
            return Err(PackError(format!("{} row starts for {rows} rows", starts.len())));
        }
        let ascending = starts.windows(2).all(|w| w[0] <= w[1]);
        if !ascending || starts[rows] as usize != columns.len() || columns.len() != values.len() {
            return Err(PackError("row starts, columns and values do not agree".into()));
        }
        for row in starts.windows(2) {
            let row = &columns[row[0] as usize..row[1] as usize];
            if !row.windows(2).all(|c| c[0] < c[1]) || row.last().is_some_and(|&c| c as usize >= cols) {
                return Err(PackError("columns of a sparse row must ascend and lie in the matrix".into()));
            }
        }
        Ok(Self { cols, starts, columns, values })
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.starts.len() - 1
    }
    /// Input features.
    pub fn cols(&self) -> usize {
        self.cols
    }
    /// Entries of the whole matrix.
    pub fn entries(&self) -> usize {
        self.columns.len()
    }
    /// Row starts `[rows + 1]`.
    pub fn starts(&self) -> &[u32] {
        &self.starts
    }
    /// Columns of all entries.
    pub fn columns(&self) -> &[u16] {
        &self.columns
    }
    /// Values of all entries.
    pub fn values(&self) -> &[f16] {
        &self.values
    }
    /// Bytes of the three arrays.
    pub fn bytes(&self) -> usize {
        self.starts.len() * 4 + self.columns.len() * 4
    }
    /// Adds `alpha * row` to a dense row.
    pub fn add_row(&self, row: usize, alpha: f32, out: &mut [f32]) {
        assert_eq!(out.len(), self.cols);
        let (columns, values) = self.row(row);
        for (c, v) in columns.iter().zip(values) {
            out[*c as usize] += alpha * v.to_f32();
        }
    }
    /// Columns and values of a row.
    #[inline(always)]
    pub fn row(&self, row: usize) -> (&[u16], &[f16]) {
        self.rows_between(row..row + 1)
    }
    /// Columns and values of some rows, one after the other.
    #[inline(always)]
    pub fn rows_between(&self, rows: std::ops::Range<usize>) -> (&[u16], &[f16]) {
        let range = self.starts[rows.start] as usize..self.starts[rows.end] as usize;
        (&self.columns[range.clone()], &self.values[range])
    }
}

impl RowSource for SparseRows {
    fn rows(&self) -> usize {
        self.rows()
    }
    fn cols(&self) -> usize {
        self.cols
    }
    fn decode_row(&self, row: usize, out: &mut [f32]) {
        out.fill(0.0);
        self.add_row(row, 1.0, out);
    }
    fn as_sparse(&self) -> Option<&SparseRows> {
        Some(self)
    }
}
