//! The stories around calculations: "Tom has 7 apples. He buys 5 more and then gives away 3.
//! How many apples does he have?" Knows calculations, not how they are worked out or split.
//!
//! The numbers stand in the text in the order of the calculation, and nowhere else.

use super::arithmetic::{Calculation, Operation};
use super::draw::Draw;
use super::words::{self, list};

const GAINS: [&str; 4] = ["buys", "finds", "wins", "makes"];
const LOSSES: [&str; 4] = ["gives away", "loses", "sells", "throws away"];
const HOLDERS: [&str; 4] = ["bags", "boxes", "jars", "packs"];

/// A setting with its choices of words.
#[derive(Debug, Clone)]
pub(super) enum Story {
    /// The calculation alone.
    Bare,
    /// Somebody who gains and loses things.
    Owner { name: &'static str, pronoun: &'static str, object: &'static str, verbs: [&'static str; 2] },
    /// People in a bus.
    Bus,
    /// Things in a container.
    Container { object: &'static str, holder: &'static str },
}

impl Story {
    pub(super) fn draw(draw: &mut Draw, calculation: &Calculation) -> Self {
        let object = draw.pick(&list(words::COUNTED));
        let multiplies = calculation.steps()[0].0 == Operation::Multiply;
        match draw.below(6) {
            0 => Self::Bare,
            1 if !multiplies => Self::Bus,
            2 if !multiplies => Self::Container { object, holder: draw.pick(&["box", "bag", "drawer"]) },
            _ => Self::owner(draw, calculation, object),
        }
    }

    fn owner(draw: &mut Draw, calculation: &Calculation, object: &'static str) -> Self {
        let (names, pronoun) = match draw.below(2) {
            0 => (words::COUNTING_MEN, "he"),
            _ => (words::COUNTING_WOMEN, "she"),
        };
        let name = draw.pick(&list(names));
        let mut verbs = [""; 2];
        for (verb, (operation, _)) in verbs.iter_mut().zip(calculation.steps()) {
            *verb = match operation {
                Operation::Add => draw.pick(&GAINS),
                Operation::Subtract => draw.pick(&LOSSES),
                Operation::Multiply => draw.pick(&HOLDERS),
            };
        }
        Self::Owner { name, pronoun, object, verbs }
    }

    /// The problem from its first sentence to its question.
    pub(super) fn tell(&self, calculation: &Calculation) -> String {
        let first = calculation.first();
        match self {
            Self::Bare => {
                let rest: String = calculation.steps().iter().map(|(o, n)| format!(" {o} {n}")).collect();
                format!("{first}{rest}.")
            }
            Self::Bus => {
                let events = events(calculation, ["get on", "get off"]);
                format!("There are {first} people on the bus. {events}. How many people are on the bus?")
            }
            Self::Container { object, holder } => {
                let events = events(calculation, ["go in", "come out"]);
                format!(
                    "There are {first} {object} in the {holder}. {events}. \
                     How many {object} are in the {holder}?"
                )
            }
            Self::Owner { name, pronoun, object, verbs } => {
                let told = owned(calculation, (name, pronoun), object, verbs);
                format!("{told} How many {object} does {pronoun} have?")
            }
        }
    }
}

/// "5 get on and then 3 get off"
fn events(calculation: &Calculation, [gain, loss]: [&str; 2]) -> String {
    let event = |(operation, number): &(Operation, u32)| match operation {
        Operation::Add => format!("{number} {gain}"),
        _ => format!("{number} {loss}"),
    };
    calculation.steps().iter().map(event).collect::<Vec<_>>().join(" and then ")
}

/// "Tom has 7 apples. He buys 5 more and then gives away 3."
fn owned(
    calculation: &Calculation,
    (name, pronoun): (&str, &str),
    object: &str,
    verbs: &[&str; 2],
) -> String {
    let pronoun = if pronoun == "he" { "He" } else { "She" };
    let first = calculation.first();
    let event = |((operation, number), verb): (&(Operation, u32), &&str)| match operation {
        Operation::Add => format!("{verb} {number} more"),
        _ => format!("{verb} {number}"),
    };
    let steps = calculation.steps().iter().zip(verbs);
    match calculation.steps()[0] {
        (Operation::Multiply, each) => {
            let start = format!("{name} has {first} {} with {each} {object} each.", verbs[0]);
            let then: String = steps.skip(1).map(|step| format!(" {pronoun} {}.", event(step))).collect();
            start + &then
        }
        _ => {
            let events = steps.map(event).collect::<Vec<_>>().join(" and then ");
            format!("{name} has {first} {object}. {pronoun} {events}.")
        }
    }
}
