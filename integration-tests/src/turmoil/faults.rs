//! What goes wrong by itself, between two steps of the simulated network: links that break in one
//! or both directions, hold back or slow down what they carry; processes and machines that die.

use std::time::Duration;

use ::turmoil::Sim;

use super::{
    machine::Power,
    setup::{At, COORDINATOR, HOUR, KINDS, MINUTE, SECOND},
    world::{Shared, World, runs},
};

/// Latency of a link while nothing is wrong with it.
pub(crate) const LATENCY: Duration = Duration::from_millis(100);

/// Something that is to be put right again at its time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cure {
    Repair(usize),
    RepairOneWay(usize, bool),
    Release(usize),
    Quicken(usize),
    Heal(usize),
    SetClock,
}

/// What is going to happen.
pub(crate) struct Faults {
    next: At,
    cures: Vec<(At, Cure)>,
}

impl Faults {
    pub(crate) fn new(first: At) -> Self {
        Self {
            next: first,
            cures: Vec::new(),
        }
    }

    /// Everything that is due now.
    pub(crate) fn step(&mut self, sim: &mut Sim<'_>, shared: &Shared, now: At) {
        self.cures.sort();
        while let Some((at, _)) = self.cures.first() {
            if *at > now {
                break;
            }
            let (_, cure) = self.cures.remove(0);
            apply(sim, &mut shared.lock(), &cure);
        }
        while self.next <= now {
            let mean = shared.lock().setup.between_faults;
            self.next += shared.lock().rng.around(mean).max(1);
            if shared.lock().troubled {
                self.strike(sim, shared, now);
            }
        }
    }

    /// Puts everything right at once.
    pub(crate) fn end(&mut self, sim: &mut Sim<'_>, shared: &Shared, now: At) {
        let mut world = shared.lock();
        world.troubled = false;
        self.cures.sort();
        for (_, cure) in self.cures.drain(..) {
            apply(sim, &mut world, &cure);
        }
        world.coordinator.down_until = world.coordinator.down_until.min(now);
        for machine in &mut world.machines {
            machine.ill = false;
            machine.flaws.clear();
            if let Power::Off(until) = &mut machine.power {
                *until = now.min(*until);
            }
        }
        world.tell(|_| "nothing goes wrong from here on".to_owned());
    }

    fn strike(&mut self, sim: &mut Sim<'_>, shared: &Shared, now: At) {
        let (kind, machine) = {
            let mut world = shared.lock();
            let weights = world.setup.weights;
            let mut at = world.rng.below(weights.iter().sum());
            let kind = weights.iter().position(|weight| {
                let here = at < *weight;
                at = at.saturating_sub(*weight);
                here
            });
            (kind.unwrap_or(KINDS), world.victim())
        };
        match kind {
            0..=4 => self.link(sim, &mut shared.lock(), machine, kind, now),
            5 => self.clog(sim, &mut shared.lock(), now),
            6 => {
                let world = shared.lock();
                world.machines[machine].kill.notify_one();
                drop(world);
                shared.lock().count("agent-killed", machine);
            }
            7 => {
                shared.lock().count("machine-power-cut", machine);
                power_off(sim, shared, machine, now);
            }
            8 => self.illness(&mut shared.lock(), machine, now),
            9 | 10 => kill_coordinator(sim, shared, now, kind == 10),
            11 => self.clock(&mut shared.lock(), now),
            _ => {}
        }
    }

    fn link(&mut self, sim: &Sim<'_>, world: &mut World, machine: usize, kind: usize, now: At) {
        if world.machines[machine].link_busy {
            return;
        }
        world.machines[machine].link_busy = true;
        let name = world.machines[machine].name.to_string();
        let name = name.as_str();
        let lasts = world.rng.around(4 * MINUTE);
        let cure = match kind {
            0 => {
                world.count("partition", machine);
                sim.partition(name, COORDINATOR);
                Cure::Repair(machine)
            }
            1 | 2 => {
                let out = kind == 1;
                world.count(if out { "one-way-out" } else { "one-way-in" }, machine);
                let (from, to) = direction(name, out);
                sim.partition_oneway(from, to);
                Cure::RepairOneWay(machine, out)
            }
            3 => {
                world.count("hold", machine);
                sim.hold(name, COORDINATOR);
                Cure::Release(machine)
            }
            _ => {
                world.count("latency", machine);
                let slow = Duration::from_millis(world.rng.between(300, 3000));
                sim.set_link_latency(name, COORDINATOR, slow);
                Cure::Quicken(machine)
            }
        };
        self.cures.push((now + lasts, cure));
    }

    /// Swizzle-clog: several links stop one after the other, and come back in another order.
    fn clog(&mut self, sim: &Sim<'_>, world: &mut World, now: At) {
        for machine in 0..world.machines.len() {
            if world.rng.once_in(2) {
                self.link(sim, world, machine, 3, now);
            }
        }
    }

    fn illness(&mut self, world: &mut World, machine: usize, now: At) {
        world.count("service-fails", machine);
        world.machines[machine].ill = true;
        let heals = now + world.rng.around(10 * MINUTE);
        self.cures.push((heals, Cure::Heal(machine)));
    }

    fn clock(&mut self, world: &mut World, now: At) {
        world.fault("coordinator-clock-jumps");
        let most = world.rng.one([MINUTE, HOUR]);
        let size = i64::try_from(world.rng.below(most)).unwrap_or(0);
        let by = if world.rng.once_in(2) { size } else { -size };
        world.tell(|_| format!("the coordinator's clock is wrong by {by} ms"));
        let clock = &world.coordinator.clock.offset_ms;
        clock.store(by, std::sync::atomic::Ordering::Relaxed);
        let back = now + world.rng.around(20 * MINUTE);
        self.cures.push((back, Cure::SetClock));
    }
}

impl World {
    fn count(&mut self, kind: &'static str, machine: usize) {
        self.fault(kind);
        self.tell(|w| format!("{kind}: {}", w.machines[machine].name));
    }

    /// A machine that something happens to: rather one that is in the middle of something.
    fn victim(&mut self) -> usize {
        let busy: Vec<usize> = (0..self.machines.len())
            .filter(|machine| self.machines[*machine].truth.attempt.is_some())
            .collect();
        match self.rng.pick(&busy).copied() {
            Some(machine) if !self.rng.once_in(3) => machine,
            Some(_) | None => self.rng.index(self.machines.len()),
        }
    }
}

fn direction(machine: &str, out: bool) -> (&str, &str) {
    if out {
        (machine, COORDINATOR)
    } else {
        (COORDINATOR, machine)
    }
}

fn apply(sim: &Sim<'_>, world: &mut World, cure: &Cure) {
    let machine = match cure {
        Cure::Heal(machine) => {
            world.machines[*machine].ill = false;
            return world.recovered(*machine);
        }
        Cure::SetClock => {
            let clock = &world.coordinator.clock.offset_ms;
            return clock.store(0, std::sync::atomic::Ordering::Relaxed);
        }
        Cure::Repair(machine)
        | Cure::RepairOneWay(machine, _)
        | Cure::Release(machine)
        | Cure::Quicken(machine) => *machine,
    };
    world.machines[machine].link_busy = false;
    let name = world.machines[machine].name.to_string();
    let name = name.as_str();
    match cure {
        Cure::Repair(_) => sim.repair(name, COORDINATOR),
        Cure::RepairOneWay(_, out) => {
            let (from, to) = direction(name, *out);
            sim.repair_oneway(from, to);
        }
        Cure::Release(_) => sim.release(name, COORDINATOR),
        Cure::Quicken(_) => sim.set_link_latency(name, COORDINATOR, LATENCY),
        Cure::Heal(_) | Cure::SetClock => {}
    }
    world.tell(|w| format!("{}'s link is good again", w.machines[machine].name));
}

/// The power of a machine goes, with everything that runs on it.
pub(crate) fn power_off(sim: &mut Sim<'_>, shared: &Shared, machine: usize, now: At) {
    let name = {
        let mut world = shared.lock();
        if let Power::Off(_) = world.machines[machine].power {
            return;
        }
        let away = if world.strikes(20_000, "machine-stays-off") {
            world.rng.around(HOUR)
        } else {
            world.rng.between(20 * SECOND, 2 * MINUTE)
        };
        let World { machines, rng, .. } = &mut *world;
        if let Err(error) = machines[machine].stop(now + away, rng) {
            world.violate(format!("the simulation's own files fail: {error}"));
        }
        world.tell(|w| {
            format!(
                "{} is off; {}",
                w.machines[machine].name,
                runs(&w.machines[machine])
            )
        });
        world.machines[machine].name.to_string()
    };
    sim.crash(name.as_str());
}

/// The coordinator dies: its process, which closes its connections, or its power, and nobody
/// hears of it.
fn kill_coordinator(sim: &mut Sim<'_>, shared: &Shared, now: At, power: bool) {
    {
        let mut world = shared.lock();
        if !world.coordinator.up {
            return;
        }
        let kind = if power {
            "coordinator-power-cut"
        } else {
            "coordinator-killed"
        };
        world.fault(kind);
        world.tell(|_| kind.to_owned());
        world.coordinator.up = false;
        world.coordinator.down_until = now + world.down_time();
        if power {
            for machine in world.machines.iter().filter(|m| !m.link_busy) {
                sim.partition(machine.name.as_str(), COORDINATOR);
            }
        }
    }
    sim.crash(COORDINATOR);
    if power {
        let world = shared.lock();
        for machine in world.machines.iter().filter(|m| !m.link_busy) {
            sim.repair(machine.name.as_str(), COORDINATOR);
        }
    }
}

impl World {
    /// How long the coordinator stays away.
    pub(crate) fn down_time(&mut self) -> At {
        if self.strikes(20_000, "coordinator-stays-dead") {
            self.rng.around(HOUR / 2)
        } else {
            self.rng.between(SECOND, 2 * MINUTE)
        }
    }
}
