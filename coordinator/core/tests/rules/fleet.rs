//! A small fleet for the rules: a clock that is moved by hand, and machines that answer.

use std::{collections::BTreeMap, time::Duration};

use common::{
    Action, AttemptStatus, BootId, CleanedUp, Epoch, Health, HealthState, LeaseId, MachineName,
    MachineReport, Outcome, OutcomeKind, RolloutId, Staged, StopMode, StorePath, Target, Timestamp,
    TrafficDone,
};
use coordinator_core::{
    Change, Decision, Fleet, FleetConfig, Reply, Request, WaitReason,
    analysis::Measurement,
    fleet::Facts,
    history::Entry,
    identity::{Actor, Role},
    invariants,
    machine::Heard,
    request::{
        AgentRequest, Back, Directive, Grant, OperatorRequest, Refusal, Renewal, Selection, Wish,
    },
    rollout::RolloutState,
};
use serde_json::{Value, json};

/// 2026-03-02T00:00:00Z, a Monday.
pub(crate) const MONDAY: Timestamp = Timestamp(1_772_409_600_000);

pub(crate) fn name(text: &str) -> MachineName {
    text.parse().expect(text)
}

pub(crate) fn path(version: &str) -> StorePath {
    format!("/nix/store/{}-nixos-{version}", "0".repeat(32))
        .parse()
        .expect(version)
}

pub(crate) fn minutes(n: u64) -> Duration {
    Duration::from_secs(n * 60)
}

pub(crate) struct World {
    pub(crate) fleet: Fleet,
    pub(crate) now: Timestamp,
    pub(crate) reports: BTreeMap<MachineName, MachineReport>,
    /// What is to be measured, all that was ever asked for and not taken out here.
    pub(crate) wanted: Vec<Measurement>,
    /// What was put into the history, all of it.
    pub(crate) history: Vec<Entry>,
    /// What the journal goes on from.
    began: Fleet,
    journal: Vec<Change>,
}

impl World {
    /// Machines of these groups, all heard of, all on version 1, all told to run version 2.
    pub(crate) fn new(groups: Value, settings: Value) -> Self {
        Self::of(&json!({ "updateGroups": groups, "updateSettings": settings }))
    }

    /// The machines of this configuration.
    pub(crate) fn of(document: &Value) -> Self {
        let config = FleetConfig::parse(document).expect("a valid configuration");
        let machines: Vec<MachineName> = config.group_of.keys().cloned().collect();
        let mut world = Self {
            fleet: Fleet::new(MONDAY),
            now: MONDAY,
            reports: BTreeMap::new(),
            wanted: Vec::new(),
            history: Vec::new(),
            began: Fleet::new(MONDAY),
            journal: Vec::new(),
        };
        let config = Box::new(config);
        world.ask(OperatorRequest::SetConfig {
            config,
            if_revision: None,
            reason: String::new(),
        });
        for machine in machines {
            world.reports.insert(machine.clone(), report());
            world.poll(machine.as_str());
        }
        world.pin_all("2");
        world
    }

    /// Everybody is to run this version.
    pub(crate) fn pin_all(&mut self, version: &str) {
        let machines = self.reports.keys();
        let targets = machines.map(|m| (m.clone(), Target::Closure(path(version))));
        let targets = targets.collect();
        self.ask(OperatorRequest::PinTargets {
            targets,
            reason: String::new(),
        });
    }

    pub(crate) fn handle(&mut self, request: Request) -> Decision {
        let before = self.fleet.clone();
        let decision = self.fleet.handle(self.now, request);
        self.journal.extend(decision.changes.iter().cloned());
        self.wanted.extend(decision.measure.iter().cloned());
        self.history.extend(decision.history.iter().cloned());
        let mut wrong = invariants::check(&self.fleet);
        wrong.extend(invariants::between(&before, &self.fleet));
        let mut state = before;
        for change in &decision.changes {
            wrong.extend(invariants::follows(&state, change));
            state.apply(change);
        }
        if self.fleet.next_deadline() <= self.now {
            wrong.push(invariants::Violation {
                invariant: 8,
                text: "a deadline lies in the past".to_owned(),
            });
        }
        let mut replayed = self.began.clone();
        self.journal
            .iter()
            .for_each(|change| replayed.apply(change));
        wrong.extend(invariants::replayed(&self.fleet, &replayed));
        assert!(wrong.is_empty(), "{wrong:#?}");
        decision
    }

    /// What is here becomes what a restore from a backup makes of it.
    pub(crate) fn restore(&mut self) {
        let before = self.fleet.clone();
        for change in self.fleet.restored(self.now) {
            self.fleet.apply(&change);
            self.journal.push(change);
        }
        let mut wrong = invariants::check(&self.fleet);
        wrong.extend(invariants::between(&before, &self.fleet));
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    /// What a machine will say of itself from now on.
    pub(crate) fn report(&mut self, machine: &str) -> &mut MachineReport {
        self.reports.get_mut(&name(machine)).expect(machine)
    }

    /// The fleet has become another one, by a process that has heard of nobody: what was decided before is
    /// not to be replayed.
    pub(crate) fn goes_on_from(&mut self, mut facts: Facts) {
        for machine in facts.machines.values_mut() {
            machine.heard = Heard::default();
        }
        self.fleet = Fleet::load(facts, self.now);
        self.began = self.fleet.clone();
        self.journal.clear();
    }

    pub(crate) fn ask(&mut self, request: OperatorRequest) -> Reply {
        let actor = Actor {
            name: "ada".parse().expect("name"),
            role: Role::Admin,
            serial: "1".to_owned(),
        };
        self.handle(Request::Operator { actor, request }).reply
    }

    #[track_caller]
    pub(crate) fn done(&mut self, request: OperatorRequest) {
        let reply = self.ask(request);
        assert!(!matches!(reply, Reply::Refused(_)), "{reply:?}");
    }

    /// The document that is in force.
    pub(crate) fn document(&self) -> Value {
        let config = self.fleet.facts().config.as_ref();
        config.expect("a configuration").document.clone()
    }

    /// This configuration is in force from now on.
    #[track_caller]
    pub(crate) fn configure(&mut self, document: &Value) {
        let config = FleetConfig::parse(document).expect("a valid configuration");
        self.done(OperatorRequest::SetConfig {
            config: Box::new(config),
            if_revision: None,
            reason: String::new(),
        });
    }

    /// The same with these schedules.
    #[track_caller]
    pub(crate) fn schedule(&mut self, schedules: Value) {
        let config = self.fleet.facts().config.clone().expect("configured");
        let mut document = config.document;
        document["schedules"] = schedules;
        self.configure(&document);
    }

    #[track_caller]
    pub(crate) fn refused(&mut self, request: OperatorRequest) -> Refusal {
        match self.ask(request) {
            Reply::Refused(refusal) => refusal,
            other => panic!("not refused: {other:?}"),
        }
    }

    pub(crate) fn execute(&mut self) -> RolloutId {
        self.execute_some(&[])
    }

    pub(crate) fn execute_some(&mut self, groups: &[&str]) -> RolloutId {
        match self.ask(OperatorRequest::Execute {
            wish: wish(groups),
            if_plan: None,
        }) {
            Reply::Executed {
                rollout: Some(rollout),
                ..
            } => rollout,
            other => panic!("not executed: {other:?}"),
        }
    }

    pub(crate) fn agent(&mut self, machine: &str, request: AgentRequest) -> Decision {
        self.handle(Request::Agent {
            machine: name(machine),
            request,
        })
    }

    /// Polls as the machine would, and stages when told to.
    pub(crate) fn poll(&mut self, machine: &str) -> Directive {
        for _ in 0..3 {
            let known = self.reports.get_mut(&name(machine)).expect(machine);
            known.sequence += 1;
            let report = Box::new(known.clone());
            match self.agent(machine, AgentRequest::Poll { report }).reply {
                Reply::Directive(Directive::Stage { target, .. }) => {
                    let path = target.closure().expect("a closure").clone();
                    let known = self.reports.get_mut(&name(machine)).expect(machine);
                    known.staged = Some(Staged {
                        target,
                        path,
                        needs_reboot: false,
                        reboot_reasons: Vec::new(),
                        soft_reboot: false,
                        changes: None,
                    });
                }
                Reply::Directive(directive) => return directive,
                other => panic!("{other:?}"),
            }
        }
        panic!("{machine} is told to stage again and again")
    }

    /// Polls as a machine would that obtains nothing.
    pub(crate) fn poll_without_staging(&mut self, machine: &str) -> Reply {
        let known = self.reports.get_mut(&name(machine)).expect(machine);
        known.sequence += 1;
        let report = Box::new(known.clone());
        self.agent(machine, AgentRequest::Poll { report }).reply
    }

    /// Time passes in which this machine polls and obtains nothing; the others are heard as well.
    pub(crate) fn pass_staging_nothing(&mut self, duration: Duration, machine: &str) {
        let end = self.now + duration;
        while self.now < end {
            self.poll_without_staging(machine);
            self.pass_without(minutes(5), &[machine]);
        }
        self.poll_without_staging(machine);
    }

    #[track_caller]
    pub(crate) fn go(&mut self, machine: &str) -> Grant {
        match self.poll(machine) {
            Directive::Proceed(grant) => grant,
            other => panic!("{machine} does not go: {other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn wait(&mut self, machine: &str) -> WaitReason {
        match self.poll(machine) {
            Directive::Wait(reason) => reason,
            other => panic!("{machine} does not wait: {other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn waits_for(&mut self, machine: &str, kind: &str) {
        assert_eq!(self.wait(machine).kind(), kind);
    }

    pub(crate) fn renew(&mut self, machine: &str, grant: &Grant) -> Renewal {
        let attempt = Some(AttemptStatus {
            rollout: Some(grant.rollout.clone()),
            lease: grant.lease,
            step: "activating".to_owned(),
            past_no_return: true,
        });
        let (lease, epoch) = (grant.lease, grant.epoch);
        let silence = Duration::ZERO;
        match self
            .agent(
                machine,
                AgentRequest::Renew {
                    lease,
                    epoch,
                    attempt,
                    silence,
                },
            )
            .reply
        {
            Reply::Renewal(renewal) => renewal,
            other => panic!("{other:?}"),
        }
    }

    /// Ends the attempt in this way.
    pub(crate) fn end(&mut self, machine: &str, grant: &Grant, kind: OutcomeKind) {
        let _wanted = self.end_measuring(machine, grant, kind);
    }

    /// As [`World::end`]; what is to be measured then.
    pub(crate) fn end_measuring(
        &mut self,
        machine: &str,
        grant: &Grant,
        kind: OutcomeKind,
    ) -> Vec<Measurement> {
        let report = self.reports.get_mut(&name(machine)).expect(machine);
        report.sequence += 1;
        report.last_lease = grant.lease;
        if kind == OutcomeKind::Confirmed {
            report.running = grant.target.closure().cloned();
            report.profile.clone_from(&report.running);
        }
        if kind == OutcomeKind::Stuck {
            report.health.state = HealthState::Unhealthy;
        }
        let report = Box::new(report.clone());
        let outcome = Outcome {
            kind,
            reason: "as told".to_owned(),
        };
        let (rollout, lease) = (grant.rollout.clone(), grant.lease);
        let took = minutes(1);
        let ended = self.agent(
            machine,
            AgentRequest::Result {
                rollout,
                lease,
                outcome,
                took,
                report,
            },
        );
        ended.measure
    }

    /// Takes its turn and comes out well.
    #[track_caller]
    pub(crate) fn update(&mut self, machine: &str) {
        let grant = self.go(machine);
        self.end(machine, &grant, OutcomeKind::Confirmed);
    }

    /// Takes its turn and goes back by itself.
    #[track_caller]
    pub(crate) fn fails(&mut self, machine: &str) {
        let grant = self.go(machine);
        self.end(machine, &grant, OutcomeKind::RolledBack);
    }

    /// A poll would be a grant: only a sign of life, which asks for nothing.
    pub(crate) fn sign_of_life(&mut self, machine: &str) -> Decision {
        let sign = AgentRequest::Renew {
            lease: LeaseId::default(),
            epoch: Epoch::FIRST,
            attempt: None,
            silence: Duration::ZERO,
        };
        self.agent(machine, sign)
    }

    /// Time passes, and the machines keep polling every five minutes as they do.
    pub(crate) fn pass(&mut self, duration: Duration) -> Vec<Change> {
        self.pass_without(duration, &[])
    }

    /// Time passes; these machines are silent. What the clock and the others' signs of life led to.
    pub(crate) fn pass_without(&mut self, duration: Duration, silent: &[&str]) -> Vec<Change> {
        let mut changes = Vec::new();
        let end = self.now + duration;
        while self.now < end {
            let due = self
                .fleet
                .next_deadline()
                .max(self.now + Duration::from_secs(1));
            self.now = (self.now + minutes(5)).min(end).min(due);
            changes.extend(self.handle(Request::Tick).changes);
            for machine in self.reports.keys().cloned().collect::<Vec<_>>() {
                if silent.contains(&machine.as_str()) || self.fleet.lease_of(&machine).is_some() {
                    continue;
                }
                changes.extend(self.sign_of_life(machine.as_str()).changes);
                if self.fleet.permission(&machine, self.now).is_err() {
                    self.poll(machine.as_str());
                }
            }
        }
        changes
    }

    pub(crate) fn health(&mut self, machine: &str, state: HealthState) {
        self.reports
            .get_mut(&name(machine))
            .expect(machine)
            .health
            .state = state;
        self.poll(machine);
    }

    pub(crate) fn state(&self, rollout: &RolloutId) -> &RolloutState {
        &self.fleet.rollout(rollout).expect("kept").state
    }

    pub(crate) fn place(&self, rollout: &RolloutId, machine: &str) -> &'static str {
        let rollout = self.fleet.rollout(rollout).expect("kept");
        let place = rollout
            .places()
            .find(|place| place.machine.as_str() == machine);
        place.expect(machine).state.word()
    }
}

fn report() -> MachineReport {
    MachineReport {
        agent_version: "1".to_owned(),
        boot_id: "boot-1".parse::<BootId>().expect("boot"),
        sequence: 0,
        running: Some(path("1")),
        booted: Some(path("1")),
        profile: Some(path("1")),
        generation: 1,
        generations: Vec::new(),
        health: Health {
            state: HealthState::Healthy,
            checks: Vec::new(),
        },
        health_request: 0,
        epoch: Epoch::FIRST,
        staged: None,
        attempt: None,
        store_free_bytes: 1 << 30,
        last_lease: LeaseId::default(),
        declined: None,
        cleaned_up: Some(CleanedUp::default()),
        traffic: Some(TrafficDone::default()),
    }
}

pub(crate) fn wish(groups: &[&str]) -> Wish {
    Wish {
        selection: Selection {
            groups: groups
                .iter()
                .map(|group| group.parse().expect(group))
                .collect(),
            machines: Vec::new(),
        },
        action: Action::Update,
        parallel: None,
        back: Back::Previous,
        immediate: false,
        retry_failed: false,
        reason: "test".to_owned(),
    }
}

pub(crate) fn stop(groups: &[&str]) -> OperatorRequest {
    OperatorRequest::EmergencyStop {
        groups: groups
            .iter()
            .map(|group| group.parse().expect(group))
            .collect(),
        mode: StopMode::Finish,
        reason: "smoke".to_owned(),
    }
}
