//! Word problems of one or two steps with their steps written out: the reasoning faculty.
//! Knows nothing of grammar, world and secrets. The stories stand in [`super::stories`].
//!
//! Numbers are small (2..=20, factors 2..=9), every result lies in 0..=99. A problem of two
//! steps is held out or not by the hash of its three numbers alone, so no held-out triple is
//! ever seen in training, in any story and with any signs. Problems of one step are all for
//! training: a held-out problem asks to chain two known steps, not for an unknown sum.

use std::fmt;

use super::draw::{Draw, Purpose};
use super::stories::Story;

/// Largest result of a step.
pub const LARGEST_RESULT: u32 = 99;
/// One in this many number triples is held out.
pub const HELD_OUT_ONE_IN: u64 = 8;

/// What a step does to the number so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// `+`
    Add,
    /// `-`
    Subtract,
    /// `*`, only as a first step.
    Multiply,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
        })
    }
}

/// Whether a problem may occur in training text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// It may.
    Training,
    /// It never does.
    HeldOut,
}

/// A number and what is done to it, step by step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calculation {
    first: u32,
    steps: Vec<(Operation, u32)>, // one or two
}

impl Calculation {
    /// Draws a calculation of one or two steps whose results all lie in `0..=99`.
    fn draw(draw: &mut Draw, steps: usize) -> Self {
        loop {
            let multiply = draw.below(4) == 0;
            let mut number = || if multiply { draw.between(2, 9) } else { draw.between(2, 20) };
            let (first, second) = (number(), number());
            let mut chosen = vec![(if multiply { Operation::Multiply } else { sign(draw) }, second)];
            if steps == 2 {
                chosen.push((sign(draw), draw.between(2, 20)));
            }
            let calculation = Self { first, steps: chosen };
            if calculation.results().is_some() {
                return calculation;
            }
        }
    }

    /// The number that the calculation starts from.
    pub fn first(&self) -> u32 {
        self.first
    }
    /// What is done to it.
    pub fn steps(&self) -> &[(Operation, u32)] {
        &self.steps
    }

    /// The number after each step; `None` if one is negative or too large.
    fn results(&self) -> Option<Vec<u32>> {
        let mut number = self.first;
        let mut results = Vec::new();
        for &(operation, operand) in &self.steps {
            number = match operation {
                Operation::Add => number + operand,
                Operation::Subtract => number.checked_sub(operand)?,
                Operation::Multiply => number * operand,
            };
            results.push(number);
            if number > LARGEST_RESULT {
                return None;
            }
        }
        Some(results)
    }

    /// The number at the end.
    pub fn answer(&self) -> u32 {
        self.results().and_then(|results| results.last().copied()).expect("checked when drawn")
    }

    /// By a hash of the three numbers; a single step is always for training.
    pub fn split(&self) -> Split {
        let [(_, second), (_, third)] = self.steps[..] else {
            return Split::Training;
        };
        let triple = u64::from(self.first) << 16 | u64::from(second) << 8 | u64::from(third);
        // two rounds of a multiplicative hash (constants of SplitMix64), high bits kept
        let mixed = triple.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ mixed >> 31).wrapping_mul(0x94d0_49bb_1331_11eb) >> 32;
        if mixed % HELD_OUT_ONE_IN == 0 { Split::HeldOut } else { Split::Training }
    }

    /// "7 + 5 = 12. 12 - 3 = 9."
    fn worked(&self) -> String {
        let mut number = self.first;
        let results = self.results().expect("checked when drawn");
        let lines = self.steps.iter().zip(results).map(|((operation, operand), result)| {
            let before = std::mem::replace(&mut number, result);
            format!("{before} {operation} {operand} = {result}.")
        });
        lines.collect::<Vec<_>>().join(" ")
    }
}

fn sign(draw: &mut Draw) -> Operation {
    draw.pick(&[Operation::Add, Operation::Subtract])
}

/// A problem as the model sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// "Problem: Tom has 7 apples. (...) Steps:"
    pub prompt: String,
    /// " 7 + 5 = 12. 12 - 3 = 9. Answer: 9."
    pub completion: String,
    /// 9
    pub answer: u32,
    /// What is computed.
    pub calculation: Calculation,
}

impl Problem {
    fn new(calculation: Calculation, draw: &mut Draw) -> Self {
        let question = Story::draw(draw, &calculation).tell(&calculation);
        let answer = calculation.answer();
        Self {
            prompt: format!("Problem: {question} Steps:"),
            completion: format!(" {} Answer: {answer}.", calculation.worked()),
            answer,
            calculation,
        }
    }

    /// Prompt and completion.
    pub fn text(&self) -> String {
        format!("{}{}", self.prompt, self.completion)
    }
}

/// Problems without end, the same for the same seed. Training problems have one step in one
/// case of four; held-out ones always have two.
pub fn problems(split: Split, seed: u64) -> impl Iterator<Item = Problem> {
    let purpose = match split {
        Split::Training => Purpose::Training,
        Split::HeldOut => Purpose::HeldOut,
    };
    let mut draw = Draw::new(seed, purpose);
    std::iter::repeat_with(move || {
        loop {
            let steps = if split == Split::Training && draw.below(4) == 0 { 1 } else { 2 };
            let calculation = Calculation::draw(&mut draw, steps);
            if calculation.split() == split {
                return Problem::new(calculation, &mut draw);
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Evaluates "a op b = c." sentences from the text alone, and gives the last result.
    fn checked_steps(completion: &str) -> i64 {
        let (steps, answer) = completion.split_once(" Answer: ").unwrap();
        let answer: i64 = answer.strip_suffix('.').unwrap().parse().unwrap();
        let mut last = None;
        for step in steps.trim().trim_end_matches('.').split(". ") {
            let words: Vec<&str> = step.split(' ').collect();
            let [a, operation, b, "=", c] = words[..] else { panic!("{step}") };
            let [a, b, c] = [a, b, c].map(|number| number.parse::<i64>().unwrap());
            assert!(last.is_none_or(|last| last == a), "a step begins with the last result: {completion}");
            let right = match operation {
                "+" => a + b,
                "-" => a - b,
                "*" => a * b,
                _ => panic!("{step}"),
            };
            assert_eq!(right, c, "{completion}");
            last = Some(c);
        }
        assert_eq!(last, Some(answer), "{completion}");
        answer
    }

    #[test]
    fn steps_and_answers_are_right() {
        for split in [Split::Training, Split::HeldOut] {
            for problem in problems(split, 4).take(5000) {
                assert_eq!(checked_steps(&problem.completion), i64::from(problem.answer));
                assert!(problem.answer <= LARGEST_RESULT);
                assert_eq!(problem.calculation.split(), split);
            }
        }
    }

    #[test]
    fn the_numbers_of_a_story_are_those_of_its_calculation_in_order() {
        for problem in problems(Split::Training, 9).take(2000) {
            let told: Vec<u32> = problem
                .prompt
                .split(|c: char| !c.is_ascii_digit())
                .filter(|digits| !digits.is_empty())
                .map(|digits| digits.parse().unwrap())
                .collect();
            let calculation = &problem.calculation;
            let used: Vec<u32> =
                std::iter::once(calculation.first).chain(calculation.steps.iter().map(|s| s.1)).collect();
            assert_eq!(told, used, "{}", problem.prompt);
        }
    }

    #[test]
    fn about_one_triple_in_eight_is_held_out_whatever_its_signs() {
        let mut held_out = 0;
        let numbers = 2..=20;
        for (a, b, c) in
            numbers.clone().flat_map(|a| (2..=20).flat_map(move |b| (2..=20).map(move |c| (a, b, c))))
        {
            let split =
                |first, second| Calculation { first: a, steps: vec![(first, b), (second, c)] }.split();
            assert_eq!(
                split(Operation::Add, Operation::Add),
                split(Operation::Multiply, Operation::Subtract)
            );
            held_out += usize::from(split(Operation::Add, Operation::Add) == Split::HeldOut);
        }
        let share = held_out as f64 / 19f64.powi(3);
        assert!((share - 0.125).abs() < 0.01, "{share}");
    }

    #[test]
    fn problems_are_their_seed() {
        let texts = |seed| problems(Split::Training, seed).take(30).map(|p| p.text()).collect::<Vec<_>>();
        assert_eq!(texts(1), texts(1));
        assert_ne!(texts(1), texts(2));
    }
}
