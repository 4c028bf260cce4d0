//! Schedules: what is done again and again, when, and where each of them stands.
//!
//! When is a cron expression in a zone, read and evaluated by `croner`: a clock time that does not
//! exist means the change of the clocks, and one that exists twice means the first, except where an
//! expression says "every" hour or minute: that goes by what really passes. Jitter is not chance: it
//! follows from the schedule's name and the planned instant, so that everybody who asks is told the
//! same.

mod cleanup;
mod due;
mod facts;
mod health;
mod view;

use std::time::Duration;

use common::{CleanUp, GroupName, MachineName, RolloutId, ScheduleName, Timestamp};
use croner::{
    Cron,
    errors::CronError,
    parser::{CronParser, Seconds, Year},
};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::window;

pub(crate) use self::{
    cleanup::CleanUps,
    facts::{author, of_another, shown, told},
};
pub use self::{
    cleanup::{KEEP, KEEP_FOR},
    due::UnderWay,
    facts::ScheduleStep,
    view::{ScheduleView, Unresolved},
};

/// How late a run may begin that was missed while the coordinator was not there. Rollouts keep to
/// their windows by themselves, so beginning late harms nobody.
pub const CATCH_UP: Duration = Duration::from_secs(6 * 3600);

/// So much later is still on time, whatever a schedule says: the clock is looked at now and then, never at
/// the very instant, and what waits longest for that is a coordinator that begins.
pub const ON_TIME: Duration = Duration::from_secs(60);

/// How long a source may take to come to targets: a fleet's systems are built in that time.
pub const RESOLVE_WITHIN: Duration = Duration::from_secs(4 * 3600);

/// By how much a clock may be set back and instants that ran before are still held to have run.
/// Whatever lies further ahead was run while the clock was wrong.
pub const AHEAD_MAX: Duration = Duration::from_secs(24 * 3600);

/// From here on is looked for instants when a new expression is judged: 2000-01-01T00:00:00Z. What it
/// can match does not depend on the day on which it is set.
const JUDGED_FROM: Timestamp = Timestamp(946_684_800_000);

/// So many instants are looked at for the shortest time between two.
const JUDGED: usize = 400;

/// One schedule of the fleet configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// When it runs.
    pub when: When,
    /// How late a missed run may begin.
    pub catch_up: Duration,
    /// What it does.
    pub action: ScheduledAction,
    /// With which groups; all when empty.
    pub groups: Vec<GroupName>,
    /// Why, for the rollouts it makes.
    pub reason: String,
}

/// What a schedule does.
#[derive(Clone, Debug, PartialEq)]
pub enum ScheduledAction {
    /// Finds targets and executes a rollout to them.
    Update {
        /// Where they come from, as it is written; the fleet's own source when not given.
        source: Option<Value>,
    },
    /// Asks machines for their health and tells of those that are not well.
    HealthCheck,
    /// Has machines remove old generations and collect their store's garbage.
    CleanUp(CleanUp),
}

impl ScheduledAction {
    /// The word of the configuration.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Update { .. } => "update",
            Self::HealthCheck => "health-check",
            Self::CleanUp(_) => "cleanup",
        }
    }
}

/// A cron expression in a zone, and how far its instants are spread.
#[derive(Clone, Debug, PartialEq)]
pub struct When {
    /// The expression, as it is written.
    pub cron: String,
    /// IANA name of the zone.
    pub timezone: String,
    /// A run begins up to this much later than planned.
    pub jitter: Duration,
    parsed: Cron,
    zone: TimeZone,
}

/// Why a text is not a time for a schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CronFault {
    /// Not an expression.
    #[error("{cron:?} is not a cron expression: {why}")]
    Syntax {
        /// The text.
        cron: String,
        /// What is wrong with it.
        why: String,
    },
    /// An expression that no day matches.
    #[error("{0:?} never fires: there is no such day")]
    Never(String),
    /// Two planned instants would change places.
    #[error("a jitter of {} s is not shorter than the {} s between two runs", .jitter.as_secs(), .gap.as_secs())]
    Jitter {
        /// The jitter.
        jitter: Duration,
        /// The shortest time between two planned instants.
        gap: Duration,
    },
    /// Not in the IANA time zone database.
    #[error(transparent)]
    Zone(#[from] window::WindowError),
}

/// One instant of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// What the expression says.
    pub at: Timestamp,
    /// When the run begins: the same, and jitter.
    pub due: Timestamp,
}

impl When {
    /// Reads an expression of five fields, or a word such as `@weekly`. Whether it ever fires is not
    /// asked here.
    ///
    /// # Errors
    /// The expression, or the zone.
    pub fn new(cron: &str, timezone: &str, jitter: Duration) -> Result<Self, CronFault> {
        let parser = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            .build();
        let parsed = parser.parse(cron).map_err(|error| CronFault::Syntax {
            cron: cron.to_owned(),
            why: words(&error),
        })?;
        Ok(Self {
            cron: cron.to_owned(),
            timezone: timezone.to_owned(),
            jitter,
            parsed,
            zone: window::zone(timezone)?,
        })
    }

    /// Whether it fires at all, and its jitter leaves its instants in their order.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn judge(&self) -> Result<(), CronFault> {
        let first = self.after(JUDGED_FROM);
        let mut before = first.ok_or_else(|| CronFault::Never(self.cron.clone()))?;
        if self.jitter.is_zero() {
            return Ok(());
        }
        let mut gap = Duration::MAX;
        for _ in 0..JUDGED {
            let Some(next) = self.after(before) else {
                break;
            };
            gap = gap.min(next.since(before));
            before = next;
        }
        if self.jitter >= gap {
            let jitter = self.jitter;
            return Err(CronFault::Jitter { jitter, gap });
        }
        Ok(())
    }

    /// Whether its planned instants are those of the other.
    pub fn is_same_time(&self, other: &Self) -> bool {
        self.cron == other.cron && self.timezone == other.timezone
    }

    /// The next instant after this one, if there is any.
    pub fn next(&self, name: &ScheduleName, after: Timestamp) -> Option<Planned> {
        self.after(after).map(|at| self.planned(name, at))
    }

    /// The newest instant whose run was to begin by now, at or after this one, which was.
    pub fn newest(&self, name: &ScheduleName, first: Planned, now: Timestamp) -> Planned {
        let mut at = self.before(now, true);
        while let Some(found) = at.filter(|found| *found > first.at) {
            let planned = self.planned(name, found);
            if planned.due <= now {
                return planned;
            }
            at = self.before(found, false);
        }
        first
    }

    /// The last instant before this one.
    pub fn last_before(&self, at: Timestamp) -> Option<Timestamp> {
        self.before(at, false)
    }

    fn planned(&self, name: &ScheduleName, at: Timestamp) -> Planned {
        let due = at + spread(name, at, self.jitter);
        Planned { at, due }
    }

    fn after(&self, after: Timestamp) -> Option<Timestamp> {
        let local = window::local(after, &self.zone)?;
        let next = self.parsed.find_next_occurrence(&local, false).ok()?;
        Some(Timestamp(next.timestamp().as_millisecond()))
    }

    fn before(&self, at: Timestamp, inclusive: bool) -> Option<Timestamp> {
        let local = window::local(at, &self.zone)?;
        let found = self.parsed.find_previous_occurrence(&local, inclusive);
        Some(Timestamp(found.ok()?.timestamp().as_millisecond()))
    }
}

/// What the library says of a text, without its own name for it.
fn words(error: &CronError) -> String {
    match error {
        CronError::EmptyPattern => "it is empty".to_owned(),
        CronError::InvalidPattern(why)
        | CronError::IllegalCharacters(why)
        | CronError::ComponentError(why) => why.trim_end_matches('.').to_owned(),
        CronError::InvalidDate | CronError::InvalidTime | CronError::TimeSearchLimitExceeded => {
            error.to_string()
        }
    }
}

/// A whole number of seconds from zero to the jitter: FNV-1a over name and instant, mixed once more,
/// because neighbouring instants differ in few bits.
fn spread(name: &ScheduleName, at: Timestamp, jitter: Duration) -> Duration {
    let instant = at.as_millis().to_le_bytes();
    let bytes = name.as_str().bytes().chain(instant);
    let mut hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Duration::from_secs((hash ^ (hash >> 29)) % (jitter.as_secs() + 1))
}

/// Where a schedule stands. Part of the facts: fields are only ever added.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Course {
    /// The planned instant that was last dealt with, in whatever way; at first, when it was set.
    pub dealt_with: Timestamp,
    /// Somebody wants the next run left out.
    pub skip: Option<Skip>,
    /// The run that is not finished.
    pub run: Option<ScheduleRun>,
    /// How the newest instant or run ended.
    pub last: Option<Past>,
}

impl Course {
    /// Of a schedule that is set at this instant.
    pub fn from(at: Timestamp) -> Self {
        Self {
            dealt_with: at,
            skip: None,
            run: None,
            last: None,
        }
    }
}

/// A wish that the next run be left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skip {
    /// Whose.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// A run that is not finished.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScheduleRun {
    /// Its number; rises over all schedules.
    pub number: u64,
    /// The planned instant that it is for; none when somebody asked for it.
    pub planned: Option<Timestamp>,
    /// Who asked for it; empty when time did.
    pub by: String,
    /// When it began.
    pub began_at: Timestamp,
    /// With which groups; all when empty.
    pub groups: Vec<GroupName>,
    /// Where it stands.
    pub stage: Stage,
    /// Machines that its rollout leaves out, because they take part in another one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
}

/// A machine that a run leaves out, and the rollout that it takes part in.
pub type LeftOut = (MachineName, RolloutId);

/// Where a run stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Its targets are being found out.
    Resolving,
    /// This rollout is what it does.
    Rollout(RolloutId),
    /// Machines are asked for their health.
    Checking,
    /// Machines are asked to clean up, and to keep this.
    Cleaning(CleanUp),
}

/// How an instant or a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    /// In which way.
    pub how: How,
    /// The planned instant; none of a run that somebody asked for.
    pub planned: Option<Timestamp>,
    /// When it ended.
    pub at: Timestamp,
    /// A sentence.
    pub text: String,
    /// The rollout that it made.
    #[serde(default)]
    pub rollout: Option<RolloutId>,
}

/// In which way an instant or a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// It ran, and what came of it is as it should be.
    Finished,
    /// It ran, and somebody should look.
    Failed,
    /// It was not begun: somebody wanted it so, or something stood in its way.
    Skipped,
    /// Nobody was there to begin it in time.
    Missed,
}

impl How {
    /// One word, as in `lab schedule list`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Missed => "missed",
        }
    }
}
