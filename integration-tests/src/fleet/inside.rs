//! The machines' processes, disks and connections, taken hold of from outside: at once, and without
//! the help of anything that runs in the machine.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

use common::id::MachineName;
use nix::{
    fcntl::{FallocateFlags, fallocate},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{Fleet, FleetError, command};

/// The systemd of a machine, as [`Fleet::processes`] knows it.
pub const PID_1: &str = "init.scope";

/// The port that agents call the coordinator on.
const COORDINATOR_PORT: &str = "7443";

/// What fills a directory.
const FILLER: &str = "filler";

/// Halved until not even this fits.
const SMALLEST_BYTES: i64 = 4096;

impl Fleet {
    /// A command that runs `words` on the machine's network and otherwise outside of it: it sees
    /// this host's files, and ends with the fleet.
    ///
    /// # Errors
    /// When the machine is off.
    pub fn command_beside(
        &self,
        machine: &MachineName,
        words: &[&str],
    ) -> Result<Command, FleetError> {
        let mut command = self.entering(machine, "--net")?;
        command.args(words);
        Ok(command)
    }

    /// The processes of a machine's service (or of [`PID_1`]), by the host's numbers; none when it
    /// does not run.
    pub fn processes(&self, machine: &MachineName, unit: &str) -> Vec<Pid> {
        let machine = self.cgroups().join(machine.as_str());
        // systemd-nspawn puts the machine one below the cgroup that it was started in.
        let places = ["payload/system.slice", "payload", "system.slice", ""];
        let read = |place: &&str| {
            let list = machine.join(place).join(unit).join("cgroup.procs");
            fs::read_to_string(list).ok()
        };
        let list = places.iter().find_map(read).unwrap_or_default();
        let pids = list.lines().filter_map(|line| line.parse().ok());
        pids.filter(|pid| *pid > 0).map(Pid::from_raw).collect()
    }

    /// Sends a signal to all of them; whether there was any.
    pub fn signal(&self, machine: &MachineName, unit: &str, signal: Signal) -> bool {
        let pids = self.processes(machine, unit);
        // One that has just ended is none any more.
        pids.iter()
            .filter(|pid| kill(**pid, signal).is_ok())
            .count()
            > 0
    }

    /// Fills the file system that holds this directory of a machine, to its last byte and file.
    ///
    /// # Errors
    /// When that cannot be done.
    pub fn fill(&self, machine: &MachineName, directory: &str) -> Result<(), FleetError> {
        let base = self.path(machine, directory).join(FILLER);
        fs::create_dir_all(&base).map_err(FleetError::file("create", &base))?;
        let bulk = base.join("bulk");
        // All of the bytes first, and then as many empty files as there may be.
        let full = |number: u32| match File::create(base.join(number.to_string())) {
            Ok(_) => false,
            Err(error) => error.kind() == io::ErrorKind::StorageFull,
        };
        let file = File::create(&bulk).map_err(FleetError::file("create", &bulk))?;
        fill_up(&file).map_err(FleetError::file("write", &bulk))?;
        (0..64).find(|number| full(*number));
        Ok(())
    }

    /// Undoes [`Fleet::fill`].
    ///
    /// # Errors
    /// When that cannot be done.
    pub fn free(&self, machine: &MachineName, directory: &str) -> Result<(), FleetError> {
        let base = self.path(machine, directory).join(FILLER);
        match fs::remove_dir_all(&base) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(FleetError::file("remove", base)(error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Whether `control` answers what a machine sends to the coordinator as a host does on which
    /// none runs: connections are refused, those that were there are reset.
    ///
    /// # Errors
    /// When the rule cannot be set.
    pub fn refuse_calls(&self, machine: &MachineName, refuse: bool) -> Result<(), FleetError> {
        let table = format!("calls-of-{machine}");
        let rules = if refuse {
            let address = self.status_of(machine)?.address;
            format!(
                "table inet {table} {{\nchain input {{\ntype filter hook input priority 0;\n\
                 ip saddr {address} tcp dport {COORDINATOR_PORT} reject with tcp reset\n}}\n}}"
            )
        } else {
            // One that is not there is made first, so that it can go.
            format!("table inet {table}; delete table inet {table}")
        };
        let supervisor = format!("--target={}", self.supervisor());
        let mut nft = Command::new("nsenter");
        nft.args([&supervisor, "--mount", "--", "nsenter"]).args([
            "--net=/run/netns/control",
            "--",
            "nft",
            &rules,
        ]);
        command::run(&mut nft).map(drop)
    }

    fn cgroups(&self) -> PathBuf {
        let root = format!("/proc/{}/root/sys/fs/cgroup", self.supervisor());
        Path::new(&root).join(self.run.cgroup())
    }
}

fn fill_up(file: &File) -> io::Result<()> {
    let mut step = 1_i64 << 30;
    let mut end = 0;
    while step >= SMALLEST_BYTES {
        match fallocate(file, FallocateFlags::empty(), end, step) {
            Ok(()) => end += step,
            Err(nix::errno::Errno::ENOSPC) => step /= 2,
            Err(errno) => return Err(errno.into()),
        }
    }
    (&*file).flush()
}
