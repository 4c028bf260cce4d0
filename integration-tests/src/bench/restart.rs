//! `bench restart`: how long after a crash does a coordinator grant again, and how long until every
//! agent is connected again?

use std::{
    path::Path,
    time::{Duration, Instant},
};

use super::{
    Error, agents,
    figures::Figures,
    fleet::{Fleet, HOLD},
};

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Machines of the fleet.
    pub machines: usize,
    /// Crashes.
    pub crashes: u64,
}

/// Runs it in this directory.
///
/// # Errors
/// When the coordinator does not do what the measurement needs.
pub async fn run(size: Size, state: &Path) -> Result<Figures, Error> {
    let mut fleet = Fleet::start(state, size.machines, 10, size.machines).await?;
    let mut figures = Figures::new("restart");
    figures.add_count("machines", size.machines);
    let (mut serving, mut granting, mut together) = (Vec::new(), Vec::new(), Vec::new());
    for version in 1..=size.crashes {
        let (mut machines, _) = fleet.connect().await?;
        machines
            .iter_mut()
            .for_each(|machine| machine.stage(version));
        for machine in &mut machines {
            machine.poll(Duration::ZERO).await?;
        }
        fleet.roll_out(version).await?;
        // Half of the machines are at work when it crashes.
        for machine in machines.iter_mut().step_by(2) {
            machine.turn(HOLD).await?;
        }
        drop(machines);
        let begin = Instant::now();
        fleet.restart().await?;
        serving.push(fleet.coordinator.started_in);
        let (mut first, _) = fleet.connect_first(2).await?;
        if let Some(machine) = first.last_mut() {
            machine.stage(version);
            machine.turn(HOLD).await?;
        }
        granting.push(begin.elapsed());
        drop(first);
        let begin = Instant::now();
        let (machines, _) = fleet.connect().await?;
        drop(agents::watch(&machines).await?);
        together.push(begin.elapsed());
        fleet.abort().await?;
    }
    figures.add_spread("from its start until it serves", serving);
    figures.add_spread("from the crash until the next grant", granting);
    figures.add_spread("until every agent has its stream again", together);
    Ok(figures)
}
