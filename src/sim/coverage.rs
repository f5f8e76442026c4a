//! Which faults have met connections in which states.

use std::collections::BTreeMap;
use std::fmt;

use super::cluster::Cluster;
use super::fault::{Fault, Kind};
use super::state::State;

/// How often each kind of fault has struck connections in each state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    met: BTreeMap<(Kind, State), u64>,
    /// Runs it was counted over.
    pub runs: u64,
}

impl Coverage {
    /// Nothing met yet, in one run.
    pub fn of_a_run() -> Coverage {
        Coverage { met: BTreeMap::new(), runs: 1 }
    }

    /// Notes what a fault that is about to begin finds.
    pub fn strike(&mut self, fault: &Fault, cluster: &Cluster) {
        let members =
            if fault.kind.strikes_a_member() { fault.member..fault.member + 1 } else { 0..cluster.members.len() };
        for flow in cluster.clients.iter().flat_map(|client| client.stories.keys()) {
            for state in members.clone().filter_map(|member| cluster.state_of(*flow, member)) {
                *self.met.entry((fault.kind, state)).or_default() += 1;
            }
        }
    }

    /// Adds another's counts.
    pub fn add(&mut self, other: &Coverage) {
        self.runs += other.runs;
        for (&pair, count) in &other.met {
            *self.met.entry(pair).or_default() += count;
        }
    }

    /// How often a pair was met.
    pub fn count(&self, kind: Kind, state: State) -> u64 {
        self.met.get(&(kind, state)).copied().unwrap_or_default()
    }

    /// Pairs that were never met.
    pub fn missing(&self) -> Vec<(Kind, State)> {
        let pairs = Kind::ALL.iter().flat_map(|&kind| State::ALL.iter().map(move |&state| (kind, state)));
        pairs.filter(|&(kind, state)| self.count(kind, state) == 0).collect()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "connections met by faults, by state:")?;
        write!(f, "{:<12}", "")?;
        State::ALL.iter().try_for_each(|state| write!(f, " {:>11}", state.name()))?;
        for &kind in Kind::ALL {
            write!(f, "\n{:<12}", kind.name())?;
            State::ALL.iter().try_for_each(|&state| write!(f, " {:>11}", self.count(kind, state)))?;
        }
        writeln!(f)
    }
}
