//! `bench leases`: how many durable lease requests a second does the coordinator answer, what does
//! one cost, and how long does a freed slot take to reach the next machine?
//!
//! A *lease request* is a grant or a release: an mTLS gRPC call whose answer leaves only when it is
//! durable. All machines are of one group, so every request goes past the same limit.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use lab_proto::agent::Proceed;
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    Error,
    beginning::Shape,
    coordinator::Counts,
    figures::Figures,
    fleet::{Fleet, HOLD, Machine},
};

/// Machines that ask one after the other, for the latency of one request alone.
const ALONE: usize = 500;

/// Hand-offs, one after the other.
const HAND_OFFS: usize = 1000;

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Machines connected.
    pub machines: usize,
    /// Requests at one time.
    pub in_flight: usize,
    /// Rollouts over all machines.
    pub rounds: u64,
}

/// Runs it in this directory.
///
/// # Errors
/// When the coordinator does not do what the measurement needs.
pub async fn run(size: Size, state: &Path) -> Result<Figures, Error> {
    let away = size.in_flight.max(2);
    let mut fleet = Fleet::start(
        state,
        size.machines,
        Shape {
            groups: 1,
            away,
            ..Shape::default()
        },
    )
    .await?;
    let (mut machines, _) = fleet.connect().await?;
    let mut figures = Figures::new("leases");
    figures.add_count("machines", size.machines);
    figures.add_count("requests at one time", size.in_flight);

    // One more rollout than is measured: the first also makes every machine known.
    let mut busy = Busy::default();
    for version in 1..=size.rounds + 1 {
        machines
            .iter_mut()
            .for_each(|machine| machine.stage(version));
        for machine in &mut machines {
            machine.poll(Duration::ZERO).await?;
        }
        fleet.roll_out(version).await?;
        let before = Snapshot::of(&mut fleet)?;
        let round;
        (machines, round) = in_parallel(machines, size.in_flight).await?;
        let after = Snapshot::of(&mut fleet)?;
        if version > 1 {
            busy.add(round, &before, &after);
        }
    }
    busy.figures(&mut figures);

    let version = size.rounds + 2;
    machines
        .iter_mut()
        .for_each(|machine| machine.stage(version));
    for machine in &mut machines {
        machine.poll(Duration::ZERO).await?;
    }
    fleet.roll_out(version).await?;
    let alone = machines.len().min(ALONE);
    let rest = machines.split_off(alone);
    let (_, round) = in_parallel(machines, 1).await?;
    figures.add_spread("alone: grant", round.grants);
    figures.add_spread("alone: release", round.releases);
    let waits = hand_over(rest, away).await?;
    figures.add_spread("hand-off: release sent to next machine told", waits);
    let counts = fleet.coordinator.counts()?;
    figures.add_count("snapshots", counts.snapshots);
    figures.add_duration("longest snapshot", counts.longest_snapshot);
    Ok(figures)
}

/// One rollout, or a part of it.
#[derive(Default)]
struct Round {
    grants: Vec<Duration>,
    releases: Vec<Duration>,
    took: Duration,
}

/// Every machine takes its turn, so many at a time.
async fn in_parallel(
    machines: Vec<Machine>,
    at_once: usize,
) -> Result<(Vec<Machine>, Round), Error> {
    let begin = Instant::now();
    let machines = Arc::new(machines);
    let next = Arc::new(AtomicUsize::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..at_once {
        let (machines, next) = (machines.clone(), next.clone());
        workers.spawn(async move {
            let mut done = Vec::new();
            while let Some(machine) = machines.get(next.fetch_add(1, Ordering::Relaxed)) {
                let mut machine = machine.clone();
                let asked = Instant::now();
                let turn = machine.turn(HOLD).await?;
                let granted = asked.elapsed();
                let ended = Instant::now();
                machine.done(&turn).await?;
                done.push((machine, granted, ended.elapsed()));
            }
            Ok::<_, Error>(done)
        });
    }
    let mut round = Round::default();
    let mut back = Vec::with_capacity(machines.len());
    while let Some(done) = workers.join_next().await {
        for (machine, granted, released) in done?? {
            back.push(machine);
            round.grants.push(granted);
            round.releases.push(released);
        }
    }
    round.took = begin.elapsed();
    Ok((back, round))
}

/// Sums over rounds.
#[derive(Default)]
struct Busy {
    rounds: Round,
    processor: Duration,
    driver: Duration,
    batches: u64,
    storing: Duration,
    best: f64,
}

/// What the coordinator has used up to a moment.
struct Snapshot {
    processor: Duration,
    driver: Duration,
    counts: Counts,
}

impl Snapshot {
    fn of(fleet: &mut Fleet) -> Result<Self, Error> {
        Ok(Self {
            processor: fleet.coordinator.processor()?,
            driver: fleet.coordinator.driver()?,
            counts: fleet.coordinator.counts()?,
        })
    }
}

impl Busy {
    fn add(&mut self, round: Round, before: &Snapshot, after: &Snapshot) {
        let counts = after.counts - before.counts;
        self.processor += after.processor - before.processor;
        self.driver += after.driver - before.driver;
        self.batches += counts.batches;
        self.storing += counts.all;
        let requests = (round.grants.len() + round.releases.len()) as f64;
        self.best = self.best.max(requests / round.took.as_secs_f64());
        self.rounds.took += round.took;
        self.rounds.grants.extend(round.grants);
        self.rounds.releases.extend(round.releases);
    }

    fn figures(self, figures: &mut Figures) {
        let grants = self.rounds.grants.len() as f64;
        let requests = grants + self.rounds.releases.len() as f64;
        let each = |time: Duration| time.as_secs_f64() * 1e6 / requests;
        let rate = requests / self.rounds.took.as_secs_f64();
        figures.add("durable lease requests", rate, "/s");
        figures.add("durable lease requests, best round", self.best, "/s");
        figures.add(
            "coordinator's processor time per request",
            each(self.processor),
            "us",
        );
        figures.add("of that the driver's", each(self.driver), "us");
        let batches = self.batches as f64;
        figures.add("fdatasyncs per grant", batches / grants, "");
        figures.add("requests per fdatasync", requests / batches, "");
        figures.add(
            "time in the store per batch",
            self.storing.as_secs_f64() * 1e6 / batches,
            "us",
        );
        figures.add_spread("grant", self.rounds.grants);
        figures.add_spread("release", self.rounds.releases);
    }
}

/// Gives all slots away, lets everybody else wait, and then ends one attempt after the other: how
/// long until the next machine is told.
async fn hand_over(machines: Vec<Machine>, away: usize) -> Result<Vec<Duration>, Error> {
    let mut holders: Vec<(Machine, Proceed)> = Vec::new();
    let mut machines = machines.into_iter();
    for mut machine in machines.by_ref().take(away) {
        let turn = machine.turn(HOLD).await?;
        holders.push((machine, turn));
    }
    let (told, mut tellings) = mpsc::channel(16);
    let mut waiting = JoinSet::new();
    for mut machine in machines {
        let told = told.clone();
        waiting.spawn(async move {
            let turn = machine.turn(HOLD).await;
            // Nobody listens any more once enough was seen.
            drop(
                told.send((Instant::now(), turn.map(|turn| (machine, turn))))
                    .await,
            );
        });
    }
    // Until all of them wait.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut waits = Vec::new();
    while waits.len() < HAND_OFFS.min(waiting.len()) {
        let Some((mut machine, turn)) = holders.pop() else {
            break;
        };
        let begin = Instant::now();
        machine.done(&turn).await?;
        let Some((at, next)) = tellings.recv().await else {
            break;
        };
        waits.push(at.duration_since(begin));
        holders.push(next?);
    }
    Ok(waits)
}
