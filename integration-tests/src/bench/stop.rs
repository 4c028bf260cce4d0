//! `bench stop`: how long does an emergency stop take to reach every agent, machines at work first?

use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};

use lab_proto::agent::signal::Event;
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    Error, agents,
    beginning::Shape,
    figures::Figures,
    fleet::{Fleet, HOLD},
};

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Agents with an open stream.
    pub machines: usize,
    /// Of these, at work with a lease.
    pub holders: usize,
    /// Stops.
    pub stops: usize,
}

/// How long a stop may take at most before it counts as not arrived.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long the coordinator is left alone until all polls are held.
const SETTLE: Duration = Duration::from_secs(3);

/// Runs it in this directory.
///
/// # Errors
/// When the coordinator does not do what the measurement needs.
pub async fn run(size: Size, state: &Path) -> Result<Figures, Error> {
    let holders = size.holders.min(size.machines);
    let mut fleet = Fleet::start(
        state,
        size.machines,
        Shape {
            groups: 1,
            away: holders.max(1),
            ..Shape::default()
        },
    )
    .await?;
    let (mut machines, _) = fleet.connect().await?;
    machines.iter_mut().for_each(|machine| machine.stage(1));
    for machine in &mut machines {
        machine.poll(Duration::ZERO).await?;
    }
    fleet.roll_out(1).await?;
    // The last ones, so that their names alone do not bring them to the front.
    let at_work: BTreeSet<usize> = (size.machines - holders..size.machines).collect();
    for number in &at_work {
        machines[*number].turn(HOLD).await?;
    }

    let (arrived, mut arrivals) = mpsc::channel(size.machines);
    let mut listening = JoinSet::new();
    for (number, mut stream) in agents::watch(&machines).await?.into_iter().enumerate() {
        let arrived = arrived.clone();
        listening.spawn(async move {
            while let Ok(Some(signal)) = stream.message().await {
                let stopped = matches!(signal.event, Some(Event::StandDown(_)));
                if arrived
                    .send((number, stopped, Instant::now()))
                    .await
                    .is_err()
                {
                    break;
                }
            }
        });
    }
    let mut figures = Figures::new("stop");
    figures.add_count("agents", size.machines);
    figures.add_count("of these at work", holders);
    let (mut first, mut all) = (Vec::new(), Vec::new());
    let (mut asked, mut answered) = (Vec::new(), Vec::new());
    let mut used = Duration::ZERO;
    for _ in 0..size.stops {
        // As real agents do: whoever is not at work waits in a held poll as well.
        let mut polls = JoinSet::new();
        for mut machine in machines[..size.machines - holders].iter().cloned() {
            polls.spawn(async move { machine.poll(HOLD).await });
        }
        tokio::time::sleep(SETTLE).await;
        let processor = fleet.coordinator.processor()?;
        let begin = Instant::now();
        fleet.stop().await?;
        asked.push(begin.elapsed());
        for _ in 0..size.machines {
            let arrival = tokio::time::timeout(PATIENCE, arrivals.recv()).await;
            let Ok(Some((number, true, at))) = arrival else {
                return Err(Error::Answer {
                    doing: "waiting for the stop to arrive",
                    answer: format!("{arrival:?}"),
                });
            };
            let took = at.duration_since(begin);
            if at_work.contains(&number) {
                first.push(took);
            }
            all.push(took);
        }
        while let Some(answer) = polls.join_next().await {
            answer??;
        }
        answered.push(begin.elapsed());
        used += fleet.coordinator.processor()? - processor;
        fleet.resume().await?;
        for _ in 0..size.machines {
            // The end of the stop reaches everybody too.
            tokio::time::timeout(PATIENCE, arrivals.recv()).await.ok();
        }
    }
    figures.add_spread("machines at work", first);
    figures.add_spread("all", all);
    figures.add_spread("until every held poll is answered too", answered);
    figures.add_spread("the operator's answer", asked);
    let each = used.as_secs_f64() * 1e3 / size.stops.max(1) as f64;
    figures.add("coordinator's processor time per stop", each, "ms");
    Ok(figures)
}
