//! What the machine's own links say: which system runs, was booted, and comes next; what a target
//! looks like; whether going there takes a reboot. Reading only, no store access through Nix.
//!
//! Everything is read below a root directory: `/` on a real machine, the machine's directory for
//! the directory executor, where links still name absolute `/nix/store` paths.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    path::{Component, Path, PathBuf},
    time::SystemTime,
};

use agent_core::{Facts, NextBoot, cleanup::Aged};
use common::{BootId, Generation, StorePath};

/// The system that runs.
pub const CURRENT: &str = "/run/current-system";
/// The system that was booted.
pub const BOOTED: &str = "/run/booted-system";
/// The system profile: what the next boot starts, unless the boot loader says otherwise.
pub const PROFILE: &str = "/nix/var/nix/profiles/system";
/// Directory of the system profile and its generations.
pub const PROFILES: &str = "/nix/var/nix/profiles";
/// The agent's own garbage collection roots.
pub const ROOTS: &str = "/nix/var/nix/gcroots/lab-updater";

/// Most links followed for one path, as in the kernel.
const LINKS_MAX: usize = 40;

/// Parts of a system that only a boot takes up; `nixos/modules/tasks/auto-upgrade.nix` compares
/// the first three. Drivers that are loaded have the old firmware.
const BOOT_PARTS: [&str; 4] = ["kernel", "initrd", "kernel-modules", "firmware"];

/// How the reasons begin that are switch inhibitors.
pub const INHIBITOR: &str = "inhibitor:";

/// Why a store path is no system that this machine could go to.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoSystem {
    /// A file that every NixOS system has is missing.
    #[error("{path} is no NixOS system: it has no {part}")]
    Part {
        /// The store path.
        path: StorePath,
        /// What is missing.
        part: &'static str,
    },
}

/// The file system of one machine.
#[derive(Clone, Debug)]
pub struct Links {
    root: PathBuf,
}

impl Links {
    /// The machine below this directory.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// Where a path of the machine lies for this process.
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The store path that a link leads to, whether or not that exists.
    pub fn resolve(&self, link: impl AsRef<Path>) -> Option<StorePath> {
        let mut path = link.as_ref().to_owned();
        for _ in 0..LINKS_MAX {
            let text = fs::read_link(self.at(&path)).ok()?;
            if let Some(store_path) = text.to_str().and_then(|text| text.parse().ok()) {
                return Some(store_path);
            }
            path = path.parent()?.join(text);
        }
        None
    }

    /// A path with every link in it followed, as `readlink -f`; `None` when it leads nowhere.
    pub fn follow(&self, path: impl AsRef<Path>) -> Option<PathBuf> {
        let mut rest: Vec<OsString> = parts(path.as_ref());
        let mut done = PathBuf::from("/");
        let mut links = 0;
        while let Some(part) = rest.pop() {
            if part == ".." {
                done.pop();
                continue;
            }
            let next = done.join(&part);
            match fs::read_link(self.at(&next)) {
                Ok(target) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return None;
                    }
                    if target.is_absolute() {
                        done = PathBuf::from("/");
                    }
                    rest.extend(parts(&target));
                }
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => done = next,
                Err(_) => return None,
            }
        }
        Some(done)
    }

    /// Everything measured that a report carries, but for what the boot loader says.
    pub fn facts(&self, boot_id: BootId) -> Facts {
        Facts {
            boot_id,
            running: self.resolve(CURRENT),
            booted: self.resolve(BOOTED),
            profile: self.resolve(PROFILE),
            next_boot: NextBoot::Unknown,
            generation: self.generation().unwrap_or(0),
            generations: self.generations(),
            store_free_bytes: self.free_bytes("/nix/store").unwrap_or(0),
        }
    }

    /// Number of the profile's current generation.
    pub fn generation(&self) -> Option<u64> {
        let link = fs::read_link(self.at(PROFILE)).ok()?;
        generation_number(link.file_name()?.to_str()?)
    }

    /// The profile's generations, newest first; links that lead nowhere sensible are left out.
    pub fn generations(&self) -> Vec<Generation> {
        let entries = fs::read_dir(self.at(PROFILES))
            .into_iter()
            .flatten()
            .flatten();
        let mut found: Vec<Generation> = entries
            .filter_map(|entry| {
                let name = entry.file_name();
                let number = generation_number(name.to_str()?)?;
                let path = self.resolve(Path::new(PROFILES).join(&name))?;
                Some(Generation { number, path })
            })
            .collect();
        found.sort_by_key(|generation| Reverse(generation.number));
        found
    }

    /// The same with how old each is: by its link, as Nix goes by it. A link from the future is new.
    pub fn aged_generations(&self) -> Vec<Aged> {
        let age = |generation: &Generation| {
            let link = format!("{PROFILES}/system-{}-link", generation.number);
            let made = fs::symlink_metadata(self.at(link)).ok()?.modified().ok()?;
            Some(SystemTime::now().duration_since(made).unwrap_or_default())
        };
        let aged = self.generations().into_iter().map(|generation| Aged {
            age: age(&generation),
            generation,
        });
        aged.collect()
    }

    /// Bytes free for root in the file system of a path.
    pub fn free_bytes(&self, path: impl AsRef<Path>) -> Option<u64> {
        let stat = nix::sys::statvfs::statvfs(&self.at(path)).ok()?;
        Some(stat.blocks_free().saturating_mul(stat.fragment_size()))
    }

    /// Whether the path is a system that can be switched to.
    pub fn check_system(&self, path: &StorePath) -> Result<(), NoSystem> {
        for part in ["nixos-version", "bin/switch-to-configuration"] {
            if self.follow(below(path, part)).is_none() {
                return Err(NoSystem::Part {
                    path: path.clone(),
                    part,
                });
            }
        }
        Ok(())
    }

    /// Why going to the target takes a reboot; empty when a switch is enough.
    ///
    /// Compared with the *booted* system: kernel, initrd, modules, kernel parameters. Compared with
    /// the *running* one: the interface to init and the switch inhibitors, key by key.
    pub fn reboot_reasons(&self, target: &StorePath) -> Vec<String> {
        let mut reasons = Vec::new();
        if let Some(booted) = self.resolve(BOOTED).or_else(|| self.resolve(CURRENT)) {
            let differs =
                |part: &&str| self.follow(below(&booted, part)) != self.follow(below(target, part));
            reasons.extend(
                BOOT_PARTS
                    .iter()
                    .filter(|p| differs(p))
                    .map(|p| (*p).to_owned()),
            );
            if self.text(&booted, "kernel-params") != self.text(target, "kernel-params") {
                reasons.push("kernel-params".to_owned());
            }
        }
        if let Some(running) = self.resolve(CURRENT) {
            let part = "init-interface-version";
            if self.text(&running, part) != self.text(target, part) {
                reasons.push("init-interface".to_owned());
            }
            reasons.extend(self.inhibitors(&running, target));
        }
        reasons
    }

    /// Keys of the switch inhibitors that both systems have, with different values
    /// (`nixos/modules/system/activation/switch-inhibitors`: keys on one side only do not count).
    fn inhibitors(&self, running: &StorePath, target: &StorePath) -> Vec<String> {
        let read = |path: &StorePath| -> BTreeMap<String, serde_json::Value> {
            self.text(path, "switch-inhibitors")
                .and_then(|text| serde_json::from_str(&text).ok())
                .unwrap_or_default()
        };
        let (old, new) = (read(running), read(target));
        old.iter()
            .filter(|(key, value)| new.get(*key).is_some_and(|other| other != *value))
            .map(|(key, _)| format!("{INHIBITOR}{key}"))
            .collect()
    }

    /// Bytes that installing the target's kernel and initrd will take where the boot loader finds
    /// them: those that it does not share with the booted system nor with the one that is booted
    /// next, whose are there.
    pub fn boot_bytes_needed(&self, target: &StorePath) -> u64 {
        let installed = [self.resolve(BOOTED), self.resolve(PROFILE)];
        ["kernel", "initrd"]
            .iter()
            .filter_map(|part| {
                let new = self.follow(below(target, part))?;
                let mut there = installed.iter().flatten();
                if there.any(|path| self.follow(below(path, part)).as_ref() == Some(&new)) {
                    return None;
                }
                fs::metadata(self.at(new)).ok().map(|meta| meta.len())
            })
            .sum()
    }

    fn text(&self, system: &StorePath, part: &str) -> Option<String> {
        let path = self.follow(below(system, part))?;
        fs::read_to_string(self.at(path)).ok()
    }
}

/// Whether these reasons for a reboot are all about what runs, and none about kernel, initrd or init: a
/// soft-reboot answers them.
pub fn lie_in_user_space(reasons: &[String]) -> bool {
    reasons.iter().all(|reason| reason.starts_with(INHIBITOR))
}

/// A file of a system.
pub fn below(system: &StorePath, part: &str) -> PathBuf {
    Path::new(system.as_str()).join(part)
}

/// N of `system-N-link`.
fn generation_number(name: &str) -> Option<u64> {
    name.strip_prefix("system-")?
        .strip_suffix("-link")?
        .parse()
        .ok()
}

/// The components of a path, last first.
fn parts(path: &Path) -> Vec<OsString> {
    path.components()
        .rev()
        .filter_map(|component| match component {
            Component::Normal(part) => Some(part.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests;
