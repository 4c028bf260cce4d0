//! How much memory machines may use, and what they have used: the kernel's account of all their
//! processes, with the page cache of what they read and write. Where the host has the memory controller
//! in cgroup v1, a machine gets a cgroup there besides its own in v2; elsewhere that one is it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use common::id::MachineName;
use nix::mount::{MsFlags, mount};

use super::{Fleet, FleetError, run_dir::RunDir, supervisor::CGROUPS};

/// What a machine has used of its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryUse {
    /// The most at any time, page cache included, in bytes.
    pub peak: u64,
    /// What cannot be given up without ending somebody, at present, in bytes.
    pub anonymous: u64,
    /// Processes that were ended for want of memory.
    pub oom_kills: u64,
}

/// The names of things in one version of cgroups.
struct Words {
    max: &'static str,
    with_swap: &'static str,
    peak: &'static str,
    anonymous: &'static str,
    events: &'static str,
}

const V1: Words = Words {
    max: "memory.limit_in_bytes",
    with_swap: "memory.memsw.limit_in_bytes",
    peak: "memory.max_usage_in_bytes",
    anonymous: "total_rss",
    events: "memory.oom_control",
};

const V2: Words = Words {
    max: "memory.max",
    with_swap: "memory.swap.max",
    peak: "memory.peak",
    anonymous: "anon",
    events: "memory.events",
};

/// Whether this kernel's memory controller is in a hierarchy of cgroup v1.
fn is_v1() -> bool {
    let controllers = fs::read_to_string("/proc/cgroups").unwrap_or_default();
    controllers.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some("memory") && words.next().is_some_and(|hierarchy| hierarchy != "0")
    })
}

/// The cgroup of a run that machines have theirs in, where the memory controller is.
fn cgroup_of(run: &RunDir) -> PathBuf {
    let top = if is_v1() {
        run.memory_hierarchy()
    } else {
        PathBuf::from(CGROUPS)
    };
    top.join(run.cgroup())
}

/// Makes the controller usable for a run's machines, inside the supervisor's mount namespace.
pub(super) fn prepare(run: &RunDir) -> Result<PathBuf, FleetError> {
    let cgroup = cgroup_of(run);
    if is_v1() {
        let at = run.memory_hierarchy();
        fs::create_dir_all(&at).map_err(FleetError::file("create", &at))?;
        let kind = Some("cgroup");
        mount(kind, &at, kind, MsFlags::empty(), Some("memory"))
            .map_err(|errno| FleetError::file("mount", &at)(errno.into()))?;
        fs::create_dir_all(&cgroup).map_err(FleetError::file("create", &cgroup))?;
        return Ok(cgroup);
    }
    fs::create_dir_all(&cgroup).map_err(FleetError::file("create", &cgroup))?;
    for above in [Path::new(CGROUPS), &cgroup] {
        let children = above.join("cgroup.subtree_control");
        fs::write(&children, "+memory").map_err(FleetError::file("write", children))?;
    }
    Ok(cgroup)
}

/// Makes the cgroup, in which all processes together get so many bytes and no swap.
pub(super) fn limit(cgroup: &Path, bytes: u64) -> Result<(), FleetError> {
    let v1 = is_v1();
    let words = if v1 { V1 } else { V2 };
    fs::create_dir_all(cgroup).map_err(FleetError::file("create", cgroup))?;
    let max = cgroup.join(words.max);
    fs::write(&max, bytes.to_string()).map_err(FleetError::file("write", max))?;
    let with_swap = cgroup.join(words.with_swap);
    // Not there when the kernel does not count swap.
    if with_swap.exists() {
        let swap = if v1 { bytes } else { 0 };
        fs::write(&with_swap, swap.to_string()).map_err(FleetError::file("write", with_swap))?;
    }
    Ok(())
}

impl Fleet {
    /// What a machine of a fleet with limited memory has used since its boot.
    ///
    /// # Errors
    /// When the fleet's memory is not limited, or the kernel does not say.
    pub fn memory(&self, machine: &MachineName) -> Result<MemoryUse, FleetError> {
        let words = if is_v1() { V1 } else { V2 };
        let cgroup = self.supervisors(&cgroup_of(&self.run).join(machine.as_str()));
        let read = |name: &str| {
            let file = cgroup.join(name);
            fs::read_to_string(&file).map_err(FleetError::file("read", file))
        };
        let named = |text: &str, name: &str| {
            let mut pairs = text.lines().filter_map(|line| line.split_once(' '));
            let value = pairs.find(|(key, _)| *key == name);
            value.and_then(|(_, value)| value.parse().ok())
        };
        let peak = read(words.peak)?.trim().parse().ok();
        let anonymous = named(&read("memory.stat")?, words.anonymous);
        let oom_kills = named(&read(words.events)?, "oom_kill");
        match (peak, anonymous, oom_kills) {
            (Some(peak), Some(anonymous), Some(oom_kills)) => Ok(MemoryUse {
                peak,
                anonymous,
                oom_kills,
            }),
            (_, _, _) => Err(FleetError::Refused(format!(
                "the kernel does not say what {machine} has used"
            ))),
        }
    }
}
