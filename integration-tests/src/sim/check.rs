//! What must be true of the world, whatever the programs believe: looked at where it happens.

mod approvals;
mod coordinator;
mod gates;
mod machine;
mod promises;
mod schedules;
mod terms;
mod waves;

pub(crate) use coordinator::boot_of;

use std::{collections::BTreeMap, time::Duration};

use common::{Epoch, LeaseId, RolloutId};
use coordinator_core::{Fleet, fleet::Facts, rollout::PlaceState};

use super::{
    event::{At, MachineIndex},
    machine::Disruption,
    world::World,
};

/// What the world knows of the leases that were given out.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    told: BTreeMap<LeaseId, Told>,
    /// The newest report that was taken in, of each machine: boot and sequence.
    newest: BTreeMap<MachineIndex, (u32, u64)>,
    /// Most machines that were really away at once.
    pub(crate) most_away: usize,
    /// Attempts that machines carried out and judged.
    pub(crate) attempts: u64,
    /// What was approved, wave by wave.
    approvals: approvals::Approvals,
    /// Since when answers to gates count.
    gates: gates::Gates,
    /// What people were promised.
    pub(crate) promises: promises::Promises,
    /// Whether somebody may have gone or lost a slot since slots were last looked at.
    pub(crate) slots_moved: bool,
    /// Decisions with changes since what is recorded was last held against itself.
    pub(crate) unread: u32,
    /// Decisions on end that the clock alone called for, that changed nothing and left something
    /// due at once.
    idle: u32,
}

/// A lease as a machine was told of it.
#[derive(Debug)]
struct Told {
    machine: MachineIndex,
    rollout: RolloutId,
    epoch: Epoch,
    group: common::GroupName,
    /// Limits in force when it was granted.
    group_limit: usize,
    fleet_limit: usize,
    /// The last instant at which the machine may believe in it.
    until: At,
    /// It was granted after the backup that the coordinator was restored from: whoever is away
    /// under it is seen to by the operator, who finds the fleet stopped.
    lost: bool,
}

impl Truth {
    /// A coordinator that was restored knows older reports than those it took in before, and not
    /// the leases it granted since the backup.
    pub(crate) fn forget_since(&mut self, backup: &Facts) {
        self.newest.clear();
        self.approvals.forget_since(backup);
        self.promises.forget();
        self.gates.forget();
        for (lease, told) in &mut self.told {
            told.lost |= !backup.leases.contains_key(lease);
        }
    }

    /// In which rollout this lease was told to somebody.
    pub(crate) fn rollout_of(&self, lease: LeaseId) -> Option<&RolloutId> {
        self.told.get(&lease).map(|told| &told.rollout)
    }

    /// Lease numbers from here on have not been told to anybody, except before a restore.
    pub(crate) fn forget_from(&mut self, next: LeaseId) {
        self.told.retain(|lease, told| *lease < next || told.lost);
    }
}

/// An instant so near that it counts as now.
const SHORT: Duration = Duration::from_millis(10);

/// Decisions without work that may follow on each other by coincidence.
const IDLE_MAX: u32 = 3;

impl World {
    /// What the clock calls for is done when it was called for: a coordinator that is asked again at
    /// once, and again, would do nothing else.
    pub(crate) fn check_rest(&mut self, fleet: &Fleet, in_vain: bool) {
        let now = self.coordinator_time();
        if !in_vain || fleet.next_deadline() > now + SHORT {
            self.truth.idle = 0;
            return;
        }
        self.truth.idle += 1;
        if self.truth.idle > IDLE_MAX {
            self.violate("the coordinator has nothing to do, again and again".to_owned());
        }
    }

    /// Whoever is really away, counted by the world, against the limits they were let go under.
    fn check_limits(&mut self, newest: MachineIndex) {
        let Some(group) = self.machines[newest]
            .truth
            .disruption
            .as_ref()
            .map(|disruption| disruption.group.clone())
        else {
            return;
        };
        let away = self.machines.iter().filter(|m| !m.truth.forgotten);
        let away: Vec<&Disruption> = away.filter_map(|m| m.truth.disruption.as_ref()).collect();
        let told = |d: &&&Disruption| self.truth.told.get(&d.lease);
        let fleet_limit = away.iter().filter_map(|d| told(&d)).map(|t| t.fleet_limit);
        let fleet_limit = fleet_limit.max().unwrap_or(0);
        let mates: Vec<&&Disruption> = away.iter().filter(|d| d.group == group).collect();
        let group_limit = mates.iter().filter_map(told).map(|t| t.group_limit);
        let group_limit = group_limit.max().unwrap_or(0);
        let (all, here) = (away.len(), mates.len());
        self.truth.most_away = self.truth.most_away.max(all);
        if all > fleet_limit {
            self.violate(format!("{all} machines are really away, {fleet_limit} may"));
        }
        if here > group_limit {
            let text = format!("{here} machines of {group} are really away, {group_limit} may");
            self.violate(text);
        }
    }

    /// A machine that is really away has its slot, as long as there is a coordinator.
    pub(crate) fn check_slots(&mut self) {
        let moved = std::mem::take(&mut self.truth.slots_moved);
        if self.coordinator.fleet.is_none() || !moved {
            return;
        }
        let index = self.coordinator.mirror.index();
        let slotless = self.machines.iter().find(|m| {
            let away = m.truth.disruption.is_some() && !m.truth.forgotten;
            away && !index.away.values().any(|away| away.contains(&m.name))
        });
        if let Some(m) = slotless {
            let text = format!("{} is really away and has no slot", m.name);
            self.violate(text);
        }
    }

    /// Whether nothing is unfinished, and if not, what.
    pub(crate) fn unfinished(&self) -> Option<String> {
        let Some(fleet) = &self.coordinator.fleet else {
            return Some("the coordinator is not there".to_owned());
        };
        if let Some(number) = fleet.index().unfinished.first() {
            let rollout = &fleet.facts().rollouts[number];
            let open = rollout.places().filter(|p| !p.state.is_final());
            let open: Vec<String> = open
                .take(4)
                .map(|place| {
                    let now = fleet.hearsay().now;
                    let waits = place.state == PlaceState::Pending;
                    let why = waits
                        .then(|| fleet.permission(&place.machine, now).err())
                        .flatten();
                    let why = why.map(|why| why.to_string()).unwrap_or_default();
                    format!("{} {} {why}", place.machine, place.state.word())
                })
                .collect();
            return Some(format!("{} is {:?}: {open:?}", rollout.id, rollout.state));
        }
        let busy = self.machines.iter().find(|m| {
            m.disk.attempt.is_some() || m.disk.unreported.is_some() || !m.up || m.agent.is_none()
        });
        if let Some(m) = busy {
            return Some(format!("{} is not done: {:?}", m.name, m.disk.attempt));
        }
        let lease = fleet.facts().leases.values().next();
        lease.map(|lease| format!("{} holds lease {}", lease.machine, lease.id))
    }
}
