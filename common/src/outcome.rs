//! How an attempt ended.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The ways an attempt can end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OutcomeKind {
    /// The machine runs the target and judged itself healthy.
    Confirmed,
    /// The machine is back where it came from and judged itself healthy there.
    RolledBack,
    /// Neither: it stays up as it is and needs a human.
    Stuck,
    /// Staged for the next boot, which may not happen by itself.
    RebootRequired,
    /// A check or the pre-update hook said no; nothing was changed.
    Refused,
    /// Stopped before the point of no return, and undone.
    Abandoned,
}

impl OutcomeKind {
    /// The word used in reports and JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::RolledBack => "rolled-back",
            Self::Stuck => "stuck",
            Self::RebootRequired => "reboot-required",
            Self::Refused => "refused",
            Self::Abandoned => "abandoned",
        }
    }
}

impl fmt::Display for OutcomeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// How an attempt ended, and why in one sentence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Outcome {
    /// Which way.
    pub kind: OutcomeKind,
    /// Why; empty for a plain success. Bounded by [`crate::text::REASON_MAX`].
    pub reason: String,
}
