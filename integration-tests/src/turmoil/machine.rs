//! A machine: its links on a real (memory) file system, where the real agent reads them, and its
//! units, its boots and its dead-man timer, which the simulation stands in for.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use agent::{
    directory::{BOOT_DEFAULT, set_link, set_profile},
    host::{End, Family, Unit},
    links::{BOOTED, CURRENT, Links, PROFILES, below},
};
use common::{BootId, Epoch, LeaseId, MachineName, Outcome, StorePath};
use tokio::sync::Notify;

use super::{
    check::Disruption,
    setup::{At, MINUTE, SECOND, SimClock},
};
use crate::sim::rng::Rng;

/// What is wrong with a system on one machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// Its service does not run.
    Unhealthy,
    /// Its switch fails, and nothing is changed.
    SwitchFails,
    /// Its switch is done and complains.
    SwitchDegraded,
    /// Its switch never ends.
    SwitchHangs,
    /// The hook before the switch says no.
    PreHookFails,
    /// The hook after the switch says no.
    PostHookFails,
    /// It cannot be obtained.
    StageFails,
    /// It does not boot: what comes up is the generation before it.
    BootFallsBack,
}

impl Flaw {
    pub(crate) const ALL: [Self; 8] = [
        Self::Unhealthy,
        Self::SwitchFails,
        Self::SwitchDegraded,
        Self::SwitchHangs,
        Self::PreHookFails,
        Self::PostHookFails,
        Self::StageFails,
        Self::BootFallsBack,
    ];
}

/// Whether it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Power {
    On,
    /// A reboot is under way; the power goes at this time.
    GoingDown(At),
    /// Until this time.
    Off(At),
}

/// A unit: it outlives the agent, and not the boot.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    /// System and verb of a switch.
    switch: Option<(StorePath, String)>,
    pub(crate) ends_at: At,
    end: End,
    ended: bool,
}

/// One machine. Everything here but the links is what the world knows of it.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) name: MachineName,
    pub(crate) directory: PathBuf,
    pub(crate) links: Links,
    pub(crate) clock: Arc<SimClock>,
    pub(crate) power: Power,
    pub(crate) boot: u32,
    pub(crate) units: BTreeMap<String, Running>,
    /// The armed dead-man timer, and when it goes off.
    pub(crate) dead_man: Option<(LeaseId, At)>,
    /// Tells the dead-man program that it is its turn.
    pub(crate) dead_man_fires: Arc<Notify>,
    /// Kills the agent's process.
    pub(crate) kill: Arc<Notify>,
    /// A service failed by itself.
    pub(crate) ill: bool,
    pub(crate) flaws: BTreeMap<StorePath, Flaw>,
    /// A fault of the network is on its link.
    pub(crate) link_busy: bool,
    /// Starts of the agent so far: each process draws its own pauses.
    pub(crate) starts: u64,
    pub(crate) truth: Seen,
}

/// What the world saw of a machine.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The attempt on its disk.
    pub(crate) attempt: Option<LeaseId>,
    /// Whether that is about to reboot into its target.
    pub(crate) rebooting_there: bool,
    /// Whether a result waits to be told.
    pub(crate) unreported: bool,
    /// From the first disruptive step until it is healthy again.
    pub(crate) disruption: Option<Disruption>,
    /// Until when it may believe in each lease.
    pub(crate) until: BTreeMap<LeaseId, At>,
    /// The epoch under which each lease was last given to it.
    pub(crate) epochs: BTreeMap<LeaseId, Epoch>,
    /// The highest epoch that it was told, and when.
    pub(crate) heard: (Epoch, At),
    /// The result of each lease, as first written down.
    pub(crate) verdicts: BTreeMap<LeaseId, Outcome>,
    /// The highest lease under which it was disturbed.
    pub(crate) used: LeaseId,
    /// An operator had the coordinator forget it.
    pub(crate) forgotten: bool,
    /// The newest report that was taken in: boot and sequence.
    pub(crate) newest: (u32, u64),
}

impl Machine {
    /// A machine that runs the first system, in a directory of its own.
    pub(crate) fn install(name: MachineName, directory: &Path) -> io::Result<Self> {
        let directory = directory.join(name.as_str());
        let links = Links::new(&directory.join("root"));
        for part in ["/nix/store", PROFILES, "/run", "/boot"] {
            fs::create_dir_all(links.at(part))?;
        }
        fs::create_dir_all(directory.join("state"))?;
        let machine = Self {
            name,
            directory,
            links,
            clock: Arc::default(),
            power: Power::On,
            boot: 0,
            units: BTreeMap::new(),
            dead_man: None,
            dead_man_fires: Arc::default(),
            kill: Arc::default(),
            ill: false,
            flaws: BTreeMap::new(),
            link_busy: false,
            starts: 0,
            truth: Seen::default(),
        };
        let first = system(0);
        machine.put(&first, 0)?;
        set_profile(&machine.links, &first)?;
        set_link(&machine.links, BOOT_DEFAULT, first.as_str())?;
        Ok(machine)
    }

    /// Puts a system with this kernel into the store.
    pub(crate) fn put(&self, path: &StorePath, kernel: u64) -> io::Result<()> {
        let there = self.links.at(path.as_str());
        if there.exists() {
            return Ok(());
        }
        fs::create_dir_all(there.join("bin"))?;
        fs::write(there.join("nixos-version"), "26.05")?;
        fs::write(there.join("bin/switch-to-configuration"), "")?;
        let kernel = format!("/nix/store/{kernel:032}-linux");
        fs::create_dir_all(self.links.at(&kernel))?;
        std::os::unix::fs::symlink(&kernel, there.join("kernel"))
    }

    pub(crate) fn running(&self) -> Option<StorePath> {
        self.links.resolve(CURRENT)
    }

    pub(crate) fn boot_id(&self) -> BootId {
        let text = format!("boot-{}-{}", self.name, self.boot);
        text.parse()
            .unwrap_or_else(|_| unreachable!("{text} is a boot id"))
    }

    pub(crate) fn flaw(&self, path: &StorePath) -> Option<Flaw> {
        self.flaws.get(path).copied()
    }

    /// Whether its service runs.
    pub(crate) fn is_well(&self) -> bool {
        let flaw = self.running().and_then(|path| self.flaw(&path));
        self.power == Power::On && !self.ill && flaw != Some(Flaw::Unhealthy)
    }

    /// The machine starts. What comes up is the boot default, or, if that does not boot, the
    /// generation before it.
    pub(crate) fn start(&mut self, now: At) -> io::Result<()> {
        let wanted = self.links.resolve(BOOT_DEFAULT);
        let system = wanted.map(|wanted| {
            if self.flaw(&wanted) != Some(Flaw::BootFallsBack) {
                return wanted;
            }
            let generations = self.links.generations();
            let mut others = generations.into_iter().map(|generation| generation.path);
            others
                .find(|path| self.flaw(path) != Some(Flaw::BootFallsBack))
                .unwrap_or(wanted)
        });
        let system = system.ok_or(io::ErrorKind::NotFound)?;
        for link in [CURRENT, BOOTED] {
            set_link(&self.links, link, system.as_str())?;
        }
        self.power = Power::On;
        self.boot += 1;
        self.units.clear();
        self.dead_man = None;
        self.clock.booted_at.store(now, Ordering::Relaxed);
        Ok(())
    }

    /// The power goes: units and timers with it. A switch in progress may have got as far as the
    /// boot loader.
    pub(crate) fn stop(&mut self, until: At, rng: &mut Rng) -> io::Result<()> {
        self.power = Power::Off(until);
        for unit in std::mem::take(&mut self.units).into_values() {
            let Some((system, verb)) = unit.switch.filter(|_| !unit.ended) else {
                continue;
            };
            if verb != "test" && rng.once_in(2) {
                set_link(&self.links, BOOT_DEFAULT, system.as_str())?;
            }
        }
        self.dead_man = None;
        Ok(())
    }

    /// Begins a unit, unless there is one of that name: how long it takes and how it ends are drawn.
    pub(crate) fn begin(&mut self, unit: &Unit, now: At, rng: &mut Rng) {
        let switch = switch_of(unit);
        let target = switch.as_ref().map(|(system, _)| system.clone());
        let target = target.or_else(|| target_of(unit));
        let flaw = target.and_then(|path| self.flaw(&path));
        let (takes, end) = match (unit.family, flaw) {
            (Family::PreHook, Some(Flaw::PreHookFails))
            | (Family::PostHook, Some(Flaw::PostHookFails)) => (SECOND, End::Exited(1)),
            (Family::PreHook | Family::PostHook | Family::RollbackHook, _) => {
                (rng.between(500, 20 * SECOND), End::Exited(0))
            }
            (Family::Activate, Some(Flaw::SwitchFails)) => {
                (rng.between(SECOND, MINUTE), End::Exited(1))
            }
            (Family::Activate, Some(Flaw::SwitchDegraded)) => {
                (rng.between(SECOND, MINUTE), End::Exited(4))
            }
            (Family::Activate, Some(Flaw::SwitchHangs)) => (At::MAX / 2, End::TimedOut),
            (Family::Activate | Family::Restore, _) => {
                (rng.between(SECOND, 2 * MINUTE), End::Exited(0))
            }
            (Family::Stage, _) => (rng.between(SECOND, 3 * MINUTE), End::Exited(0)),
            (
                Family::BackupCheck
                | Family::BootLoader
                | Family::Condition
                | Family::Profile
                | Family::Check
                | Family::CleanUp
                | Family::Collect
                | Family::Traffic,
                _,
            ) => (rng.between(SECOND, MINUTE), End::Exited(0)),
        };
        let within = At::try_from(unit.within.as_millis()).unwrap_or(At::MAX / 2);
        let end = if takes > within { End::TimedOut } else { end };
        let running = Running {
            switch,
            ends_at: now + takes.min(within),
            end,
            ended: false,
        };
        self.units.insert(unit.name(), running);
    }

    /// Ends the units whose time has come, in order, and does to the machine what they do. Whether
    /// another system runs now.
    pub(crate) fn settle(&mut self, now: At) -> io::Result<bool> {
        let mut switched = false;
        let due = self.units.iter().filter(|(_, unit)| !unit.ended);
        let mut due: Vec<(At, String)> = due
            .filter(|(_, unit)| unit.ends_at <= now)
            .map(|(name, unit)| (unit.ends_at, name.clone()))
            .collect();
        due.sort();
        for (_, name) in due {
            let Some(unit) = self.units.get_mut(&name) else {
                continue;
            };
            unit.ended = true;
            let done = matches!(unit.end, End::Exited(0 | 4));
            let Some((system, verb)) = unit.switch.clone().filter(|_| done) else {
                continue;
            };
            if verb != "test" {
                set_link(&self.links, BOOT_DEFAULT, system.as_str())?;
            }
            if verb != "boot" {
                set_link(&self.links, CURRENT, system.as_str())?;
                switched = true;
            }
        }
        Ok(switched)
    }

    /// How a unit stands: `Ok` is its end, `Err` the time at which to look again; nothing when it
    /// is not there.
    pub(crate) fn look(&self, name: &str) -> Option<Result<End, At>> {
        let unit = self.units.get(name)?;
        Some(if unit.ended {
            Ok(unit.end.clone())
        } else {
            Err(unit.ends_at)
        })
    }

    pub(crate) fn arm(&mut self, lease: LeaseId, now: At, after: Duration) {
        let after = At::try_from(after.as_millis()).unwrap_or(At::MAX / 2);
        self.dead_man = Some((lease, now + after));
    }
}

/// System and verb, when the unit is a `switch-to-configuration`.
pub(crate) fn switch_of(unit: &Unit) -> Option<(StorePath, String)> {
    if !matches!(unit.family, Family::Activate | Family::Restore) {
        return None;
    }
    let (program, verb) = (unit.command.first()?, unit.command.get(1)?);
    let path = program.get(program.find(common::closure::STORE)?..)?;
    let path = path.strip_suffix("/bin/switch-to-configuration")?;
    Some((path.parse().ok()?, verb.clone()))
}

/// What a hook is told of the target.
fn target_of(unit: &Unit) -> Option<StorePath> {
    let told = unit.environment.iter().find(|(key, _)| key == "LAB_TARGET");
    told?.1.parse().ok()
}

/// The n-th system closure of the world.
pub(crate) fn system(number: u64) -> StorePath {
    let text = format!("/nix/store/{number:032}-nixos-system-{number}");
    text.parse()
        .unwrap_or_else(|_| unreachable!("{text} is a store path"))
}

/// A system's `switch-to-configuration` on this machine.
pub(crate) fn switcher(links: &Links, system: &StorePath) -> PathBuf {
    links.at(below(system, "bin/switch-to-configuration"))
}
