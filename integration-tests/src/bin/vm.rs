//! `vm`: shows, on a real boot chain, that a machine comes back from a target that does not boot.
//! Needs root; mounts nothing and touches no disk of the host.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command that reports to whoever runs it"
)]

use std::{env, io, path::PathBuf, process::ExitCode, time::Instant};

use clap::{Args, Parser, Subcommand};
use common::error_chain::Chain;
use integration_tests::{
    fleet::Part,
    vm::{Bed, Options, Outcome, SCENARIOS, VmError, host},
};
use serde_json::json;

/// Boots a virtual machine with our agent by firmware, boot loader and kernel, and updates it, to
/// good targets and to some that do not boot. Exit status 0 when every scenario holds.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    run: Run,
    #[command(subcommand)]
    part: Option<FleetPart>,
}

/// A part of the fleet that the machine is in.
#[derive(Debug, Subcommand)]
enum FleetPart {
    #[command(flatten)]
    Fleet(Part),
}

#[derive(Debug, Args)]
struct Run {
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
    /// Play only these scenarios.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Leave disk, firmware and console in this directory, which must be empty or not there.
    #[arg(long, value_name = "DIRECTORY")]
    keep: Option<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.part {
        Some(FleetPart::Fleet(part)) => part.play().map(|()| true).map_err(VmError::from),
        None => run(&cli.run),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("vm: {}", Chain(&error));
            ExitCode::from(2)
        }
    }
}

fn run(run: &Run) -> Result<bool, VmError> {
    if let Some(missing) = host::missing() {
        return Err(VmError::Wrong(missing));
    }
    let known = |name: &&String| SCENARIOS.iter().any(|scenario| scenario.name == **name);
    if let Some(unknown) = run.only.iter().find(|name| !known(name)) {
        let names: Vec<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        let names = names.join(", ");
        return Err(VmError::Wrong(format!(
            "no scenario {unknown}: there are {names}"
        )));
    }
    let file = |what, path: PathBuf| move |source: io::Error| VmError::File { what, path, source };
    let begin = Instant::now();
    let temporary = tempfile::Builder::new().prefix("lab-vm-").tempdir();
    let temporary = temporary.map_err(file("create", "a directory".into()))?;
    let dir = match &run.keep {
        Some(dir) => {
            std::fs::create_dir_all(dir).map_err(file("create", dir.clone()))?;
            dir.canonicalize().map_err(file("find", dir.clone()))?
        }
        None => temporary.path().to_owned(),
    };
    let options = Options {
        name: format!("vm-{}", std::process::id()),
        program: env::current_exe().map_err(file("find", "this program".into()))?,
        dir,
    };
    let bed = Bed::up(&options, &|step| eprintln!("{step}"))?;
    let ready = begin.elapsed().as_secs_f64();
    let wanted = |name: &str| run.only.is_empty() || run.only.iter().any(|only| only == name);
    let scenarios = SCENARIOS.iter().filter(|scenario| wanted(scenario.name));
    let mut outcomes = Vec::new();
    for scenario in scenarios.clone() {
        let outcome = scenario.play(&bed);
        if !run.json {
            println!("{}", line(&outcome));
        }
        let holds = outcome.holds;
        outcomes.push(outcome);
        if !holds {
            // The next one would begin somewhere else.
            eprintln!("{}", bed.scene());
            break;
        }
    }
    let all = scenarios.count();
    let holds = outcomes.len() == all && outcomes.iter().all(|outcome| outcome.holds);
    bed.down()?;
    let seconds = begin.elapsed().as_secs_f64();
    if run.json {
        let document = json!({
            "holds": holds,
            "first_boot_seconds": ready,
            "seconds": seconds,
            "scenarios": outcomes,
        });
        println!("{document}");
    } else {
        let shown = outcomes.iter().filter(|outcome| outcome.holds).count();
        println!("{shown} of {all} hold; {ready:.0} s to the first boot, {seconds:.0} s in all");
    }
    Ok(holds)
}

fn line(outcome: &Outcome) -> String {
    let (word, wrong) = if outcome.holds {
        ("holds", String::new())
    } else {
        ("WRONG", format!(": {}", outcome.wrong))
    };
    format!(
        "{word}  {:<22} {:>4.0} s, {} boots, {} panics: {}{wrong}",
        outcome.name, outcome.seconds, outcome.boots, outcome.panics, outcome.shows
    )
}
