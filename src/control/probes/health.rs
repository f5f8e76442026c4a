//! Whether the service of a VIP is well on this machine.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::command::Program;
use super::connect::{self, Target};
use super::http;
use super::stop::{Cut, Stop};
use crate::config::checked::{Health, HttpUrl, Probe};

/// Successes in a row after which an unhealthy service counts as healthy again. A failure needs no second one: clients
/// meet the same service. A service that comes and goes, though, must not make the role come and go at the pace of the
/// probes.
const SUCCESSES: u32 = 2;

/// One way to ask.
pub(super) enum Prober {
    Tcp(Target),
    Http(HttpUrl, Target),
    Command(Program),
}

impl Prober {
    pub(super) fn new(health: &Health, vip: IpAddr) -> Prober {
        match &health.probe {
            Probe::Tcp(port) => Prober::Tcp(Target { address: SocketAddr::new(vip, *port), vip: true }),
            Probe::Http(url) => {
                let address = url.address(vip);
                let target = Target { address: SocketAddr::new(address, url.port()), vip: address == vip };
                Prober::Http(url.clone(), target)
            }
            Probe::Command(words) => Prober::Command(Program::new(words)),
        }
    }

    /// Asks once.
    pub(super) fn probe(&mut self, deadline: Instant, stop: &Stop) -> Result<(), Cut> {
        match self {
            Prober::Tcp(target) => connect::accepts(*target, deadline, stop),
            Prober::Http(url, target) => http::get(url, *target, deadline, stop),
            Prober::Command(program) => program.succeeds(deadline, stop),
        }
    }
}

/// From single results to a verdict.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    healthy: Option<bool>,
    successes: u32,
}

impl Verdict {
    /// Takes a result in. Returns the verdict if it is new: the first result is one.
    pub(super) fn take(&mut self, success: bool) -> Option<bool> {
        self.successes = if success { self.successes.saturating_add(1) } else { 0 };
        let healthy = success && (self.healthy != Some(false) || self.successes >= SUCCESSES);
        (self.healthy.replace(healthy) != Some(healthy)).then_some(healthy)
    }
}

#[cfg(test)]
mod tests {
    use super::Verdict;

    fn verdicts(results: &[bool]) -> Vec<Option<bool>> {
        let mut verdict = Verdict::default();
        results.iter().map(|&result| verdict.take(result)).collect()
    }

    #[test]
    fn the_first_result_counts_at_once() {
        assert_eq!(verdicts(&[true, true]), [Some(true), None]);
        assert_eq!(verdicts(&[false, false]), [Some(false), None]);
    }

    #[test]
    fn one_failure_is_enough_and_one_success_is_not() {
        assert_eq!(verdicts(&[true, false, true, true, true]), [Some(true), Some(false), None, Some(true), None]);
        assert_eq!(verdicts(&[false, true, false, true, true]), [Some(false), None, None, None, Some(true)]);
    }
}
