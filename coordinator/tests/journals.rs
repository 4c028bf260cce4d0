//! Journals of earlier versions load for ever.
//!
//! Each file in `journals/` is a snapshot and the records after it, one JSON document a line, as
//! `lab-coordinator journal dump` prints them. A file that is there is never written again; when
//! facts are added, `LAB_WRITE_JOURNAL=v2 cargo test -p coordinator --test journals` writes a new
//! one beside it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    time::Duration,
};

use common::{
    Action, AttemptStatus, BootId, Epoch, GroupName, Health, HealthState, LeaseId, MachineName,
    MachineReport, Outcome, OutcomeKind, RolloutId, Staged, StopMode, StorePath, Target, Timestamp,
};
use coordinator::store::{Batch, Record, Store as _, memory::MemoryStore};
use coordinator_core::{
    Change, Fleet, FleetConfig, Reply, Request,
    analysis::{Finding, Measurement},
    fleet::Facts,
    identity::{Actor, Holder, Role},
    request::{
        AgentRequest, AskToReturn, Directive, Grant, OperatorRequest, Selection, Which, Wish,
    },
    rollout::RolloutState,
};
use serde_json::{Value, json};

/// Every kind of fact that the journals together must have.
const FACTS: [&str; 38] = [
    "config-set",
    "reported",
    "pinned",
    "rollout-created",
    "approval-asked",
    "approved",
    "wave-opened",
    "wave-soaking",
    "wave-closed",
    "group-finished",
    "lease-granted",
    "lease-overdue",
    "lease-revived",
    "lease-ended",
    "lease-lost",
    "recovered",
    "arrived",
    "declined",
    "skipped",
    "rollout-paused",
    "rollout-resumed",
    "rollout-aborted",
    "rollout-ended",
    "stopped",
    "stop-lifted",
    "restored",
    "forgotten",
    "token-created",
    "token-revoked",
    "certificate-issued",
    "certificate-revoked",
    "identities-forgotten",
    "return-asked",
    "return-approved",
    "return-answered",
    "return-withdrawn",
    "analysis-began",
    "measured",
];

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/journals")
}

fn now() -> Timestamp {
    Timestamp::from_secs(1_800_000_000)
}

#[test]
fn journals_of_earlier_versions_load() {
    if let Ok(name) = std::env::var("LAB_WRITE_JOURNAL") {
        let file = directory().join(format!("{name}.jsonl"));
        assert!(!file.exists(), "{} is there already", file.display());
        fs::write(file, life_of_a_fleet()).expect("written");
    }
    let mut found = BTreeSet::new();
    for file in fs::read_dir(directory()).expect("journals") {
        let path = file.expect("readable").path();
        let text = fs::read_to_string(&path).expect("readable");
        let mut lines = text.lines();
        let snapshot: Facts =
            serde_json::from_str(lines.next().expect("a snapshot")).expect("facts");
        let mut store = MemoryStore::new();
        store.snapshot(&snapshot).expect("kept");
        for line in lines {
            let record: Record = serde_json::from_str(line).expect(line);
            let raw: Value = serde_json::from_str(line).expect("JSON");
            let facts = raw["changes"].as_array().expect("facts");
            found.extend(
                facts
                    .iter()
                    .filter_map(|fact| fact["fact"].as_str().map(str::to_owned)),
            );
            let batch = Batch {
                changes: record.changes,
                ..Batch::at(record.at)
            };
            store.append(&batch).expect("kept");
        }
        let fleet = store.load().expect("loaded").replay(now());
        let fleet = fleet.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(!fleet.facts().registry.certificates.is_empty());
    }
    let missing: Vec<&&str> = FACTS
        .iter()
        .filter(|fact| !found.contains(**fact))
        .collect();
    assert!(missing.is_empty(), "no journal has {missing:?}");
}

/// A fleet that has seen everything, and what of it was written down.
struct Story {
    fleet: Fleet,
    now: Timestamp,
    lines: Vec<String>,
    sequences: BTreeMap<MachineName, u64>,
}

const OLD: &str = "/nix/store/0c5y5y5y5y5y5y5y5y5y5y5y5y5y5y5y-nixos-system-old";
const NEW: &str = "/nix/store/1c5y5y5y5y5y5y5y5y5y5y5y5y5y5y5y-nixos-system-new";
const NEXT: &str = "/nix/store/2c5y5y5y5y5y5y5y5y5y5y5y5y5y5y5y-nixos-system-next";

fn path(text: &str) -> StorePath {
    text.parse().expect("a path")
}

fn machine(name: &str) -> MachineName {
    name.parse().expect("a name")
}

impl Story {
    fn ask(&mut self, request: Request) -> Reply {
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

    fn write(&mut self, changes: Vec<Change>) {
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
    fn later(&mut self, minutes: u64) {
        for _ in 0..minutes {
            self.now = self.now + Duration::from_secs(60);
            self.ask(Request::Tick);
        }
    }

    fn operator(&mut self, request: OperatorRequest) -> Reply {
        let actor = Actor {
            name: "ada".parse().expect("a name"),
            role: Role::Admin,
            serial: "4f".into(),
        };
        let reply = self.ask(Request::Operator { actor, request });
        assert!(!matches!(reply, Reply::Refused(_)), "{reply:?}");
        reply
    }

    fn report(&mut self, name: &str, running: &str, staged: Option<&str>) -> Box<MachineReport> {
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
                changes: None,
            }),
            attempt: None,
            store_free_bytes: 1,
            last_lease: LeaseId(0),
            declined: None,
        })
    }

    fn poll_with(&mut self, name: &str, report: Box<MachineReport>) -> Directive {
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

    fn poll(&mut self, name: &str, running: &str, staged: Option<&str>) -> Directive {
        let report = self.report(name, running, staged);
        self.poll_with(name, report)
    }

    fn granted(&mut self, name: &str, staged: &str) -> Grant {
        let directive = self.poll(name, OLD, Some(staged));
        let Directive::Proceed(grant) = directive else {
            panic!("{name}: {directive:?}");
        };
        grant
    }

    fn result(&mut self, name: &str, grant: &Grant, outcome: OutcomeKind, running: &str) {
        let mut report = self.report(name, running, None);
        report.last_lease = grant.lease;
        self.ended(name, &grant.rollout.clone(), grant.lease, outcome, report);
    }

    fn ended(
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

    fn come(&mut self, name: &str, serial: &str, new: &str) {
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

    fn resume(&mut self) {
        self.operator(OperatorRequest::ResumeRollout {
            rollout: None,
            reason: "known".into(),
        });
    }

    fn pin(&mut self, names: &[&str], target: &str) {
        let targets = names
            .iter()
            .map(|name| (machine(name), Target::Closure(path(target))))
            .collect();
        let reason = "new".to_owned();
        self.operator(OperatorRequest::PinTargets { targets, reason });
    }

    fn execute(&mut self, names: &[&str]) -> RolloutId {
        let wish = Wish {
            selection: Selection {
                groups: Vec::<GroupName>::new(),
                machines: names.iter().map(|name| machine(name)).collect(),
            },
            action: Action::Update,
            parallel: None,
            to_generation: None,
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

fn life_of_a_fleet() -> String {
    let begin = Timestamp::from_secs(1_790_000_000);
    let fleet = Fleet::new(begin);
    let snapshot = serde_json::to_string(fleet.facts()).expect("JSON");
    let mut story = Story {
        fleet,
        now: begin,
        lines: vec![snapshot],
        sequences: BTreeMap::new(),
    };
    identities(&mut story);
    first_rollout(&mut story);
    later_rollouts(&mut story);
    much_later(&mut story);
    returns(&mut story);
    gates(&mut story);
    let (epoch, next_lease) = (Epoch(1002), LeaseId(1_000_000));
    let restored = Change::Restored { epoch, next_lease };
    story.fleet.apply(&restored);
    story.write(vec![restored]);
    story.lines.join("\n") + "\n"
}

fn identities(story: &mut Story) {
    let document = json!({
        "updateGroups": {
            "dev": {
                "machines": ["dev-01", "dev-02"], "updatePolicy": "aggressive",
                "allowReboot": true
            },
            "critical": {
                "machines": ["db-01", "db-02", "db-03"], "updatePolicy": "manual-approval",
                "dependencies": ["dev"], "maintenanceWindow": "00:00-23:59",
                "canary": 1
            }
        },
        "updateSettings": { "maxParallel": 4, "staggerDelay": 0, "timezone": "Europe/Berlin" }
    });
    story.operator(OperatorRequest::SetConfig {
        config: Box::new(FleetConfig::parse(&document).expect("valid")),
        if_revision: None,
        reason: "first".into(),
    });
    let end = story.now + Duration::from_secs(3600);
    let ada = Holder::Operator {
        name: "ada".parse().expect("a name"),
        role: Role::Admin,
    };
    story.ask(Request::Bootstrap {
        holder: ada,
        serial: "4f".into(),
        expires_at: end,
    });
    for (number, name) in [(1, "dev-01"), (2, "dev-02"), (3, "db-01")] {
        story.operator(OperatorRequest::CreateToken {
            secret_hash: format!("{number:064x}"),
            holder: Holder::Machine(machine(name)),
            expires_at: end,
        });
    }
    for number in [1, 2] {
        story.ask(Request::Enrol {
            secret_hash: format!("{number:064x}"),
            from: "192.0.2.7".into(),
            serial: format!("5{number}"),
            expires_at: end,
        });
    }
    story.later(20);
    story.ask(Request::RenewCertificate {
        serial: "51".into(),
        new_serial: "53".into(),
        expires_at: end,
    });
    let (id, reason) = ("t3".to_owned(), "lost".to_owned());
    story.operator(OperatorRequest::RevokeToken { id, reason });
    story.operator(OperatorRequest::RevokeIdentity {
        which: Which::Serial("52".into()),
        reason: "stolen".into(),
    });
}

/// One machine returns with a certificate that has ended; another asks, and a restore makes that void.
fn returns(story: &mut Story) {
    story.come("dev-01", "53", "61");
    story.operator(OperatorRequest::ApproveReturn {
        machine: machine("dev-01"),
        key: None,
        reason: "it was in the workshop".into(),
    });
    story.come("dev-01", "53", "62");
    story.later(30 * 24 * 60);
    story.come("dev-01", "62", "63");
    let withdrawn = Change::ReturnWithdrawn {
        machine: machine("dev-01"),
    };
    story.fleet.apply(&withdrawn);
    story.write(vec![withdrawn]);
}

/// Tokens, and a certificate that was replaced, are forgotten when there is a new one.
fn much_later(story: &mut Story) {
    story.later(8 * 24 * 60);
    story.operator(OperatorRequest::CreateToken {
        secret_hash: format!("{:064x}", 4),
        holder: Holder::Machine(machine("db-02")),
        expires_at: story.now + Duration::from_secs(3600),
    });
}

/// A wave that closes once its gates have passed.
fn gates(story: &mut Story) {
    let config = story.fleet.facts().config.as_ref();
    let mut document = config.expect("a configuration").document.clone();
    document["analysis"] = json!({
        "port": { "tcp": "web-01.example.org:443", "passes": 2 },
        "rate": {
            "promql": "up", "prometheus": "http://prometheus.example.org:9090",
            "compare": "not-lower", "window": "5m",
        },
        "checks": { "healthCheck": "web", "passes": 1 },
    });
    document["updateGroups"]["web"] = json!({
        "machines": ["web-01"], "updatePolicy": "aggressive", "gates": ["port", "rate", "checks"],
    });
    let config = FleetConfig::parse(&document).expect("valid");
    story.operator(OperatorRequest::SetConfig {
        config: Box::new(config),
        if_revision: None,
        reason: "gates".into(),
    });
    story.poll("web-01", OLD, None);
    story.pin(&["web-01"], NEW);
    story.poll("web-01", OLD, Some(NEW));
    let rollout = story.execute(&["web-01"]);
    let grant = story.granted("web-01", NEW);
    story.result("web-01", &grant, OutcomeKind::Confirmed, NEW);
    story.later(6);
    let rollout = story.fleet.rollout(&rollout).expect("kept");
    assert_eq!(rollout.state, RolloutState::Finished);
}

/// Silence, a late return, a failure, approval, a canary that goes back, a refusal.
fn first_rollout(story: &mut Story) {
    const ALL: [&str; 5] = ["dev-01", "dev-02", "db-01", "db-02", "db-03"];
    for name in ALL {
        story.poll(name, OLD, None);
    }
    story.pin(&ALL, NEW);
    for name in ALL {
        story.poll(name, OLD, Some(NEW));
    }
    let rollout = story.execute(&[]);
    let first = story.granted("dev-01", NEW);
    let second = story.granted("dev-02", NEW);
    story.later(16);
    // The first is heard of again, at it; the second never is.
    let mut report = story.report("dev-01", OLD, Some(NEW));
    report.attempt = Some(AttemptStatus {
        rollout: Some(rollout.clone()),
        lease: first.lease,
        step: "activating".into(),
        past_no_return: true,
    });
    story.poll_with("dev-01", report);
    story.result("dev-01", &first, OutcomeKind::Confirmed, NEW);
    // Both were silent, which was more than may fail.
    story.resume();
    story.later(16);
    let mut report = story.report("dev-02", OLD, Some(NEW));
    report.last_lease = second.lease;
    story.poll_with("dev-02", report);
    for name in ["db-01", "db-02", "db-03"] {
        story.poll(name, OLD, Some(NEW));
    }
    story.later(1);
    story.operator(OperatorRequest::Approve {
        rollout: None,
        group: None,
        reject: false,
        comment: String::new(),
    });
    let report = story.report("db-02", OLD, None);
    story.ended("db-02", &rollout, LeaseId(0), OutcomeKind::Refused, report);
    story.resume();
    let canary = story.granted("db-01", NEW);
    story.result("db-01", &canary, OutcomeKind::RolledBack, OLD);
    story.resume();
    story.later(11);
    let last = story.granted("db-03", NEW);
    story.result("db-03", &last, OutcomeKind::Confirmed, NEW);
}

/// A machine that is there already, one that is taken over, an end by hand, a stop.
fn later_rollouts(story: &mut Story) {
    let both = ["dev-01", "dev-02"];
    story.pin(&both, NEXT);
    let second = story.execute(&both);
    story.poll("dev-01", NEXT, None);
    story.operator(OperatorRequest::Pause {
        rollout: Some(second.clone()),
        reason: "lunch".into(),
    });
    let third = story.execute(&["dev-02"]);
    story.operator(OperatorRequest::Abort {
        rollout: Some(third),
        reason: "enough".into(),
    });
    story.operator(OperatorRequest::EmergencyStop {
        groups: vec!["dev".parse().expect("a name")],
        mode: StopMode::Rollback,
        reason: "smoke".into(),
    });
    let reason = "a toaster".to_owned();
    story.operator(OperatorRequest::Resume { reason });
    story.operator(OperatorRequest::ForgetMachine {
        machine: machine("dev-02"),
        reason: "gone".into(),
    });
}
