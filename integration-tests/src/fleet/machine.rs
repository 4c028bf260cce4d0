//! One machine inside the supervisor: starts systemd-nspawn on its overlay, starts it again after a
//! reboot, cuts its power.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use common::id::MachineName;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    FleetError, MachineStatus, Power, memory, network,
    run_dir::{RunDir, remove_cgroup},
};

/// systemd-nspawn's exit status when the machine asked for a reboot and `--keep-unit` is given.
const REBOOT_STATUS: i32 = 133;

/// The boot loader: what systemd-nspawn starts as PID 1.
pub(super) const BOOT_PROGRAM: &str = "/usr/local/lib/lab-fleet/boot";

/// How long a killed machine may take to be gone.
const DEATH_MAX: Duration = Duration::from_secs(10);

/// How soon after its start a machine that ends has not started at all.
const CRASH_MAX: Duration = Duration::from_secs(10);

/// How often in a row it is then started again.
const RESETS_MAX: u32 = 2;

/// Puts itself into the cgroups `$1` and `$2`, then becomes the rest of its arguments.
const ENTER_CGROUPS: &str =
    "echo $$ >\"$1/cgroup.procs\" && echo $$ >\"$2/cgroup.procs\" && shift 2 && exec \"$@\"";

/// One machine.
pub(super) struct Machine {
    name: MachineName,
    index: u8,
    root: PathBuf,
    console: PathBuf,
    cgroup: PathBuf,
    /// The cgroup that limits its memory, and to how many bytes.
    memory: Option<(PathBuf, u64)>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    wanted: Wanted,
    crashed: bool,
    /// Ends in a row that nobody asked for, each soon after the start.
    resets: u32,
    /// systemd-nspawn.
    guard: Option<u32>,
    boots: u64,
    link_up: bool,
    frozen: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    On,
    Off,
    /// The fleet ends.
    Gone,
}

impl Machine {
    /// A machine that is still off.
    pub(super) fn new(
        run: &RunDir,
        cgroups: &Path,
        name: MachineName,
        index: u8,
        memory: Option<(PathBuf, u64)>,
    ) -> Self {
        Self {
            root: run.root_of(name.as_str()),
            console: run.log(name.as_str()),
            cgroup: cgroups.join(name.as_str()),
            memory,
            index,
            name,
            state: Mutex::new(State {
                wanted: Wanted::On,
                crashed: false,
                resets: 0,
                guard: None,
                boots: 0,
                link_up: true,
                frozen: false,
            }),
            changed: Condvar::new(),
        }
    }

    /// Its name.
    pub(super) fn name(&self) -> &MachineName {
        &self.name
    }

    /// Starts the machine whenever it is wanted, until the fleet ends.
    pub(super) fn run(&self) -> Result<(), FleetError> {
        loop {
            let mut state = self.lock();
            while state.wanted == Wanted::Off {
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            if state.wanted == Wanted::Gone {
                return Ok(());
            }
            let mut guard = self.start()?;
            state.guard = Some(guard.id());
            state.boots += 1;
            state.crashed = false;
            drop(state);
            let since = Instant::now();
            let ended = guard
                .wait()
                .map_err(FleetError::file("wait for", &self.root))?;
            self.ended(ended, since);
        }
    }

    /// Notes how it ended: a machine that was switched off stays off, and one that ended by itself and
    /// badly is reset, as a watchdog would do it, unless it does nothing else.
    fn ended(&self, status: ExitStatus, since: Instant) {
        let mut state = self.lock();
        state.guard = None;
        state.frozen = false;
        if state.wanted == Wanted::On && status.code() != Some(REBOOT_STATUS) {
            let badly = !status.success() || status.signal().is_some();
            state.resets = if since.elapsed() > CRASH_MAX {
                1
            } else {
                state.resets + 1
            };
            if !badly || state.resets > RESETS_MAX {
                state.wanted = Wanted::Off;
                state.crashed = badly;
            }
            self.say(&format!("systemd-nspawn ended by itself: {status}"));
        }
        self.changed.notify_all();
    }

    /// Adds a line to the machine's console.
    fn say(&self, line: &str) {
        let console = File::options()
            .create(true)
            .append(true)
            .open(&self.console);
        // For people who look for a cause; nothing depends on it.
        console.and_then(|mut file| writeln!(file, "{line}")).ok();
    }

    fn start(&self) -> Result<Child, FleetError> {
        remove_cgroup(&self.cgroup);
        fs::create_dir_all(&self.cgroup).map_err(FleetError::file("create", &self.cgroup))?;
        let mut limited = &self.cgroup;
        if let Some((cgroup, bytes)) = &self.memory {
            if cgroup != &self.cgroup {
                remove_cgroup(cgroup);
            }
            memory::limit(cgroup, *bytes)?;
            limited = cgroup;
        }
        network::reset_card(self.name.as_str())?;
        let console = File::options()
            .create(true)
            .append(true)
            .open(&self.console)
            .map_err(FleetError::file("open", &self.console))?;
        let errors = console
            .try_clone()
            .map_err(FleetError::file("open", &self.console))?;
        Command::new("sh")
            .args(["-c", ENTER_CGROUPS, "sh"])
            .args([&self.cgroup, limited])
            .arg("systemd-nspawn")
            .arg("-D")
            .arg(&self.root)
            .arg(format!("--machine={}", self.name))
            .arg(format!("--network-namespace-path=/run/netns/{}", self.name))
            .args(["--register=no", "--keep-unit", "--link-journal=no"])
            .args(["--console=pipe", "--capability=CAP_NET_ADMIN"])
            .arg("--resolv-conf=off")
            .arg("--timezone=off")
            .arg(BOOT_PROGRAM)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .stdout(console)
            .stderr(errors)
            .spawn()
            .map_err(|source| FleetError::Start {
                program: "systemd-nspawn".to_owned(),
                source,
            })
    }

    /// Starts it when it is off.
    pub(super) fn power_on(&self) {
        let mut state = self.lock();
        if state.wanted == Wanted::Off {
            state.wanted = Wanted::On;
        }
        self.changed.notify_all();
    }

    /// Ends every process of the machine at once: its PID 1 first, and with it all others, then
    /// systemd-nspawn. (The other order leaves the machine's systemd running.)
    pub(super) fn power_cut(&self) -> Result<(), FleetError> {
        self.kill_and_stay(Wanted::Off)
    }

    /// Ends the machine for good.
    pub(super) fn end(&self) -> Result<(), FleetError> {
        self.kill_and_stay(Wanted::Gone)
    }

    fn kill_and_stay(&self, wanted: Wanted) -> Result<(), FleetError> {
        let mut state = self.lock();
        state.wanted = wanted;
        state.crashed = false;
        self.changed.notify_all();
        if state.frozen {
            // A frozen process is killed only when it is thawed, on some kernels.
            self.write_freeze(false)?;
        }
        let since = Instant::now();
        while let Some(guard) = state.guard {
            if let Some(leader) = leader_of(guard) {
                send_kill(leader);
            } else {
                // Not yet, or no longer, a machine: only systemd-nspawn is left.
                send_kill(guard);
            }
            if since.elapsed() > DEATH_MAX {
                return Err(FleetError::Deadline {
                    what: format!("the end of {}", self.name),
                    limit: DEATH_MAX,
                });
            }
            state = self
                .changed
                .wait_timeout(state, Duration::from_millis(20))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        Ok(())
    }

    /// Connects the machine to the network, or takes it off.
    pub(super) fn set_link(&self, up: bool) -> Result<(), FleetError> {
        let mut state = self.lock();
        network::set_link(self.index, up)?;
        state.link_up = up;
        Ok(())
    }

    /// Stops all processes where they are, or lets them go on.
    pub(super) fn set_frozen(&self, frozen: bool) -> Result<(), FleetError> {
        let mut state = self.lock();
        self.write_freeze(frozen)?;
        state.frozen = frozen;
        Ok(())
    }

    fn write_freeze(&self, frozen: bool) -> Result<(), FleetError> {
        let path = self.cgroup.join("cgroup.freeze");
        let value = if frozen { "1" } else { "0" };
        fs::write(&path, value).map_err(FleetError::file("write", &path))
    }

    /// How it is.
    pub(super) fn status(&self) -> MachineStatus {
        let state = self.lock();
        let power = match (state.wanted, state.crashed) {
            (Wanted::On, _) => Power::On,
            (Wanted::Off | Wanted::Gone, true) => Power::Crashed,
            (Wanted::Off | Wanted::Gone, false) => Power::Off,
        };
        MachineStatus {
            name: self.name.clone(),
            address: network::address(self.index).to_string(),
            power,
            leader: state.guard.and_then(leader_of),
            boots: state.boots,
            link_up: state.link_up,
            frozen: state.frozen,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The machine's PID 1: the child of systemd-nspawn that lives in another PID namespace. (While it
/// prepares, systemd-nspawn has a child that does not.)
fn leader_of(guard: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{guard}/task/{guard}/children")).ok()?;
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let own = namespace("self")?;
    children
        .split_whitespace()
        .find(|pid| namespace(pid).is_some_and(|other| other != own))
        .and_then(|pid| pid.parse().ok())
}

fn send_kill(pid: u32) {
    if let Ok(pid) = i32::try_from(pid) {
        // It may have ended by itself in the meantime.
        kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
    }
}
