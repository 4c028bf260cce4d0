//! The driver's one promise: nobody hears of anything that is not durable.

mod bed;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use bed::{NEW, OLD};
use common::{
    BootId, Health, HealthState, LeaseId, MachineName, MachineReport, Outcome, OutcomeKind, Staged,
    StorePath, Target, Timestamp,
};
use coordinator::{
    driver::{Driver, DriverError, Event, Handle, Stopped},
    notify::Telling,
    store::{Archive, Batch, Loaded, Store, StoreError, memory::MemoryStore},
};
use coordinator_core::{
    FleetConfig, Reply, Request,
    fleet::Facts,
    identity::{Actor, Role},
    request::{AgentRequest, Back, Directive, OperatorRequest, Selection, Wish},
    view::{Query, View},
};
use platform::clock::Clock;

/// A store that can be made to wait or to fail, and that counts.
#[derive(Clone, Default)]
struct Double {
    kept: MemoryStore,
    batches: Arc<Mutex<Vec<Batch>>>,
    fails: Arc<AtomicBool>,
    /// While set, nothing becomes durable.
    slow: Arc<AtomicBool>,
}

impl Store for Double {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        self.kept.load()
    }

    fn append(&mut self, batch: &Batch) -> Result<(), StoreError> {
        while self.slow.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        if self.fails.load(Ordering::SeqCst) {
            return Err(StoreError::Content("no space left".into()));
        }
        self.batches
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(batch.clone());
        self.kept.append(batch)
    }

    fn snapshot(&mut self, facts: &Facts) -> Result<(), StoreError> {
        self.kept.snapshot(facts)
    }

    fn journal_len(&self) -> u64 {
        self.kept.journal_len()
    }

    fn archive(&self) -> Arc<dyn Archive> {
        self.kept.archive()
    }
}

struct Rig {
    handle: Handle,
    store: Double,
    ended: mpsc::Receiver<Result<(), DriverError>>,
    told: tokio::sync::mpsc::Receiver<Telling>,
}

impl Rig {
    fn start() -> Self {
        let mut store = Double::default();
        let loaded = store.load().expect("loaded");
        let (tellings, told) = tokio::sync::mpsc::channel(16);
        let (driver, handle) =
            Driver::new(loaded, Box::new(store.clone()), Clock::system(), tellings).expect("sound");
        let (sender, ended) = mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build();
            sender
                .send(runtime.expect("a runtime").block_on(driver.run()))
                .ok();
        });
        Self {
            handle,
            store,
            ended,
            told,
        }
    }

    async fn operator(&self, request: OperatorRequest) -> Reply {
        let actor = Actor {
            name: "ada".parse().expect("a name"),
            role: Role::Admin,
            serial: "4f".into(),
        };
        let asked = self.handle.ask(Request::Operator { actor, request }).await;
        asked.expect("an answer").reply
    }

    async fn configure(&self) {
        let document = serde_json::from_str(bed::DOCUMENT).expect("JSON");
        let config = Box::new(FleetConfig::parse(&document).expect("valid"));
        let reply = self
            .operator(OperatorRequest::SetConfig {
                config,
                if_revision: None,
                reason: String::new(),
            })
            .await;
        assert_eq!(
            reply,
            Reply::Config {
                revision: 1,
                as_before: Vec::new(),
                warnings: Vec::new()
            }
        );
    }

    async fn pin_all(&self) {
        let target = Target::Closure(closure(NEW));
        let targets = ["dev-01", "dev-02"].map(|name| (machine(name), target.clone()));
        let reason = String::new();
        self.operator(OperatorRequest::PinTargets {
            targets: targets.to_vec(),
            reason,
        })
        .await;
    }

    async fn execute(&self) {
        let wish = Wish {
            selection: Selection::default(),
            action: common::Action::Update,
            parallel: None,
            back: Back::Previous,
            immediate: false,
            reason: String::new(),
            retry_failed: false,
        };
        let reply = self
            .operator(OperatorRequest::Execute {
                wish,
                if_plan: None,
            })
            .await;
        assert!(
            matches!(
                reply,
                Reply::Executed {
                    rollout: Some(_),
                    ..
                }
            ),
            "{reply:?}"
        );
    }

    async fn poll(&self, name: &str, hold: Duration) -> Directive {
        let until = Clock::system().now() + hold;
        let asked = self.handle.poll(machine(name), ready(1), until).await;
        let reply = asked.expect("an answer").reply;
        let Reply::Directive(directive) = reply else {
            panic!("{reply:?}");
        };
        directive
    }

    fn batches(&self) -> usize {
        let batches = self.store.batches.lock();
        batches.unwrap_or_else(PoisonError::into_inner).len()
    }
}

fn machine(name: &str) -> MachineName {
    name.parse().expect("a name")
}

fn closure(path: &str) -> StorePath {
    path.parse().expect("a path")
}

/// A healthy machine that has its target staged.
fn ready(sequence: u64) -> Box<MachineReport> {
    let boot_id: BootId = "b1".parse().expect("a name");
    Box::new(MachineReport {
        agent_version: "test".into(),
        boot_id,
        sequence,
        running: Some(closure(OLD)),
        booted: Some(closure(OLD)),
        profile: Some(closure(OLD)),
        generation: 1,
        generations: Vec::new(),
        health: Health {
            state: HealthState::Healthy,
            checks: Vec::new(),
        },
        health_request: 0,
        epoch: common::Epoch(1),
        staged: Some(Staged {
            target: Target::Closure(closure(NEW)),
            path: closure(NEW),
            needs_reboot: false,
            reboot_reasons: Vec::new(),
            soft_reboot: false,
            changes: None,
        }),
        attempt: None,
        store_free_bytes: 0,
        last_lease: LeaseId(0),
        declined: None,
        cleaned_up: None,
        traffic: None,
    })
}

const SOON: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn nobody_hears_before_it_is_durable() {
    let rig = Rig::start();
    rig.configure().await;
    // Answered in the next turn: everything of the one before is out.
    rig.handle.view(Query::Config).await.expect("a look");
    let mut revisions = rig.handle.revisions();
    revisions.mark_unchanged();
    rig.store.slow.store(true, Ordering::SeqCst);
    let pinning = rig.pin_all();
    tokio::pin!(pinning);
    assert!(
        tokio::time::timeout(SOON, &mut pinning).await.is_err(),
        "told too early"
    );
    // Neither does one who only looks see it.
    let looking = rig.handle.view(Query::Config);
    assert!(
        tokio::time::timeout(SOON, looking).await.is_err(),
        "shown too early"
    );
    assert!(!revisions.has_changed().expect("a driver"));
    rig.store.slow.store(false, Ordering::SeqCst);
    pinning.await;
    tokio::time::timeout(LONG, revisions.changed())
        .await
        .expect("told")
        .expect("a driver");
}

#[tokio::test]
async fn a_store_that_fails_ends_the_driver_and_nobody_is_told() {
    let rig = Rig::start();
    rig.configure().await;
    rig.store.fails.store(true, Ordering::SeqCst);
    let waiting = rig.handle.watch(machine("dev-01")).await.expect("a stream");
    let stop = Request::Operator {
        actor: Actor {
            name: "ada".parse().expect("a name"),
            role: Role::Admin,
            serial: "4f".into(),
        },
        request: OperatorRequest::EmergencyStop {
            groups: Vec::new(),
            mode: common::StopMode::Finish,
            reason: "fire".into(),
        },
    };
    assert_eq!(rig.handle.ask(stop).await, Err(Stopped));
    assert!(matches!(
        rig.ended.recv_timeout(LONG),
        Ok(Err(DriverError::Store(_)))
    ));
    assert_eq!(rig.handle.view(Query::Config).await.map(drop), Err(Stopped));
    let mut waiting = waiting;
    let first = waiting.recv().await.expect("the first signal");
    assert_eq!(first.event, None);
    assert_eq!(
        waiting.recv().await,
        None,
        "the stop was told although it is not durable"
    );
    let mut told = rig.told;
    assert!(told.try_recv().is_err());
}

#[tokio::test]
async fn what_changes_nothing_is_not_written() {
    let rig = Rig::start();
    rig.configure().await;
    rig.poll("dev-01", Duration::ZERO).await;
    let before = rig.batches();
    for _ in 0..5 {
        rig.poll("dev-01", Duration::ZERO).await;
        rig.handle.view(Query::Config).await.expect("a look");
    }
    assert_eq!(rig.batches(), before);
}

#[tokio::test]
async fn a_release_and_the_next_grant_are_one_record() {
    let rig = Rig::start();
    rig.configure().await;
    rig.pin_all().await;
    rig.poll("dev-01", Duration::ZERO).await;
    rig.poll("dev-02", Duration::ZERO).await;
    rig.execute().await;
    let Directive::Proceed(first) = rig.poll("dev-01", Duration::ZERO).await else {
        panic!("no grant");
    };
    // One may be away at a time: the second waits, held.
    let second = rig.poll("dev-02", LONG);
    tokio::pin!(second);
    assert!(tokio::time::timeout(SOON, &mut second).await.is_err());
    let before = rig.batches();
    let mut report = ready(2);
    report.running = Some(closure(NEW));
    report.last_lease = first.lease;
    let result = Request::Agent {
        machine: machine("dev-01"),
        request: AgentRequest::Result {
            rollout: first.rollout,
            lease: first.lease,
            outcome: Outcome {
                kind: OutcomeKind::Confirmed,
                reason: String::new(),
            },
            took: Duration::from_secs(5),
            report,
        },
    };
    rig.handle.ask(result).await.expect("acknowledged");
    let directive = tokio::time::timeout(LONG, second).await.expect("woken");
    assert!(matches!(directive, Directive::Proceed(grant) if grant.lease > first.lease));
    assert_eq!(
        rig.batches(),
        before + 1,
        "release and grant are two records"
    );
}

#[tokio::test]
async fn a_hold_ends_with_the_reason_of_now() {
    let rig = Rig::start();
    rig.configure().await;
    let began = tokio::time::Instant::now();
    let directive = rig.poll("dev-01", Duration::from_millis(400)).await;
    assert!(matches!(directive, Directive::Wait(_)), "{directive:?}");
    assert!(began.elapsed() >= Duration::from_millis(390));
}

#[tokio::test]
async fn a_poll_that_nobody_waits_for_takes_no_turn() {
    let rig = Rig::start();
    rig.configure().await;
    rig.pin_all().await;
    rig.poll("dev-01", Duration::ZERO).await;
    rig.poll("dev-02", Duration::ZERO).await;
    {
        let gone = rig.poll("dev-01", LONG);
        assert!(tokio::time::timeout(SOON, gone).await.is_err());
    }
    rig.execute().await;
    // Its connection broke: the grant would have been lost on it.
    let Ok(seen) = rig
        .handle
        .view(Query::Status {
            selection: Selection::default(),
            all: true,
        })
        .await
    else {
        panic!("no view");
    };
    let View::Status(status) = seen.view else {
        panic!("no status")
    };
    assert_eq!(status.away, 0);
    assert!(matches!(
        rig.poll("dev-02", Duration::ZERO).await,
        Directive::Proceed(_)
    ));
}

#[tokio::test]
async fn a_stop_is_told_to_holders_first() {
    let rig = Rig::start();
    rig.configure().await;
    rig.pin_all().await;
    rig.poll("dev-02", Duration::ZERO).await;
    rig.execute().await;
    assert!(matches!(
        rig.poll("dev-02", Duration::ZERO).await,
        Directive::Proceed(_)
    ));
    let mut other = rig.handle.watch(machine("dev-01")).await.expect("a stream");
    let mut holder = rig.handle.watch(machine("dev-02")).await.expect("a stream");
    for stream in [&mut other, &mut holder] {
        assert_eq!(stream.recv().await.expect("the first").event, None);
    }
    let reply = rig
        .operator(OperatorRequest::EmergencyStop {
            groups: Vec::new(),
            mode: common::StopMode::Rollback,
            reason: "fire".into(),
        })
        .await;
    assert_eq!(reply, Reply::Stopped(common::Epoch(2)));
    for stream in [&mut holder, &mut other] {
        let signal = stream.recv().await.expect("a signal");
        assert_eq!(signal.epoch, common::Epoch(2));
        assert!(matches!(signal.event, Some(Event::StandDown(_))));
    }
    let mut told = rig.told;
    assert!(told.recv().await.is_some(), "people are told of a stop");
}

#[tokio::test]
async fn a_calm_end_keeps_a_snapshot() {
    let rig = Rig::start();
    rig.configure().await;
    rig.handle.stop().await;
    assert!(matches!(rig.ended.recv_timeout(LONG), Ok(Ok(()))));
    let mut store = rig.store.kept.clone();
    let loaded = store.load().expect("loaded");
    assert_eq!((loaded.records.len(), loaded.snapshot.revision), (0, 1));
    assert!(loaded.replay(Timestamp::from_secs(1_900_000_000)).is_ok());
}
