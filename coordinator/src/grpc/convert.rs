//! The only room that names both wire types and core types: free functions, one way each.
//!
//! Whatever is malformed stops here, with a reason; text from outside is bounded and tamed.

pub(super) mod agent;
mod changes;
pub(super) mod identities;
pub(super) mod in_force;
pub(super) mod operator;
pub mod plan;
pub mod schedules;
pub mod status;
#[cfg(test)]
mod tests;
pub mod traffic;
pub(super) mod wait;

use std::{fmt::Display, str::FromStr, time::Duration};

use common::{StorePath, Timestamp};
use coordinator_core::{Reply, request::Refusal, returns::NO_WAY_BACK, view::View};
use tonic::{Status, metadata::MetadataValue};

use crate::{
    driver::{PollError, Stopped},
    issue::IssueError,
    store::StoreError,
};

/// Metadata key under which a refusal says what to try next.
const HINT: &str = "lab-hint";

/// A message that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {text}")]
pub(super) struct Malformed {
    /// Which field.
    pub(super) field: &'static str,
    /// What is wrong with it.
    pub(super) text: String,
}

impl Malformed {
    pub(super) fn new(field: &'static str, text: impl Display) -> Self {
        // Never echoes more of the input than a person needs.
        let text = common::text::tame_line(&text.to_string(), 200);
        Self { field, text }
    }
}

impl From<Malformed> for Status {
    fn from(malformed: Malformed) -> Self {
        Self::invalid_argument(malformed.to_string())
    }
}

/// A refusal as `lab` turns it into an exit status.
pub(super) fn refusal(refusal: &Refusal) -> Status {
    let text = refusal.to_string();
    match refusal {
        Refusal::NotFound { what, .. } => hinted(Status::not_found(text), where_listed(what)),
        Refusal::NotNow(_) => Status::failed_precondition(text),
        Refusal::Changed(_) => Status::aborted(text),
        Refusal::Forbidden(_) => Status::permission_denied(text),
        Refusal::Invalid(_) => Status::invalid_argument(text),
        Refusal::Faults(faults) => {
            let all: Vec<String> = faults.iter().map(ToString::to_string).collect();
            Status::invalid_argument(format!("{text}: {}", all.join("; ")))
        }
    }
}

/// The commands that list what there is of this kind.
fn where_listed(what: &str) -> &'static str {
    match what {
        "token" => "see what there is: lab token list",
        "certificate" | "identity" | "request to return of machine" => {
            "see what there is: lab identity list"
        }
        "rollout" => "see what there is: lab update status --all",
        "revision of the configuration" => "see what there is: lab update-config log",
        "notification channel" => "see what there is: lab update-config show",
        what if what.starts_with("machine") || what == "group" => "see what there is: lab machines",
        _ => "see what there is: lab update status",
    }
}

/// With what to try next.
pub(super) fn hinted(mut status: Status, hint: &str) -> Status {
    if let Ok(hint) = MetadataValue::try_from(hint) {
        status.metadata_mut().insert(HINT, hint);
    }
    status
}

/// Metadata key of gRPC's own for how many milliseconds later a caller may try again.
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// Come back later: this is no failure of what was asked.
pub(super) fn too_many(wait: Duration) -> Status {
    let millis = millis(wait).max(1);
    let text = format!(
        "too many requests; try again in {} s",
        millis.div_ceil(1000)
    );
    let mut status = Status::resource_exhausted(text);
    status.metadata_mut().insert(PUSHBACK, millis.into());
    status
}

pub(super) fn stopped(stopped: Stopped) -> Status {
    Status::unavailable(stopped.to_string())
}

pub(super) fn unanswered(error: PollError) -> Status {
    match error {
        PollError::Stopped(why) => stopped(why),
        PollError::Superseded => Status::cancelled(error.to_string()),
    }
}

/// Reading the past failed. The cause is for the journal, not for the caller.
pub(super) fn unreadable(error: &StoreError) -> Status {
    tracing::error!("{}", common::error_chain::Chain(error));
    Status::internal("the store cannot be read; the coordinator's journal says why")
}

pub(super) fn not_issued(error: IssueError) -> Status {
    match error {
        IssueError::Refused(why) => refusal(&why),
        IssueError::Stopped(why) => stopped(why),
        IssueError::Ca(error @ crate::ca::CaError::Request(_)) => {
            Status::invalid_argument(error.to_string())
        }
        // One answer for all, as the core has for what it refuses.
        IssueError::NotOurs(_) | IssueError::NoWayBack { .. } => {
            Status::permission_denied(NO_WAY_BACK)
        }
        error @ (IssueError::Ca(_) | IssueError::Unexpected) => {
            tracing::error!("{}", common::error_chain::Chain(&error));
            Status::internal("the certificate could not be made; the journal says why")
        }
    }
}

/// An answer that is not the one hoped for: a refusal, or a bug.
pub(super) fn other(reply: &Reply) -> Status {
    if let Reply::Refused(why) = reply {
        return refusal(why);
    }
    unexpected()
}

/// As [`other`], of a look at the fleet.
pub(super) fn other_view(view: &View) -> Status {
    if let View::Refused(why) = view {
        return refusal(why);
    }
    unexpected()
}

/// The core answered with something that this request has no answer for: a bug.
fn unexpected() -> Status {
    Status::internal("the fleet answered with something else")
}

/// A name of any kind.
pub(super) fn name<T>(field: &'static str, text: &str) -> Result<T, Malformed>
where
    T: FromStr,
    T::Err: Display,
{
    text.parse().map_err(|error| Malformed::new(field, error))
}

/// A name, or nothing when it is empty.
pub(super) fn optional<T>(field: &'static str, text: &str) -> Result<Option<T>, Malformed>
where
    T: FromStr,
    T::Err: Display,
{
    if text.is_empty() {
        Ok(None)
    } else {
        name(field, text).map(Some)
    }
}

pub(super) fn path(path: Option<&StorePath>) -> String {
    path.map_or_else(String::new, ToString::to_string)
}

/// RFC 3339, UTC, whole seconds.
pub(super) fn time(at: Timestamp) -> String {
    let at = jiff::Timestamp::from_millisecond(at.as_millis());
    // Only times beyond the year 9999 do not fit.
    let at = at.unwrap_or(jiff::Timestamp::MAX);
    format!("{at:.0}")
}

/// Milliseconds that fit the wire.
pub(super) fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// Seconds from one time to another; negative when it has passed.
pub(super) fn seconds_until(at: Timestamp, now: Timestamp) -> i64 {
    at.as_millis().saturating_sub(now.as_millis()) / 1000
}

pub(super) fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
