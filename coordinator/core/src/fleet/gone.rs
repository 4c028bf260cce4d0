//! Who has left in mid-rollout: the fleet, or the sides of the group whose traffic the rollout moves.

use common::MachineName;

use super::{Facts, Index};
use crate::{config::FleetConfig, rollout::RolloutGroup, traffic::BlueGreen};

impl Index {
    /// Finds out anew who has left in mid-rollout.
    pub(super) fn find_gone(&mut self, facts: &Facts) {
        let machines = self.place_of.keys();
        let gone = machines.filter(|machine| self.is_gone(facts, machine));
        self.gone = gone.cloned().collect();
    }

    /// Finds it out of one machine, whose place is another one now.
    pub(super) fn look_whether_gone(&mut self, facts: &Facts, machine: &MachineName) {
        if self.is_gone(facts, machine) {
            self.gone.insert(machine.clone());
        } else {
            self.gone.remove(machine);
        }
    }

    fn is_gone(&self, facts: &Facts, machine: &MachineName) -> bool {
        let Some(at) = self.place_of.get(machine) else {
            return false;
        };
        let config = facts.config.as_deref();
        let Some(config) = config.filter(|config| config.group_of.contains_key(machine)) else {
            return true;
        };
        let rollout = facts.rollouts.get(&at.rollout);
        let group = rollout.and_then(|rollout| rollout.groups.get(at.group));
        group.is_some_and(|group| has_left_its_sides(config, group, machine))
    }
}

/// Whether traffic that is moved for this group's part in a rollout knows nothing of the machine any more, which
/// was on a side when that began: nobody would ask it to leave its traffic.
fn has_left_its_sides(config: &FleetConfig, group: &RolloutGroup, machine: &MachineName) -> bool {
    let Some(frozen) = &group.policy.blue_green else {
        return false;
    };
    let present = config.groups.get(&group.name);
    let present: Option<&BlueGreen> = present.and_then(|g| g.policy.blue_green.as_deref());
    let names = frozen.sides.iter().map(|side| &side.name);
    // Sides of other names are none that its traffic is moved to.
    let present = present.filter(|present| names.clone().all(|name| present.side(name).is_some()));
    let was_on_one = frozen.side_of(machine).is_some();
    was_on_one && present.is_some_and(|present| present.side_of(machine).is_none())
}
