//! Why an attempt is not confirmed.

use common::{StorePath, text};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::foreign::Said;

/// Why an attempt is not confirmed. Each has one way to end (see `attempt`), and is either the
/// target's fault or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case", remote = "Self")]
pub enum Cause {
    /// Emergency stop, or an epoch newer than the lease's.
    #[error("emergency stop")]
    Stopped,
    /// The lease ran out, or was about to, before the point of no return.
    #[error("the lease ran out before the machine was changed")]
    LeaseRanOut,
    /// The coordinator does not know the lease.
    #[error("the coordinator does not know the lease: {0}")]
    NotHeld(String),
    /// The target failed here before and was not asked for by force.
    #[error("the target failed on this machine before ({0}); `--retry-failed` tries it again")]
    BadTarget(String),
    /// The target could not be obtained, or a check before the attempt said no.
    #[error("staging failed: {0}")]
    Staging(String),
    /// The machine has its turn, and something that must hold before an update does not any more.
    #[error("not ready for an update: {0}")]
    NotReady(String),
    /// The machine's state before could not be recorded.
    #[error("the machine's state could not be recorded: {0}")]
    Snapshot(String),
    /// The dead-man timer could not be started.
    #[error("the dead-man timer could not be started: {0}")]
    Arming(String),
    /// The pre-update hook said no.
    #[error("the pre-update hook failed: {0}")]
    PreHook(String),
    /// How the pre-update hook ended is not known.
    #[error("how the pre-update hook ended is not known: {0}")]
    PreHookUnknown(String),
    /// Somebody else kept switching this machine.
    #[error("somebody else is switching this machine")]
    Busy,
    /// Somebody else switched the machine, or its next boot, before the target's own switch began.
    #[error(
        "somebody else switched the machine to {0} when its turn had begun; it was left as it is"
    )]
    ChangedBefore(StorePath),
    /// Somebody else switched the machine after the target's own switch had begun.
    #[error("somebody else switched the machine to {0} in the meantime; it was left as it is")]
    ChangedMeanwhile(StorePath),
    /// The target's own switch failed, or did not end.
    #[error("activation failed: {0}")]
    Activation(String),
    /// The machine did not get as far as the target's own switch, or nobody saw how it ended.
    #[error("the target could not be activated: {0}")]
    NotActivated(String),
    /// The process came to a step when the lease might not have held any more.
    #[error("the lease ran out before the next step could be begun")]
    TooLate,
    /// Going there takes a reboot, which is not allowed.
    #[error("staged for the next boot: a reboot is needed and not allowed")]
    RebootNotAllowed,
    /// The reboot was asked for and did not happen.
    #[error("the reboot did not happen")]
    RebootDidNotHappen,
    /// Another system came up than the one asked for.
    #[error("the machine booted {}", .0.as_ref().map_or("an unknown system", StorePath::as_str))]
    WrongBoot(Option<StorePath>),
    /// The post-update hook failed.
    #[error("the post-update hook failed: {0}")]
    PostHook(String),
    /// How the post-update hook ended is not known.
    #[error("how the post-update hook ended is not known: {0}")]
    PostHookUnknown(String),
    /// The machine could not be judged.
    #[error("the machine could not be judged: {0}")]
    NotJudged(String),
    /// The judgement said no.
    #[error("unhealthy: {0}")]
    Unhealthy(String),
    /// The judgement said yes, but the machine does not run the target.
    #[error("the machine runs {}", .0.as_ref().map_or("an unknown system", StorePath::as_str))]
    WrongSystem(Option<StorePath>),
    /// The dead-man timer went off.
    #[error("the dead-man timer went off")]
    DeadMan,
    /// The attempt had more steps than any attempt can need.
    #[error("the attempt did not come to an end")]
    Endless,
    /// The attempt was begun by another version of the agent, and is in a step that this one does
    /// not know.
    #[error("another version of the agent was in the step {0:?}, which this one does not know")]
    UnknownStep(String),
    /// The reason of another version of the agent, in its words.
    #[error("{0}")]
    Other(String),
}

impl Serialize for Cause {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, to)
    }
}

/// A reason that this agent does not know is kept as text.
impl<'de> Deserialize<'de> for Cause {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Found {
            Known(#[serde(deserialize_with = "Cause::deserialize")] Cause),
            Foreign(Said),
        }
        Ok(match Found::deserialize(from)? {
            Found::Known(cause) => cause,
            Found::Foreign(said) => Self::Other(said.text()),
        })
    }
}

impl Cause {
    /// Whether the target is to be remembered as bad on this machine.
    pub fn blames_target(&self) -> bool {
        match self {
            Self::Activation(_)
            | Self::WrongBoot(_)
            | Self::PostHook(_)
            | Self::Unhealthy(_)
            | Self::WrongSystem(_)
            | Self::DeadMan => true,
            Self::Stopped
            | Self::LeaseRanOut
            | Self::NotHeld(_)
            | Self::BadTarget(_)
            | Self::Staging(_)
            | Self::NotReady(_)
            | Self::Snapshot(_)
            | Self::Arming(_)
            | Self::PreHook(_)
            | Self::PreHookUnknown(_)
            | Self::Busy
            | Self::ChangedBefore(_)
            | Self::ChangedMeanwhile(_)
            | Self::TooLate
            | Self::NotActivated(_)
            | Self::PostHookUnknown(_)
            | Self::NotJudged(_)
            | Self::RebootNotAllowed
            | Self::RebootDidNotHappen
            | Self::Endless
            | Self::UnknownStep(_)
            | Self::Other(_) => false,
        }
    }

    /// Whether it is an answer to how the machine is on the target: where policy says so, one that is
    /// not good leaves the machine there. The dead-man program asks for no policy.
    pub(crate) fn judges_target(&self) -> bool {
        match self {
            Self::Activation(_)
            | Self::WrongBoot(_)
            | Self::PostHook(_)
            | Self::PostHookUnknown(_)
            | Self::NotJudged(_)
            | Self::Unhealthy(_)
            | Self::WrongSystem(_) => true,
            Self::DeadMan
            | Self::NotActivated(_)
            | Self::TooLate
            | Self::Stopped
            | Self::LeaseRanOut
            | Self::NotHeld(_)
            | Self::BadTarget(_)
            | Self::Staging(_)
            | Self::NotReady(_)
            | Self::Snapshot(_)
            | Self::Arming(_)
            | Self::PreHook(_)
            | Self::PreHookUnknown(_)
            | Self::Busy
            | Self::ChangedBefore(_)
            | Self::ChangedMeanwhile(_)
            | Self::RebootNotAllowed
            | Self::RebootDidNotHappen
            | Self::Endless
            | Self::UnknownStep(_)
            | Self::Other(_) => false,
        }
    }

    /// The reason as it is reported: one line, bounded.
    pub fn reason(&self) -> String {
        text::tame_line(&self.to_string(), text::REASON_MAX)
    }
}
