//! Going back by itself: what a rollout brought to a group is taken back when it pauses because too much
//! failed there, as far as the rules of the machines say so (`rollbackOnFailure`).
//!
//! First the rollout pauses, and whoever is at work ends that. Then a rollback of its own begins, under the
//! same limits as any other, and the rollout is over.

use common::{Action, GroupName, MachineName, RolloutId, Timestamp};

use crate::{
    analysis::Finding,
    change::Change,
    decide::Draft,
    fleet::Fleet,
    request::{Back, Selection, Wish},
    rollout::{PauseReason, Rollout, RolloutGroup, RolloutState},
};

/// Who begins such a rollback.
pub(crate) const BY: &str = "its policy (rollbackOnFailure)";

impl Fleet {
    /// Pauses a rollout, and notes whether what it brought is to be taken back.
    pub(crate) fn pause_rollout(&mut self, id: &RolloutId, reason: PauseReason, draft: &mut Draft) {
        self.traffic_goes_back(id, &reason, draft);
        let rollout = self.rollout(id);
        let takes_back = rollout.is_some_and(|rollout| calls_for_it(rollout, &reason));
        let change = Change::RolloutPaused {
            rollout: id.clone(),
            reason,
            takes_back,
        };
        self.commit(draft, change);
    }

    /// Whether a rollout whose machines have all ended their part pauses instead of ending: it failed too
    /// often, and there is something to take back.
    pub(crate) fn has_to_take_back(&self, number: u64, reason: &PauseReason) -> bool {
        let rollout = &self.facts().rollouts[&number];
        calls_for_it(rollout, reason) && !self.to_take_back(number, reason).is_empty()
    }

    /// Begins the rollback that a paused rollout calls for, once nobody is at work. Whether the rollout has
    /// to wait for that, or is over with it.
    pub(crate) fn takes_back(&mut self, number: u64, now: Timestamp, draft: &mut Draft) -> bool {
        let rollout = &self.facts().rollouts[&number];
        let (true, RolloutState::Paused(reason)) = (rollout.takes_back, &rollout.state) else {
            return false;
        };
        let (id, reason) = (rollout.id.clone(), reason.clone());
        let affected = affected(rollout, &reason);
        let stopped = affected.iter().any(|group| self.stop_over(group).is_err());
        if stopped || self.is_at_work(number) {
            return true;
        }
        let wish = Wish {
            selection: Selection {
                groups: Vec::new(),
                machines: self.to_take_back(number, &reason),
            },
            action: Action::Rollback,
            parallel: None,
            back: Back::Before(id.clone()),
            // As urgent as what it undoes.
            immediate: rollout.immediate,
            retry_failed: false,
            reason: reason.to_string(),
        };
        // Nobody named would mean everybody.
        let plan = match wish.selection.machines[..] {
            [] => None,
            _ if !still_holds(rollout, &reason) => None,
            _ => self.plan(&wish).ok().filter(|plan| !plan.is_empty()),
        };
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): there is never anything to take back.
        let plan = plan.filter(|_| !self.has(crate::bug::Bug::NothingTakenBack));
        let begun = plan.and_then(|plan| self.begin(&plan, &wish, BY.into(), now, draft).ok());
        let change = match begun {
            None => Change::NothingToTakeBack { rollout: id },
            Some(rollback) => Change::RolloutAborted {
                rollout: id,
                by: BY.to_owned(),
                reason: format!("{reason}; rollback {rollback} takes back what it brought there"),
                at: now,
            },
        };
        self.commit(draft, change);
        true
    }

    /// Machines that the rollout has updated, or whose next boot it has chosen, where it failed, whose rules let them go back, and which no
    /// other rollout has a claim on.
    fn to_take_back(&self, number: u64, reason: &PauseReason) -> Vec<MachineName> {
        let rollout = &self.facts().rollouts[&number];
        let affected = affected(rollout, reason);
        let groups = rollout.groups.iter();
        let groups = groups.filter(|group| affected.contains(&group.name));
        let places = groups.flat_map(|group| group.places().map(move |place| (group, place)));
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): whatever the rules of each machine say.
        let everybody = self.has(crate::bug::Bug::TakesBackEverybody);
        #[cfg(not(feature = "seeded-bugs"))]
        let everybody = false;
        let updated = places.filter(|(group, place)| {
            let may = everybody || group.rules(place.rules).takes_back;
            place.has_brought_something() && may
        });
        let free = |machine: &MachineName| {
            let at = self.index().place_of.get(machine);
            let here = at.is_none_or(|at| at.rollout == number);
            // Who has left the fleet cannot be named, and keeps nobody else from going back.
            here && self.lease_of(machine).is_none() && self.group_of(machine).is_some()
        };
        let machines = updated.map(|(_, place)| &place.machine);
        machines.filter(|machine| free(machine)).cloned().collect()
    }
}

/// Whether too much has still failed once everybody is back: whoever was silent in its turn counted as
/// failed, and may turn out to be as it is to be.
pub(crate) fn still_holds(rollout: &Rollout, reason: &PauseReason) -> bool {
    match reason {
        PauseReason::BudgetSpent { group, .. } => {
            rollout.group(group).is_some_and(RolloutGroup::spent)
        }
        PauseReason::FleetBudgetSpent { .. } => rollout.overspent().is_some(),
        PauseReason::CanaryFailed { .. }
        | PauseReason::AnalysisFailed { .. }
        | PauseReason::Operator { .. }
        | PauseReason::NoProgress { .. }
        | PauseReason::Rejected { .. }
        | PauseReason::ApprovalExpired { .. }
        | PauseReason::TrafficBlocked { .. }
        | PauseReason::TrafficStuck { .. } => true,
    }
}

/// Whether a rollout that pauses for this reason takes anything back.
fn calls_for_it(rollout: &Rollout, reason: &PauseReason) -> bool {
    let affected = affected(rollout, reason);
    let groups = rollout.groups.iter();
    let mut groups = groups.filter(|group| affected.contains(&group.name));
    let goes_back = |group: &RolloutGroup| {
        let rules = group.all_rules();
        let mut rules = rules.map(|rules| group.rules(rules));
        rules.any(|policy| policy.takes_back)
    };
    rollout.action == Action::Update && groups.any(goes_back)
}

/// The groups in which too much failed.
pub(crate) fn affected(rollout: &Rollout, reason: &PauseReason) -> Vec<GroupName> {
    let named = match reason {
        PauseReason::BudgetSpent { group, .. } | PauseReason::CanaryFailed { group } => Some(group),
        PauseReason::AnalysisFailed { group, finding, .. } => match finding {
            Finding::Fail => Some(group),
            // That nothing could be found out says nothing against what runs.
            Finding::Pass | Finding::Inconclusive | Finding::Error => return Vec::new(),
        },
        PauseReason::FleetBudgetSpent { .. } => None,
        PauseReason::Operator { .. }
        | PauseReason::NoProgress { .. }
        | PauseReason::Rejected { .. }
        | PauseReason::ApprovalExpired { .. }
        | PauseReason::TrafficBlocked { .. }
        | PauseReason::TrafficStuck { .. } => return Vec::new(),
    };
    let failed = |group: &&RolloutGroup| match named {
        Some(named) => group.name == *named || group.spent(),
        None => group.counted() > 0,
    };
    let groups = rollout.groups.iter().filter(failed);
    groups.map(|group| group.name.clone()).collect()
}
