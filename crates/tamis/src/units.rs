//! Quantities that are checked once and then trusted.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// `1.5 GiB` and the like.
pub fn human_bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let step = (0..units.len() - 1).take_while(|&i| bytes >> (10 * (i + 1)) != 0).count();
    let value = bytes as f64 / (1u64 << (10 * step)) as f64;
    if step == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[step]) }
}

/// Bits of a quantised weight: 2, 3, 4 or 8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Bits(u32);

impl Bits {
    /// Checks that a kernel exists for this width.
    pub fn new(bits: u32) -> Result<Self> {
        match bits {
            2 | 3 | 4 | 8 => Ok(Self(bits)),
            _ => Err(Error::usage(format!("bits must be 2, 3, 4 or 8, not {bits}")).next("try 4")),
        }
    }
    /// The number of bits.
    pub fn get(self) -> u32 {
        self.0
    }
    /// The largest code, `2^bits - 1`.
    pub fn max_code(self) -> u32 {
        (1 << self.0) - 1
    }
}

impl TryFrom<u32> for Bits {
    type Error = Error;
    fn try_from(bits: u32) -> Result<Self> {
        Self::new(bits)
    }
}

impl From<Bits> for u32 {
    fn from(bits: Bits) -> u32 {
        bits.0
    }
}

/// Input features that share a scale: 32, 64, 128, or the whole row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "GroupText", into = "GroupText")]
pub enum GroupSize {
    /// This many neighbouring input features; the last group of a row may be short.
    Of(usize),
    /// One scale a row.
    Row,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum GroupText {
    Number(usize),
    Word(String),
}

impl TryFrom<GroupText> for GroupSize {
    type Error = Error;
    fn try_from(text: GroupText) -> Result<Self> {
        match text {
            GroupText::Number(n @ (32 | 64 | 128)) => Ok(Self::Of(n)),
            GroupText::Word(w) if w == "row" => Ok(Self::Row),
            GroupText::Number(n) => Err(group_error(&n.to_string())),
            GroupText::Word(w) => Err(group_error(&w)),
        }
    }
}

impl From<GroupSize> for GroupText {
    fn from(group: GroupSize) -> Self {
        match group {
            GroupSize::Of(n) => Self::Number(n),
            GroupSize::Row => Self::Word("row".into()),
        }
    }
}

fn group_error(text: &str) -> Error {
    Error::usage(format!("group must be 32, 64, 128 or \"row\", not {text}")).next("try 64")
}

impl GroupSize {
    /// Length of a group in a row of `cols` features.
    pub fn length(self, cols: usize) -> usize {
        match self {
            Self::Of(n) => n.min(cols),
            Self::Row => cols,
        }
    }
}

/// A number in `[0, 1]`, used as ortho share at run time.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize)]
pub struct Alpha(f32);

impl Alpha {
    /// Base only.
    pub const ZERO: Self = Self(0.0);
    /// Base and the whole ortho stream.
    pub const ONE: Self = Self(1.0);
    /// Checks `0 <= alpha <= 1`.
    pub fn new(alpha: f32) -> Result<Self> {
        if (0.0..=1.0).contains(&alpha) {
            Ok(Self(alpha))
        } else {
            Err(Error::usage(format!("alpha must lie in [0, 1], not {alpha}"))
                .next("0 is the base alone, 1 all of the ortho stream"))
        }
    }
    /// The number.
    pub fn get(self) -> f32 {
        self.0
    }
}

impl FromStr for Alpha {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let number = text.trim().parse().map_err(|_| {
            Error::usage(format!("alpha must be a number, not {text:?}"))
                .next("0 is the base alone, 1 all of the ortho stream")
        })?;
        Self::new(number)
    }
}

impl fmt::Display for Alpha {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Share of a matrix's entries that the ortho stream may hold: `[0, 0.05]`.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Density(f64);

impl Density {
    /// Checks `0 <= density <= 0.05`.
    pub fn new(density: f64) -> Result<Self> {
        if (0.0..=0.05).contains(&density) {
            Ok(Self(density))
        } else {
            Err(Error::usage(format!("ortho density must lie in [0, 0.05], not {density}")).next("try 0.005"))
        }
    }
    /// The share.
    pub fn get(self) -> f64 {
        self.0
    }
    /// Entries of a matrix of `total` weights, rounded down.
    pub fn entries(self, total: usize) -> usize {
        (self.0 * total as f64) as usize
    }
}

impl TryFrom<f64> for Density {
    type Error = Error;
    fn try_from(density: f64) -> Result<Self> {
        Self::new(density)
    }
}

impl From<Density> for f64 {
    fn from(density: Density) -> f64 {
        density.0
    }
}

/// Share of the weights of a matrix that pruning sets to zero: `[0, 1)`.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Sparsity(f64);

impl Sparsity {
    /// Checks `0 <= sparsity < 1`.
    pub fn new(sparsity: f64) -> Result<Self> {
        if (0.0..1.0).contains(&sparsity) {
            Ok(Self(sparsity))
        } else {
            Err(Error::usage(format!("sparsity, the share of zeros, must lie in [0, 1), not {sparsity}"))
                .next("try --sparsity 0.5"))
        }
    }
    /// The share.
    pub fn get(self) -> f64 {
        self.0
    }
    /// Zeros among `total` weights, rounded down; what is whole but for the last bits of a product is whole.
    pub fn zeros(self, total: usize) -> usize {
        (self.0 * total as f64 + 1e-9) as usize
    }
}

impl TryFrom<f64> for Sparsity {
    type Error = Error;
    fn try_from(sparsity: f64) -> Result<Self> {
        Self::new(sparsity)
    }
}

impl From<Sparsity> for f64 {
    fn from(sparsity: Sparsity) -> f64 {
        sparsity.0
    }
}

/// Share of the mean diagonal of the Gram matrix that is added to it before it is factored: `(0, 1]`.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Damping(f64);

impl Damping {
    /// Checks `0 < damping <= 1`.
    pub fn new(damping: f64) -> Result<Self> {
        if damping > 0.0 && damping <= 1.0 {
            Ok(Self(damping))
        } else {
            Err(Error::usage(format!("damping must lie in (0, 1], not {damping}")).next("try 0.01"))
        }
    }
    /// The share.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Damping {
    type Error = Error;
    fn try_from(damping: f64) -> Result<Self> {
        Self::new(damping)
    }
}

impl From<Damping> for f64 {
    fn from(damping: Damping) -> f64 {
        damping.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_read_well() {
        assert_eq!(human_bytes(0), "0 B");
        assert_eq!(human_bytes(1536), "1.5 KiB");
        assert_eq!(human_bytes(98_362_432), "93.8 MiB");
        assert_eq!(human_bytes(3 << 40), "3.0 TiB");
        assert_eq!(human_bytes(u64::MAX), "16.0 EiB");
    }
}
