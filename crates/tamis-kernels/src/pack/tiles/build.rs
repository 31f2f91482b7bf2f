//! Interchange layouts to kernel order. Codes, scales and offsets are moved, never
//! computed anew: the weights are those of the source, bit for bit.

use half::f16;

use super::{Offsets, QUAD, QUAD_BYTES, TILE, TileMatrix, planes};
use crate::aligned::{Aligned, numbers_mut};
use crate::pack::{GgmlMatrix, GgmlType, PackedMatrix, RowSource};
use crate::pool::Pool;

/// A source of codes: shape, grid, and rows.
struct Source<'a> {
    shape: (usize, usize),
    bits: u32,
    group: usize,
    /// Writes the codes of a row, `[cols]`.
    codes: &'a (dyn Fn(usize, &mut [u8]) + Sync),
    /// Scale of a row and group.
    scale: &'a dyn Fn(usize, usize) -> f16,
    offset: Offset<'a>,
}

enum Offset<'a> {
    Middle,
    Zero(&'a dyn Fn(usize, usize) -> u8),
    Minimum(&'a dyn Fn(usize, usize) -> f16),
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
    let (tiles, groups) = (rows.div_ceil(TILE), blocks.div_ceil(per_group));
    // Every pair of a tile's row and group, the rows behind the last included.
    let places =
        || (0..tiles * groups * TILE).map(|i| (i / (groups * TILE) * TILE + i % TILE, i / TILE % groups));
    let scales =
        places().map(|(row, g)| if row < rows { (source.scale)(row, g) } else { f16::ZERO }).collect();
    let offsets = match &source.offset {
        Offset::Middle => Offsets::Middle,
        Offset::Zero(z) => {
            Offsets::Zeros(places().map(|(row, g)| if row < rows { z(row, g) } else { 0 }).collect())
        }
        Offset::Minimum(m) => {
            Offsets::Minima(places().map(|(row, g)| if row < rows { m(row, g) } else { f16::ZERO }).collect())
        }
    };
    let matrix = TileMatrix {
        rows,
        cols,
        bits: source.bits,
        block,
        per_group,
        codes: Aligned::new(),
        scales,
        offsets,
    };
    let codes = fill_codes(pool, &source, &matrix);
    Some(TileMatrix { codes, ..matrix })
}

fn fill_codes(pool: &Pool, source: &Source<'_>, shape: &TileMatrix) -> Aligned {
    let (block, block_bytes) = (shape.block, shape.block_bytes());
    let padded = shape.blocks() * block;
    let tile_lines = shape.blocks() * block_bytes / QUAD_BYTES;
    let mut codes = Aligned::new();
    codes.reserve(shape.tiles() * tile_lines);
    codes.extend(shape.tiles() * tile_lines);
    pool.run_chunks(codes.lines(shape.tiles() * tile_lines), tile_lines, &|tile, lines| {
        let mut rows = vec![0; TILE * padded];
        let here = TILE.min(shape.rows - tile * TILE);
        for (lane, row) in rows.chunks_exact_mut(padded).take(here).enumerate() {
            (source.codes)(tile * TILE + lane, &mut row[..shape.cols]);
        }
        let bytes = numbers_mut::<u8>(lines);
        for (index, bytes) in bytes.chunks_exact_mut(block_bytes).enumerate() {
            for quad in 0..block / QUAD {
                let mut codes = [0; QUAD_BYTES];
                for (codes, row) in codes.chunks_exact_mut(QUAD).zip(rows.chunks_exact(padded)) {
                    codes.copy_from_slice(&row[index * block + quad * QUAD..][..QUAD]);
                }
                planes(shape.bits, block).for_each(|plane| plane.write(bytes, quad, &codes));
            }
        }
    });
    codes
}
