//! What a plan comes to as far as one can see: when each machine would have its turn, and when everybody is
//! done; which machines reboot and why; and what changes on them.
//!
//! The times are played through: by the limits of groups and fleet, dependencies, stagger, soak, gates, windows
//! and calendars, machines that must not be away together, and what each machine is expected to take. They hold
//! if everybody is there, nobody fails, measurements and moves of traffic take no time, and people answer at once;
//! what other rollouts take is not looked at.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use common::{Action, Changes, GroupName, MachineName, PackageChange, Target, Timestamp};

use crate::{
    analysis::{Gate, gates_of},
    coordinators::Part,
    fleet::Fleet,
    machine::Machine,
    opening::Seen,
    plan::{Plan, PlannedGroup, PlannedMachine},
    policy::Policy,
    rollout::{Rules, Turn},
};

/// Kinds of changes that are told: of so many machines most are of one of them.
const KINDS_MAX: usize = 20;

/// Machines that are looked at for one that could go, before the group waits. The others are mostly held
/// by the same.
const LOOK: usize = 64;

/// What a plan comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outlook {
    /// When each machine has its turn: from, until. Those that never have are left out.
    pub turns: BTreeMap<MachineName, (Timestamp, Timestamp)>,
    /// When the last one is back and the last gates have passed; `None`: never, as somebody's windows never
    /// open for long enough.
    pub ends_at: Option<Timestamp>,
    /// Who reboots, and how.
    pub reboots: BTreeMap<MachineName, Reboot>,
    /// What changes, and on whom; that of most machines first.
    pub changes: Vec<(Changes, Vec<MachineName>)>,
    /// Machines of which it is not told what changes, as that is of too many kinds.
    pub other_changes: usize,
}

/// Which reboot a target takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RebootHow {
    /// Of the machine.
    #[default]
    Machine,
    /// Of user space, which is enough, and the machine's rules make it one.
    Soft,
    /// None that the rollout does: the machine's rules leave it to a person.
    ByHand,
}

impl RebootHow {
    /// Who is told to reboot, and nothing else, boots, whatever its rules say.
    fn of(action: Action, policy: &Policy, soft_is_enough: bool) -> Self {
        if action == Action::Reboot {
            Self::Machine
        } else if !policy.allow_reboot {
            Self::ByHand
        } else if policy.soft_reboot && soft_is_enough {
            Self::Soft
        } else {
            Self::Machine
        }
    }
}

/// A reboot that a plan takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reboot {
    /// Why.
    pub why: Vec<String>,
    /// Which.
    pub how: RebootHow,
}

impl Machine {
    /// Whether an attempt at this is known to reboot the machine itself: before the target is staged nobody
    /// knows it.
    pub fn reboots_for(&self, action: Action, target: &Target, policy: &Policy) -> bool {
        let soft_is_enough = self.report.as_ref().and_then(|report| {
            let staged = report.staged.as_ref()?;
            (staged.needs_reboot && staged.target == *target).then_some(staged.soft_reboot)
        });
        match (action, soft_is_enough) {
            (Action::Reboot, _) => true,
            (Action::Update | Action::Rollback, None) => false,
            (Action::Update | Action::Rollback, Some(soft)) => {
                RebootHow::of(action, policy, soft) == RebootHow::Machine
            }
        }
    }
}

impl Fleet {
    /// What the plan comes to if it began now.
    pub fn outlook(&self, plan: &Plan, immediate: bool, now: Timestamp) -> Outlook {
        let mut outlook = Play::new(self, plan, immediate).run(now);
        let machines = plan.groups.iter().flat_map(|group| {
            let machines = group.waves.iter().flat_map(|wave| &wave.machines);
            machines.map(move |machine| (group.policy_of(machine), machine))
        });
        let mut kinds: BTreeMap<Kind<'_>, (&Changes, Vec<MachineName>)> = BTreeMap::new();
        for (policy, machine) in machines {
            let known = self.facts().machines.get(&machine.name);
            let staged = known.and_then(|known| known.report.as_ref()?.staged.as_ref());
            let Some(staged) = staged.filter(|staged| staged.target == machine.target) else {
                continue;
            };
            if staged.needs_reboot {
                let reboot = Reboot {
                    why: staged.reboot_reasons.clone(),
                    how: RebootHow::of(plan.action, policy, staged.soft_reboot),
                };
                outlook.reboots.insert(machine.name.clone(), reboot);
            }
            if let Some(changes) = &staged.changes {
                let kind = kinds.entry((&changes.packages, changes.more));
                let kind = kind.or_insert_with(|| (changes, Vec::new()));
                kind.1.push(machine.name.clone());
            }
        }
        let mut kinds: Vec<_> = kinds.into_values().collect();
        kinds.sort_by_key(|(_, machines)| std::cmp::Reverse(machines.len()));
        let others = kinds.iter().skip(KINDS_MAX).map(|(_, m)| m.len());
        outlook.other_changes = others.sum();
        let told = kinds.into_iter().take(KINDS_MAX);
        outlook.changes = told.map(|(changes, m)| (changes.clone(), m)).collect();
        outlook
    }
}

impl Plan {
    /// The shortest time that the gates of each of the group's waves take: all are measured side by side.
    pub fn gates_take(&self, group: &PlannedGroup) -> Duration {
        let gates = gates_of(self.action, &group.policy).iter();
        gates.map(Gate::takes).max().unwrap_or_default()
    }

    /// From when everybody of the wave is back to when the traffic may follow to its side, if it is to.
    fn traffic_follows_after(&self, group: &PlannedGroup, wave: usize) -> Option<Duration> {
        let last = wave + 1 == group.waves.len();
        let follows = group.waves[wave].side.is_some() && !last;
        follows.then(|| self.gates_take(group))
    }

    /// From then, or else from when everybody is back, to when the wave may close.
    fn closes_after(&self, group: &PlannedGroup, wave: usize, immediate: bool) -> Duration {
        let (this, last) = (&group.waves[wave], wave + 1 == group.waves.len());
        let soak = match last || immediate {
            true => Duration::ZERO,
            false => group.policy.soak_after(this.canary),
        };
        soak.max(self.gates_take(group))
    }
}

/// Changes that are told together: the packages, and how many more there are.
type Kind<'a> = (&'a [PackageChange], u32);

/// A plan that is played through.
struct Play<'a> {
    fleet: &'a Fleet,
    plan: &'a Plan,
    immediate: bool,
    groups: Vec<Course<'a>>,
    /// Groups that nobody who runs a coordinator waits for.
    behind: BTreeSet<&'a GroupName>,
    /// Who is away, by when they are back, and of which group.
    away: BTreeSet<(Timestamp, usize, MachineName)>,
    outlook: Outlook,
}

/// Where a group is.
struct Course<'a> {
    group: &'a PlannedGroup,
    /// The wave that is open or next to open.
    wave: usize,
    /// Those of it who have not gone; `None` before it opens.
    to_go: Option<VecDeque<&'a PlannedMachine>>,
    away: usize,
    /// When the wave before may close: until then it soaks, or its gates are measured; `None`: never.
    closes_at: Option<Timestamp>,
    finished_at: Option<Timestamp>,
    /// What its windows were last found to be.
    seen: BTreeMap<Rules, Seen>,
}

impl<'a> Play<'a> {
    fn new(fleet: &'a Fleet, plan: &'a Plan, immediate: bool) -> Self {
        let course = |group| Course {
            group,
            wave: 0,
            to_go: None,
            away: 0,
            closes_at: Some(Timestamp::default()),
            finished_at: None,
            seen: BTreeMap::new(),
        };
        let parts: Vec<Part<'_>> = plan.groups.iter().map(Part::planned).collect();
        Self {
            fleet,
            plan,
            immediate,
            groups: plan.groups.iter().map(course).collect(),
            behind: fleet.behind(&parts),
            away: BTreeSet::new(),
            outlook: Outlook::default(),
        }
    }

    fn run(mut self, now: Timestamp) -> Outlook {
        let mut at = now;
        loop {
            while let Some((back, _, _)) = self.away.first()
                && *back <= at
            {
                if let Some((_, group, _)) = self.away.pop_first() {
                    self.groups[group].away -= 1;
                }
            }
            let mut next = self.away.first().map(|(back, _, _)| *back);
            // A group that has done a wave, or all, lets others begin.
            let mut goes_on = true;
            while goes_on {
                goes_on = false;
                for group in 0..self.groups.len() {
                    let done = |course: &Course<'_>| (course.wave, course.finished_at);
                    let before = done(&self.groups[group]);
                    let later = self.advance(group, at);
                    goes_on |= before != done(&self.groups[group]);
                    next = [next, later]
                        .into_iter()
                        .flatten()
                        .filter(|t| at < *t)
                        .min();
                }
            }
            match next {
                Some(later) => at = later,
                None => break,
            }
        }
        let ends = self.groups.iter().map(|course| course.finished_at);
        let ends: Option<Vec<Timestamp>> = ends.collect();
        // Of a plan without machines, that is at once.
        self.outlook.ends_at = ends.map(|ends| ends.into_iter().max().unwrap_or(now));
        self.outlook
    }

    /// Lets everybody of the group begin who can, and says when it is to be looked at again, unless
    /// somebody else comes back before.
    fn advance(&mut self, index: usize, at: Timestamp) -> Option<Timestamp> {
        let course = &self.groups[index];
        if course.finished_at.is_some() {
            return None;
        }
        let group = course.group;
        let begins = self.begins(group)?.max(course.closes_at?);
        if at < begins {
            return Some(begins);
        }
        let Some(wave) = group.waves.get(course.wave) else {
            self.groups[index].finished_at = Some(at);
            return None;
        };
        if course.to_go.is_none() {
            if !self.has_its_turn(index, wave.turn, at) {
                return None;
            }
            self.groups[index].to_go = Some(wave.machines.iter().collect());
        }
        let mut to_go = self.groups[index].to_go.take().unwrap_or_default();
        let next = self.begin(index, &mut to_go, at);
        let course = &mut self.groups[index];
        if !to_go.is_empty() || course.away > 0 {
            course.to_go = Some(to_go);
            return next;
        }
        let wave = course.wave;
        let from = match self.plan.traffic_follows_after(group, wave) {
            Some(gates) => self.moves_at(&group.policy, at + gates),
            None => Some(at),
        };
        let takes = self.plan.closes_after(group, wave, self.immediate);
        let course = &mut self.groups[index];
        course.closes_at = from.map(|from| from + takes);
        course.wave += 1;
        self.advance(index, at)
    }

    /// When traffic may move that could from then on; `None`: never.
    fn moves_at(&self, policy: &Policy, from: Timestamp) -> Option<Timestamp> {
        if self.immediate {
            return Some(from);
        }
        let seen = self.fleet.look(policy, Duration::ZERO, from);
        match self.fleet.has_time(policy, &seen, Duration::ZERO, from) {
            Ok(()) => Some(from),
            Err(reason) => reason.until(),
        }
    }

    /// When what the group waits for is over; `None`: that is not known yet.
    fn begins(&self, group: &PlannedGroup) -> Option<Timestamp> {
        let mut begins = Timestamp::default();
        for (name, stagger) in &group.after {
            let other = self.groups.iter().find(|other| other.group.name == *name);
            // What is not part of the plan is taken for finished.
            let Some(other) = other else { continue };
            begins = begins.max(other.finished_at? + *stagger);
        }
        Some(begins)
    }

    /// Whether the waves of everybody who has their turn before are closed.
    fn has_its_turn(&self, index: usize, turn: Turn, at: Timestamp) -> bool {
        let others = self.groups.iter().enumerate();
        let mut others = others.filter(|(other, course)| {
            let closed = course.wave.saturating_sub(usize::from(
                course.closes_at.is_none_or(|closes| at < closes),
            ));
            let waves = course.group.waves.iter().skip(closed);
            let earlier = waves.filter(|wave| wave.turn < turn).count();
            let waits = *other != index && !self.behind.contains(&course.group.name);
            waits && earlier > 0
        });
        turn == Turn::Any || others.next().is_none()
    }

    /// Machines begin while there are slots, in order. When the first one that has none could.
    fn begin(
        &mut self,
        index: usize,
        to_go: &mut VecDeque<&'a PlannedMachine>,
        at: Timestamp,
    ) -> Option<Timestamp> {
        let (most, all) = (
            self.groups[index].group.policy.max_parallel,
            self.plan.max_away,
        );
        let (most, all) = (usize_of(most), usize_of(all));
        let mut next: Option<Timestamp> = None;
        let mut held = Vec::new();
        while self.groups[index].away < most && self.away.len() < all && held.len() < LOOK {
            let Some(machine) = to_go.pop_front() else {
                break;
            };
            if self.waits_for_others(&machine.name) {
                held.push(machine);
                continue;
            }
            let policy = self.groups[index].group.policy_of(machine);
            let needs = self
                .fleet
                .needs(&machine.name, self.plan.action, &machine.target, policy);
            match self.may_begin(index, machine.rules, policy, needs, at) {
                Ok(()) => {
                    let back = at + needs;
                    self.groups[index].away += 1;
                    self.away.insert((back, index, machine.name.clone()));
                    let turns = &mut self.outlook.turns;
                    turns.insert(machine.name.clone(), (at, back));
                    next = [next, Some(back)].into_iter().flatten().min();
                }
                Err(later) => {
                    next = [next, later].into_iter().flatten().min();
                    held.push(machine);
                }
            }
        }
        for machine in held.into_iter().rev() {
            to_go.push_front(machine);
        }
        next
    }

    /// Whether it may not be away together with somebody who is: when one of them is back is looked at anyway.
    fn waits_for_others(&self, machine: &MachineName) -> bool {
        let is_away = |other: &&MachineName| self.away.iter().any(|(_, _, away)| away == *other);
        if self.fleet.apart_from(machine).any(|other| is_away(&other)) {
            return true;
        }
        let coordinators = self.fleet.coordinators();
        coordinators.contains(machine)
            && coordinators.iter().filter(is_away).count() >= self.fleet.coordinators_away()
    }

    /// Whether windows and calendars let it, or else when they do.
    fn may_begin(
        &mut self,
        index: usize,
        rules: Rules,
        policy: &Policy,
        needs: Duration,
        at: Timestamp,
    ) -> Result<(), Option<Timestamp>> {
        if self.immediate {
            return Ok(());
        }
        let seen = &mut self.groups[index].seen;
        if !seen.get(&rules).is_some_and(|seen| seen.holds(at)) {
            seen.insert(rules, self.fleet.look(policy, needs, at));
        }
        let held = self.fleet.has_time(policy, &seen[&rules], needs, at);
        held.map_err(|reason| reason.until())
    }
}

fn usize_of(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
