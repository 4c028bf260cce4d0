//! One execution: targets, groups, waves and policy, all frozen when it is created, and the states
//! of rollout, group, wave and place (a machine's part in it). What may follow what is in
//! `transition.rs`.

use std::fmt;

use common::{
    Action, GroupName, LeaseId, MachineName, OutcomeKind, RolloutId, SideName, StorePath, Target,
    Timestamp,
};
use serde::{Deserialize, Serialize};

use crate::{
    analysis::{Analysis, Finding},
    policy::{ApprovalOf, Policy},
};

/// One rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// `r1`, `r2`, …
    pub id: RolloutId,
    /// Update, rollback or reboot.
    pub action: Action,
    /// When it was created.
    pub created_at: Timestamp,
    /// By whom.
    pub created_by: String,
    /// Why, as the operator said; may be empty.
    pub reason: String,
    /// Past windows, soak and stagger; never past limits, budget or health. An update of this kind is an
    /// emergency.
    pub immediate: bool,
    /// Also to targets that failed on a machine before.
    #[serde(default)]
    pub retry_failed: bool,
    /// Where it stands.
    pub state: RolloutState,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Its groups, each after those it depends on.
    pub groups: Vec<RolloutGroup>,
    /// Machines of all groups together that may fail before it pauses itself; `None`: only each
    /// group counts.
    #[serde(default)]
    pub max_failures: Option<u32>,
    /// It is paused because too much failed, and what it brought there is to be taken back.
    #[serde(default)]
    pub takes_back: bool,
    /// The rollout that it takes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undoes: Option<RolloutId>,
}

/// Where a rollout stands. The last three are final.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RolloutState {
    /// Goes on as its rules allow.
    Active,
    /// Grants nothing until somebody resumes or aborts it; holders finish.
    Paused(PauseReason),
    /// Every machine has ended its part, at least one as it should (updated, or left with the
    /// reboot that policy keeps for a person).
    Finished,
    /// Every machine has ended its part, none as it should.
    Failed,
    /// Somebody ended it.
    Aborted {
        /// Who.
        by: String,
        /// Why.
        reason: String,
    },
}

/// Why a rollout is paused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum PauseReason {
    /// Somebody said so.
    Operator {
        /// Who.
        by: String,
        /// Why.
        reason: String,
    },
    /// More machines failed than the policy takes.
    BudgetSpent {
        /// In which group.
        group: GroupName,
        /// How many failed.
        failed: u32,
        /// How many may.
        allowed: u32,
    },
    /// More machines of all groups together failed than the fleet's settings take.
    FleetBudgetSpent {
        /// How many failed.
        failed: u32,
        /// How many may.
        allowed: u32,
    },
    /// Every machine of the canary has ended its part, and none as it should.
    CanaryFailed {
        /// In which group.
        group: GroupName,
    },
    /// It could go on and did not.
    NoProgress {
        /// Since when.
        since: Timestamp,
        /// What it waited for.
        waited_for: String,
    },
    /// An approval was refused.
    Rejected {
        /// For which group.
        group: GroupName,
        /// By whom.
        by: String,
        /// Why.
        comment: String,
    },
    /// Nobody approved in time.
    ApprovalExpired {
        /// Which group.
        group: GroupName,
    },
    /// A gate found more of something than it accepts.
    AnalysisFailed {
        /// Of which group.
        group: GroupName,
        /// Which gate.
        gate: String,
        /// Of what.
        finding: Finding,
        /// How many.
        count: u32,
        /// How many are accepted.
        allowed: u32,
        /// What the newest measurement saw.
        detail: String,
    },
    /// Traffic cannot move to a side, because somebody of it is not as it was to be and never will be in
    /// this rollout.
    TrafficBlocked {
        /// Of which group.
        group: GroupName,
        /// To which side.
        side: SideName,
        /// Who.
        machines: Vec<MachineName>,
    },
    /// Traffic was to be moved, and that failed as often as it may.
    TrafficStuck {
        /// Of which group.
        group: GroupName,
        /// To which side.
        side: SideName,
        /// Why it failed at last.
        error: String,
    },
}

impl PauseReason {
    /// The kind, as in JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Operator { .. } => "operator",
            Self::BudgetSpent { .. } => "budget-spent",
            Self::FleetBudgetSpent { .. } => "fleet-budget-spent",
            Self::CanaryFailed { .. } => "canary-failed",
            Self::NoProgress { .. } => "no-progress",
            Self::Rejected { .. } => "rejected",
            Self::ApprovalExpired { .. } => "approval-expired",
            Self::AnalysisFailed { .. } => "analysis-failed",
            Self::TrafficBlocked { .. } => "traffic-blocked",
            Self::TrafficStuck { .. } => "traffic-stuck",
        }
    }

    /// What an operator can do, in a sentence with commands.
    pub fn way_out(&self, rollout: &RolloutId) -> String {
        let go_on = match self {
            Self::BudgetSpent { .. } | Self::FleetBudgetSpent { .. } => {
                "accepts these failures and goes on"
            }
            Self::CanaryFailed { .. } => "accepts that and goes on",
            Self::NoProgress { .. } => "goes on, without machines that cannot be reached",
            Self::AnalysisFailed { .. } => "goes on without the gates of this wave",
            Self::TrafficBlocked { .. } => "looks again",
            Self::TrafficStuck { .. } => "tries again",
            Self::Operator { .. } | Self::Rejected { .. } | Self::ApprovalExpired { .. } => {
                "goes on"
            }
        };
        format!(
            "`lab update resume {rollout}` {go_on}, `lab update abort {rollout}` ends it, \
             `lab update rollback` takes machines back"
        )
    }
}

impl fmt::Display for PauseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator { by, reason } if reason.is_empty() => write!(f, "paused by {by}"),
            Self::Operator { by, reason } => write!(f, "paused by {by}: {reason}"),
            Self::BudgetSpent {
                group,
                failed,
                allowed,
            } => {
                write!(
                    f,
                    "{failed} of group {group} failed, and its policy allows {allowed}"
                )
            }
            Self::FleetBudgetSpent { failed, allowed } => write!(
                f,
                "{failed} machines of all groups together failed, and the fleet's settings allow {allowed}"
            ),
            Self::CanaryFailed { group } => {
                write!(f, "no machine of the canary of group {group} was updated")
            }
            Self::NoProgress { waited_for, .. } => {
                write!(
                    f,
                    "nothing went on for too long; it waited for: {waited_for}"
                )
            }
            Self::Rejected { group, by, comment } if comment.is_empty() => {
                write!(f, "{by} rejected group {group}")
            }
            Self::Rejected { group, by, comment } => {
                write!(f, "{by} rejected group {group}: {comment}")
            }
            Self::ApprovalExpired { group } => {
                write!(f, "nobody approved group {group} in time")
            }
            Self::AnalysisFailed {
                group,
                gate,
                finding,
                count,
                allowed,
                detail,
            } => write!(
                f,
                "gate {gate} of group {group}: {count} × {}, and {allowed} are accepted; the \
                 newest: {detail}",
                finding.word()
            ),
            Self::TrafficBlocked {
                group,
                side,
                machines,
            } => {
                let names: Vec<&str> = machines.iter().map(MachineName::as_str).collect();
                write!(
                    f,
                    "traffic of group {group} does not move to side {side}: not updated are {}",
                    names.join(", ")
                )
            }
            Self::TrafficStuck { group, side, error } => {
                write!(
                    f,
                    "traffic of group {group} cannot be moved to side {side}: {error}"
                )
            }
        }
    }
}

/// A group's part in a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutGroup {
    /// Which group.
    pub name: GroupName,
    /// Its rules, frozen.
    pub policy: Policy,
    /// The rules of its machines that have keys of their own, each once; frozen as well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub own: Vec<Policy>,
    /// Its waves, in order; never empty.
    pub waves: Vec<Wave>,
    /// Index of the wave that is open, soaking, or next to open; the number of waves at the end.
    pub current: usize,
    /// Whether a person said yes.
    pub approval: Approval,
    /// When it was finished; dependents wait for the stagger from here.
    pub finished_at: Option<Timestamp>,
    /// Machines that failed.
    pub failed: u32,
    /// Machines that failed and are to try again.
    #[serde(default)]
    pub retrying: u32,
    /// Failures that somebody accepted by resuming.
    pub forgiven: u32,
    /// The wave that may close although nobody of it was updated: somebody resumed the rollout
    /// when that had paused it.
    #[serde(default)]
    pub unshown_accepted: Option<usize>,
    /// How many waves nobody has to be asked about any more, and nothing soaks after: somebody said
    /// that the group is to go on.
    #[serde(default)]
    pub promoted: usize,
    /// Since when somebody is asked to say so after the wave before the present one.
    #[serde(default)]
    pub held_since: Option<Timestamp>,
    /// Windows that shut by then were told of, if machines were still to go.
    #[serde(default)]
    pub windows_told: Option<Timestamp>,
    /// Windows that shut while machines were still to go.
    #[serde(default)]
    pub windows_missed: u32,
}

/// Whether a person must say yes, and has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Approval {
    /// No need.
    NotNeeded,
    /// Not asked yet: something else holds the group back.
    Needed,
    /// Asked for, since then.
    Asked(Timestamp),
    /// Given.
    Given {
        /// By whom.
        by: String,
        /// What they said to it; may be empty.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        comment: String,
        /// When.
        at: Timestamp,
    },
}

impl Approval {
    /// Whether an answer is missing, and since when somebody is asked for it.
    pub fn waits_since(&self) -> Option<Option<Timestamp>> {
        match self {
            Self::NotNeeded | Self::Given { .. } => None,
            Self::Needed => Some(None),
            Self::Asked(since) => Some(Some(*since)),
        }
    }
}

/// Machines that may be away in the same span.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wave {
    /// Where it stands.
    pub state: WaveState,
    /// Whether it is the canary.
    pub canary: bool,
    /// Whether it comes after other groups, too.
    #[serde(default)]
    pub turn: Turn,
    /// Its machines, in order.
    pub places: Vec<Place>,
    /// The side of its group that it is, where that has two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub side: Option<SideName>,
    /// What its gates have come to since everybody was back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub analysis: Option<Analysis>,
}

/// When a wave has its turn among those of all groups of the rollout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Turn {
    /// When its group has.
    #[default]
    Any,
    /// After everybody else: machines that run a coordinator.
    Coordinators,
    /// After those as well: the machine that runs the coordinator that serves.
    Own,
}

impl Turn {
    /// From the first to the last.
    pub const ALL: [Self; 3] = [Self::Any, Self::Coordinators, Self::Own];
}

/// Where a wave stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WaveState {
    /// Its turn has not come.
    Waiting,
    /// Machines may go, since then.
    Open(Timestamp),
    /// Everybody is back; healthy time must pass until then.
    Soaking(Timestamp),
    /// Done.
    Closed,
}

/// One machine's part in a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Which machine.
    pub machine: MachineName,
    /// What it is to run.
    pub target: Target,
    /// Where it stands.
    pub state: PlaceState,
    /// The machine's last word about it.
    pub reason: String,
    /// How its last attempt ended.
    pub verdict: Option<OutcomeKind>,
    /// The closure that the target came to.
    pub closure: Option<StorePath>,
    /// How often it had its turn and gave it back.
    #[serde(default)]
    pub returned: u32,
    /// How often it has failed and was to try again.
    #[serde(default)]
    pub tries: u32,
    /// Before that, it does not try again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Timestamp>,
    /// Which of its group's rules it obeys.
    #[serde(default, skip_serializing_if = "Rules::is_of_the_group")]
    pub rules: Rules,
    /// What the machine ran when the rollout was created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<StorePath>,
}

impl Place {
    /// Whether the machine runs what it was to, or will once somebody lets it reboot.
    pub(crate) fn has_brought_something(&self) -> bool {
        matches!(self.state, PlaceState::Updated | PlaceState::RebootRequired)
    }
}

/// Whose rules hold for a machine: everybody's, or these of those that machines have to themselves.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Rules {
    /// Those of its group.
    #[default]
    Group,
    /// Those with this index in [`RolloutGroup::own`].
    Own(usize),
}

impl Rules {
    /// What stands behind them, in a group with this policy and these others.
    pub fn among<'a>(self, group: &'a Policy, own: &'a [Policy]) -> &'a Policy {
        match self {
            Self::Group => group,
            Self::Own(index) => own.get(index).unwrap_or(group),
        }
    }

    /// Whether they are those of everybody.
    pub fn is_of_the_group(&self) -> bool {
        *self == Self::Group
    }
}

/// Turns that a machine may give back before it counts as refusing: stops, lost grants and a switch
/// lock held by somebody else are no failures, but they must not go on for ever either.
pub const RETURNS_MAX: u32 = 10;

/// Where a machine's part stands. From `Updated` on, states are final.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlaceState {
    /// Not begun.
    Pending,
    /// Holds this lease.
    Leased(LeaseId),
    /// Its lease ran out without a result.
    Overdue(LeaseId),
    /// Runs the target, as it says itself after the (re)boot.
    Updated,
    /// Went back, healthy.
    RolledBack,
    /// Said no before anything was changed.
    Refused,
    /// Stuck, or not heard of again.
    Failed,
    /// Staged; somebody must let it reboot.
    RebootRequired,
    /// Left out on purpose, or not there in time.
    Skipped,
}

impl PlaceState {
    /// Whether nothing more happens here.
    pub fn is_final(self) -> bool {
        match self {
            Self::Pending | Self::Leased(_) | Self::Overdue(_) => false,
            Self::Updated
            | Self::RolledBack
            | Self::Refused
            | Self::Failed
            | Self::RebootRequired
            | Self::Skipped => true,
        }
    }

    /// Whether this end counts against the failure budget.
    pub fn is_failure(self) -> bool {
        match self {
            Self::RolledBack | Self::Refused | Self::Failed => true,
            // An overdue machine counts already; see `RolloutGroup::spent`.
            Self::Overdue(_) => true,
            Self::Pending
            | Self::Leased(_)
            | Self::Updated
            | Self::RebootRequired
            | Self::Skipped => false,
        }
    }

    /// The lease held here, live or overdue.
    pub fn lease(self) -> Option<LeaseId> {
        match self {
            Self::Leased(id) | Self::Overdue(id) => Some(id),
            Self::Pending
            | Self::Updated
            | Self::RolledBack
            | Self::Refused
            | Self::Failed
            | Self::RebootRequired
            | Self::Skipped => None,
        }
    }

    /// The word in the status.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Leased(_) => "leased",
            Self::Overdue(_) => "overdue",
            Self::Updated => "updated",
            Self::RolledBack => "rolled-back",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::RebootRequired => "reboot-required",
            Self::Skipped => "skipped",
        }
    }
}

impl Rollout {
    /// Whether machines are to try their target even if it failed there before: when an operator
    /// said so, and on the way back, which leads to what ran before.
    pub fn force(&self) -> bool {
        self.retry_failed || self.action == Action::Rollback
    }

    /// Whether this machine is.
    pub fn forces(&self, place: &Place) -> bool {
        self.force() || place.tries > 0
    }

    /// Whether it is an update past windows, soak and stagger.
    pub fn is_emergency(&self) -> bool {
        self.immediate && self.action == Action::Update
    }

    /// Whether it has ended.
    pub fn is_final(&self) -> bool {
        match self.state {
            RolloutState::Active | RolloutState::Paused(_) => false,
            RolloutState::Finished | RolloutState::Failed | RolloutState::Aborted { .. } => true,
        }
    }

    /// Whether it has paused itself because too few machines, or none, went as they should. Who
    /// resumes it then accepts that of the waves that are open.
    pub fn is_paused_for_lack_of_success(&self) -> bool {
        let RolloutState::Paused(reason) = &self.state else {
            return false;
        };
        match reason {
            PauseReason::BudgetSpent { .. }
            | PauseReason::FleetBudgetSpent { .. }
            | PauseReason::CanaryFailed { .. }
            | PauseReason::NoProgress { .. } => true,
            PauseReason::Operator { .. }
            | PauseReason::Rejected { .. }
            | PauseReason::ApprovalExpired { .. }
            | PauseReason::AnalysisFailed { .. }
            | PauseReason::TrafficBlocked { .. }
            | PauseReason::TrafficStuck { .. } => false,
        }
    }

    /// Somebody resumes it: when a gate had paused it, that wave may close without its gates.
    pub(crate) fn accept_analysis(&mut self) {
        let RolloutState::Paused(PauseReason::AnalysisFailed { group, .. }) = &self.state else {
            return;
        };
        let group = self.groups.iter_mut().find(|g| g.name == *group);
        let wave = group.and_then(|g| g.waves.get_mut(g.current));
        if let Some(analysis) = wave.and_then(|wave| wave.analysis.as_mut()) {
            analysis.accepted = true;
        }
    }

    /// Whether a gate has paused it.
    pub fn is_paused_by_a_gate(&self) -> bool {
        matches!(
            self.state,
            RolloutState::Paused(PauseReason::AnalysisFailed { .. })
        )
    }

    /// Its group of that name.
    pub fn group(&self, name: &GroupName) -> Option<&RolloutGroup> {
        self.groups.iter().find(|group| group.name == *name)
    }

    /// Every place in it.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        self.groups.iter().flat_map(RolloutGroup::places)
    }

    /// Whether at least one machine ended as it should.
    pub fn somebody_went(&self) -> bool {
        self.places().any(|place| {
            matches!(
                place.state,
                PlaceState::Updated | PlaceState::RebootRequired
            )
        })
    }

    /// Failures of all groups that count, if they are more than may be.
    pub fn overspent(&self) -> Option<PauseReason> {
        let allowed = self.max_failures?;
        let failed = self.groups.iter().map(RolloutGroup::counted).sum();
        (failed > allowed).then_some(PauseReason::FleetBudgetSpent { failed, allowed })
    }

    /// Whether machines go on the strength of this wave: those of a wave after it, or of a group
    /// that depends on its group.
    pub fn leads_on(&self, group: usize, wave: usize) -> bool {
        let g = &self.groups[group];
        let waits_for_it = |other: &RolloutGroup| {
            other.finished_at.is_none() && other.policy.dependencies.contains(&g.name)
        };
        wave + 1 < g.waves.len() || self.groups.iter().any(waits_for_it)
    }
}

impl RolloutGroup {
    /// What stands behind these rules.
    pub fn rules(&self, rules: Rules) -> &Policy {
        rules.among(&self.policy, &self.own)
    }

    /// All rules that somebody of the group obeys, or may.
    pub(crate) fn all_rules(&self) -> impl Iterator<Item = Rules> {
        let own = (0..self.own.len()).map(Rules::Own);
        std::iter::once(Rules::Group).chain(own)
    }

    /// Every place in it.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        self.waves.iter().flat_map(|wave| &wave.places)
    }

    /// Whether more will have failed than may, should those who are to try again fail for good.
    pub(crate) fn leaves_no_room(&self) -> bool {
        self.retrying > 0 && self.counted() + self.retrying > self.policy.max_failures
    }

    /// Whether everybody of the present wave has ended their part.
    pub(crate) fn has_ended_wave(&self) -> bool {
        let wave = self.waves.get(self.current);
        wave.is_some_and(|wave| wave.places.iter().all(|place| place.state.is_final()))
    }

    /// Whether somebody is to approve the next wave, of those after which one has closed. Nobody is asked
    /// for one in which nobody is left to go.
    pub(crate) fn approves_next(&self) -> bool {
        let next = self.waves.get(self.current);
        let places = next.into_iter().flat_map(|wave| &wave.places);
        let left = places
            .filter(|place| place.state == PlaceState::Pending)
            .count()
            > 0;
        let given = matches!(self.approval, Approval::Given { .. });
        self.policy.approval_of == ApprovalOf::Wave && given && left
    }

    /// Failures that count.
    pub fn counted(&self) -> u32 {
        self.failed.saturating_sub(self.forgiven)
    }

    /// Whether more failed than may.
    pub fn spent(&self) -> bool {
        self.counted() > self.policy.max_failures
    }

    /// Whether somebody must say so before the wave after this one opens.
    pub fn holds_after(&self, wave: usize) -> bool {
        let pauses = self.policy.pauses_after(self.waves[wave].canary);
        pauses && wave >= self.promoted && wave + 1 < self.waves.len()
    }

    /// The wave that is closed and that the group does not go on after until somebody says so.
    pub fn held_at(&self) -> Option<usize> {
        let before = self.current.checked_sub(1)?;
        self.holds_after(before).then_some(before)
    }

    /// Until when the present wave soaks, if it does and nobody said that the group is to go on.
    pub fn soaks_until(&self, now: Timestamp) -> Option<Timestamp> {
        match self.waves.get(self.current)?.state {
            WaveState::Soaking(until) => {
                (now < until && self.current >= self.promoted).then_some(until)
            }
            WaveState::Waiting | WaveState::Open(_) | WaveState::Closed => None,
        }
    }

    /// The soak that follows this wave; none after the last, where the stagger follows.
    pub fn soak_after(&self, wave: usize) -> std::time::Duration {
        if wave + 1 == self.waves.len() || wave < self.promoted {
            std::time::Duration::ZERO
        } else if let Some(sides) = &self.policy.blue_green {
            sides.watch
        } else if self.waves[wave].canary {
            self.policy.canary_soak
        } else {
            self.policy.soak
        }
    }
}
