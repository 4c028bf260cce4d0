//! Where every wave is to be approved: whether each that opened was.

use std::collections::BTreeSet;

use common::{GroupName, RolloutId};
use coordinator_core::{
    Change, Fleet,
    fleet::Facts,
    policy::ApprovalOf,
    rollout::{PlaceState, RolloutGroup, WaveState},
};

/// A wave of a group's part in a rollout.
type Which = (RolloutId, GroupName, usize);

/// What was said yes to, and what began upon that.
#[derive(Debug, Default)]
pub(crate) struct Approvals {
    /// The wave that was next when somebody approved.
    given: BTreeSet<Which>,
    /// Waves that opened with somebody still to go.
    opened: BTreeSet<Which>,
}

impl Approvals {
    /// What is wrong with this change, on the state before it.
    pub(super) fn check(&mut self, before: &Fleet, change: &Change) -> Option<String> {
        if let Change::Approved { rollout, group, .. } = change {
            let next = group_of(before, rollout, group)?.current;
            self.given.insert((rollout.clone(), group.clone(), next));
        }
        let Change::WaveOpened {
            rollout,
            group,
            wave,
            ..
        } = change
        else {
            return None;
        };
        let g = group_of(before, rollout, group)?;
        let mut places = g.waves.get(*wave)?.places.iter();
        let of_waves = g.policy.needs_approval && g.policy.approval_of == ApprovalOf::Wave;
        if !of_waves || !places.any(|place| place.state == PlaceState::Pending) {
            return None;
        }
        let at = |wave: usize| (rollout.clone(), group.clone(), wave);
        self.opened.insert(at(*wave));
        let last = self.given.range(at(0)..=at(*wave)).next_back();
        let used = last.is_none_or(|(_, _, first)| {
            (*first..*wave).any(|before| self.opened.contains(&at(before)))
        });
        used.then(|| format!("wave {} of group {group} opened unapproved", wave + 1))
    }

    /// What has happened since the backup has not.
    pub(super) fn forget_since(&mut self, backup: &Facts) {
        let waits = |(rollout, group, wave): &Which| {
            let found = backup.rollouts.values().find(|known| known.id == *rollout);
            let group = found.and_then(|found| found.group(group));
            group.is_none_or(|group| group.waves[*wave].state == WaveState::Waiting)
        };
        self.opened.retain(|which| !waits(which));
    }
}

fn group_of<'a>(
    fleet: &'a Fleet,
    rollout: &RolloutId,
    group: &GroupName,
) -> Option<&'a RolloutGroup> {
    fleet.rollout(rollout)?.group(group)
}
