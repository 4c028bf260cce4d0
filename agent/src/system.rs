//! A real machine: systemd and Nix. Whatever is heavy or disruptive runs as a transient unit of
//! PID 1, so that it outlives the agent and is not bound by the agent's own restrictions.

use std::{
    cell::Cell,
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    slice,
    time::Duration,
};

use agent_core::{MayBegin, Reach, StepId};
use common::{BootId, LeaseId, StorePath, Target, text};
use platform::clock::Clock;
use tokio::{net::UnixStream, process::Command};

use crate::{
    child,
    closure_diff::{Difference, Part},
    config::{Config, Limits},
    dead_man::DeadManProgram,
    health::memory,
    host::{
        End, FailedUnit, Family, Host, HostError, Missing, NOBODYS_HOME, Ran, Reboot, Resources,
        RunAs, Since, UNIT_PREFIX, Unit, belongs_to,
    },
    links::{Links, ROOTS, below},
    network,
    nix::{FETCHING, Nix},
    nix_daemon, roots,
    systemd::{ServiceMake, Systemd},
};

/// Longest for a program that only looks at something.
const LOOK: Duration = Duration::from_secs(30);

/// Longest for setting the profile: `nix-env` waits for the profile's lock.
const PROFILE_WITHIN: Duration = Duration::from_secs(120);

/// The dead-man program's service that a timer of the machine starts some time after each boot.
const BOOT_DEAD_MAN: &str = "lab-updater-dead-man.service";

/// Paths of which one call of `nix-store` says the sizes: few enough for a command line.
const SIZES_AT_ONCE: usize = 1000;

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

    /// The end of what a unit wrote, from the journal.
    async fn output(&self, unit: &str) -> String {
        let lines = [
            "--quiet",
            "--no-pager",
            "--output=cat",
            "--lines=60",
            // Not `--unit`: that brings what systemd says about the unit as well.
            &format!("_SYSTEMD_UNIT={unit}"),
        ];
        let output = self.look("journalctl", &lines).await;
        text::tame(&output.unwrap_or_default(), text::OUTPUT_MAX)
    }

    /// Runs a program that only reads, as our child, and returns what it printed.
    async fn look(&self, program: &str, arguments: &[&str]) -> Result<String, HostError> {
        let doing = || format!("run {program}");
        let child = Command::new(self.nix.program(program))
            .args(arguments)
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

    /// Everything that a path needs, itself included.
    async fn closure(&self, path: &StorePath) -> Result<BTreeSet<StorePath>, HostError> {
        let words = ["--query", "--requisites", path.as_str()];
        let listed = self.look("nix-store", &words).await?;
        let paths = listed.lines().map(str::parse);
        paths
            .collect::<Result<_, _>>()
            .map_err(|error| HostError::Missing(format!("nix-store names no path: {error}")))
    }

    /// These paths with their sizes.
    async fn with_sizes(
        &self,
        paths: impl Iterator<Item = &StorePath>,
    ) -> Result<Vec<Part>, HostError> {
        let paths: Vec<&StorePath> = paths.collect();
        let mut parts = Vec::with_capacity(paths.len());
        for paths in paths.chunks(SIZES_AT_ONCE) {
            let mut words = vec!["--query", "--size"];
            words.extend(paths.iter().map(|path| path.as_str()));
            let listed = self.look("nix-store", &words).await?;
            let sizes: Vec<u64> = listed
                .lines()
                .filter_map(|line| line.parse().ok())
                .collect();
            if sizes.len() != paths.len() {
                let (asked, told) = (paths.len(), sizes.len());
                let what = format!("nix-store says {told} sizes of {asked} paths");
                return Err(HostError::Missing(what));
            }
            parts.extend(paths.iter().map(|path| (*path).clone()).zip(sizes));
        }
        Ok(parts)
    }

    /// Runs a unit of Nix and makes anything but success an error.
    async fn run_nix(&self, unit: &Unit) -> Result<String, HostError> {
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
        let boot_id = text.trim().parse();
        boot_id.map_err(|error| HostError::Missing(format!("{path} holds no boot id: {error}")))
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

    async fn sweep(&self, open: Option<StepId>) -> Result<(), HostError> {
        let ours: Vec<String> = Family::ALL
            .iter()
            .map(|family| format!("{UNIT_PREFIX}{}-*.service", family.word()))
            .collect();
        for unit in self.systemd.list_ended(ours).await? {
            if !open.is_some_and(|step| belongs_to(&unit, step)) {
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
        fs::create_dir_all(ROOTS).map_err(|error| HostError::io(format!("make {ROOTS}"), error))?;
        let out_link = Path::new(ROOTS).join(format!("result-{step}"));
        let command = self
            .nix
            .obtain(target, &out_link)
            .map_err(|error| HostError::Missing(error.to_string()))?;
        // The root is there before the path is: no collection can come between.
        if let Target::Closure(path) = target {
            roots::add(&self.links, path)?;
        }
        let (run_as, environment) = fetcher(target, Path::new(nix_daemon::SOCKET).exists());
        let unit = Unit {
            family: Family::Stage,
            tag: step.to_string(),
            description: format!("lab-updater: obtain {target}"),
            command,
            environment,
            within,
            resources: fetching(&self.limits),
            run_as,
            may_begin: MayBegin::Always,
        };
        let output = self.run_nix(&unit).await?;
        let path = match target {
            Target::Closure(path) => path.clone(),
            Target::Flake { .. } | Target::Channel { .. } => {
                let nothing = || HostError::Missing(format!("{target} built nothing"));
                let path = self.links.resolve(&out_link).ok_or_else(nothing)?;
                roots::add(&self.links, &path)?;
                path
            }
        };
        Ok((path, output))
    }

    async fn missing(&self, target: &Target) -> Result<Option<Missing>, HostError> {
        // What building takes nobody knows before.
        let Target::Closure(path) = target else {
            return Ok(None);
        };
        let stream = match UnixStream::connect(nix_daemon::SOCKET).await {
            Ok(stream) => stream,
            // Nix without a daemon: for one user, who is root here.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(HostError::io("reach the Nix daemon", error)),
        };
        let paths = slice::from_ref(path);
        Ok(Some(nix_daemon::missing(stream, paths, &FETCHING).await?))
    }

    async fn difference(
        &self,
        before: &StorePath,
        after: &StorePath,
    ) -> Result<Option<Difference>, HostError> {
        let (old, new) = (self.closure(before).await?, self.closure(after).await?);
        Ok(Some(Difference {
            before: self.with_sizes(old.difference(&new)).await?,
            after: self.with_sizes(new.difference(&old)).await?,
        }))
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
        self.run_nix(&unit).await.map(drop)
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

    async fn reboot(&self) -> Result<Reboot, HostError> {
        let asked = self.reboots_asked.replace(self.reboots_asked.get() + 1);
        if asked == 0 && !self.direct {
            match self.systemd.reboot().await {
                Ok(()) => return Ok(Reboot::UnderWay),
                Err(error) => tracing::warn!("logind did not reboot, asking systemd: {error}"),
            }
        }
        // systemctl reaches PID 1 without the bus.
        if asked == 0 {
            let job = "--job-mode=replace-irreversibly";
            let orderly = ["start", "--no-block", job, "reboot.target"];
            match self.look("systemctl", &orderly).await {
                Ok(_) => return Ok(Reboot::UnderWay),
                Err(error) => tracing::warn!("no reboot in order, so by force: {error}"),
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
        let arguments = [
            "--quiet",
            "--no-pager",
            "--lines=1",
            "--output=json",
            "--output-fields=_BOOT_ID",
        ];
        let text = self.look("journalctl", &arguments).await?;
        let entry: serde_json::Value = serde_json::from_str(text.trim())
            .map_err(|error| HostError::io("read the journal", io::Error::other(error)))?;
        let cursor = entry["__CURSOR"].as_str().unwrap_or_default();
        fs::write(&self.journal_mark, cursor)
            .map_err(|error| HostError::io("remember the place in the journal", error))
    }

    async fn serious_entries(&self, priority: u8, since: Since) -> Result<Vec<String>, HostError> {
        let from = match since {
            Since::Mark => {
                let cursor = fs::read_to_string(&self.journal_mark).unwrap_or_default();
                if cursor.is_empty() {
                    return Ok(Vec::new());
                }
                format!("--after-cursor={cursor}")
            }
            Since::Ago(duration) => format!("--since=-{}s", duration.as_secs()),
        };
        let priority = format!("--priority={priority}");
        let arguments = [
            "--quiet",
            "--no-pager",
            "--lines=20",
            "--output=json",
            "--output-fields=MESSAGE,SYSLOG_IDENTIFIER",
            &priority,
            &from,
        ];
        let text = self.look("journalctl", &arguments).await?;
        Ok(text.lines().map(entry_line).collect())
    }

    async fn service(&self) -> Option<ServiceMake> {
        self.systemd.service_of(std::process::id()).await.ok()
    }
}

/// Who obtains a target, and what their environment is besides. A closure is asked of the daemon by
/// somebody whom it does not trust: so it is the daemon that asks for signatures, whatever the one
/// who asks was told. What is built here may need keys of root's to be fetched.
fn fetcher(target: &Target, has_daemon: bool) -> (RunAs, Vec<(String, String)>) {
    match target {
        Target::Closure(_) if has_daemon => {
            let environment = [("NIX_REMOTE", "daemon"), ("HOME", NOBODYS_HOME)];
            let owned = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
            (RunAs::Nobody, owned.to_vec())
        }
        Target::Closure(_) | Target::Flake { .. } | Target::Channel { .. } => {
            (RunAs::Root, Vec::new())
        }
    }
}

/// What fetching and building may take. Left to itself an evaluation can take all the memory of a
/// small machine, and its database's with it.
fn fetching(limits: &Limits) -> Resources {
    let whole = fs::read_to_string("/proc/meminfo").ok();
    let whole = whole.and_then(|text| memory(&text, "MemTotal"));
    Resources {
        memory_max: limits.memory_max.or(whole.map(|bytes| bytes / 4 * 3)),
        tasks_max: Some(limits.tasks_max),
    }
}

/// One journal entry in a few words.
fn entry_line(json: &str) -> String {
    let entry: serde_json::Value = serde_json::from_str(json).unwrap_or_default();
    let word = |name: &str| entry[name].as_str().unwrap_or("?").to_owned();
    text::tame_line(
        &format!("{}: {}", word("SYSLOG_IDENTIFIER"), word("MESSAGE")),
        200,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fetching_never_takes_all_the_memory() {
        let file = "machine = \"a\"\ncoordinator = \"hub:7443\"\n[limits]\n";
        let dir = tempfile::tempdir().expect("a directory");
        let limits = |more: &str| {
            let path = dir.path().join("agent.toml");
            fs::write(&path, format!("{file}{more}")).expect("written");
            Config::load(&path).expect("good").limits
        };
        let usual = fetching(&limits(""));
        let whole = fs::read_to_string("/proc/meminfo").expect("readable");
        let whole = memory(&whole, "MemTotal").expect("known");
        assert_eq!(usual.memory_max, Some(whole / 4 * 3));
        assert_eq!(usual.tasks_max, Some(4096));
        let own = fetching(&limits("memory_max = 104857600\ntasks_max = 64"));
        assert_eq!(
            (own.memory_max, own.tasks_max),
            (Some(104_857_600), Some(64))
        );
    }

    #[test]
    fn a_journal_entry_becomes_one_harmless_line() {
        let json = r#"{"MESSAGE":"disk\u001b[31m on fire\nreally","SYSLOG_IDENTIFIER":"kernel"}"#;
        assert_eq!(entry_line(json), "kernel: disk [31m on fire really");
        assert_eq!(entry_line("not json"), "?: ?");
    }
}
