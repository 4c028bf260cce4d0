//! Counters and places derived from the facts, kept up to date by `apply`, so that no decision
//! has to scan the fleet. [`Index::of`] derives them anew: after loading, and in the invariants,
//! which hold both against each other.

use std::collections::{BTreeMap, BTreeSet};

use common::{GroupName, HealthState, LeaseId, MachineName, Timestamp};

use super::Facts;
use crate::{
    alarm::Alarm,
    config::FleetConfig,
    machine::Machine,
    rollout::{Place, PlaceState, Rules},
};

/// Where a machine's part in an unfinished rollout is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// Number of the rollout.
    pub rollout: u64,
    /// Index of the group in it.
    pub group: usize,
    /// Index of the wave in that.
    pub wave: usize,
    /// Index of the place in that.
    pub place: usize,
}

/// What is still going on in one wave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WaveCount {
    /// Places that have not begun, by index.
    pub pending: BTreeSet<usize>,
    /// How many of those obey rules that are not their group's, by the rules.
    pub pending_by_own: BTreeMap<Rules, usize>,
    /// Those of them that are to try again, by when.
    pub retries: BTreeSet<(Timestamp, usize)>,
    /// Places that hold a lease, live or overdue.
    pub live: u32,
    /// Places that ended as they should.
    pub updated: u32,
}

/// Everything derived.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Index {
    /// Numbers of the rollouts that have not ended.
    pub unfinished: BTreeSet<u64>,
    /// Each machine's place in an unfinished rollout.
    pub place_of: BTreeMap<MachineName, Location>,
    /// Each machine's lease.
    pub lease_of: BTreeMap<MachineName, LeaseId>,
    /// Machines that take a slot, by the group whose limit they count against.
    pub away: BTreeMap<GroupName, BTreeSet<MachineName>>,
    /// How many those are.
    pub away_total: usize,
    /// Machines that are not healthy by their own word and take no slot otherwise, by group.
    pub ill: BTreeMap<GroupName, BTreeSet<MachineName>>,
    /// What goes on in each wave: rollout, group, wave.
    pub waves: BTreeMap<(u64, usize, usize), WaveCount>,
    /// Places of each unfinished rollout that have not ended.
    pub open_places: BTreeMap<u64, usize>,
    /// Machines with a place in an unfinished rollout that have left the configuration since.
    pub gone: BTreeSet<MachineName>,
    /// Machines that failed on end as often as their terms take, and are not put aside yet.
    pub failing_too_often: BTreeSet<MachineName>,
    /// Machines whose last update failed, by what that was to.
    pub failing_with: BTreeMap<String, BTreeSet<MachineName>>,
    /// The same targets, by how many machines they failed on.
    pub failing_targets: BTreeSet<(u32, String)>,
    /// What holds of machines of the configuration and is still to be told, by when that is.
    pub lasting: BTreeMap<Alarm, BTreeSet<(Timestamp, MachineName)>>,
}

impl Index {
    /// Derives everything from the facts.
    pub fn of(facts: &Facts) -> Self {
        let mut index = Self::default();
        for lease in facts.leases.values() {
            index.lease_of.insert(lease.machine.clone(), lease.id);
            index.mark_away(&lease.group, &lease.machine);
        }
        for (name, machine) in &facts.machines {
            if let Some(failed) = &machine.failed {
                index.mark_away(&failed.group, name);
            }
        }
        for (name, machine) in &facts.machines {
            index.judge(facts, name);
            index.look_whether_it_fails(facts, name);
            index.failing_with(name, None, machine.failed_with.as_deref());
        }
        for (number, rollout) in &facts.rollouts {
            if rollout.is_final() {
                continue;
            }
            index.enter(*number, rollout);
        }
        index.find_gone(facts);
        index.find_lasting(facts);
        index
    }

    /// Finds out anew of which machines something holds that is still to be told.
    pub(super) fn find_lasting(&mut self, facts: &Facts) {
        self.lasting.clear();
        for name in facts.machines.keys() {
            self.lasts(facts, name);
        }
    }

    /// What holds of the machine is to be told.
    pub(super) fn lasts(&mut self, facts: &Facts, name: &MachineName) {
        let config = facts.config.as_deref();
        let Some(machine) = facts.machines.get(name) else {
            return;
        };
        if !config.is_some_and(|config| config.group_of.contains_key(name)) {
            return;
        }
        for alarm in Alarm::ALL {
            if let Some(due) = due(config, name, machine, alarm) {
                let lasting = self.lasting.entry(alarm).or_default();
                lasting.insert((due, name.clone()));
            }
        }
    }

    /// What holds of the machine, as it is now, is not to be told any more.
    pub(super) fn no_longer_lasts(
        &mut self,
        config: Option<&FleetConfig>,
        name: &MachineName,
        machine: &Machine,
    ) {
        for alarm in Alarm::ALL {
            if let Some(due) = due(config, name, machine, alarm)
                && let Some(lasting) = self.lasting.get_mut(&alarm)
            {
                lasting.remove(&(due, name.clone()));
            }
        }
        self.lasting.retain(|_, lasting| !lasting.is_empty());
    }

    /// Finds out anew who fails too often.
    pub(super) fn find_failing(&mut self, facts: &Facts) {
        self.failing_too_often.clear();
        for name in facts.machines.keys() {
            self.look_whether_it_fails(facts, name);
        }
    }

    /// Finds it out of one machine. Who is put aside already is not put aside again.
    pub(super) fn look_whether_it_fails(&mut self, facts: &Facts, name: &MachineName) {
        let failures = facts.machines.get(name).map(|m| m.failures_in_a_row);
        let config = facts.config.as_ref();
        let most = config.and_then(|config| config.terms_of(name).quarantine_after);
        let too_often = failures.zip(most).is_some_and(|(now, most)| most <= now);
        if too_often && !facts.quarantined.contains_key(name) {
            self.failing_too_often.insert(name.clone());
        } else {
            self.failing_too_often.remove(name);
        }
    }

    /// The machine's last update failed with this, and the one before it with that.
    pub(super) fn failing_with(
        &mut self,
        machine: &MachineName,
        before: Option<&str>,
        now: Option<&str>,
    ) {
        for (source, failed) in [(before, false), (now, true)] {
            let Some(source) = source else { continue };
            let machines = self.failing_with.entry(source.to_owned()).or_default();
            let count = |machines: &BTreeSet<_>| u32::try_from(machines.len()).unwrap_or(u32::MAX);
            let known = count(machines);
            if failed {
                machines.insert(machine.clone());
            } else {
                machines.remove(machine);
            }
            let count = count(machines);
            self.failing_targets.remove(&(known, source.to_owned()));
            if count > 0 {
                self.failing_targets.insert((count, source.to_owned()));
            } else {
                self.failing_with.remove(source);
            }
        }
    }

    /// Takes an unfinished rollout into account.
    pub(super) fn enter(&mut self, number: u64, rollout: &crate::rollout::Rollout) {
        self.unfinished.insert(number);
        let mut open = 0;
        for (group, g) in rollout.groups.iter().enumerate() {
            for (wave, w) in g.waves.iter().enumerate() {
                let count = self.waves.entry((number, group, wave)).or_default();
                for (place, p) in w.places.iter().enumerate() {
                    count.add(place, p);
                    open += usize::from(!p.state.is_final());
                    let location = Location {
                        rollout: number,
                        group,
                        wave,
                        place,
                    };
                    self.place_of.insert(p.machine.clone(), location);
                }
            }
        }
        self.open_places.insert(number, open);
    }

    /// Forgets a rollout that has ended. A machine that another unfinished rollout gave up to it,
    /// or had ended its part there before, has its place in that one again.
    pub(super) fn leave(&mut self, facts: &Facts, number: u64) {
        self.unfinished.remove(&number);
        self.open_places.remove(&number);
        self.place_of
            .retain(|_, location| location.rollout != number);
        self.waves.retain(|(rollout, _, _), _| *rollout != number);
        let Some(ended) = facts.rollouts.get(&number) else {
            return;
        };
        for place in ended.places() {
            let others = self.unfinished.iter().rev();
            let other = others
                .into_iter()
                .find_map(|number| place_in(*number, facts.rollouts.get(number)?, &place.machine));
            if let Some(at) = other {
                self.place_of.insert(place.machine.clone(), at);
            }
            self.look_whether_gone(facts, &place.machine);
        }
    }

    /// Takes a change of a place's state into account.
    pub(super) fn moved(&mut self, at: Location, from: &Place, to: &Place) {
        let count = self
            .waves
            .entry((at.rollout, at.group, at.wave))
            .or_default();
        count.remove(at.place, from);
        count.add(at.place, to);
        let open = self.open_places.entry(at.rollout).or_default();
        *open += usize::from(!to.state.is_final());
        *open -= usize::from(!from.state.is_final());
    }

    /// The machine takes a slot of this group.
    pub(super) fn mark_away(&mut self, group: &GroupName, machine: &MachineName) {
        if self
            .away
            .entry(group.clone())
            .or_default()
            .insert(machine.clone())
        {
            self.away_total += 1;
        }
    }

    /// The machine takes no slot of this group any more.
    pub(super) fn mark_back(&mut self, group: &GroupName, machine: &MachineName) {
        let Some(away) = self.away.get_mut(group) else {
            return;
        };
        if away.remove(machine) {
            self.away_total -= 1;
        }
        if away.is_empty() {
            self.away.remove(group);
        }
    }

    /// Whether the machine takes a slot anywhere.
    pub(crate) fn is_away(&self, facts: &Facts, machine: &MachineName) -> bool {
        self.lease_of.contains_key(machine)
            || facts
                .machines
                .get(machine)
                .is_some_and(|m| m.failed.is_some())
    }

    /// Finds out anew whether the machine counts as ill, and where.
    pub(super) fn judge(&mut self, facts: &Facts, machine: &MachineName) {
        self.ill.retain(|_, ill| {
            ill.remove(machine);
            !ill.is_empty()
        });
        let health = facts
            .machines
            .get(machine)
            .map(crate::machine::Machine::health);
        let group = facts
            .config
            .as_ref()
            .and_then(|config| config.group_of.get(machine));
        if let Some(group) = group
            && health == Some(HealthState::Unhealthy)
            && !self.is_away(facts, machine)
        {
            self.ill
                .entry(group.clone())
                .or_default()
                .insert(machine.clone());
        }
    }
}

/// When what holds of the machine is to be told, if that is so and it was not.
fn due(
    config: Option<&FleetConfig>,
    name: &MachineName,
    machine: &Machine,
    alarm: Alarm,
) -> Option<Timestamp> {
    let since = machine.untold(alarm)?;
    let after = config?.terms_of(name).alarms.after(alarm)?;
    Some(since + after)
}

/// Where the machine's place is in this rollout.
fn place_in(
    number: u64,
    rollout: &crate::rollout::Rollout,
    machine: &MachineName,
) -> Option<Location> {
    for (group, g) in rollout.groups.iter().enumerate() {
        for (wave, w) in g.waves.iter().enumerate() {
            if let Some(place) = w.places.iter().position(|p| p.machine == *machine) {
                return Some(Location {
                    rollout: number,
                    group,
                    wave,
                    place,
                });
            }
        }
    }
    None
}

impl WaveCount {
    /// Whose rules those obey that have not begun.
    pub(crate) fn pending_rules(&self) -> impl Iterator<Item = Rules> {
        let own: usize = self.pending_by_own.values().sum();
        let group = (own < self.pending.len()).then_some(Rules::Group);
        group.into_iter().chain(self.pending_by_own.keys().copied())
    }

    fn add(&mut self, place: usize, of: &Place) {
        match of.state {
            PlaceState::Pending => {
                if self.pending.insert(place) && !of.rules.is_of_the_group() {
                    *self.pending_by_own.entry(of.rules).or_default() += 1;
                }
                self.retries.extend(of.retry_at.map(|until| (until, place)));
            }
            PlaceState::Leased(_) | PlaceState::Overdue(_) => self.live += 1,
            PlaceState::Updated | PlaceState::RebootRequired => self.updated += 1,
            PlaceState::RolledBack
            | PlaceState::Refused
            | PlaceState::Failed
            | PlaceState::Skipped => {}
        }
    }

    fn remove(&mut self, place: usize, of: &Place) {
        match of.state {
            PlaceState::Pending => {
                if self.pending.remove(&place)
                    && let Some(count) = self.pending_by_own.get_mut(&of.rules)
                {
                    *count -= 1;
                    self.pending_by_own.retain(|_, count| *count > 0);
                }
                if let Some(until) = of.retry_at {
                    self.retries.remove(&(until, place));
                }
            }
            PlaceState::Leased(_) | PlaceState::Overdue(_) => self.live -= 1,
            PlaceState::Updated | PlaceState::RebootRequired => self.updated -= 1,
            PlaceState::RolledBack
            | PlaceState::Refused
            | PlaceState::Failed
            | PlaceState::Skipped => {}
        }
    }
}
