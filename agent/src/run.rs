//! The program: arguments, configuration, the rooms wired together, signals, exit status.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    rc::Rc,
    time::Duration,
};

use agent_core::Limits;
use clap::{Parser, Subcommand};
use common::{LeaseId, error_chain::Chain};
use platform::{clock::Clock, telemetry};
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
    task::LocalSet,
};

use crate::{
    ballast::Ballast,
    config::{Config, ExecutorConfig},
    coordinator_client::CoordinatorClient,
    dead_man::{self, DeadManProgram, EXIT_NOT_BACK, Verdict},
    directory::{Directory, EXIT_REBOOTED},
    driver::{Driver, DriverError, Exit},
    executor::{Executor, LOOK_AGAIN},
    host::{Host, HostError},
    jitter,
    self_test::{self, Findings},
    soft_reboot::{self, TakenUp},
    state_file::StateFile,
    system::System,
};

/// Exit status when the configuration is wrong.
const EXIT_CONFIG: u8 = 2;

/// How much the machine's own deadlines are exceeded by the core's patience with its health
/// checks.
const CHECKS_MARGIN: Duration = Duration::from_secs(30);

/// Keeps this machine up to date, when the coordinator gives it its turn.
#[derive(Debug, Parser)]
#[command(name = "lab-agent", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,
    /// Look at the configuration, list every fault, and end.
    #[arg(long)]
    check_config: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring the machine back to where the attempt under this lease began, unless it has ended.
    /// Started by the agent's own timer.
    DeadMan {
        /// Configuration file (TOML).
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Lease of the attempt. Without it: the attempt that this boot has left without an agent,
        /// if there is one; to be asked some time after each boot.
        #[arg(long)]
        lease: Option<u64>,
        /// Wait this many seconds first (where no timer of systemd does).
        #[arg(long, default_value_t = 0.0)]
        after: f64,
    },
    /// Take up the target of an attempt that the machine is being soft-rebooted for, if it is. What
    /// lab-updater-soft-reboot.service runs while it is stopped.
    SoftReboot {
        /// Configuration file (TOML).
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Say what the boot loader starts next, and whether anything brings the machine back from a
    /// system that does not boot. Exit status 1: nothing does.
    SelfTest {
        /// Configuration file (TOML).
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

/// Runs the agent. `program` is how this program is started without arguments of its own: the
/// dead-man timer starts it that way too.
pub fn main(program: Vec<String>, arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => error.exit(),
    };
    let file = match (&arguments.command, &arguments.config) {
        (
            Some(
                Command::DeadMan { config, .. }
                | Command::SoftReboot { config }
                | Command::SelfTest { config },
            ),
            _,
        )
        | (None, Some(config)) => config.clone(),
        (None, None) => return fail(EXIT_CONFIG, &"--config FILE is needed"),
    };
    let config = match Config::load(&file) {
        Ok(config) => config,
        Err(error) => return fail(EXIT_CONFIG, &Chain(&error)),
    };
    if arguments.check_config {
        return ExitCode::SUCCESS;
    }
    if let Err(error) = telemetry::init("lab-agent", "info") {
        return fail(EXIT_CONFIG, &Chain(&error));
    }
    // For the HTTP checks; a provider that is there already is as good.
    (*platform::identity::provider())
        .clone()
        .install_default()
        .ok();
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, &Chain(&error)),
    };
    let program = DeadManProgram {
        program,
        config: std::path::absolute(&file).unwrap_or(file),
    };
    match arguments.command {
        Some(Command::DeadMan { lease, after, .. }) => {
            let after = Duration::try_from_secs_f64(after).unwrap_or_default();
            run_dead_man(&runtime, &config, program, lease.map(LeaseId), after)
        }
        Some(Command::SoftReboot { .. }) => run_soft_reboot(&runtime, &config, program),
        Some(Command::SelfTest { .. }) => run_self_test(&runtime, &config, program),
        None => run_agent(&runtime, config, program),
    }
}

#[expect(
    clippy::print_stderr,
    reason = "logging is not set up yet, or is what failed"
)]
fn fail(status: u8, message: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("lab-agent: {message}");
    ExitCode::from(status)
}

fn clock(config: &Config) -> Clock {
    config.clock.clone().unwrap_or_else(Clock::system)
}

fn run_agent(runtime: &Runtime, config: Config, program: DeadManProgram) -> ExitCode {
    let tasks = LocalSet::new();
    let ended = tasks.block_on(runtime, async {
        match &config.executor {
            ExecutorConfig::System => {
                let host = System::new(&config, program);
                match self_test(&host).await?.comes_back {
                    Ok(how) => tracing::info!("a system that does not boot is left by {how}"),
                    Err(why) => tracing::warn!("nothing leaves a system that does not boot: {why}"),
                }
                drive(host, config).await
            }
            ExecutorConfig::Directory { root, cache } => {
                let host = Directory::open(root, cache, clock(&config), program).await?;
                drive(host, config).await
            }
        }
    });
    match ended {
        Ok(Exit::Stopped) => ExitCode::SUCCESS,
        Ok(Exit::Booted) => ExitCode::from(EXIT_REBOOTED),
        Ok(Exit::Outdated) => {
            tracing::info!("the service has been changed: starting anew");
            // The service manager starts it again after any end. Another status than 0 would be a
            // failed unit to a switch that looks at it just then.
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!("{}", Chain(&error));
            ExitCode::FAILURE
        }
    }
}

async fn drive<H: Host + 'static>(host: H, config: Config) -> Result<Exit, DriverError> {
    make_state_directory(&config.state_dir)?;
    let clock = clock(&config);
    let link = Rc::new(CoordinatorClient::new(&config));
    if let Err(error) = Ballast::within(&config.state_dir).keep() {
        tracing::warn!("no room is kept for the day when the disk is full: {error}");
    }
    let state = StateFile::new(config.state_file());
    let limits = core_limits(&config, &clock);
    tracing::info!(machine = %config.machine, coordinator = %config.coordinator, "starting");
    let executor = Executor::new(host, config, clock.clone());
    let driver = Driver::new(limits, state, executor, Rc::clone(&link), clock)?;
    let certificate = tokio::task::spawn_local(async move { link.keep_certificate().await });
    let exit = driver.run(stop_asked()?).await;
    certificate.abort();
    exit
}

fn make_state_directory(path: &Path) -> Result<(), HostError> {
    use std::os::unix::fs::DirBuilderExt as _;
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path);
    made.map_err(|error| HostError::io(format!("make {}", path.display()), error))
}

/// Ends when the process is asked to stop.
fn stop_asked() -> Result<impl Future<Output = ()>, HostError> {
    let failed = |error: io::Error| HostError::io("listen to signals", error);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn run_dead_man(
    runtime: &Runtime,
    config: &Config,
    program: DeadManProgram,
    lease: Option<LeaseId>,
    after: Duration,
) -> ExitCode {
    let verdict = LocalSet::new().block_on(runtime, async {
        tokio::time::sleep(after).await;
        match &config.executor {
            ExecutorConfig::System => {
                let host = System::without_bus(config, program);
                dead_man::run(&host, config, lease).await
            }
            ExecutorConfig::Directory { root, cache } => {
                let host = Directory::open(root, cache, clock(config), program).await?;
                dead_man::run(&host.as_dead_man(), config, lease).await
            }
        }
    });
    match verdict {
        Ok(Verdict::NothingToDo) => {
            tracing::info!("the attempt is over: nothing to do");
            ExitCode::SUCCESS
        }
        Ok(Verdict::WentBack) => {
            tracing::warn!("the machine is back at the previous system");
            ExitCode::SUCCESS
        }
        Ok(Verdict::NotBack) => {
            tracing::error!(
                "the machine was rebooted to bring it back, and runs something else: it needs a person"
            );
            ExitCode::from(EXIT_NOT_BACK)
        }
        Err(error) => {
            tracing::error!("{}", Chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn run_soft_reboot(runtime: &Runtime, config: &Config, program: DeadManProgram) -> ExitCode {
    if !matches!(config.executor, ExecutorConfig::System) {
        return fail(EXIT_CONFIG, &"a directory has no user space");
    }
    let host = System::without_bus(config, program);
    match runtime.block_on(soft_reboot::take_up(&host, config)) {
        Ok(TakenUp::NoSoftReboot) => ExitCode::SUCCESS,
        Ok(TakenUp::NoTarget) => {
            tracing::info!("a soft-reboot that belongs to no attempt");
            ExitCode::SUCCESS
        }
        Ok(TakenUp::Target(target)) => {
            tracing::info!("{target} is what is started next");
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!("{}", Chain(&error));
            ExitCode::FAILURE
        }
    }
}

async fn self_test(host: &System) -> Result<Findings, HostError> {
    let facts = host.links().facts(host.boot_id()?);
    Ok(self_test::judge(&host.boot_chain().await, &facts))
}

#[expect(clippy::print_stdout, reason = "the answer to who asked")]
fn run_self_test(runtime: &Runtime, config: &Config, program: DeadManProgram) -> ExitCode {
    if !matches!(config.executor, ExecutorConfig::System) {
        return fail(EXIT_CONFIG, &"a directory has no boot loader");
    }
    match runtime.block_on(self_test(&System::new(config, program))) {
        Ok(findings) => {
            print!("{}", findings.text);
            match findings.comes_back {
                Ok(_) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            }
        }
        Err(error) => fail(1, &Chain(&error)),
    }
}

/// The core's limits, from the machine's configuration. With a fast clock, what takes real time
/// gets it (see [`Clock::patience`]).
fn core_limits(config: &Config, clock: &Clock) -> Limits {
    let patient = |fleet: Duration| clock.fleet(clock.patience(fleet));
    let usual = Limits::default();
    let longest_check = config.checks.iter().map(|check| check.timeout).max();
    // Before an attempt a failing check is looked at twice.
    let looks = longest_check.unwrap_or_default() * 2 + LOOK_AGAIN + CHECKS_MARGIN;
    Limits {
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        seed: jitter::seed(),
        poll_hold: config.poll_hold,
        call_timeout: patient(usual.call_timeout),
        health_every: config.check_interval,
        stage_timeout: patient(config.limits.stage_timeout),
        stage_pause: config.limits.stage_pause,
        short_step: patient(usual.short_step.max(looks)),
        hook_timeout: patient(config.hooks.timeout),
        switch_timeout: patient(config.limits.switch_timeout),
        reboot_wait: config.limits.reboot_wait,
        announce_timeout: patient(usual.announce_timeout),
        reboot_timeout: patient(usual.reboot_timeout),
        boot_timeout: patient(config.limits.boot_timeout),
        grace: patient(usual.grace),
        attempt_timeout: config.limits.attempt_timeout.map(patient),
        has_traffic_script: config.hooks.traffic.is_some(),
        ..usual
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_what_the_contract_says() {
        let parse = |words: &[&str]| Arguments::try_parse_from(words);
        assert!(parse(&["lab-agent", "--config", "f"]).is_ok());
        assert!(parse(&["lab-agent", "--config", "f", "--check-config"]).is_ok());
        assert!(parse(&["lab-agent", "dead-man", "--config", "f", "--lease", "3"]).is_ok());
        assert!(parse(&["lab-agent", "self-test", "--config", "f"]).is_ok());
        assert!(parse(&["lab-agent", "self-test"]).is_err());
        assert!(parse(&["lab-agent", "soft-reboot", "--config", "f"]).is_ok());
        assert!(parse(&["lab-agent"]).is_err());
        assert!(parse(&["lab-agent", "dead-man", "--config", "f"]).is_ok());
        assert!(parse(&["lab-agent", "dead-man"]).is_err());
    }
}
