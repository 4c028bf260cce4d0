//! Every fact that can be recorded of a schedule: what it changes, what it may follow on, and what
//! the history keeps of it.

use common::{GroupName, RolloutId, ScheduleName, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Course, How, LeftOut, Past, ScheduleRun, Skip, Stage};
use crate::{
    config::FleetConfig,
    fleet::{Facts, Fleet},
    history::Entry,
};

/// One fact. Stored as JSON: variants and fields are only ever added.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum ScheduleStep {
    /// A run began.
    Began {
        /// The whole of it.
        run: ScheduleRun,
    },
    /// The run came to a rollout, which is the fact before this one.
    Executed {
        /// Which.
        rollout: RolloutId,
        /// Machines that are not in it, because they take part in another one. Journals of before
        /// that was so do not say it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        left_out: Vec<LeftOut>,
    },
    /// The run is over.
    Ended {
        /// Whether all is as it should be.
        succeeded: bool,
        /// Nothing was begun, because every machine takes part in another rollout.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        skipped: bool,
        /// A sentence.
        text: String,
        /// When.
        at: Timestamp,
    },
    /// Planned instants passed without a run.
    Passed {
        /// Skipped or missed.
        how: How,
        /// The first of them.
        first: Timestamp,
        /// The last of them.
        planned: Timestamp,
        /// Why.
        text: String,
        /// When that was found.
        at: Timestamp,
    },
    /// The next run is to be left out.
    Skip {
        /// Who wants it.
        by: String,
        /// Why.
        reason: String,
        /// When.
        at: Timestamp,
    },
    /// What was dealt with while the clock was far ahead does not count.
    SetBack {
        /// It goes on from here.
        to: Timestamp,
    },
}

impl ScheduleStep {
    /// The number of the run that begins with it.
    pub(crate) fn run_number(&self) -> Option<u64> {
        match self {
            Self::Began { run } => Some(run.number),
            Self::Executed { .. }
            | Self::Ended { .. }
            | Self::Passed { .. }
            | Self::Skip { .. }
            | Self::SetBack { .. } => None,
        }
    }
}

/// In which way a run ended.
fn ended(succeeded: bool, skipped: bool) -> How {
    match (succeeded, skipped) {
        (true, _) => How::Finished,
        (false, true) => How::Skipped,
        (false, false) => How::Failed,
    }
}

/// Whom a run leaves out, the first few by name.
pub(crate) fn told(machines: impl Iterator<Item = String>) -> String {
    const SHOWN: usize = 4;
    let out: Vec<String> = machines.collect();
    let shown = out[..out.len().min(SHOWN)].join(", ");
    match out.len().saturating_sub(SHOWN) {
        0 => format!("left out: {shown}"),
        more => format!("left out: {shown} and {more} more"),
    }
}

/// A machine that takes part in another rollout.
pub(crate) fn of_another((machine, rollout): &LeftOut) -> String {
    format!("{machine} (in rollout {rollout})")
}

/// Who a rollout is from that a schedule made.
pub(crate) fn author(schedule: &ScheduleName) -> String {
    format!("schedule:{schedule}")
}

impl Course {
    /// Makes a fact true.
    pub(crate) fn apply(&mut self, step: &ScheduleStep) {
        match step {
            ScheduleStep::Began { run } => {
                self.dealt_with = run.planned.unwrap_or(self.dealt_with);
                self.run = Some(run.clone());
            }
            ScheduleStep::Executed { rollout, left_out } => {
                if let Some(run) = &mut self.run {
                    run.stage = Stage::Rollout(rollout.clone());
                    run.left_out.clone_from(left_out);
                }
            }
            ScheduleStep::Ended {
                succeeded,
                skipped,
                text,
                at,
            } => {
                let run = self.run.take();
                let how = ended(*succeeded, *skipped);
                self.last = Some(Past {
                    how,
                    planned: run.as_ref().and_then(|run| run.planned),
                    at: *at,
                    text: text.clone(),
                    rollout: run.as_ref().and_then(ScheduleRun::rollout).cloned(),
                });
            }
            ScheduleStep::Passed {
                how,
                planned,
                text,
                at,
                ..
            } => {
                self.dealt_with = *planned;
                self.skip = None;
                self.last = Some(Past {
                    how: *how,
                    planned: Some(*planned),
                    at: *at,
                    text: text.clone(),
                    rollout: None,
                });
            }
            ScheduleStep::Skip { by, reason, .. } => {
                self.skip = Some(Skip {
                    by: by.clone(),
                    reason: reason.clone(),
                });
            }
            ScheduleStep::SetBack { to } => self.dealt_with = *to,
        }
    }

    /// Whether this fact may follow: an instant is dealt with once, one run is unfinished at a time,
    /// and none begins under an emergency stop.
    pub(crate) fn takes(
        &self,
        step: &ScheduleStep,
        stopped: impl Fn(&[GroupName]) -> bool,
    ) -> bool {
        match step {
            ScheduleStep::Began { run } => {
                let new = run.planned.is_none_or(|planned| planned > self.dealt_with);
                // Whoever wanted the next one left out did not mean one that is asked for.
                let wanted = run.planned.is_none() || self.skip.is_none();
                new && wanted && self.run.is_none() && !stopped(&run.groups)
            }
            ScheduleStep::Executed { .. } => {
                let run = self.run.as_ref();
                run.is_some_and(|run| run.stage == Stage::Resolving)
            }
            ScheduleStep::Ended { .. } => self.run.is_some(),
            ScheduleStep::Passed { first, planned, .. } => {
                *first > self.dealt_with && first <= planned
            }
            ScheduleStep::Skip { .. } => self.skip.is_none(),
            ScheduleStep::SetBack { to } => *to < self.dealt_with,
        }
    }
}

impl ScheduleRun {
    /// The rollout that it made.
    pub fn rollout(&self) -> Option<&RolloutId> {
        match &self.stage {
            Stage::Rollout(id) => Some(id),
            Stage::Resolving | Stage::Checking | Stage::Cleaning(_) => None,
        }
    }

    /// What a sentence about its rollout goes on with: whom it leaves out.
    pub(crate) fn without(&self) -> String {
        match self.left_out[..] {
            [] => String::new(),
            _ => format!("; {}", told(self.left_out.iter().map(of_another))),
        }
    }
}

impl Facts {
    /// Another configuration comes into force. A schedule that is new, or has other times, goes on
    /// from here: what would have been before then was never planned.
    pub(crate) fn follow_schedules(&mut self, config: &FleetConfig, at: Timestamp) {
        let before = self.config.as_ref();
        let known = &config.schedules;
        self.courses.retain(|name, _| known.contains_key(name));
        for (name, schedule) in known {
            let course = self.courses.entry(name.clone());
            let course = course.or_insert_with(|| Course::from(at));
            let old = before.and_then(|before| before.schedules.get(name));
            if !old.is_some_and(|old| old.when.is_same_time(&schedule.when)) {
                course.dealt_with = at;
            }
        }
    }
}

impl Fleet {
    /// What the history keeps.
    pub(crate) fn entry_of_schedule(
        &self,
        schedule: &ScheduleName,
        step: &ScheduleStep,
        at: Timestamp,
    ) -> Option<Entry> {
        let entry = |kind: &str, by: &str, text: &str| Entry {
            at,
            kind: format!("schedule-{kind}"),
            by: match by {
                "" => author(schedule),
                by => by.to_owned(),
            },
            text: format!("{schedule}: {text}"),
            ..Entry::default()
        };
        Some(match step {
            ScheduleStep::Began { run } => {
                let text = match run.planned {
                    Some(planned) => format!("run {}, planned for {}", run.number, shown(planned)),
                    None => format!("run {}, asked for", run.number),
                };
                entry("began", &run.by, &text)
            }
            // The rollout itself is told.
            ScheduleStep::Executed { left_out, .. } if left_out.is_empty() => return None,
            ScheduleStep::Executed { rollout, left_out } => Entry {
                rollout: Some(rollout.clone()),
                ..entry("left-out", "", &told(left_out.iter().map(of_another)))
            },
            ScheduleStep::Ended {
                succeeded,
                skipped,
                text,
                ..
            } => {
                let kind = ended(*succeeded, *skipped).word();
                let run = self.course(schedule).and_then(|course| course.run.as_ref());
                Entry {
                    rollout: run.and_then(ScheduleRun::rollout).cloned(),
                    ..entry(kind, "", text)
                }
            }
            ScheduleStep::Passed {
                how,
                first,
                planned,
                text,
                ..
            } => {
                let when = if first == planned {
                    format!("planned for {}", shown(*planned))
                } else {
                    format!("planned from {} to {}", shown(*first), shown(*planned))
                };
                entry(how.word(), "", &format!("{when}: {text}"))
            }
            ScheduleStep::Skip { by, reason, .. } => {
                let text = match reason.as_str() {
                    "" => "the next run is to be left out".to_owned(),
                    reason => format!("the next run is to be left out: {reason}"),
                };
                entry("skip", by, &text)
            }
            ScheduleStep::SetBack { to } => {
                let text = format!("the clock was far ahead; it goes on from {}", shown(*to));
                entry("set-back", "", &text)
            }
        })
    }
}

/// An instant as it is told: RFC 3339, UTC.
pub(crate) fn shown(at: Timestamp) -> String {
    let instant = jiff::Timestamp::from_millisecond(at.as_millis());
    instant.map_or_else(
        |_| at.as_millis().to_string(),
        |instant| instant.to_string(),
    )
}
