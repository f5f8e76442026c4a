//! Runs one seed after the other, until one breaks a rule.

use std::fmt;
use std::time::{Duration, Instant};

use super::checks::Violation;
use super::coverage::Coverage;
use super::member::StartError;
use super::run::{self, Setup};

/// Which seeds are run, and how.
#[derive(Clone, Copy, Debug)]
pub struct Hunt {
    /// The first run; each further one has the next seed.
    pub first: Setup,
    /// How many runs at most.
    pub runs: u64,
}

/// What they came to.
#[derive(Debug)]
pub struct Findings {
    /// Over all runs.
    pub coverage: Coverage,
    /// How long they took.
    pub took: Duration,
    /// The first run that broke a rule.
    pub failure: Option<Failure>,
}

/// A run that broke a rule.
#[derive(Debug)]
pub struct Failure {
    /// How to have it again.
    pub setup: Setup,
    /// What its cluster was made of.
    pub about: String,
    /// The rule broken.
    pub violation: Violation,
    /// What happened to the connection concerned.
    pub trace: String,
}

impl Hunt {
    /// Runs seeds until one breaks a rule, or all have been run.
    ///
    /// # Errors
    /// Memory that the system does not give.
    pub fn run(self) -> Result<Findings, StartError> {
        let begun = Instant::now();
        let mut coverage = Coverage::default();
        let mut failure = None;
        for number in 0..self.runs {
            let setup = Setup { seed: self.first.seed.wrapping_add(number), ..self.first };
            let outcome = run::run(setup)?;
            coverage.add(&outcome.coverage);
            if let Some(violation) = outcome.violation {
                failure = Some(Failure { setup, about: outcome.about, violation, trace: outcome.trace });
                break;
            }
        }
        Ok(Findings { coverage, took: begun.elapsed(), failure })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Setup { seed, members, steps } = self.setup;
        writeln!(f, "seed {seed} broke a rule: {}", self.violation.what)?;
        if let Some(flow) = self.violation.flow {
            writeln!(f, "the connection: {flow}")?;
        }
        writeln!(f, "the cluster: {}", self.about)?;
        write!(f, "once more: baton sim --seed {seed} --runs 1")?;
        if let Some(members) = members {
            write!(f, " --nodes {members}")?;
        }
        if steps != run::STEPS {
            write!(f, " --steps {steps}")?;
        }
        writeln!(f, "\nthe last events:\n{}", self.trace)
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.coverage)?;
        let took = self.took.as_secs_f64();
        match &self.failure {
            Some(failure) => {
                write!(f, "\n{failure}\n{} runs in {took:.1} s, the last broke a rule", self.coverage.runs)
            }
            None => write!(f, "\n{} runs in {took:.1} s: no rule was broken", self.coverage.runs),
        }
    }
}
