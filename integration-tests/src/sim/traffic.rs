//! What stands between clients and the groups with two sides: which machines really get traffic, and whoever
//! moves it, who may fail, be slow, or never answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use common::{GroupName, MachineName, Timestamp};
use coordinator_core::{
    Fleet, Request,
    rollout::WaveState,
    traffic::{Adapter, Answered, BlueGreen, TrafficStep, Wanted},
};

use super::{
    chance::Chance,
    event::{Balance, Consequence, Event, MachineIndex},
    oracle,
    setup::MINUTE,
    world::World,
};

/// The balancers of the groups with two sides.
#[derive(Debug, Default)]
pub(crate) struct Balancers {
    /// Machines that get traffic. One that was never told anything gives it to everybody.
    serving: BTreeMap<GroupName, BTreeSet<MachineName>>,
    /// Machines that have left the traffic of a group by scripts of their own.
    pub(crate) out: BTreeSet<(GroupName, MachineName)>,
    /// Groups whose balancer does not answer.
    broken: BTreeSet<String>,
}

impl World {
    /// The balancer of this group answers, or does not, from now on.
    pub(crate) fn balancer(&mut self, group: &str, works: bool) {
        if works {
            self.balancers.broken.remove(group);
        } else {
            self.balancers.broken.insert(group.to_owned());
        }
    }

    /// The balancer of this group starts anew and gives traffic to everybody, if nothing of the group is
    /// under way: nobody could know of it otherwise.
    pub(crate) fn balancer_starts(&mut self, group: &str) {
        let Some(fleet) = &self.coordinator.fleet else {
            return;
        };
        let facts = fleet.facts();
        let unfinished = fleet.index().unfinished.iter();
        let mut groups = unfinished.flat_map(|number| &facts.rollouts[number].groups);
        let mut leases = facts.leases.values();
        let mut away = self
            .machines
            .iter()
            .filter_map(|m| m.truth.disruption.as_ref());
        let busy = groups.any(|g| g.name.as_str() == group)
            || leases.any(|lease| lease.group.as_str() == group)
            || away.any(|away| away.group.as_str() == group);
        if !busy {
            self.tell(|_| format!("the balancer of {group} starts anew"));
            self.balancers
                .serving
                .retain(|known, _| known.as_str() != group);
        }
    }

    /// Whoever moves traffic takes a step, if the process that wants it so still does.
    pub(crate) fn balance(
        &mut self,
        (group, number, attempt): (&str, u64, u32),
        life: u32,
        step: Balance,
    ) {
        let Some(fleet) = self.coordinator.fleet.as_ref() else {
            return;
        };
        let wanted = fleet.wanted_moves().into_iter();
        let mut wanted = wanted.filter(|_| life == self.coordinator.life);
        let wanted = wanted.find(|wanted| {
            wanted.group.as_str() == group && (wanted.number, wanted.attempt) == (number, attempt)
        });
        let Some(wanted) = wanted else {
            return;
        };
        let result = match step {
            _ if self.balancers.broken.contains(group) => {
                Err("HAProxy cannot be reached at /run/haproxy.sock".to_owned())
            }
            Balance::Opens => return self.opens(&wanted),
            Balance::Fails => Err("the move failed".to_owned()),
            Balance::Ends { answers } => {
                let result = self.ends(&wanted);
                if !answers {
                    return;
                }
                result
            }
        };
        let (to, ends) = (wanted.to.clone(), result.clone());
        self.tell(|_| match ends {
            Ok(_) => format!("the traffic of {group} is on side {to}"),
            Err(error) => format!("the traffic of {group} does not go to side {to}: {error}"),
        });
        let answered = Answered {
            group: wanted.group,
            number,
            attempt,
            result,
        };
        self.coordinator
            .take_in_command(Request::TrafficMoved(answered));
        self.follows.push(Consequence::Waiting);
    }

    /// The new side gets traffic, too.
    fn opens(&mut self, wanted: &Wanted) {
        let everybody = everybody(&wanted.sides);
        let serving = self.balancers.serving.entry(wanted.group.clone());
        let serving = serving.or_insert(everybody);
        if let Some(side) = wanted.sides.side(&wanted.to) {
            serving.extend(side.machines.iter().cloned());
        }
        self.check_traffic();
    }

    /// The other side gets none any more, if the new one is there; otherwise the new one is put back.
    fn ends(&mut self, wanted: &Wanted) -> Result<String, String> {
        let sides = &wanted.sides;
        let Some(side) = sides.side(&wanted.to) else {
            return Err(format!("there is no side {}", wanted.to));
        };
        let down = |name: &&MachineName| {
            let machine = self.index_of.get(*name).map(|index| &self.machines[*index]);
            machine.is_none_or(|m| !m.up || m.ill || m.truth.disruption.is_some())
        };
        let down: Vec<&str> = side
            .machines
            .iter()
            .filter(down)
            .map(MachineName::as_str)
            .collect();
        let serving = self.balancers.serving.entry(wanted.group.clone());
        let serving = serving.or_insert_with(|| everybody(sides));
        if down.is_empty() {
            *serving = side.machines.iter().cloned().collect();
            self.check_traffic();
            return Ok(String::new());
        }
        let other = &sides.other(&side.name).machines;
        if other.iter().all(|machine| serving.contains(machine)) {
            *serving = other.iter().cloned().collect();
        }
        Err(format!("not up: {}", down.join(", ")))
    }

    /// 12: whoever is really away gets no traffic, if it went in a rollout that knows of sides.
    pub(crate) fn check_traffic(&mut self) {
        let gets = (0..self.machines.len()).find(|machine| self.is_away_under_traffic(*machine));
        if let Some(machine) = gets {
            let text = format!(
                "{} is really away and gets traffic",
                self.machines[machine].name
            );
            self.violate(text);
        }
    }

    /// What is wrong with a move that a rollout begins to the side that it has just updated: its group's windows
    /// are shut.
    pub(crate) fn moved_outside(
        &self,
        before: &Fleet,
        group: &GroupName,
        step: &TrafficStep,
        now: Timestamp,
    ) -> Option<String> {
        let TrafficStep::Begun { to, rollout, .. } = step else {
            return None;
        };
        let known = before.traffic_of(group);
        // One that begins anew with other sides has begun before.
        let is_under_way = known.is_some_and(|known| known.moving.is_some());
        let rollout = before.rollout(rollout.as_ref()?)?;
        let g = rollout.group(group)?;
        let wave = g.waves.get(g.current)?;
        let follows = wave.side.as_ref() == Some(to) && wave.state != WaveState::Waiting;
        if rollout.immediate || is_under_way || !follows {
            return None;
        }
        let config = before.facts().config.as_ref()?;
        let outside = oracle::outside(&g.policy, &config.document, Duration::from_secs(1), now)?;
        Some(format!("the traffic of {group} follows {outside}"))
    }

    fn is_away_under_traffic(&self, machine: MachineIndex) -> bool {
        let m = &self.machines[machine];
        let Some(away) = m.truth.disruption.as_ref().filter(|_| !m.truth.forgotten) else {
            return false;
        };
        let rollout = self.truth.rollout_of(away.lease);
        let rollout = rollout.and_then(|id| self.coordinator.mirror.rollout(id));
        let group = rollout.and_then(|rollout| rollout.group(&away.group));
        let sides = group.and_then(|group| group.policy.blue_green.as_ref());
        let Some(sides) = sides.filter(|sides| sides.side_of(&m.name).is_some()) else {
            return false;
        };
        if sides.adapter == Adapter::Hook {
            return self.takes_traffic(&away.group, &m.name);
        }
        let serving = self.balancers.serving.get(&away.group);
        serving.is_none_or(|serving| serving.contains(&m.name))
    }
}

fn everybody(sides: &BlueGreen) -> BTreeSet<MachineName> {
    let machines = sides.sides.iter().flat_map(|side| &side.machines);
    machines.cloned().collect()
}

impl Chance {
    /// Somebody begins every move that is wanted; it ends after a while, or fails, or is never heard of.
    pub(crate) fn move_traffic(&mut self, world: &World) {
        let Some(fleet) = &world.coordinator.fleet else {
            return;
        };
        let life = world.coordinator.life;
        if self.moves.0 != life {
            self.moves = (life, BTreeSet::new());
        }
        for wanted in fleet.wanted_moves() {
            let (group, number, attempt) =
                (wanted.group.to_string(), wanted.number, wanted.attempt);
            if !self.moves.1.insert((group.clone(), number, attempt)) {
                continue;
            }
            let step = |step| Event::Traffic {
                group: group.clone(),
                number,
                attempt,
                life,
                step,
            };
            let opens = world.now + self.rng.between(10, 2_000);
            self.event(opens, step(Balance::Opens));
            let mut after = self.rng.around(20_000);
            if self.strikes(self.rates.unit_slow, "traffic-slow") {
                after = self.rng.below(8 * MINUTE);
            }
            let ends = if self.strikes(self.rates.unit_fails, "traffic-fails") {
                Balance::Fails
            } else {
                let answers = !self.strikes(self.rates.unit_fails, "traffic-answer-lost");
                Balance::Ends { answers }
            };
            self.event(opens + after, step(ends));
        }
    }
}
