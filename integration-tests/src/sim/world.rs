//! The world: machines, network and coordinator under one clock. [`World::apply`] makes one event
//! happen, without any chance, and says what follows.

use std::{collections::BTreeMap, rc::Rc};

use agent_core::{CallId, Moment};
use common::{MachineName, StorePath, Timestamp};
use coordinator_core::{
    analysis::Finding,
    request::{AgentRequest, Reply},
};

use super::{
    bugs::SeededBug,
    check::{self, Truth},
    driver::Coordinator,
    event::{At, BootInto, Consequence, Event, MachineIndex, Nature},
    machine::Machine,
    post::Post,
    traffic::Balancers,
};

/// Something wrong in the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// When, in milliseconds of simulated time.
    pub at: u64,
    /// What.
    pub text: String,
}

/// Everything there is.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) now: At,
    /// The true wall clock at the beginning.
    pub(crate) start: Timestamp,
    pub(crate) machines: Vec<Machine>,
    pub(crate) index_of: BTreeMap<MachineName, MachineIndex>,
    pub(crate) coordinator: Coordinator,
    pub(crate) post: Post,
    pub(crate) truth: Truth,
    /// Whether what is recorded is held against itself at every decision.
    pub(crate) pedantic: bool,
    pub(crate) bug: Option<SeededBug>,
    pub(crate) violations: Vec<Violation>,
    /// Events that were applied.
    pub(crate) events: u64,
    /// Messages that a broken link swallowed.
    pub(crate) swallowed: u64,
    /// What is measured for a gate, where that is not that it passes.
    pub(crate) gates: BTreeMap<String, Finding>,
    /// Who gives the machines of groups with two sides their traffic.
    pub(crate) balancers: Balancers,
    /// What operators give as their reason.
    pub(crate) reason: String,
    /// What the operators were answered since somebody last looked.
    pub(crate) answers: Vec<Reply>,
    /// What happened, in words, while somebody wants to read it.
    pub(crate) story: Option<Vec<String>>,
    pub(crate) follows: Vec<Consequence>,
}

/// One message under way. It may arrive more than once, and is never changed.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) machine: MachineIndex,
    /// The agent's process it comes from or goes to.
    pub(crate) life: u32,
    pub(crate) sent_at: At,
    pub(crate) body: Body,
}

/// What messages say.
#[derive(Debug)]
pub(crate) enum Body {
    /// An agent asks. `truth` is what the machine really ran when it did.
    Ask {
        call: CallId,
        sent: Moment,
        hold: At,
        /// The coordinator's process that the connection leads to.
        to: u32,
        request: AgentRequest,
        truth: StorePath,
    },
    /// The coordinator answers.
    Answer {
        /// What was asked.
        question: Rc<Message>,
        epoch: common::Epoch,
        reply: Reply,
    },
    /// The coordinator pushes.
    Push {
        epoch: common::Epoch,
        stand_down: Option<(common::StopMode, String)>,
    },
}

impl World {
    pub(crate) fn new(start: Timestamp, machines: Vec<Machine>, bug: Option<SeededBug>) -> Self {
        let index_of = machines
            .iter()
            .enumerate()
            .map(|(index, machine)| (machine.name.clone(), index))
            .collect();
        let own = machines
            .get(1)
            .map(|machine: &Machine| machine.name.clone());
        Self {
            now: 0,
            start,
            machines,
            index_of,
            coordinator: Coordinator::new(own),
            post: Post::default(),
            truth: Truth::default(),
            pedantic: false,
            bug,
            violations: Vec::new(),
            events: 0,
            swallowed: 0,
            gates: BTreeMap::new(),
            balancers: Balancers::default(),
            story: None,
            reason: "simulated".to_owned(),
            answers: Vec::new(),
            follows: Vec::new(),
        }
    }

    /// Makes this happen now.
    pub(crate) fn apply(&mut self, now: At, event: &Event) -> Vec<Consequence> {
        self.now = self.now.max(now);
        self.events += 1;
        match event {
            Event::Arrive { message, cut } => self.arrive(*message, *cut),
            Event::Batch { cut } => self.batch(*cut),
            Event::HoldEnds { message } => self.hold_ends(*message),
            Event::CoordinatorDies => self.coordinator_dies(false),
            Event::CoordinatorStarts => self.coordinator_starts(),
            Event::Backup => self.coordinator.disk.back_up(),
            Event::Restore => self.restore(),
            Event::CoordinatorDisk { full } => self.coordinator.disk.full = *full,
            Event::CoordinatorClock { by_ms } => {
                self.coordinator.offset_ms += by_ms;
                self.follows.push(Consequence::Waiting);
            }
            Event::CallFails {
                machine,
                life,
                call,
            } => self.call_fails(*machine, *life, CallId(*call)),
            Event::AgentTick { machine, cut } => {
                self.feed(*machine, agent_core::Input::Tick, *cut);
            }
            Event::AgentDies { machine } => self.agent_dies(*machine),
            Event::AgentStarts { machine, cut } => self.agent_starts(*machine, *cut),
            Event::AgentFreezes { machine } => self.machines[*machine].freeze(),
            Event::AgentThaws { machine } => self.thaw(*machine),
            Event::MachineDisk { machine, full } => self.machines[*machine].disk_full = *full,
            Event::UnitEnds {
                machine,
                step,
                how,
                cut,
            } => self.unit_ends(*machine, *step, *how, *cut),
            Event::Measured { machine } => {
                let facts = self.machines[*machine].facts();
                self.feed(*machine, agent_core::Input::Measured(facts), None);
            }
            Event::DeadMan {
                machine,
                boot,
                lease,
            } => self.dead_man(*machine, *boot, *lease),
            Event::PowerOff { machine, ordered } => self.power_off(*machine, *ordered),
            Event::Boot { machine, into } => self.boot(*machine, *into),
            Event::Ill { machine, ill } => {
                self.machines[*machine].ill = *ill;
                self.recovered(*machine);
            }
            Event::Link {
                machine,
                to_coordinator,
                from_coordinator,
            } => self.machines[*machine].link = (*to_coordinator, *from_coordinator),
            Event::Forge { machine, lease } => self.forge(*machine, *lease),
            Event::Nature {
                machine,
                system,
                nature,
            } => self.nature(*machine, system, *nature),
            Event::ScheduleResolved {
                schedule,
                run,
                life,
                system,
            } => self.resolved(schedule, *run, *life, system.as_ref()),
            Event::Operator { command } => self.command(command),
            Event::Measurement { life, id, finding } => self.measurement(*life, *id, *finding),
            Event::Gate { gate, finding } => {
                self.gates.insert(gate.clone(), *finding);
            }
            Event::Traffic {
                group,
                number,
                attempt,
                life,
                step,
            } => self.balance((group, *number, *attempt), *life, *step),
            Event::Balancer { group, works } => self.balancer(group, *works),
            Event::BalancerStarts { group } => self.balancer_starts(group),
        }
        self.check_slots();
        self.post.forget(self.now);
        std::mem::take(&mut self.follows)
    }

    fn nature(&mut self, machine: MachineIndex, system: &StorePath, nature: Nature) {
        let natures = &mut self.machines[machine].natures;
        natures.insert(system.clone(), nature);
        self.recovered(machine);
    }

    pub(crate) fn violate(&mut self, text: String) {
        let at = self.now;
        if self.violations.len() < 20 {
            self.violations.push(Violation { at, text });
        }
    }

    pub(crate) fn tell(&mut self, text: impl FnOnce(&Self) -> String) {
        if self.story.is_some() {
            let text = text(self);
            self.story.get_or_insert_default().push(text);
        }
    }

    /// The coordinator's process that a connection made now leads to, in the end.
    pub(crate) fn coordinator_life(&self) -> u32 {
        self.coordinator.life + u32::from(self.coordinator.fleet.is_none())
    }

    pub(crate) fn send(&mut self, message: Message) {
        let to_coordinator = matches!(message.body, Body::Ask { .. });
        let message = self.post.take(message);
        self.follows.push(Consequence::Sent {
            message,
            to_coordinator,
        });
    }

    fn arrive(&mut self, id: u64, cut: Option<super::event::AgentCut>) {
        let Some(message) = self.post.get(id).cloned() else {
            return;
        };
        let (to_coordinator, from_coordinator) = self.machines[message.machine].reach();
        let asks = matches!(message.body, Body::Ask { .. });
        if (asks && !to_coordinator) || (!asks && !from_coordinator) {
            self.swallowed += 1;
            return;
        }
        match &message.body {
            // The connection that it came by went with the boot.
            Body::Ask { request, .. }
                if check::boot_of(request)
                    .is_some_and(|boot| boot != self.machines[message.machine].boot) =>
            {
                self.swallowed += 1;
            }
            Body::Ask { call, to, .. } => {
                if self.coordinator.fleet.is_none() || *to != self.coordinator.life {
                    self.follows.push(Consequence::Broken {
                        machine: message.machine,
                        life: message.life,
                        call: *call,
                    });
                    return;
                }
                let name = self.machines[message.machine].name.clone();
                let held = self.coordinator.take_in(id, name, message);
                self.follows.extend(held);
                self.follows.push(Consequence::Waiting);
            }
            Body::Answer { .. } | Body::Push { .. } => self.receive(&message, cut),
        }
    }

    pub(crate) fn power_off(&mut self, machine: MachineIndex, ordered: bool) {
        let m = &mut self.machines[machine];
        if !m.up || (ordered && !m.going_down) {
            return;
        }
        if !ordered && let Some(attempt) = &m.disk.attempt {
            m.truth.cut = Some(attempt.lease);
        }
        m.going_soft &= ordered;
        m.power_off();
        self.tell(|w| format!("{} is off", w.machines[machine].name));
        let m = &self.machines[machine];
        // No boot loader has a say in a soft-reboot.
        let flaw = m.nature(&m.profile).flaw.filter(|_| !m.going_soft);
        self.follows.push(Consequence::Off { machine, flaw });
    }

    /// A machine that somebody took over speaks of a lease it picked itself.
    fn forge(&mut self, machine: MachineIndex, lease: common::LeaseId) {
        let m = &self.machines[machine];
        let epoch = m.disk.epoch;
        let body = Body::Ask {
            call: CallId(u64::MAX),
            sent: m.moment(self.now),
            hold: 0,
            to: self.coordinator_life(),
            request: AgentRequest::Renew {
                lease,
                epoch,
                attempt: None,
                silence: std::time::Duration::ZERO,
            },
            truth: m.running.clone(),
        };
        let message = Message {
            machine,
            life: m.life,
            sent_at: self.now,
            body,
        };
        self.send(message);
    }

    fn boot(&mut self, machine: MachineIndex, into: BootInto) {
        let now = self.now;
        let m = &mut self.machines[machine];
        if m.up {
            return;
        }
        let others = m.generations.iter().rev().map(|g| &g.path);
        let mut others = others.filter(|path| **path != m.profile);
        let system = match into {
            BootInto::Default => None,
            BootInto::Fallback => others.next(),
            BootInto::Third => others.nth(1),
        };
        let system = system.unwrap_or(&m.profile).clone();
        m.boot_into(system, now);
        self.recovered(machine);
        self.tell(|w| {
            let m = &w.machines[machine];
            format!("{} boots {}", m.name, m.running.name())
        });
        self.follows.push(Consequence::Up { machine });
    }
}
