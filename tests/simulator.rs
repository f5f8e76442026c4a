//! The simulator itself: runs repeat themselves, and faults meet connections in every state.

#![allow(clippy::unwrap_used, clippy::panic)]

use baton::sim::coverage::Coverage;
use baton::sim::fault::Kind;
use baton::sim::hunt::{Findings, Hunt};
use baton::sim::run::{self, STEPS, Setup};
use baton::sim::state::State;

/// Runs that must break no rule.
#[track_caller]
fn hunt(seed: u64, members: Option<usize>, runs: u64) -> Findings {
    let findings = Hunt { first: Setup { seed, members, steps: STEPS }, runs }.run().unwrap();
    if let Some(failure) = findings.failure {
        panic!("{failure}");
    }
    findings
}

#[test]
fn a_seed_repeats_itself() {
    let run = |seed| {
        let outcome = run::run(Setup { seed, members: None, steps: STEPS }).unwrap();
        (outcome.trace, outcome.coverage)
    };
    for seed in [3, 4] {
        assert!(run(seed) == run(seed));
    }
    assert!(run(3) != run(4));
}

#[test]
fn the_smallest_and_the_largest_cluster_break_no_rule() {
    hunt(1, Some(2), 5);
    hunt(1, Some(16), 1);
}

#[test]
fn every_fault_meets_connections_in_every_state() {
    let rest = std::thread::spawn(|| hunt(1 + SEEDS / 2, None, SEEDS - SEEDS / 2).coverage);
    let mut coverage: Coverage = hunt(1, None, SEEDS / 2).coverage;
    coverage.add(&rest.join().unwrap());
    let missing: Vec<(&str, &str)> =
        coverage.missing().into_iter().map(|(kind, state): (Kind, State)| (kind.name(), state.name())).collect();
    assert!(missing.is_empty(), "never met: {missing:?}\n{coverage}");
}

/// As many as it takes to meet every pair, and some more.
const SEEDS: u64 = 90;
