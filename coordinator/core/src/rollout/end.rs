//! What has come of a rollout, in a sentence: whoever is told that it has ended may never look at its status.

use std::collections::BTreeMap;

use super::{Place, PlaceState, Rollout};
use crate::wait::list;

/// Why a machine was left out that was not heard of for too long. It is told apart from those that were left out
/// on purpose.
pub(crate) const NOT_REACHED: &str = "not reached in time";

/// How a machine's part ended, in the order in which it is told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Updated,
    RolledBack,
    Refused,
    Failed,
    ToBeRebooted,
    NotReached,
    LeftOut,
    NotFinished,
}

impl End {
    fn of(place: &Place) -> Self {
        match place.state {
            PlaceState::Updated => Self::Updated,
            PlaceState::RolledBack => Self::RolledBack,
            PlaceState::Refused => Self::Refused,
            PlaceState::Failed => Self::Failed,
            PlaceState::RebootRequired => Self::ToBeRebooted,
            PlaceState::Skipped if place.reason == NOT_REACHED => Self::NotReached,
            PlaceState::Skipped => Self::LeftOut,
            PlaceState::Pending | PlaceState::Leased(_) | PlaceState::Overdue(_) => {
                Self::NotFinished
            }
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Updated => "updated",
            Self::RolledBack => "rolled back",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::ToBeRebooted => "to be rebooted",
            Self::NotReached => NOT_REACHED,
            Self::LeftOut => "left out",
            Self::NotFinished => "not finished",
        }
    }

    /// So many came to it. Those are named that somebody may have to look after.
    fn told(self, machines: &[&str]) -> String {
        let (count, words) = (machines.len(), self.words());
        match self == Self::Updated {
            true => format!("{count} {words}"),
            false => format!("{count} {words} ({})", list(machines)),
        }
    }
}

impl Rollout {
    /// `11 updated, 1 failed (web-3), 2 not reached in time (lap-1, lap-2)`
    pub(crate) fn came_to(&self) -> String {
        let mut ends: BTreeMap<End, Vec<&str>> = BTreeMap::new();
        for place in self.places() {
            let machines = ends.entry(End::of(place)).or_default();
            machines.push(place.machine.as_str());
        }
        let told = ends.iter().map(|(end, machines)| end.told(machines));
        told.collect::<Vec<_>>().join(", ")
    }
}
