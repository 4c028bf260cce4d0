//! Chance, for pauses only: so that a fleet does not call in step.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher as _, Hasher as _},
    time::Duration,
};

/// A number from 0 up to, not including, 1.
pub(crate) fn fraction() -> f64 {
    // The upper 32 bits: exact in a double.
    let bits = u32::try_from(seed() >> 32).unwrap_or(0);
    f64::from(bits) / (f64::from(u32::MAX) + 1.0)
}

/// Any number; another one each time.
pub(crate) fn seed() -> u64 {
    // The standard library seeds its hash maps from the kernel's random numbers.
    RandomState::new().build_hasher().finish()
}

/// Full jitter: anything up to `first`, doubled for each failure before, at most `max`.
pub(crate) fn backoff(first: Duration, max: Duration, failures: u32) -> Duration {
    let ceiling = first
        .saturating_mul(2_u32.saturating_pow(failures.min(16)))
        .min(max);
    ceiling.mul_f64(fraction())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_stay_below_their_ceiling_and_differ() {
        let (first, max) = (Duration::from_secs(1), Duration::from_secs(60));
        let pauses: Vec<Duration> = (0..64)
            .map(|failures| backoff(first, max, failures))
            .collect();
        assert!(pauses.iter().all(|pause| *pause <= max));
        assert!(pauses[0] <= first);
        assert!(pauses.iter().any(|pause| *pause != pauses[20]));
    }
}
