//! Interchange layouts to kernel order. Codes, scales and offsets are moved, never
//! computed anew: the weights are those of the source, bit for bit.

use std::ops::Range;

use half::f16;

use super::{Offsets, QUAD, QUAD_BYTES, TILE, TileMatrix, planes};
use crate::aligned::{Line, numbers_mut};
use crate::pack::{GgmlMatrix, GgmlType, PackedMatrix, RowSource};
use crate::pool::Pool;
use crate::slab::Slab;

/// A source of codes: shape, grid, and rows.
struct Source<'a> {
    shape: (usize, usize),
    bits: u32,
    group: usize,
    /// Writes the codes of a row, `[cols]`.
    codes: &'a (dyn Fn(usize, &mut [u8]) + Sync),
    /// Scale of a row and group.
    scale: &'a (dyn Fn(usize, usize) -> f16 + Sync),
    offset: Offset<'a>,
}

enum Offset<'a> {
    Middle,
    Zero(&'a (dyn Fn(usize, usize) -> u8 + Sync)),
    Minimum(&'a (dyn Fn(usize, usize) -> f16 + Sync)),
}

impl TileMatrix {
    /// The same weights in kernel order; none where groups are not whole blocks of 32 columns.
    pub fn from_packed(pool: &Pool, packed: &PackedMatrix) -> Option<Self> {
        let groups = packed.groups();
        let zero = packed.zeros().map(|zeros| move |row: usize, group: usize| zeros[row * groups + group]);
        build(
            pool,
            Source {
                shape: (packed.rows(), packed.cols()),
                bits: packed.bits(),
                group: packed.group(),
                codes: &|row, out| packed.codes_of_row(row, out),
                scale: &|row, group| packed.scales()[row * groups + group],
                offset: zero.as_ref().map_or(Offset::Middle, |zero| Offset::Zero(zero)),
            },
        )
    }

    /// The same weights in kernel order; none for the K types, whose scales are products.
    pub fn from_ggml(pool: &Pool, matrix: &GgmlMatrix) -> Option<Self> {
        let bits = match matrix.kind() {
            GgmlType::Q4_0 | GgmlType::Q4_1 => 4,
            GgmlType::Q5_0 | GgmlType::Q5_1 => 5,
            GgmlType::Q8_0 => 8,
            _ => return None,
        };
        let minimum = |row: usize, group: usize| matrix.block_half(row, group, 1);
        let has_minima = matches!(matrix.kind(), GgmlType::Q4_1 | GgmlType::Q5_1);
        build(
            pool,
            Source {
                shape: (matrix.rows(), matrix.cols()),
                bits,
                group: matrix.kind().block_weights(),
                codes: &|row, out| matrix.codes_of_row(row, out),
                scale: &|row, group| matrix.block_half(row, group, 0),
                offset: if has_minima { Offset::Minimum(&minimum) } else { Offset::Middle },
            },
        )
    }
}

/// Columns of a block for groups of `group` of `cols` columns.
fn block_of(group: usize, cols: usize) -> Option<usize> {
    let whole = [64, 32].into_iter().find(|block| group.is_multiple_of(*block));
    whole.or((group >= cols).then_some(64))
}

fn build(pool: &Pool, source: Source<'_>) -> Option<TileMatrix> {
    let (rows, cols) = source.shape;
    let block = block_of(source.group, cols)?;
    let blocks = cols.div_ceil(block);
    let per_group = if source.group >= cols { blocks } else { source.group / block };
    let offsets = match source.offset {
        Offset::Middle => Offsets::Middle,
        Offset::Zero(_) => Offsets::Zeros,
        Offset::Minimum(_) => Offsets::Minima,
    };
    let data = Slab::zeroed(0);
    let mut matrix = TileMatrix { rows, cols, bits: source.bits, block, per_group, offsets, data };
    let lines = matrix.tile_lines();
    let mut data = Slab::zeroed(matrix.tiles() * lines);
    pool.run_chunks(&mut data, lines, &|tile, lines| source.fill(&matrix, tile, lines));
    matrix.data = data;
    Some(matrix)
}

impl Source<'_> {
    /// Writes a tile, which is zeros still.
    fn fill(&self, shape: &TileMatrix, tile: usize, lines: &mut [Line]) {
        let rows = tile * TILE..((tile + 1) * TILE).min(shape.rows);
        let (codes, units) = numbers_mut::<u8>(lines).split_at_mut(shape.blocks() * shape.block_bytes());
        self.fill_codes(shape, rows.clone(), codes);
        let groups = shape.groups();
        let (scales, offsets) = units.split_at_mut(groups * TILE * size_of::<f16>());
        let places = |row: usize| (0..groups).map(move |group| (group, group * TILE + row % TILE));
        for (row, (group, at)) in rows.flat_map(|row| places(row).map(move |place| (row, place))) {
            let half =
                |bytes: &mut [u8], value: f16| bytes[2 * at..][..2].copy_from_slice(&value.to_ne_bytes());
            half(scales, (self.scale)(row, group));
            match self.offset {
                Offset::Middle => (),
                Offset::Zero(zero) => offsets[at] = zero(row, group),
                Offset::Minimum(minimum) => half(offsets, minimum(row, group)),
            }
        }
    }

    fn fill_codes(&self, shape: &TileMatrix, rows: Range<usize>, bytes: &mut [u8]) {
        let block = shape.block;
        let padded = shape.blocks() * block;
        let mut codes = vec![0; TILE * padded];
        for (codes, row) in codes.chunks_exact_mut(padded).zip(rows) {
            (self.codes)(row, &mut codes[..shape.cols]);
        }
        // A block is put together elsewhere: a page that is read before it is written costs two faults.
        let mut packed = vec![0; shape.block_bytes()];
        for (index, bytes) in bytes.chunks_exact_mut(shape.block_bytes()).enumerate() {
            packed.fill(0);
            for quad in 0..block / QUAD {
                let mut together = [0; QUAD_BYTES];
                for (to, from) in together.chunks_exact_mut(QUAD).zip(codes.chunks_exact(padded)) {
                    to.copy_from_slice(&from[index * block + quad * QUAD..][..QUAD]);
                }
                planes(shape.bits, block).for_each(|plane| plane.write(&mut packed, quad, &together));
            }
            bytes.copy_from_slice(&packed);
        }
    }
}
