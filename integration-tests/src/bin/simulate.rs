//! `simulate`: runs seeds of the simulator, replays recorded runs, and shows that known bugs would
//! be found.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command that reports to whoever runs it"
)]

use std::{
    collections::BTreeMap,
    fs, io,
    num::NonZeroUsize,
    ops::{ControlFlow, Range},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Instant,
};

use clap::Parser;
use integration_tests::sim::{self, Outcome, Recording, SeededBug};
use serde_json::json;

/// Simulates fleets: both real cores, a virtual clock, and everything that can go wrong.
#[derive(Debug, Parser)]
struct Args {
    /// How many seeds to run.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Run this seed only.
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// Run a recorded run again, without any chance.
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// With --seed or --replay: tell everything that happens, and wait for Enter after each event
    /// when standard input is a terminal.
    #[arg(long, conflicts_with = "json")]
    step: bool,
    /// Switch on each known bug in turn and run seeds until it is found.
    #[arg(long)]
    bugs: bool,
    /// With --bugs: seeds after which a bug counts as not found.
    #[arg(long, default_value_t = 200)]
    within: u64,
    /// How many seeds to run at the same time; as many as there are processors when not given.
    #[arg(long)]
    jobs: Option<NonZeroUsize>,
    /// Where the recordings of seeds that are not good go.
    #[arg(long, value_name = "DIRECTORY", default_value = ".")]
    keep: PathBuf,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let good = if let Some(file) = &args.replay {
        replay_file(file, &args)
    } else if args.bugs {
        bugs(&args)
    } else {
        seeds(&args)
    };
    match good {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("simulate: {error}");
            ExitCode::from(2)
        }
    }
}

fn seeds(args: &Args) -> io::Result<bool> {
    let range = match args.seed {
        Some(seed) => seed..seed + 1,
        None => args.from..args.from + args.seeds,
    };
    let begin = Instant::now();
    let mut total = Total::default();
    if args.seed.is_some() && !args.json {
        println!("seed {}", range.start);
    }
    let run = |seed| sim::run(seed, None);
    in_parallel(range, jobs(args), run, |outcome| {
        total.add(&outcome);
        if !outcome.is_good() {
            report(&outcome, &args.keep)?;
        }
        if args.step {
            walk(&sim::record(outcome.seed, None).1)?;
        }
        Ok(ControlFlow::Continue(()))
    })?;
    let wall = begin.elapsed().as_secs_f64();
    if args.json {
        println!("{}", total.json(wall));
    } else {
        total.print(wall);
    }
    Ok(total.violations == 0 && total.unfinished == 0)
}

fn jobs(args: &Args) -> NonZeroUsize {
    let all = || thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    args.jobs.unwrap_or_else(all)
}

/// Runs the seeds on several threads and takes what comes of them in the order of the seeds, until
/// `take` has enough.
fn in_parallel<T: Send>(
    seeds: Range<u64>,
    jobs: NonZeroUsize,
    run: impl Fn(u64) -> T + Sync,
    mut take: impl FnMut(T) -> io::Result<ControlFlow<()>>,
) -> io::Result<()> {
    let next = AtomicU64::new(seeds.start);
    thread::scope(|scope| {
        // A thread waits with its result until somebody takes it: no pile of results.
        let (send, results) = mpsc::sync_channel(jobs.get());
        for _ in 0..jobs.get() {
            let (send, next, run) = (send.clone(), &next, &run);
            let end = seeds.end;
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || send.send((seed, run(seed))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        let mut waiting = BTreeMap::new();
        let mut due = seeds.start;
        for (seed, result) in results {
            waiting.insert(seed, result);
            while let Some(result) = waiting.remove(&due) {
                due += 1;
                if take(result)?.is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    })
}

/// Runs a seed that is not good again, with every check at every step, and keeps it.
fn report(outcome: &Outcome, directory: &Path) -> io::Result<()> {
    eprintln!("seed {}:", outcome.seed);
    let (outcome, recording) = sim::record(outcome.seed, None);
    for violation in &outcome.violations {
        eprintln!("  at {}: {}", clock(violation.at), violation.text);
    }
    if let Some(unfinished) = &outcome.unfinished {
        eprintln!("  has not ended: {unfinished}");
    }
    let file = directory.join(format!("seed-{}.json", outcome.seed));
    fs::write(&file, serde_json::to_vec(&recording)?)?;
    eprintln!("  simulate --replay {}", file.display());
    Ok(())
}

fn replay_file(file: &Path, args: &Args) -> io::Result<bool> {
    let recording: Recording = serde_json::from_slice(&fs::read(file)?)?;
    if !args.json {
        println!(
            "{} events; found then: {:?}",
            recording.len(),
            recording.found
        );
    }
    if args.step {
        return walk(&recording);
    }
    let violations = sim::replay(&recording, |_, _, _| {});
    let told = violations.iter().map(|v| (clock(v.at), v.text.as_str()));
    if args.json {
        let told: Vec<_> = told
            .map(|(at, text)| json!({ "at": at.to_string(), "text": text }))
            .collect();
        println!(
            "{}",
            json!({ "events": recording.len(), "found_then": recording.found, "violations": told })
        );
    } else {
        told.for_each(|(at, text)| println!("at {at}: {text}"));
    }
    Ok(violations.is_empty())
}

/// Tells what happens, event by event.
fn walk(recording: &Recording) -> io::Result<bool> {
    let stops = io::IsTerminal::is_terminal(&io::stdin());
    let mut line = String::new();
    let violations = sim::replay(recording, |at, event, story| {
        println!("{} {event}", clock(at));
        for line in story {
            println!("    {line}");
        }
        // A closed input only means that nobody wants to stop.
        if stops && io::stdin().read_line(&mut line).is_err() {
            line.clear();
        }
    });
    for violation in &violations {
        println!("at {}: {}", clock(violation.at), violation.text);
    }
    Ok(violations.is_empty())
}

/// The first seed that finds the bug: with it something is wrong, and without it nothing.
fn find(bug: SeededBug, args: &Args) -> io::Result<Option<Outcome>> {
    let mut found = None;
    let run = |seed| {
        let with = sim::run(seed, Some(bug));
        let differs = !with.is_good() && sim::run(seed, None).is_good();
        differs.then_some(with)
    };
    in_parallel(
        args.from..args.from + args.within,
        jobs(args),
        run,
        |with| {
            found = with;
            let enough = found.is_some();
            Ok(if enough {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        },
    )?;
    Ok(found)
}

fn bugs(args: &Args) -> io::Result<bool> {
    let mut all = true;
    let mut rows = Vec::new();
    for bug in SeededBug::all() {
        let found = find(bug, args)?;
        all &= found.is_some();
        let seeds = found.as_ref().map(|outcome| outcome.seed - args.from + 1);
        let events = found.as_ref().map(|outcome| outcome.events);
        let violated = found.as_ref().map(said);
        if args.json {
            rows.push(json!({
                "bug": bug.name(), "seeds": seeds, "events": events, "violated": violated,
            }));
        } else {
            let shown = |count: Option<u64>| count.map_or("-".to_owned(), |n| n.to_string());
            println!(
                "{:<40} seed {:>4}  event {:>7}  {}",
                bug.name(),
                shown(seeds),
                shown(events),
                violated.as_deref().unwrap_or("NOT FOUND")
            );
        }
    }
    if args.json {
        println!("{}", json!({ "bugs": rows, "all_found": all }));
    }
    Ok(all)
}

/// What is wrong with a run, in a line.
fn said(outcome: &Outcome) -> String {
    let violations = outcome.violations.iter().map(|v| v.text.clone());
    let first = violations.chain(outcome.unfinished.clone()).next();
    first.unwrap_or_default()
}

/// Sums over seeds.
#[derive(Debug, Default)]
struct Total {
    seeds: u64,
    rollouts: u64,
    attempts: u64,
    events: u64,
    hours: f64,
    machine_hours: f64,
    faults: BTreeMap<&'static str, u64>,
    violations: usize,
    unfinished: u64,
}

impl Total {
    fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.rollouts += outcome.rollouts;
        self.attempts += outcome.attempts;
        self.events += outcome.events;
        self.hours += outcome.hours;
        let machines = u32::try_from(outcome.machines).unwrap_or(u32::MAX);
        self.machine_hours += outcome.hours * f64::from(machines);
        for (kind, count) in &outcome.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        self.violations += outcome.violations.len();
        self.unfinished += u64::from(outcome.unfinished.is_some());
    }

    fn json(&self, wall: f64) -> serde_json::Value {
        json!({
            "seeds": self.seeds,
            "rollouts": self.rollouts,
            "attempts": self.attempts,
            "events": self.events,
            "simulated_hours": self.hours.round(),
            "machine_hours": self.machine_hours.round(),
            "faults": self.faults,
            "violations": self.violations,
            "unfinished": self.unfinished,
            "wall_seconds": wall,
        })
    }

    fn print(&self, wall: f64) {
        println!(
            "{} seeds, {} rollouts, {} attempts, {} events, {:.0} simulated hours, {:.0} machine-hours, {wall:.1} s",
            self.seeds, self.rollouts, self.attempts, self.events, self.hours, self.machine_hours
        );
        println!("{} faults:", self.faults.values().sum::<u64>());
        for (kind, count) in &self.faults {
            println!("  {count:>9}  {kind}");
        }
        println!(
            "{} violations, {} unfinished",
            self.violations, self.unfinished
        );
    }
}

/// Days, hours, minutes, seconds of simulated time.
fn clock(at: u64) -> String {
    let seconds = at / 1000;
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let (minutes, rest) = (seconds / 60 % 60, seconds % 60);
    format!("{days}d {hours:02}:{minutes:02}:{rest:02}.{:03}", at % 1000)
}
