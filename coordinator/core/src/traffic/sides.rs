//! How a group with two sides is cut into waves, and who of it is left out.

use common::{Action, GroupName, MachineName, SideName};

use super::{BlueGreen, Side, Traffic};
use crate::{
    fleet::Fleet,
    plan::{PlannedMachine, PlannedWave},
    rollout::Turn,
    wait::WaitReason,
};

impl Fleet {
    /// The side that counts as the one with the traffic: where it was last put, or else the first.
    pub(crate) fn live_side<'a>(&self, group: &GroupName, sides: &'a BlueGreen) -> &'a Side {
        let on = self.traffic_of(group).and_then(|known| known.on.as_ref());
        let known = on.and_then(|on| sides.side(on));
        known.unwrap_or(&sides.sides[0])
    }

    /// What is known of the group's traffic, if anything was ever said of it.
    pub fn traffic_of(&self, group: &GroupName) -> Option<&Traffic> {
        self.facts().traffic.get(group)
    }

    /// Whether the traffic may be on this side of the group.
    pub fn may_hold_traffic(&self, group: &GroupName, side: &SideName) -> bool {
        let known = self.traffic_of(group);
        known.is_none_or(|traffic| traffic.may_be_on(side))
    }

    /// The idle side, then the other one.
    pub(crate) fn waves_by_side(
        &self,
        group: &GroupName,
        sides: &BlueGreen,
        machines: Vec<PlannedMachine>,
    ) -> Vec<PlannedWave> {
        let live = self.live_side(group, sides);
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): the side with the traffic is taken for the idle one.
        let live = match self.has(crate::bug::Bug::LiveSideFirst) {
            true => sides.other(&live.name),
            false => live,
        };
        let (second, first): (Vec<_>, Vec<_>) = machines
            .into_iter()
            .partition(|machine| live.machines.contains(&machine.name));
        let waves = [(sides.other(&live.name), first), (live, second)];
        let waves = waves
            .into_iter()
            .filter(|(_, machines)| !machines.is_empty());
        waves
            .map(|(side, machines)| PlannedWave {
                canary: false,
                in_place_of: Vec::new(),
                turn: Turn::Any,
                side: Some(side.name.clone()),
                machines,
            })
            .collect()
    }

    /// Takes out of an update whoever is on the side with the traffic, when that could not be moved to one
    /// that runs what it is to run: machines of the idle side are neither in the plan nor up to date.
    pub(crate) fn leave_out_live_side(
        &self,
        group: &GroupName,
        sides: &BlueGreen,
        action: Action,
        machines: &mut Vec<PlannedMachine>,
        excluded: &mut Vec<(MachineName, WaitReason)>,
    ) {
        let live = self.live_side(group, sides);
        let idle = sides.other(&live.name);
        let is_behind = |machine: &&MachineName| {
            let known = self.facts().machines.get(*machine);
            let pin = known.and_then(|known| Some((known, known.pin.as_ref()?)));
            let planned = machines.iter().any(|planned| planned.name == **machine);
            !planned && pin.is_some_and(|(known, pin)| !known.runs(&pin.target))
        };
        let behind: Vec<MachineName> = idle.machines.iter().filter(is_behind).cloned().collect();
        if behind.is_empty() || action != Action::Update {
            return;
        }
        let (out, rest) = std::mem::take(machines)
            .into_iter()
            .partition(|machine| live.machines.contains(&machine.name));
        *machines = rest;
        let out: Vec<PlannedMachine> = out;
        excluded.extend(out.into_iter().map(|machine| {
            let reason = WaitReason::LiveSide {
                group: group.clone(),
                side: live.name.clone(),
                behind: behind.clone(),
                was: None,
                first: None,
            };
            (machine.name, reason)
        }));
    }
}
