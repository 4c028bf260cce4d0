//! Traffic that machines take and leave by a script of their own: whom a move asks for what, and what their
//! answers come to.
//!
//! Whoever is to get traffic is asked first; whoever is to get none any more only when all of those have it.
//! A machine tells its last answer in every report: nothing is to be remembered here.

use common::{Gets, GroupName, MachineName, Timestamp, TrafficCall, TrafficOrder};

use super::{Adapter, Move, Traffic, UP_WITHIN, moves::nobody_left};
use crate::{decide::Draft, fleet::Fleet};

/// How far a move has come.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    /// The answers of these are awaited.
    Asks(Gets, Vec<MachineName>),
    /// One of them came to nothing.
    Failed(String),
    /// Everybody has said that it is done.
    Done,
}

/// What a machine makes of an order.
enum Word {
    Awaited,
    Done,
    Failed(String),
}

impl Traffic {
    /// The move of it that machines make now.
    fn move_by_hooks(&self) -> Option<&Move> {
        let moving = self.moving.as_ref();
        moving.filter(|moving| moving.sides.adapter == Adapter::Hook && moving.failed.is_none())
    }
}

impl Move {
    fn order(&self, group: &GroupName, gets: Gets) -> TrafficOrder {
        TrafficOrder {
            epoch: self.epoch,
            group: group.clone(),
            number: self.number,
            attempt: self.attempt,
            gets,
        }
    }
}

impl Fleet {
    /// The moves that its machines make, of the groups of which this one has a side: it may be in another
    /// group by now, while a rollout knows it there.
    fn moves_of<'a>(
        &'a self,
        machine: &'a MachineName,
    ) -> impl Iterator<Item = (&'a GroupName, &'a Move)> {
        let traffic = self.facts().traffic.iter();
        let moves = traffic.filter_map(|(group, traffic)| Some((group, traffic.move_by_hooks()?)));
        moves.filter(|(_, moving)| moving.sides.side_of(machine).is_some())
    }

    /// What a machine is to make of its traffic now. Not even an emergency stop holds that up: what has
    /// begun to move is to end somewhere.
    pub(crate) fn traffic_call(&self, machine: &MachineName) -> Option<TrafficCall> {
        let mut asked = self.moves_of(machine).filter_map(|(group, moving)| {
            let Progress::Asks(gets, machines) = self.progress(group, moving) else {
                return None;
            };
            let is_asked = machines.contains(machine);
            is_asked.then_some((group, moving, gets))
        });
        let (group, moving, gets) = asked.next()?;
        let drain = moving.sides.drain;
        Some(TrafficCall {
            order: moving.order(group, gets),
            side: moving.sides.side_of(machine)?.name.clone(),
            drain,
            within: match gets {
                Gets::Traffic => UP_WITHIN,
                Gets::Nothing => UP_WITHIN + drain,
            },
        })
    }

    /// Machines whose answers the move of this group's traffic waits for.
    pub(crate) fn asked_for_traffic(&self, group: &GroupName) -> Vec<MachineName> {
        match self.progress_of(group) {
            Some(Progress::Asks(_, machines)) => machines,
            Some(Progress::Failed(_) | Progress::Done) | None => Vec::new(),
        }
    }

    /// Why an attempt failed of which nothing was heard in time.
    pub(super) fn silent(&self, group: &GroupName) -> String {
        let asked = self.asked_for_traffic(group);
        let names: Vec<&str> = asked.iter().map(MachineName::as_str).collect();
        match names[..] {
            [] => "nobody said in time that it is done".to_owned(),
            _ => format!("no answer in time from {}", names.join(", ")),
        }
    }

    /// How far the move of this group's traffic that its machines make has come, if there is one.
    fn progress_of(&self, group: &GroupName) -> Option<Progress> {
        let moving = self.traffic_of(group)?.move_by_hooks()?;
        Some(self.progress(group, moving))
    }

    fn progress(&self, group: &GroupName, moving: &Move) -> Progress {
        let sides = &moving.sides;
        let Some(side) = sides.side(&moving.to) else {
            return Progress::Failed(format!("there is no side {}", moving.to));
        };
        let steps = [
            (side, Gets::Traffic),
            (sides.other(&side.name), Gets::Nothing),
        ];
        #[cfg(feature = "seeded-bugs")]
        let mut steps = steps;
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): the side that is left goes first.
        if self.has(crate::bug::Bug::OutBeforeIn) {
            steps.reverse();
        }
        let here = |machine: &&MachineName| self.group_of(machine).is_some();
        if !side.machines.iter().any(|machine| here(&machine)) {
            return Progress::Failed(nobody_left(&side.name));
        }
        for (side, gets) in steps {
            let order = moving.order(group, gets);
            let mut asked = Vec::new();
            for machine in side.machines.iter().filter(here) {
                match self.word(machine, &order) {
                    Word::Done => {}
                    Word::Awaited => asked.push(machine.clone()),
                    Word::Failed(why) => return Progress::Failed(format!("{machine}: {why}")),
                }
            }
            if !asked.is_empty() {
                return Progress::Asks(gets, asked);
            }
        }
        Progress::Done
    }

    fn word(&self, machine: &MachineName, order: &TrafficOrder) -> Word {
        let Some(known) = self.facts().machines.get(machine) else {
            return Word::Awaited;
        };
        let told = known.heard.traffic.as_ref();
        if let Some(done) = told.filter(|done| done.order.as_ref() == Some(order)) {
            return done.failure.clone().map_or(Word::Done, Word::Failed);
        }
        match &known.report {
            Some(report) if report.traffic.is_none() => Word::Failed(
                "it has no script for its traffic (services.lab-updater.trafficScript)".to_owned(),
            ),
            Some(_) | None => Word::Awaited,
        }
    }

    /// A machine has another word about its traffic than before.
    pub(crate) fn has_moved_traffic(
        &mut self,
        machine: &MachineName,
        now: Timestamp,
        draft: &mut Draft,
    ) {
        let groups = self.moves_of(machine).map(|(group, _)| group.clone());
        for group in groups.collect::<Vec<_>>() {
            self.look_at_hooks(&group, now, draft);
        }
    }

    /// Tells whoever is to be asked by the move of this group's traffic that its machines make, and ends
    /// its attempt when nobody is left.
    pub(super) fn look_at_hooks(&mut self, group: &GroupName, now: Timestamp, draft: &mut Draft) {
        let result = match self.progress_of(group) {
            None => return,
            Some(Progress::Asks(_, machines)) => {
                draft.wake.extend(machines);
                return;
            }
            Some(Progress::Failed(why)) => Err(why),
            Some(Progress::Done) => Ok(String::new()),
        };
        self.move_ended(group, result, now, draft);
    }
}
