//! Polls that are held open: at most one for each machine, in order of their end.

use std::collections::{BTreeMap, BTreeSet};

use common::{MachineName, MachineReport, Timestamp};

use super::{
    NEVER,
    handle::{Answer, ReplyTo},
};

/// A poll, and how long it may be held.
pub(super) struct Poll {
    pub(super) machine: MachineName,
    pub(super) report: Box<MachineReport>,
    pub(super) until: Timestamp,
    pub(super) reply: ReplyTo<Answer>,
}

/// The polls that wait.
#[derive(Default)]
pub(super) struct Parked {
    polls: BTreeMap<MachineName, Poll>,
    ends: BTreeSet<(Timestamp, MachineName)>,
}

impl Parked {
    /// Keeps a poll. One of the same machine that was kept before is given up.
    pub(super) fn keep(&mut self, poll: Poll) {
        drop(self.take(&poll.machine));
        self.ends.insert((poll.until, poll.machine.clone()));
        self.polls.insert(poll.machine.clone(), poll);
    }

    /// The poll of a machine, which waits no longer.
    pub(super) fn take(&mut self, machine: &MachineName) -> Option<Poll> {
        let poll = self.polls.remove(machine)?;
        self.ends.remove(&(poll.until, poll.machine.clone()));
        Some(poll)
    }

    /// A poll whose time is over.
    pub(super) fn take_ended(&mut self, now: Timestamp) -> Option<Poll> {
        let (until, machine) = self.ends.first()?;
        if now < *until {
            return None;
        }
        let machine = machine.clone();
        self.take(&machine)
    }

    /// When the first one's time is over.
    pub(super) fn next_end(&self) -> Timestamp {
        self.ends.first().map_or(NEVER, |(until, _)| *until)
    }

    /// Everybody who waits.
    pub(super) fn machines(&self) -> Vec<MachineName> {
        self.polls.keys().cloned().collect()
    }
}
