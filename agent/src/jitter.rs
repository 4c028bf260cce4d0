//! Chance, for pauses only: so that a fleet does not call in step.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher as _, Hasher as _},
    time::Duration,
};

/// A number from 0 up to, not including, 1.
pub(crate) fn fraction() -> f64 {
    part_of_one(seed())
}

fn part_of_one(number: u64) -> f64 {
    // The upper 32 bits: exact in a double.
    let bits = u32::try_from(number >> 32).unwrap_or(0);
    f64::from(bits) / (f64::from(u32::MAX) + 1.0)
}

/// Any number; another one each time.
pub(crate) fn seed() -> u64 {
    // The standard library seeds its hash maps from the kernel's random numbers.
    RandomState::new().build_hasher().finish()
}

/// Pauses that depend on a seed alone: splitmix64.
pub(crate) struct Pauses(u64);

impl Pauses {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Full jitter: anything up to `first`, doubled for each failure before, at most `max`.
    pub(crate) fn backoff(&mut self, first: Duration, max: Duration, failures: u32) -> Duration {
        let ceiling = first
            .saturating_mul(2_u32.saturating_pow(failures.min(16)))
            .min(max);
        ceiling.mul_f64(part_of_one(self.next()))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_stay_below_their_ceiling_and_differ() {
        let (first, max) = (Duration::from_secs(1), Duration::from_secs(60));
        let draw = |seed| {
            let mut chance = Pauses::new(seed);
            let pauses = (0..64).map(move |failures| chance.backoff(first, max, failures));
            pauses.collect::<Vec<Duration>>()
        };
        let pauses = draw(seed());
        assert_eq!(draw(7), draw(7));
        assert!(pauses.iter().all(|pause| *pause <= max));
        assert!(pauses[0] <= first);
        assert!(pauses.iter().any(|pause| *pause != pauses[20]));
    }
}
