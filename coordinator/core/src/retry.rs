//! Attempts that failed and are made again by themselves: how often, when, and who waits meanwhile.
//!
//! A machine that is to try again is not one that failed for good, and counts like one for everybody else:
//! nobody begins beside it who could not if it had failed.

use std::time::Duration;

use common::{Action, MachineName, Timestamp};

use crate::{
    change::Change,
    decide::Draft,
    fleet::Fleet,
    policy::Policy,
    rollout::{Place, PlaceState, Rollout, RolloutGroup, RolloutState},
    wait::WaitReason,
};

/// The longest time between two tries.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// How long a machine waits that has tried so often: twice as long each time.
pub fn back_off(policy: &Policy, tries: u32) -> Duration {
    let factor = 2_u32.checked_pow(tries.saturating_sub(1));
    let after = factor.and_then(|factor| policy.retry_after.checked_mul(factor));
    after.unwrap_or(LONGEST).min(LONGEST)
}

impl Place {
    /// Whether it has failed and is to try again, or does.
    pub fn is_retrying(&self) -> bool {
        match self.state {
            PlaceState::Pending | PlaceState::Leased(_) | PlaceState::Overdue(_) => self.tries > 0,
            PlaceState::Updated
            | PlaceState::RolledBack
            | PlaceState::Refused
            | PlaceState::Failed
            | PlaceState::RebootRequired
            | PlaceState::Skipped => false,
        }
    }
}

impl Fleet {
    /// The machine's attempt has just ended: it is to try again if that failed, its rules say so, and nobody
    /// puts it or its target aside for that.
    pub(crate) fn retry(&mut self, machine: &MachineName, now: Timestamp, draft: &mut Draft) {
        self.look_at_quarantine(now, draft);
        self.look_at_targets(now, draft);
        let at = self.index().place_of.get(machine).copied();
        let Some((rollout, group, place)) = at.and_then(|at| self.at(at)) else {
            return;
        };
        let failed = matches!(place.state, PlaceState::RolledBack | PlaceState::Refused);
        let policy = group.rules(place.rules);
        let goes_on = rollout.state == RolloutState::Active && rollout.action == Action::Update;
        let wanted = failed && goes_on && self.may_try(place, policy);
        let aside = self.released(machine).is_err()
            || self
                .good(machine, rollout.is_to_a_choice(), &place.target)
                .is_err();
        if !wanted || aside {
            return;
        }
        let change = Change::Retried {
            rollout: rollout.id.clone(),
            machine: machine.clone(),
            until: now + back_off(policy, place.tries + 1),
            at: now,
        };
        self.commit(draft, change);
    }

    fn may_try(&self, place: &Place, policy: &Policy) -> bool {
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): it is tried for ever.
        if self.has(crate::bug::Bug::RetriesUnlimited) {
            return policy.retries > 0;
        }
        place.tries < policy.retries
    }

    /// It is time to try again; and whoever has not tried yet leaves room for those who failed and are to try
    /// again.
    pub(crate) fn its_try(
        &self,
        rollout: &Rollout,
        group: &RolloutGroup,
        place: &Place,
        now: Timestamp,
    ) -> Result<(), WaitReason> {
        let retry_at = place.retry_at;
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): it tries again at once.
        let retry_at = retry_at.filter(|_| !self.has(crate::bug::Bug::RetryAtOnce));
        match retry_at {
            Some(until) if now < until => {
                return Err(WaitReason::Retry {
                    until,
                    tries: place.tries,
                    reason: place.reason.clone(),
                    zone: group.rules(place.rules).timezone.clone(),
                });
            }
            Some(_) | None => {}
        }
        if place.tries > 0 || !self.has_no_room(rollout, group) {
            return Ok(());
        }
        let retrying: Vec<&Place> = rollout
            .places()
            .filter(|place| place.is_retrying())
            .collect();
        let tries = retrying.iter().filter_map(|place| place.retry_at);
        Err(WaitReason::Retrying {
            next: tries.filter(|at| now < *at).min(),
            machines: retrying.iter().map(|place| place.machine.clone()).collect(),
            zone: group.policy.timezone.clone(),
        })
    }

    /// Whether a budget is spent once those who are to try again fail for good.
    fn has_no_room(&self, rollout: &Rollout, group: &RolloutGroup) -> bool {
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): who has not failed for good counts for nothing.
        if self.has(crate::bug::Bug::RetryingCountsForNothing) {
            return false;
        }
        group.leaves_no_room() || rollout.leaves_no_room()
    }

    /// Until when somebody of the group waits to try again, if nobody can now.
    pub(crate) fn next_try(&self, number: u64, group: usize, now: Timestamp) -> Option<Timestamp> {
        let waves = self
            .index()
            .waves
            .range((number, group, 0)..(number, group + 1, 0));
        let tries = waves.flat_map(|(_, count)| &count.retries);
        tries
            .map(|(until, _)| *until)
            .filter(|until| now < *until)
            .min()
    }
}
