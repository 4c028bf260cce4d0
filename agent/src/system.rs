//! A real machine: systemd and Nix. Whatever is heavy or disruptive runs as a transient unit of
//! PID 1, so that it outlives the agent and is not bound by the agent's own restrictions.

mod boot;
mod journal;
mod store;

use std::{
    cell::Cell,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use agent_core::{MayBegin, NextBoot, Reach, RebootKind, StepId, Trial};
use common::{BootId, LeaseId, StorePath, Target, error_chain::Chain, text};
use platform::clock::Clock;
use tokio::process::Command;

use crate::{
    child,
    closure_diff::Difference,
    config::{Config, Limits},
    dead_man::DeadManProgram,
    health::memory,
    host::{
        End, FailedUnit, Family, Host, HostError, Missing, Ran, Reboot, Resources, RunAs, Since,
        UNIT_PREFIX, Unit, belongs_to,
    },
    links::{Links, below},
    network,
    nix::Nix,
    soft_reboot::{self, Boots},
    systemd::{ServiceMake, Systemd},
};

/// Longest for a program that only looks at something.
const LOOK: Duration = Duration::from_secs(30);

/// Longest for setting the profile: `nix-env` waits for the profile's lock.
const PROFILE_WITHIN: Duration = Duration::from_secs(120);

/// The dead-man program's service that a timer of the machine starts some time after each boot.
const BOOT_DEAD_MAN: &str = "lab-updater-dead-man.service";

/// How much of what Nix said goes into an error, in bytes.
const SAID_MAX: usize = 400;

/// A machine with systemd and Nix.
#[derive(Debug)]
pub struct System {
    links: Links,
    systemd: Systemd,
    nix: Nix,
    limits: Limits,
    clock: Clock,
    coordinator: String,
    dead_man: DeadManProgram,
    journal_mark: PathBuf,
    trial_mark: PathBuf,
    reboots_asked: Cell<u32>,
    /// Programs run as our own children, and nothing needs the bus.
    direct: bool,
}

impl System {
    /// The machine that this process runs on.
    pub fn new(config: &Config, dead_man: DeadManProgram) -> Self {
        Self {
            links: Links::new(Path::new("/")),
            systemd: Systemd::default(),
            nix: Nix::find(),
            limits: config.limits.clone(),
            clock: config.clock.clone().unwrap_or_else(Clock::system),
            coordinator: config.coordinator.clone(),
            dead_man,
            journal_mark: config.state_dir.join("journal-mark"),
            trial_mark: config.state_dir.join("boot-trial"),
            reboots_asked: Cell::new(0),
            direct: false,
        }
    }

    /// The same machine for the dead-man program: it is a unit of PID 1 itself, and the system it
    /// is to leave may have broken D-Bus.
    pub fn without_bus(config: &Config, dead_man: DeadManProgram) -> Self {
        Self {
            direct: true,
            ..Self::new(config, dead_man)
        }
    }

    /// Runs a program that only reads, as our child, and returns what it printed.
    async fn look(&self, program: &str, arguments: &[&str]) -> Result<String, HostError> {
        self.look_with(&[&[program], arguments].concat(), &[]).await
    }

    /// The same for a program and its arguments in one, with something in its environment.
    async fn look_with(
        &self,
        words: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<String, HostError> {
        let (program, arguments) = words.split_first().unwrap_or((&"", &[]));
        let doing = || format!("run {program}");
        let child = Command::new(self.nix.program(program))
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(LOOK, child)
            .await
            .map_err(|_| HostError::TimedOut(doing()))?
            .map_err(|error| HostError::io(doing(), error))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(HostError::Program {
                doing: doing(),
                said: format!("{} {}", output.status, text::tame_line(&said, 200)),
            })
        }
    }

    /// What PID 1 says of a property of the soft-reboot's target; it is asked without the bus.
    async fn soft_reboot_property(&self, property: &str) -> Result<String, HostError> {
        let property = format!("--property={property}");
        let show = ["show", &property, "--value", soft_reboot::TARGET];
        let said = self.look("systemctl", &show).await?;
        Ok(said.trim().to_owned())
    }

    /// Whether the machine is on its way into a soft-reboot: PID 1 has a job for it.
    pub(crate) async fn is_in_soft_reboot(&self) -> Result<bool, HostError> {
        // Empty, or 0, where there is none.
        let job = self.soft_reboot_property("Job").await?;
        Ok(job.parse().is_ok_and(|job: u64| job > 0))
    }

    /// Runs a unit and makes anything but success an error.
    async fn run_well(&self, unit: &Unit) -> Result<String, HostError> {
        let ran = self.run(unit).await?;
        let doing = unit.description.trim_start_matches("lab-updater: ");
        match ran.end {
            End::Exited(0) => Ok(ran.output),
            End::TimedOut => Err(HostError::TimedOut(doing.to_owned())),
            end @ (End::Exited(_) | End::Signal(_) | End::NotStarted(_)) => {
                Err(HostError::Program {
                    doing: doing.to_owned(),
                    said: format!("{end}: {}", text::last_lines(&ran.output, SAID_MAX)),
                })
            }
        }
    }
}

impl Host for System {
    fn links(&self) -> &Links {
        &self.links
    }

    fn boot_id(&self) -> Result<BootId, HostError> {
        let path = "/proc/sys/kernel/random/boot_id";
        let text = fs::read_to_string(path).map_err(|e| HostError::io("read the boot id", e))?;
        Boots::of_machine().name(text.trim())
    }

    async fn next_boot(&self) -> NextBoot {
        self.ask_next_boot().await
    }

    async fn boot_once(&self, trial: &Trial, tag: &str) -> Result<Option<String>, HostError> {
        self.try_once(trial, tag).await.map(Some)
    }

    async fn boot_always(&self, tag: &str) -> Result<(), HostError> {
        self.end_trial(tag).await
    }

    async fn run(&self, unit: &Unit) -> Result<Ran, HostError> {
        if self.direct {
            return child::run(unit, &self.nix.environment()).await;
        }
        let name = unit.name();
        if self.systemd.look(&name).await?.is_none() {
            unit.check_begin(&self.clock)?;
            self.systemd.start(unit, &self.nix.environment()).await?;
        }
        let end = self.systemd.wait(&name, unit.within).await?;
        let output = self.output(&name).await;
        Ok(Ran { end, output })
    }

    async fn has_unit(&self, step: StepId) -> Result<bool, HostError> {
        let pattern = format!("{UNIT_PREFIX}*-{step}.service");
        Ok(!self.systemd.list(vec![pattern]).await?.is_empty())
    }

    async fn clear(&self, tag: &str) -> Result<(), HostError> {
        let pattern = format!("{UNIT_PREFIX}*-{tag}.service");
        for unit in self.systemd.list(vec![pattern]).await? {
            self.systemd.clear(&unit).await?;
        }
        Ok(())
    }

    async fn sweep(&self, awaited: &[StepId]) -> Result<(), HostError> {
        let ours: Vec<String> = Family::ALL
            .iter()
            .map(|family| format!("{UNIT_PREFIX}{}-*.service", family.word()))
            .collect();
        for unit in self.systemd.list_ended(ours).await? {
            if !belongs_to(&unit, awaited) {
                self.systemd.clear(&unit).await?;
            }
        }
        Ok(())
    }

    async fn stop(&self, families: &[Family]) -> Result<(), HostError> {
        let patterns: Vec<String> = families
            .iter()
            .map(|family| format!("{UNIT_PREFIX}{}-*.service", family.word()))
            .collect();
        if self.direct {
            let mut arguments = vec!["stop"];
            arguments.extend(patterns.iter().map(String::as_str));
            return self.look("systemctl", &arguments).await.map(drop);
        }
        for unit in self.systemd.list(patterns).await? {
            self.systemd.clear(&unit).await?;
        }
        Ok(())
    }

    async fn obtain(
        &self,
        step: StepId,
        target: &Target,
        within: Duration,
    ) -> Result<(StorePath, String), HostError> {
        self.obtain_target(step, target, within).await
    }

    async fn missing(&self, target: &Target) -> Result<Option<Missing>, HostError> {
        self.missing_of(target).await
    }

    async fn difference(
        &self,
        before: &StorePath,
        after: &StorePath,
    ) -> Result<Option<Difference>, HostError> {
        self.difference_of(before, after).await
    }

    fn available_memory(&self) -> Option<u64> {
        let text = fs::read_to_string("/proc/meminfo").ok()?;
        Some(memory(&text, "MemAvailable")? + memory(&text, "SwapFree").unwrap_or(0))
    }

    async fn is_complete(&self, path: &StorePath) -> Result<bool, HostError> {
        let command = self.nix.is_valid(path);
        let arguments: Vec<&str> = command.iter().skip(1).map(String::as_str).collect();
        match self.look("nix-store", &arguments).await {
            Ok(_) => Ok(true),
            Err(HostError::Program { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn set_profile(
        &self,
        tag: &str,
        path: &StorePath,
        may_begin: MayBegin,
    ) -> Result<(), HostError> {
        if self.links.resolve(crate::links::PROFILE).as_ref() == Some(path) {
            return Ok(());
        }
        let unit = Unit {
            family: Family::Profile,
            tag: tag.to_owned(),
            description: format!("lab-updater: set the system profile to {path}"),
            command: self.nix.set_profile(path),
            environment: Vec::new(),
            within: PROFILE_WITHIN,
            resources: Resources::tasks(self.limits.tasks_max),
            run_as: RunAs::Root,
            may_begin,
        };
        self.run_well(&unit).await.map(drop)
    }

    async fn remove_generations(&self, step: StepId, numbers: &[u64]) -> Result<(), HostError> {
        self.remove(step, numbers).await
    }

    async fn collect_garbage(&self, step: StepId, within: Duration) -> Result<(), HostError> {
        self.collect(step, within).await
    }

    fn switcher(&self, system: &StorePath) -> PathBuf {
        below(system, "bin/switch-to-configuration")
    }

    async fn arm(&self, lease: LeaseId, after: Duration) -> Result<(), HostError> {
        self.disarm(lease).await?;
        let name = self.dead_man.unit(lease);
        let description = format!("lab-updater: go back unless lease {lease} ends well");
        let command = self.dead_man.command(lease);
        let environment = self.nix.environment();
        self.systemd
            .start_dead_man(&name, &description, after, &command, &environment)
            .await
    }

    async fn disarm(&self, lease: LeaseId) -> Result<(), HostError> {
        let name = self.dead_man.unit(lease);
        self.systemd.clear(&format!("{name}.timer")).await
    }

    async fn await_dead_man(&self, lease: LeaseId, within: Duration) -> Result<(), HostError> {
        let own = format!("{}.service", self.dead_man.unit(lease));
        self.systemd.end(&[&own, BOOT_DEAD_MAN], within).await
    }

    async fn reboot_blockers(&self) -> Result<Vec<String>, HostError> {
        self.systemd.reboot_blockers().await
    }

    async fn can_soft_reboot(&self) -> bool {
        let loaded = self.soft_reboot_property("LoadState").await;
        let stands_by = ["is-active", "--quiet", soft_reboot::SERVICE];
        loaded.is_ok_and(|state| state == "loaded")
            && self.look("systemctl", &stands_by).await.is_ok()
    }

    async fn reboot(&self, kind: RebootKind) -> Result<Reboot, HostError> {
        let asked = self.reboots_asked.replace(self.reboots_asked.get() + 1);
        if asked == 0 && !self.direct {
            match self.systemd.reboot(kind).await {
                Ok(()) => return Ok(Reboot::UnderWay),
                Err(error) => {
                    tracing::warn!("logind did not reboot, asking systemd: {}", Chain(&error))
                }
            }
        }
        let job = "--job-mode=replace-irreversibly";
        let orderly = |target| async move {
            let words = ["start", "--no-block", job, target];
            // systemctl reaches PID 1 without the bus.
            let asked = self.look("systemctl", &words).await;
            asked.map(|_| Reboot::UnderWay)
        };
        // By force it would not take up the target.
        if kind == RebootKind::UserSpace {
            return orderly(soft_reboot::TARGET).await;
        }
        if asked == 0 {
            match orderly("reboot.target").await {
                Ok(under_way) => return Ok(under_way),
                Err(error) => tracing::warn!("no reboot in order, so by force: {}", Chain(&error)),
            }
        }
        // It does not wait for units to stop.
        let force = ["--force", "--no-block", "reboot"];
        self.look("systemctl", &force)
            .await
            .map(|_| Reboot::UnderWay)
    }

    async fn reaches(&self, who: Reach) -> bool {
        match who {
            Reach::Coordinator => network::accepts(&self.coordinator).await,
            Reach::Gateway => network::gateway().await,
            Reach::Substituter => network::substituter().await,
        }
    }

    async fn failed_units(&self) -> Result<Vec<FailedUnit>, HostError> {
        self.systemd.failed_units().await
    }

    async fn active_state(&self, unit: &str) -> Result<String, HostError> {
        self.systemd.active_state(unit).await
    }

    async fn mark_journal(&self) -> Result<(), HostError> {
        self.mark().await
    }

    async fn serious_entries(&self, priority: u8, since: Since) -> Result<Vec<String>, HostError> {
        self.entries(priority, since).await
    }

    async fn restart_loops(&self, within: Duration, times: u32) -> Result<Vec<String>, HostError> {
        self.loops(within, times).await
    }

    async fn service(&self) -> Option<ServiceMake> {
        self.systemd.service_of(std::process::id()).await.ok()
    }
}
