//! One seed from its beginning to its end, twice: things go wrong for hours, then nothing does any
//! more, and everything must end.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use ::coordinator::store::{Batch, Store as _};
use ::turmoil::{Builder, Sim};
use platform::clock::TimeSource as _;

use super::{
    agent, coordinator,
    faults::{Faults, LATENCY, power_off},
    machine::Power,
    people,
    setup::{At, COORDINATOR, HOUR, Identities, MINUTE, OUTSIDE, Setup},
    world::{Shared, World},
};
use crate::sim::{SeededBug, rng::Rng};

/// One step of the simulated network. Messages arrive at the steps.
const TICK: Duration = Duration::from_millis(500);

/// How long everything may take to end once nothing goes wrong any more.
const PATIENCE: At = 48 * HOUR;

/// How long nothing must be unfinished until a run is over.
const QUIET: At = 5 * MINUTE;

/// What a seed came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Which seed.
    pub seed: u64,
    /// Machines of its fleet.
    pub machines: usize,
    /// Simulated hours.
    pub hours: f64,
    /// Faults injected, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Rollouts that were created.
    pub rollouts: u64,
    /// Leases that were granted.
    pub leases: u64,
    /// Results that were taken in.
    pub results: u64,
    /// What must not be and was, each with its time.
    pub violations: Vec<String>,
    /// What had not ended when patience did.
    pub unfinished: Option<String>,
    /// Simulated minutes from the last fault until everything had ended.
    pub settled_min: u64,
    /// SHA-256 of everything that could be observed, in order.
    pub hash: String,
    /// Lines of that.
    pub events: u64,
    /// The lines.
    pub trace: Vec<String>,
}

impl Outcome {
    /// Nothing that must not be, and everything at its end.
    pub fn is_good(&self) -> bool {
        self.violations.is_empty() && self.unfinished.is_none()
    }
}

/// Why a seed could not be run at all.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The simulation's own files.
    #[error("the simulation's own files fail")]
    Files(#[from] io::Error),
    /// A simulated host ended with an error, which none does.
    #[error("a host of the simulation ended: {0}")]
    Host(String),
}

/// Runs a seed once: things go wrong for so many hours.
pub fn run(
    seed: u64,
    hours: u64,
    bug: Option<SeededBug>,
    identities: &Arc<Identities>,
) -> Result<Outcome, RunError> {
    let mut rng = Rng::new(seed);
    let setup = Setup::draw(seed, hours, &mut rng);
    let directory = identities.directory()?;
    let trouble = setup.trouble;
    let world = World::new(setup, rng, bug, directory.path())?;
    for machine in &world.machines {
        let index = world.index_of(&machine.name).unwrap_or(0);
        let file = machine.directory.join("state/identity.pem");
        let saved = identities.machines[index].save(&file);
        saved.map_err(io::Error::other)?;
    }
    let mut disk = world.coordinator.disk.clone();
    let enrolled = Batch {
        changes: identities.facts(),
        ..Batch::at(world.coordinator.clock.now())
    };
    disk.append(&enrolled).map_err(io::Error::other)?;
    let shared = Shared::new(world);
    let mut sim = network(seed, &shared, identities);
    let mut faults = Faults::new(10 * MINUTE);
    let mut ended_at = None;
    let mut quiet_since = None;
    let unfinished = loop {
        let stepped = sim.step();
        stepped.map_err(|error| RunError::Host(error.to_string()))?;
        let now = At::try_from(sim.elapsed().as_millis()).unwrap_or(At::MAX);
        shared.lock().step = now;
        turn(&mut sim, &shared, now);
        faults.step(&mut sim, &shared, now);
        if !shared.lock().violations.is_empty() {
            break None;
        }
        let Some(ended) = ended_at else {
            if now >= trouble {
                faults.end(&mut sim, &shared, now);
                ended_at = Some(now);
            }
            continue;
        };
        let open = shared.lock().unfinished();
        if open.is_none() {
            let since = *quiet_since.get_or_insert(now);
            if now >= since + QUIET {
                break None;
            }
        } else {
            quiet_since = None;
        }
        if now >= ended + PATIENCE {
            break open;
        }
    };
    let elapsed = sim.elapsed();
    // The hosts go first: they hold the world.
    drop(sim);
    let mut world = shared.lock();
    let settled = quiet_since.unwrap_or_default().saturating_sub(trouble);
    let facts = world.coordinator.mirror.as_ref().map(|fleet| fleet.facts());
    Ok(Outcome {
        seed,
        machines: world.machines.len(),
        hours: elapsed.as_secs_f64() / 3600.0,
        faults: world.faults.clone(),
        rollouts: facts.map_or(0, |facts| facts.next_rollout - 1),
        leases: facts.map_or(0, |facts| facts.next_lease.0 - 1),
        results: world.results,
        violations: world.violations.clone(),
        unfinished,
        settled_min: settled / MINUTE,
        hash: world.trace.hash(),
        events: world.trace.count,
        trace: std::mem::take(&mut world.trace.lines),
    })
}

fn network<'a>(seed: u64, shared: &Shared, identities: &Arc<Identities>) -> Sim<'a> {
    let mut sim = Builder::new()
        .rng_seed(seed)
        .tick_duration(TICK)
        .simulation_duration(Duration::MAX)
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(LATENCY)
        .tcp_capacity(1024)
        .enable_random_order()
        .build();
    let (world, all) = (shared.clone(), identities.clone());
    sim.host(COORDINATOR, move || {
        coordinator::live(world.clone(), all.clone())
    });
    let names = shared.lock().setup.machines.clone();
    for (index, name) in names.iter().enumerate() {
        let (world, hook) = (shared.clone(), identities.hook.clone());
        sim.host(name.as_str(), move || {
            agent::live(world.clone(), index, hook.clone())
        });
    }
    let (world, all) = (shared.clone(), identities.clone());
    sim.host(OUTSIDE, move || people::live(world.clone(), all.clone()));
    sim
}

/// What the world does by itself between two steps: units end, machines go down and come up, the
/// coordinator is started again.
fn turn(sim: &mut Sim<'_>, shared: &Shared, now: At) {
    let machines = shared.lock().machines.len();
    for machine in 0..machines {
        let power = {
            let mut world = shared.lock();
            world.settle(machine, now);
            let m = &world.machines[machine];
            if m.dead_man.is_some_and(|(_, at)| at <= now) {
                m.dead_man_fires.notify_one();
            }
            m.power
        };
        match power {
            Power::GoingDown(at) if at <= now => power_off(sim, shared, machine, now),
            Power::Off(until) if until <= now => {
                let name = shared.lock().machines[machine].name.to_string();
                shared.lock().machines[machine].power = Power::On;
                sim.bounce(name.as_str());
            }
            Power::On | Power::GoingDown(_) | Power::Off(_) => {}
        }
    }
    let running = sim.is_host_running(COORDINATOR);
    let mut world = shared.lock();
    if !running && !world.coordinator.up {
        if world.coordinator.down_until == 0 {
            // It ended by itself.
            world.coordinator.down_until = now + world.down_time();
        }
        if world.coordinator.down_until <= now {
            world.coordinator.down_until = 0;
            world.coordinator.up = true;
            drop(world);
            sim.bounce(COORDINATOR);
        }
    }
}
