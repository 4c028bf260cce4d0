//! Units of a machine in a directory: each is a process group of its own, whose end is left in a file.

use std::{
    fs, io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use super::Directory;
use crate::host::{End, HostError, Unit};

/// Units of this boot; gone with it.
pub(super) const UNITS: &str = "/run/lab-updater/units";

/// Runs a program and leaves its end in a file, whether or not the agent still lives. The program
/// and its arguments come as arguments: nothing of them is read as shell.
const WRAPPER: &str = r#"dir=$1; shift
"$@" >"$dir/output" 2>&1 </dev/null
echo "$?" >"$dir/status.new" && mv "$dir/status.new" "$dir/status""#;

/// Longest real pause between two looks at a unit.
pub(super) const LOOK_MAX: Duration = Duration::from_millis(100);

impl Directory {
    /// The directories of the units whose names are wanted.
    pub(super) fn unit_directories(&self, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
        fs::read_dir(self.links.at(UNITS))
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.file_name().to_str().is_some_and(&wanted))
            .map(|entry| entry.path())
            .collect()
    }

    /// Kills what is at work and forgets the result.
    pub(super) fn drop_unit(&self, directory: &Path) -> Result<(), HostError> {
        if let Some(pid) = living(directory) {
            kill_group(pid);
        }
        match fs::remove_dir_all(directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(HostError::io(
                format!("forget {}", directory.display()),
                error,
            )),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Starts a unit; what was left of one in that directory is forgotten.
    pub(super) fn start(&self, unit: &Unit, directory: &Path) -> io::Result<()> {
        match fs::remove_dir_all(directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        fs::create_dir_all(directory)?;
        let child = std::process::Command::new("/bin/sh")
            .args(["-c", WRAPPER, "sh"])
            .arg(directory)
            .args(&unit.command)
            .envs(unit.environment.iter().cloned())
            .env("LAB_ROOT", &self.root)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        // One that has ended already has left its status.
        if let Some(begun) = begun_at(pid) {
            fs::write(directory.join("pid"), format!("{pid} {begun}"))?;
        }
        reap(child);
        Ok(())
    }

    /// Waits for the end of a unit, and kills it when its time is up.
    pub(super) async fn wait(&self, unit: &Unit, directory: &Path) -> Result<End, HostError> {
        let deadline = Instant::now() + self.clock.patience(unit.within);
        let mut pause = Duration::from_millis(2);
        loop {
            if let Some(end) = end_in(directory) {
                return Ok(end);
            }
            let Some(pid) = living(directory) else {
                // It may have ended between the two looks.
                let lost = || HostError::Lost(unit.name());
                return end_in(directory).ok_or_else(lost);
            };
            if Instant::now() >= deadline {
                kill_group(pid);
                return Ok(End::TimedOut);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOK_MAX);
        }
    }
}

/// How a unit ended, from its file.
pub(super) fn end_in(directory: &Path) -> Option<End> {
    let text = fs::read_to_string(directory.join("status")).ok()?;
    let status: i32 = text.trim().parse().ok()?;
    Some(match status {
        126 | 127 => End::NotStarted(format!("the shell's status {status}")),
        // The shell's way to tell a signal.
        129..=192 => End::Signal(status - 128),
        status => End::Exited(status),
    })
}

/// The process group of a unit that is at work. A number that now belongs to another process is
/// told by that process having begun at another time.
pub(super) fn living(directory: &Path) -> Option<Pid> {
    let text = fs::read_to_string(directory.join("pid")).ok()?;
    let (pid, begun) = text.trim().split_once(' ')?;
    let pid: i32 = pid.parse().ok()?;
    (begun_at(pid)? == begun).then(|| Pid::from_raw(pid))
}

/// When a process began, in clock ticks since the boot; `None` when it has ended. Fields of
/// `/proc/PID/stat` after the name, which may hold anything: 0 is the state, 19 the start time.
pub(super) fn begun_at(pid: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ended = matches!(fields.first(), Some(&"Z" | &"X"));
    (!ended).then(|| fields.get(19).map(|begun| (*begun).to_owned()))?
}

fn kill_group(pid: Pid) {
    // It may have ended by itself meanwhile: that is what is wanted.
    if let Err(error) = killpg(pid, Signal::SIGKILL) {
        tracing::debug!(%pid, "not killed: {error}");
    }
}

/// Takes the exit status of a child when it ends, so that it does not stay a zombie.
fn reap(mut child: std::process::Child) {
    // A thread of its own: the runtime would wait for it when the agent ends.
    std::thread::spawn(move || child.wait().map(drop));
}
