//! `powercut`: cuts the power of the coordinator's store, many times, and looks whether everything
//! that was acknowledged is still there. Needs root, for mounting; touches no disk of the host.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command that reports to whoever runs it"
)]

use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
    process::ExitCode,
    time::Instant,
};

use clap::{Args, Parser, Subcommand};
use common::error_chain::Chain;
use integration_tests::{
    demo,
    powercut::{self, Options, Totals, Work},
};

/// Cuts the power of the coordinator's store and looks whether everything that was acknowledged is
/// still there. Exit status 0 when it is.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    cuts: Cuts,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Args)]
struct Cuts {
    /// How often.
    #[arg(long, default_value_t = 200)]
    cuts: u64,
    /// Decides at which instants.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Askers at one time, half of them operators, half of them machines.
    #[arg(long, default_value_t = 32)]
    askers: u32,
    /// Take sled's flush for durable, a known mistake: exit status 0 when that was found out.
    #[arg(long)]
    without_sync: bool,
    /// Keep drives with a fault in this directory.
    #[arg(long, value_name = "DIRECTORY")]
    keep: Option<PathBuf>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
enum Part {
    /// The process whose power is cut.
    #[command(hide = true)]
    Work {
        #[arg(long)]
        store: PathBuf,
        #[arg(long)]
        askers: u32,
        #[arg(long)]
        run: u64,
        #[arg(long)]
        without_sync: bool,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.part {
        None => cut(cli.cuts),
        Some(Part::Work {
            store,
            askers,
            run,
            without_sync,
        }) => work(&Work {
            store,
            askers,
            run,
            without_sync,
        }),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("powercut: {}", Chain(&*error));
            ExitCode::from(2)
        }
    }
}

type Failure = Box<dyn std::error::Error>;

fn cut(args: Cuts) -> Result<bool, Failure> {
    let begin = Instant::now();
    let progress = |totals: &Totals| {
        if io::stderr().is_terminal() {
            eprint!("\r{}", totals.line(begin.elapsed()));
        } else if totals.cuts.is_multiple_of(50) && !args.json {
            eprintln!("{}", totals.line(begin.elapsed()));
        }
    };
    let options = Options {
        cuts: args.cuts,
        seed: args.seed,
        askers: args.askers,
        without_sync: args.without_sync,
        keep: args.keep,
    };
    let totals = powercut::run(&options, &["work"], progress)?;
    let wall = begin.elapsed();
    if args.json {
        println!("{}", totals.json(wall));
    } else {
        for text in totals.unopenable.iter().chain(&totals.wrong) {
            println!("{text}");
        }
        println!("{}", totals.line(wall));
    }
    Ok(if args.without_sync {
        totals.lost > 0
    } else {
        totals.is_good()
    })
}

fn work(work: &Work) -> Result<bool, Failure> {
    demo::end_with_parent()?;
    powercut::work(work)?;
    Ok(true)
}
