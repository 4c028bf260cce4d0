//! The whole state of the fleet, and the only way it changes: [`Fleet::apply`].

mod apply;
mod gone;
mod index;

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    time::Duration,
};

use common::{
    Epoch, GroupName, LeaseId, MachineName, RolloutId, ScheduleName, StopMode, Timestamp,
};
use serde::{Deserialize, Serialize};

pub use index::{Index, Location, WaveCount};

use crate::{
    analysis::{Asked, Key},
    config::FleetConfig,
    identity::Registry,
    lease::Lease,
    machine::Machine,
    opening,
    patience::Patience,
    quarantine::Quarantine,
    rollout::{Rollout, Rules},
    schedule::{CleanUps, Course, Planned, UnderWay},
    traffic::Traffic,
    wake::Woken,
};

/// Ended rollouts that stay in memory, the newest; older ones are in the history only.
pub const ENDED_KEPT: usize = 32;

/// What is known for certain: what the journal gives back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// The fencing number.
    pub epoch: Epoch,
    /// The emergency stop that holds.
    pub stop: Option<Stop>,
    /// Revision of the configuration; 0 before there is one.
    pub revision: u64,
    /// The configuration in force.
    pub config: Option<Box<FleetConfig>>,
    /// Machines that have reported or have a pin.
    pub machines: BTreeMap<MachineName, Machine>,
    /// Rollouts by number: every unfinished one and the newest ended ones.
    pub rollouts: BTreeMap<u64, Rollout>,
    /// Leases, live and overdue.
    pub leases: BTreeMap<LeaseId, Lease>,
    /// The next lease to be granted; never goes back.
    pub next_lease: LeaseId,
    /// Number of the next rollout.
    pub next_rollout: u64,
    /// When each group was last finished.
    pub finished: BTreeMap<GroupName, Timestamp>,
    /// Tokens and certificates.
    pub registry: Registry,
    /// Where each schedule stands.
    #[serde(default)]
    pub courses: BTreeMap<ScheduleName, Course>,
    /// Runs of schedules that were begun; never goes back.
    #[serde(default)]
    pub schedule_runs: u64,
    /// Machines that take part in no rollout until somebody releases them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub quarantined: BTreeMap<MachineName, Quarantine>,
    /// Targets that nobody is updated to until somebody releases them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub targets_aside: BTreeMap<String, Quarantine>,
    /// Where the traffic of groups with two sides is.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub traffic: BTreeMap<GroupName, Traffic>,
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            epoch: Epoch::FIRST,
            stop: None,
            revision: 0,
            config: None,
            machines: BTreeMap::new(),
            rollouts: BTreeMap::new(),
            leases: BTreeMap::new(),
            next_lease: LeaseId(1),
            next_rollout: 1,
            finished: BTreeMap::new(),
            registry: Registry::default(),
            courses: BTreeMap::new(),
            schedule_runs: 0,
            quarantined: BTreeMap::new(),
            targets_aside: BTreeMap::new(),
            traffic: BTreeMap::new(),
        }
    }
}

/// An emergency stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// Which groups; empty: the whole fleet.
    pub groups: BTreeSet<GroupName>,
    /// What machines past the point of no return do.
    pub mode: StopMode,
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

impl Stop {
    /// Whether it holds for this group.
    pub fn covers(&self, group: &GroupName) -> bool {
        self.groups.is_empty() || self.groups.contains(group)
    }
}

/// What is known from heartbeats and questions only. A restart begins anew, on the safe side.
#[derive(Clone, Debug)]
pub struct Hearsay {
    /// The time of the newest decision.
    pub now: Timestamp,
    /// When the coordinator began to listen: before that, nobody can be called silent.
    pub since: Timestamp,
    /// When each lease runs out.
    pub lease_until: BTreeMap<LeaseId, Timestamp>,
    /// The same, in order of time.
    pub expiries: BTreeSet<(Timestamp, LeaseId)>,
    /// Of each group of an unfinished rollout, by their numbers: how long it has stood still.
    pub patience: BTreeMap<(u64, usize), Patience>,
    /// Of the same groups: what their windows and calendars were last found to be.
    pub(crate) windows: BTreeMap<(u64, usize, Rules), opening::Seen>,
    /// The next instant at which the clock alone changes something.
    pub deadline: Timestamp,
    /// Health checks that machines are still to be asked for.
    pub checks: BTreeMap<MachineName, CheckWanted>,
    /// Number of the last health check request.
    pub last_check: u64,
    /// The machine that this coordinator runs on.
    pub own: Option<MachineName>,
    /// Machines that were told that it is their turn, by rollout and group.
    pub woken: BTreeMap<(u64, usize), Woken>,
    /// Measurements that were asked for and not answered.
    pub(crate) measuring: BTreeMap<Key, Asked>,
    /// Number of the last measurement.
    pub last_measurement: u64,
    /// When tokens and certificates were last looked through for outdated ones.
    pub identities_looked_at: Option<Timestamp>,
    /// Enrolments refused lately, by id of the token; those with an unknown one are under "", and
    /// those who asked to return under "return" and the machine's name.
    pub refused_enrolments: BTreeMap<String, RefusedEnrolments>,
    /// Of each schedule: the next instant after the one that was last dealt with.
    pub(crate) planned: BTreeMap<ScheduleName, (Timestamp, Option<Planned>)>,
    /// Runs of schedules that time may end.
    pub(crate) under_way: BTreeMap<ScheduleName, UnderWay>,
    /// Cleanups that machines are to be asked for.
    pub(crate) cleanups: CleanUps,
}

/// A health check that a machine is to be asked for at its next poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckWanted {
    /// Number of the request.
    pub request: u64,
    /// How long it may take.
    pub timeout: Duration,
}

/// How far a clock may step back and still be taken for standing still.
pub const STEP_BACK: Duration = Duration::from_secs(2);

/// The part of the shortest lease's term by which a decision that the clock alone calls for may come too late:
/// a half. Whoever drives the fleet does so at its deadline; a coordinator that comes later still
/// was away itself, or its clock was set forward.
const OVERSLEPT: u32 = 2;

/// Refused enrolments with one token: the audit log has one record of them a minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusedEnrolments {
    /// When the last record was made.
    pub recorded_at: Timestamp,
    /// How many there were since.
    pub since: u64,
}

/// The fleet.
#[derive(Clone, Debug)]
pub struct Fleet {
    facts: Facts,
    index: Index,
    pub(crate) hearsay: Hearsay,
    #[cfg(feature = "seeded-bugs")]
    pub(crate) bug: Option<crate::bug::Bug>,
}

impl Fleet {
    /// The fleet of these facts, at the moment at which the coordinator begins to listen: every
    /// holder of a lease gets a full term from here, and nobody counts as silent before it.
    pub fn load(facts: Facts, now: Timestamp) -> Self {
        let index = Index::of(&facts);
        let hearsay = Hearsay {
            now,
            since: now,
            lease_until: BTreeMap::new(),
            expiries: BTreeSet::new(),
            patience: BTreeMap::new(),
            windows: BTreeMap::new(),
            deadline: now,
            checks: BTreeMap::new(),
            // Past those of earlier lives, whose answers machines still tell.
            last_check: u64::try_from(now.as_millis()).unwrap_or_default(),
            own: None,
            woken: BTreeMap::new(),
            measuring: BTreeMap::new(),
            last_measurement: 0,
            identities_looked_at: None,
            refused_enrolments: BTreeMap::new(),
            planned: BTreeMap::new(),
            under_way: BTreeMap::new(),
            cleanups: CleanUps::new(),
        };
        let mut fleet = Self {
            facts,
            index,
            hearsay,
            #[cfg(feature = "seeded-bugs")]
            bug: None,
        };
        let leases: Vec<LeaseId> = fleet.facts.leases.keys().copied().collect();
        for lease in leases {
            fleet.extend(lease, now + fleet.lease_term(lease));
        }
        for number in fleet.index.unfinished.clone() {
            fleet.all_moved(number, now);
        }
        fleet
    }

    /// Takes the time of a decision from the clock. A small step back does not undo what was true a
    /// moment ago. After a larger one the time before it was wrong: windows are judged by the new one
    /// at once, and everything else begins anew as it does at a restart. So it does when the
    /// coordinator was not there at its last deadline: in that time nobody could be heard, and
    /// nobody's lease may run out for it.
    pub(crate) fn follow_clock(&mut self, now: Timestamp) -> Timestamp {
        let overslept = self.hearsay.deadline + self.shortest_terms().lease / OVERSLEPT < now;
        if now + STEP_BACK >= self.hearsay.now && !overslept {
            self.hearsay.now = self.hearsay.now.max(now);
            return self.hearsay.now;
        }
        let facts = mem::take(&mut self.facts);
        let mut anew = Self::load(facts, now);
        anew.hearsay.checks = mem::take(&mut self.hearsay.checks);
        anew.hearsay.last_check = self.hearsay.last_check;
        anew.hearsay.own = mem::take(&mut self.hearsay.own);
        anew.hearsay.last_measurement = self.hearsay.last_measurement;
        for machine in anew.facts.machines.values_mut() {
            machine.heard.at = machine.heard.at.map(|at| at.min(now));
            machine.heard.since = machine.heard.since.map(|since| since.min(now));
        }
        #[cfg(feature = "seeded-bugs")]
        let anew = anew.with_bug(self.bug);
        *self = anew;
        now
    }

    /// A new fleet, without configuration or machines.
    pub fn new(now: Timestamp) -> Self {
        Self::load(Facts::default(), now)
    }

    /// The same fleet with a known bug; for the simulator.
    #[cfg(feature = "seeded-bugs")]
    pub fn with_bug(mut self, bug: Option<crate::bug::Bug>) -> Self {
        self.bug = bug;
        self
    }

    /// Whether a known bug is switched on.
    #[cfg(feature = "seeded-bugs")]
    pub(crate) fn has(&self, bug: crate::bug::Bug) -> bool {
        self.bug == Some(bug)
    }

    /// What is known for certain.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// What is known for certain, and nothing else.
    pub fn into_facts(self) -> Facts {
        self.facts
    }

    /// Counters and places derived from the facts.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// What is known from heartbeats.
    pub fn hearsay(&self) -> &Hearsay {
        &self.hearsay
    }

    /// The next instant at which a [`crate::Request::Tick`] has something to do.
    pub fn next_deadline(&self) -> Timestamp {
        self.hearsay.deadline
    }

    /// How long this lease lasts without renewal.
    pub(crate) fn lease_term(&self, lease: LeaseId) -> Duration {
        let holder = self.facts.leases.get(&lease).map(|lease| &lease.machine);
        holder.map_or(Duration::ZERO, |machine| self.terms_of(machine).lease)
    }

    /// Most machines of the fleet that may be away together.
    pub fn fleet_limit(&self) -> u32 {
        self.facts
            .config
            .as_ref()
            .map_or(0, |config| config.max_parallel)
    }

    /// The machines that may not be away together with this one.
    pub fn apart_from(&self, machine: &MachineName) -> impl Iterator<Item = &MachineName> {
        let config = self.facts.config.as_ref();
        config
            .and_then(|config| config.apart.get(machine))
            .into_iter()
            .flatten()
    }

    /// The machine's group, by the configuration in force.
    pub fn group_of(&self, machine: &MachineName) -> Option<&GroupName> {
        self.facts.config.as_ref()?.group_of.get(machine)
    }

    /// The IANA name of the zone by whose clocks times of a machine are told: its own, or that of its group by
    /// the configuration in force. Empty, which is UTC, for one that is in none.
    pub(crate) fn zone_of(&self, machine: &MachineName) -> String {
        let config = self.facts.config.as_ref();
        let policy = config.and_then(|config| config.policy_of(machine));
        policy.map_or_else(String::new, |policy| policy.timezone.clone())
    }

    /// The lease a machine holds, live or overdue.
    pub fn lease_of(&self, machine: &MachineName) -> Option<&Lease> {
        self.facts.leases.get(self.index.lease_of.get(machine)?)
    }

    /// The rollout of that id.
    pub fn rollout(&self, id: &RolloutId) -> Option<&Rollout> {
        self.facts.rollouts.get(&number_of(id)?)
    }

    /// Whether a machine has been silent for so long that it counts as offline.
    pub fn is_offline(&self, machine: &MachineName, now: Timestamp) -> bool {
        let heard = self
            .facts
            .machines
            .get(machine)
            .and_then(|machine| machine.heard.at);
        // Before it listened, the coordinator could hear nobody.
        let since = heard.map_or(self.hearsay.since, |at| at.max(self.hearsay.since));
        now.since(since) >= self.terms_of(machine).offline_after
    }

    /// A sign of life of a machine.
    pub(crate) fn hear(&mut self, machine: &MachineName, now: Timestamp) {
        let returns = self.is_offline(machine, now);
        if let Some(machine) = self.facts.machines.get_mut(machine) {
            machine.heard.at = Some(now);
            if returns || machine.heard.since.is_none() {
                machine.heard.since = Some(now);
            }
        }
    }

    /// A known machine, to note what was heard of it.
    pub(crate) fn machine_mut(&mut self, machine: &MachineName) -> Option<&mut Machine> {
        self.facts.machines.get_mut(machine)
    }

    /// Moves the end of a lease.
    pub(crate) fn extend(&mut self, lease: LeaseId, until: Timestamp) {
        self.drop_expiry(lease);
        self.hearsay.lease_until.insert(lease, until);
        self.hearsay.expiries.insert((until, lease));
        self.hearsay.deadline = self.hearsay.deadline.min(until);
    }

    /// Forgets the end of a lease that is no more.
    pub(crate) fn drop_expiry(&mut self, lease: LeaseId) {
        if let Some(until) = self.hearsay.lease_until.remove(&lease) {
            self.hearsay.expiries.remove(&(until, lease));
        }
    }
}

/// The id of the rollout with this number.
pub fn rollout_id(number: u64) -> RolloutId {
    // `r` and decimal digits are always a name.
    format!("r{number}")
        .parse()
        .unwrap_or_else(|_| unreachable!("r{number} is a name"))
}

/// The number in a rollout's id.
pub fn number_of(id: &RolloutId) -> Option<u64> {
    id.as_str().strip_prefix('r')?.parse().ok()
}
