//! Members' clocks: each began at another time than the others and runs at a rate of its own.

use std::time::Duration;

use crate::time::Time;

/// When runs begin: late enough that a while ago is not before zero.
pub const START: Time = Time::from_millis(1_000_000);

/// How a member's monotonic clock differs from the simulation's.
#[derive(Clone, Copy, Debug)]
pub struct Skew {
    /// What it showed at the start of the run.
    pub offset: Time,
    /// How much faster it runs, in millionths.
    pub ppm: i32,
}

impl Default for Skew {
    fn default() -> Self {
        Skew { offset: START, ppm: 0 }
    }
}

impl Skew {
    /// What it shows at a time of the simulation.
    pub fn local(self, at: Time) -> Time {
        self.offset + scale(at.since(START), self.rate(), 1_000_000)
    }

    /// When it shows this time, or a little later.
    pub fn global(self, local: Time) -> Time {
        START + scale(local.since(self.offset), 1_000_000, self.rate()) + Duration::from_nanos(1)
    }

    fn rate(self) -> u64 {
        1_000_000_u64.saturating_add_signed(self.ppm.into())
    }
}

fn scale(duration: Duration, by: u64, of: u64) -> Duration {
    Duration::from_nanos((duration.as_nanos() * u128::from(by) / u128::from(of)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_has_come_by_the_time_it_is_said_to() {
        for (offset, ppm) in [(0, 0), (5, 200), (4_294_967_000, -5000)] {
            let skew = Skew { offset: Time::from_millis(offset), ppm };
            for nanos in [0, 1, 999_999, 1_000_000_007] {
                let local = skew.local(START) + Duration::from_nanos(nanos);
                let at = skew.global(local);
                assert!(skew.local(at) >= local);
                assert!(skew.local(at).since(local) < Duration::from_nanos(3));
            }
        }
    }
}
