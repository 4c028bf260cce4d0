//! What people were promised: that what begins is the plan they were shown, and that they hear of windows that
//! go by.

use std::collections::BTreeMap;

use common::{GroupName, MachineName, RolloutId, Timestamp};
use coordinator_core::{
    Fleet,
    rollout::{PlaceState, Rollout, RolloutGroup, Rules},
};

use super::super::oracle;

/// How often the clock on the wall is read: less than any window lasts.
const EVERY_MS: u64 = 30 * 60 * 1000;

/// What was promised.
#[derive(Debug, Default)]
pub(crate) struct Promises {
    /// Plans by their names: in order, who was to go to what.
    shown: BTreeMap<String, Vec<(MachineName, String)>>,
    /// When the windows of groups in which somebody is to go were last seen open.
    open: BTreeMap<(RolloutId, GroupName), Timestamp>,
    looked: Option<Timestamp>,
}

impl Promises {
    /// Somebody was shown a plan of this name.
    pub(crate) fn show(&mut self, plan: String, steps: Vec<(MachineName, String)>) {
        self.shown.insert(plan, steps);
    }

    /// What is wrong with a rollout that begins because somebody wanted this plan.
    pub(super) fn check_plan(&self, plan: &str, rollout: &Rollout) -> Option<String> {
        let begins = rollout.places();
        let begins: Vec<(MachineName, String)> = begins
            .map(|place| (place.machine.clone(), place.target.to_string()))
            .collect();
        let shown = self.shown.get(plan)?;
        (*shown != begins).then(|| format!("{} is not the plan that was shown", rollout.id))
    }

    /// What is wrong with what was told of windows, after a decision.
    pub(super) fn check_windows(&mut self, fleet: &Fleet, now: Timestamp) -> Option<String> {
        if self.looked.is_some_and(|looked| now < looked) {
            self.open.clear();
        } else if let Some(looked) = self.looked
            && now.since(looked).as_millis() < u128::from(EVERY_MS)
        {
            return None;
        }
        self.looked = Some(now);
        let known = std::mem::take(&mut self.open);
        let unfinished = fleet.index().unfinished.iter();
        let rollouts = unfinished.map(|number| &fleet.facts().rollouts[number]);
        for rollout in rollouts.filter(|rollout| !rollout.immediate) {
            for group in rollout.groups.iter().filter(|group| goes_by_windows(group)) {
                let which = (rollout.id.clone(), group.name.clone());
                let seen = known.get(&which).copied();
                match oracle::is_open(&group.policy, now) {
                    Some(true) => {
                        self.open.insert(which, now);
                    }
                    Some(false)
                        if seen > group.windows_told && seen >= Some(rollout.created_at) =>
                    {
                        let (rollout, group) = which;
                        return Some(format!(
                            "nobody hears that {group} of {rollout} missed a window"
                        ));
                    }
                    Some(false) | None => {}
                }
            }
        }
        None
    }

    /// What has happened since the backup has not.
    pub(super) fn forget(&mut self) {
        self.open.clear();
    }
}

/// Whether somebody is still to go in windows of the group, which nothing else shuts.
fn goes_by_windows(group: &RolloutGroup) -> bool {
    let to_go = |place: &coordinator_core::rollout::Place| {
        place.state == PlaceState::Pending && place.rules == Rules::Group
    };
    let policy = &group.policy;
    let only_windows = !policy.windows.is_empty() && policy.avoid.is_empty();
    only_windows && group.finished_at.is_none() && group.places().any(to_go)
}
