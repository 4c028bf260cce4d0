//! The fencing number.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Raised by an emergency stop and by a restore from backup (declared, or noticed by what a machine
/// has seen), by nothing else. A lease issued under an older epoch is refused by agent and
/// coordinator alike.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The first epoch of a fleet.
    pub const FIRST: Self = Self(1);

    /// The last that anybody is believed to have seen. After a restore the epoch follows the clock,
    /// in milliseconds since 1970; this is the end of the year 9999.
    pub const LAST: Self = Self(253_402_300_799_999);

    /// The epoch after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
