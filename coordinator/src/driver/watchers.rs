//! Agents that listen for wake-ups and stops.

use std::collections::{BTreeMap, BTreeSet};

use common::{Epoch, MachineName};
use coordinator_core::{Fleet, request::StandDown};
use tokio::sync::mpsc;

/// What an agent is told out of turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signal {
    /// The fleet's epoch.
    pub epoch: Epoch,
    /// What else.
    pub event: Option<Event>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Poll now.
    Wake,
    /// An emergency stop holds.
    StandDown(StandDown),
}

/// The streams to agents, one for each machine: the newest.
#[derive(Default)]
pub(super) struct Watchers {
    streams: BTreeMap<MachineName, mpsc::Sender<Signal>>,
}

impl Watchers {
    /// Adds a stream and says the first word on it: the epoch, and the stop that holds.
    pub(super) fn add(
        &mut self,
        machine: MachineName,
        stream: mpsc::Sender<Signal>,
        epoch: Epoch,
        event: Option<Event>,
    ) {
        self.streams.insert(machine.clone(), stream);
        self.send(&machine, Signal { epoch, event });
    }

    pub(super) fn wake(&mut self, machine: &MachineName, epoch: Epoch) {
        let event = Some(Event::Wake);
        self.send(machine, Signal { epoch, event });
    }

    /// Tells everybody of a stop or of its end; machines at work first, for whom it matters.
    pub(super) fn broadcast(&mut self, fleet: &Fleet) {
        let leases = fleet.facts().leases.values();
        let holders: BTreeSet<MachineName> = leases.map(|lease| lease.machine.clone()).collect();
        let others = self
            .streams
            .keys()
            .filter(|machine| !holders.contains(*machine));
        let order: Vec<MachineName> = holders.iter().chain(others).cloned().collect();
        for machine in order {
            let signal = Signal {
                epoch: fleet.facts().epoch,
                event: event_for(fleet, &machine, Some(Event::Wake)),
            };
            self.send(&machine, signal);
        }
    }

    /// A stream that does not take what it is sent is dropped: its agent dials again, and hears
    /// how things are then.
    fn send(&mut self, machine: &MachineName, signal: Signal) {
        let Some(stream) = self.streams.get(machine) else {
            return;
        };
        if stream.try_send(signal).is_err() {
            self.streams.remove(machine);
        }
    }
}

/// The stop that holds for a machine, or else `otherwise`.
pub(super) fn event_for(
    fleet: &Fleet,
    machine: &MachineName,
    otherwise: Option<Event>,
) -> Option<Event> {
    let Some(stop) = &fleet.facts().stop else {
        return otherwise;
    };
    let covered = match fleet.group_of(machine) {
        Some(group) => stop.covers(group),
        None => stop.groups.is_empty(),
    };
    if !covered {
        return otherwise;
    }
    Some(Event::StandDown(StandDown {
        mode: stop.mode,
        reason: stop.reason.clone(),
    }))
}
