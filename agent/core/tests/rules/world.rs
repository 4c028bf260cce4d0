//! One machine for tests: what runs, what boots next, its hooks, and a coordinator that answers.
//! It does what the agent's shell does, and checks after every output that the invariants hold,
//! that nothing durable changed without being saved, that no hook is begun twice, and that the traffic
//! script runs for newer and newer orders.

mod work;

use std::{collections::BTreeSet, time::Duration};

use agent_core::{
    Agent, Answer, CallId, Directive, Done, Durable, Effect, Facts, Failure, Found, Hook, Input,
    Job, Limits, Moment, NextBoot, Note, Output, Proceed, RebootKind, Renewal, Signal, Step,
    StepId, UnitState, Work, invariants, state::Unreported,
};
use common::{
    Action, BootId, Epoch, LeaseId, OutcomeKind, RolloutId, StorePath, Target, TrafficCall,
};

pub(crate) use crate::script::Script;

pub(crate) const LEASE: Duration = Duration::from_secs(120);

pub(crate) fn path(name: &str) -> StorePath {
    format!("/nix/store/0c5y5y5y5y5y5y5y5y5y5y5y5y5y5y5y-{name}")
        .parse()
        .expect("a store path")
}

pub(crate) fn target(name: &str) -> Target {
    Target::Closure(path(name))
}

pub(crate) fn rollout(name: &str) -> RolloutId {
    name.parse().expect("a rollout name")
}

/// What the rollout `r1` tells a machine on which `new` is not staged.
pub(crate) fn stage(action: Action) -> Directive {
    Directive::Stage {
        rollout: Some(rollout("r1")),
        target: target("new"),
        action,
        force: false,
        wish: 0,
    }
}

/// A lease for an update to `new`.
pub(crate) fn proceed(lease: u64) -> Proceed {
    Proceed {
        rollout: rollout("r1"),
        lease: LeaseId(lease),
        epoch: Epoch(1),
        valid_for: LEASE,
        action: Action::Update,
        target: Some(target("new")),
        allow_reboot: true,
        allow_soft_reboot: false,
        rollback_on_failure: true,
        health_timeout: Duration::from_secs(60),
        force: false,
    }
}

pub(crate) fn answer(result: Result<Done, Failure>) -> Answer {
    Answer {
        result,
        output: String::new(),
    }
}

pub(crate) struct World {
    pub(crate) agent: Agent,
    pub(crate) disk: Durable,
    pub(crate) limits: Limits,
    pub(crate) now: Moment,
    pub(crate) script: Script,
    pub(crate) boot: u32,
    pub(crate) running: StorePath,
    pub(crate) booted: StorePath,
    pub(crate) profile: StorePath,
    /// What the boot loader says; a system that it says is followed by each that is installed.
    pub(crate) next_boot: NextBoot,
    /// The boot loader starts what it says, whatever is installed.
    pub(crate) stubborn: bool,
    pub(crate) dead_man_fired: bool,
    pub(crate) epoch: Epoch,
    /// Begun and not ended.
    pub(crate) open: Vec<Job>,
    /// Every hook that was begun.
    pub(crate) hooks: Vec<(LeaseId, Hook)>,
    /// Every run of the traffic script that was begun.
    pub(crate) traffic: Vec<TrafficCall>,
    /// Those that have a unit, at work or ended.
    pub(crate) traffic_units: BTreeSet<StepId>,
    /// Every result that was handed in, repetitions included.
    pub(crate) reports: Vec<Unreported>,
    pub(crate) notes: Vec<Note>,
    pub(crate) polls: Vec<CallId>,
    pub(crate) silences: Vec<Duration>,
    /// Words of the steps that were begun, in order.
    pub(crate) steps: Vec<String>,
    pub(crate) activations: u32,
    #[cfg_attr(
        not(feature = "seeded-bugs"),
        expect(dead_code, reason = "there are no bugs to seed")
    )]
    bug: Bug,
}

#[cfg(feature = "seeded-bugs")]
pub(crate) type Bug = Option<agent_core::Bug>;
#[cfg(not(feature = "seeded-bugs"))]
pub(crate) type Bug = Option<()>;

impl World {
    pub(crate) fn new(script: Script) -> Self {
        Self::with_bug(script, None)
    }

    pub(crate) fn with_bug(script: Script, bug: Bug) -> Self {
        let limits = Limits {
            has_traffic_script: true,
            ..Limits::default()
        };
        let mut world = Self {
            agent: Agent::restore(limits.clone(), Durable::new()),
            disk: Durable::new(),
            limits,
            now: Moment(1_000_000),
            script,
            boot: 1,
            running: path("old"),
            booted: path("old"),
            profile: path("old"),
            next_boot: NextBoot::Unknown,
            stubborn: false,
            dead_man_fired: false,
            epoch: Epoch(1),
            open: Vec::new(),
            hooks: Vec::new(),
            traffic: Vec::new(),
            traffic_units: BTreeSet::new(),
            reports: Vec::new(),
            notes: Vec::new(),
            polls: Vec::new(),
            silences: Vec::new(),
            steps: Vec::new(),
            activations: 0,
            bug,
        };
        world.restart(UnitState::Absent);
        world
    }

    /// A machine on which `new` is staged.
    pub(crate) fn staged(script: Script) -> Self {
        Self::staged_with_bug(script, None)
    }

    pub(crate) fn staged_with_bug(script: Script, bug: Bug) -> Self {
        let mut world = Self::with_bug(script, bug);
        world.say(stage(Action::Update));
        world.work_all();
        assert_eq!(
            world.disk.staged.as_ref().map(|s| &s.path),
            Some(&path("new"))
        );
        world
    }

    pub(crate) fn facts(&self) -> Facts {
        Facts {
            boot_id: self.boot_id(),
            running: Some(self.running.clone()),
            booted: Some(self.booted.clone()),
            profile: Some(self.profile.clone()),
            next_boot: self.next_boot.clone(),
            generation: 1,
            generations: Vec::new(),
            store_free_bytes: 1 << 30,
        }
    }

    pub(crate) fn boot_id(&self) -> BootId {
        format!("boot-{}", self.boot).parse().expect("a boot id")
    }

    pub(crate) fn feed(&mut self, input: Input) {
        let out = self.agent.handle(self.now, input);
        self.absorb(out);
    }

    /// The coordinator answers a poll sent just now.
    pub(crate) fn say(&mut self, directive: Directive) {
        if matches!(directive, Directive::Proceed(_)) {
            // A lease is only taken from the poll that is waited for: there is one now.
            let epoch = self.disk.epoch;
            let signal = Signal::Wake;
            self.feed(Input::Signal { epoch, signal });
        }
        let call = self.polls.last().copied().unwrap_or(CallId(0));
        let (sent, epoch) = (self.now, self.epoch);
        self.feed(Input::Directive {
            call,
            sent,
            epoch,
            directive,
        });
    }

    pub(crate) fn absorb(&mut self, out: Output) {
        let durable = self.agent.durable().clone();
        let mut wrong = invariants::violations(&durable);
        wrong.extend(invariants::output_violations(
            self.now,
            &self.limits,
            &durable,
            &out,
        ));
        assert_eq!(wrong, [], "{out:#?}");
        self.check_verdict(&durable);
        if out.persist {
            let text = serde_json::to_string(&durable).expect("a state that can be written");
            let read: Durable = serde_json::from_str(&text).expect("a state that can be read");
            self.disk = read.checked().expect("a sound state");
        }
        assert_eq!(self.disk, durable, "changed without being saved");
        for effect in out.effects {
            self.carry_out(effect);
        }
    }

    /// A verdict fits the machine at the moment it is written.
    fn check_verdict(&self, durable: &Durable) {
        let closing = |state: &Durable| {
            let attempt = state.attempt.clone()?;
            let Step::Closing { outcome } = &attempt.step else {
                return None;
            };
            let kind = outcome.kind;
            Some((attempt, kind))
        };
        let (Some((attempt, kind)), None) = (closing(durable), closing(&self.disk)) else {
            return;
        };
        if kind == OutcomeKind::Confirmed {
            assert_eq!(Some(&self.running), attempt.path.as_ref());
        } else if kind != OutcomeKind::Stuck && attempt.restores > 0 {
            let previous = attempt.previous.expect("it was recorded");
            assert_eq!(self.running, previous.running, "{kind}");
            assert_eq!(self.profile, previous.boot_default, "{kind}");
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Begin(job) => {
                if let Work::RunHook { hook, context } = &job.work {
                    let once = (context.lease, *hook);
                    assert!(!self.hooks.contains(&once), "{once:?} is begun twice");
                    self.hooks.push(once);
                }
                if let Work::MoveTraffic { call } = &job.work {
                    if let Some(before) = self.traffic.last().map(|call| &call.order) {
                        let order = &call.order;
                        assert!(order != before && !order.is_before(before), "{order:?}");
                    }
                    self.traffic.push(call.clone());
                    self.traffic_units.insert(job.step);
                }
                if let Work::Activate { .. } = &job.work {
                    self.activations += 1;
                }
                if let Some(attempt) = &self.disk.attempt
                    && attempt.job == Some(job.step)
                {
                    self.steps.push(attempt.step.word().to_owned());
                }
                self.open.push(job);
            }
            Effect::Attach(job) => self.open.push(job),
            Effect::Poll { call, .. } => self.polls.push(call),
            Effect::Renew {
                call,
                lease,
                silence,
                ..
            } => {
                self.silences.push(silence);
                let (sent, epoch) = (self.now, self.epoch);
                if self.script.hangs {
                    return;
                }
                if self.script.connected {
                    self.feed(Input::Renewed {
                        call,
                        sent,
                        lease,
                        epoch,
                        renewal: Renewal::Valid { valid_for: LEASE },
                    });
                } else {
                    self.feed(Input::CallFailed {
                        call,
                        reason: "no route to host".to_owned(),
                    });
                }
            }
            Effect::Report { call, result, .. } => {
                let earlier = self
                    .reports
                    .iter()
                    .find(|r| r.lease == result.lease && r.lease != LeaseId(0));
                if let Some(earlier) = earlier {
                    assert_eq!(earlier, result.as_ref(), "two results for one lease");
                }
                let (rollout, lease) = (result.rollout.clone(), result.lease);
                self.reports.push(*result);
                let epoch = self.epoch;
                if self.script.connected {
                    self.feed(Input::ReportAcknowledged {
                        call,
                        rollout,
                        lease,
                        epoch,
                    });
                }
            }
            Effect::Measure => {
                let facts = self.facts();
                self.feed(Input::Measured(facts));
            }
            Effect::Note(note) => self.notes.push(note),
            Effect::KeepRoots { .. } => {}
        }
    }

    /// Ends the oldest job under way; `false` when there is none.
    pub(crate) fn work_one(&mut self) -> bool {
        if self.open.is_empty() {
            return false;
        }
        let job = self.open.remove(0);
        let current = self.agent.durable().open_step() == Some(job.step);
        let is_apart = matches!(
            job.work,
            Work::CheckHealth { .. } | Work::CleanUp { .. } | Work::MoveTraffic { .. }
        );
        if !current && !is_apart {
            // Left by the agent: the shell has stopped it.
            return true;
        }
        let answer = self.perform(&job);
        let step = job.step;
        self.feed(Input::StepDone { step, answer });
        let still = self.agent.durable().attempt.as_ref().map(|a| &a.step);
        let asked = matches!(still, Some(Step::Rebooting | Step::RebootingBack));
        if let Work::Reboot { kind, .. } = job.work
            && asked
            && self.script.reboots
        {
            let booted = self.booted.clone();
            self.reboot_with(|world| {
                if kind == RebootKind::UserSpace {
                    world.booted = booted;
                }
            });
        }
        true
    }

    pub(crate) fn work_all(&mut self) {
        for _ in 0..1000 {
            if !self.work_one() {
                return;
            }
        }
        panic!("the work never ends: {:?}", self.steps);
    }

    /// Until this step has been begun and not ended; `false` when the attempt ends first.
    pub(crate) fn work_until(&mut self, wanted: &Step) -> bool {
        for _ in 0..1000 {
            let attempt = self.agent.durable().attempt.as_ref();
            match attempt {
                Some(attempt) if attempt.step == *wanted => return true,
                Some(_) => {}
                None => return false,
            }
            if !self.work_one() {
                self.pass_time();
            }
        }
        panic!("neither {wanted:?} nor an end: {:?}", self.steps);
    }

    /// To the next moment at which the agent wants to be called.
    pub(crate) fn pass_time(&mut self) {
        let next = self
            .agent
            .next_deadline()
            .expect("a started agent has a deadline");
        self.now = self.now.max(next);
        self.feed(Input::Tick);
    }

    /// The agent's process starts anew, and finds this of its open step.
    pub(crate) fn restart(&mut self, unit: UnitState) {
        self.open.retain(|_| false);
        self.agent = Agent::restore(self.limits.clone(), self.disk.clone());
        #[cfg(feature = "seeded-bugs")]
        if let Some(bug) = self.bug {
            self.agent = self.agent.clone().with_bug(bug);
        }
        let found = Found {
            facts: self.facts(),
            unit,
            dead_man_fired: self.dead_man_fired,
        };
        let out = self.agent.start(self.now, found);
        self.absorb(out);
    }

    /// The machine boots, asked to or not.
    pub(crate) fn reboot(&mut self) {
        self.reboot_with(|_| {});
    }

    /// The same, and something else about it.
    pub(crate) fn reboot_with(&mut self, more: impl FnOnce(&mut Self)) {
        self.boot += 1;
        self.now = Moment(20_000);
        let up = if self.script.boots.is_empty() {
            self.profile.clone()
        } else {
            path(self.script.boots.remove(0))
        };
        self.running = up.clone();
        self.booted = up;
        self.traffic_units.clear();
        more(self);
        self.dead_man_fired = false;
        self.restart(UnitState::Absent);
    }

    /// Until the attempt is over and its result is with the coordinator. Everything works from
    /// here on as the script says.
    pub(crate) fn finish(&mut self) -> Unreported {
        for _ in 0..2000 {
            if self.disk.attempt.is_none() && !self.reports.is_empty() {
                return self.check_end();
            }
            if !self.work_one() {
                self.pass_time();
            }
        }
        panic!("no end: {:#?} {:?}", self.disk.attempt, self.steps);
    }

    /// The result fits the machine as it is.
    fn check_end(&self) -> Unreported {
        let results: BTreeSet<LeaseId> = self.reports.iter().map(|r| r.lease).collect();
        assert_eq!(results.len(), 1, "one attempt, one result");
        let result = self.reports[0].clone();
        let (old, new) = (path("old"), path("new"));
        match result.outcome.kind {
            OutcomeKind::Confirmed => assert_eq!(self.running, new, "{result:?}"),
            OutcomeKind::RolledBack => {
                assert_eq!((&self.running, &self.profile), (&old, &old), "{result:?}");
            }
            OutcomeKind::RebootRequired => {
                assert_eq!((&self.running, &self.profile), (&old, &new), "{result:?}");
            }
            OutcomeKind::Refused | OutcomeKind::Abandoned => {
                if self.activations > 0 && self.script.others.is_none() {
                    assert_eq!((&self.running, &self.profile), (&old, &old), "{result:?}");
                }
            }
            OutcomeKind::Stuck => {}
        }
        result
    }

    pub(crate) fn ran(&self, hook: Hook) -> bool {
        self.hooks.iter().any(|(_, ran)| *ran == hook)
    }
}
