//! Wait reasons in words: one sentence for each, with its numbers, and what to do about it.

use std::fmt;

use common::time::span;

use super::{FourEyes, WaitReason};
use crate::window::clock;

/// `a, b and 3 more`.
pub(crate) fn list<T: fmt::Display>(items: &[T]) -> String {
    const SHOWN: usize = 4;
    let mut text = items
        .iter()
        .take(SHOWN)
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ");
    if items.len() > SHOWN {
        text.push_str(&format!(" and {} more", items.len() - SHOWN));
    }
    text
}

impl fmt::Display for FourEyes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { author, path } = self;
        write!(f, "by somebody other than {author} ({path})")
    }
}

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped { by, reason } => write!(f, "emergency stop by {by}: {reason}"),
            Self::Paused {
                rollout, reason, ..
            } => write!(f, "rollout {rollout} is paused: {reason}"),
            Self::NoRollout => f.write_str("no rollout has work for this machine"),
            Self::UpToDate => f.write_str("already runs its target"),
            Self::MovedOn { rollout } => {
                write!(f, "runs something else than what rollout {rollout} brought")
            }
            Self::NoTarget => f.write_str("nobody has said yet what this machine is to run"),
            Self::NoSuchGeneration { number } => write!(f, "has no generation {number}"),
            Self::NothingBefore => f.write_str("nothing is known that it ran before"),
            Self::UnknownMachine => f.write_str("in no group of the fleet configuration"),
            Self::Quarantined {
                by,
                reason,
                at,
                zone,
                ..
            } => {
                let since = clock(*at, zone);
                write!(f, "in quarantine since {since}, by {by}: {reason}")
            }
            Self::Retry {
                until,
                tries,
                reason,
                zone,
            } => write!(
                f,
                "failed {tries} × ({reason}), and tries again from {}",
                clock(*until, zone)
            ),
            Self::Retrying { machines, .. } => write!(
                f,
                "the budget has no room beside {}, which failed and {} to try again",
                list(machines),
                if machines.len() == 1 { "is" } else { "are" }
            ),
            Self::TargetQuarantined {
                by,
                reason,
                at,
                zone,
                ..
            } => {
                let since = clock(*at, zone);
                write!(
                    f,
                    "its target is in quarantine since {since}, by {by}: {reason}"
                )
            }
            Self::BadTarget { reason } => write!(f, "this target failed here before: {reason}"),
            Self::TargetNotAllowed { reason } => write!(f, "its target is not allowed: {reason}"),
            Self::Final { state, reason } => {
                write!(f, "has ended its part of the rollout: {state}")?;
                match reason.as_str() {
                    "" => Ok(()),
                    reason => write!(f, " ({reason})"),
                }
            }
            Self::Offline {
                since: Some(since),
                zone,
            } => write!(f, "not heard of since {}", clock(*since, zone)),
            Self::Offline { since: None, .. } => f.write_str("never heard of"),
            Self::Staging { .. } => f.write_str("still obtaining and checking its target"),
            Self::CleaningUp { .. } => {
                f.write_str("removes old generations first, as a schedule wants")
            }
            Self::StagingFailed { reason, .. } => {
                write!(f, "could not obtain its target: {reason}")
            }
            Self::Dependency { group, .. } => write!(f, "group {group} must be finished first"),
            Self::Stagger { group, until, zone } => {
                let until = clock(*until, zone);
                write!(f, "time must pass after group {group}, until {until}")
            }
            Self::Approval {
                group, four_eyes, ..
            } => {
                write!(f, "group {group} waits for approval")?;
                match four_eyes {
                    Some(others) => write!(f, " {others}"),
                    None => Ok(()),
                }
            }
            Self::Held { group, wave, .. } => write!(
                f,
                "wave {wave} of group {group} is done, and somebody must let the next one go"
            ),
            Self::WindowClosed {
                opens_at: Some(opens_at),
                zone,
            } => {
                let opens_at = clock(*opens_at, zone);
                write!(f, "the maintenance window opens at {opens_at}")
            }
            Self::WindowClosed { opens_at: None, .. } => {
                f.write_str("the maintenance window does not open for long enough within two years")
            }
            Self::Frozen {
                calendar,
                entry,
                opens_at,
                zone,
                ..
            } => {
                write!(f, "frozen by {entry} in calendar {calendar}; ")?;
                match opens_at {
                    Some(at) => write!(f, "it can go at {}", clock(*at, zone)),
                    None => f.write_str("within two years no time is left for it"),
                }
            }
            Self::WindowTooShort {
                needs,
                left,
                opens_at,
                zone,
                ..
            } => {
                write!(
                    f,
                    "{} of the maintenance window are left, an update is expected to take {}; ",
                    span(*left),
                    span(*needs)
                )?;
                match opens_at {
                    Some(at) => write!(f, "the next one opens at {}", clock(*at, zone)),
                    None => f.write_str("within two years no window is long enough"),
                }
            }
            Self::WaveNotOpen { wave, open, .. } if wave == open => {
                write!(f, "in wave {wave}, which has not opened yet")
            }
            Self::WaveNotOpen { wave, open, .. } => {
                write!(f, "in wave {wave}; wave {open} has not closed yet")
            }
            Self::Soaking { until, zone } => {
                let until = clock(*until, zone);
                write!(f, "the wave before must stay healthy until {until}")
            }
            Self::Analysing {
                gate,
                passed,
                needed,
                failed,
                inconclusive,
                errors,
                ..
            } => {
                write!(f, "gate {gate} must pass first: {passed} of {needed}")?;
                let others = [
                    (failed, "failed"),
                    (inconclusive, "inconclusive"),
                    (errors, "errors"),
                ];
                for (count, what) in others.into_iter().filter(|(count, _)| **count > 0) {
                    write!(f, ", {count} {what}")?;
                }
                Ok(())
            }
            Self::GroupUnhealthy { machines } => {
                write!(
                    f,
                    "updated in this group and not healthy: {}",
                    list(machines)
                )
            }
            Self::MachineUnhealthy { checks } if checks.is_empty() => {
                f.write_str("not healthy itself")
            }
            Self::MachineUnhealthy { checks } => write!(f, "not healthy itself: {}", list(checks)),
            Self::GroupLimit { away, allowed } => {
                write!(
                    f,
                    "{allowed} of the group may be away at once; away now: {}",
                    list(away)
                )
            }
            Self::Apart { machines } => write!(
                f,
                "not to be away together with {}, which is not there or not healthy",
                list(machines)
            ),
            Self::CoordinatorLast { groups } => write!(
                f,
                "runs a coordinator and goes after everybody else; not done: {}",
                list(groups)
            ),
            Self::Quorum { machines, allowed } => write!(
                f,
                "{allowed} of the machines that run a coordinator may be away at once; not there or not \
                 healthy: {}",
                list(machines)
            ),
            Self::LiveSide {
                group,
                side,
                was: Some(was),
                ..
            } => write!(
                f,
                "on side {side} of group {group} by now, and on side {was} when its rollout began, which \
                 leaves it as it is"
            ),
            Self::LiveSide {
                group,
                first: Some(first),
                ..
            } => write!(
                f,
                "rollout {first} is at work on group {group} as well, and moves its traffic first"
            ),
            Self::LiveSide {
                group,
                side,
                behind,
                was: None,
                first: None,
            } => {
                write!(f, "side {side} of group {group} holds the traffic")?;
                match behind[..] {
                    [] => Ok(()),
                    _ => write!(f, ", and the other side is behind: {}", list(behind)),
                }
            }
            Self::TrafficMoving {
                group,
                to,
                attempt,
                error,
                machines,
                until,
                zone,
            } => {
                write!(
                    f,
                    "the traffic of group {group} is moved to side {to} first; "
                )?;
                let until = clock(*until, zone);
                match (error, &machines[..]) {
                    (Some(error), _) => write!(
                        f,
                        "attempt {attempt} failed: {error}; the next one begins at {until}"
                    ),
                    (None, []) => write!(f, "attempt {attempt} has until {until}"),
                    (None, machines) => {
                        let machines = list(machines);
                        write!(f, "the scripts of {machines} are waited for until {until}")
                    }
                }
            }
            Self::SideNotReady {
                group,
                side,
                machines,
            } => write!(
                f,
                "the traffic of group {group} is to be moved to side {side}, which is not ready: {}",
                list(machines)
            ),
            Self::FleetLimit { away, allowed } => {
                write!(
                    f,
                    "{allowed} of the fleet may be away at once; away now: {}",
                    list(away)
                )
            }
        }
    }
}
