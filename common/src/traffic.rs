//! Traffic that each machine takes or leaves by a script of its own: what a coordinator orders, and what
//! the machine says came of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Epoch, GroupName, SideName};

/// Whether a machine is to get traffic. Saying it twice does no harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gets {
    /// It gets traffic.
    Traffic,
    /// It gets none any more.
    Nothing,
}

/// One machine's part in a move of its group's traffic. No two orders of a fleet are equal but those that
/// ask for the same once more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficOrder {
    /// The epoch in which the move was begun. It rises when a coordinator comes back from a backup, where
    /// numbers may be given out a second time.
    pub epoch: Epoch,
    /// The group whose traffic is moved.
    pub group: GroupName,
    /// Number of the move, of those of its group.
    pub number: u64,
    /// Which attempt.
    pub attempt: u32,
    /// What becomes of the machine.
    pub gets: Gets,
}

impl TrafficOrder {
    /// Whether this order was given before that one, of the same group.
    pub fn is_before(&self, that: &Self) -> bool {
        let place = |order: &Self| (order.epoch, order.number, order.attempt);
        self.group == that.group && place(self) < place(that)
    }
}

/// An order with what the machine's script is told besides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficCall {
    /// The order.
    pub order: TrafficOrder,
    /// The side that the machine is on.
    pub side: SideName,
    /// How long connections may be waited for on a machine that gets no more traffic.
    pub drain: Duration,
    /// How long the script may take; then it is ended and has failed.
    pub within: Duration,
}

/// What came of the last order on a machine that has a script for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficDone {
    /// Which; `None` before the first.
    pub order: Option<TrafficOrder>,
    /// Why it came to nothing, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

impl TrafficDone {
    /// Whether there was no order yet.
    pub fn is_nothing(&self) -> bool {
        self.order.is_none()
    }
}
