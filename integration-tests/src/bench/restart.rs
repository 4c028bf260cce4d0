//! `bench restart`: how long after its start does a coordinator grant again, and how long until
//! every agent is connected again? After a crash, and after it was asked to end.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use super::{
    Error, agents,
    beginning::Shape,
    coordinator::End,
    figures::Figures,
    fleet::{Fleet, HOLD},
};

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Machines of the fleet.
    pub machines: usize,
    /// Crashes, and orderly restarts after them.
    pub restarts: u64,
    /// Attempts in the history.
    pub history: usize,
}

/// What was measured of restarts of one kind.
#[derive(Default)]
struct Times {
    serving: Vec<Duration>,
    granting: Vec<Duration>,
    together: Vec<Duration>,
}

/// Runs it in this directory.
///
/// # Errors
/// When the coordinator does not do what the measurement needs.
pub async fn run(size: Size, state: &Path) -> Result<Figures, Error> {
    let shape = Shape {
        groups: 10,
        away: size.machines,
        history: size.history,
    };
    let mut fleet = Fleet::start(state, size.machines, shape).await?;
    let mut figures = Figures::new("restart");
    figures.add_count("machines", size.machines);
    figures.add_count("history entries", size.history);
    let mut version = 0;
    for (kind, end) in [("a crash", End::Crash), ("an orderly end", End::Orderly)] {
        let mut times = Times::default();
        for _ in 0..size.restarts {
            version += 1;
            restart(&mut fleet, version, end, &mut times).await?;
        }
        let what = |of| format!("after {kind}: {of}");
        figures.add_spread(&what("start until it serves"), times.serving);
        figures.add_spread(&what("start until the next grant"), times.granting);
        figures.add_spread(&what("every agent has its stream again"), times.together);
    }
    Ok(figures)
}

/// One restart in the middle of a rollout of this version.
async fn restart(
    fleet: &mut Fleet,
    version: u64,
    end: End,
    times: &mut Times,
) -> Result<(), Error> {
    let (mut machines, _) = fleet.connect().await?;
    for machine in &mut machines {
        machine.stage(version);
        machine.poll(Duration::ZERO).await?;
    }
    fleet.roll_out(version).await?;
    // Half of the machines are at work when it ends.
    for machine in machines.iter_mut().step_by(2) {
        machine.turn(HOLD).await?;
    }
    drop(machines);
    fleet.end(end)?;

    let begin = Instant::now();
    fleet.start_again()?;
    times.serving.push(fleet.coordinator.started_in);
    let (mut first, _) = fleet.connect_first(2).await?;
    if let Some(machine) = first.last_mut() {
        machine.stage(version);
        machine.turn(HOLD).await?;
    }
    times.granting.push(begin.elapsed());
    drop(first);

    let begin = Instant::now();
    let (machines, _) = fleet.connect().await?;
    drop(agents::watch(&machines).await?);
    times.together.push(begin.elapsed());
    fleet.connect_admin().await?;
    fleet.abort().await
}
