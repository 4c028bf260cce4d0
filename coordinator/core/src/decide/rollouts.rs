//! Rollouts: what a wish comes to, and how it becomes one.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use common::{Action, GroupName, MachineName, RolloutId, StorePath, Target, Timestamp};

use super::Draft;
use crate::{
    change::Change,
    config::FleetConfig,
    fleet::{Fleet, rollout_id},
    machine::Machine,
    plan::{Plan, PlannedGroup, PlannedMachine, in_dependency_order},
    policy::{Order, PauseAfter, Policy},
    request::{Back, Refusal, Reply, Wish},
    rollout::{
        Approval, Place, PlaceState, Rollout, RolloutGroup, RolloutState, Rules, Wave, WaveState,
    },
    wait::WaitReason,
};

/// Who begins a rollout.
#[derive(Clone, Copy)]
pub(crate) struct Author<'a> {
    /// The person, schedule or rule that it is by.
    pub(crate) name: &'a str,
    /// Who ran the schedule; empty where nobody did.
    pub(crate) asked: &'a str,
}

impl<'a> From<&'a str> for Author<'a> {
    fn from(name: &'a str) -> Self {
        Self { name, asked: "" }
    }
}

impl Fleet {
    /// What a wish comes to. Changes nothing.
    pub fn plan(&self, wish: &Wish) -> Result<Plan, Refusal> {
        let mut chosen: BTreeSet<MachineName> = self.select(&wish.selection)?.into_iter().collect();
        let undone = match &wish.back {
            Back::Before(id) => Some(self.brought(id)?),
            Back::Previous | Back::Generation(_) => None,
        };
        if let Some(undone) = &undone {
            chosen.retain(|machine| undone.contains_key(machine));
        }
        let Some(config) = self.facts().config.as_deref() else {
            return Err(Refusal::NotNow(
                "there is no fleet configuration yet".to_owned(),
            ));
        };
        let mut excluded = Vec::new();
        let mut groups: Vec<PlannedGroup> = Vec::new();
        for name in order(config) {
            let Some(group) = config.groups.get(name) else {
                continue;
            };
            let mut machines = Vec::new();
            let members = group.machines.iter();
            let members = members.filter(|machine| chosen.contains(machine));
            let members = members.map(|machine| {
                let place = undone.as_ref().and_then(|undone| undone.get(machine));
                (machine, self.planned(machine, wish, place.copied()))
            });
            let mut members: Vec<_> = members.collect();
            members.sort_by_cached_key(|(machine, planned)| {
                let own = config.own.get(*machine).unwrap_or(&group.policy);
                let target = planned.as_ref().ok().map(|planned| &planned.target);
                self.place_in_order(&group.policy, own, machine, (wish.action, target))
            });
            let mut own: Vec<Policy> = Vec::new();
            for (machine, planned) in members {
                match planned {
                    Ok(planned) => machines.push(PlannedMachine {
                        rules: rules_of(config.own.get(machine), &mut own),
                        ..planned
                    }),
                    Err(reason) => excluded.push((machine.clone(), reason)),
                }
            }
            if let Some(sides) = &group.policy.blue_green {
                let action = wish.action;
                self.leave_out_live_side(name, sides, action, &mut machines, &mut excluded);
            }
            if machines.is_empty() {
                continue;
            }
            let mut policy = group.policy.clone();
            if let Some(parallel) = wish.parallel {
                policy.max_parallel = policy.max_parallel.min(parallel.max(1));
            }
            match wish.action {
                Action::Update => {}
                // Taking machines back, or booting what was chosen before, needs no canary.
                Action::Rollback | Action::Reboot => {
                    policy.canary = 0;
                    policy.canary_percent = None;
                    policy.canary_machines.clear();
                    policy.waves.clear();
                    policy.pause_after = PauseAfter::Never;
                    policy.needs_approval = false;
                }
            }
            let waves = match &policy.blue_green {
                Some(sides) => self.waves_by_side(name, sides, machines),
                None => self.waves_of(&policy, machines),
            };
            let after = policy.dependencies.iter().map(|before| {
                let stagger = match wish.immediate {
                    true => Duration::ZERO,
                    false => config.stagger_of(before),
                };
                (before.clone(), stagger)
            });
            let now = self.hearsay().now;
            let mut planned = PlannedGroup {
                goes_at: Some(now),
                name: name.clone(),
                after: after.collect(),
                policy,
                own,
                waves,
            };
            if !wish.immediate {
                planned.goes_at = self.goes_at(wish.action, &planned, now);
            }
            groups.push(planned);
        }
        let max_away = config.max_parallel;
        let machines = groups.iter().flat_map(|group| &group.waves);
        let machines = machines.map(|wave| wave.machines.len()).sum();
        let max_failures = config.max_failures.map(|share| share.at_most(machines));
        Ok(Plan {
            action: wish.action,
            immediate: wish.immediate,
            retry_failed: wish.retry_failed,
            revision: self.facts().revision,
            groups,
            excluded,
            max_away,
            max_failures,
        })
    }

    /// Where a machine comes by what counts before the order of the document: the smaller, the earlier.
    fn place_in_order(
        &self,
        policy: &Policy,
        own: &Policy,
        machine: &MachineName,
        (action, target): (Action, Option<&Target>),
    ) -> Vec<u64> {
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): nothing counts before the order of the document.
        if self.has(crate::bug::Bug::OrderIgnored) {
            return Vec::new();
        }
        let known = self.facts().machines.get(machine);
        let place = |order: &Order| match order {
            Order::FailedLast => u64::from(known.is_some_and(|machine| machine.failed_last)),
            Order::LongestFirst => {
                let expected = own.expected_duration;
                let needs = |machine: &Machine| {
                    let reboots = target.is_some_and(|to| machine.reboots_for(action, to, own));
                    machine.needs(reboots, expected)
                };
                u64::MAX - known.map_or(expected, needs).as_secs()
            }
        };
        policy.order.iter().map(place).collect()
    }

    /// The places of those that a rollout has updated, if it is remembered still.
    fn brought(&self, id: &RolloutId) -> Result<BTreeMap<&MachineName, &Place>, Refusal> {
        let rollout = self.rollout(id).ok_or_else(|| Refusal::NotFound {
            what: "rollout",
            name: id.to_string(),
        })?;
        let updated = rollout
            .places()
            .filter(|place| place.has_brought_something());
        Ok(updated.map(|place| (&place.machine, place)).collect())
    }

    /// One machine of a plan, or why it is left out; with its place in the rollout that is taken back.
    fn planned(
        &self,
        name: &MachineName,
        wish: &Wish,
        undone: Option<&Place>,
    ) -> Result<PlannedMachine, WaitReason> {
        let Some(machine) = self.facts().machines.get(name) else {
            return Err(wish.leads_nowhere());
        };
        self.released(name)?;
        let target = match wish.action {
            Action::Update => machine.pin.as_ref().map(|pin| pin.target.clone()),
            Action::Rollback => match &wish.back {
                Back::Previous => machine.previous.clone().map(Target::Closure),
                Back::Generation(number) => machine
                    .report
                    .iter()
                    .flat_map(|report| &report.generations)
                    .find(|generation| generation.number == *number)
                    .map(|generation| Target::Closure(generation.path.clone())),
                Back::Before(id) => {
                    // What waits for the next boot is taken back as well.
                    let boots = machine.report.as_ref().and_then(|r| r.profile.as_ref());
                    let runs = |place: &&Place| {
                        let closure = closure_of(place);
                        closure == machine.running()
                            || (place.state == PlaceState::RebootRequired && closure == boots)
                    };
                    let Some(place) = undone.filter(runs) else {
                        return Err(WaitReason::MovedOn {
                            rollout: id.clone(),
                        });
                    };
                    // Rollouts of before did not write down what each machine came from.
                    let from = place.from.clone().or_else(|| machine.previous.clone());
                    from.map(Target::Closure)
                }
            },
            Action::Reboot => {
                let report = machine.report.as_ref();
                report
                    .and_then(|report| report.profile.clone())
                    .map(Target::Closure)
            }
        };
        let target = target.ok_or_else(|| wish.leads_nowhere())?;
        if machine.is_there(wish.action, &target) {
            return Err(WaitReason::UpToDate);
        }
        let chosen = wish.is_to_a_choice();
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): by its number whatever it is may be gone back to.
        let chosen =
            chosen && !(self.has(crate::bug::Bug::BackToBad) && wish.generation().is_some());
        self.good(name, chosen, &target)?;
        self.willing(machine, wish, &target)?;
        let staged = machine
            .report
            .as_ref()
            .and_then(|report| report.staged.as_ref());
        let staged = staged
            .filter(|staged| staged.target == target)
            .map(|s| s.needs_reboot);
        Ok(PlannedMachine {
            name: name.clone(),
            running: machine.running().cloned(),
            target,
            staged,
            rules: Rules::Group,
        })
    }

    /// The machine would not refuse the target at once. Whoever knows that it would, and does not leave it out,
    /// spends the failure budget of everybody else for nothing.
    #[cfg_attr(
        not(feature = "seeded-bugs"),
        allow(clippy::unused_self, reason = "a known bug needs it")
    )]
    fn willing(&self, machine: &Machine, wish: &Wish, target: &Target) -> Result<(), WaitReason> {
        let known = match wish.generation() {
            // On the way back it would not say no by itself.
            Some(_) => machine
                .refuses(target)
                .or_else(|| machine.failed_to(target)),
            None if wish.action == Action::Update => machine.refuses(target),
            None => None,
        };
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): what it said is forgotten.
        let known = known.filter(|_| !self.has(crate::bug::Bug::RefusalsForgotten));
        match known.filter(|_| !wish.retry_failed) {
            None => Ok(()),
            Some(reason) => Err(reason),
        }
    }

    pub(super) fn execute(
        &mut self,
        now: Timestamp,
        by: Author<'_>,
        wish: &Wish,
        if_plan: Option<&str>,
        draft: &mut Draft,
    ) -> Result<Reply, Refusal> {
        if self
            .facts()
            .stop
            .as_ref()
            .is_some_and(|stop| stop.groups.is_empty())
        {
            let text = "an emergency stop holds: `lab resume --reason …` lifts it";
            return Err(Refusal::Forbidden(text.to_owned()));
        }
        let plan = self.plan(wish)?;
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): whatever was shown.
        let if_plan = if_plan.filter(|_| !self.has(crate::bug::Bug::PlanNotCompared));
        if let Some(shown) = if_plan
            && shown != plan.digest()
        {
            return Err(Refusal::Changed(format!(
                "the plan no longer holds: it is {} now, not {shown}; look at it again",
                plan.digest()
            )));
        }
        if plan.is_empty() {
            return Ok(Reply::Executed {
                rollout: None,
                plan: Box::new(plan),
            });
        }
        let id = self.begin(&plan, wish, by, now, draft)?;
        Ok(Reply::Executed {
            rollout: Some(id),
            plan: Box::new(plan),
        })
    }

    /// Begins the rollout of a plan that holds.
    pub(crate) fn begin(
        &mut self,
        plan: &Plan,
        wish: &Wish,
        by: Author<'_>,
        now: Timestamp,
        draft: &mut Draft,
    ) -> Result<RolloutId, Refusal> {
        let id = rollout_id(self.facts().next_rollout);
        self.make_room(plan, &id, draft)?;
        let rollout = frozen(plan, id.clone(), wish, by, now);
        let machines: Vec<MachineName> = rollout
            .places()
            .map(|place| place.machine.clone())
            .collect();
        self.commit(
            draft,
            Change::RolloutCreated {
                rollout: Box::new(rollout),
                undoes_to_now: wish.action == Action::Update,
            },
        );
        // Everybody has something to obtain.
        draft.wake.extend(machines);
        Ok(id)
    }

    /// At most one unfinished rollout touches a machine: one that only waits for it, paused or
    /// late, gives it up; one that is at work refuses.
    fn make_room(&mut self, plan: &Plan, id: &RolloutId, draft: &mut Draft) -> Result<(), Refusal> {
        let machines = plan
            .groups
            .iter()
            .flat_map(|g| &g.waves)
            .flat_map(|w| &w.machines);
        let mut given_up = Vec::new();
        for machine in machines {
            if let Some(lease) = self.lease_of(&machine.name) {
                return Err(Refusal::NotNow(format!(
                    "{} is at work for rollout {}: wait for it, or `lab why {}`",
                    machine.name, lease.rollout, machine.name
                )));
            }
            let Some(at) = self.index().place_of.get(&machine.name).copied() else {
                continue;
            };
            let Some((rollout, group, place)) = self.at(at) else {
                continue;
            };
            let idle =
                matches!(rollout.state, RolloutState::Paused(_)) || group.finished_at.is_some();
            if !idle {
                return Err(Refusal::NotNow(format!(
                    "rollout {} is still at work on {}: wait for it, or `lab update abort {}`",
                    rollout.id, machine.name, rollout.id
                )));
            }
            if place.state.is_final() {
                continue;
            }
            given_up.push((rollout.id.clone(), machine.name.clone()));
        }
        for (rollout, machine) in given_up {
            let reason = format!("taken over by rollout {id}");
            self.leave_out(rollout, machine, reason, draft);
        }
        Ok(())
    }
}

/// The system that a place has come to.
fn closure_of(place: &Place) -> Option<&StorePath> {
    place.closure.as_ref().or_else(|| place.target.closure())
}

/// The rules of a machine, which are kept among those of its group's others if it has some of its own.
fn rules_of(policy: Option<&Policy>, own: &mut Vec<Policy>) -> Rules {
    let Some(policy) = policy else {
        return Rules::Group;
    };
    let known = own.iter().position(|known| known == policy);
    Rules::Own(known.unwrap_or_else(|| {
        own.push(policy.clone());
        own.len() - 1
    }))
}

/// The configuration's groups, each after those it depends on.
fn order(config: &FleetConfig) -> Vec<&GroupName> {
    let groups: Vec<(&GroupName, &[GroupName])> = config
        .groups
        .iter()
        .map(|(name, group)| (name, group.policy.dependencies.as_slice()))
        .collect();
    in_dependency_order(&groups)
}

/// The rollout of a plan: from here on, nothing is chosen any more.
fn frozen(plan: &Plan, id: RolloutId, wish: &Wish, by: Author<'_>, now: Timestamp) -> Rollout {
    let place = |machine: &PlannedMachine| Place {
        machine: machine.name.clone(),
        target: machine.target.clone(),
        state: PlaceState::Pending,
        reason: String::new(),
        verdict: None,
        closure: None,
        returned: 0,
        tries: 0,
        retry_at: None,
        rules: machine.rules,
        from: machine.running.clone(),
    };
    let groups = plan.groups.iter().map(|group| RolloutGroup {
        name: group.name.clone(),
        policy: group.policy.clone(),
        own: group.own.clone(),
        waves: group
            .waves
            .iter()
            .map(|wave| Wave {
                state: WaveState::Waiting,
                canary: wave.canary,
                turn: wave.turn,
                side: wave.side.clone(),
                places: wave.machines.iter().map(place).collect(),
                analysis: None,
            })
            .collect(),
        current: 0,
        approval: if group.policy.needs_approval {
            Approval::Needed
        } else {
            Approval::NotNeeded
        },
        finished_at: None,
        failed: 0,
        retrying: 0,
        forgiven: 0,
        unshown_accepted: None,
        promoted: 0,
        held_since: None,
        windows_told: None,
        windows_missed: 0,
    });
    Rollout {
        id,
        action: wish.action,
        created_at: now,
        created_by: by.name.to_owned(),
        asked_by: by.asked.to_owned(),
        reason: wish.reason.clone(),
        immediate: wish.immediate,
        retry_failed: wish.retry_failed,
        state: RolloutState::Active,
        ended_at: None,
        groups: groups.collect(),
        max_failures: plan.max_failures,
        takes_back: false,
        undoes: match &wish.back {
            Back::Before(id) if wish.action == Action::Rollback => Some(id.clone()),
            Back::Before(_) | Back::Previous | Back::Generation(_) => None,
        },
        to_generation: wish.generation(),
    }
}
