//! One execution: targets, groups, waves and policy, all frozen when it is created, and the states
//! of rollout, group, wave and place (a machine's part in it). What may follow what is in
//! `transition.rs`.

mod end;
mod pause;
mod place;

use common::{Action, GroupName, OperatorName, RolloutId, SideName, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    analysis::{Analysis, Resumption},
    policy::{ApprovalOf, Policy},
};

pub(crate) use end::NOT_REACHED;
pub use pause::PauseReason;
pub use place::{Place, PlaceState, RETURNS_MAX, Rules};

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
    /// Who ran the schedule that created it; empty when time did, or no schedule. Journals of before
    /// this was kept do not say it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub asked_by: String,
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
    /// The generation that it leads each machine to, of a rollback by number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_generation: Option<u64>,
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

impl Rollout {
    /// Whether it is this person's own: they began it, or ran the schedule that did.
    pub fn is_of(&self, person: &str) -> bool {
        self.created_by == person || self.asked_by == person
    }

    /// Whose own it is, if it is a person's: who ran the schedule that began it comes before its name.
    pub fn author(&self) -> Option<OperatorName> {
        let names = [&self.asked_by, &self.created_by];
        names.into_iter().find_map(|name| name.parse().ok())
    }

    /// Whether machines are to try their target even if it failed there before: when an operator
    /// said so, and on the way back, which leads to what ran before.
    pub fn force(&self) -> bool {
        self.retry_failed || self.action == Action::Rollback
    }

    /// Whether this machine is.
    pub fn forces(&self, place: &Place) -> bool {
        self.force() || place.tries > 0
    }

    /// Whether somebody chose what the machines come to: an update, and a rollback to a generation by its number.
    /// What is in quarantine stands in the way of those. The way back to what each machine ran before is free.
    pub fn is_to_a_choice(&self) -> bool {
        self.action == Action::Update || self.to_generation.is_some()
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

    /// Somebody resumes it: when a gate had paused it, that wave may close without it, or is measured anew.
    pub(crate) fn resume_analysis(&mut self, how: Resumption) {
        let RolloutState::Paused(PauseReason::AnalysisFailed { group, gate, .. }) = &self.state
        else {
            return;
        };
        let Some(group) = self.groups.iter_mut().find(|g| g.name == *group) else {
            return;
        };
        let wave = group.waves.get_mut(group.current);
        if let Some(analysis) = wave.and_then(|wave| wave.analysis.as_mut()) {
            analysis.resumes(&group.policy.gates, gate, how);
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

    /// Whether more of all groups will have failed than may, should those who are to try again fail for good.
    pub(crate) fn leaves_no_room(&self) -> bool {
        let Some(allowed) = self.max_failures else {
            return false;
        };
        let retrying: u32 = self.groups.iter().map(|group| group.retrying).sum();
        let failed: u32 = self.groups.iter().map(RolloutGroup::counted).sum();
        retrying > 0 && failed + retrying > allowed
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
        } else {
            self.policy.soak_after(self.waves[wave].canary)
        }
    }
}
