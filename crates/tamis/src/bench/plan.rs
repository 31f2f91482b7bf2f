//! Which tests are run: sweeps multiplied out into single cases. Knows no model.

use std::fmt;
use std::num::NonZeroUsize;

use crate::error::{Error, Result};
use crate::units::Alpha;

/// Most tokens of a case, its depth included: more is a slip of the finger.
const MOST_POSITIONS: usize = 1 << 24;

/// What is timed: a prompt of so many tokens in batches, then single tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Test {
    prompt: usize,
    generate: usize,
}

impl Test {
    /// Nothing for a test of no tokens.
    pub fn new(prompt: usize, generate: usize) -> Option<Self> {
        (prompt > 0 || generate > 0).then_some(Self { prompt, generate })
    }
    /// Tokens that are read in batches.
    pub fn prompt(self) -> usize {
        self.prompt
    }
    /// Tokens that are pushed one at a time.
    pub fn generate(self) -> usize {
        self.generate
    }
    /// What is run once, uncounted, before it: the prompt, or a single token.
    pub fn warmup(self) -> Self {
        Self { prompt: self.prompt, generate: self.generate.min(usize::from(self.prompt == 0)) }
    }
    /// All tokens.
    pub fn tokens(self) -> usize {
        self.prompt.saturating_add(self.generate)
    }
}

impl fmt::Display for Test {
    /// `pp512`, `tg128` or `pp512+tg128`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.prompt, self.generate) {
            (prompt, 0) => write!(f, "pp{prompt}"),
            (0, generate) => write!(f, "tg{generate}"),
            (prompt, generate) => write!(f, "pp{prompt}+tg{generate}"),
        }
    }
}

/// One test under one set of conditions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Case {
    /// What is timed.
    pub test: Test,
    /// Tokens that are in the cache before.
    pub depth: usize,
    /// Share of the ortho stream.
    pub alpha: Alpha,
    /// Threads.
    pub threads: NonZeroUsize,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { test, depth, alpha, threads } = self;
        write!(f, "{test}, depth {depth}, alpha {alpha}, threads {threads}")
    }
}

/// Lists of conditions; every combination is a case.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Tests.
    pub tests: Vec<Test>,
    /// Depths of the cache.
    pub depths: Vec<usize>,
    /// Shares of the ortho stream.
    pub alphas: Vec<Alpha>,
    /// Numbers of threads.
    pub threads: Vec<NonZeroUsize>,
}

impl Plan {
    /// All cases. Those that share a filled cache (same alpha, same depth) stand together.
    ///
    /// Errors: a list is empty, or a case is longer than any model could be asked for
    /// ([`Kind::Usage`](crate::Kind::Usage)).
    pub fn cases(&self) -> Result<Vec<Case>> {
        let mut cases = Vec::new();
        for &alpha in &self.alphas {
            for &depth in &self.depths {
                for &test in &self.tests {
                    cases.extend(self.threads.iter().map(|&threads| Case { test, depth, alpha, threads }));
                }
            }
        }
        if cases.is_empty() {
            return Err(Error::usage("there is nothing to measure").next("give a test: -p 512, -n 128"));
        }
        if self.positions() > MOST_POSITIONS {
            let problem = format!("a case of {} tokens; at most {MOST_POSITIONS} are run", self.positions());
            return Err(Error::usage(problem).next("use smaller numbers with -p, -n, --pg and -d"));
        }
        Ok(cases)
    }

    /// Positions of the longest case.
    pub fn positions(&self) -> usize {
        let most = |all: &mut dyn Iterator<Item = usize>| all.max().unwrap_or(0);
        let depth = most(&mut self.depths.iter().copied());
        depth.saturating_add(most(&mut self.tests.iter().map(|t| t.tokens())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            tests: [(512, 0), (0, 128), (16, 8)].into_iter().filter_map(|(p, n)| Test::new(p, n)).collect(),
            depths: vec![0, 4096],
            alphas: vec![Alpha::ZERO, Alpha::ONE],
            threads: vec![NonZeroUsize::MIN, NonZeroUsize::new(2).unwrap()],
        }
    }

    #[test]
    fn sweeps_multiply_and_share_filled_caches() {
        let cases = plan().cases().unwrap();
        assert_eq!((cases.len(), plan().positions()), (3 * 2 * 2 * 2, 4608));
        let mut filled: Vec<_> = cases.iter().map(|c| (c.alpha.get(), c.depth)).collect();
        filled.dedup();
        assert_eq!(filled, [(0.0, 0), (0.0, 4096), (1.0, 0), (1.0, 4096)]);
        assert_eq!(cases[0].to_string(), "pp512, depth 0, alpha 0, threads 1");
        let warmups: Vec<_> = plan().tests.iter().map(|t| t.warmup().to_string()).collect();
        assert_eq!(warmups, ["pp512", "tg1", "pp16"]);
        let names: Vec<_> = plan().tests.iter().map(Test::to_string).collect();
        assert_eq!(names, ["pp512", "tg128", "pp16+tg8"]);
    }

    #[test]
    fn an_empty_sweep_and_an_endless_test_are_refused() {
        let endless = Plan { depths: vec![usize::MAX], ..plan() };
        assert!(endless.cases().unwrap_err().problem().contains("16777216"));
        assert_eq!(Test::new(0, 0), None);
        for empty in [Plan { tests: vec![], ..plan() }, Plan { depths: vec![], ..plan() }] {
            assert_eq!(empty.cases().unwrap_err().exit_code(), 2);
        }
    }
}
