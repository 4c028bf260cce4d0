//! Faults that come by themselves, and their end.

use common::LeaseId;

use super::{
    chance::{Chance, Item},
    event::{BootInto, Event, MachineIndex},
    setup::{HOUR, MINUTE},
    world::World,
};

impl Chance {
    /// Draws one fault, and when the next comes.
    pub(crate) fn chaos(&mut self, world: &World) {
        if !self.troubled || self.rates.chaos == 0 {
            return;
        }
        let now = world.now;
        let next = now + self.rng.around(self.rates.chaos).max(1);
        self.push(next, Item::Chaos);
        let total: u64 = self.rates.kinds.iter().sum();
        let mut at = self.rng.below(total);
        if total == 0 {
            return;
        }
        let kinds = self.rates.kinds;
        let kind = kinds.iter().position(|weight| {
            let here = at < *weight;
            at = at.saturating_sub(*weight);
            here
        });
        let machine = self.victim(world);
        match kind {
            Some(0) => {
                self.fault("coordinator-dies");
                self.event(now, Event::CoordinatorDies);
            }
            Some(1) => self.clock(world),
            Some(2) => {
                self.fault("agent-dies");
                self.event(now, Event::AgentDies { machine });
            }
            Some(3) => {
                self.fault("power-cut");
                let ordered = false;
                self.event(now, Event::PowerOff { machine, ordered });
            }
            Some(4) => {
                self.fault("service-fails");
                self.event(now, Event::Ill { machine, ill: true });
                let well = now + self.rng.around(HOUR);
                self.event(
                    well,
                    Event::Ill {
                        machine,
                        ill: false,
                    },
                );
            }
            Some(5) => {
                self.fault("partition");
                self.part(world, machine, (false, false));
            }
            Some(6) => {
                self.fault("one-way-partition");
                let out = self.rng.once_in(2);
                self.part(world, machine, (out, !out));
            }
            Some(7) => self.clog(world),
            Some(8) => self.forge(world, machine),
            Some(9) => {
                self.fault("agent-stands-still");
                self.event(now, Event::AgentFreezes { machine });
                let thaws = now + self.rng.around(30 * MINUTE);
                self.event(thaws, Event::AgentThaws { machine });
            }
            Some(10) => self.fill(now, machine),
            Some(11) if !world.coordinator.disk.has_backup() => self.event(now, Event::Backup),
            Some(11) => {
                // Each loss ends the time of one backup and begins that of the next.
                self.fault("restore-from-backup");
                self.event(now, Event::Restore);
                let copied = now + self.rng.around(2 * HOUR);
                self.event(copied, Event::Backup);
            }
            Some(_) | None => {}
        }
    }

    /// A machine that something happens to: rather one that is in the middle of something.
    fn victim(&mut self, world: &World) -> MachineIndex {
        let busy: Vec<MachineIndex> = (0..world.machines.len())
            .filter(|machine| world.machines[*machine].disk.attempt.is_some())
            .collect();
        match self.rng.pick(&busy) {
            Some(machine) if !self.rng.once_in(3) => *machine,
            Some(_) | None => self.rng.index(world.machines.len()),
        }
    }

    fn part(&mut self, world: &World, machine: MachineIndex, link: (bool, bool)) {
        self.event(world.now, link_of(machine, link));
        let heals = world.now + self.rng.around(40 * MINUTE);
        self.event(heals, link_of(machine, (true, true)));
    }

    /// Swizzle-clog: several links stop one after the other and come back in another order.
    fn clog(&mut self, world: &World) {
        self.fault("clog");
        let many = self.rng.between(2, 8).min(world.machines.len() as u64);
        for _ in 0..many {
            let machine = self.rng.index(world.machines.len());
            let stops = world.now + self.rng.below(5 * MINUTE);
            let starts = world.now + 5 * MINUTE + self.rng.below(30 * MINUTE);
            self.event(stops, link_of(machine, (false, false)));
            self.event(starts, link_of(machine, (true, true)));
        }
    }

    fn clock(&mut self, world: &World) {
        self.fault("coordinator-clock-jumps");
        let most = self.rng.one([MINUTE, HOUR, 8 * HOUR]);
        let size = i64::try_from(self.rng.below(most)).unwrap_or(0);
        let by_ms = if self.rng.once_in(2) { size } else { -size };
        self.event(world.now, Event::CoordinatorClock { by_ms });
        let back = world.now + self.rng.around(2 * HOUR);
        self.event(back, Event::CoordinatorClock { by_ms: -by_ms });
    }

    fn fill(&mut self, now: u64, machine: MachineIndex) {
        let freed = now + self.rng.around(40 * MINUTE);
        if self.rng.once_in(3) {
            self.fault("coordinator-disk-full");
            self.event(now, Event::CoordinatorDisk { full: true });
            self.event(freed, Event::CoordinatorDisk { full: false });
        } else {
            self.fault("machine-disk-full");
            let full = true;
            self.event(now, Event::MachineDisk { machine, full });
            let full = false;
            self.event(freed, Event::MachineDisk { machine, full });
        }
    }

    fn forge(&mut self, world: &World, machine: MachineIndex) {
        self.fault("forgery");
        let leases = world.coordinator.mirror.facts().leases.keys();
        let leases: Vec<LeaseId> = leases.copied().collect();
        let lease = self.rng.pick(&leases).copied().unwrap_or(LeaseId(1));
        self.event(world.now, Event::Forge { machine, lease });
    }

    /// What runs badly, on machines that are not in the middle of something, somebody repairs.
    pub(crate) fn repair(&mut self, world: &World) {
        for (machine, m) in world.machines.iter().enumerate() {
            let nature = m.nature(&m.running);
            if nature.flaw.is_some() && m.disk.attempt.is_none() {
                let nature = super::event::Nature {
                    flaw: None,
                    ..nature
                };
                let system = m.running.clone();
                self.event(
                    world.now,
                    Event::Nature {
                        machine,
                        system,
                        nature,
                    },
                );
            }
        }
    }

    /// All faults end: power, links, clocks, disks and services are put right.
    pub(crate) fn heal(&mut self, world: &World) {
        self.troubled = false;
        let now = world.now + 1;
        let by_ms = -world.coordinator.offset_ms;
        self.event(now, Event::CoordinatorClock { by_ms });
        self.event(now, Event::CoordinatorDisk { full: false });
        self.event(now, Event::CoordinatorStarts);
        for (machine, m) in world.machines.iter().enumerate() {
            self.event(now, link_of(machine, (true, true)));
            self.event(
                now,
                Event::Ill {
                    machine,
                    ill: false,
                },
            );
            let full = false;
            self.event(now, Event::MachineDisk { machine, full });
            self.event(now, Event::AgentThaws { machine });
            if m.going_down {
                // Its reboot hangs: somebody presses the button.
                let ordered = false;
                self.event(now, Event::PowerOff { machine, ordered });
            }
            let into = BootInto::Default;
            self.event(now + MINUTE, Event::Boot { machine, into });
            let cut = None;
            self.event(now + 2 * MINUTE, Event::AgentStarts { machine, cut });
        }
    }
}

fn link_of(machine: MachineIndex, (to_coordinator, from_coordinator): (bool, bool)) -> Event {
    Event::Link {
        machine,
        to_coordinator,
        from_coordinator,
    }
}
