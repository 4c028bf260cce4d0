//! What may follow what: one function for each state machine of a rollout. A step that no rule
//! knows leads nowhere; `apply` leaves the state as it is then, and [`crate::invariants::follows`]
//! says so.

use common::{LeaseId, OutcomeKind, Timestamp};

use crate::rollout::{
    Approval, PauseReason, Place, PlaceState, RETURNS_MAX, Rollout, RolloutGroup, RolloutState,
    Wave, WaveState,
};

/// What happens to a machine's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PlaceStep {
    /// It is granted this lease.
    Granted(LeaseId),
    /// Its lease ran out.
    Overdue,
    /// It is heard of again.
    Revived,
    /// Its attempt ended, after it had given its turn back so many times.
    Ended(OutcomeKind, u32),
    /// It is given up: silent for too long, or forgotten.
    Lost,
    /// It turned out to run the target.
    Arrived,
    /// It says no, or did not obtain the target in time.
    Declined,
    /// It is left out.
    Skipped,
    /// It is to try again.
    Retried,
}

impl PlaceState {
    /// The state that follows; `None` where the step does not exist.
    pub(crate) fn next(self, step: PlaceStep) -> Option<Self> {
        match self {
            Self::Pending => match step {
                PlaceStep::Granted(lease) => Some(Self::Leased(lease)),
                PlaceStep::Arrived => Some(Self::Updated),
                PlaceStep::Declined => Some(Self::Refused),
                PlaceStep::Skipped => Some(Self::Skipped),
                PlaceStep::Overdue
                | PlaceStep::Revived
                | PlaceStep::Ended(..)
                | PlaceStep::Retried
                | PlaceStep::Lost => None,
            },
            Self::Leased(lease) => match step {
                PlaceStep::Overdue => Some(Self::Overdue(lease)),
                PlaceStep::Ended(outcome, returned) => Some(after(outcome, returned)),
                PlaceStep::Lost => Some(Self::Failed),
                PlaceStep::Granted(_)
                | PlaceStep::Revived
                | PlaceStep::Arrived
                | PlaceStep::Declined
                | PlaceStep::Retried
                | PlaceStep::Skipped => None,
            },
            Self::Overdue(lease) => match step {
                PlaceStep::Revived => Some(Self::Leased(lease)),
                PlaceStep::Ended(outcome, returned) => Some(after(outcome, returned)),
                PlaceStep::Lost => Some(Self::Failed),
                PlaceStep::Granted(_)
                | PlaceStep::Overdue
                | PlaceStep::Arrived
                | PlaceStep::Declined
                | PlaceStep::Retried
                | PlaceStep::Skipped => None,
            },
            Self::RolledBack | Self::Refused => match step {
                PlaceStep::Retried => Some(Self::Pending),
                PlaceStep::Granted(_)
                | PlaceStep::Overdue
                | PlaceStep::Revived
                | PlaceStep::Ended(..)
                | PlaceStep::Lost
                | PlaceStep::Arrived
                | PlaceStep::Declined
                | PlaceStep::Skipped => None,
            },
            Self::Updated | Self::Failed | Self::RebootRequired | Self::Skipped => None,
        }
    }
}

/// What an attempt's outcome leads to.
fn after(outcome: OutcomeKind, returned: u32) -> PlaceState {
    match outcome {
        OutcomeKind::Confirmed => PlaceState::Updated,
        OutcomeKind::RolledBack => PlaceState::RolledBack,
        OutcomeKind::Stuck => PlaceState::Failed,
        OutcomeKind::RebootRequired => PlaceState::RebootRequired,
        OutcomeKind::Refused => PlaceState::Refused,
        OutcomeKind::Abandoned if returned < RETURNS_MAX => PlaceState::Pending,
        OutcomeKind::Abandoned => PlaceState::Refused,
    }
}

/// What happens to a wave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaveStep {
    /// Its machines may go, from this instant.
    Opened(Timestamp),
    /// Everybody is back; healthy time is to pass until this instant.
    Soaks(Timestamp),
    /// It is done.
    Closed,
    /// The traffic under which it soaks leaves it, at this instant.
    Left(Timestamp),
}

impl WaveState {
    /// The state that follows; `None` where the step does not exist.
    pub(crate) fn next(self, step: WaveStep) -> Option<Self> {
        match self {
            Self::Waiting => match step {
                WaveStep::Opened(at) => Some(Self::Open(at)),
                WaveStep::Soaks(_) | WaveStep::Closed | WaveStep::Left(_) => None,
            },
            Self::Open(_) => match step {
                WaveStep::Soaks(until) => Some(Self::Soaking(until)),
                WaveStep::Closed => Some(Self::Closed),
                WaveStep::Opened(_) | WaveStep::Left(_) => None,
            },
            Self::Soaking(_) => match step {
                WaveStep::Closed => Some(Self::Closed),
                WaveStep::Left(at) => Some(Self::Open(at)),
                WaveStep::Opened(_) | WaveStep::Soaks(_) => None,
            },
            Self::Closed => None,
        }
    }
}

/// What happens to a group's approval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ApprovalStep {
    /// A person is asked, at this instant.
    Asked(Timestamp),
    /// A person said yes.
    Given {
        /// Who.
        by: String,
        /// What they said to it.
        comment: String,
        /// When.
        at: Timestamp,
    },
    /// The wave it was given for has closed, and another one is to be approved.
    NextWave,
    /// The rollout goes on after a pause: who was asked is asked anew.
    Resumed,
}

impl Approval {
    /// The state that follows; `None` where the step does not exist.
    pub(crate) fn next(&self, step: ApprovalStep) -> Option<Self> {
        match self {
            Self::Needed => match step {
                ApprovalStep::Asked(at) => Some(Self::Asked(at)),
                ApprovalStep::Given { by, comment, at } => Some(Self::Given { by, comment, at }),
                ApprovalStep::Resumed => Some(Self::Needed),
                ApprovalStep::NextWave => None,
            },
            Self::Asked(_) => match step {
                ApprovalStep::Given { by, comment, at } => Some(Self::Given { by, comment, at }),
                ApprovalStep::Resumed => Some(Self::Needed),
                ApprovalStep::Asked(_) | ApprovalStep::NextWave => None,
            },
            Self::Given { .. } => match step {
                ApprovalStep::NextWave => Some(Self::Needed),
                ApprovalStep::Resumed => Some(self.clone()),
                ApprovalStep::Asked(_) | ApprovalStep::Given { .. } => None,
            },
            Self::NotNeeded => match step {
                ApprovalStep::Resumed => Some(self.clone()),
                ApprovalStep::Asked(_) | ApprovalStep::Given { .. } | ApprovalStep::NextWave => {
                    None
                }
            },
        }
    }
}

/// What happens to a rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RolloutStep {
    /// It is paused.
    Paused(PauseReason),
    /// It goes on.
    Resumed,
    /// Somebody ended it.
    Aborted {
        /// Who.
        by: String,
        /// Why.
        reason: String,
    },
    /// Every machine has ended its part; whether one of them as it should.
    Ended(bool),
}

impl RolloutState {
    /// The state that follows; `None` where the step does not exist.
    pub(crate) fn next(&self, step: RolloutStep) -> Option<Self> {
        let ended = |succeeded| {
            if succeeded {
                Self::Finished
            } else {
                Self::Failed
            }
        };
        match self {
            Self::Active => match step {
                RolloutStep::Paused(reason) => Some(Self::Paused(reason)),
                RolloutStep::Aborted { by, reason } => Some(Self::Aborted { by, reason }),
                RolloutStep::Ended(succeeded) => Some(ended(succeeded)),
                RolloutStep::Resumed => None,
            },
            Self::Paused(_) => match step {
                RolloutStep::Resumed => Some(Self::Active),
                RolloutStep::Aborted { by, reason } => Some(Self::Aborted { by, reason }),
                RolloutStep::Ended(succeeded) => Some(ended(succeeded)),
                RolloutStep::Paused(_) => None,
            },
            Self::Finished | Self::Failed | Self::Aborted { .. } => None,
        }
    }
}

impl Place {
    /// Takes a step, where it exists.
    pub(crate) fn step(&mut self, step: PlaceStep) {
        self.state = self.state.next(step).unwrap_or(self.state);
    }
}

impl Wave {
    /// Takes a step, where it exists.
    pub(crate) fn step(&mut self, step: WaveStep) {
        self.state = self.state.next(step).unwrap_or(self.state);
    }
}

impl RolloutGroup {
    /// The approval takes a step, where it exists.
    pub(crate) fn approval_step(&mut self, step: ApprovalStep) {
        if let Some(next) = self.approval.next(step) {
            self.approval = next;
        }
    }
}

impl Rollout {
    /// Takes a step, where it exists.
    pub(crate) fn step(&mut self, step: RolloutStep) {
        if let Some(next) = self.state.next(step) {
            self.state = next;
        }
    }
}
