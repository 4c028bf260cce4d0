//! The coordinator's side of the world: its driver, which decides a batch, makes it durable, and
//! only then lets anything leave; held polls; death and recovery.

use std::collections::{BTreeMap, VecDeque};

use common::{MachineName, Timestamp};
use coordinator_core::{
    Change, Fleet, Reply, Request, invariants,
    request::{AgentRequest, Directive},
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
    parked: BTreeMap<MachineIndex, Ask>,
    /// Which process it is; connections to an earlier one are broken.
    pub(crate) life: u32,
    /// How wrong its wall clock is.
    pub(crate) offset_ms: i64,
}

/// A question that waits.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) request: Request,
    pub(crate) from: Option<Origin>,
}

/// The message that a question came in.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    id: u64,
    hold_until: At,
    pub(crate) letter: Message,
}

impl Origin {
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
}

impl Coordinator {
    pub(crate) fn new() -> Self {
        Self {
            fleet: None,
            mirror: Fleet::new(Timestamp(0)),
            disk: Disk::new(),
            inbox: Vec::new(),
            parked: BTreeMap::new(),
            life: 0,
            offset_ms: 0,
        }
    }

    /// A message from an agent joins the queue. Who it is from, the connection has proved. A poll
    /// takes the place of one that is held for the same machine, which comes back.
    pub(crate) fn take_in(
        &mut self,
        id: u64,
        machine: MachineName,
        letter: Message,
    ) -> Option<Consequence> {
        let Body::Ask { request, hold, .. } = &letter.body else {
            return None;
        };
        let polls = matches!(**request, AgentRequest::Poll { .. });
        let held = polls.then(|| self.parked.remove(&letter.machine)).flatten();
        let request = Request::Agent {
            machine,
            request: (**request).clone(),
        };
        let hold_until = letter.sent_at.saturating_add(*hold);
        let from = Origin {
            id,
            hold_until,
            letter,
        };
        self.inbox.push(Ask {
            request,
            from: Some(from),
        });
        held?.from?.broken()
    }

    /// An operator's question joins the queue.
    pub(crate) fn take_in_command(&mut self, request: Request) {
        let from = None;
        self.inbox.push(Ask { request, from });
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
    }

    fn decide(&mut self, fleet: &mut Fleet) -> Batch {
        let now = self.coordinator_time();
        let mut batch = Batch::default();
        let mut queue: VecDeque<Ask> = std::mem::take(&mut self.coordinator.inbox).into();
        if queue.is_empty() && fleet.next_deadline() <= now {
            let request = Request::Tick;
            queue.push_back(Ask {
                request,
                from: None,
            });
        }
        while let Some(ask) = queue.pop_front() {
            let decision = fleet.handle(now, ask.request.clone());
            self.check_decision(fleet, &ask, &decision);
            if let Some(origin) = &ask.from {
                self.check_reply(origin, &decision.reply);
            }
            if !decision.changes.is_empty() {
                for change in &decision.changes {
                    self.tell(|_| format!("coordinator: {}", summary(change)));
                }
                if self.coordinator.mirror.facts() != fleet.facts() {
                    let text = "replaying the changes gives another state".to_owned();
                    self.violate(text);
                }
            }
            batch.changes.extend(decision.changes);
            for name in &decision.wake {
                let index = self.index_of.get(name);
                let parked = index.and_then(|index| self.coordinator.parked.remove(index));
                queue.extend(parked);
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
            let Some(origin) = ask.from.clone() else {
                if let Request::Operator { .. } = ask.request {
                    self.answers.push(reply);
                }
                continue;
            };
            let Body::Ask {
                call,
                sent,
                request,
                ..
            } = origin.letter.body.clone()
            else {
                continue;
            };
            let machine = origin.letter.machine;
            if let Reply::Directive(Directive::Wait(_)) = &reply
                && self.now < origin.hold_until
            {
                let until = origin.hold_until;
                let message = origin.id;
                self.coordinator.parked.insert(machine, ask);
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
                    call,
                    sent,
                    request,
                    epoch,
                    reply: Box::new(reply),
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
        let held = |ask: &Ask| ask.from.as_ref().is_some_and(|origin| origin.id == message);
        let parked = &mut self.coordinator.parked;
        let machine = parked.iter().find(|(_, ask)| held(ask)).map(|(m, _)| *m);
        if let Some(ask) = machine.and_then(|machine| parked.remove(&machine)) {
            self.coordinator.inbox.push(ask);
            self.follows.push(Consequence::Waiting);
        }
    }

    pub(crate) fn coordinator_dies(&mut self, unsynced_survives: bool) {
        if self.coordinator.fleet.take().is_none() {
            return;
        }
        self.tell(|_| "coordinator: dies".to_owned());
        self.coordinator.disk.crash(unsynced_survives);
        let parked = std::mem::take(&mut self.coordinator.parked);
        let inbox = std::mem::take(&mut self.coordinator.inbox);
        let open = parked.into_values().chain(inbox).filter_map(|ask| ask.from);
        self.follows.extend(open.filter_map(Origin::broken));
        self.follows.push(Consequence::CoordinatorGone);
    }

    /// The disk is lost. What was granted since the backup is not known any more, and who is away
    /// under it counts for nobody: an operator looks before the stop is lifted.
    pub(crate) fn restore(&mut self) {
        let now = self.coordinator_time();
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
        if let Ok(durable) = self.coordinator.disk.recover(false) {
            self.truth.forget_from(durable.next_lease);
        }
        self.coordinator.life += 1;
        let bug = self.bug.and_then(SeededBug::of_coordinator);
        let fleet = Fleet::load(facts, now).with_bug(bug);
        for violation in invariants::check(&fleet) {
            self.violate(format!("after a restart: {violation}"));
        }
        self.coordinator.mirror = Fleet::load(fleet.facts().clone(), now);
        self.coordinator.fleet = Some(fleet);
        self.tell(|_| "coordinator: starts".to_owned());
        self.follows.push(Consequence::Waiting);
    }

    /// Whether a message of this request kind is a result for this lease.
    pub(crate) fn is_result_for(request: &Request, lease: common::LeaseId) -> bool {
        matches!(
            request,
            Request::Agent { request: AgentRequest::Result { lease: given, .. }, .. } if *given == lease
        )
    }
}

fn summary(change: &Change) -> String {
    serde_json::to_string(change).unwrap_or_else(|error| error.to_string())
}
