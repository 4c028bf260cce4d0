//! The way back when nobody calls it off: a program of its own, started by a timer that PID 1
//! owns. It needs neither the agent nor the coordinator nor D-Bus.

use std::{path::PathBuf, time::Duration};

use agent_core::{Mode, RebootKind, state::DeadManOrder};
use common::LeaseId;

use crate::{
    ballast::{self, Ballast},
    config::Config,
    executor,
    host::{Family, Host, HostError, UNIT_PREFIX},
    links::CURRENT,
    state_file::{StateFile, StateFileError, StateStore as _},
    verdict::{Judge, Verdicts},
};

/// How often it tries, since a switch of somebody else may hold the lock, and the pause between.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_secs(15);

/// Exit status when there is nothing that the program could still do. Not to be started again.
pub const EXIT_NOT_BACK: u8 = 3;

/// How the dead-man program is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadManProgram {
    /// This very program, and what comes before its arguments.
    pub program: Vec<String>,
    /// The agent's configuration file.
    pub config: PathBuf,
}

impl DeadManProgram {
    /// Its timer and service, without the suffix.
    pub fn unit(&self, lease: LeaseId) -> String {
        format!("{UNIT_PREFIX}dead-man-{lease}")
    }

    /// Program and arguments.
    pub fn command(&self, lease: LeaseId) -> Vec<String> {
        let mut command = self.program.clone();
        command.extend([
            "dead-man".to_owned(),
            "--config".to_owned(),
            self.config.to_string_lossy().into_owned(),
            "--lease".to_owned(),
            lease.to_string(),
        ]);
        command
    }
}

/// Why the machine could not be brought back.
#[derive(Debug, thiserror::Error)]
pub enum DeadManError {
    /// The agent's journal cannot be read.
    #[error("cannot tell where the attempt stands")]
    State(#[from] StateFileError),
    /// The machine refused.
    #[error("cannot bring the machine back")]
    Host(#[from] HostError),
    /// Every try ended badly.
    #[error("the previous system could not be taken up: {0}")]
    Failed(String),
}

/// What it came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The attempt is over, or was never disturbing: nothing was done.
    NothingToDo,
    /// The machine is back, or rebooting into where it came from.
    WentBack,
    /// It was rebooted for that before, and runs something else again.
    NotBack,
}

/// Brings the machine back, if the attempt under this lease still needs it. Without a lease: if
/// this boot has left an attempt without an agent. That is asked some time after each boot, which
/// no timer of the agent's outlives.
pub async fn run<H: Host>(
    host: &H,
    config: &Config,
    lease: Option<LeaseId>,
) -> Result<Verdict, DeadManError> {
    let Some(state) = StateFile::new(config.state_file()).load()? else {
        return Ok(Verdict::NothingToDo);
    };
    let lease = match lease {
        Some(lease) => Some(lease),
        None => state.left_without_agent(&host.boot_id()?),
    };
    let order = lease.and_then(|lease| Some((lease, state.dead_man_order(lease)?)));
    let Some((lease, order)) = order else {
        return Ok(Verdict::NothingToDo);
    };
    // A mark of our own from an earlier run of this program is as good as a new one.
    let verdicts = Verdicts::new(&config.state_dir);
    let ballast = Ballast::within(&config.state_dir);
    let judge = ballast.spare(|| verdicts.claim(lease, Judge::DeadMan), no_space)?;
    match judge {
        Judge::Agent => Ok(Verdict::NothingToDo),
        Judge::DeadMan => {
            tracing::warn!(lease = lease.0, to = %order.previous.running, "nobody called it off: going back");
            go_back(host, config, lease, &order).await?;
            if order.reboot && !is_back(host, &order) {
                boot_back(host, &verdicts, lease).await
            } else {
                Ok(Verdict::WentBack)
            }
        }
    }
}

fn no_space(error: &HostError) -> bool {
    match error {
        HostError::Io { cause, .. } => ballast::is_full(cause),
        HostError::Bus { .. }
        | HostError::Daemon(_)
        | HostError::Program { .. }
        | HostError::Missing(_)
        | HostError::NotReady(_)
        | HostError::Elsewhere(_)
        | HostError::TimedOut(_)
        | HostError::Lost(_)
        | HostError::NotBegun { .. }
        | HostError::NotAllowed(_) => false,
    }
}

/// Whether a reboot would lead nowhere else: the machine runs what it ran before the attempt, or
/// what a boot would have started then.
fn is_back<H: Host>(host: &H, order: &DeadManOrder) -> bool {
    let running = host.links().resolve(CURRENT);
    [&order.previous.running, &order.previous.boot_default]
        .into_iter()
        .any(|path| running.as_ref() == Some(path))
}

/// Boots into what the boot default names again. Once for a lease: were the way back to end
/// elsewhere, this program, which is asked after each boot, would boot the machine for ever.
async fn boot_back<H: Host>(
    host: &H,
    verdicts: &Verdicts,
    lease: LeaseId,
) -> Result<Verdict, DeadManError> {
    if !verdicts.may_boot_back(lease, &host.boot_id()?)? {
        return Ok(Verdict::NotBack);
    }
    host.reboot(RebootKind::Machine).await?;
    Ok(Verdict::WentBack)
}

/// Puts the boot default back, and where the machine was not booted for the attempt, the system
/// that runs.
async fn go_back<H: Host>(
    host: &H,
    config: &Config,
    lease: LeaseId,
    order: &DeadManOrder,
) -> Result<(), DeadManError> {
    let mode = if order.reboot {
        Mode::Boot
    } else {
        Mode::Switch
    };
    let mut said = String::new();
    for attempt in 0..TRIES {
        if attempt > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        if let Err(error) = host.stop(&Family::DISRUPTIVE).await {
            tracing::warn!("what is at work cannot be stopped: {error}");
        }
        let tag = format!("dead-man-{lease}-{attempt}");
        let limits = &config.limits;
        let limits = (limits.switch_timeout, limits.switch_tasks_max);
        match executor::restore(host, &order.previous, mode, &tag, limits).await {
            Ok(ran) if executor::went_through(&ran.end) => return Ok(()),
            Ok(ran) => said = ran.end.to_string(),
            Err(error) => said = common::error_chain::Chain(&error).to_string(),
        }
        tracing::error!(lease = lease.0, attempt, "not back yet: {said}");
        // A full disk may be all that stands in the way.
        Ballast::within(&config.state_dir).release();
    }
    Err(DeadManError::Failed(said))
}
