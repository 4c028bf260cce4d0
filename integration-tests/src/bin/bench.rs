//! `bench`: measures what the project promises to be fast.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, ValueEnum};
use common::error_chain::Chain;
use integration_tests::{
    bench::{
        self, Error, agents, decide, figures::Figures, footprint, leases, makespan, restart, stop,
    },
    demo,
};

/// Measures what the project promises to be fast.
#[derive(Parser)]
struct Args {
    /// What to measure.
    what: What,
    /// Machines of the fleet.
    #[arg(long, default_value_t = 10_000)]
    machines: usize,
    /// decide: groups they are spread over.
    #[arg(long, default_value_t = 10)]
    groups: usize,
    /// decide, makespan: machines that may be away at once. stop: machines at work.
    #[arg(long, default_value_t = 100)]
    away: usize,
    /// leases: requests at one time.
    #[arg(long, default_value_t = 256)]
    in_flight: usize,
    /// leases, makespan: rollouts; stop: stops; restart: crashes, and as many orderly restarts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// restart: attempts in the history.
    #[arg(long, default_value_t = 1_000_000)]
    history: usize,
    /// agents, footprint: how long nothing happens, in seconds.
    #[arg(long, default_value_t = 60)]
    idle: u64,
    /// footprint: memory of the machine, in MiB.
    #[arg(long, default_value_t = 512)]
    memory: u64,
    /// footprint: what the update adds to the machine's closure, in MiB.
    #[arg(long, default_value_t = 400)]
    closure: u64,
    /// Where coordinators keep their state meanwhile: on the disk that is to be measured.
    #[arg(long, value_name = "DIRECTORY")]
    state: Option<PathBuf>,
    /// One JSON document instead of lines.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Durable lease requests, over mTLS.
    Leases,
    /// Idle agents: memory, connecting, processor.
    Agents,
    /// An emergency stop on its way to every agent.
    Stop,
    /// The core's decisions.
    Decide,
    /// The coordinator after a crash, and after an orderly end.
    Restart,
    /// A rollout's time against the shortest possible.
    Makespan,
    /// An agent on its machine: program, memory, wake-ups; and an update within little memory.
    Footprint,
    /// All of these.
    All,
}

fn main() -> ExitCode {
    // The coordinator that is measured is this program under another name.
    let mut words = std::env::args_os().skip(1);
    let done = match (words.next(), words.next()) {
        (Some(word), Some(state)) if word == "serve" => serve(state.into()),
        (Some(_) | None, _) => measure(&Args::parse()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&Chain(&error).to_string());
            ExitCode::FAILURE
        }
    }
}

fn serve(state: PathBuf) -> Result<(), Error> {
    demo::end_with_parent()?;
    bench::serve(&state)
}

#[allow(clippy::print_stdout, reason = "this program's output is its purpose")]
fn measure(args: &Args) -> Result<(), Error> {
    let mut all = Vec::new();
    for what in [
        What::Decide,
        What::Leases,
        What::Agents,
        What::Stop,
        What::Restart,
        What::Makespan,
        What::Footprint,
    ] {
        if args.what != what && args.what != What::All {
            continue;
        }
        let figures = run(what, args)?;
        if !args.json {
            print!("{}", figures.text());
        }
        all.push(figures);
    }
    if args.json {
        let all: Vec<_> = all.iter().map(Figures::json).collect();
        println!("{}", serde_json::to_string_pretty(&all)?);
    }
    Ok(())
}

fn run(what: What, args: &Args) -> Result<Figures, Error> {
    let directory = match &args.state {
        Some(state) => tempfile::tempdir_in(state)?,
        None => tempfile::tempdir()?,
    };
    let state = directory.path();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let machines = args.machines;
    match what {
        What::Decide | What::All => decide::run(decide::Size {
            machines,
            groups: args.groups,
            away: args.away,
        }),
        What::Makespan => makespan::run(makespan::Size {
            machines,
            away: args.away,
            rollouts: args.rounds as u64,
        }),
        What::Footprint => {
            let size = footprint::Size {
                idle: Duration::from_secs(args.idle),
                memory: args.memory << 20,
                closure: args.closure << 20,
            };
            footprint::run(size, state)
        }
        What::Leases => {
            let size = leases::Size {
                machines,
                in_flight: args.in_flight,
                rounds: args.rounds as u64,
            };
            runtime.block_on(leases::run(size, state))
        }
        What::Agents => {
            let idle = Duration::from_secs(args.idle);
            runtime.block_on(agents::run(agents::Size { machines, idle }, state))
        }
        What::Stop => {
            let size = stop::Size {
                machines,
                holders: args.away,
                stops: args.rounds,
            };
            runtime.block_on(stop::run(size, state))
        }
        What::Restart => {
            let size = restart::Size {
                machines,
                restarts: args.rounds as u64,
                history: args.history,
            };
            runtime.block_on(restart::run(size, state))
        }
    }
}

#[allow(clippy::print_stderr, reason = "there is nobody else to tell")]
fn complain(text: &str) {
    eprintln!("bench: {text}");
}
