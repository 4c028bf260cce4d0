//! `bench decide`: the coordinator's core alone. How long does it take to decide a poll, a grant, a
//! result and who is next, with how many machines? A full scan of the fleet is timed beside it.

use std::time::{Duration, Instant};

use common::{
    Action, BootId, Epoch, Health, HealthState, LeaseId, MachineName, MachineReport, Outcome,
    OutcomeKind, RolloutId, Staged, StorePath, Target, Timestamp,
};
use coordinator_core::{
    Fleet, FleetConfig, Reply, Request,
    identity::{Actor, Role},
    request::{AgentRequest, Directive, Grant, OperatorRequest, Selection, Wish},
};
use serde_json::{Map, Value, json};

use super::figures::Figures;

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Machines in the fleet.
    pub machines: usize,
    /// Groups they are spread over.
    pub groups: usize,
    /// Machines that may be away at once.
    pub away: usize,
}

/// Why it could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The fleet that was made is not a valid one.
    #[error("the fleet to measure is not valid")]
    Fleet(#[from] coordinator_core::config::Faults),
    /// A name or path that was made is none.
    #[error("cannot make {0}")]
    Name(String),
    /// The core did not answer as expected.
    #[error("unexpected answer while {doing}: {answer}")]
    Answer {
        /// What was being done.
        doing: &'static str,
        /// The answer.
        answer: String,
    },
}

/// Runs it.
///
/// # Errors
/// When the core does not do what the measurement needs.
pub fn run(size: Size) -> Result<Figures, Error> {
    let mut bench = Bench::new(size)?;
    let mut figures = Figures::new("decide");
    #[allow(clippy::cast_precision_loss, reason = "counts are small")]
    figures.add("machines", size.machines as f64, "");

    let begin = Instant::now();
    bench.execute()?;
    figures.add(
        "plan and create a rollout",
        begin.elapsed().as_secs_f64() * 1e3,
        "ms",
    );

    let machines: Vec<MachineName> = bench.machines.clone();
    let mut idle = Vec::new();
    for machine in machines.iter().take(1000) {
        let begin = Instant::now();
        bench.poll(machine);
        idle.push(begin.elapsed());
    }
    figures.add_spread("first poll: a grant or a wait", idle);

    let mut waiting = Vec::new();
    for machine in machines.iter().rev().take(1000) {
        bench.poll(machine);
        let begin = Instant::now();
        bench.poll(machine);
        waiting.push(begin.elapsed());
    }
    figures.add_spread("poll that changes nothing", waiting);

    let (results, grants, next) = bench.hand_over(1000)?;
    figures.add_spread("result: the slot is freed and the next found", results);
    figures.add_spread("grant to that one", grants);
    #[allow(clippy::cast_precision_loss, reason = "counts are small")]
    figures.add("hand-overs that woke exactly one", next as f64, "");

    let scan = Instant::now();
    let count = machines
        .iter()
        .filter(|machine| bench.fleet.permission(machine, bench.now).is_ok())
        .count();
    let scan = scan.elapsed();
    figures.add(
        "for comparison: asking every machine",
        scan.as_secs_f64() * 1e6,
        "us",
    );
    #[allow(clippy::cast_precision_loss, reason = "counts are small")]
    figures.add("machines that could go", count as f64, "");
    Ok(figures)
}

struct Bench {
    fleet: Fleet,
    machines: Vec<MachineName>,
    grants: Vec<(MachineName, Grant)>,
    report: MachineReport,
    sequence: u64,
    now: Timestamp,
}

fn store_path(version: &str) -> Result<StorePath, Error> {
    let text = format!("/nix/store/{}-system-{version}", "0".repeat(32));
    text.parse().map_err(|_| Error::Name(text))
}

impl Bench {
    fn new(size: Size) -> Result<Self, Error> {
        let now = Timestamp::from_secs(1_800_000_000);
        let mut groups = Map::new();
        let per_group = size.machines.div_ceil(size.groups);
        for group in 0..size.groups {
            let first = group * per_group;
            let last = (first + per_group).min(size.machines);
            let names: Vec<String> = (first..last).map(|n| format!("m{n}")).collect();
            let policy = json!({ "machines": names, "updatePolicy": "aggressive" });
            groups.insert(format!("g{group}"), policy);
        }
        let settings = json!({ "maxParallel": size.away, "offlineAfter": "10h" });
        let document = json!({ "updateGroups": Value::Object(groups), "updateSettings": settings });
        let config = FleetConfig::parse(&document)?;
        let machines: Vec<MachineName> = config.group_of.keys().cloned().collect();
        let boot_id = "boot"
            .parse::<BootId>()
            .map_err(|_| Error::Name("boot".to_owned()))?;
        let target = Target::Closure(store_path("2")?);
        let report = MachineReport {
            agent_version: "1".to_owned(),
            boot_id,
            sequence: 0,
            running: Some(store_path("1")?),
            booted: Some(store_path("1")?),
            profile: Some(store_path("1")?),
            generation: 1,
            generations: Vec::new(),
            health: Health {
                state: HealthState::Healthy,
                checks: Vec::new(),
            },
            health_request: 0,
            epoch: Epoch::FIRST,
            staged: Some(Staged {
                target: target.clone(),
                path: store_path("2")?,
                needs_reboot: false,
                reboot_reasons: Vec::new(),
            }),
            attempt: None,
            store_free_bytes: 0,
            last_lease: LeaseId::default(),
        };
        let fleet = Fleet::new(now);
        let mut bench = Self {
            fleet,
            machines,
            grants: Vec::new(),
            report,
            sequence: 0,
            now,
        };
        let config = Box::new(config);
        bench.operator(OperatorRequest::SetConfig {
            config,
            if_revision: None,
            reason: String::new(),
        })?;
        for machine in bench.machines.clone() {
            bench.poll(&machine);
        }
        let targets = bench
            .machines
            .iter()
            .map(|m| (m.clone(), target.clone()))
            .collect();
        bench.operator(OperatorRequest::PinTargets {
            targets,
            reason: String::new(),
        })?;
        Ok(bench)
    }

    fn operator(&mut self, request: OperatorRequest) -> Result<Reply, Error> {
        let name = "bench"
            .parse()
            .map_err(|_| Error::Name("bench".to_owned()))?;
        let actor = Actor {
            name,
            role: Role::Admin,
            serial: String::new(),
        };
        let reply = self
            .fleet
            .handle(self.now, Request::Operator { actor, request })
            .reply;
        match reply {
            Reply::Refused(refusal) => Err(Error::Answer {
                doing: "asking",
                answer: refusal.to_string(),
            }),
            Reply::Done(_)
            | Reply::Directive(_)
            | Reply::Renewal(_)
            | Reply::Acknowledged
            | Reply::Plan(_)
            | Reply::Executed { .. }
            | Reply::Pinned(_)
            | Reply::Stopped(_)
            | Reply::HealthCheck { .. }
            | Reply::Config { .. }
            | Reply::Token(_)
            | Reply::Certify(_)
            | Reply::Notify(_) => Ok(reply),
        }
    }

    fn execute(&mut self) -> Result<(), Error> {
        let wish = Wish {
            selection: Selection::default(),
            action: Action::Update,
            parallel: None,
            to_generation: None,
            immediate: false,
            retry_failed: false,
            reason: String::new(),
        };
        self.operator(OperatorRequest::Execute {
            wish,
            if_plan: None,
        })
        .map(|_| ())
    }

    /// A poll; a grant is kept.
    fn poll(&mut self, machine: &MachineName) {
        self.sequence += 1;
        let report = Box::new(MachineReport {
            sequence: self.sequence,
            ..self.report.clone()
        });
        let request = Request::Agent {
            machine: machine.clone(),
            request: AgentRequest::Poll { report },
        };
        let decision = self.fleet.handle(self.now, request);
        if let Reply::Directive(Directive::Proceed(grant)) = decision.reply {
            self.grants.push((machine.clone(), grant));
        }
    }

    /// Ends attempts and gives their slots to whom the core wakes: durations of the results, of the
    /// grants, and how many results woke exactly one.
    fn hand_over(&mut self, count: usize) -> Result<(Vec<Duration>, Vec<Duration>, usize), Error> {
        let (mut results, mut grants, mut woke_one) = (Vec::new(), Vec::new(), 0);
        for _ in 0..count {
            let Some((machine, grant)) = self.grants.pop() else {
                break;
            };
            self.sequence += 1;
            let report = Box::new(MachineReport {
                sequence: self.sequence,
                running: Some(store_path("2")?),
                last_lease: grant.lease,
                ..self.report.clone()
            });
            let request = Request::Agent {
                machine,
                request: result_of(grant.rollout, grant.lease, report),
            };
            let begin = Instant::now();
            let decision = self.fleet.handle(self.now, request);
            results.push(begin.elapsed());
            woke_one += usize::from(decision.wake.len() == 1);
            if let Some(next) = decision.wake.first() {
                let begin = Instant::now();
                self.poll(next);
                grants.push(begin.elapsed());
            }
        }
        Ok((results, grants, woke_one))
    }
}

fn result_of(rollout: RolloutId, lease: LeaseId, report: Box<MachineReport>) -> AgentRequest {
    let outcome = Outcome {
        kind: OutcomeKind::Confirmed,
        reason: String::new(),
    };
    AgentRequest::Result {
        rollout,
        lease,
        outcome,
        took: Duration::from_secs(60),
        report,
    }
}
