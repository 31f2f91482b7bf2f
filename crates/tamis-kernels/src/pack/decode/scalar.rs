//! Plain code: 32 codes are exactly `BITS` words, so a block of 32 is unpacked with
//! shifts that the compiler knows, and nothing is divided per weight.

use super::PackedRow;

const BLOCK: usize = 32;

pub(super) fn decode(row: PackedRow<'_>, out: &mut [f32]) {
    match row.bits {
        2 => blocks::<2>(row, out),
        3 => blocks::<3>(row, out),
        4 => blocks::<4>(row, out),
        _ => blocks::<8>(row, out),
    }
}

fn blocks<const BITS: usize>(row: PackedRow<'_>, out: &mut [f32]) {
    let mut words = row.words.chunks(BITS);
    let mut group = 0;
    let mut left = row.group;
    let mut grid = row.grid(0);
    for out in out.chunks_mut(BLOCK) {
        let codes = unpack::<BITS>(words.next().unwrap_or_default());
        let mut at = 0;
        while at < out.len() {
            if left == 0 {
                group += 1;
                left = row.group;
                grid = row.grid(group);
            }
            let end = out.len().min(at + left);
            for (w, code) in out[at..end].iter_mut().zip(&codes[at..end]) {
                *w = grid.0 * (*code - grid.1) as f32;
            }
            left -= end - at;
            at = end;
        }
    }
}

/// The 32 codes of one block; the last block of a matrix may have fewer words.
#[inline(always)]
fn unpack<const BITS: usize>(words: &[u32]) -> [i32; BLOCK] {
    let mut padded = [0u32; BITS];
    padded[..words.len()].copy_from_slice(words);
    let mut codes = [0; BLOCK];
    for i in 0..BLOCK {
        let (word, shift) = (i * BITS / 32, i * BITS % 32);
        let low = padded[word] >> shift;
        let high = if shift + BITS > 32 { padded[word + 1] << (32 - shift) } else { 0 };
        codes[i] = ((low | high) & ((1 << BITS) - 1)) as i32;
    }
    codes
}
