//! What the host must offer for real machines, and the command that would provide it.

use std::{
    fmt,
    path::{Path, PathBuf},
};

/// Debian packages that the fleet needs on the host.
pub const PACKAGES: &[&str] = &[
    "debootstrap",
    "debian-archive-keyring",
    "systemd-container",
    "iproute2",
    "util-linux",
];

/// Programs of these packages, as the fleet calls them.
const PROGRAMS: &[&str] = &["debootstrap", "systemd-nspawn", "ip", "nsenter", "unshare"];

/// Where programs are looked for besides `PATH`.
const SYSTEM_PATH: &[&str] = &["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// What the host lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    root: bool,
    programs: Vec<&'static str>,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this host cannot run real machines:")?;
        if self.root {
            write!(f, " not root;")?;
        }
        for program in &self.programs {
            write!(f, " no {program};")?;
        }
        write!(f, " possible ")?;
        if !self.programs.is_empty() {
            write!(f, "after `apt-get install {}`", PACKAGES.join(" "))?;
        }
        if self.root {
            let and = if self.programs.is_empty() { "" } else { ", " };
            write!(f, "{and}as root")?;
        }
        Ok(())
    }
}

/// What the host lacks, or nothing.
pub fn missing() -> Option<Missing> {
    let missing = Missing {
        root: !nix::unistd::geteuid().is_root(),
        programs: PROGRAMS
            .iter()
            .copied()
            .filter(|program| find(program).is_none())
            .collect(),
    };
    (missing.root || !missing.programs.is_empty()).then_some(missing)
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SYSTEM_PATH.iter().map(PathBuf::from))
        .map(|dir: PathBuf| Path::join(&dir, program))
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_missing_and_how_to_get_it() {
        let missing = Missing {
            root: true,
            programs: vec!["debootstrap"],
        };
        let text = missing.to_string();
        assert!(text.contains("not root"), "{text}");
        assert!(text.contains("no debootstrap"), "{text}");
        assert!(text.contains("apt-get install debootstrap"), "{text}");
    }
}
