//! `bench agents`: what does an idle agent cost the coordinator? Each has a connection with mTLS, an
//! open stream for wake-ups, and then a held poll as well, as the real agent has.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use lab_proto::agent::{Signal, WatchRequest};
use tokio::task::JoinSet;
use tonic::Streaming;

use super::{
    Error,
    beginning::Shape,
    figures::Figures,
    fleet::{Fleet, HOLD, Machine},
};

/// How long memory is left to settle.
const SETTLE: Duration = Duration::from_secs(2);

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Agents connected.
    pub machines: usize,
    /// How long nothing happens.
    pub idle: Duration,
}

/// Runs it in this directory.
///
/// # Errors
/// When the coordinator does not do what the measurement needs.
pub async fn run(size: Size, state: &Path) -> Result<Figures, Error> {
    let fleet = Fleet::start(
        state,
        size.machines,
        Shape {
            groups: 10,
            away: 100,
            ..Shape::default()
        },
    )
    .await?;
    let mut figures = Figures::new("agents");
    figures.add_count("agents", size.machines);
    let agents = size.machines as f64;

    let memory = fleet.coordinator.memory()?;
    let processor = fleet.coordinator.processor()?;
    let begin = Instant::now();
    let (machines, each) = fleet.connect().await?;
    let streams = watch(&machines).await?;
    let took = begin.elapsed();
    figures.add("connect and open a stream, all", took.as_secs_f64(), "s");
    figures.add("connected", agents / took.as_secs_f64(), "/s");
    figures.add_spread("connect, one of 64 at a time", each);
    let used = (fleet.coordinator.processor()? - processor).as_secs_f64() * 1e6 / agents;
    figures.add("coordinator's processor time per connection", used, "us");
    tokio::time::sleep(SETTLE).await;
    let kib = |now: u64, before: u64| (now.saturating_sub(before)) as f64 / 1024.0 / agents;
    let with_streams = fleet.coordinator.memory()?;
    figures.add(
        "memory per agent, one stream",
        kib(with_streams, memory),
        "KiB",
    );

    let mut polls = JoinSet::new();
    for mut machine in machines {
        // Held until the end; the task ends with the set.
        polls.spawn(async move { machine.poll(HOLD).await });
    }
    tokio::time::sleep(SETTLE).await;
    let with_polls = fleet.coordinator.memory()?;
    figures.add(
        "memory per agent, stream and held poll",
        kib(with_polls, memory),
        "KiB",
    );
    figures.add(
        "memory of the coordinator",
        with_polls as f64 / 1024.0 / 1024.0,
        "MiB",
    );

    let processor = fleet.coordinator.processor()?;
    tokio::time::sleep(size.idle).await;
    let used = fleet.coordinator.processor()? - processor;
    let share = used.as_secs_f64() / size.idle.as_secs_f64() * 100.0;
    figures.add("processor while idle", share, "% of a core");
    drop(streams);
    Ok(figures)
}

/// Opens the stream of every machine and takes its first signal.
pub(super) async fn watch(machines: &[Machine]) -> Result<Vec<Streaming<Signal>>, Error> {
    let mut streams = Vec::with_capacity(machines.len());
    for machine in machines {
        let mut client = machine.client.clone();
        let mut stream = client.watch(WatchRequest {}).await?.into_inner();
        stream.message().await?;
        streams.push(stream);
    }
    Ok(streams)
}
