//! `turmoil`: runs seeds of the simulator's second tier, each of them twice, and shows that known
//! bugs would be found.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command that reports to whoever runs it"
)]

use std::{
    collections::BTreeMap,
    num::NonZero,
    process::ExitCode,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use clap::Parser;
use integration_tests::{
    sim::SeededBug,
    turmoil::{self, Identities, Outcome, RunError},
};
use serde_json::json;

/// Runs whole fleets, the real programs over mutual TLS, in a simulated network where everything
/// goes wrong. Every seed is run twice and must do exactly the same.
#[derive(Debug, Parser)]
struct Args {
    /// How many seeds to run.
    #[arg(long, default_value_t = 10)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Run this seed only, and print everything that can be observed in it.
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// How long things go wrong in each, in simulated hours.
    #[arg(long, default_value_t = 10)]
    hours: u64,
    /// Switch on a known bug.
    #[arg(long, value_parser = known_bug)]
    bug: Option<SeededBug>,
    /// Switch on each known bug in turn and run seeds until it is found, or all of them were run.
    #[arg(long, conflicts_with_all = ["seed", "bug"])]
    bugs: bool,
    /// Threads; without it as many as there are processors.
    #[arg(long)]
    threads: Option<NonZero<usize>>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// A seed, run twice.
struct Pair {
    outcome: Outcome,
    again: String,
}

fn known_bug(name: &str) -> Result<SeededBug, String> {
    SeededBug::named(name).ok_or_else(|| {
        let names: Vec<String> = SeededBug::all().into_iter().map(SeededBug::name).collect();
        format!("there are: {}", names.join(", "))
    })
}

fn main() -> ExitCode {
    let args = Args::parse();
    let good = if args.bugs { bugs(&args) } else { work(&args) };
    match good {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("turmoil: {}", common::error_chain::Chain(&error));
            ExitCode::from(2)
        }
    }
}

fn work(args: &Args) -> Result<bool, RunError> {
    let begin = Instant::now();
    let pairs = match args.seed {
        Some(seed) => vec![twice(
            seed,
            args.hours,
            args.bug,
            &Arc::new(Identities::make()?),
        )?],
        None => all(args)?,
    };
    let mut total = Total::default();
    for pair in &pairs {
        total.add(pair);
        report(pair);
    }
    if args.seed.is_some() && !args.json {
        for pair in &pairs {
            for line in &pair.outcome.trace {
                println!("{line}");
            }
            println!("hash {}", pair.outcome.hash);
        }
    }
    let wall = begin.elapsed().as_secs_f64();
    if args.json {
        println!("{}", total.json(wall));
    } else {
        println!("{}", total.line(wall));
    }
    Ok(total.violations == 0 && total.unfinished == 0 && total.differing == 0)
}

/// Runs the seeds on as many threads as wanted; results are in order of the seeds.
fn all(args: &Args) -> Result<Vec<Pair>, RunError> {
    let threads = args.threads.map_or_else(
        || thread::available_parallelism().map_or(1, NonZero::get),
        NonZero::get,
    );
    let identities = Arc::new(Identities::make()?);
    let next = AtomicU64::new(args.from);
    let end = args.from.saturating_add(args.seeds);
    let done = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let pair = twice(seed, args.hours, args.bug, &identities);
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    done.insert(seed, pair);
                }
            });
        }
    });
    let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.into_values().collect()
}

/// Looks for each known bug. Some cannot show here: their rules never come into play.
fn bugs(args: &Args) -> Result<bool, RunError> {
    let identities = Arc::new(Identities::make()?);
    let mut all = true;
    let mut rows = Vec::new();
    for bug in SeededBug::all() {
        let mut found = None;
        for seed in args.from..args.from.saturating_add(args.seeds) {
            let outcome = turmoil::run(seed, args.hours, Some(bug), &identities)?;
            if !outcome.is_good() {
                let violation = outcome.violations.first().cloned();
                found = Some((seed - args.from + 1, violation.or(outcome.unfinished)));
                break;
            }
        }
        all &= found.is_some();
        let (seeds, what) = found.unzip();
        let what = what.flatten();
        if args.json {
            rows.push(json!({ "bug": bug.name(), "seeds": seeds, "violated": what }));
        } else {
            let seeds = seeds.map_or("-".to_owned(), |seeds: u64| seeds.to_string());
            let what = what.as_deref().unwrap_or("NOT FOUND");
            println!("{:<40} {seeds:>4}  {what}", bug.name());
        }
    }
    if args.json {
        println!("{}", json!({ "bugs": rows, "all_found": all }));
    }
    Ok(all)
}

fn twice(
    seed: u64,
    hours: u64,
    bug: Option<SeededBug>,
    identities: &Arc<Identities>,
) -> Result<Pair, RunError> {
    let outcome = turmoil::run(seed, hours, bug, identities)?;
    let again = turmoil::run(seed, hours, bug, identities)?;
    let again = if again.hash == outcome.hash {
        again.hash
    } else {
        difference(&outcome, &again);
        again.hash
    };
    Ok(Pair { outcome, again })
}

/// The first line in which two runs of a seed differ.
fn difference(one: &Outcome, other: &Outcome) {
    let mut lines = one.trace.iter().zip(&other.trace);
    if let Some((a, b)) = lines.find(|(a, b)| a != b) {
        eprintln!("seed {}: two runs differ:\n  {a}\n  {b}", one.seed);
    }
}

fn report(pair: &Pair) {
    let outcome = &pair.outcome;
    if outcome.is_good() && pair.again == outcome.hash {
        return;
    }
    eprintln!("seed {}:", outcome.seed);
    for violation in &outcome.violations {
        eprintln!("  {violation}");
    }
    if let Some(unfinished) = &outcome.unfinished {
        eprintln!("  has not ended: {unfinished}");
    }
    eprintln!("  turmoil --seed {}", outcome.seed);
}

/// Sums over seeds.
#[derive(Debug, Default)]
struct Total {
    seeds: u64,
    hours: f64,
    machine_hours: f64,
    faults: BTreeMap<&'static str, u64>,
    rollouts: u64,
    leases: u64,
    results: u64,
    events: u64,
    settled_max_min: u64,
    violations: usize,
    unfinished: u64,
    differing: u64,
}

impl Total {
    fn add(&mut self, pair: &Pair) {
        let outcome = &pair.outcome;
        self.seeds += 1;
        self.hours += outcome.hours;
        let machines = u32::try_from(outcome.machines).unwrap_or(u32::MAX);
        self.machine_hours += outcome.hours * f64::from(machines);
        for (kind, count) in &outcome.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        self.rollouts += outcome.rollouts;
        self.leases += outcome.leases;
        self.results += outcome.results;
        self.events += outcome.events;
        self.settled_max_min = self.settled_max_min.max(outcome.settled_min);
        self.violations += outcome.violations.len();
        self.unfinished += u64::from(outcome.unfinished.is_some());
        self.differing += u64::from(pair.again != outcome.hash);
    }

    fn json(&self, wall: f64) -> serde_json::Value {
        json!({
            "seeds": self.seeds,
            "fleet_hours": self.hours.round(),
            "machine_hours": self.machine_hours.round(),
            "faults": self.faults,
            "faults_total": self.faults.values().sum::<u64>(),
            "rollouts": self.rollouts,
            "leases": self.leases,
            "results": self.results,
            "events": self.events,
            "settled_minutes_max": self.settled_max_min,
            "violations": self.violations,
            "unfinished": self.unfinished,
            "differing": self.differing,
            "wall_seconds": wall,
        })
    }

    fn line(&self, wall: f64) -> String {
        format!(
            "turmoil: {} seeds, each twice, {:.0} fleet-hours, {:.0} machine-hours, {} faults, \
             {} rollouts, {} leases, {} violations, {} unfinished, {} differ, \
             settled within {} min, {wall:.0} s",
            self.seeds,
            self.hours,
            self.machine_hours,
            self.faults.values().sum::<u64>(),
            self.rollouts,
            self.leases,
            self.violations,
            self.unfinished,
            self.differing,
            self.settled_max_min,
        )
    }
}
