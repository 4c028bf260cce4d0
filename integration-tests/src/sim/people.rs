//! What the operators of a simulated fleet do, drawn from what they could see.

use std::{collections::BTreeMap, time::Duration};

use common::{Action, StopMode, Timestamp};
use coordinator_core::{
    Fleet,
    bad_target::source_of,
    request::OperatorRequest,
    rollout::{Approval, PlaceState, Rollout, RolloutState},
};
use serde_json::{Value, json};

use super::{
    chance::{Chance, Item},
    event::{Command, Event, Flaw, MachineIndex, Nature},
    operator::OPERATOR,
    setup::{MINUTE, calendars, system, window},
    world::World,
};

const FLAWS: [Flaw; 14] = [
    Flaw::Unhealthy,
    Flaw::SwitchFails,
    Flaw::SwitchDegraded,
    Flaw::SwitchHangs,
    Flaw::SwitchWantsReboot,
    Flaw::SwitchBusy,
    Flaw::BootFallsBack,
    Flaw::BootsThird,
    Flaw::BootSilent,
    Flaw::StageFails,
    Flaw::PreHookFails,
    Flaw::PostHookFails,
    Flaw::PostHookHangs,
    Flaw::CutsNetwork,
];

impl Chance {
    pub(super) fn order(&mut self, at: u64, command: Command) {
        let command = Box::new(command);
        self.event(at, Event::Operator { command });
    }

    /// One act of the operators, and when the next comes.
    pub(crate) fn operate(&mut self, world: &World) {
        if !self.troubled {
            return;
        }
        let now = world.now;
        let next = now + self.rng.around(self.rates.operator).max(MINUTE);
        self.push(next, Item::Operator);
        let Some(fleet) = &world.coordinator.fleet else {
            return;
        };
        if fleet.facts().stop.is_some() {
            if !self.rng.once_in(3) {
                self.order(now, Command::Lift);
            }
            return;
        }
        let unfinished: Vec<u64> = fleet.index().unfinished.iter().copied().collect();
        let rollout = self.rng.pick(&unfinished).copied();
        if let Some(number) = rollout
            && self.answer(fleet, number, now)
        {
            return;
        }
        // Whoever stops a fleet has seen machines at work.
        let at_work = !fleet.facts().leases.is_empty();
        if at_work && self.rng.once_in(4) {
            return self.stop(fleet, now);
        }
        match self.rng.below(100) {
            0..=4 => self.stop(fleet, now),
            5..=7 => self.order(now, Command::Pause { rollout }),
            8..=10 => self.order(now, Command::Abort { rollout }),
            11..=13 => self.reconfigure(world, fleet, now),
            14..=15 => {
                let machine = self.rng.index(world.machines.len());
                let held = fleet.lease_of(&world.machines[machine].name).is_some();
                if !held {
                    self.order(now, Command::Forget { machine });
                }
            }
            16..=18 => self.order(now, Command::CheckHealth { groups: Vec::new() }),
            30..=33 if self.schedule(fleet, now) => {}
            19..=24 => self.execute(world, fleet, Action::Rollback, now),
            25..=29 => self.execute(world, fleet, Action::Reboot, now),
            43..=48 if unfinished.is_empty() => self.read_first(world, fleet, now),
            34..=37 => self.aside(world, fleet, now),
            38..=49 if self.traffic(world, fleet, now) => {}
            _ if unfinished.is_empty() || self.rng.once_in(4) => self.release(world, fleet, now),
            _ => {}
        }
    }

    /// Somebody runs a schedule, or wants its next run left out; false where there is none.
    fn schedule(&mut self, fleet: &Fleet, now: u64) -> bool {
        let config = fleet.facts().config.as_ref();
        let names = config.iter().flat_map(|config| config.schedules.keys());
        let names: Vec<String> = names.map(ToString::to_string).collect();
        let Some(schedule) = self.rng.pick(&names).cloned() else {
            return false;
        };
        let command = if self.rng.once_in(2) {
            Command::RunSchedule { schedule }
        } else {
            Command::SkipSchedule { schedule }
        };
        self.order(now, command);
        true
    }

    /// Somebody puts a machine aside or what one is to run, or lets those take part again that are.
    fn aside(&mut self, world: &World, fleet: &Fleet, now: u64) {
        if let Some(target) = fleet.facts().targets_aside.keys().next() {
            let target = target.clone();
            return self.order(now, Command::ReleaseTarget { target });
        }
        let aside = fleet.facts().quarantined.keys();
        let aside: Vec<MachineIndex> = aside
            .filter_map(|name| world.index_of.get(name).copied())
            .collect();
        if !aside.is_empty() && !self.rng.once_in(3) {
            return self.order(now, Command::Release { machines: aside });
        }
        let machine = self.rng.index(world.machines.len());
        let known = fleet.facts().machines.values().nth(machine);
        let pin = known.and_then(|known| known.pin.as_ref());
        // Drawn by what was drawn before, so that this moves no other draw.
        if let Some(pin) = pin.filter(|_| machine % 3 == 1) {
            let target = source_of(&pin.target).to_owned();
            return self.order(now, Command::QuarantineTarget { target });
        }
        let machines = vec![machine];
        self.order(now, Command::Quarantine { machines });
    }

    /// What a rollout waits for from people, they mostly give.
    fn answer(&mut self, fleet: &Fleet, number: u64, now: u64) -> bool {
        let rollout = Some(number);
        let r = &fleet.facts().rollouts[&number];
        if let RolloutState::Paused(_) = r.state {
            match self.rng.below(10) {
                5 if r.is_paused_by_a_gate() => self.order(now, Command::MeasureAgain { rollout }),
                0..=5 => self.order(now, Command::ResumeRollout { rollout }),
                6..=7 => self.order(now, Command::Abort { rollout }),
                _ => {}
            }
            return true;
        }
        let waits = r
            .groups
            .iter()
            .any(|group| matches!(group.approval, Approval::Asked(_)));
        if waits && !self.rng.once_in(3) {
            let reject = self.rng.once_in(8);
            let by = if number.is_multiple_of(3) {
                OPERATOR
            } else {
                ANOTHER
            };
            let by = by.to_owned();
            self.order(
                now,
                Command::Approve {
                    rollout,
                    group: None,
                    reject,
                    by,
                },
            );
            return true;
        }
        if held(r) {
            let full = self.rng.once_in(4);
            self.order(now, Command::Promote { rollout, full });
            return true;
        }
        false
    }

    fn some_groups(&mut self, fleet: &Fleet) -> Vec<String> {
        let config = fleet.facts().config.as_ref();
        let names: Vec<String> = config
            .iter()
            .flat_map(|config| config.groups.keys())
            .map(ToString::to_string)
            .collect();
        if self.rng.once_in(2) {
            return Vec::new();
        }
        self.rng.pick(&names).cloned().into_iter().collect()
    }

    fn stop(&mut self, fleet: &Fleet, now: u64) {
        self.fault("emergency-stop");
        let groups = self.some_groups(fleet);
        let mode = self.rng.one([StopMode::Finish, StopMode::Rollback]);
        self.order(now, Command::Stop { groups, mode });
        // Some stops are a mistake and are lifted before everybody has heard of them.
        let lasts = self.rng.one([MINUTE / 6, MINUTE, 40 * MINUTE]);
        let lifted = now + self.rng.around(lasts);
        self.order(lifted, Command::Lift);
    }

    fn reconfigure(&mut self, world: &World, fleet: &Fleet, now: u64) {
        let Some(config) = &fleet.facts().config else {
            return;
        };
        let mut document = config.document.clone();
        let names: Vec<String> = config.groups.keys().map(ToString::to_string).collect();
        let name = self.rng.pick(&names).cloned().unwrap_or_default();
        match self.rng.below(6) {
            0 => document["updateSettings"]["maxParallel"] = json!(self.rng.between(1, 8)),
            1 => {
                let window = window(&mut self.rng);
                document["updateGroups"][&name]["maintenanceWindow"] = window;
            }
            2 => document["updateGroups"][&name]["maxParallel"] = json!(self.rng.between(1, 4)),
            3 => {
                self.leave(world, &mut document, &name);
            }
            4 => {
                let joins = self.leave(world, &mut document, &name);
                let other = self.rng.pick(&names).cloned().unwrap_or_default();
                if let Some(members) = document["updateGroups"][&other]["machines"].as_array_mut() {
                    members.extend(joins);
                }
                self.split_anew(&mut document, &other);
            }
            _ => self.split_anew(&mut document, &name),
        }
        if self.rng.once_in(3) {
            let begin = jiff::Timestamp::from_millisecond(fleet.hearsay().now.as_millis());
            let begin = begin.unwrap_or_default();
            document["updateSettings"]["calendars"] = calendars(begin, &mut self.rng);
        }
        let known: Vec<Value> = members_of(&document).cloned().collect();
        if let Some(sets) = document["updateSettings"]["apart"].as_array_mut() {
            let in_groups = |machine: &Value| known.contains(machine);
            sets.retain(|set| set.as_array().is_some_and(|set| set.iter().all(in_groups)));
        }
        if let Some(all) = document["updateSettings"]["coordinators"].as_array_mut() {
            all.retain(|machine| known.contains(machine));
        }
        if let Some(own) = document["updateMachines"].as_object_mut() {
            own.retain(|machine, _| known.iter().any(|known| known == machine.as_str()));
        }
        self.order(now, Command::Configure { document });
    }

    /// Somebody leaves this group, unless it is the last one; whoever is in no group comes along.
    fn leave(&mut self, world: &World, document: &mut Value, group: &str) -> Vec<Value> {
        let known = |document: &Value, name: &str| members_of(document).any(|m| m == name);
        let names = world.machines.iter().map(|m| m.name.as_str());
        let without = names.filter(|name| !known(document, name)).map(Value::from);
        let mut leaves: Vec<Value> = without.collect();
        // Somebody comes after a canary that the group has itself; one by name or percentage is forgotten below.
        let canary = document["updateGroups"][group]["canary"].as_u64();
        let least = usize::try_from(canary.unwrap_or(0)).unwrap_or(0) + 1;
        let members = document["updateGroups"][group]["machines"].as_array_mut();
        if let Some(members) = members.filter(|members| members.len() > least) {
            leaves.push(members.swap_remove(self.rng.index(members.len())));
            // What was said of the group as it was may not fit it any more.
            if let Some(keys) = document["updateGroups"][group].as_object_mut() {
                keys.retain(|key, value| {
                    let of_the_group = ["waves", "pauseAfter"].contains(&key.as_str());
                    !(of_the_group || (key == "canary" && !value.is_number()))
                });
            }
            self.split_anew(document, group);
        }
        leaves
    }

    fn execute(&mut self, world: &World, fleet: &Fleet, action: Action, now: u64) {
        let command = self.wish(world, fleet, action);
        if !self.rng.once_in(3) {
            return self.order(now, command);
        }
        // Somebody reads the plan first; meanwhile the fleet may move.
        let later = now + self.rng.around(10 * MINUTE);
        self.order(later, as_shown(world, fleet, command));
    }

    /// An update to what everybody is to run already, by somebody who reads the plan first. Meanwhile the fleet may
    /// move, and so may its configuration.
    fn read_first(&mut self, world: &World, fleet: &Fleet, now: u64) {
        let command = self.wish(world, fleet, Action::Update);
        let later = now + self.rng.around(10 * MINUTE);
        if self.rng.once_in(3) {
            self.reconfigure(world, fleet, now + MINUTE);
        }
        self.order(later, as_shown(world, fleet, command));
    }

    /// What somebody wants of some machines, or of all.
    fn wish(&mut self, world: &World, fleet: &Fleet, action: Action) -> Command {
        let groups = self.some_groups(fleet);
        let few = groups.is_empty() && self.rng.once_in(2);
        let machines: Vec<MachineIndex> = if few {
            vec![self.rng.index(world.machines.len())]
        } else {
            Vec::new()
        };
        let parallel = self.rng.once_in(3).then(|| {
            let many = self.rng.between(1, 4);
            u32::try_from(many).unwrap_or(1)
        });
        let immediate = self.rng.once_in(6);
        let retry_failed = self.rng.once_in(4);
        let by_number = action == Action::Rollback && self.rng.once_in(3);
        let to_generation = by_number.then(|| self.rng.between(1, 4));
        let ended = fleet.facts().rollouts.keys().copied();
        let before = ended
            .last()
            .filter(|_| action == Action::Rollback && self.rng.once_in(3));
        Command::Execute {
            groups,
            machines,
            action,
            parallel,
            immediate,
            retry_failed,
            to_generation,
            before,
            if_plan: None,
            shown: Vec::new(),
        }
    }

    /// A new system for everybody; then its rollout.
    fn release(&mut self, world: &World, fleet: &Fleet, now: u64) {
        self.prepare(world, now);
        let later = now + self.rng.below(20 * MINUTE) + 1;
        let command = self.wish(world, fleet, Action::Update);
        self.order(later, command);
    }

    /// Everybody is to run a new system, which may be bad on some machines.
    pub(super) fn prepare(&mut self, world: &World, now: u64) {
        self.systems += 1;
        let path = system(self.systems);
        let needs_reboot = self.rng.chance(self.rates.needs_reboot);
        for machine in 0..world.machines.len() {
            let flaw = if self.rng.chance(self.rates.flawed) {
                self.fault("flawed-system");
                self.rng.pick(&FLAWS).copied()
            } else {
                None
            };
            let nature = Nature {
                needs_reboot,
                user_space: needs_reboot && self.systems.is_multiple_of(2),
                flaw,
            };
            if nature != Nature::default() {
                let system = path.clone();
                self.event(
                    now,
                    Event::Nature {
                        machine,
                        system,
                        nature,
                    },
                );
            }
        }
        let targets = (0..world.machines.len()).map(|machine| (machine, path.clone()));
        let targets = targets.collect();
        self.order(now, Command::Prepare { targets });
    }

    /// After the faults: what runs badly is repaired, and whatever waits for people gets its
    /// answer. A rollout that pauses again and again is ended.
    pub(crate) fn settle(&mut self, world: &World, resumed: &mut BTreeMap<u64, u32>) {
        let now = world.now;
        self.repair(world);
        let Some(fleet) = &world.coordinator.fleet else {
            return;
        };
        if fleet.facts().stop.is_some() {
            self.order(now, Command::Lift);
        }
        for number in fleet.index().unfinished.clone() {
            let rollout = Some(number);
            let r = &fleet.facts().rollouts[&number];
            if let RolloutState::Paused(_) = r.state {
                let times = resumed.entry(number).or_default();
                *times += 1;
                if *times <= 2 {
                    self.order(now, Command::ResumeRollout { rollout });
                } else {
                    self.order(now, Command::Abort { rollout });
                }
            } else if r
                .groups
                .iter()
                .any(|group| matches!(group.approval, Approval::Asked(_) | Approval::Needed))
            {
                let reject = false;
                let by = ANOTHER.to_owned();
                self.order(
                    now,
                    Command::Approve {
                        rollout,
                        group: None,
                        reject,
                        by,
                    },
                );
            } else if held(r) {
                let full = false;
                self.order(now, Command::Promote { rollout, full });
            } else if waits_for_months(fleet, number, world.coordinator_time()) {
                self.order(now, Command::Abort { rollout });
            }
        }
    }
}

/// The same, if it is then still what it would be now.
fn as_shown(world: &World, fleet: &Fleet, mut command: Command) -> Command {
    let Ok(OperatorRequest::Execute { wish, .. }) = world.request_of(&command) else {
        return command;
    };
    let Ok(plan) = fleet.plan(&wish) else {
        return command;
    };
    if let Command::Execute { if_plan, shown, .. } = &mut command {
        *if_plan = Some(plan.digest());
        let waves = plan.groups.iter().flat_map(|group| &group.waves);
        let steps = waves.flat_map(|wave| &wave.machines);
        *shown = steps
            .filter_map(|step| Some((*world.index_of.get(&step.name)?, step.target.to_string())))
            .collect();
    }
    command
}

/// Whether it waits for a window that opens in a month at the earliest: what takes longer than a window
/// lasts fits into it in the night in which the clocks go back.
fn waits_for_months(fleet: &Fleet, number: u64, now: Timestamp) -> bool {
    const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);
    let places = fleet.facts().rollouts[&number].places();
    let pending = places.filter(|place| place.state == PlaceState::Pending);
    let mut waits = pending.map(|place| fleet.permission(&place.machine, now));
    waits.any(|wait| {
        let until = wait.err().and_then(|reason| reason.until());
        until.is_some_and(|until| now + MONTH < until)
    })
}

/// Who approves what is not their own.
const ANOTHER: &str = "ada";

/// Whether somebody is asked to let a group of it go on after a wave.
fn held(rollout: &Rollout) -> bool {
    let mut groups = rollout.groups.iter();
    groups.any(|group| group.held_since.is_some())
}

/// The machines that are in groups.
fn members_of(document: &Value) -> impl Iterator<Item = &Value> {
    let groups = document["updateGroups"].as_object().into_iter().flatten();
    groups
        .flat_map(|(_, group)| group["machines"].as_array())
        .flatten()
}
