//! The emulation against plain loops over matrices, its faults, and the self check on units
//! that are right and wrong.

use super::emulated::Emulated;
use super::*;

/// `C + A B` by plain loops over whole matrices: `a [rows, 4 quads]`, `b [4 quads, lanes]`.
fn plain(a: &[Vec<i8>], b: &[Vec<u8>], c: &[Vec<i32>]) -> Vec<Vec<i32>> {
    let entry = |row: usize, lane: usize| {
        let products = a[row].iter().zip(b).map(|(a, b)| i64::from(*a) * i64::from(b[lane]));
        (i64::from(c[row][lane]) + products.sum::<i64>()) as i32
    };
    (0..a.len()).map(|row| (0..c[row].len()).map(|lane| entry(row, lane)).collect()).collect()
}

/// Numbers that repeat late, from all of `u32`.
fn some(count: usize, seed: u32) -> impl Iterator<Item = u32> {
    (0..count as u32)
        .map(move |i| (i ^ seed).wrapping_mul(0x9e37_79b9).rotate_left(15).wrapping_mul(0x85eb_ca6b))
}

fn matrix<T>(rows: usize, cols: usize, seed: u32, of: impl Fn(u32) -> T) -> Vec<Vec<T>> {
    let mut all = some(rows * cols, seed).map(of);
    (0..rows).map(|_| all.by_ref().take(cols).collect()).collect()
}

/// Rows laid `stride` bytes apart, 0xee between them.
fn lay(rows: impl Iterator<Item = Vec<u8>>, stride: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for row in rows {
        let end = out.len() + stride;
        out.extend(row);
        out.resize(end, 0xee);
    }
    out
}

#[test]
fn the_emulation_multiplies_as_plain_loops_do_in_every_shape() {
    for (rows, quads, lanes) in
        [(1, 1, 1), (16, 16, 16), (16, 8, 16), (15, 8, 16), (5, 16, 3), (2, 3, 15), (16, 1, 16)]
    {
        let a = matrix(rows, quads * 4, 1, |v| (v >> 9) as i8);
        let b = matrix(quads * 4, lanes, 2, |v| (v >> 7) as u8);
        let c = matrix(rows, lanes, 3, |v| v.cast_signed());
        let shapes = [(rows, lanes * 4), (rows, quads * 4), (quads, lanes * 4)];
        let mut unit = Emulated::default();
        let spare = (1, 4);
        unit.configure(&Config::new([spare, shapes[0], shapes[1], spare, shapes[2], spare, spare, spare]));
        let stride = 72;
        let a_bytes = lay(a.iter().map(|row| row.iter().map(|a| a.cast_unsigned()).collect()), stride);
        let quad = |k: usize| (0..lanes * 4).map(|i| b[4 * k + i % 4][i / 4]).collect();
        let b_bytes = lay((0..quads).map(quad), stride);
        let mut c_bytes = lay(c.iter().map(|row| row.iter().flat_map(|c| c.to_le_bytes()).collect()), stride);
        // SAFETY: every matrix has rows of `stride` bytes.
        unsafe {
            unit.load::<1>(c_bytes.as_ptr(), stride);
            unit.load::<2>(a_bytes.as_ptr(), stride);
            unit.load::<4>(b_bytes.as_ptr(), stride);
            unit.multiply::<1, 2, 4>();
            unit.store::<1>(c_bytes.as_mut_ptr(), stride);
        }
        let product = plain(&a, &b, &c);
        let expected =
            lay(product.iter().map(|row| row.iter().flat_map(|c| c.to_le_bytes()).collect()), stride);
        assert!(c_bytes == expected, "{rows} rows, {quads} quads, {lanes} lanes");
    }
}

#[test]
fn sums_wrap_and_extremes_are_exact() {
    for (left, right, start, expected) in [
        (-128i8, 255u8, 0, -128 * 255 * 64),
        (127, 255, 0, 127 * 255 * 64),
        (127, 255, i32::MAX, i32::MIN + 127 * 255 * 64 - 1),
        (-1, 128, 5, 5 - 128 * 64),
    ] {
        let (a, b) = ([left.cast_unsigned(); 1024], [right; 1024]);
        let mut c = [start; 256];
        let mut unit = Emulated::default();
        unit.configure(&Config::for_products(16, 16));
        // SAFETY: 16 rows of 64 bytes each.
        unsafe {
            unit.load::<0>(c.as_ptr().cast(), 64);
            unit.load::<4>(a.as_ptr(), 64);
            unit.load::<6>(b.as_ptr(), 64);
            unit.multiply::<0, 4, 6>();
            unit.store::<0>(c.as_mut_ptr().cast(), 64);
        }
        assert_eq!(c, [expected; 256]);
    }
}

#[test]
fn the_configuration_is_laid_out_as_the_instruction_reads_it() {
    let config = Config::for_products(5, 8);
    // SAFETY: 64 bytes without padding, as the assertion beside the type says.
    let bytes = unsafe { std::slice::from_raw_parts((&raw const config).cast::<u8>(), 64) };
    let mut expected = [0; 64];
    expected[0] = 1;
    for (tile, (rows, row_bytes)) in
        [(5, 64), (5, 64), (5, 64), (5, 64), (5, 32), (5, 32), (8, 64), (8, 64)].into_iter().enumerate()
    {
        (expected[48 + tile], expected[16 + 2 * tile]) = (rows, row_bytes);
    }
    assert_eq!(bytes, expected);
    assert_eq!((&raw const config).addr() % 64, 0);
}

#[test]
#[should_panic(expected = "#UD: shapes do not fit")]
fn shapes_that_do_not_fit_are_a_fault() {
    let mut unit = Emulated::default();
    unit.configure(&Config::new([(16, 64), (16, 32), (16, 64), (1, 4), (1, 4), (1, 4), (1, 4), (1, 4)]));
    // SAFETY: no memory is named, and the fault is what is asked for.
    unsafe { unit.multiply::<0, 1, 2>() }
}

#[test]
#[should_panic(expected = "#UD: no configuration")]
fn a_released_unit_has_no_tiles() {
    let mut unit = Emulated::default();
    drop(Configured::for_products(&mut unit, 16, 16));
    // SAFETY: no memory is named, and the fault is what is asked for.
    unsafe { unit.zero::<0>() }
}

#[test]
#[should_panic(expected = "a tile of 17 rows")]
fn a_tile_has_sixteen_rows_at_most() {
    let _ = Config::for_products(17, 16);
}

/// A unit with one mistake, or none.
struct Tried(Emulated, Mistake);

#[derive(Clone, Copy, PartialEq, Debug)]
enum Mistake {
    None,
    /// As `tdpbusd`, which takes the left bytes as unsigned.
    OtherSigns,
    /// As `tdpbssd`.
    BothSigned,
    IgnoresStride,
    StartsAfresh,
    OtherTile,
}

impl TileUnit for Tried {
    fn configure(&mut self, config: &Config) {
        self.0.configure(config);
    }
    fn release(&mut self) {
        self.0.release();
    }
    unsafe fn zero<const T: usize>(&mut self) {
        // SAFETY: the caller's promises, here and below.
        unsafe { self.0.zero::<T>() }
    }
    unsafe fn load<const T: usize>(&mut self, from: *const u8, stride: usize) {
        let stride = if self.1 == Mistake::IgnoresStride { ROW_BYTES } else { stride };
        // SAFETY: rows lie no further apart than the caller says.
        unsafe { self.0.load::<T>(from, stride) }
    }
    unsafe fn store<const T: usize>(&mut self, to: *mut u8, stride: usize) {
        // SAFETY: as above.
        unsafe { self.0.store::<T>(to, stride) }
    }
    unsafe fn multiply<const C: usize, const A: usize, const B: usize>(&mut self) {
        let signed = |v: u8| i32::from(v.cast_signed());
        match self.1 {
            Mistake::OtherSigns => self.0.multiply_as([C, A, B], |a, b| i32::from(a) * signed(b)),
            Mistake::BothSigned => self.0.multiply_as([C, A, B], |a, b| signed(a) * signed(b)),
            Mistake::OtherTile => self.0.multiply_as([C, A, 6], |a, b| signed(a) * i32::from(b)),
            Mistake::StartsAfresh => {
                // SAFETY: as above.
                unsafe {
                    self.0.zero::<C>();
                    self.0.multiply::<C, A, B>();
                }
            }
            // SAFETY: as above.
            Mistake::None | Mistake::IgnoresStride => unsafe { self.0.multiply::<C, A, B>() },
        }
    }
}

#[test]
fn the_self_check_accepts_the_definition_and_nothing_else() {
    use Mistake::{BothSigned, IgnoresStride, OtherSigns, OtherTile, StartsAfresh};
    let mut right = Tried(Emulated::default(), Mistake::None);
    assert!(multiplies_right(&mut right));
    assert!(right.0.turns.0 > 0 && right.0.turns.0 == right.0.turns.1, "every turn ends with a release");
    for mistake in [OtherSigns, BothSigned, IgnoresStride, StartsAfresh, OtherTile] {
        assert!(!multiplies_right(&mut Tried(Emulated::default(), mistake)), "{mistake:?}");
    }
}
