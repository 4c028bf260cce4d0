//! The coordinator's core alone, with a fleet in memory: for measurements of decisions and of
//! rollouts without anything around them.

use std::time::Duration;

use common::{
    Action, BootId, Epoch, Health, HealthState, LeaseId, MachineName, MachineReport, Outcome,
    OutcomeKind, Staged, StorePath, Target, Timestamp,
};
use coordinator_core::{
    Fleet, FleetConfig, Reply, Request,
    identity::{Actor, Role},
    request::{AgentRequest, Back, Directive, Grant, OperatorRequest, Selection, Wish},
};
use serde_json::{Map, Value, json};

use super::{Error, decide::Size};

/// A coordinator's core with a fleet of healthy machines that have the target staged.
pub(super) struct Core {
    pub(super) fleet: Fleet,
    /// In the order in which they are to go.
    pub(super) machines: Vec<MachineName>,
    report: MachineReport,
    sequence: u64,
    pub(super) now: Timestamp,
}

fn store_path(version: &str) -> Result<StorePath, Error> {
    let text = format!("/nix/store/{}-system-{version}", "0".repeat(32));
    text.parse().map_err(|_| Error::Name(text))
}

impl Core {
    /// Everybody has reported and has its target staged; nothing is rolled out.
    pub(super) fn new(size: Size) -> Result<Self, Error> {
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
        let settings =
            json!({ "maxParallel": size.away, "offlineAfter": "100h", "leaseTime": "6h" });
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
                soft_reboot: false,
                changes: None,
            }),
            attempt: None,
            store_free_bytes: 0,
            last_lease: LeaseId::default(),
            declined: None,
            cleaned_up: None,
            traffic: None,
        };
        let fleet = Fleet::new(now);
        let mut core = Self {
            fleet,
            machines,
            report,
            sequence: 0,
            now,
        };
        let config = Box::new(config);
        core.operator(OperatorRequest::SetConfig {
            config,
            if_revision: None,
            reason: String::new(),
        })?;
        for machine in core.machines.clone() {
            core.poll(&machine);
        }
        let targets = core
            .machines
            .iter()
            .map(|m| (m.clone(), target.clone()))
            .collect();
        core.operator(OperatorRequest::PinTargets {
            targets,
            reason: String::new(),
        })?;
        Ok(core)
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
        match reply.refusal() {
            Some(refusal) => Err(Error::Answer {
                doing: "asking",
                answer: refusal.to_string(),
            }),
            None => Ok(reply),
        }
    }

    /// Starts a rollout of everything.
    pub(super) fn execute(&mut self) -> Result<(), Error> {
        self.operator(OperatorRequest::Execute {
            wish: everything(),
            if_plan: None,
        })
        .map(|_| ())
    }

    /// Asks what a rollout of everything would come to. How many machines would have a turn.
    pub(super) fn plan(&mut self) -> Result<usize, Error> {
        let reply = self.operator(OperatorRequest::Plan(everything()))?;
        let Reply::Plan(_, outlook) = reply else {
            return Err(Error::Answer {
                doing: "planning",
                answer: format!("{reply:?}"),
            });
        };
        Ok(outlook.turns.len())
    }

    /// A poll: the grant, if it is the machine's turn.
    pub(super) fn poll(&mut self, machine: &MachineName) -> Option<Grant> {
        self.sequence += 1;
        let report = Box::new(MachineReport {
            sequence: self.sequence,
            ..self.report.clone()
        });
        let request = Request::Agent {
            machine: machine.clone(),
            request: AgentRequest::Poll { report },
        };
        let reply = self.fleet.handle(self.now, request).reply;
        if let Reply::Directive(Directive::Proceed(grant)) = reply {
            Some(grant)
        } else {
            None
        }
    }

    /// What the machine says when its attempt went well.
    pub(super) fn result(
        &mut self,
        machine: MachineName,
        grant: &Grant,
        took: Duration,
    ) -> Result<Request, Error> {
        self.sequence += 1;
        let report = Box::new(MachineReport {
            sequence: self.sequence,
            running: Some(store_path("2")?),
            last_lease: grant.lease,
            ..self.report.clone()
        });
        let outcome = Outcome {
            kind: OutcomeKind::Confirmed,
            reason: String::new(),
        };
        let request = AgentRequest::Result {
            rollout: grant.rollout.clone(),
            lease: grant.lease,
            outcome,
            took,
            report,
        };
        Ok(Request::Agent { machine, request })
    }
}

/// A rollout of everything.
fn everything() -> Wish {
    Wish {
        selection: Selection::default(),
        action: Action::Update,
        parallel: None,
        back: Back::Previous,
        immediate: false,
        retry_failed: false,
        reason: String::new(),
    }
}
