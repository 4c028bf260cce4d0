//! Machines of groups with two sides that take and leave their traffic by scripts of their own: what the
//! scripts bring about, and what must be true of it.

use common::{Gets, GroupName, MachineName, TrafficCall};
use coordinator_core::{
    Fleet,
    traffic::{Adapter, TrafficStep},
};

use super::{
    event::{MachineIndex, UnitEnd},
    world::World,
};

impl World {
    /// The traffic script of a machine has ended in this way. One that hung has done its work before.
    pub(crate) fn traffic_script(
        &mut self,
        machine: MachineIndex,
        call: &TrafficCall,
        how: UnitEnd,
    ) {
        if how == UnitEnd::Fails {
            return;
        }
        let gets = call.order.gets;
        let group = &call.order.group;
        let key = (group.clone(), self.machines[machine].name.clone());
        match gets {
            Gets::Traffic => drop(self.balancers.out.remove(&key)),
            Gets::Nothing => drop(self.balancers.out.insert(key)),
        }
        self.tell(|w| {
            let name = &w.machines[machine].name;
            match gets {
                Gets::Traffic => format!("{name} takes the traffic of {group}"),
                Gets::Nothing => format!("{name} leaves the traffic of {group}"),
            }
        });
        self.check_traffic();
        self.check_somebody(group);
        self.check_settled(machine, call);
    }

    /// Whether the machine gets traffic of a group whose machines move it by themselves. One that was never
    /// told anything does.
    pub(crate) fn takes_traffic(&self, group: &GroupName, machine: &MachineName) -> bool {
        let out = &self.balancers.out;
        !out.iter().any(|(g, m)| g == group && m == machine)
    }

    /// 12: there is always somebody who gets the traffic.
    fn check_somebody(&mut self, group: &GroupName) {
        let Some(sides) = self.coordinator.mirror.sides_of(group) else {
            return;
        };
        let mut machines = sides.sides.iter().flat_map(|side| &side.machines);
        if !machines.any(|machine| self.takes_traffic(group, machine)) {
            self.violate(format!("nobody gets the traffic of {group}"));
        }
    }

    /// 12: where the traffic is for sure, no script changes it any more.
    fn check_settled(&mut self, machine: MachineIndex, call: &TrafficCall) {
        let group = &call.order.group;
        let mirror = &self.coordinator.mirror;
        let name = &self.machines[machine].name;
        let side = mirror.sides_of(group).and_then(|sides| sides.side_of(name));
        let (Some(traffic), Some(side)) = (mirror.traffic_of(group), side) else {
            return;
        };
        let is_on = traffic.on.as_ref() == Some(&side.name);
        if traffic.settled
            && traffic.moving.is_none()
            && is_on != (call.order.gets == Gets::Traffic)
        {
            self.violate(format!("{name} moves the traffic of {group} after its end"));
        }
    }

    /// What is wrong with this step of a group's traffic, taken by this state: the traffic of machines that
    /// move it by themselves has moved when it really is on the one side, and not on the other.
    pub(crate) fn wrongly_moved(
        &self,
        before: &Fleet,
        group: &GroupName,
        step: &TrafficStep,
    ) -> Option<String> {
        let TrafficStep::Moved { .. } = step else {
            return None;
        };
        let moving = before.traffic_of(group)?.moving.as_ref()?;
        if moving.sides.adapter != Adapter::Hook {
            return None;
        }
        let mut sides = moving.sides.sides.iter();
        let wrong = sides.find_map(|side| {
            let gets = side.name == moving.to;
            let mut machines = side.machines.iter();
            machines.find(|machine| {
                before.group_of(machine).is_some() && self.takes_traffic(group, machine) != gets
            })
        })?;
        Some(format!(
            "the traffic of {group} counts as moved, and {wrong} has not followed"
        ))
    }
}
