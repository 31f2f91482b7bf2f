//! A core's unit for products of small integer matrices (Intel AMX): eight tiles, each of up
//! to 16 rows of 64 bytes, and the few instructions on them. Knows no weights.
//! Source: Intel SDM, volume 1 chapter 18 and volume 2, "Intel AMX instructions".
//!
//! `C[r, n] += sum_k sum_i A[r, 4 k + i] B[k, 4 n + i]`, `A` signed and `B` unsigned bytes, `C`
//! wrapping i32; `k` runs over the rows of `B`, `i` over 0 to 3. So a row of `B` is a quad of
//! `pack::tiles`.
//!
//! What is trusted, and why. Two implementers: `amx` is one instruction a method, and
//! `emulated` the definition of those instructions in plain code. Whatever uses a unit is
//! generic over it and tested by emulation on every machine. The instructions themselves
//! are tried by [`multiplies_right`] whenever they are detected: a unit that is wrong about
//! one product is not used.

#[cfg(all(target_arch = "x86_64", not(miri)))]
pub(crate) mod amx;
#[cfg(test)]
pub(crate) mod emulated;
#[cfg(test)]
mod tests;

use crate::pack::tiles::{QUAD, QUAD_BYTES, TILE};

/// Tiles of the unit.
const TILES: usize = 8;
/// Most rows of a tile.
pub(crate) const ROWS: usize = 16;
/// Most bytes of a row of a tile.
pub(crate) const ROW_BYTES: usize = 64;

/// The instructions. Tiles are numbered 0 to 7.
///
/// # Safety
/// Of all unsafe methods: the unit is configured, the tiles that are named are in the
/// configuration, and where memory is named, every row of the tile lies in it: row `r` is the
/// tile's bytes a row from `r * stride` on.
pub(crate) trait TileUnit {
    /// Sets the shapes of all tiles, and all tiles to zero (`ldtilecfg`).
    fn configure(&mut self, config: &Config);
    /// Forgets shapes and tiles (`tilerelease`).
    fn release(&mut self);
    /// Tile `T` to zero (`tilezero`).
    unsafe fn zero<const T: usize>(&mut self);
    /// Reads tile `T` (`tileloadd`).
    unsafe fn load<const T: usize>(&mut self, from: *const u8, stride: usize);
    /// Writes tile `T` (`tilestored`).
    unsafe fn store<const T: usize>(&mut self, to: *mut u8, stride: usize);
    /// `C += A B` for three different tiles whose shapes fit: `A` signed, `B` unsigned (`tdpbsud`).
    unsafe fn multiply<const C: usize, const A: usize, const B: usize>(&mut self);
}

/// Shapes of the tiles, as the instruction reads them (palette 1).
#[derive(Debug, Clone, PartialEq, Eq)]
#[repr(C, align(64))]
pub(crate) struct Config {
    palette: u8,
    /// Where an interrupted load goes on; 0 at first.
    start_row: u8,
    reserved: [u8; 14],
    /// Bytes a row of 8 tiles; then 8 that no palette has.
    row_bytes: [u16; 16],
    /// Rows, likewise.
    rows: [u8; 16],
}

const _: () = assert!(size_of::<Config>() == 64 && TILE == ROWS && QUAD_BYTES == ROW_BYTES);

impl Config {
    /// Rows and bytes a row of every tile.
    ///
    /// # Panics
    /// If a tile is empty, too large, or not of whole quads of bytes.
    pub(crate) fn new(shapes: [(usize, usize); TILES]) -> Self {
        let mut config =
            Self { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        for (tile, (rows, row_bytes)) in shapes.into_iter().enumerate() {
            assert!((1..=ROWS).contains(&rows), "a tile of {rows} rows");
            let whole = row_bytes.is_multiple_of(QUAD);
            assert!(whole && (QUAD..=ROW_BYTES).contains(&row_bytes), "a tile of {row_bytes} bytes a row");
            config.rows[tile] = rows as u8;
            config.row_bytes[tile] = row_bytes as u16;
        }
        config
    }
    /// Tiles 0 to 3: results of `rows` by 16. Tiles 4 and 5: `rows` of `4 * quads` left bytes.
    /// Tiles 6 and 7: `quads` of right bytes.
    pub(crate) fn for_products(rows: usize, quads: usize) -> Self {
        let (result, left, right) = ((rows, ROW_BYTES), (rows, quads * QUAD), (quads, ROW_BYTES));
        Self::new([result, result, result, result, left, left, right, right])
    }
}

/// A configured unit. It is released when this is dropped: the kernel of the system then has
/// no tiles to save when it takes the thread off its core.
pub(crate) struct Configured<'u, U: TileUnit> {
    /// The unit; releasing or configuring it again is the owner's affair.
    pub(crate) unit: &'u mut U,
}

impl<'u, U: TileUnit> Configured<'u, U> {
    /// Configures `unit` for products of `rows` by `4 * quads` and `4 * quads` by 16, as in
    /// `Config::for_products`.
    pub(crate) fn for_products(unit: &'u mut U, rows: usize, quads: usize) -> Self {
        unit.configure(&Config::for_products(rows, quads));
        Self { unit }
    }
}

impl<U: TileUnit> Drop for Configured<'_, U> {
    fn drop(&mut self) {
        self.unit.release();
    }
}

/// Whether the unit multiplies as its definition says: full and partly used tiles, bytes of
/// all values and both signs, sums that go on, rows that are not side by side in memory, and
/// each tile that `Config::for_products` names.
pub(crate) fn multiplies_right<U: TileUnit>(unit: &mut U) -> bool {
    trial::<U, 0, 4, 6>(unit, (16, 16))
        && trial::<U, 1, 4, 7>(unit, (16, 8))
        && trial::<U, 2, 5, 6>(unit, (5, 16))
        && trial::<U, 3, 5, 7>(unit, (1, 8))
}

/// Bytes between two rows of a trial.
const STRIDE: usize = 80;

/// One product of `rows` by `4 * quads` and `4 * quads` by 16, added twice.
fn trial<U: TileUnit, const C: usize, const A: usize, const B: usize>(
    unit: &mut U,
    (rows, quads): (usize, usize),
) -> bool {
    const LANES: usize = STRIDE / size_of::<i32>();
    // 73 and 151 are odd: every byte has its turn.
    let a: [u8; ROWS * STRIDE] = std::array::from_fn(|i| (i * 73 + 19) as u8);
    let b: [u8; ROWS * STRIDE] = std::array::from_fn(|i| (i * 151 + 7) as u8);
    let mut c = [-1i32; ROWS * LANES];
    let with = Configured::for_products(unit, rows, quads);
    // SAFETY: configured in the line above; all arrays have 16 rows of `STRIDE` bytes.
    unsafe {
        with.unit.load::<A>(a.as_ptr(), STRIDE);
        with.unit.load::<B>(b.as_ptr(), STRIDE);
        with.unit.zero::<C>();
        with.unit.multiply::<C, A, B>();
        with.unit.multiply::<C, A, B>();
        with.unit.store::<C>(c.as_mut_ptr().cast(), STRIDE);
    }
    drop(with);
    c.iter().enumerate().all(|(at, c)| {
        let (row, lane) = (at / LANES, at % LANES);
        let term = |i: usize| {
            let b = b[i / QUAD * STRIDE + lane * QUAD + i % QUAD];
            i32::from(a[row * STRIDE + i].cast_signed()) * i32::from(b)
        };
        let inside = row < rows && lane < TILE;
        *c == if inside { 2 * (0..quads * QUAD).map(term).sum::<i32>() } else { -1 }
    })
}
