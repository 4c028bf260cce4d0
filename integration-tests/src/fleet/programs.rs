//! Our programs for the machines: built from this checkout, or taken from where they are ready.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use common::id::MachineName;

use super::{Fleet, FleetError, command};

/// Names a directory with `lab`, `lab-agent` and `lab-coordinator`, ready built.
pub const PROGRAMS_VARIABLE: &str = "LAB_PROGRAMS";

/// Where binaries go on a machine.
pub(super) const BIN: &str = "/usr/local/bin";

/// Our programs, built.
#[derive(Clone, Debug)]
pub struct Programs {
    dir: PathBuf,
    /// Where the agent is, which is built in a profile of its own.
    agent: PathBuf,
}

impl Programs {
    /// Those in the directory that [`PROGRAMS_VARIABLE`] names; otherwise the three programs are
    /// built into the target directory that the `fleet` program is in.
    ///
    /// # Errors
    /// When they do not compile.
    pub fn ready(fleet_program: &Path) -> Result<Self, FleetError> {
        if let Some(programs) = Self::given() {
            return Ok(programs);
        }
        let words = ["-p", "agent", "-p", "coordinator", "-p", "cli"];
        let dir = build(fleet_program, &words)?.join("debug");
        Ok(Self {
            agent: dir.clone(),
            dir,
        })
    }

    /// The same, built as users get them.
    ///
    /// # Errors
    /// When they do not compile.
    pub fn release(fleet_program: &Path) -> Result<Self, FleetError> {
        if let Some(programs) = Self::given() {
            return Ok(programs);
        }
        let others = ["--release", "-p", "coordinator", "-p", "cli"];
        let target = build(fleet_program, &others)?;
        build(fleet_program, &["--profile", "agent", "-p", "agent"])?;
        Ok(Self {
            dir: target.join("release"),
            agent: target.join("agent"),
        })
    }

    fn given() -> Option<Self> {
        let dir = PathBuf::from(std::env::var_os(PROGRAMS_VARIABLE)?);
        Some(Self {
            agent: dir.clone(),
            dir,
        })
    }

    /// Where a program is.
    pub fn path(&self, name: &str) -> PathBuf {
        let dir = if name == "lab-agent" {
            &self.agent
        } else {
            &self.dir
        };
        dir.join(name)
    }

    /// Puts a program onto a machine.
    pub(super) fn install(
        &self,
        fleet: &Fleet,
        machine: &MachineName,
        name: &str,
    ) -> Result<(), FleetError> {
        let to = fleet.path(machine, &format!("{BIN}/{name}"));
        // Beside it first: a program that runs cannot be written to.
        let beside = to.with_extension("new");
        fs::copy(self.path(name), &beside).map_err(FleetError::file("write", &beside))?;
        fs::rename(&beside, &to).map_err(FleetError::file("rename", to))
    }
}

/// Builds what the words say; returns the target directory.
fn build(fleet_program: &Path, words: &[&str]) -> Result<PathBuf, FleetError> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let target = fleet_program.ancestors().nth(2).unwrap_or(Path::new("/"));
    let mut build = Command::new(cargo);
    build
        .args(["build", "--quiet", "--locked", "--bins"])
        .args(words)
        .arg("--manifest-path")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .arg("--target-dir")
        .arg(target);
    command::run(&mut build)?;
    Ok(target.to_owned())
}
