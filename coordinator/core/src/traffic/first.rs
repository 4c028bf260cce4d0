//! Of several rollouts that are at work on one group with two sides: which of them says where its traffic is. The
//! others wait, or each would move it away under the other's feet, again and again.

use common::{GroupName, RolloutId};

use super::Side;
use crate::{
    fleet::{Fleet, rollout_id},
    rollout::{Rollout, RolloutGroup, RolloutState, WaveState},
    wait::WaitReason,
};

/// The rollout's part in a group, while it has a say in where that group's traffic is.
fn part<'a>(rollout: &'a Rollout, group: &GroupName) -> Option<&'a RolloutGroup> {
    let part = rollout.group(group)?;
    let open = part.finished_at.is_none() && rollout.state == RolloutState::Active;
    (open && part.policy.blue_green.is_some()).then_some(part)
}

fn has_begun(part: &RolloutGroup) -> bool {
    let mut waves = part.waves.iter();
    waves.any(|wave| wave.state != WaveState::Waiting)
}

impl Fleet {
    /// The rollout that comes before this one where the group's traffic is concerned: of those that have
    /// opened a wave of it the first one.
    pub(crate) fn goes_before(&self, number: u64, group: &GroupName) -> Option<RolloutId> {
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): each wants the traffic for itself.
        if self.has(crate::bug::Bug::TrafficFoughtOver) {
            return None;
        }
        let rollouts = &self.facts().rollouts;
        let begun = rollouts.get(&number).and_then(|own| part(own, group));
        let begun = begun.is_some_and(has_begun);
        let mut others = self.index().unfinished.iter();
        let first = others.find(|other| {
            let before = **other != number && (!begun || **other < number);
            before && part(&rollouts[*other], group).is_some_and(has_begun)
        });
        first.map(|number| rollout_id(*number))
    }

    /// That another rollout comes first, if one does.
    pub(super) fn is_first(
        &self,
        number: u64,
        group: &GroupName,
        side: &Side,
    ) -> Result<(), WaitReason> {
        let first = self.goes_before(number, group);
        first.map_or(Ok(()), |first| {
            Err(WaitReason::LiveSide {
                group: group.clone(),
                side: side.name.clone(),
                behind: Vec::new(),
                was: None,
                first: Some(Box::new(first)),
            })
        })
    }
}
