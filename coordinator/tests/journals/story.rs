//! A fleet as it is asked, and what is written down of it.

use std::{collections::BTreeMap, time::Duration};

use common::{
    Action, BootId, Epoch, GroupName, Health, HealthState, LeaseId, MachineName, MachineReport,
    Outcome, OutcomeKind, RolloutId, Staged, StorePath, Target, Timestamp, TrafficDone,
};
use coordinator::store::Record;
use coordinator_core::{
    Change, Fleet, FleetConfig, Reply, Request,
    analysis::{Finding, Measurement},
    identity::{Actor, Role},
    request::{
        AgentRequest, AskToReturn, Back, Directive, Grant, OperatorRequest, Selection, Wish,
    },
    traffic::Answered,
};
use serde_json::Value;

/// A fleet that has seen everything, and what of it was written down.
pub(super) struct Story {
    pub(super) fleet: Fleet,
    pub(super) now: Timestamp,
    pub(super) lines: Vec<String>,
    sequences: BTreeMap<MachineName, u64>,
}

pub(super) const OLD: &str = "/nix/store/0c5y5y5y5y5y5y5y5y5y5y5y5y5y5y5y-nixos-system-old";
pub(super) const NEW: &str = "/nix/store/1c5y5y5y5y5y5y5y5y5y5y5y5y5y5y5y-nixos-system-new";
pub(super) const NEXT: &str = "/nix/store/2c5y5y5y5y5y5y5y5y5y5y5y5y5y5y5y-nixos-system-next";

pub(super) fn path(text: &str) -> StorePath {
    text.parse().expect("a path")
}

pub(super) fn machine(name: &str) -> MachineName {
    name.parse().expect("a name")
}

impl Story {
    pub(super) fn new(begin: Timestamp) -> Self {
        let fleet = Fleet::new(begin);
        let snapshot = serde_json::to_string(fleet.facts()).expect("JSON");
        Self {
            fleet,
            now: begin,
            lines: vec![snapshot],
            sequences: BTreeMap::new(),
        }
    }

    /// The configuration in force, changed.
    pub(super) fn configure(&mut self, change: impl FnOnce(&mut Value)) {
        let config = self.fleet.facts().config.as_ref();
        let mut document = config.map_or(Value::Null, |config| config.document.clone());
        change(&mut document);
        let config = FleetConfig::parse(&document).expect("valid");
        self.operator(OperatorRequest::SetConfig {
            config: Box::new(config),
            if_revision: None,
            reason: "changed".into(),
        });
    }

    pub(super) fn ask(&mut self, request: Request) -> Reply {
        let decision = self.fleet.handle(self.now, request);
        self.write(decision.changes);
        for Measurement { id, .. } in decision.measure {
            self.ask(Request::Measured {
                id,
                finding: Finding::Pass,
                detail: "it is there".into(),
            });
        }
        decision.reply
    }

    pub(super) fn write(&mut self, changes: Vec<Change>) {
        if !changes.is_empty() {
            let record = Record {
                at: self.now,
                changes,
            };
            self.lines
                .push(serde_json::to_string(&record).expect("JSON"));
        }
    }

    /// Minute by minute: a coordinator that was not there at its deadlines lets no lease run out.
    pub(super) fn later(&mut self, minutes: u64) {
        for _ in 0..minutes {
            self.now = self.now + Duration::from_secs(60);
            self.ask(Request::Tick);
        }
    }

    pub(super) fn operator(&mut self, request: OperatorRequest) -> Reply {
        let actor = Actor {
            name: "ada".parse().expect("a name"),
            role: Role::Admin,
            serial: "4f".into(),
        };
        let reply = self.ask(Request::Operator { actor, request });
        assert!(!matches!(reply, Reply::Refused(_)), "{reply:?}");
        reply
    }

    pub(super) fn report(
        &mut self,
        name: &str,
        running: &str,
        staged: Option<&str>,
    ) -> Box<MachineReport> {
        let sequence = self.sequences.entry(machine(name)).or_default();
        *sequence += 1;
        let boot_id: BootId = "b1".parse().expect("a name");
        Box::new(MachineReport {
            agent_version: "0.1.0".into(),
            boot_id,
            sequence: *sequence,
            running: Some(path(running)),
            booted: Some(path(running)),
            profile: Some(path(running)),
            generation: 1,
            generations: vec![common::Generation {
                number: 1,
                path: path(running),
            }],
            health: Health {
                state: HealthState::Healthy,
                checks: vec![common::CheckResult {
                    name: "web".into(),
                    passed: true,
                    detail: "200".into(),
                }],
            },
            health_request: 0,
            epoch: Epoch(1),
            staged: staged.map(|staged| Staged {
                target: Target::Closure(path(staged)),
                path: path(staged),
                needs_reboot: true,
                reboot_reasons: vec!["kernel".into()],
                soft_reboot: false,
                changes: None,
            }),
            attempt: None,
            store_free_bytes: 1,
            last_lease: LeaseId(0),
            declined: None,
            cleaned_up: None,
            traffic: None,
        })
    }

    pub(super) fn poll_with(&mut self, name: &str, report: Box<MachineReport>) -> Directive {
        let request = Request::Agent {
            machine: machine(name),
            request: AgentRequest::Poll { report },
        };
        let reply = self.ask(request);
        let Reply::Directive(directive) = reply else {
            panic!("{reply:?}");
        };
        directive
    }

    pub(super) fn poll(&mut self, name: &str, running: &str, staged: Option<&str>) -> Directive {
        let report = self.report(name, running, staged);
        self.poll_with(name, report)
    }

    pub(super) fn granted(&mut self, name: &str, staged: &str) -> Grant {
        let directive = self.poll(name, OLD, Some(staged));
        let Directive::Proceed(grant) = directive else {
            panic!("{name}: {directive:?}");
        };
        grant
    }

    pub(super) fn result(
        &mut self,
        name: &str,
        grant: &Grant,
        outcome: OutcomeKind,
        running: &str,
    ) {
        let mut report = self.report(name, running, None);
        report.last_lease = grant.lease;
        self.ended(name, &grant.rollout.clone(), grant.lease, outcome, report);
    }

    pub(super) fn ended(
        &mut self,
        name: &str,
        rollout: &RolloutId,
        lease: LeaseId,
        outcome: OutcomeKind,
        report: Box<MachineReport>,
    ) {
        self.ask(Request::Agent {
            machine: machine(name),
            request: AgentRequest::Result {
                rollout: rollout.clone(),
                lease,
                outcome: Outcome {
                    kind: outcome,
                    reason: "as it went".into(),
                },
                took: Duration::from_secs(60),
                report,
            },
        });
    }

    pub(super) fn come(&mut self, name: &str, serial: &str, new: &str) {
        let reply = self.ask(Request::AskToReturn(AskToReturn {
            machine: machine(name),
            serial: serial.into(),
            key: format!("{:064x}", 7),
            from: "192.0.2.7".into(),
            new_serial: new.into(),
            expires_at: self.now + Duration::from_secs(3600),
        }));
        assert!(!matches!(reply, Reply::Refused(_)), "{reply:?}");
    }

    /// The move that is wanted comes to this.
    pub(super) fn moved(&mut self, result: Result<&str, &str>) {
        let wanted = self.fleet.wanted_moves().pop().expect("a move");
        self.ask(Request::TrafficMoved(Answered {
            group: wanted.group,
            number: wanted.number,
            attempt: wanted.attempt,
            result: result.map(str::to_owned).map_err(str::to_owned),
        }));
    }

    /// The script of a machine that is asked about its traffic comes to this.
    pub(super) fn takes_or_leaves(&mut self, name: &str, failure: Option<&str>) {
        let mut report = self.report(name, OLD, None);
        report.traffic = Some(TrafficDone::default());
        let directive = self.poll_with(name, report);
        let Directive::MoveTraffic(call) = directive else {
            panic!("{name}: {directive:?}");
        };
        let mut report = self.report(name, OLD, None);
        report.traffic = Some(TrafficDone {
            order: Some(call.order),
            failure: failure.map(str::to_owned),
        });
        self.poll_with(name, report);
    }

    pub(super) fn resume(&mut self) {
        self.operator(OperatorRequest::ResumeRollout {
            rollout: None,
            reason: "known".into(),
        });
    }

    pub(super) fn pin(&mut self, names: &[&str], target: &str) {
        let targets = names
            .iter()
            .map(|name| (machine(name), Target::Closure(path(target))))
            .collect();
        let reason = "new".to_owned();
        self.operator(OperatorRequest::PinTargets { targets, reason });
    }

    pub(super) fn execute(&mut self, names: &[&str]) -> RolloutId {
        let wish = Wish {
            selection: Selection {
                groups: Vec::<GroupName>::new(),
                machines: names.iter().map(|name| machine(name)).collect(),
            },
            action: Action::Update,
            parallel: None,
            back: Back::Previous,
            immediate: false,
            reason: "new".into(),
            retry_failed: false,
        };
        let if_plan = None;
        let reply = self.operator(OperatorRequest::Execute { wish, if_plan });
        let Reply::Executed {
            rollout: Some(rollout),
            ..
        } = reply
        else {
            panic!("{reply:?}");
        };
        rollout
    }
}
