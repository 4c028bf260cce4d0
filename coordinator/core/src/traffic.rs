//! Traffic of groups with two sides (`blueGreen`): where it is, what moves it, and who may go because of it.
//!
//! A move is a fact before anybody acts on it, so that whoever moves the traffic goes on from it after a
//! restart; it says where the traffic has to be, and is done when whoever moved it says so.

mod first;
mod hooks;
mod moves;
mod operator;
mod rule;
mod sides;

use std::{collections::BTreeMap, fmt, time::Duration};

use common::{Epoch, GroupName, MachineName, RolloutId, SideName, Timestamp};
use serde::{Deserialize, Serialize};

pub use operator::TrafficView;

/// How long a side may take to be up, by the word of whoever moves the traffic; and how long it may take
/// to tell the other one to leave, the draining not counted.
pub const UP_WITHIN: Duration = Duration::from_secs(120);

/// How long the answer to a move may be under way beyond what the move itself may take.
const SLACK: Duration = Duration::from_secs(60);

/// From a move that failed to the next attempt.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// How often a move is attempted before it is given up.
pub const ATTEMPTS: u32 = 5;

/// Two sides, of which one holds the traffic while the other is updated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlueGreen {
    /// The sides, in the order of their names; the first counts as the one with the traffic until
    /// somebody says otherwise.
    pub sides: [Side; 2],
    /// What moves it.
    pub adapter: Adapter,
    /// How long connections of the side that is left are waited for.
    pub drain: Duration,
    /// How long the traffic runs on the side that is updated before the other one is.
    pub watch: Duration,
}

/// One of the two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    /// Its name.
    pub name: SideName,
    /// Its machines; never empty.
    pub machines: Vec<MachineName>,
}

impl BlueGreen {
    /// The side of this name.
    pub fn side(&self, name: &SideName) -> Option<&Side> {
        self.sides.iter().find(|side| side.name == *name)
    }

    /// The side that the machine is on.
    pub fn side_of(&self, machine: &MachineName) -> Option<&Side> {
        let mut sides = self.sides.iter();
        sides.find(|side| side.machines.contains(machine))
    }

    /// Whether these are the same sides, moved by the same.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.sides == other.sides && self.adapter == other.adapter
    }

    /// The side across from this one.
    pub fn other(&self, name: &SideName) -> &Side {
        let [first, second] = &self.sides;
        if first.name == *name { second } else { first }
    }
}

/// What moves the traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Adapter {
    /// HAProxy's runtime API.
    Haproxy(Haproxy),
    /// A script on each machine, by which it takes its traffic or leaves it.
    Hook,
}

/// A backend of a HAProxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Haproxy {
    /// Where its runtime API listens.
    pub at: At,
    /// The backend in it.
    pub backend: String,
    /// The servers in that, by machine, where they do not have the machine's name.
    pub servers: BTreeMap<MachineName, String>,
}

impl Haproxy {
    /// The server that stands for this machine.
    pub fn server<'a>(&'a self, machine: &'a MachineName) -> &'a str {
        self.servers
            .get(machine)
            .map_or(machine.as_str(), String::as_str)
    }
}

/// Where a runtime API listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum At {
    /// A Unix socket on the coordinator's host, by its path.
    Socket(String),
    /// Host and port.
    Address(String),
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Socket(at) | Self::Address(at)) = self;
        f.write_str(at)
    }
}

/// Where the traffic of a group is. Part of the facts: fields are only ever added.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// The side that it was last put on; `None` before the first time.
    pub on: Option<SideName>,
    /// Whether it is nowhere else: no move to another side was begun since whose end is not known.
    pub settled: bool,
    /// Since when it is there.
    pub since: Timestamp,
    /// When it was last said that it is there.
    pub said_at: Timestamp,
    /// Rollouts with a lower number were there already when that was asked: it holds for those. 0: for
    /// nobody, since the sides are others by now.
    pub said_for: u64,
    /// Who put it there.
    pub by: String,
    /// The side that it was on before.
    pub before: Option<SideName>,
    /// The move that is under way.
    pub moving: Option<Move>,
    /// Moves that were begun; numbers them.
    pub moves: u64,
    /// Why the newest move was given up, if it was.
    pub given_up: Option<String>,
}

impl Traffic {
    /// Whether there may be traffic on this side.
    pub fn may_be_on(&self, side: &SideName) -> bool {
        !self.settled || self.on.as_ref() == Some(side)
    }

    /// Whether all traffic is on this side, as the sides are now.
    pub(crate) fn is_on(&self, side: &SideName) -> bool {
        self.settled && self.said_for > 0 && self.on.as_ref() == Some(side)
    }
}

/// A move that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// Its number, of those of its group.
    pub number: u64,
    /// Where to.
    pub to: SideName,
    /// The sides and what moves the traffic, as they were when it was begun.
    pub sides: Box<BlueGreen>,
    /// The rollout that wants it, unless a person does.
    pub rollout: Option<RolloutId>,
    /// Who began it.
    pub by: String,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// When it was begun.
    pub at: Timestamp,
    /// Number of the next rollout by then.
    pub next_rollout: u64,
    /// The epoch by then.
    #[serde(default)]
    pub epoch: Epoch,
    /// When it failed, and why; it is attempted again.
    pub failed: Option<(Timestamp, String)>,
}

impl Move {
    /// When something is to be done about it by the clock alone, by a coordinator that has been listening
    /// since then: while nobody listens nobody can answer. What is of the future is of a clock that was wrong.
    fn due(&self, listening: Timestamp, now: Timestamp) -> Timestamp {
        let (since, wait) = match &self.failed {
            Some((at, _)) => (*at, RETRY_AFTER),
            None => (self.at.max(listening), self.within()),
        };
        if since > now {
            listening + wait
        } else {
            since + wait
        }
    }

    /// How long an attempt may take, the way of its answer included.
    fn within(&self) -> Duration {
        let drain = self.sides.drain;
        match self.sides.adapter {
            Adapter::Haproxy(_) => UP_WITHIN + drain + SLACK,
            // One side after the other has its way to and from the machines.
            Adapter::Hook => (UP_WITHIN + SLACK) * 2 + drain,
        }
    }
}

/// What happens to the traffic of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum TrafficStep {
    /// It is to be moved. A move that is under way is given up for this one.
    Begun {
        /// Where to.
        to: SideName,
        /// The sides and what moves it.
        sides: Box<BlueGreen>,
        /// The rollout that wants it, unless a person does.
        rollout: Option<RolloutId>,
        /// Who.
        by: String,
        /// When.
        at: Timestamp,
    },
    /// The move is attempted again.
    Again {
        /// When.
        at: Timestamp,
    },
    /// It is where it was to be.
    Moved {
        /// What is to be known about it; may be empty.
        detail: String,
        /// When.
        at: Timestamp,
    },
    /// An attempt failed.
    Failed {
        /// Why.
        error: String,
        /// When.
        at: Timestamp,
    },
    /// It failed too often.
    GivenUp {
        /// When.
        at: Timestamp,
    },
}

impl Traffic {
    /// Takes a step; with the number of the next rollout and the epoch.
    pub(crate) fn apply(&mut self, step: &TrafficStep, next_rollout: u64, epoch: Epoch) {
        match step {
            TrafficStep::Begun {
                to,
                sides,
                rollout,
                by,
                at,
            } => {
                self.moves += 1;
                self.given_up = None;
                self.settled &= self.on.as_ref() == Some(to);
                self.moving = Some(Move {
                    number: self.moves,
                    to: to.clone(),
                    sides: sides.clone(),
                    rollout: rollout.clone(),
                    by: by.clone(),
                    attempt: 1,
                    at: *at,
                    next_rollout,
                    epoch,
                    failed: None,
                });
            }
            TrafficStep::Again { at } => {
                if let Some(moving) = &mut self.moving {
                    moving.attempt += 1;
                    moving.at = *at;
                    moving.failed = None;
                }
            }
            TrafficStep::Moved { at, .. } => {
                let Some(moving) = self.moving.take() else {
                    return;
                };
                if self.on.as_ref() != Some(&moving.to) {
                    // Before the first time, the first one counted as the side with the traffic.
                    let [first, _] = moving.sides.sides;
                    let first = Some(first.name).filter(|first| *first != moving.to);
                    self.before = self.on.replace(moving.to).or(first);
                    self.since = *at;
                    self.by = moving.by;
                }
                self.said_at = *at;
                self.said_for = moving.next_rollout;
                self.settled = true;
            }
            TrafficStep::Failed { error, at } => {
                if let Some(moving) = &mut self.moving {
                    moving.failed = Some((*at, error.clone()));
                }
            }
            TrafficStep::GivenUp { .. } => {
                let moving = self.moving.take();
                self.given_up = moving.and_then(|moving| Some(moving.failed?.1));
            }
        }
    }

    /// The sides, or what moves the traffic, are others from now on: whatever was said was said of those before.
    pub(crate) fn sides_changed(&mut self) {
        self.said_for = 0;
    }

    /// The state is from a backup: where the traffic went since is not known.
    pub(crate) fn restored(&mut self) {
        self.settled = false;
        self.moving = None;
    }

    /// Whether this step exists here.
    pub(crate) fn takes(&self, step: &TrafficStep) -> bool {
        let moving = self.moving.as_ref();
        match step {
            TrafficStep::Begun { to, sides, .. } => sides.side(to).is_some(),
            TrafficStep::Again { .. } | TrafficStep::GivenUp { .. } => {
                moving.is_some_and(|moving| moving.failed.is_some())
            }
            TrafficStep::Moved { .. } | TrafficStep::Failed { .. } => {
                moving.is_some_and(|moving| moving.failed.is_none())
            }
        }
    }
}

/// A move that the coordinator is to make by itself. One that is lost is asked for again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The traffic of which group.
    pub group: GroupName,
    /// Number of the move.
    pub number: u64,
    /// Which attempt; 0 where it is only to stay.
    pub attempt: u32,
    /// Where to.
    pub to: SideName,
    /// The sides.
    pub sides: Box<BlueGreen>,
    /// What moves it.
    pub haproxy: Haproxy,
}

/// What became of a move that somebody was to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The traffic of which group.
    pub group: GroupName,
    /// Number of the move.
    pub number: u64,
    /// Which attempt.
    pub attempt: u32,
    /// What is to be known about it, or why it failed.
    pub result: Result<String, String>,
}
