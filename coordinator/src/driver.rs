//! The driver: the only owner of the fleet and of the store.
//!
//! It takes all requests that wait, lets the core decide them one after the other, makes what came
//! of them durable as one batch, and only then lets anything out: replies, wake-ups, broadcasts,
//! notifications. That order is written once, in `Driver::turn`.
//!
//! When a batch cannot be made durable the driver ends, and with it the process: nobody was told
//! anything, and the next start reads back what is on disk.

mod handle;
mod identities;
mod log;
mod parked;
mod watchers;

use std::{collections::VecDeque, time::Duration};

use common::{Epoch, MachineName, Timestamp};
use coordinator_core::{
    Change, Decision, Fleet, Reply, Request,
    analysis::Measurement,
    history::Entry,
    request::{AgentRequest, Directive, OperatorRequest},
    schedule::Unresolved,
    traffic::Wanted,
};
use platform::clock::Clock;
use tokio::sync::{mpsc, watch};

pub use handle::{Answer, Handle, PollError, Seen, Stopped};
pub use watchers::{Event, Signal};

use self::{
    handle::{Asked, Message},
    identities::Publisher,
    log::Log,
    parked::Parked,
    watchers::Watchers,
};
use crate::{
    notify::Telling,
    store::{Batch, Loaded, Store, StoreError},
};

/// Most requests that wait for the driver; beyond it callers wait to get in.
const QUEUE: usize = 8192;

/// Most requests decided in one turn: bounds how long the first of them waits for its reply.
const BATCH: usize = 1024;

/// Waiting polls decided again in one turn after a broadcast: the stop itself must not wait for them,
/// nor must anybody who asks meanwhile wait long.
const AGAIN: usize = 256;

/// How long the next of them wait meanwhile: the stop is on its way out then, and comes first.
const AGAIN_AFTER: Duration = Duration::from_millis(5);

/// Longest sleep: a wall clock that is set forward is noticed within this.
const SLEEP_MAX: Duration = Duration::from_secs(10);

/// Why the driver ended.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// What was decided could not be made durable. Nobody was told of it.
    #[error("the store cannot be made durable; stopping before anybody is told")]
    Store(#[from] StoreError),
}

/// Owns the fleet.
pub struct Driver {
    fleet: Fleet,
    store: Box<dyn Store>,
    clock: Clock,
    queue: mpsc::Receiver<Message>,
    parked: Parked,
    /// Machines whose waiting poll is to be decided again after a broadcast, in the turns to come.
    again: VecDeque<MachineName>,
    watchers: Watchers,
    identities: Publisher,
    revision: watch::Sender<u64>,
    /// Runs of schedules that wait for targets from outside.
    unresolved: watch::Sender<Vec<Unresolved>>,
    /// Traffic that is to be moved.
    moves: watch::Sender<Vec<Wanted>>,
    /// Traffic that is to stay where it is.
    kept: watch::Sender<Vec<Wanted>>,
    tellings: mpsc::Sender<Telling>,
    /// Where measurements are made; without it every one counts as lost.
    measurements: Option<mpsc::Sender<Measurement>>,
    log: Log,
}

/// What leaves the process after the batch is durable.
#[derive(Default)]
struct Outbox {
    replies: Vec<Outgoing>,
    /// Machines whose waiting poll is to be decided again within this turn.
    due: VecDeque<MachineName>,
    /// Machines that are told to poll.
    wake: Vec<MachineName>,
    broadcast: bool,
    tellings: Vec<Telling>,
    measurements: Vec<Measurement>,
    /// Whether anybody who watches the status may see something new.
    news: bool,
}

enum Outgoing {
    Answer(handle::ReplyTo<Answer>, Answer),
    Seen(handle::ReplyTo<Seen>, Box<Seen>),
}

impl Driver {
    /// A driver for what the store gave back, and the handle to it. What is worth telling people
    /// goes to `tellings`.
    pub fn new(
        loaded: Loaded,
        store: Box<dyn Store>,
        clock: Clock,
        tellings: mpsc::Sender<Telling>,
    ) -> Result<(Self, Handle), StoreError> {
        let fleet = loaded.replay(clock.now())?;
        let (sender, queue) = mpsc::channel(QUEUE);
        let identities = Publisher::new(fleet.facts().registry.clone());
        let revision = watch::Sender::new(0);
        let unresolved = watch::Sender::new(fleet.unresolved());
        let moves = watch::Sender::new(fleet.wanted_moves());
        let kept = watch::Sender::new(fleet.kept_traffic());
        let handle = Handle::new(
            sender,
            identities.reader(),
            revision.subscribe(),
            unresolved.subscribe(),
            (moves.subscribe(), kept.subscribe()),
        );
        let driver = Self {
            log: Log::new(&fleet),
            fleet,
            store,
            clock,
            queue,
            parked: Parked::default(),
            again: VecDeque::new(),
            watchers: Watchers::default(),
            identities,
            revision,
            unresolved,
            moves,
            kept,
            tellings,
            measurements: None,
        };
        Ok((driver, handle))
    }

    /// The same driver, of a coordinator that runs on this machine: it is updated last of all.
    #[must_use]
    pub fn running_on(mut self, machine: Option<MachineName>) -> Self {
        if let Some(machine) = machine {
            self.fleet.runs_on(machine);
        }
        if let Some(machine) = self.fleet.runs_elsewhere() {
            tracing::info!(
                "no group has the machine that this coordinator runs on, {machine}: none is updated last \
                 because of that; where it goes by another name, set machine in the settings"
            );
        }
        self
    }

    /// The same driver, which has what its core wants to know measured here.
    #[must_use]
    pub fn measuring(mut self, measurements: mpsc::Sender<Measurement>) -> Self {
        self.measurements = Some(measurements);
        self
    }

    /// The same driver, its core with a known bug; for simulations.
    #[cfg(feature = "seeded-bugs")]
    #[must_use]
    pub fn with_bug(mut self, bug: coordinator_core::bug::Bug) -> Self {
        self.fleet = self.fleet.with_bug(Some(bug));
        self
    }

    /// Decides until every handle is gone or the store fails. In the product this runs on a thread
    /// of its own, because making a batch durable blocks.
    pub async fn run(mut self) -> Result<(), DriverError> {
        let mut messages = Vec::new();
        loop {
            let sleep = self.sleep();
            let received = tokio::select! {
                // In this order, so that what happens does not depend on chance.
                biased;
                count = self.queue.recv_many(&mut messages, BATCH) => Some(count),
                () = tokio::time::sleep(sleep) => None,
            };
            if received == Some(0) {
                break;
            }
            self.turn(&mut messages)?;
            if self.store.journal_len() >= self.store.snapshot_every() {
                self.store.snapshot(self.fleet.facts())?;
            }
        }
        if self.store.journal_len() > 0 {
            self.store.snapshot(self.fleet.facts())?;
        }
        Ok(())
    }

    /// How long nothing happens by itself, in real time.
    fn sleep(&self) -> Duration {
        if !self.again.is_empty() {
            return AGAIN_AFTER;
        }
        let due = self.fleet.next_deadline().min(self.parked.next_end());
        let left = self.clock.real(due.since(self.clock.now()));
        // Timers may fire a little early; never spin there.
        left.clamp(Duration::from_millis(1), SLEEP_MAX)
    }

    /// Decide, make durable, and only then let out.
    fn turn(&mut self, messages: &mut Vec<Message>) -> Result<(), StoreError> {
        let now = self.clock.now();
        let mut batch = Batch::at(now);
        let mut out = Outbox::default();
        let again = self.again.len().min(AGAIN);
        out.due.extend(self.again.drain(..again));
        self.decide_due(&mut batch, &mut out);
        for message in messages.drain(..) {
            self.take(message, &mut batch, &mut out);
            self.decide_due(&mut batch, &mut out);
        }
        if self.fleet.next_deadline() <= self.clock.now() {
            let decision = self.fleet.handle(self.clock.now(), Request::Tick);
            self.absorb(decision, &mut batch, &mut out);
        }
        self.decide_due(&mut batch, &mut out);
        // Once more for polls whose hold is over, so that the answer is of now.
        while let Some(poll) = self.parked.take_ended(self.clock.now()) {
            self.poll(poll, &mut batch, &mut out);
            self.decide_due(&mut batch, &mut out);
        }
        if !batch.is_empty() {
            self.store.append(&batch)?;
        }
        self.let_out(&batch, out);
        Ok(())
    }

    fn take(&mut self, message: Message, batch: &mut Batch, out: &mut Outbox) {
        let now = self.clock.now();
        match message {
            Message::Ask(Asked { request, reply }) => {
                let notice = notice_in(&request);
                out.news |= matches!(request, Request::Agent { .. });
                let decision = self.fleet.handle(now, request);
                if let (Some(notice), Reply::Notify(channels)) = (notice, &decision.reply) {
                    self.note_notice(notice, channels, batch, out);
                }
                let answer = self.absorb(decision, batch, out);
                out.replies.push(Outgoing::Answer(reply, answer));
            }
            Message::Poll(poll) => {
                out.news = true;
                let older = self.parked.take(&poll.machine);
                self.poll(poll, batch, out);
                // The machine asks anew, so nobody waits for the older answer any more.
                drop(older);
            }
            Message::View { query, reply } => {
                let seen = Box::new(Seen {
                    view: self.fleet.view(&query, now),
                    now,
                });
                out.replies.push(Outgoing::Seen(reply, seen));
            }
            Message::Stop => self.queue.close(),
            Message::Watch { machine, signals } => {
                let event = watchers::event_for(&self.fleet, &machine, None);
                self.watchers.add(machine, signals, self.epoch(), event);
            }
        }
    }

    /// Decides a poll; one whose answer is "wait" is kept until its hold ends.
    fn poll(&mut self, poll: parked::Poll, batch: &mut Batch, out: &mut Outbox) {
        if poll.reply.is_closed() {
            return;
        }
        let now = self.clock.now();
        let request = Request::Agent {
            machine: poll.machine.clone(),
            request: AgentRequest::Poll {
                report: poll.report.clone(),
            },
        };
        let decision = self.fleet.handle(now, request);
        let waits = matches!(decision.reply, Reply::Directive(Directive::Wait(_)));
        let answer = self.absorb(decision, batch, out);
        if waits && now < poll.until {
            self.parked.keep(poll);
        } else {
            out.replies.push(Outgoing::Answer(poll.reply, answer));
        }
    }

    /// Decides the waiting polls that a decision woke: a release and the grant that follows from it
    /// become one record.
    fn decide_due(&mut self, batch: &mut Batch, out: &mut Outbox) {
        while let Some(machine) = out.due.pop_front() {
            match self.parked.take(&machine) {
                Some(poll) => self.poll(poll, batch, out),
                None => out.wake.push(machine),
            }
        }
    }

    /// Takes a decision into the batch, and notes whom it wakes.
    fn absorb(&mut self, decision: Decision, batch: &mut Batch, out: &mut Outbox) -> Answer {
        let Decision {
            changes,
            reply,
            wake,
            broadcast,
            history,
            audit,
            measure,
        } = decision;
        out.measurements.extend(measure);
        out.news |= !changes.is_empty();
        out.tellings.extend(self.worth_telling(&history));
        batch.changes.extend(changes);
        batch.history.extend(history);
        batch.audit.extend(audit);
        out.due.extend(wake);
        if broadcast {
            out.broadcast = true;
            // Whoever was to hear of an earlier one hears of this one instead.
            self.again = self.parked.machines().into();
        }
        Answer {
            reply,
            epoch: self.epoch(),
        }
    }

    /// Everything that leaves the process leaves here.
    fn let_out(&mut self, batch: &Batch, out: Outbox) {
        self.identities.follow(&batch.changes);
        self.log.tell(&batch.changes, self.epoch());
        if out.broadcast {
            self.watchers.broadcast(&self.fleet);
        }
        for reply in out.replies {
            // Whoever has gone away meanwhile does not want it any more.
            match reply {
                Outgoing::Answer(to, answer) => drop(to.send(answer)),
                Outgoing::Seen(to, seen) => drop(to.send(*seen)),
            }
        }
        let schedule = |change: &Change| matches!(change, Change::Schedule { .. });
        if batch.changes.iter().any(schedule) {
            self.unresolved.send_replace(self.fleet.unresolved());
        }
        let traffic = |change: &Change| matches!(change, Change::Traffic { .. });
        if batch.changes.iter().any(traffic) {
            self.moves.send_replace(self.fleet.wanted_moves());
        }
        if !batch.changes.is_empty() {
            let kept = self.fleet.kept_traffic();
            self.kept.send_if_modified(|known| {
                let other = *known != kept;
                *known = kept;
                other
            });
        }
        let epoch = self.epoch();
        for machine in out.wake {
            self.watchers.wake(&machine, epoch);
        }
        if out.news {
            self.revision.send_modify(|revision| *revision += 1);
        }
        for telling in out.tellings {
            if self.tellings.try_send(telling).is_err() {
                tracing::warn!("too many notifications at once; one is dropped");
            }
        }
        for measurement in out.measurements {
            // One that is not made counts as lost when its time is over.
            let to = self.measurements.as_ref();
            if to.is_some_and(|to| to.try_send(measurement).is_err()) {
                tracing::warn!("too many measurements at once; one is dropped");
            }
        }
    }

    fn epoch(&self) -> Epoch {
        self.fleet.facts().epoch
    }

    fn worth_telling(&self, history: &[Entry]) -> Vec<Telling> {
        let config = self.fleet.facts().config.as_deref();
        let worth = history
            .iter()
            .filter_map(|entry| Telling::of(entry, config));
        worth.collect()
    }

    /// Keeps in the history what an operator told people, and tells them.
    fn note_notice(
        &self,
        notice: Notice,
        channels: &[String],
        batch: &mut Batch,
        out: &mut Outbox,
    ) {
        let config = self.fleet.facts().config.as_deref();
        let telling = Telling::notice(&notice.level, &notice.message, channels, config);
        batch.history.push(Entry {
            at: self.clock.now().max(batch.at),
            kind: "notify".to_owned(),
            by: notice.by,
            text: notice.message,
            ..Entry::default()
        });
        out.tellings.push(telling);
    }
}

/// What an operator wants to tell people.
struct Notice {
    by: String,
    level: String,
    message: String,
}

fn notice_in(request: &Request) -> Option<Notice> {
    let Request::Operator {
        actor,
        request: OperatorRequest::Notify { level, message, .. },
    } = request
    else {
        return None;
    };
    Some(Notice {
        by: actor.name.to_string(),
        level: level.clone(),
        message: message.clone(),
    })
}

/// A time that never comes.
const NEVER: Timestamp = Timestamp::MAX;
