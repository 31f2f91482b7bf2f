//! Numbers on the command line, each with the range that it may have: far beyond what anybody needs, and small enough
//! that no product of them overflows. Knows no flag.

use std::fmt::Display;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Most tokens of a sequence or window: ten times what models read.
const TOKENS: usize = 1 << 20;
/// Most tokens of a test, its depth included.
const POSITIONS: usize = 1 << 24;
/// Most windows, ranks, and the like.
const MANY: usize = 1 << 16;
/// Most sequences of a step.
const BATCH: usize = 1 << 12;
/// Most steps, and sequences in all.
const STEPS: usize = 1 << 30;

fn ranged<T: FromStr + PartialOrd + Display>(text: &str, range: RangeInclusive<T>) -> Result<T, String> {
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| format!("give a number from {} to {}", range.start(), range.end()))
}

fn whole(text: &str, range: RangeInclusive<usize>) -> Result<usize, String> {
    ranged(text, range).map_err(|range| range.replace("a number", "a whole number"))
}

fn at_least_one(text: &str, most: usize) -> Result<NonZeroUsize, String> {
    let number = whole(text, 1..=most)?;
    NonZeroUsize::new(number).ok_or_else(|| "give at least 1".into())
}

/// More than zero.
fn positive<T: FromStr + PartialOrd + Display + Default>(text: &str, most: T) -> Result<T, String> {
    let number: Option<T> = text.parse().ok();
    let number = number.filter(|number| *number > T::default() && *number <= most);
    number.ok_or_else(|| format!("give a number above 0, at most {most}"))
}

/// Threads.
pub(super) fn threads(text: &str) -> Result<NonZeroUsize, String> {
    at_least_one(text, 1024)
}

/// Tokens of a sequence or window, between two, or of a vocabulary.
pub(super) fn tokens(text: &str) -> Result<usize, String> {
    whole(text, 1..=TOKENS)
}

/// Tokens that are computed together.
pub(super) fn chunk(text: &str) -> Result<NonZeroUsize, String> {
    at_least_one(text, TOKENS)
}

/// Tokens of a test of speed, or before it; none is no test.
pub(super) fn positions(text: &str) -> Result<usize, String> {
    whole(text, 0..=POSITIONS)
}

/// `P,N` as two numbers of tokens.
pub(super) fn pair(text: &str) -> Result<(usize, usize), String> {
    let (prompt, single) = text.split_once(',').ok_or("give two numbers: 512,128")?;
    Ok((whole(prompt, 1..=POSITIONS)?, whole(single, 1..=POSITIONS)?))
}

/// Timed runs of a test.
pub(super) fn repetitions(text: &str) -> Result<NonZeroUsize, String> {
    at_least_one(text, MANY)
}

/// Windows, stages, states, ranks: things that are counted and cost memory or time each.
pub(super) fn count(text: &str) -> Result<usize, String> {
    whole(text, 1..=MANY)
}

/// Sequences of a step.
pub(super) fn batch(text: &str) -> Result<usize, String> {
    whole(text, 1..=BATCH)
}

/// Steps, or sequences in all.
pub(super) fn steps(text: &str) -> Result<usize, String> {
    whole(text, 1..=STEPS)
}

/// Steps, or none.
pub(super) fn steps_or_none(text: &str) -> Result<usize, String> {
    whole(text, 0..=STEPS)
}

/// Tokens that are likeliest; 0 is all of them.
pub(super) fn likeliest(text: &str) -> Result<usize, String> {
    whole(text, 0..=POSITIONS)
}

/// Passes over a text.
pub(super) fn epochs(text: &str) -> Result<f64, String> {
    positive(text, 10_000.0)
}

/// Bits of embedding and head.
pub(super) fn end_bits(text: &str) -> Result<u32, String> {
    text.parse().ok().filter(|bits| [4, 8, 16].contains(bits)).ok_or_else(|| "give 16, 8 or 4".into())
}

/// A share of weights.
pub(super) fn share(text: &str) -> Result<f64, String> {
    ranged(text, 0.0..=1.0)
}

/// A share of the ortho stream, of probability, of inputs.
pub(super) fn part(text: &str) -> Result<f32, String> {
    ranged(text, 0.0..=1.0)
}

/// A factor, or a largest norm; none is zero.
pub(super) fn factor(text: &str) -> Result<f32, String> {
    ranged(text, 0.0..=1e6)
}

/// What logits are divided by when a token is drawn; 0 draws the likeliest.
pub(super) fn temperature(text: &str) -> Result<f32, String> {
    ranged(text, 0.0..=1000.0)
}

/// What divides or multiplies, so that it must not be zero.
pub(super) fn divisor(text: &str) -> Result<f32, String> {
    positive(text, 1000.0)
}

/// A learning rate.
pub(super) fn rate(text: &str) -> Result<f64, String> {
    ranged(text, 0.0..=1000.0)
}

/// A difference of losses.
pub(super) fn nats(text: &str) -> Result<f64, String> {
    ranged(text, 0.0..=1000.0)
}

#[cfg(test)]
mod tests {
    use clap::{Arg, ArgAction, Command, CommandFactory};

    use super::*;
    use crate::args::Tamis;

    /// Some of these are accepted by every argument that is a number.
    const NUMBERS: [&str; 4] = ["1", "0.5", "4", "2,2"];
    /// And none of these.
    const WRONG: [&str; 12] = [
        "18446744073709551615",
        "18446744073709551616",
        "1e400",
        "-1",
        "-0.5",
        "NaN",
        "inf",
        "-inf",
        "",
        "x",
        "1,18446744073709551615",
        "18446744073709551615,1",
    ];

    /// Every argument of every command that takes values.
    fn arguments(command: &Command, name: &str) -> Vec<(String, Arg)> {
        let takes = |arg: &&Arg| matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
        let named = |arg: &Arg| (format!("{name} {}", arg.get_id()), arg.clone());
        let own = command.get_arguments().filter(takes).map(named);
        let below =
            command.get_subcommands().flat_map(|sub| arguments(sub, &format!("{name} {}", sub.get_name())));
        own.chain(below).collect()
    }

    /// Whether an argument by itself, without those that it needs or excludes, takes `value`.
    fn takes(arg: &Arg, value: &str) -> bool {
        let mut alone =
            Arg::new("a").long("a").action(ArgAction::Append).value_parser(arg.get_value_parser().clone());
        if let Some(delimiter) = arg.get_value_delimiter() {
            alone = alone.value_delimiter(delimiter);
        }
        let command = Command::new("alone").no_binary_name(true).arg(alone);
        command.try_get_matches_from([format!("--a={value}")]).is_ok()
    }

    #[test]
    fn every_number_of_every_command_has_bounds() {
        let mut numbers = 0;
        for (name, arg) in arguments(&Tamis::command(), "tamis") {
            // Text takes everything, and a choice of words no number.
            if takes(&arg, "x") || !NUMBERS.iter().any(|number| takes(&arg, number)) {
                continue;
            }
            numbers += 1;
            for wrong in WRONG {
                let any = arg.get_id() == "seed" && wrong == "18446744073709551615";
                assert_eq!(takes(&arg, wrong), any, "{name} and {wrong:?}");
            }
        }
        assert!(numbers > 50, "{numbers} numbers were found");
    }

    #[test]
    fn what_is_refused_says_what_may_be_given() {
        assert_eq!(tokens("0").unwrap_err(), "give a whole number from 1 to 1048576");
        assert_eq!(share("2").unwrap_err(), "give a number from 0 to 1");
        assert_eq!(epochs("inf").unwrap_err(), "give a number above 0, at most 10000");
        assert_eq!(pair("512,128"), Ok((512, 128)));
        assert!(pair("512").unwrap_err().contains("512,128"));
    }

    /// All tokens of a run, and the streams of all windows where a token has a million numbers.
    #[test]
    fn no_product_overflows() {
        let product = |factors: &[usize]| factors.iter().try_fold(1_usize, |p, f| p.checked_mul(*f));
        assert!(product(&[STEPS, BATCH, TOKENS]).is_some());
        assert!(product(&[MANY, TOKENS, 1 << 20, size_of::<f64>()]).is_some());
    }
}
