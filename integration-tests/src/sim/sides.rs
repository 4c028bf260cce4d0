//! What people do with groups of two sides.

use common::Action;
use coordinator_core::Fleet;
use serde_json::{Value, json};

use super::{
    chance::Chance,
    event::{Command, Event, MachineIndex},
    setup::MINUTE,
    world::World,
};

impl Chance {
    /// Somebody moves the traffic of a group, or updates its sides one by one, or its balancer starts anew; false
    /// where there is none.
    pub(super) fn traffic(&mut self, world: &World, fleet: &Fleet, now: u64) -> bool {
        let config = fleet.facts().config.as_ref();
        let groups = config.iter().flat_map(|config| &config.groups);
        let sides: Vec<(String, [String; 2])> = groups
            .filter_map(|(name, group)| {
                let sides = group.policy.blue_green.as_ref()?;
                let names = sides.sides.each_ref().map(|side| side.name.to_string());
                Some((name.to_string(), names))
            })
            .collect();
        let Some((group, names)) = self.rng.pick(&sides).cloned() else {
            return false;
        };
        let to = match self.rng.below(5) {
            0 => {
                self.fault("balancer-starts-anew");
                self.event(now, Event::BalancerStarts { group });
                return true;
            }
            1 => None,
            2 => {
                self.side_by_side(world, fleet, &group, now);
                return true;
            }
            _ => self.rng.pick(&names).cloned(),
        };
        self.order(now, Command::MoveTraffic { group, to });
        true
    }

    /// Everybody is to run a new system, and each side of the group goes to it in a rollout of its own.
    fn side_by_side(&mut self, world: &World, fleet: &Fleet, group: &str, now: u64) {
        self.prepare(world, now);
        let config = fleet.facts().config.as_ref();
        let groups = config.iter().flat_map(|config| &config.groups);
        let group = groups.filter(|(name, _)| name.as_str() == group);
        let sides = group.filter_map(|(_, group)| group.policy.blue_green.as_ref());
        let sides = sides.flat_map(|sides| &sides.sides);
        let index = |machine| world.index_of.get(machine).copied();
        let sides: Vec<Vec<MachineIndex>> = sides
            .map(|side| side.machines.iter().filter_map(index).collect())
            .collect();
        for machines in sides {
            let later = now + self.rng.below(20 * MINUTE) + 1;
            let command = Command::Execute {
                groups: Vec::new(),
                machines,
                action: Action::Update,
                parallel: None,
                immediate: false,
                retry_failed: false,
                to_generation: None,
                before: None,
                if_plan: None,
                shown: Vec::new(),
            };
            self.order(later, command);
        }
    }

    /// The members of this group, if it has two sides, are divided anew: whoever was on a side mostly stays
    /// there, and whoever was on none comes to the smaller one.
    pub(super) fn split_anew(&mut self, document: &mut Value, group: &str) {
        let coordinators = document["updateSettings"]["coordinators"].clone();
        let keys = &mut document["updateGroups"][group];
        let members = keys["machines"].as_array().cloned().unwrap_or_default();
        let Some(sides) = keys.pointer("/blueGreen/sides") else {
            return;
        };
        let of = |side: &str| {
            let side = sides[side].as_array().into_iter().flatten().cloned();
            let stay = side.filter(|machine| members.contains(machine));
            stay.collect::<Vec<Value>>()
        };
        let (mut blue, mut green) = (of("blue"), of("green"));
        let joined = |machine: &&Value| !blue.contains(machine) && !green.contains(machine);
        let joined: Vec<Value> = members.iter().filter(joined).cloned().collect();
        for machine in joined {
            let smaller = if blue.len() < green.len() {
                &mut blue
            } else {
                &mut green
            };
            smaller.push(machine);
        }
        if self.rng.once_in(2) && blue.len() > 1 {
            green.push(blue.swap_remove(self.rng.index(blue.len())));
        } else if self.rng.once_in(2) && green.len() > 1 {
            blue.push(green.swap_remove(self.rng.index(green.len())));
        }
        let runs_one = |machine: &Value| {
            let mut coordinators = coordinators.as_array().into_iter().flatten();
            coordinators.any(|one| one == machine)
        };
        if blue.is_empty() || green.is_empty() || members.iter().any(runs_one) {
            if let Some(keys) = keys.as_object_mut() {
                keys.remove("blueGreen");
            }
        } else {
            keys["blueGreen"]["sides"] = json!({ "blue": blue, "green": green });
        }
    }
}
