//! The process whose power is cut: a coordinator's driver on its store, and many who ask it at
//! once. What they are told, they say on standard output, a line each, after they were told.
//!
//! Half of the askers are operators who each name one version after the other for a machine of
//! their own; the others are machines that take their turns in rollouts, with leases and results.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    sync::Arc,
    thread,
    time::Duration,
};

use common::{
    Action, BootId, Epoch, Health, HealthState, LeaseId, MachineName, MachineReport, Outcome,
    OutcomeKind, Staged, StorePath, Target, Timestamp,
};
use coordinator::{
    driver::{Driver, DriverError, Handle},
    store::{Store as _, StoreError, sled::SledStore},
};
use coordinator_core::{
    FleetConfig, Reply, Request,
    identity::{Actor, Role},
    request::{AgentRequest, Back, Directive, Grant, OperatorRequest, Selection, Wish},
};
use platform::clock::Clock;
use serde_json::json;
use tokio::{sync::mpsc, time::sleep};

use super::promise::Promise;

/// The group of machines that only get pins, and that of those that take turns.
const PINS: &str = "pins";
const TURNS: &str = "turns";

/// How long a machine's poll is held.
const HOLD: Duration = Duration::from_millis(100);

/// How long the operator of the rollouts waits before asking again, and how often before the
/// rollout is ended for the next one.
const PACE: Duration = Duration::from_millis(5);
const PATIENCE: u32 = 100;

/// Journal entries after which a snapshot is taken: so few that many cuts fall into one.
const SNAPSHOT_EVERY: u64 = 16;

/// What to do.
#[derive(Clone, Debug)]
pub struct Work {
    /// Directory of the store.
    pub store: PathBuf,
    /// Askers, half of them operators, half of them machines.
    pub askers: u32,
    /// Number of this run on the store: machines boot anew with each.
    pub run: u64,
    /// Whether the store is to forget the sync after sled's flush.
    pub without_sync: bool,
}

/// Why the work ended; it never does by itself.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The driver.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// A thread or runtime cannot be had.
    #[error("cannot start")]
    Start(#[from] io::Error),
    /// A name that was made is none.
    #[error("{0:?} is not a name")]
    Name(String),
    /// The coordinator answered something that makes no sense here.
    #[error("unexpected answer to {asked}: {answer}")]
    Answer {
        /// What was asked.
        asked: &'static str,
        /// What was answered.
        answer: String,
    },
    /// The driver is gone; what happened to it says the other error.
    #[error("the driver is gone")]
    Gone,
}

/// Name of a machine that only gets pins.
pub(super) fn pinned_machine(number: u32) -> Result<MachineName, WorkError> {
    name(&format!("p{number}"))
}

/// Name of a machine that takes turns.
pub(super) fn turning_machine(number: u32) -> Result<MachineName, WorkError> {
    name(&format!("t{number}"))
}

fn name<T: std::str::FromStr>(text: &str) -> Result<T, WorkError> {
    text.parse().map_err(|_| WorkError::Name(text.to_owned()))
}

/// The closure that stands for a version.
fn closure(version: u64) -> Result<StorePath, WorkError> {
    name(&format!("/nix/store/{}-system-{version}", "0".repeat(32)))
}

/// The version that a closure stands for.
pub(super) fn version_of(target: &Target) -> Option<u64> {
    let name = target.closure()?.name();
    name.strip_prefix("system-")?.parse().ok()
}

/// Works until the power goes.
///
/// # Errors
/// When the store does not open, or what it was told cannot be made durable any more.
pub fn work(work: &Work) -> Result<(), WorkError> {
    let mut store = SledStore::open(&work.store)?.with_snapshot_every(SNAPSHOT_EVERY);
    if work.without_sync {
        store.forget_to_sync();
    }
    let clock = Clock::system();
    let loaded = store.load()?;
    let fleet = loaded.clone().replay(clock.now())?;
    // Nobody is told anything here; the receiver is kept so that it counts as taken.
    let (tellings, _told) = mpsc::channel(1);
    let (driver, handle) = Driver::new(loaded, Box::new(store), clock.clone(), tellings)?;
    let driving = thread::Builder::new().name("driver".to_owned()).spawn(
        move || -> Result<(), WorkError> {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()?;
            Ok(runtime.block_on(driver.run())?)
        },
    )?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    let askers = Askers {
        handle,
        clock,
        work: Arc::new(work.clone()),
    };
    let asked = runtime.block_on(async {
        if fleet.facts().revision == 0 {
            askers.configure().await?;
        }
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..work.askers / 2 {
            let machine = pinned_machine(number)?;
            let pin = fleet.facts().machines.get(&machine);
            let pin = pin.and_then(|machine| version_of(&machine.pin.as_ref()?.target));
            let from = pin.unwrap_or(0);
            tasks.spawn(askers.clone().name_versions(number, from));
            tasks.spawn(askers.clone().take_turns(number));
        }
        tasks.spawn(askers.clone().roll_out());
        match tasks.join_next().await {
            Some(Ok(ended)) => ended,
            Some(Err(_)) | None => Err(WorkError::Gone),
        }
    });
    drop(askers);
    match (asked, driving.join()) {
        // The driver's own word says more than "gone".
        (Err(WorkError::Gone), Ok(Err(error))) => Err(error),
        (asked, _) => asked,
    }
}

/// Says what was acknowledged. A line is written as a whole.
fn promise(promise: Promise) -> Result<(), WorkError> {
    Ok(writeln!(io::stdout(), "{promise}")?)
}

#[derive(Clone)]
struct Askers {
    handle: Handle,
    clock: Clock,
    work: Arc<Work>,
}

impl Askers {
    async fn operator(&self, request: OperatorRequest) -> Result<Reply, WorkError> {
        let actor = Actor {
            name: name("ada")?,
            role: Role::Admin,
            serial: String::new(),
        };
        let answer = self.handle.ask(Request::Operator { actor, request }).await;
        Ok(answer.map_err(|_| WorkError::Gone)?.reply)
    }

    async fn configure(&self) -> Result<(), WorkError> {
        let count = self.work.askers / 2;
        let names = |letter| (0..count).map(move |n| format!("{letter}{n}"));
        let document = json!({
            "updateGroups": {
                PINS: { "machines": names('p').collect::<Vec<_>>(), "updatePolicy": "aggressive" },
                TURNS: { "machines": names('t').collect::<Vec<_>>(), "updatePolicy": "aggressive" },
            },
            "updateSettings": { "maxParallel": (count / 2).max(1) },
        });
        let config = FleetConfig::parse(&document).map_err(|faults| WorkError::Answer {
            asked: "the configuration",
            answer: faults.to_string(),
        })?;
        let request = OperatorRequest::SetConfig {
            config: Box::new(config),
            if_revision: None,
            reason: String::new(),
        };
        let answer = self.operator(request).await?;
        let done = matches!(answer, Reply::Config { .. });
        expected(done, "the configuration", &answer)
    }

    async fn pin(&self, machines: Vec<MachineName>, version: u64) -> Result<(), WorkError> {
        let target = Target::Closure(closure(version)?);
        let reason = machines
            .first()
            .map_or_else(String::new, ToString::to_string);
        let targets = machines.into_iter().map(|m| (m, target.clone())).collect();
        let request = OperatorRequest::PinTargets { targets, reason };
        let answer = self.operator(request).await?;
        expected(matches!(answer, Reply::Pinned(_)), "a pin", &answer)
    }

    async fn name_versions(self, machine: u32, from: u64) -> Result<(), WorkError> {
        let name = pinned_machine(machine)?;
        for version in from + 1.. {
            self.pin(vec![name.clone()], version).await?;
            promise(Promise::Pinned { machine, version })?;
        }
        Ok(())
    }

    /// One rollout of the turning machines after the other.
    async fn roll_out(self) -> Result<(), WorkError> {
        let machines: Result<Vec<_>, _> = (0..self.work.askers / 2).map(turning_machine).collect();
        let machines = machines?;
        // Versions of one run never meet those of another.
        for version in self.work.run * 1_000_000.. {
            self.pin(machines.clone(), version).await?;
            let mut tries = 0;
            loop {
                let wish = Wish {
                    selection: Selection {
                        groups: vec![name(TURNS)?],
                        machines: Vec::new(),
                    },
                    action: Action::Update,
                    parallel: None,
                    back: Back::Previous,
                    immediate: true,
                    retry_failed: false,
                    reason: String::new(),
                };
                let request = OperatorRequest::Execute {
                    wish,
                    if_plan: None,
                };
                if let Reply::Executed { .. } = self.operator(request).await? {
                    break;
                }
                sleep(PACE).await;
                tries += 1;
                if tries == PATIENCE {
                    let request = OperatorRequest::Abort {
                        rollout: None,
                        reason: "the next one".to_owned(),
                    };
                    // Refused when it ended meanwhile: as good.
                    drop(self.operator(request).await?);
                    tries = 0;
                }
            }
        }
        Ok(())
    }

    async fn take_turns(self, number: u32) -> Result<(), WorkError> {
        let machine = turning_machine(number)?;
        let mut report = first_report(self.work.run)?;
        loop {
            report.sequence += 1;
            let until: Timestamp = self.clock.now() + HOLD;
            let asked = self
                .handle
                .poll(machine.clone(), Box::new(report.clone()), until);
            let Reply::Directive(directive) = asked.await.map_err(|_| WorkError::Gone)?.reply
            else {
                return Err(WorkError::Gone);
            };
            match directive {
                Directive::Wait(_)
                | Directive::Check { .. }
                | Directive::CleanUp { .. }
                | Directive::MoveTraffic(_)
                | Directive::StandDown(_) => {}
                Directive::Stage { target, .. } => {
                    report.staged = target.closure().cloned().map(|path| Staged {
                        target,
                        path,
                        needs_reboot: false,
                        reboot_reasons: Vec::new(),
                        soft_reboot: false,
                        changes: None,
                    });
                }
                Directive::Proceed(grant) => {
                    let lease = grant.lease.0;
                    promise(Promise::Granted {
                        machine: number,
                        lease,
                    })?;
                    report.sequence += 1;
                    report.running = grant.target.closure().cloned();
                    report.last_lease = grant.lease;
                    self.end(&machine, &grant, &report).await?;
                    promise(Promise::Ended {
                        machine: number,
                        lease,
                    })?;
                }
            }
        }
    }

    async fn end(
        &self,
        machine: &MachineName,
        grant: &Grant,
        report: &MachineReport,
    ) -> Result<(), WorkError> {
        let request = AgentRequest::Result {
            rollout: grant.rollout.clone(),
            lease: grant.lease,
            outcome: Outcome {
                kind: OutcomeKind::Confirmed,
                reason: String::new(),
            },
            took: Duration::from_secs(1),
            report: Box::new(report.clone()),
        };
        let machine = machine.clone();
        let answer = self.handle.ask(Request::Agent { machine, request }).await;
        let answer = answer.map_err(|_| WorkError::Gone)?.reply;
        expected(answer == Reply::Acknowledged, "a result", &answer)
    }
}

fn first_report(run: u64) -> Result<MachineReport, WorkError> {
    let boot_id: BootId = name(&format!("boot-{run}"))?;
    Ok(MachineReport {
        agent_version: "1".to_owned(),
        boot_id,
        sequence: 0,
        running: Some(closure(0)?),
        booted: Some(closure(0)?),
        profile: Some(closure(0)?),
        generation: 1,
        generations: Vec::new(),
        health: Health {
            state: HealthState::Healthy,
            checks: Vec::new(),
        },
        health_request: 0,
        epoch: Epoch::FIRST,
        staged: None,
        declined: None,
        cleaned_up: None,
        traffic: None,
        attempt: None,
        store_free_bytes: 0,
        last_lease: LeaseId::default(),
    })
}

fn expected(done: bool, asked: &'static str, answer: &Reply) -> Result<(), WorkError> {
    if done {
        return Ok(());
    }
    Err(WorkError::Answer {
        asked,
        answer: format!("{answer:?}"),
    })
}
