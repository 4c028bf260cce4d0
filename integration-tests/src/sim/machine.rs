//! A simulated NixOS machine: what runs, what would boot, its units, its dead-man timer, its disk,
//! and the agent's process while there is one. All of it is the world's truth; the agent learns of
//! it only through what it measures.

use std::{collections::BTreeMap, time::Duration};

use agent_core::{
    ActivationEnd, Agent, Answer, Baseline, Comparison, Done, Durable, Facts, Failure, Found, Hook,
    HookEnd, Input, Judgement, Limits, Mode, Moment, Previous, RebootKind, StepId, UnitState, Work,
    cleanup::{Aged, removable},
};
use common::{
    BootId, CheckResult, CleanUp, Generation, GroupName, Health, LeaseId, MachineName, Staged,
    StorePath,
};

use super::event::{At, Flaw, Nature, UnitEnd, UnitKind};

/// Most ended units that are remembered, as a systemd with `CollectMode` would.
const ENDED_UNITS_KEPT: usize = 16;

const MILLION: i128 = 1_000_000;

/// Most generations kept by the machine's own garbage collection.
const GENERATIONS_KEPT: usize = 24;

/// One machine.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) name: MachineName,
    pub(crate) limits: Limits,
    /// Whether it has power and runs.
    pub(crate) up: bool,
    /// Which boot this is.
    pub(crate) boot: u32,
    /// When it was booted.
    pub(crate) booted_at: At,
    pub(crate) running: StorePath,
    pub(crate) booted: StorePath,
    /// The system profile: what the next boot starts.
    pub(crate) profile: StorePath,
    pub(crate) generations: Vec<Generation>,
    /// When each of them was made, by its number.
    made_at: BTreeMap<u64, At>,
    /// When a unit was last begun or ended.
    pub(crate) seen_at: At,
    pub(crate) natures: BTreeMap<StorePath, Nature>,
    /// A service failed by itself.
    pub(crate) ill: bool,
    /// Whether its calls get to the coordinator, and answers back.
    pub(crate) link: (bool, bool),
    /// The agent's state on disk: whole files, replaced atomically.
    pub(crate) disk: Durable,
    /// The agent's process, and which one.
    pub(crate) agent: Option<Agent>,
    pub(crate) life: u32,
    pub(crate) units: BTreeMap<StepId, Unit>,
    /// The armed dead-man timer.
    pub(crate) dead_man: Option<LeaseId>,
    /// The mark that the dead-man program leaves before it acts.
    pub(crate) dead_man_acted: Option<LeaseId>,
    /// A reboot is under way.
    pub(crate) going_down: bool,
    /// It leads to another user space only.
    pub(crate) going_soft: bool,
    /// What an agent that stands still has missed.
    pub(crate) frozen: Option<Vec<Input>>,
    /// Whether the agent's state cannot be written.
    pub(crate) disk_full: bool,
    /// By how many millionths its clock is fast.
    drift: i64,
    pub(crate) truth: MachineTruth,
}

/// A unit of the agent's, which lives on when the agent dies.
#[derive(Clone, Debug)]
pub(crate) struct Unit {
    pub(crate) work: Work,
    pub(crate) ended: Option<Answer>,
}

/// What really happened on the machine, as the world saw it.
#[derive(Debug, Default)]
pub(crate) struct MachineTruth {
    /// Since its first disruptive step, until it is healthy again.
    pub(crate) disruption: Option<Disruption>,
    /// What ran and would have booted before the attempt of this lease changed anything.
    pub(crate) before: Option<(LeaseId, Previous)>,
    /// How often each hook was really begun.
    pub(crate) hooks: BTreeMap<(LeaseId, Hook), u32>,
    /// Leases in whose attempt a process died or the power went: steps may have been lost.
    pub(crate) cut: Option<LeaseId>,
    /// The highest epoch that the agent heard of and kept.
    pub(crate) heard: common::Epoch,
    /// The highest lease under which a disruptive step was begun.
    pub(crate) used: LeaseId,
    /// Results as first sent.
    pub(crate) verdicts: BTreeMap<LeaseId, common::Outcome>,
    /// When it last found out by its own health checks how it is.
    pub(crate) checked_at: Option<At>,
    /// An operator had the coordinator forget it since its last disruption.
    pub(crate) forgotten: bool,
}

/// A machine that is really away.
#[derive(Clone, Debug)]
pub(crate) struct Disruption {
    pub(crate) lease: LeaseId,
    pub(crate) group: GroupName,
}

impl Machine {
    pub(crate) fn new(name: MachineName, limits: Limits, drift: i64, system: StorePath) -> Self {
        Self {
            name,
            limits,
            up: false,
            boot: 0,
            booted_at: 0,
            running: system.clone(),
            booted: system.clone(),
            profile: system.clone(),
            generations: vec![Generation {
                number: 1,
                path: system,
            }],
            made_at: BTreeMap::new(),
            seen_at: 0,
            natures: BTreeMap::new(),
            ill: false,
            link: (true, true),
            disk: Durable::new(),
            agent: None,
            life: 0,
            units: BTreeMap::new(),
            dead_man: None,
            dead_man_acted: None,
            going_down: false,
            going_soft: false,
            frozen: None,
            disk_full: false,
            drift,
            truth: MachineTruth::default(),
        }
    }

    /// The boot-time clock.
    pub(crate) fn moment(&self, now: At) -> Moment {
        let since = i128::from(now.saturating_sub(self.booted_at));
        let shown = since * self.rate() / MILLION;
        Moment(u64::try_from(shown).unwrap_or(0) + 1)
    }

    /// The first of the world's times at which its clock shows this moment of this boot.
    pub(crate) fn at(&self, moment: Moment) -> At {
        let shown = i128::from(moment.0.saturating_sub(1));
        let since = (shown * MILLION + self.rate() - 1) / self.rate();
        let since = u64::try_from(since).unwrap_or(At::MAX);
        self.booted_at.saturating_add(since)
    }

    /// What its clock counts while a million goes by.
    fn rate(&self) -> i128 {
        MILLION + i128::from(self.drift)
    }

    /// When the agent wants to be woken; one that stands still does not.
    pub(crate) fn due(&self) -> Option<Moment> {
        let awake = self.frozen.is_none();
        let agent = self.agent.as_ref().filter(|_| awake)?;
        agent.next_deadline()
    }

    /// The agent's process gets no more time.
    pub(crate) fn freeze(&mut self) {
        if self.agent.is_some() {
            self.frozen.get_or_insert_default();
        }
    }

    pub(crate) fn nature(&self, system: &StorePath) -> Nature {
        self.natures.get(system).copied().unwrap_or_default()
    }

    fn flaw(&self, system: &StorePath) -> Option<Flaw> {
        self.nature(system).flaw
    }

    /// Whether messages get through, in each direction.
    pub(crate) fn reach(&self) -> (bool, bool) {
        let cut = self.flaw(&self.running) == Some(Flaw::CutsNetwork);
        (
            self.link.0 && !cut && self.up,
            self.link.1 && !cut && self.up,
        )
    }

    pub(crate) fn is_healthy(&self) -> bool {
        self.up && self.checks().iter().all(|check| check.passed)
    }

    fn checks(&self) -> Vec<CheckResult> {
        let check = |name: &str, passed: bool| CheckResult {
            name: name.to_owned(),
            passed,
            detail: if passed { "" } else { "it is broken" }.to_owned(),
        };
        vec![
            check("service", !self.ill),
            check("system", self.flaw(&self.running) != Some(Flaw::Unhealthy)),
            check(
                "network",
                self.flaw(&self.running) != Some(Flaw::CutsNetwork),
            ),
        ]
    }

    pub(crate) fn facts(&self) -> Facts {
        let boot_id = format!("boot-{}-{}", self.name, self.boot);
        Facts {
            boot_id: boot_id
                .parse::<BootId>()
                .unwrap_or_else(|_| unreachable!("{boot_id} is a name")),
            running: Some(self.running.clone()),
            booted: Some(self.booted.clone()),
            profile: Some(self.profile.clone()),
            next_boot: agent_core::NextBoot::Unknown,
            generation: self.generations.last().map_or(0, |g| g.number),
            generations: self.generations.iter().rev().cloned().collect(),
            store_free_bytes: 1 << 36,
        }
    }

    /// What an agent that starts now finds.
    pub(crate) fn found(&self) -> Found {
        let unit = self.disk.open_step().and_then(|step| self.units.get(&step));
        let attempt = self.disk.attempt.as_ref().map(|attempt| attempt.lease);
        Found {
            facts: self.facts(),
            unit: match unit {
                None => UnitState::Absent,
                Some(Unit { ended: None, .. }) => UnitState::Running,
                Some(Unit {
                    ended: Some(answer),
                    ..
                }) => UnitState::Ended(Box::new(answer.clone())),
            },
            dead_man_fired: attempt.is_some() && self.dead_man_acted == attempt,
        }
    }

    pub(crate) fn set_profile(&mut self, path: &StorePath) {
        if self.profile == *path {
            return;
        }
        self.profile = path.clone();
        let number = self.generations.last().map_or(0, |g| g.number) + 1;
        self.generations.push(Generation {
            number,
            path: path.clone(),
        });
        self.made_at.insert(number, self.seen_at);
        if self.generations.len() > GENERATIONS_KEPT {
            self.generations.remove(0);
        }
    }

    /// A unit begins: what it changes at once.
    pub(crate) fn begin(&mut self, step: StepId, work: &Work) {
        if let Work::Activate {
            path,
            mode: Mode::Switch,
            ..
        } = work
            && self.flaw(path) != Some(Flaw::SwitchBusy)
        {
            self.set_profile(path);
        }
        if let Work::Restore { .. } = work {
            // It stops the attempt's own units that are still at work.
            self.units.retain(|_, unit| unit.ended.is_some());
        }
        let ended = self.units.values().filter(|u| u.ended.is_some()).count();
        if ended > ENDED_UNITS_KEPT {
            let oldest = self.units.iter().find(|(_, unit)| unit.ended.is_some());
            let oldest = oldest.map(|(step, _)| *step);
            oldest.and_then(|oldest| self.units.remove(&oldest));
        }
        let work = work.clone();
        self.units.insert(step, Unit { work, ended: None });
    }

    /// A unit ends: what it changed, and its answer. `None` when there is no such unit at work.
    pub(crate) fn end(&mut self, step: StepId, how: UnitEnd) -> Option<Answer> {
        let work = self.units.get(&step).filter(|unit| unit.ended.is_none())?;
        let work = work.work.clone();
        let result = match how {
            UnitEnd::ByNature => self.result(&work),
            UnitEnd::Fails => Err(Failure::Failed("it could not be done".to_owned())),
            UnitEnd::TimesOut => Err(Failure::TimedOut),
        };
        let answer = Answer {
            result,
            output: String::new(),
        };
        if let Some(unit) = self.units.get_mut(&step) {
            unit.ended = Some(answer.clone());
        }
        Some(answer)
    }

    fn result(&mut self, work: &Work) -> Result<Done, Failure> {
        Ok(match work {
            Work::Stage { target, .. } => {
                let path = target.closure().cloned().ok_or(Failure::Unfitting)?;
                let nature = self.nature(&path);
                if nature.flaw == Some(Flaw::StageFails) {
                    return Err(Failure::Failed("a signature is missing".to_owned()));
                }
                Done::Staged(Staged {
                    target: target.clone(),
                    needs_reboot: nature.needs_reboot,
                    reboot_reasons: nature
                        .needs_reboot
                        .then(|| nature.reason().to_owned())
                        .into_iter()
                        .collect(),
                    soft_reboot: nature.needs_reboot && nature.user_space,
                    changes: None,
                    path,
                })
            }
            Work::Snapshot { target, .. } => {
                let nature = self.nature(target);
                let failed = self.checks().into_iter().filter(|check| !check.passed);
                Done::Snapshot {
                    facts: self.facts(),
                    baseline: Baseline {
                        failed_units: Vec::new(),
                        failed_checks: failed.map(|check| check.name).collect(),
                        reached: Vec::new(),
                    },
                    needs_reboot: nature.needs_reboot.then_some(if nature.user_space {
                        RebootKind::UserSpace
                    } else {
                        RebootKind::Machine
                    }),
                }
            }
            Work::ArmDeadMan { lease, .. } => {
                self.dead_man = Some(*lease);
                Done::Armed
            }
            Work::DisarmDeadMan { lease } => {
                self.dead_man.take_if(|armed| armed == lease);
                Done::Disarmed {
                    fired: self.dead_man_acted == Some(*lease),
                }
            }
            Work::RunHook { hook, context } => Done::Hook(self.hook_end(*hook, &context.target)),
            Work::Activate { path, mode, .. } => {
                let end = self.activate(path, *mode);
                Done::Activated {
                    end,
                    facts: self.facts(),
                }
            }
            Work::Reboot { kind, .. } => {
                self.going_down = true;
                self.going_soft = *kind == RebootKind::UserSpace;
                Done::RebootAsked
            }
            Work::Judge { baseline, .. } => Done::Judged(self.judge(baseline)),
            Work::Restore { previous, mode, .. } => {
                self.restore(previous, *mode);
                Done::Restored {
                    end: ActivationEnd::Done,
                    facts: self.facts(),
                }
            }
            Work::CleanUp {
                cleanup, needed, ..
            } => {
                let removed = self.clean_up(cleanup, needed)?;
                Done::CleanedUp {
                    removed,
                    freed_bytes: u64::from(removed) << 30,
                    failure: None,
                    facts: self.facts(),
                }
            }
            Work::MoveTraffic { .. } => Done::TrafficMoved,
            Work::CheckHealth { .. } => Done::Checked {
                health: Health::of(self.checks()),
                facts: self.facts(),
            },
        })
    }

    /// As the real one does it: by what is found at that moment.
    fn clean_up(&mut self, cleanup: &CleanUp, needed: &[StorePath]) -> Result<u32, Failure> {
        let aged = self.generations.iter().map(|generation| {
            let made_at = self.made_at.get(&generation.number).copied().unwrap_or(0);
            let age = Duration::from_millis(self.seen_at.saturating_sub(made_at));
            Aged {
                generation: generation.clone(),
                age: Some(age),
            }
        });
        let aged: Vec<Aged> = aged.collect();
        let gone = removable(&aged, &self.facts(), cleanup, needed)?;
        self.generations.retain(|g| !gone.contains(&g.number));
        Ok(u32::try_from(gone.len()).unwrap_or(u32::MAX))
    }

    fn hook_end(&self, hook: Hook, target: &StorePath) -> HookEnd {
        let fails = match hook {
            Hook::Pre => self.flaw(target) == Some(Flaw::PreHookFails),
            Hook::Post => self.flaw(target) == Some(Flaw::PostHookFails),
            Hook::Rollback => false,
        };
        if fails {
            HookEnd::Failed {
                status: "exit status 1".to_owned(),
            }
        } else {
            HookEnd::Succeeded
        }
    }

    fn activate(&mut self, path: &StorePath, mode: Mode) -> ActivationEnd {
        let flaw = self.flaw(path);
        if mode == Mode::Boot {
            self.set_profile(path);
            return ActivationEnd::Done;
        }
        match flaw {
            Some(Flaw::SwitchFails) => ActivationEnd::Failed {
                status: "exit status 1".to_owned(),
            },
            Some(Flaw::SwitchBusy) => ActivationEnd::Busy,
            Some(Flaw::SwitchWantsReboot) => ActivationEnd::RebootNeeded,
            Some(Flaw::SwitchDegraded) => {
                self.running = path.clone();
                ActivationEnd::Degraded
            }
            Some(
                Flaw::Unhealthy
                | Flaw::SwitchHangs
                | Flaw::BootFallsBack
                | Flaw::BootsThird
                | Flaw::BootSilent
                | Flaw::StageFails
                | Flaw::PreHookFails
                | Flaw::PostHookFails
                | Flaw::PostHookHangs
                | Flaw::CutsNetwork,
            )
            | None => {
                self.running = path.clone();
                ActivationEnd::Done
            }
        }
    }

    pub(crate) fn restore(&mut self, previous: &Previous, mode: Mode) {
        self.set_profile(&previous.boot_default);
        if mode == Mode::Switch {
            self.running = previous.running.clone();
        }
    }

    fn judge(&self, baseline: &Baseline) -> Judgement {
        let health = Health::of(self.checks());
        Comparison::of(baseline, &[], &health).judgement(health, self.facts())
    }

    /// What the machine loses with its power: everything but the disk.
    pub(crate) fn power_off(&mut self) {
        self.up = false;
        self.going_down = false;
        self.agent = None;
        self.frozen = None;
        self.units.clear();
        self.dead_man = None;
    }

    pub(crate) fn boot_into(&mut self, system: StorePath, now: At) {
        self.up = true;
        self.boot += 1;
        self.booted_at = now;
        self.running = system.clone();
        if !std::mem::take(&mut self.going_soft) {
            self.booted = system;
        }
    }
}

/// What kind of unit this work is, and the flaw of its system that concerns it.
pub(crate) fn kind_of(machine: &Machine, work: &Work) -> (UnitKind, Option<Flaw>) {
    match work {
        Work::Stage { target, .. } => {
            let flaw = target.closure().and_then(|path| machine.flaw(path));
            (UnitKind::Stage, flaw)
        }
        Work::Snapshot { .. } | Work::ArmDeadMan { .. } | Work::DisarmDeadMan { .. } => {
            (UnitKind::Short, None)
        }
        Work::RunHook { hook, context } => (UnitKind::Hook(*hook), machine.flaw(&context.target)),
        Work::Activate { path, .. } => (UnitKind::Activate, machine.flaw(path)),
        Work::Reboot { .. } => (UnitKind::Reboot, None),
        Work::Judge { .. } | Work::CheckHealth { .. } => (UnitKind::Judge, None),
        Work::Restore { .. } => (UnitKind::Restore, None),
        Work::CleanUp { .. } => (UnitKind::CleanUp, None),
        Work::MoveTraffic { .. } => (UnitKind::Traffic, None),
    }
}
