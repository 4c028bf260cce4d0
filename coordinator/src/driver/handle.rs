//! The door to the driver. Cheap to clone; everybody who asks the fleet has one.

use std::{sync::RwLockReadGuard, time::Duration};

use common::{Epoch, MachineName, MachineReport, Timestamp};
use coordinator_core::{
    Reply, Request,
    identity::Registry,
    schedule::Unresolved,
    traffic::Wanted,
    view::{Query, View},
};
use tokio::sync::{mpsc, oneshot, watch};

use super::{identities::Identities, parked::Poll, watchers::Signal};

pub(super) type ReplyTo<T> = oneshot::Sender<T>;

/// Signals that may wait for a slow agent before it is taken for gone.
const SIGNALS: usize = 8;

/// A durable answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// What the core says.
    pub reply: Reply,
    /// The fleet's epoch when it said so.
    pub epoch: Epoch,
}

/// A look at the fleet.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// What was seen.
    pub view: View,
    /// When.
    pub now: Timestamp,
}

/// The driver has ended; the process is about to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the coordinator is stopping")]
pub struct Stopped;

/// Why a poll has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PollError {
    /// The driver has ended.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// The machine asked again before this poll was answered.
    #[error("a newer poll of this machine took over")]
    Superseded,
}

pub(super) struct Asked {
    pub(super) request: Request,
    pub(super) reply: ReplyTo<Answer>,
}

pub(super) enum Message {
    Ask(Asked),
    Poll(Poll),
    View {
        query: Query,
        reply: ReplyTo<Seen>,
    },
    Watch {
        machine: MachineName,
        signals: mpsc::Sender<Signal>,
    },
    Stop,
}

/// Asks the driver.
#[derive(Clone)]
pub struct Handle {
    queue: mpsc::Sender<Message>,
    identities: Identities,
    revision: watch::Receiver<u64>,
    unresolved: watch::Receiver<Vec<Unresolved>>,
    moves: watch::Receiver<Vec<Wanted>>,
    kept: watch::Receiver<Vec<Wanted>>,
}

impl Handle {
    pub(super) fn new(
        queue: mpsc::Sender<Message>,
        identities: Identities,
        revision: watch::Receiver<u64>,
        unresolved: watch::Receiver<Vec<Unresolved>>,
        (moves, kept): (watch::Receiver<Vec<Wanted>>, watch::Receiver<Vec<Wanted>>),
    ) -> Self {
        Self {
            queue,
            identities,
            revision,
            unresolved,
            moves,
            kept,
        }
    }

    /// Asks, and answers once what came of it is durable.
    pub async fn ask(&self, request: Request) -> Result<Answer, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Ask(Asked { request, reply })).await?;
        answer.await.map_err(|_| Stopped)
    }

    /// A machine's poll, held until `until` while the answer is "wait". A newer poll of the same
    /// machine ends this one.
    pub async fn poll(
        &self,
        machine: MachineName,
        report: Box<MachineReport>,
        until: Timestamp,
    ) -> Result<Answer, PollError> {
        let (reply, answer) = oneshot::channel();
        let poll = Poll {
            machine,
            report,
            until,
            reply,
        };
        self.send(Message::Poll(poll)).await?;
        answer.await.map_err(|_| {
            if self.queue.is_closed() {
                PollError::Stopped(Stopped)
            } else {
                PollError::Superseded
            }
        })
    }

    /// Looks. What is seen is durable.
    pub async fn view(&self, query: Query) -> Result<Seen, Stopped> {
        let (reply, seen) = oneshot::channel();
        self.send(Message::View { query, reply }).await?;
        seen.await.map_err(|_| Stopped)
    }

    /// Signals for a machine, from now on. A newer stream of the same machine ends this one.
    pub async fn watch(&self, machine: MachineName) -> Result<mpsc::Receiver<Signal>, Stopped> {
        let (signals, receiver) = mpsc::channel(SIGNALS);
        self.send(Message::Watch { machine, signals }).await?;
        Ok(receiver)
    }

    /// Tokens and certificates as they are now. Not to be held for long: nothing is decided
    /// while it is and one of them changes.
    pub fn registry(&self) -> RwLockReadGuard<'_, Registry> {
        self.identities.registry()
    }

    /// A number that rises whenever certificates are not good any more before their time, or are
    /// forgotten after it.
    pub fn ended_certificates(&self) -> watch::Receiver<u64> {
        self.identities.ends()
    }

    /// A number that rises whenever the status may have changed.
    pub fn revisions(&self) -> watch::Receiver<u64> {
        self.revision.clone()
    }

    /// Runs of schedules that wait for targets; each is durable.
    pub fn unresolved(&self) -> watch::Receiver<Vec<Unresolved>> {
        self.unresolved.clone()
    }

    /// Traffic that is to be moved; each move is durable.
    pub fn moves(&self) -> watch::Receiver<Vec<Wanted>> {
        self.moves.clone()
    }

    /// Traffic that is to stay where it is, at this moment.
    pub fn kept_traffic(&self) -> Vec<Wanted> {
        self.kept.borrow().clone()
    }

    /// Lets the driver finish what it was asked before, and end.
    pub async fn stop(&self) {
        if self.send(Message::Stop).await.is_ok() {
            self.queue.closed().await;
        }
    }

    async fn send(&self, message: Message) -> Result<(), Stopped> {
        // A driver that takes this long for a batch has a disk that does not write.
        const PATIENCE: Duration = Duration::from_secs(60);
        let sent = tokio::time::timeout(PATIENCE, self.queue.send(message)).await;
        sent.map_err(|_| Stopped)?.map_err(|_| Stopped)
    }
}
