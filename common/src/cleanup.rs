//! Cleaning up: what a coordinator asks of a machine, and what the machine says came of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Fewest generations of the system profile that are kept, whatever is asked for: the newest and one
/// to go back to.
pub const KEEP_MIN: u32 = 2;

/// What is to be kept, and what becomes of the rest. Part of stored facts: fields are only ever added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CleanUp {
    /// So many of the newest generations stay; at least [`KEEP_MIN`], whatever it says.
    pub generations: u32,
    /// And whatever is younger than this, in seconds.
    pub younger_s: u64,
    /// Collect the store's garbage also when no generation was removed.
    pub collect: bool,
}

impl CleanUp {
    /// How many of the newest generations stay.
    pub fn count(&self) -> usize {
        usize::try_from(self.generations.max(KEEP_MIN)).unwrap_or(usize::MAX)
    }

    /// Up to which age a generation stays.
    pub fn age(&self) -> Duration {
        Duration::from_secs(self.younger_s)
    }
}

/// What came of the last cleanup on a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CleanedUp {
    /// Number of the request that it answers; 0 before the first.
    pub request: u64,
    /// Generations that are no more.
    pub removed: u32,
    /// By how many bytes more of the store's file system are free.
    pub freed_bytes: u64,
    /// Why it, or a part of it, came to nothing, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}
