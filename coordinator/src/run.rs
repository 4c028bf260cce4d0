//! The program: arguments, configuration, wiring, and then serving until a signal.

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use common::error_chain::Chain;
use tokio::signal::unix::{SignalKind, signal};

use crate::{Config, Server, fleet_file, offline, systemd};

/// Keeps a fleet of NixOS machines up to date.
#[derive(Parser)]
#[command(name = "lab-coordinator", version)]
struct Args {
    /// Settings of the coordinator, TOML.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Only say what is wrong with the settings.
    #[arg(long)]
    check_config: bool,
    /// And what is wrong with this fleet configuration, JSON.
    #[arg(long, value_name = "FILE", requires = "check_config")]
    fleet: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Look at the journal while the coordinator is stopped.
    #[command(subcommand)]
    Journal(Journal),
    /// Declare that the state directory came from a backup: voids every lease issued since.
    Restore,
}

#[derive(Subcommand)]
enum Journal {
    /// Print snapshot and entries, one JSON document a line.
    Dump,
    /// Read everything back and check it.
    Check,
}

type Failure = Box<dyn std::error::Error>;

/// Runs the coordinator. The first argument is the program's name.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = match Args::try_parse_from(arguments) {
        Ok(args) => args,
        Err(error) => error.exit(),
    };
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", Chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Failure> {
    if matches!(args.command, Some(Command::Journal(Journal::Dump))) {
        platform::telemetry::init("lab-coordinator", "warn")?;
    } else {
        platform::telemetry::init("lab-coordinator", "info")?;
    }
    let config = Config::load(&args.config)?;
    if args.check_config {
        return Ok(args.fleet.as_deref().map_or(Ok(()), fleet_file::check)?);
    }
    let store = config.state_dir.join("store");
    let now = config.clock.now();
    match &args.command {
        None => serve(config),
        Some(Command::Journal(Journal::Dump)) => {
            Ok(offline::dump(&store, &mut std::io::stdout().lock())?)
        }
        Some(Command::Journal(Journal::Check)) => {
            let found = offline::check(&store, now)?;
            tracing::info!("the journal is good: {found}");
            Ok(())
        }
        Some(Command::Restore) => {
            let epoch = offline::restore(&store, now)?;
            tracing::info!("restored; the epoch is {epoch}: start the coordinator");
            Ok(())
        }
    }
}

#[tokio::main]
async fn serve(config: Config) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut server = Server::start(&config).await?;
    let address = server.address();
    tracing::info!(
        "serving agents and operators on {address}, enrolment on {}",
        server.enrol_address()
    );
    systemd::ready(&address.to_string());
    let watchdog = tokio::spawn(systemd::watchdog(server.handle().clone()));
    tokio::select! {
        error = server.failed() => return Err(error.into()),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    systemd::stopping();
    watchdog.abort();
    Ok(server.stop().await?)
}
