//! `demo`: a whole fleet on this machine, in a minute. Needs neither root nor Nix.

use std::{
    ffi::OsString,
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Parser;
use common::error_chain::Chain;
use integration_tests::demo::{self, DemoError, Options};

/// A rollout over a whole fleet: a coordinator and an agent for every machine, each machine a
/// directory, a night in less than a minute. One machine fails and goes back by itself.
#[derive(Debug, Parser)]
#[command(name = "demo", version)]
struct Cli {
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    // The demo's own programs are this binary under other names.
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_else(|| "demo".into());
    let rest: Vec<OsString> = arguments.collect();
    match rest.first().and_then(|word| word.to_str()) {
        Some("coordinator") => return coordinator(&rest[1..]),
        Some("agent") => return agent(&rest[1..]),
        Some(_) | None => {}
    }
    let cli = Cli::parse_from([program].into_iter().chain(rest));
    match play(&cli.options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(DemoError::Interrupted) => ExitCode::from(130),
        Err(error) => {
            complain(&Chain(&error).to_string());
            ExitCode::FAILURE
        }
    }
}

fn play(options: &Options) -> Result<bool, DemoError> {
    // On this thread: the kernel ends the programs with the thread that started them.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| DemoError::Start {
            what: "the runtime".to_owned(),
            source,
        })?;
    runtime.block_on(demo::run(options))
}

fn coordinator(arguments: &[OsString]) -> ExitCode {
    if let Err(error) = demo::end_with_parent() {
        complain(&Chain(&error).to_string());
        return ExitCode::FAILURE;
    }
    let words = [OsString::from("lab-coordinator")].into_iter();
    coordinator::run::main(words.chain(arguments.to_vec()))
}

fn agent(arguments: &[OsString]) -> ExitCode {
    // The timer that brings a machine back outlives the agent, as systemd's would.
    let is_timer = arguments.first().is_some_and(|word| word == "dead-man");
    if !is_timer && let Err(error) = demo::end_with_parent() {
        complain(&Chain(&error).to_string());
        return ExitCode::FAILURE;
    }
    let own = std::env::current_exe().map_or_else(
        |_| "demo".to_owned(),
        |path| path.to_string_lossy().into_owned(),
    );
    let words = [OsString::from("lab-agent")]
        .into_iter()
        .chain(arguments.to_vec());
    agent::run::main(vec![own, "agent".to_owned()], words)
}

fn complain(text: &str) {
    // There is nobody left to tell when standard error is gone.
    writeln!(io::stderr(), "demo: {text}").ok();
}
