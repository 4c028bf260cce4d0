//! A directory that stands in for a machine: the demo and tests run the agent on it.
//!
//! Real in it: store paths as files, the profile with its links and generations, the closures' own
//! `switch-to-configuration`, the hook scripts, the health checks. Stood in for: systemd (each unit
//! is a process group of its own, with its result in a file, so that it outlives the agent as a
//! unit would), Nix (closures come from a cache directory) and the reboot (a new boot id, the links
//! set from the boot default, the system started; the agent then ends with [`EXIT_REBOOTED`]).
//!
//! Scripts find their machine through the environment variable `LAB_ROOT`.

mod store;
mod units;

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use agent_core::{MayBegin, Reach, RebootKind, StepId};
use common::{BootId, LeaseId, StorePath, Target, text};
use platform::clock::Clock;

pub use self::store::{set_link, set_profile};
use self::units::{LOOK_MAX, UNITS, end_in, living};
use crate::{
    dead_man::DeadManProgram,
    host::{
        FailedUnit, Family, Host, HostError, Ran, Reboot, RunAs, Since, UNIT_PREFIX, Unit,
        belongs_to, check_begin,
    },
    links::{BOOTED, CURRENT, Links, PROFILE, PROFILES, below},
    systemd::ServiceMake,
};

/// Exit status of the agent after its machine was booted anew: whoever keeps it running is to
/// start it again, as systemd would in the new boot.
pub const EXIT_REBOOTED: u8 = 86;

/// Where the boot id lies.
const BOOT_ID: &str = "/boot_id";

/// There while a boot is under way, so that one that is cut short is done again.
const BOOTING: &str = "/booting";

/// What the boot loader would start.
pub const BOOT_DEFAULT: &str = "/boot/default";

/// A unit of this name counts as failed.
const FAILED: &str = "/run/systemd/failed";

/// Journal entries of the machine, one `<priority> <text>` a line.
const JOURNAL: &str = "/run/lab-updater/journal";

/// Who answers over the network, one word a line; nobody is known without it.
const NETWORK: &str = "/run/lab-updater/network";

/// Who would mind a reboot, one a line.
const USERS: &str = "/run/lab-updater/users";

/// There where soft-reboots take up what waits for the boot.
const SOFT_REBOOTS: &str = "/run/lab-updater/soft-reboots";

/// A machine in a directory.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
    cache: PathBuf,
    links: Links,
    clock: Clock,
    dead_man: DeadManProgram,
    is_dead_man: bool,
}

impl Directory {
    /// The machine below `root`, which obtains closures from `cache`. Boots it if it never was.
    pub async fn open(
        root: &Path,
        cache: &Path,
        clock: Clock,
        dead_man: DeadManProgram,
    ) -> Result<Self, HostError> {
        let machine = Self {
            root: root.to_owned(),
            cache: cache.to_owned(),
            links: Links::new(root),
            clock,
            dead_man,
            is_dead_man: false,
        };
        for directory in ["/nix/store", PROFILES, "/boot", "/run", UNITS] {
            let directory = machine.links.at(directory);
            fs::create_dir_all(&directory)
                .map_err(|error| HostError::io(format!("make {}", directory.display()), error))?;
        }
        if !machine.links.at(BOOT_ID).exists() || machine.links.at(BOOTING).exists() {
            machine.boot().await?;
        }
        Ok(machine)
    }

    /// The same machine for the dead-man program, which is one of its units.
    #[must_use]
    pub fn as_dead_man(self) -> Self {
        Self {
            is_dead_man: true,
            ..self
        }
    }

    /// Starts what the boot default names. The new boot id comes last: an agent that sees it ends,
    /// and with it the boot that it may be carrying out.
    async fn boot(&self) -> Result<(), HostError> {
        let failed = |error| HostError::io("boot the machine", error);
        fs::write(self.links.at(BOOTING), "").map_err(failed)?;
        self.start_system().await?;
        let boot_id = fs::read("/proc/sys/kernel/random/uuid").map_err(failed)?;
        let aside = self.links.at(BOOT_ID).with_extension("new");
        fs::write(&aside, boot_id).map_err(failed)?;
        fs::rename(&aside, self.links.at(BOOT_ID)).map_err(failed)?;
        fs::remove_file(self.links.at(BOOTING)).map_err(failed)
    }

    async fn start_system(&self) -> Result<(), HostError> {
        let failed = |error| HostError::io("boot the machine", error);
        let system = self
            .links
            .resolve(BOOT_DEFAULT)
            .or_else(|| self.links.resolve(PROFILE));
        for directory in [UNITS, FAILED, JOURNAL] {
            let path = self.links.at(directory);
            let removed = if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                Ok(()) | Err(_) => {}
            }
        }
        fs::create_dir_all(self.links.at(UNITS)).map_err(failed)?;
        let Some(system) = system else {
            return Ok(());
        };
        for link in [CURRENT, BOOTED] {
            set_link(&self.links, link, system.as_str()).map_err(failed)?;
        }
        // What the boot's own activation says is the system's business, as on a real machine.
        let mut starting = tokio::process::Command::new(self.switcher(&system));
        let starting = starting
            .arg("test")
            .env("LAB_ROOT", &self.root)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true)
            .status();
        match self.clock.timeout(Duration::from_secs(600), starting).await {
            Ok(Ok(status)) => tracing::debug!(%status, "the system is started"),
            Ok(Err(error)) => tracing::warn!("the system cannot be started: {error}"),
            Err(_) => tracing::warn!("the system does not finish starting"),
        }
        Ok(())
    }

    fn dead_man_file(&self, lease: LeaseId) -> PathBuf {
        let name = format!("{}.service", self.dead_man.unit(lease));
        self.links.at(UNITS).join(name)
    }
}

impl Host for Directory {
    fn links(&self) -> &Links {
        &self.links
    }

    fn boot_id(&self) -> Result<BootId, HostError> {
        let text = fs::read_to_string(self.links.at(BOOT_ID))
            .map_err(|error| HostError::io("read the boot id", error))?;
        let boot_id = text.trim().parse();
        boot_id.map_err(|error| HostError::Missing(format!("no boot id: {error}")))
    }

    async fn run(&self, unit: &Unit) -> Result<Ran, HostError> {
        let directory = self.links.at(UNITS).join(unit.name());
        if end_in(&directory).is_none() && living(&directory).is_none() {
            unit.check_begin(&self.clock)?;
            self.start(unit, &directory)
                .map_err(|error| HostError::io(format!("start {}", unit.name()), error))?;
        }
        let end = self.wait(unit, &directory).await?;
        let output = fs::read(directory.join("output")).unwrap_or_default();
        let output = text::tame(&String::from_utf8_lossy(&output), text::OUTPUT_MAX);
        Ok(Ran { end, output })
    }

    async fn has_unit(&self, step: StepId) -> Result<bool, HostError> {
        let suffix = format!("-{step}.service");
        let units = self.unit_directories(|name| name.ends_with(&suffix));
        Ok(units
            .iter()
            .any(|unit| end_in(unit).is_some() || living(unit).is_some()))
    }

    async fn clear(&self, tag: &str) -> Result<(), HostError> {
        let suffix = format!("-{tag}.service");
        let units = self.unit_directories(|name| name.ends_with(&suffix));
        units.iter().try_for_each(|unit| self.drop_unit(unit))
    }

    async fn sweep(&self, awaited: &[StepId]) -> Result<(), HostError> {
        let ended = self.unit_directories(|name| !belongs_to(name, awaited));
        let ended = ended.iter().filter(|unit| end_in(unit).is_some());
        ended.into_iter().try_for_each(|unit| self.drop_unit(unit))
    }

    async fn stop(&self, families: &[Family]) -> Result<(), HostError> {
        let units = self.unit_directories(|name| {
            let ours =
                |family: &Family| name.starts_with(&format!("{UNIT_PREFIX}{}-", family.word()));
            families.iter().any(ours)
        });
        units.iter().try_for_each(|unit| self.drop_unit(unit))
    }

    async fn obtain(
        &self,
        _step: StepId,
        target: &Target,
        _within: Duration,
    ) -> Result<(StorePath, String), HostError> {
        match target {
            Target::Closure(path) => {
                self.copy_closure(path)?;
                crate::roots::add(&self.links, path)?;
                Ok((path.clone(), String::new()))
            }
            Target::Flake { .. } | Target::Channel { .. } => Err(HostError::Missing(
                "a directory machine has no Nix to build with: it obtains closures only".to_owned(),
            )),
        }
    }

    async fn is_complete(&self, path: &StorePath) -> Result<bool, HostError> {
        Ok(self.links.at(path.as_str()).exists())
    }

    async fn set_profile(
        &self,
        tag: &str,
        path: &StorePath,
        may_begin: MayBegin,
    ) -> Result<(), HostError> {
        if self.links.resolve(PROFILE).as_ref() != Some(path) {
            check_begin(tag, may_begin, &self.clock)?;
        }
        set_profile(&self.links, path)
            .map_err(|error| HostError::io("set the system profile", error))
    }

    async fn remove_generations(&self, _step: StepId, numbers: &[u64]) -> Result<(), HostError> {
        for number in numbers {
            let link = self.links.at(format!("{PROFILES}/system-{number}-link"));
            fs::remove_file(link)
                .map_err(|error| HostError::io(format!("remove generation {number}"), error))?;
        }
        Ok(())
    }

    /// Nothing: what is in a directory's store stays there.
    async fn collect_garbage(&self, _step: StepId, _within: Duration) -> Result<(), HostError> {
        Ok(())
    }

    fn switcher(&self, system: &StorePath) -> PathBuf {
        self.links.at(below(system, "bin/switch-to-configuration"))
    }

    async fn arm(&self, lease: LeaseId, after: Duration) -> Result<(), HostError> {
        self.disarm(lease).await?;
        let directory = self.dead_man_file(lease);
        let mut command = self.dead_man.command(lease);
        command.push(format!("--after={}", self.clock.real(after).as_secs_f64()));
        let unit = Unit {
            family: Family::Restore,
            tag: String::new(),
            description: String::new(),
            command,
            environment: Vec::new(),
            within: Duration::MAX,
            resources: crate::host::Resources::default(),
            run_as: RunAs::Root,
            may_begin: MayBegin::Always,
        };
        self.start(&unit, &directory)
            .map_err(|error| HostError::io("start the dead-man timer", error))
    }

    async fn disarm(&self, lease: LeaseId) -> Result<(), HostError> {
        self.drop_unit(&self.dead_man_file(lease))
    }

    async fn await_dead_man(&self, lease: LeaseId, within: Duration) -> Result<(), HostError> {
        let unit = self.dead_man_file(lease);
        let deadline = Instant::now() + self.clock.patience(within);
        while living(&unit).is_some() && Instant::now() < deadline {
            tokio::time::sleep(LOOK_MAX).await;
        }
        self.drop_unit(&unit)
    }

    async fn reboot_blockers(&self) -> Result<Vec<String>, HostError> {
        let said = fs::read_to_string(self.links.at(USERS)).unwrap_or_default();
        Ok(said.lines().map(str::to_owned).collect())
    }

    async fn can_soft_reboot(&self) -> bool {
        self.links.at(SOFT_REBOOTS).exists()
    }

    async fn reboot(&self, _kind: RebootKind) -> Result<Reboot, HostError> {
        // Everything of this boot ends with it, timers too; only who asks lives a moment longer.
        let own = |name: &str| self.is_dead_man && name.contains("-dead-man-");
        for unit in self.unit_directories(|name| !own(name)) {
            self.drop_unit(&unit)?;
        }
        self.boot().await?;
        Ok(Reboot::Happened)
    }

    async fn reaches(&self, who: Reach) -> bool {
        fs::read_to_string(self.links.at(NETWORK))
            .is_ok_and(|text| text.lines().any(|line| line == who.word()))
    }

    async fn failed_units(&self) -> Result<Vec<FailedUnit>, HostError> {
        let entries = match fs::read_dir(self.links.at(FAILED)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(HostError::io("list failed units", error)),
        };
        let names = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok());
        Ok(names
            .map(|name| FailedUnit {
                name,
                restarting: false,
            })
            .collect())
    }

    async fn active_state(&self, unit: &str) -> Result<String, HostError> {
        let in_system = |system: StorePath| {
            let file = below(&system, "etc/systemd/system").join(unit);
            self.links.at(file).exists()
        };
        let state = if self.links.at(FAILED).join(unit).exists() {
            "failed"
        } else if self.links.resolve(CURRENT).is_some_and(in_system) {
            "active"
        } else {
            "inactive"
        };
        Ok(state.to_owned())
    }

    async fn mark_journal(&self) -> Result<(), HostError> {
        let length = fs::metadata(self.links.at(JOURNAL)).map_or(0, |meta| meta.len());
        fs::write(self.links.at("/journal-mark"), length.to_string())
            .map_err(|error| HostError::io("remember the place in the journal", error))
    }

    async fn serious_entries(&self, priority: u8, since: Since) -> Result<Vec<String>, HostError> {
        let journal = fs::read_to_string(self.links.at(JOURNAL)).unwrap_or_default();
        let from = match since {
            Since::Mark => {
                let mark = fs::read_to_string(self.links.at("/journal-mark")).unwrap_or_default();
                mark.parse().unwrap_or(0)
            }
            // Lines carry no time: all of them count.
            Since::Ago(_) => 0,
        };
        // A journal shorter than the mark is a new boot's.
        let new = journal.get(from..).unwrap_or(&journal);
        let serious = |line: &&str| {
            let level = line
                .split_whitespace()
                .next()
                .and_then(|level| level.parse::<u8>().ok());
            level.is_some_and(|level| level <= priority)
        };
        Ok(new
            .lines()
            .filter(serious)
            .map(|line| text::tame_line(line, 200))
            .collect())
    }

    async fn service(&self) -> Option<ServiceMake> {
        None
    }
}

#[cfg(test)]
mod tests;
