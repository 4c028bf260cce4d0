//! The coordinator's side of the world: its driver, which decides a batch, makes it durable, and
//! only then lets anything leave; held polls; death and recovery.

use std::{
    collections::{BTreeMap, VecDeque},
    rc::Rc,
};

use common::{MachineName, Timestamp};
use coordinator_core::{
    Change, Fleet, Reply, Request,
    analysis::{Finding, Measurement},
    invariants,
    request::{AgentRequest, Directive, OperatorRequest},
};

use super::{
    bugs::{DriverBug, SeededBug},
    disk::Disk,
    event::{At, BatchCut, Consequence, MachineIndex},
    world::{Body, Message, World},
};

/// The coordinator.
#[derive(Debug)]
pub(crate) struct Coordinator {
    /// The core, while the process lives.
    pub(crate) fleet: Option<Fleet>,
    /// The same state reached by applying the recorded changes alone: what replay gives.
    pub(crate) mirror: Fleet,
    pub(crate) disk: Disk,
    inbox: Vec<Ask>,
    parked: BTreeMap<MachineIndex, Origin>,
    /// Which process it is; connections to an earlier one are broken.
    pub(crate) life: u32,
    /// How wrong its wall clock is.
    pub(crate) offset_ms: i64,
    /// The machine that it runs on, as far as that one's own rules go.
    pub(crate) own: Option<MachineName>,
}

/// A question that waits.
#[derive(Debug)]
pub(crate) enum Ask {
    /// An agent's.
    Agent(Origin),
    /// An operator's, or the clock's.
    Other(Request),
}

/// The message that a question came in. Who it is from, the connection has proved.
#[derive(Debug)]
pub(crate) struct Origin {
    id: u64,
    hold_until: At,
    machine: MachineName,
    pub(crate) letter: Rc<Message>,
}

impl Ask {
    /// The message that it came in.
    pub(crate) fn origin(&self) -> Option<&Origin> {
        match self {
            Self::Agent(origin) => Some(origin),
            Self::Other(_) => None,
        }
    }

    fn into_origin(self) -> Option<Origin> {
        match self {
            Self::Agent(origin) => Some(origin),
            Self::Other(_) => None,
        }
    }

    /// As the core is asked.
    fn request(&self) -> Option<Request> {
        Some(match self {
            Self::Agent(origin) => Request::Agent {
                machine: origin.machine.clone(),
                request: origin.question()?.clone(),
            },
            Self::Other(request) => request.clone(),
        })
    }

    /// Whether it is a poll.
    pub(crate) fn is_poll(&self) -> bool {
        let question = self.origin().and_then(Origin::question);
        matches!(question, Some(AgentRequest::Poll { .. }))
    }

    /// Whether it is a measurement that passed.
    pub(crate) fn is_pass(&self) -> bool {
        let request = match self {
            Self::Other(request) => request,
            Self::Agent(_) => return false,
        };
        matches!(request, Request::Measured { finding, .. } if *finding == Finding::Pass)
    }

    /// The plan that somebody wants carried out, and nothing else.
    pub(crate) fn plan(&self) -> Option<&str> {
        let request = match self {
            Self::Other(Request::Operator { request, .. }) => request,
            Self::Other(_) | Self::Agent(_) => return None,
        };
        if let OperatorRequest::Execute { if_plan, .. } = request {
            if_plan.as_deref()
        } else {
            None
        }
    }

    /// Whether it is a result for this lease.
    pub(crate) fn is_result_for(&self, lease: common::LeaseId) -> bool {
        let question = self.origin().and_then(Origin::question);
        matches!(question, Some(AgentRequest::Result { lease: given, .. }) if *given == lease)
    }
}

impl Origin {
    /// What the agent asks.
    fn question(&self) -> Option<&AgentRequest> {
        match &self.letter.body {
            Body::Ask { request, .. } => Some(request),
            Body::Answer { .. } | Body::Push { .. } => None,
        }
    }

    /// The connection on which it came is gone.
    fn broken(self) -> Option<Consequence> {
        let Body::Ask { call, .. } = self.letter.body else {
            return None;
        };
        Some(Consequence::Broken {
            machine: self.letter.machine,
            life: self.letter.life,
            call,
        })
    }
}

/// An answer that may leave once the batch is durable.
struct Outgoing {
    ask: Ask,
    reply: Reply,
    epoch: common::Epoch,
    /// How many changes must have been made durable, ever, before it may leave.
    needs: u64,
}

/// A batch in the making.
#[derive(Default)]
struct Batch {
    changes: Vec<Change>,
    outgoing: Vec<Outgoing>,
    broadcast: bool,
    measure: Vec<Measurement>,
}

impl Coordinator {
    pub(crate) fn new(own: Option<MachineName>) -> Self {
        Self {
            own,
            fleet: None,
            mirror: Fleet::new(Timestamp(0)),
            disk: Disk::new(),
            inbox: Vec::new(),
            parked: BTreeMap::new(),
            life: 0,
            offset_ms: 0,
        }
    }

    /// A message from an agent joins the queue. A poll takes the place of one that is held for the
    /// same machine, which comes back.
    pub(crate) fn take_in(
        &mut self,
        id: u64,
        machine: MachineName,
        letter: Rc<Message>,
    ) -> Option<Consequence> {
        let Body::Ask { request, hold, .. } = &letter.body else {
            return None;
        };
        let polls = matches!(request, AgentRequest::Poll { .. });
        let held = polls.then(|| self.parked.remove(&letter.machine)).flatten();
        let hold_until = letter.sent_at.saturating_add(*hold);
        self.inbox.push(Ask::Agent(Origin {
            id,
            hold_until,
            machine,
            letter,
        }));
        held?.broken()
    }

    /// A question that no agent asks joins the queue.
    pub(crate) fn take_in_command(&mut self, request: Request) {
        self.inbox.push(Ask::Other(request));
    }
}

impl World {
    /// What the coordinator's wall clock shows.
    pub(crate) fn coordinator_time(&self) -> Timestamp {
        let offset = self.coordinator.offset_ms;
        let now = i64::try_from(self.now).unwrap_or(i64::MAX);
        Timestamp(self.start.0 + now + offset)
    }

    /// Everything that waits, in one batch.
    pub(crate) fn batch(&mut self, cut: Option<BatchCut>) {
        let Some(mut fleet) = self.coordinator.fleet.take() else {
            return;
        };
        let batch = self.decide(&mut fleet);
        self.coordinator.fleet = Some(fleet);
        let early = self.bug == Some(SeededBug::Driver(DriverBug::ReplyBeforeDurable));
        let Batch {
            changes,
            outgoing,
            broadcast,
            measure,
        } = batch;
        let no_room = self.coordinator.disk.full && !changes.is_empty();
        if cut == Some(BatchCut::BeforeAppend) || no_room {
            if early {
                self.send_replies(outgoing, usize::MAX);
            }
            return self.coordinator_dies(false);
        }
        let mut outgoing = Some(outgoing);
        if early {
            self.send_replies(outgoing.take().unwrap_or_default(), usize::MAX);
        }
        self.coordinator.disk.append(&changes);
        if let Some(BatchCut::BeforeSync { survives }) = cut {
            return self.coordinator_dies(survives);
        }
        self.coordinator.disk.sync();
        let facts = self.coordinator.mirror.facts();
        self.coordinator.disk.maybe_snapshot(facts);
        let most = match cut {
            Some(BatchCut::AfterReplies(most)) => most,
            Some(BatchCut::BeforeAppend | BatchCut::BeforeSync { .. }) | None => usize::MAX,
        };
        self.send_replies(outgoing.take().unwrap_or_default(), most);
        if cut.is_some() {
            return self.coordinator_dies(false);
        }
        if broadcast {
            self.broadcast();
        }
        let life = self.coordinator.life;
        let wanted = measure.into_iter().map(|wanted| {
            let (id, gate) = (wanted.id, wanted.gate.name);
            Consequence::MeasurementWanted { life, id, gate }
        });
        self.follows.extend(wanted);
    }

    /// A measurement was made. Whoever makes them dies with the process that asked for it.
    pub(crate) fn measurement(&mut self, life: u32, id: u64, finding: Finding) {
        if self.coordinator.fleet.is_none() || self.coordinator.life != life {
            return;
        }
        let detail = format!("it is measured: {}", finding.word());
        self.coordinator.take_in_command(Request::Measured {
            id,
            finding,
            detail,
        });
        self.follows.push(Consequence::Waiting);
    }

    /// Holds what is recorded against itself, if the coordinator is there.
    pub(crate) fn check_whole(&mut self) {
        if let Some(fleet) = self.coordinator.fleet.take() {
            self.check_record(&fleet);
            self.coordinator.fleet = Some(fleet);
        }
    }

    fn decide(&mut self, fleet: &mut Fleet) -> Batch {
        let now = self.coordinator_time();
        let mut batch = Batch::default();
        let mut queue: VecDeque<Ask> = std::mem::take(&mut self.coordinator.inbox).into();
        if queue.is_empty() && fleet.next_deadline() <= now {
            queue.push_back(Ask::Other(Request::Tick));
        }
        while let Some(ask) = queue.pop_front() {
            let Some(request) = ask.request() else {
                continue;
            };
            let by_clock = matches!(request, Request::Tick);
            let decision = fleet.handle(now, request);
            self.check_decision(fleet, &ask, &decision);
            self.check_rest(fleet, by_clock && decision.changes.is_empty());
            for wanted in &decision.measure {
                self.check_measurement(wanted);
            }
            if let Some(origin) = ask.origin() {
                self.check_reply(origin, &decision.reply);
            }
            if !decision.changes.is_empty() {
                for change in &decision.changes {
                    self.tell(|_| format!("coordinator: {}", summary(change)));
                }
            }
            batch.changes.extend(decision.changes);
            batch.measure.extend(decision.measure);
            for name in &decision.wake {
                let index = self.index_of.get(name);
                let parked = index.and_then(|index| self.coordinator.parked.remove(index));
                queue.extend(parked.map(Ask::Agent));
            }
            batch.broadcast |= decision.broadcast;
            batch.outgoing.push(Outgoing {
                ask,
                reply: decision.reply,
                epoch: fleet.facts().epoch,
                needs: self.coordinator.disk.durable + batch.changes.len() as u64,
            });
        }
        batch
    }

    /// Lets replies leave, or holds them: the changes they rest on must be durable now.
    fn send_replies(&mut self, outgoing: Vec<Outgoing>, most: usize) {
        for Outgoing {
            ask,
            reply,
            epoch,
            needs,
        } in outgoing.into_iter().take(most)
        {
            let origin = match ask {
                Ask::Agent(origin) => origin,
                Ask::Other(Request::Operator { .. }) => {
                    self.answers.push(reply);
                    continue;
                }
                Ask::Other(_) => continue,
            };
            let machine = origin.letter.machine;
            if let Reply::Directive(Directive::Wait(_)) = &reply
                && self.now < origin.hold_until
            {
                let until = origin.hold_until;
                let message = origin.id;
                self.coordinator.parked.insert(machine, origin);
                self.follows.push(Consequence::Held { message, until });
                continue;
            }
            if self.coordinator.disk.durable < needs {
                self.violate("a reply leaves before its changes are durable".to_owned());
            }
            self.send(Message {
                machine,
                life: origin.letter.life,
                sent_at: self.now,
                body: Body::Answer {
                    question: origin.letter,
                    epoch,
                    reply,
                },
            });
        }
    }

    /// Tells every connected agent at once. Nobody answers; the next poll or renewal says it again.
    fn broadcast(&mut self) {
        let Some(fleet) = &self.coordinator.fleet else {
            return;
        };
        let epoch = fleet.facts().epoch;
        let stop = fleet.facts().stop.clone();
        for machine in 0..self.machines.len() {
            let fleet = self.coordinator.fleet.as_ref();
            let group = fleet.and_then(|fleet| fleet.group_of(&self.machines[machine].name));
            let covering = stop
                .as_ref()
                .filter(|stop| group.is_none_or(|group| stop.covers(group)));
            let stand_down = covering.map(|stop| (stop.mode, stop.reason.clone()));
            let life = self.machines[machine].life;
            self.send(Message {
                machine,
                life,
                sent_at: self.now,
                body: Body::Push { epoch, stand_down },
            });
        }
    }

    /// A poll was held long enough: it is decided once more and answered.
    pub(crate) fn hold_ends(&mut self, message: u64) {
        let parked = &mut self.coordinator.parked;
        let held = self.post.machine_of(message).filter(|machine| {
            let origin = parked.get(machine);
            origin.is_some_and(|origin| origin.id == message)
        });
        if let Some(origin) = held.and_then(|machine| parked.remove(&machine)) {
            self.coordinator.inbox.push(Ask::Agent(origin));
            self.follows.push(Consequence::Waiting);
        }
    }

    pub(crate) fn coordinator_dies(&mut self, unsynced_survives: bool) {
        let Some(fleet) = self.coordinator.fleet.take() else {
            return;
        };
        self.check_record(&fleet);
        self.tell(|_| "coordinator: dies".to_owned());
        self.coordinator.disk.crash(unsynced_survives);
        let parked = std::mem::take(&mut self.coordinator.parked);
        let inbox = std::mem::take(&mut self.coordinator.inbox);
        let asked = inbox.into_iter().filter_map(Ask::into_origin);
        let open = parked.into_values().chain(asked);
        self.follows.extend(open.filter_map(Origin::broken));
        self.follows.push(Consequence::CoordinatorGone);
    }

    /// The disk is lost. What was granted since the backup is not known any more, and who is away
    /// under it counts for nobody: an operator looks before the stop is lifted.
    pub(crate) fn restore(&mut self) {
        let now = self.coordinator_time();
        let Ok(lost) = self.coordinator.disk.recover(false) else {
            return;
        };
        if !self.coordinator.disk.restore(now) {
            return;
        }
        self.coordinator_dies(false);
        self.tell(|_| "coordinator: restored from a backup".to_owned());
        let Ok(facts) = self.coordinator.disk.recover(false) else {
            return;
        };
        for machine in &mut self.machines {
            let away = machine.truth.disruption.as_ref();
            machine.truth.forgotten |=
                away.is_some_and(|away| !facts.leases.contains_key(&away.lease));
        }
        self.truth.forget_from(lost.next_lease);
        self.truth.forget_since(&facts);
    }

    /// Reads back what is on the disk; the process begins to listen.
    pub(crate) fn coordinator_starts(&mut self) {
        if self.coordinator.fleet.is_some() {
            return;
        }
        let now = self.coordinator_time();
        let forgetful = self.bug == Some(SeededBug::Driver(DriverBug::StaleSnapshot));
        let facts = match self.coordinator.disk.recover(forgetful) {
            Ok(facts) => facts,
            Err(error) => return self.violate(format!("the journal cannot be read: {error}")),
        };
        // What was decided and never became durable was told to nobody.
        let durable = if forgetful {
            self.coordinator.disk.recover(false).ok()
        } else {
            None
        };
        let next = durable.map_or(facts.next_lease, |durable| durable.next_lease);
        self.truth.forget_from(next);
        self.coordinator.life += 1;
        let bug = self.bug.and_then(SeededBug::of_coordinator);
        let mut fleet = Fleet::load(facts, now).with_bug(bug);
        if let Some(own) = &self.coordinator.own {
            fleet.runs_on(own.clone());
        }
        for violation in invariants::check(&fleet) {
            self.violate(format!("after a restart: {violation}"));
        }
        self.coordinator.mirror = Fleet::load(fleet.facts().clone(), now);
        self.truth.slots_moved = true;
        self.coordinator.fleet = Some(fleet);
        self.tell(|_| "coordinator: starts".to_owned());
        self.follows.push(Consequence::Waiting);
    }
}

fn summary(change: &Change) -> String {
    serde_json::to_string(change).unwrap_or_else(|error| error.to_string())
}
