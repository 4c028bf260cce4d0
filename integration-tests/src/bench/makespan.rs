//! `bench makespan`: how long does a rollout take, against the shortest time that is possible at all?
//!
//! The coordinator's core in simulated time: attempts take log-normal times, a freed slot goes to
//! whom the core wakes, nothing else takes any time. No order can be shorter than the work spread
//! evenly over all slots, nor than the longest attempt.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    f64::consts::TAU,
    time::Duration,
};

use common::{MachineName, Timestamp};
use coordinator_core::request::Grant;

use super::{Error, bare::Core, decide, figures::Figures};
use crate::sim::Rng;

/// Mean of an attempt's time in seconds, and the spread of its logarithm.
const MEAN: f64 = 300.0;
const SIGMA: f64 = 0.8;

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Machines of the rollout, all of one group.
    pub machines: usize,
    /// Of these, how many may be away at once.
    pub away: usize,
    /// Rollouts, each with other times.
    pub rollouts: u64,
}

/// Runs it.
///
/// # Errors
/// When the core does not do what the measurement needs.
pub fn run(size: Size) -> Result<Figures, Error> {
    let mut ratios = Vec::new();
    for seed in 1..=size.rollouts {
        ratios.push(roll_out(size, &mut Rng::new(seed))?);
    }
    ratios.sort_by(f64::total_cmp);
    let mut figures = Figures::new("makespan");
    figures.add_count("machines", size.machines);
    figures.add_count("away at once", size.away);
    figures.add_count("rollouts", size.rollouts);
    if let (Some(most), Some(median)) = (ratios.last(), ratios.get(ratios.len() / 2)) {
        figures.add("time taken to time needed, median", *median, "");
        figures.add("time taken to time needed, most", *most, "");
    }
    Ok(figures)
}

/// One rollout: the time it took, as a multiple of the shortest time there is.
fn roll_out(size: Size, rng: &mut Rng) -> Result<f64, Error> {
    let mut core = Core::new(decide::Size {
        machines: size.machines,
        groups: 1,
        away: size.away,
    })?;
    let begin = core.now;
    let machines = core.machines.clone();
    let times: BTreeMap<MachineName, Duration> = machines
        .iter()
        .map(|machine| (machine.clone(), time(rng)))
        .collect();
    core.execute()?;
    // Who is at work, by the end of the attempt.
    let mut working: BinaryHeap<Reverse<(Timestamp, MachineName)>> = BinaryHeap::new();
    let mut grants: BTreeMap<MachineName, Grant> = BTreeMap::new();
    // Everybody has asked once, so that everybody waits.
    let mut asking = machines;
    let mut last = begin;
    loop {
        for machine in asking.drain(..) {
            if let Some(grant) = core.poll(&machine) {
                working.push(Reverse((core.now + times[&machine], machine.clone())));
                grants.insert(machine, grant);
            }
        }
        let Some(Reverse((end, machine))) = working.pop() else {
            break;
        };
        (core.now, last) = (end, end);
        let Some(grant) = grants.remove(&machine) else {
            break;
        };
        let took = times[&machine];
        let request = core.result(machine, &grant, took)?;
        asking = core.fleet.handle(core.now, request).wake;
    }
    let left = core.fleet.index().unfinished.len();
    if left > 0 {
        return Err(Error::Answer {
            doing: "rolling out",
            answer: format!("{left} rollouts are not finished"),
        });
    }
    let work: Duration = times.values().sum();
    let longest = times.values().max().copied().unwrap_or_default();
    let needed = longest.max(work.div_f64(size.away as f64));
    Ok(last.since(begin).as_secs_f64() / needed.as_secs_f64())
}

/// How long an attempt takes: log-normal, by Box and Muller.
fn time(rng: &mut Rng) -> Duration {
    let mut uniform = || (rng.below(1 << 52) + 1) as f64 / (1u64 << 52) as f64;
    let normal = (-2.0 * uniform().ln()).sqrt() * (TAU * uniform()).cos();
    Duration::from_secs_f64((MEAN.ln() - SIGMA * SIGMA / 2.0 + SIGMA * normal).exp())
}
