//! What has come of a rollout, in a sentence: whoever is told that it has ended may never look at its status.

use super::{Place, PlaceState, Rollout};
use crate::wait::list;

/// Why a machine was left out that was not heard of for too long. It is told apart from those that were left out
/// on purpose.
pub(crate) const NOT_REACHED: &str = "not reached in time";

/// How a place ended, in words, and whether it is named: those are that somebody may have to look after.
fn end_of(place: &Place) -> (&'static str, bool) {
    match place.state {
        PlaceState::Updated => ("updated", false),
        PlaceState::RolledBack => ("rolled back", true),
        PlaceState::Refused => ("refused", true),
        PlaceState::Failed => ("failed", true),
        PlaceState::RebootRequired => ("to be rebooted", true),
        PlaceState::Skipped if place.reason == NOT_REACHED => (NOT_REACHED, true),
        PlaceState::Skipped => ("left out", true),
        PlaceState::Pending | PlaceState::Leased(_) | PlaceState::Overdue(_) => {
            ("not finished", true)
        }
    }
}

impl Rollout {
    /// `11 updated, 1 failed (web-3), 2 not reached in time (lap-1, lap-2)`
    pub(crate) fn came_to(&self) -> String {
        let mut ends: Vec<((PlaceState, &str, bool), Vec<&str>)> = Vec::new();
        for place in self.places() {
            let (word, named) = end_of(place);
            let found = ends.iter_mut().find(|((_, other, _), _)| *other == word);
            match found {
                Some((_, machines)) => machines.push(place.machine.as_str()),
                None => {
                    let end = (place.state, word, named);
                    ends.push((end, vec![place.machine.as_str()]));
                }
            }
        }
        ends.sort();
        let told = ends.iter().map(|((_, word, named), machines)| {
            let count = machines.len();
            match named {
                true => format!("{count} {word} ({})", list(machines)),
                false => format!("{count} {word}"),
            }
        });
        told.collect::<Vec<_>>().join(", ")
    }
}
