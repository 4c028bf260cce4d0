//! `bench decide`: the coordinator's core alone. How long does it take to decide a poll, a grant, a
//! result and who is next, with how many machines? A full scan of the fleet is timed beside it.

use std::time::{Duration, Instant};

use common::MachineName;
use coordinator_core::request::Grant;

use super::{Error, bare::Core, figures::Figures};

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Machines in the fleet.
    pub machines: usize,
    /// Groups they are spread over.
    pub groups: usize,
    /// Machines that may be away at once.
    pub away: usize,
}

/// Runs it.
///
/// # Errors
/// When the core does not do what the measurement needs.
pub fn run(size: Size) -> Result<Figures, Error> {
    let mut core = Core::new(size)?;
    let mut figures = Figures::new("decide");
    figures.add_count("machines", size.machines);

    let begin = Instant::now();
    let turns = core.plan()?;
    figures.add(
        "plan with its times",
        begin.elapsed().as_secs_f64() * 1e3,
        "ms",
    );
    figures.add_count("machines with a turn in it", turns);

    let begin = Instant::now();
    core.execute()?;
    figures.add(
        "plan and create a rollout",
        begin.elapsed().as_secs_f64() * 1e3,
        "ms",
    );

    let machines: Vec<MachineName> = core.machines.clone();
    let (mut idle, mut held) = (Vec::new(), Vec::new());
    for machine in machines.iter().take(1000) {
        let begin = Instant::now();
        let grant = core.poll(machine);
        idle.push(begin.elapsed());
        held.extend(grant.map(|grant| (machine.clone(), grant)));
    }
    figures.add_spread("first poll: a grant or a wait", idle);

    let mut waiting = Vec::new();
    for machine in machines.iter().rev().take(1000) {
        held.extend(core.poll(machine).map(|grant| (machine.clone(), grant)));
        let begin = Instant::now();
        core.poll(machine);
        waiting.push(begin.elapsed());
    }
    figures.add_spread("poll that changes nothing", waiting);

    let (results, grants, next) = hand_over(&mut core, held, 1000)?;
    figures.add_spread("result: the slot is freed and the next found", results);
    figures.add_spread("grant to that one", grants);
    figures.add_count("hand-overs that woke exactly one", next);

    let scan = Instant::now();
    let count = machines
        .iter()
        .filter(|machine| core.fleet.permission(machine, core.now).is_ok())
        .count();
    let scan = scan.elapsed();
    figures.add(
        "for comparison: asking every machine",
        scan.as_secs_f64() * 1e6,
        "us",
    );
    figures.add_count("machines that could go", count);
    Ok(figures)
}

/// Ends attempts and gives their slots to whom the core wakes: durations of the results, of the
/// grants, and how many results woke exactly one.
fn hand_over(
    core: &mut Core,
    mut held: Vec<(MachineName, Grant)>,
    count: usize,
) -> Result<(Vec<Duration>, Vec<Duration>, usize), Error> {
    let (mut results, mut grants, mut woke_one) = (Vec::new(), Vec::new(), 0);
    for _ in 0..count {
        let Some((machine, grant)) = held.pop() else {
            break;
        };
        let request = core.result(machine, &grant, Duration::from_secs(60))?;
        let begin = Instant::now();
        let decision = core.fleet.handle(core.now, request);
        results.push(begin.elapsed());
        woke_one += usize::from(decision.wake.len() == 1);
        if let Some(next) = decision.wake.first() {
            let begin = Instant::now();
            let grant = core.poll(next);
            grants.push(begin.elapsed());
            held.extend(grant.map(|grant| (next.clone(), grant)));
        }
    }
    Ok((results, grants, woke_one))
}
