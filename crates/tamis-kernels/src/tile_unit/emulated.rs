//! The tile unit in plain code, as its instructions are defined: what the tests of every machine
//! run on. Knows no kernel. Where an instruction would fault, this panics with the reason.

use super::{Config, ROW_BYTES, ROWS, TILES, TileUnit};

/// What `tilestored` and `tdpbsud` see: shapes, and tiles that are zero outside them.
#[derive(Default)]
pub(crate) struct Emulated {
    config: Option<Config>,
    tiles: [Tile; TILES],
    /// How often it was configured and released.
    pub(crate) turns: (usize, usize),
}

/// `[row][byte]`.
#[derive(Clone, Copy)]
struct Tile([[u8; ROW_BYTES]; ROWS]);

impl Default for Tile {
    fn default() -> Self {
        Self([[0; ROW_BYTES]; ROWS])
    }
}

impl Tile {
    /// The i32 of lane `lane` of a row.
    fn lane(&self, row: usize, lane: usize) -> i32 {
        let lanes = self.0[row].as_chunks::<4>().0;
        i32::from_le_bytes(lanes[lane])
    }
}

impl Emulated {
    /// Rows and bytes a row of a tile.
    fn shape(&self, tile: usize) -> (usize, usize) {
        let config = self.config.as_ref().expect("#UD: no configuration");
        (config.rows[tile].into(), config.row_bytes[tile].into())
    }
    /// `C += A B` with bytes that are multiplied by `times`: which of them are signed.
    pub(crate) fn multiply_as(&mut self, tiles: [usize; 3], times: impl Fn(u8, u8) -> i32) {
        let [(c_rows, c_bytes), (a_rows, a_bytes), (b_rows, b_bytes)] = tiles.map(|t| self.shape(t));
        let [c, a, b] = tiles;
        assert!(c != a && c != b && a != b, "#UD: {tiles:?} are not three tiles");
        assert!(c_rows == a_rows && c_bytes == b_bytes && a_bytes == b_rows * 4, "#UD: shapes do not fit");
        let (a, b, mut out) = (self.tiles[a], self.tiles[b], Tile::default());
        for m in 0..c_rows {
            for n in 0..c_bytes / 4 {
                let mut sum = self.tiles[c].lane(m, n);
                for k in 0..a_bytes / 4 {
                    for i in 0..4 {
                        sum = sum.wrapping_add(times(a.0[m][4 * k + i], b.0[k][4 * n + i]));
                    }
                }
                out.0[m][4 * n..4 * n + 4].copy_from_slice(&sum.to_le_bytes());
            }
        }
        self.tiles[c] = out;
    }
}

impl TileUnit for Emulated {
    fn configure(&mut self, config: &Config) {
        assert!(config.palette == 1, "#GP: palette {}", config.palette);
        assert!(config.start_row == 0 && config.reserved == [0; 14], "#GP: reserved bytes");
        for tile in 0..16 {
            let (rows, bytes) = (config.rows[tile], config.row_bytes[tile]);
            assert!(usize::from(rows) <= ROWS && usize::from(bytes) <= ROW_BYTES, "#GP: {rows} x {bytes}");
            assert!((rows == 0) == (bytes == 0), "#GP: a tile of {rows} rows and {bytes} bytes");
            assert!(tile < TILES || rows == 0, "#GP: tile {tile}");
        }
        (self.config, self.tiles) = (Some(config.clone()), Default::default());
        self.turns.0 += 1;
    }
    fn release(&mut self) {
        (self.config, self.tiles) = (None, Default::default());
        self.turns.1 += 1;
    }
    unsafe fn zero<const T: usize>(&mut self) {
        assert!(self.shape(T).0 > 0, "#UD: tile {T} has no shape");
        self.tiles[T] = Tile::default();
    }
    unsafe fn load<const T: usize>(&mut self, from: *const u8, stride: usize) {
        let (rows, bytes) = self.shape(T);
        self.tiles[T] = Tile::default();
        for row in 0..rows {
            // SAFETY: the caller's promise.
            let source = unsafe { std::slice::from_raw_parts(from.add(row * stride), bytes) };
            self.tiles[T].0[row][..bytes].copy_from_slice(source);
        }
    }
    unsafe fn store<const T: usize>(&mut self, to: *mut u8, stride: usize) {
        let (rows, bytes) = self.shape(T);
        for row in 0..rows {
            // SAFETY: the caller's promise.
            let out = unsafe { std::slice::from_raw_parts_mut(to.add(row * stride), bytes) };
            out.copy_from_slice(&self.tiles[T].0[row][..bytes]);
        }
    }
    unsafe fn multiply<const C: usize, const A: usize, const B: usize>(&mut self) {
        self.multiply_as([C, A, B], |a, b| i32::from(a.cast_signed()) * i32::from(b));
    }
}
