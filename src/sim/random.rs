//! Randomness from a seed: whatever is random in a run comes from here, so a run can be repeated.

use std::time::Duration;

use super::clock::Skew;
use crate::time::Time;

/// A seeded generator.
#[derive(Clone, Debug)]
pub struct Random(fastrand::Rng);

impl Random {
    /// The generator of this seed.
    pub fn new(seed: u64) -> Random {
        Random(fastrand::Rng::with_seed(seed))
    }

    /// A generator of its own for one part, so that what one part draws does not shift what another gets.
    pub fn fork(&mut self) -> Random {
        Random::new(self.0.u64(..))
    }

    /// Any number.
    pub fn word(&mut self) -> u64 {
        self.0.u64(..)
    }

    /// A number below `bound`; 0 if that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.0.u64(..bound) }
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.0.f64() < probability
    }

    /// A number from 0 to 1.
    pub fn fraction(&mut self) -> f64 {
        self.0.f64()
    }

    /// Any duration up to `longest`.
    pub fn up_to(&mut self, longest: Duration) -> Duration {
        Duration::from_nanos(self.below(longest.as_nanos() as u64 + 1))
    }

    /// A clock that runs fast or slow by up to this many millionths; without any, the simulation's own.
    pub fn skew(&mut self, ppm: u32) -> Skew {
        if ppm == 0 {
            return Skew::default();
        }
        // Some are about to wrap around in the 32 bits of milliseconds that tables keep.
        let offset = if self.chance(0.3) { (1 << 32) - self.below(10_000) } else { 1000 + self.below(1 << 33) };
        let spread = 2 * u64::from(ppm) + 1;
        Skew { offset: Time::from_millis(offset), ppm: self.below(spread) as i32 - ppm as i32 }
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    /// Any duration between these two.
    pub fn between(&mut self, shortest: Duration, longest: Duration) -> Duration {
        shortest + self.up_to(longest.saturating_sub(shortest))
    }

    /// Bytes for a key, a nonce or a boot id.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.fill(&mut bytes);
        bytes
    }
}
