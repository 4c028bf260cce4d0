//! Chance: turns consequences into events at drawn times, and makes things go wrong. The only part
//! of the simulator that is random; what it decides is recorded as events.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
};

use coordinator_core::analysis::Finding;

use super::{
    event::{
        AgentCut, At, BatchCut, BootInto, Consequence, Event, Flaw, MachineIndex, UnitEnd, UnitKind,
    },
    rng::Rng,
    setup::{HOUR, MINUTE, Rates, system},
    world::{Body, World},
};

/// Something that is to come.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Item {
    /// This will happen.
    Event(Event),
    /// A fault is to be drawn.
    Chaos,
    /// An operator is to act.
    Operator,
    /// This machine's agent may be due.
    AgentDue(MachineIndex),
    /// The coordinator's core may be due.
    CoordinatorDue,
}

/// When something is to come, and after what else of the same time. The heap moves these around a lot,
/// and what is to come stays where it is.
type Entry = (At, u64, usize);

/// What is to come, and the chance that decides it.
#[derive(Debug)]
pub(crate) struct Chance {
    pub(crate) rng: Rng,
    pub(crate) rates: Rates,
    queue: BinaryHeap<Reverse<Entry>>,
    /// What is to come, by the places that the queue names, and the places that are free.
    items: Vec<Option<Item>>,
    free: Vec<usize>,
    order: u64,
    /// Faults injected, by kind.
    pub(crate) faults: BTreeMap<&'static str, u64>,
    /// The earliest look at each agent that is in the queue.
    agent_due: Vec<At>,
    coordinator_due: At,
    batch_waits: bool,
    /// Systems made so far.
    pub(crate) systems: u64,
    /// Whether things still go wrong.
    pub(crate) troubled: bool,
    /// How much longer than usual the coordinator stays away when it dies.
    pub(crate) away: At,
    /// The coordinator's process and the runs of schedules whose source it was seen to ask.
    sources: (u32, BTreeSet<u64>),
    /// The same of moves of traffic: group, number and attempt.
    pub(crate) moves: (u32, BTreeSet<(String, u64, u32)>),
    /// Messages of which a second copy is under way.
    copies: BTreeSet<u64>,
}

impl Chance {
    pub(crate) fn new(rng: Rng, rates: Rates, machines: usize) -> Self {
        Self {
            rng,
            rates,
            queue: BinaryHeap::new(),
            items: Vec::new(),
            free: Vec::new(),
            order: 0,
            faults: BTreeMap::new(),
            agent_due: vec![At::MAX; machines],
            coordinator_due: At::MAX,
            batch_waits: false,
            systems: 0,
            troubled: true,
            away: 0,
            sources: (0, BTreeSet::new()),
            copies: BTreeSet::new(),
            moves: (0, BTreeSet::new()),
        }
    }

    pub(crate) fn push(&mut self, at: At, item: Item) {
        self.order += 1;
        let place = self.free.pop().unwrap_or(self.items.len());
        match self.items.get_mut(place) {
            Some(slot) => *slot = Some(item),
            None => self.items.push(Some(item)),
        }
        self.queue.push(Reverse((at, self.order, place)));
    }

    pub(crate) fn event(&mut self, at: At, event: Event) {
        self.push(at, Item::Event(event));
    }

    pub(crate) fn fault(&mut self, kind: &'static str) {
        *self.faults.entry(kind).or_default() += 1;
    }

    /// The next thing to come.
    pub(crate) fn pop(&mut self) -> Option<(At, Item)> {
        loop {
            let Reverse((at, _, place)) = self.queue.pop()?;
            self.free.push(place);
            let item = self.items[place].take()?;
            // A look that an earlier one took the place of is left out.
            let due = match &item {
                Item::AgentDue(machine) => Some(&mut self.agent_due[*machine]),
                Item::CoordinatorDue => Some(&mut self.coordinator_due),
                Item::Event(Event::Batch { .. }) => {
                    self.batch_waits = false;
                    None
                }
                Item::Event(_) | Item::Chaos | Item::Operator => None,
            };
            match due {
                Some(due) if *due != at => continue,
                Some(due) => *due = At::MAX,
                None => {}
            }
            return Some((at, item));
        }
    }

    /// It is not this thing's time yet.
    pub(crate) fn put_back(&mut self, at: At, item: Item) {
        match &item {
            Item::AgentDue(machine) => self.agent_due[*machine] = at,
            Item::CoordinatorDue => self.coordinator_due = at,
            Item::Event(Event::Batch { .. }) => self.batch_waits = true,
            Item::Event(_) | Item::Chaos | Item::Operator => {}
        }
        self.push(at, item);
    }

    /// True this many times in a million, as long as things go wrong; counted as this fault.
    pub(crate) fn strikes(&mut self, per_million: u64, kind: &'static str) -> bool {
        let strikes = self.troubled && self.rng.chance(per_million);
        if strikes {
            self.fault(kind);
        }
        strikes
    }

    /// Sees to it that whoever is due is looked at.
    pub(crate) fn watch(&mut self, world: &World, touched: Option<MachineIndex>) {
        if let Some(machine) = touched {
            let m = &world.machines[machine];
            if let Some(due) = m.due() {
                let due = m.at(due).max(world.now + 1);
                if due != self.agent_due[machine] {
                    self.agent_due[machine] = due;
                    self.push(due, Item::AgentDue(machine));
                }
            }
        }
        self.ask_sources(world);
        self.move_traffic(world);
        if let Some(fleet) = &world.coordinator.fleet {
            let due = fleet.next_deadline();
            if due != common::Timestamp::MAX {
                let wait = due.since(world.coordinator_time()).as_millis();
                let due = world.now + u64::try_from(wait).unwrap_or(HOUR).max(1);
                if due != self.coordinator_due {
                    self.coordinator_due = due;
                    self.push(due, Item::CoordinatorDue);
                }
            }
        }
    }

    /// The sources of schedules answer after a while: with the newest system, or not at all.
    fn ask_sources(&mut self, world: &World) {
        let Some(fleet) = &world.coordinator.fleet else {
            return;
        };
        let life = world.coordinator.life;
        if self.sources.0 != life {
            self.sources = (life, BTreeSet::new());
        }
        for waits in fleet.unresolved() {
            if !self.sources.1.insert(waits.run) {
                continue;
            }
            let after = self.rng.around(5 * MINUTE);
            let fails = self.strikes(self.rates.unit_fails, "source-fails");
            // Once nothing goes wrong any more, nothing new is to begin either.
            let system =
                (self.troubled && !fails && self.systems > 0).then(|| system(self.systems));
            let event = Event::ScheduleResolved {
                schedule: waits.schedule.to_string(),
                run: waits.run,
                life,
                system,
            };
            self.event(world.now + after, event);
        }
    }

    pub(crate) fn agent_cut(&mut self) -> Option<AgentCut> {
        if !self.strikes(self.rates.agent_cut, "agent-cut-between-steps") {
            return None;
        }
        let after_effects = match self.rng.below(4) {
            0 => None,
            effects => Some(usize::try_from(effects - 1).unwrap_or(0)),
        };
        Some(AgentCut {
            after_effects,
            power: self.rng.once_in(3),
        })
    }

    fn batch_cut(&mut self) -> Option<BatchCut> {
        if !self.strikes(self.rates.batch_cut, "coordinator-cut-between-steps") {
            return None;
        }
        Some(match self.rng.below(4) {
            0 => BatchCut::BeforeAppend,
            1 => BatchCut::BeforeSync {
                survives: self.rng.once_in(2),
            },
            replies => BatchCut::AfterReplies(usize::try_from(replies - 2).unwrap_or(0)),
        })
    }

    /// What follows from what follows.
    pub(crate) fn react(&mut self, world: &World, consequence: Consequence) {
        let now = world.now;
        match consequence {
            Consequence::Sent {
                message,
                to_coordinator,
            } => {
                let sent = world.post.get(message);
                let push = sent.is_some_and(|sent| matches!(sent.body, Body::Push { .. }));
                self.carry(now, message, to_coordinator, push);
            }
            Consequence::Waiting => {
                if !self.batch_waits {
                    self.batch_waits = true;
                    let at = now + self.rng.between(1, 40);
                    let cut = self.batch_cut();
                    self.event(at, Event::Batch { cut });
                }
            }
            Consequence::Held { message, until } => {
                self.event(until, Event::HoldEnds { message });
            }
            Consequence::Broken {
                machine,
                life,
                call,
            } => {
                let at = now + self.rng.between(5, 2_000);
                let call = call.0;
                self.event(
                    at,
                    Event::CallFails {
                        machine,
                        life,
                        call,
                    },
                );
            }
            Consequence::UnitRuns {
                machine,
                step,
                within,
                kind,
                flaw,
            } => {
                let within = u64::try_from(within.as_millis()).unwrap_or(HOUR);
                let (after, how) = self.unit(kind, flaw, within);
                let cut = self.agent_cut();
                self.event(
                    now + after,
                    Event::UnitEnds {
                        machine,
                        step,
                        how,
                        cut,
                    },
                );
            }
            Consequence::Measure { machine } => {
                let at = now + self.rng.between(10, 500);
                self.event(at, Event::Measured { machine });
            }
            Consequence::Armed {
                machine,
                boot,
                lease,
                at,
            } => self.event(
                at,
                Event::DeadMan {
                    machine,
                    boot,
                    lease,
                },
            ),
            Consequence::GoingDown { machine } => {
                if self.strikes(self.rates.odd_boot / 4, "reboot-does-not-happen") {
                    return;
                }
                let at = now + self.rng.between(1_000, MINUTE);
                let ordered = true;
                self.event(at, Event::PowerOff { machine, ordered });
            }
            Consequence::Off { machine, flaw } => self.comes_back(now, machine, flaw),
            Consequence::Up { machine } => {
                let at = now + self.rng.between(2_000, 20_000);
                let cut = self.agent_cut();
                self.event(at, Event::AgentStarts { machine, cut });
            }
            Consequence::AgentGone { machine } => {
                let pause = if self.strikes(self.rates.slow_return / 2, "agent-stays-dead") {
                    self.rng.around(3 * HOUR)
                } else {
                    self.rng.between(1_000, MINUTE)
                };
                let cut = self.agent_cut();
                self.event(now + pause, Event::AgentStarts { machine, cut });
            }
            Consequence::MeasurementWanted { life, id, gate } => {
                self.measure(world, life, id, &gate);
            }
            Consequence::CoordinatorGone => {
                let pause = if self.strikes(self.rates.slow_return / 2, "coordinator-stays-dead") {
                    self.rng.around(2 * HOUR)
                } else {
                    self.rng.between(1_000, 2 * MINUTE)
                };
                self.event(now + pause + self.away, Event::CoordinatorStarts);
            }
        }
    }

    /// Somebody measures for a gate, or does not.
    fn measure(&mut self, world: &World, life: u32, id: u64, gate: &str) {
        if self.strikes(self.rates.gate / 4, "measurement-lost") {
            return;
        }
        let usual = world.gates.get(gate).copied().unwrap_or(Finding::Pass);
        let finding = if self.strikes(self.rates.gate, "gate-does-not-pass") {
            self.rng
                .one([Finding::Fail, Finding::Inconclusive, Finding::Error])
        } else {
            usual
        };
        let mut at = world.now + self.rng.between(10, 5_000);
        if self.strikes(self.rates.gate / 4, "measurement-late") {
            at += self.rng.below(5 * MINUTE);
        }
        let event = Event::Measurement { life, id, finding };
        if self.strikes(self.rates.doubled, "measurement-doubled") {
            let again = at + self.rng.below(MINUTE);
            self.event(again, event.clone());
        }
        self.event(at, event);
    }

    fn carry(&mut self, now: At, message: u64, to_coordinator: bool, push: bool) {
        let (rate, lost) = match (to_coordinator, push) {
            (true, _) => (self.rates.lost, "message-lost"),
            (false, false) => (self.rates.lost, "reply-lost"),
            (false, true) => (self.rates.push_lost, "push-lost"),
        };
        if self.strikes(rate, lost) {
            return;
        }
        let mut at = now + self.rng.between(1, 80);
        if self.strikes(self.rates.delayed, "message-delayed") {
            at += if self.rng.once_in(4) {
                self.rng.below(2 * HOUR)
            } else {
                self.rng.below(40_000)
            };
        }
        let cut = if to_coordinator {
            None
        } else {
            self.agent_cut()
        };
        self.event(at, Event::Arrive { message, cut });
        if self.strikes(self.rates.doubled, "message-doubled") {
            let late = self.rng.one([MINUTE, 10 * MINUTE, HOUR, 6 * HOUR]);
            let again = at + self.rng.below(late);
            self.event(again, Event::Arrive { message, cut: None });
            self.copies.insert(message);
        }
    }

    /// A copy of the message has arrived. Whether it was the last one.
    pub(crate) fn has_arrived(&mut self, message: u64) -> bool {
        !self.copies.remove(&message)
    }

    fn unit(&mut self, kind: UnitKind, flaw: Option<Flaw>, within: At) -> (At, UnitEnd) {
        let usual = match kind {
            UnitKind::Stage => self.rng.around(5 * MINUTE),
            UnitKind::CleanUp => self.rng.between(5_000, 20 * MINUTE),
            UnitKind::Short => self.rng.between(20, 3_000),
            UnitKind::Hook(_) | UnitKind::Traffic => self.rng.around(20_000),
            UnitKind::Activate | UnitKind::Restore => self.rng.around(40_000),
            UnitKind::Reboot => self.rng.between(50, 2_000),
            UnitKind::Judge => self.rng.around(30_000),
        };
        let hangs = matches!(
            (kind, flaw),
            (UnitKind::Activate, Some(Flaw::SwitchHangs))
                | (
                    UnitKind::Hook(agent_core::Hook::Post),
                    Some(Flaw::PostHookHangs)
                )
        );
        if hangs {
            return (within, UnitEnd::TimesOut);
        }
        if self.strikes(self.rates.unit_slow, "unit-hangs-or-is-slow") {
            let after = self.rng.between(usual, within.max(usual));
            return if self.rng.once_in(3) {
                (within, UnitEnd::TimesOut)
            } else {
                (after.min(within), UnitEnd::ByNature)
            };
        }
        if self.strikes(self.rates.unit_fails, "unit-fails") {
            return (usual.min(within), UnitEnd::Fails);
        }
        (usual.min(within), UnitEnd::ByNature)
    }

    fn comes_back(&mut self, now: At, machine: MachineIndex, flaw: Option<Flaw>) {
        let mut into = match flaw {
            Some(Flaw::BootFallsBack) => BootInto::Fallback,
            Some(Flaw::BootsThird) => BootInto::Third,
            _ => BootInto::Default,
        };
        let silent = flaw == Some(Flaw::BootSilent);
        if self.strikes(self.rates.odd_boot, "boot-brings-up-something-else") {
            into = self.rng.one([BootInto::Fallback, BootInto::Third]);
        }
        let stays = silent || self.strikes(self.rates.slow_return, "machine-stays-off");
        let pause = if stays {
            self.rng.around(6 * HOUR)
        } else {
            self.rng.between(20_000, 4 * MINUTE)
        };
        if silent {
            into = BootInto::Fallback;
        }
        self.event(now + pause, Event::Boot { machine, into });
    }
}
