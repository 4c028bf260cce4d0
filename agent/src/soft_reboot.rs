//! The soft-reboot: all of user space is started anew, under the kernel that runs. NixOS has no program
//! that takes up another system on that way, so the agent brings one: a service that is there from early
//! in each boot until everything else has been stopped (`lab-updater-soft-reboot.service`), and then
//! activates the target.
//!
//! systemd-soft-reboot.service(8): `/run` stays as it is, and so does the kernel's boot id. What tells
//! one boot of user space from the next is therefore counted in a file there.

use std::{fs, io, path::PathBuf};

use common::{BootId, StorePath};

use crate::{
    config::Config,
    host::{Host as _, HostError},
    links::below,
    state_file::{StateFile, StateFileError, StateStore as _},
    system::System,
};

/// The service that takes up the target while it is being stopped.
pub const SERVICE: &str = "lab-updater-soft-reboot.service";

/// What a soft-reboot starts; older systems of NixOS do not have it.
pub const TARGET: &str = "soft-reboot.target";

/// How many soft-reboots there were since the kernel was booted; no file: none.
const COUNT: &str = "/run/lab-updater-soft-reboots";

/// Why the target could not be taken up. The soft-reboot goes on, and the agent finds out.
#[derive(Debug, thiserror::Error)]
pub enum SoftRebootError {
    /// The agent's journal cannot be read.
    #[error("cannot tell where the attempt stands")]
    State(#[from] StateFileError),
    /// The machine said no.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The target's activation script failed.
    #[error("cannot activate {target}: {end}")]
    Activation {
        /// What was to be taken up.
        target: StorePath,
        /// How the script ended.
        end: String,
    },
}

/// What it came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TakenUp {
    /// No soft-reboot is under way.
    NoSoftReboot,
    /// One is, and not on behalf of an attempt.
    NoTarget,
    /// The target is what will be started.
    Target(StorePath),
}

/// Takes up the target, if the machine is on its way into a soft-reboot that the agent has asked for.
pub async fn take_up(host: &System, config: &Config) -> Result<TakenUp, SoftRebootError> {
    if !host.is_in_soft_reboot().await? {
        return Ok(TakenUp::NoSoftReboot);
    }
    // Asked of the boot that ends; counted whatever comes of the rest, since user space ends too.
    let boot = host.boot_id();
    Boots::of_machine()
        .count()
        .map_err(|error| HostError::io("count the soft-reboots", error))?;
    let state = StateFile::new(config.state_file()).load()?;
    let boot = boot?;
    let Some(target) = state.and_then(|state| state.soft_reboot_target(&boot).cloned()) else {
        return Ok(TakenUp::NoTarget);
    };
    // As a boot does it: what NixOS' stage 2 runs before it becomes systemd.
    let status = tokio::process::Command::new(below(&target, "activate"))
        .stdin(std::process::Stdio::null())
        .status()
        .await
        .map_err(|error| HostError::io(format!("run the activation of {target}"), error))?;
    if status.success() {
        Ok(TakenUp::Target(target))
    } else {
        let end = status.to_string();
        Err(SoftRebootError::Activation { target, end })
    }
}

/// The boots of user space under one boot of the kernel.
#[derive(Clone, Debug)]
pub struct Boots {
    file: PathBuf,
}

impl Boots {
    /// Those of this machine.
    pub fn of_machine() -> Self {
        Self { file: COUNT.into() }
    }

    /// The boot of user space: named after the kernel's, and where there were soft-reboots since,
    /// with their number.
    pub fn name(&self, kernel: &str) -> Result<BootId, HostError> {
        let count = self
            .number()
            .map_err(|error| HostError::io("read how many soft-reboots there were", error))?;
        let name = match count {
            0 => kernel.to_owned(),
            count => format!("{kernel}.{count}"),
        };
        let parsed = name.parse();
        parsed.map_err(|error| HostError::Missing(format!("{name:?} is no boot id: {error}")))
    }

    /// One more.
    pub fn count(&self) -> io::Result<()> {
        let next = self.number()?.saturating_add(1);
        let beside = self.file.with_extension("new");
        fs::write(&beside, next.to_string())?;
        fs::rename(&beside, &self.file)
    }

    fn number(&self) -> io::Result<u64> {
        match fs::read_to_string(&self.file) {
            Ok(text) => text.trim().parse().map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_boot_of_user_space_has_a_name_of_its_own() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("soft-reboots");
        let boots = Boots { file };
        let kernel = "4f0c3f7a-0a3e-4f4e-9d3b-0f6f5a1c2b3d";
        let name = || boots.name(kernel).expect("a name").to_string();
        assert_eq!(name(), kernel, "as the kernel's, while there was none");
        boots.count().expect("written");
        assert_eq!(name(), format!("{kernel}.1"));
        boots.count().expect("written");
        assert_eq!(name(), format!("{kernel}.2"));
    }

    #[test]
    fn a_count_that_cannot_be_read_is_no_count() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("soft-reboots");
        fs::write(&file, "many").expect("written");
        let boots = Boots { file };
        boots
            .name("k")
            .expect_err("the boot would look like another");
        boots.count().expect_err("nor is it begun anew");
    }
}
