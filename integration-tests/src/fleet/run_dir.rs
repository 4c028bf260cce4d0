//! The files of a run, and what is done with those that a killed run left behind.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

use super::FleetError;

/// Every run has a directory of its name in here.
const RUNS: &str = "/run/lab-fleet";

/// A process, told apart from a later one with the same number by its start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProcessStamp {
    /// Its number, in the host's PID namespace.
    pub(super) pid: u32,
    /// When it started, in clock ticks since boot (proc(5), field 22).
    pub(super) start: u64,
}

impl ProcessStamp {
    /// The stamp of a running process.
    pub(super) fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the name in parentheses and may contain anything.
        let mut rest = stat[stat.rfind(')')? + 1..].split_whitespace();
        let state = rest.next()?;
        let start = rest.nth(18)?.parse().ok()?;
        (state != "Z").then_some(Self { pid, start })
    }

    /// Whether it still runs.
    pub(super) fn alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Kills it, if it still runs.
    pub(super) fn kill(self) {
        if let Ok(pid) = i32::try_from(self.pid)
            && self.alive()
        {
            // It may have ended in the meantime.
            kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
        }
    }
}

/// What a run notes down about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RunRecord {
    /// `unshare`, the parent of the supervisor: to end it ends the fleet.
    pub(super) guard: ProcessStamp,
    /// The supervisor.
    pub(super) supervisor: ProcessStamp,
}

/// The directory of one run.
#[derive(Clone, Debug)]
pub(super) struct RunDir(PathBuf);

impl RunDir {
    /// The directory of the run called `name`, whether it exists or not.
    pub(super) fn named(name: &str) -> Self {
        Self(Path::new(RUNS).join(name))
    }

    /// Makes the directory; the run must not be alive.
    pub(super) fn create(&self) -> Result<(), FleetError> {
        fs::create_dir_all(RUNS).map_err(FleetError::file("create", RUNS))?;
        let mut builder = fs::DirBuilder::new();
        builder.mode(0o700);
        // Must not be there: of two that start a fleet of one name together, one gets an error.
        for dir in [self.0.clone(), self.layer(), self.file_systems()] {
            builder
                .create(&dir)
                .map_err(FleetError::file("create", &dir))?;
        }
        Ok(())
    }

    /// The run's name.
    pub(super) fn name(&self) -> &str {
        self.0
            .file_name()
            .and_then(|n| n.to_str())
            .unwrap_or_default()
    }

    /// The directory itself.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// The supervisor's socket.
    pub(super) fn socket(&self) -> PathBuf {
        self.0.join("supervisor.sock")
    }

    /// What the supervisor and the machines' consoles print.
    pub(super) fn log(&self, of: &str) -> PathBuf {
        self.0.join(format!("{of}.log"))
    }

    /// The layer between the image and a machine's own files, the same for all machines.
    pub(super) fn layer(&self) -> PathBuf {
        self.0.join("layer")
    }

    /// Where the supervisor mounts the memory that holds the machines' own files.
    pub(super) fn file_systems(&self) -> PathBuf {
        self.0.join("fs")
    }

    /// Where the supervisor mounts the hierarchy of the memory controller, if that is one of cgroup v1.
    pub(super) fn memory_hierarchy(&self) -> PathBuf {
        self.0.join("memory")
    }

    /// A machine's root, inside the supervisor's mount namespace.
    pub(super) fn root_of(&self, machine: &str) -> PathBuf {
        self.file_systems().join(machine).join("root")
    }

    /// The name of the run's cgroup, below the root of the unified hierarchy.
    pub(super) fn cgroup(&self) -> String {
        format!("lab-fleet-{}", self.name())
    }

    /// Writes the record.
    pub(super) fn save(&self, record: RunRecord) -> Result<(), FleetError> {
        let path = self.0.join("run.json");
        let text = serde_json::to_string(&record).map_err(FleetError::Answer)?;
        fs::write(&path, text).map_err(FleetError::file("write", &path))
    }

    /// The record of a run that is alive.
    pub(super) fn alive(&self) -> Option<RunRecord> {
        self.record().filter(|record| record.supervisor.alive())
    }

    fn record(&self) -> Option<RunRecord> {
        let text = fs::read_to_string(self.0.join("run.json")).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Removes the directory and the empty cgroups. The supervisor must be gone.
    pub(super) fn remove(&self) -> Result<(), FleetError> {
        for hierarchy in hierarchies() {
            remove_cgroup(&hierarchy.join(self.cgroup()));
        }
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(FleetError::file("remove", &self.0)(error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// Removes what runs left that ended without doing so. A run without a record is only just being
/// made, unless it is old.
pub(super) fn clean_up() -> Result<(), FleetError> {
    const MADE_WITHIN: std::time::Duration = std::time::Duration::from_secs(60);
    for entry in fs::read_dir(RUNS).into_iter().flatten().flatten() {
        let run = RunDir(entry.path());
        let young = entry
            .metadata()
            .and_then(|m| m.modified())
            .is_ok_and(|made| made.elapsed().is_ok_and(|age| age < MADE_WITHIN));
        let leave = run.alive().is_some() || (run.record().is_none() && young);
        if !leave {
            run.remove()?;
        }
    }
    Ok(())
}

/// Removes a cgroup and those below it, as far as they are empty.
pub(super) fn remove_cgroup(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    // One that is still busy stays; it is empty and harmless once its last process has ended.
    fs::remove_dir(cgroup).ok();
}

/// Where the host mounts cgroup v2, and the memory controller of v1.
fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let found = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (at, kind, options) = (words.next()?, words.next()?, words.next()?);
        let memory = || options.split(',').any(|option| option == "memory");
        (kind == "cgroup2" || kind == "cgroup" && memory()).then(|| PathBuf::from(at))
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_names_one_process() {
        let own = ProcessStamp::of(std::process::id()).expect("this process runs");
        assert!(own.alive());
        let other = ProcessStamp {
            start: own.start + 1,
            ..own
        };
        assert!(!other.alive(), "a later process of the same number");
    }
}
