//! Gates: what is measured before a wave may close, what a measurement can find, and what was found.

mod checks;
mod compare;
mod wave;

use std::{fmt, net::IpAddr, time::Duration};

use common::{GroupName, RolloutId, Timestamp};
use serde::{Deserialize, Serialize};

pub(crate) use wave::{Asked, Key, gates_of};

/// Most gates of one group.
pub const GATES_MAX: usize = 16;

/// Most measurements of one kind that a gate may ask for or accept.
pub const COUNT_MAX: u32 = 1000;

/// One gate of a group: what is measured, how often, and how much of what is accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate {
    /// Its name in `analysis`.
    pub name: String,
    /// What is measured.
    pub probe: Probe,
    /// From when everybody is back to the first measurement.
    pub initial_delay: Duration,
    /// From one measurement to the next; at least a second.
    pub interval: Duration,
    /// How long one measurement may take.
    pub timeout: Duration,
    /// How many must pass; at least 1.
    pub passes: u32,
    /// How many may fail; one more pauses the rollout.
    pub failure_limit: u32,
    /// How many may say nothing.
    pub inconclusive_limit: u32,
    /// How many may come to nothing.
    pub error_limit: u32,
}

/// What is measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Probe {
    /// An address answers a GET as it should.
    Http {
        /// Which, `http://` or `https://`.
        url: String,
        /// The status that it answers with.
        status: u16,
        /// What the answer contains.
        contains: Option<String>,
        /// The longest that the whole answer may take; the gate's `timeout` where it is not set.
        within: Option<Duration>,
    },
    /// A port takes connections.
    Tcp {
        /// Host and port.
        address: String,
    },
    /// A name resolves.
    Dns {
        /// Which.
        name: String,
        /// The address that must be among the answers.
        answer: Option<IpAddr>,
    },
    /// The certificate of a TLS server has so long to live.
    Certificate {
        /// Host and port.
        address: String,
        /// Whole days.
        days_left: u32,
    },
    /// A query to a Prometheus.
    Promql {
        /// Where it is.
        prometheus: String,
        /// What it is asked.
        query: String,
        /// What its answer must be.
        test: Test,
    },
    /// A health check that every machine of the wave which was updated reports as passed.
    HealthCheck {
        /// Its name in the machines' own configuration.
        check: String,
    },
}

/// What the answer to a query must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Test {
    /// Every value lies between these, both included.
    Within {
        /// No value is lower.
        at_least: Option<Number>,
        /// No value is higher.
        at_most: Option<Number>,
    },
    /// The values since the wave are not worse than those before it opened.
    NotWorse {
        /// What is worse.
        worse: Worse,
        /// How long the time before and the time after are.
        window: Duration,
        /// From one value to the next.
        step: Duration,
        /// How likely a difference may be to come by chance and still be taken for one: above 0,
        /// below 1.
        significance: Number,
    },
}

/// Which way is worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Worse {
    /// Errors, latencies.
    Higher,
    /// Throughput, hits.
    Lower,
}

/// A number that is one: never NaN, never infinite.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Number(f64);

// Without NaN, equality of floating-point numbers is one.
impl Eq for Number {}

impl Number {
    /// The number, if it is one.
    pub fn new(number: f64) -> Option<Self> {
        number.is_finite().then_some(Self(number))
    }

    /// As a floating-point number.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Number {
    type Error = NotANumber;

    fn try_from(number: f64) -> Result<Self, NotANumber> {
        Self::new(number).ok_or(NotANumber)
    }
}

impl From<Number> for f64 {
    fn from(number: Number) -> Self {
        number.0
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Neither NaN nor infinity is a number to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not a finite number")]
pub struct NotANumber;

/// What a measurement finds. Each is counted, and each has one consequence: enough of the first close
/// the wave, too many of any other pause the rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// As it should be.
    Pass,
    /// Not as it should be.
    Fail,
    /// There was an answer, and it says neither.
    Inconclusive,
    /// It could not be measured.
    Error,
}

impl Finding {
    /// The word in JSON and in sentences.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Inconclusive => "inconclusive",
            Self::Error => "error",
        }
    }
}

/// What one gate has come to in one wave.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Measurements that passed.
    pub passed: u32,
    /// That failed.
    pub failed: u32,
    /// That said nothing.
    pub inconclusive: u32,
    /// That came to nothing.
    pub errors: u32,
    /// The newest.
    pub last: Option<Last>,
    /// Somebody resumed the rollout that this gate had paused: the wave may close without it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub accepted: bool,
}

/// What becomes of the gates of a wave when somebody resumes the rollout that one of them had paused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resumption {
    /// All of them are accepted: what journals mean that do not say it.
    #[default]
    AcceptsAll,
    /// Those are accepted that have found too much; the others still have to pass.
    AcceptsFailed,
    /// All of them are measured anew.
    MeasuresAnew,
}

impl Resumption {
    /// Whether it is what is not said.
    pub(crate) fn is_unsaid(&self) -> bool {
        *self == Self::AcceptsAll
    }
}

/// The newest measurement of a gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Last {
    /// When its answer came.
    pub at: Timestamp,
    /// What it found.
    pub finding: Finding,
    /// What it saw, in a few words; bounded by [`common::text::DETAIL_MAX`].
    pub detail: String,
}

/// What the gates of one wave have come to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Analysis {
    /// When the wave opened.
    pub opened: Timestamp,
    /// Since when everybody is back; not while somebody of it goes later than the others.
    pub since: Option<Timestamp>,
    /// The wave may close without its gates, as older versions let it when somebody resumed the rollout
    /// that one of them had paused.
    pub accepted: bool,
    /// In the order of the policy's gates.
    pub tallies: Vec<Tally>,
}

impl Gate {
    /// From when everybody is back to the pass that is enough, when every measurement passes at once.
    pub fn takes(&self) -> Duration {
        let since = Timestamp::default();
        let (mut at, mut tally) = (since, Tally::default());
        while !tally.passed(self) {
            at = tally.due(self, since, false);
            tally.take(Last {
                at,
                finding: Finding::Pass,
                detail: String::new(),
            });
        }
        at.since(since)
    }
}

impl Tally {
    /// Counts a measurement.
    pub(crate) fn take(&mut self, last: Last) {
        let counted = match last.finding {
            Finding::Pass => &mut self.passed,
            Finding::Fail => &mut self.failed,
            Finding::Inconclusive => &mut self.inconclusive,
            Finding::Error => &mut self.errors,
        };
        *counted = counted.saturating_add(1);
        self.last = Some(last);
    }

    /// Whether enough have passed, and no more than it accepts have not.
    pub fn passed(&self, gate: &Gate) -> bool {
        self.accepted || (self.passed >= gate.passes && self.too_many(gate).is_none())
    }

    /// Of which finding there are more than the gate accepts: how many, and how many it accepts.
    pub fn too_many(&self, gate: &Gate) -> Option<(Finding, u32, u32)> {
        if self.accepted {
            return None;
        }
        let limits = [
            (Finding::Fail, self.failed, gate.failure_limit),
            (Finding::Error, self.errors, gate.error_limit),
            (
                Finding::Inconclusive,
                self.inconclusive,
                gate.inconclusive_limit,
            ),
        ];
        limits.into_iter().find(|(_, count, limit)| count > limit)
    }

    /// When it is to be measured next.
    fn due(&self, gate: &Gate, since: Timestamp, watched: bool) -> Timestamp {
        let Some(last) = &self.last else {
            return since + gate.initial_delay;
        };
        let every = if watched {
            gate.every(last.finding)
        } else {
            gate.interval
        };
        last.at + every
    }
}

impl Analysis {
    /// That of a wave with so many gates, of which nothing is measured yet.
    pub(crate) fn new(gates: usize) -> Self {
        Self {
            opened: Timestamp::default(),
            since: None,
            accepted: false,
            tallies: vec![Tally::default(); gates],
        }
    }

    /// Somebody else of the wave goes: what was found before says nothing about it.
    pub(crate) fn begin_anew(&mut self) {
        self.since = None;
        for tally in &mut self.tallies {
            *tally = Tally {
                accepted: tally.accepted,
                ..Tally::default()
            };
        }
    }

    /// Everybody is back: what is measured counts from here on.
    pub(crate) fn begins(&mut self, opened: Timestamp, since: Timestamp) {
        self.begin_anew();
        (self.opened, self.since) = (opened, Some(since));
    }

    /// Somebody goes on although this gate had found too much, by the name of it.
    pub(crate) fn resumes(&mut self, gates: &[Gate], stopped_by: &str, how: Resumption) {
        match how {
            Resumption::AcceptsAll => self.accepted = true,
            Resumption::AcceptsFailed => {
                for (gate, tally) in gates.iter().zip(&mut self.tallies) {
                    // Traffic that has gone back has taken the counts of its gates along.
                    tally.accepted |= gate.name == stopped_by || tally.too_many(gate).is_some();
                }
            }
            Resumption::MeasuresAnew => self.begin_anew(),
        }
    }

    /// Whether the wave may close.
    pub fn passed(&self, gates: &[Gate]) -> bool {
        let mut each = gates.iter().zip(&self.tallies);
        self.accepted || (self.since.is_some() && each.all(|(gate, tally)| tally.passed(gate)))
    }
}

/// A measurement that somebody is to make. It changes nothing: one that is lost is asked for again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measurement {
    /// Its number; the answer names it.
    pub id: u64,
    /// For which rollout.
    pub rollout: RolloutId,
    /// For which group.
    pub group: GroupName,
    /// What is measured.
    pub gate: Gate,
    /// When the wave opened.
    pub opened: Timestamp,
    /// Since when everybody is back.
    pub since: Timestamp,
    /// Now.
    pub at: Timestamp,
}
