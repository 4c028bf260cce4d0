//! Machines that run a coordinator: they go after everybody else, the one whose coordinator serves last of all,
//! whether or not `updateSettings.coordinators` lists it. Of those that it lists there are never so many away
//! at once that the others are no majority.

use std::collections::BTreeSet;

use common::{GroupName, MachineName, Timestamp};

use crate::{
    fleet::Fleet,
    plan::{PlannedGroup, PlannedMachine, PlannedWave, waves},
    policy::Policy,
    rollout::{Rollout, RolloutGroup, Turn, WaveState},
    wait::WaitReason,
};

/// A group's part of a rollout, or of a plan, as far as the order of those who run a coordinator goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part<'a> {
    pub(crate) group: &'a GroupName,
    pub(crate) dependencies: &'a [GroupName],
    /// Whether somebody of it runs a coordinator.
    pub(crate) runs_one: bool,
}

impl<'a> Part<'a> {
    fn of(group: &'a RolloutGroup) -> Self {
        Self {
            group: &group.name,
            dependencies: &group.policy.dependencies,
            runs_one: group.waves.iter().any(|wave| wave.turn != Turn::Any),
        }
    }

    /// Of a plan.
    pub(crate) fn planned(group: &'a PlannedGroup) -> Self {
        Self {
            group: &group.name,
            dependencies: &group.policy.dependencies,
            runs_one: group.waves.iter().any(|wave| wave.turn != Turn::Any),
        }
    }
}

impl Fleet {
    /// This coordinator runs on that machine.
    pub fn runs_on(&mut self, machine: MachineName) {
        self.hearsay.own = Some(machine);
    }

    /// The machine that this coordinator is said to run on, when no group has it: nobody goes last then for
    /// that it serves. `None` as long as there is no configuration to look into.
    pub fn runs_elsewhere(&self) -> Option<&MachineName> {
        let own = self.hearsay.own.as_ref()?;
        let config = self.facts().config.as_ref()?;
        (!config.group_of.contains_key(own)).then_some(own)
    }

    /// When the machine has its turn among those of all groups. The one that serves needs no listing: that it
    /// goes last is for everybody who is updated by it.
    pub(crate) fn turn_of(&self, machine: &MachineName) -> Turn {
        if self.hearsay.own.as_ref() == Some(machine) {
            Turn::Own
        } else if self.coordinators().contains(machine) {
            Turn::Coordinators
        } else {
            Turn::Any
        }
    }

    /// Cuts a group's machines into waves; whoever runs a coordinator comes after the others.
    pub(crate) fn waves_of(
        &self,
        policy: &Policy,
        machines: Vec<PlannedMachine>,
    ) -> Vec<PlannedWave> {
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): nobody stands in for a canary by name that does not go.
        let policy = &match self.has(crate::bug::Bug::CanaryDropped) {
            true => with_canary_among(policy, &machines),
            false => policy.clone(),
        };
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): the number of all of the group is that of those who go.
        let policy = &match self.has(crate::bug::Bug::CanaryOfAll) {
            true => Policy {
                canary_percent: None,
                ..policy.clone()
            },
            false => policy.clone(),
        };
        let mut rest = machines;
        let mut cut: Vec<PlannedWave> = Vec::new();
        for turn in Turn::ALL {
            let (now, later): (Vec<_>, Vec<_>) = rest
                .into_iter()
                .partition(|machine| self.turn_of(&machine.name) == turn);
            rest = later;
            // Of a group of nothing but coordinators, one goes before the others as of any group.
            if cut.is_empty() {
                cut = waves(policy, now, rest.len());
                cut.iter_mut().for_each(|wave| wave.turn = turn);
            } else if !now.is_empty() {
                cut.push(PlannedWave {
                    canary: false,
                    in_place_of: Vec::new(),
                    turn,
                    side: None,
                    machines: now,
                });
            }
        }
        cut
    }

    /// Whether a wave may open, as far as those of other groups that come before it are concerned.
    pub(crate) fn turn_has_come(
        &self,
        rollout: &Rollout,
        group: &RolloutGroup,
        wave: usize,
    ) -> Result<(), WaitReason> {
        let turn = group.waves[wave].turn;
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): whoever runs a coordinator goes when its group does.
        if self.has(crate::bug::Bug::CoordinatorNotLast) {
            return Ok(());
        }
        if turn == Turn::Any {
            return Ok(());
        }
        let parts: Vec<Part<'_>> = rollout.groups.iter().map(Part::of).collect();
        let behind = self.behind(&parts);
        let before = |other: &&RolloutGroup| {
            let open =
                |wave: &crate::rollout::Wave| wave.turn < turn && wave.state != WaveState::Closed;
            other.finished_at.is_none()
                && !behind.contains(&other.name)
                && other.waves.iter().any(open)
        };
        let groups = rollout.groups.iter().filter(before);
        let groups: Vec<GroupName> = groups.map(|group| group.name.clone()).collect();
        if groups.is_empty() {
            Ok(())
        } else {
            Err(WaitReason::CoordinatorLast { groups })
        }
    }

    /// The others that run a coordinator remain a majority when this one goes. Whoever is ill itself is
    /// down already: it waits only for those who are away.
    pub(crate) fn quorum(&self, machine: &MachineName, now: Timestamp) -> Result<(), WaitReason> {
        let coordinators = self.coordinators();
        if !coordinators.contains(machine) {
            return Ok(());
        }
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): each of them is looked at alone.
        if self.has(crate::bug::Bug::QuorumIgnored) {
            return Ok(());
        }
        let machines: Vec<MachineName> = coordinators
            .iter()
            .filter(|other| *other != machine && self.is_down_for(machine, other, now))
            .cloned()
            .collect();
        let allowed = self.coordinators_away();
        if machines.len() < allowed {
            return Ok(());
        }
        let allowed = u32::try_from(allowed).unwrap_or(u32::MAX);
        Err(WaitReason::Quorum { machines, allowed })
    }

    /// How many of those that run a coordinator may be away together. One that has no peers, or one peer, must
    /// be updated some day all the same.
    pub(crate) fn coordinators_away(&self) -> usize {
        let minority = self.coordinators().len().saturating_sub(1) / 2;
        minority.max(1)
    }

    /// Those that are listed: what there is a quorum of.
    pub(crate) fn coordinators(&self) -> &[MachineName] {
        let config = self.facts().config.as_ref();
        config.map_or(&[], |config| &config.coordinators)
    }

    /// The groups that wait for one in which somebody runs a coordinator: they come after that one, and
    /// nobody who runs a coordinator waits for them, or each would wait for the other. Also those that
    /// wait by way of groups of which other rollouts are at work on.
    pub(crate) fn behind<'a>(&self, parts: &[Part<'a>]) -> BTreeSet<&'a GroupName> {
        let first = parts.iter().filter(|part| part.runs_one);
        let first: BTreeSet<&GroupName> = first.map(|part| part.group).collect();
        let waits = |part: &&Part<'a>| {
            let mut open: Vec<&GroupName> = part.dependencies.iter().collect();
            let mut seen = BTreeSet::new();
            while let Some(on) = open.pop() {
                if first.contains(on) {
                    return true;
                }
                if seen.insert(on) {
                    open.extend(self.dependencies_of(on, parts));
                }
            }
            false
        };
        let behind = parts.iter().filter(waits);
        behind.map(|part| part.group).collect()
    }

    /// What a group waits for: by this rollout, or else by others and by the configuration.
    fn dependencies_of<'a>(&'a self, group: &GroupName, parts: &[Part<'a>]) -> Vec<&'a GroupName> {
        if let Some(part) = parts.iter().find(|part| part.group == group) {
            return part.dependencies.iter().collect();
        }
        let unfinished = self.index().unfinished.iter();
        let others = unfinished.filter_map(|number| self.facts().rollouts[number].group(group));
        let config = self.facts().config.as_ref();
        let config = config.and_then(|config| config.groups.get(group));
        let policies = others.map(|group| &group.policy);
        let policies = policies.chain(config.map(|group| &group.policy));
        policies.flat_map(|policy| &policy.dependencies).collect()
    }
}

#[cfg(feature = "seeded-bugs")]
/// These rules; without a canary if that has names and none of them is among these machines.
fn with_canary_among(policy: &Policy, machines: &[PlannedMachine]) -> Policy {
    let mut policy = policy.clone();
    let named = |machine: &PlannedMachine| policy.canary_machines.contains(&machine.name);
    if !policy.canary_machines.is_empty() && !machines.iter().any(named) {
        policy.canary_machines.clear();
        policy.canary = 0;
    }
    policy
}
