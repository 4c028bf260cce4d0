//! System closures of NixOS shape, built without Nix: the same scripts that Nix runs as a builder
//! for the real-machine fleet, run by hand into a directory's store.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use common::{MachineName, StorePath};
use sha2::{Digest as _, Sha256};

use super::error::DemoError;

/// The scripts that a toy system consists of, and the one that puts it together.
const SCRIPTS: [(&str, &str); 4] = [
    (
        "build-toplevel.sh",
        include_str!("../../assets/build-toplevel.sh"),
    ),
    (
        "switch-to-configuration.sh",
        include_str!("../../assets/switch-to-configuration.sh"),
    ),
    ("activate.sh", include_str!("../../assets/activate.sh")),
    ("init.sh", include_str!("../../assets/init.sh")),
];

/// A system to be built.
#[derive(Clone, Debug)]
pub(super) struct System<'a> {
    /// Whose.
    pub(super) machine: &'a MachineName,
    /// What `nixos-version` says.
    pub(super) version: &'a str,
    /// The kernel's version.
    pub(super) kernel: &'a str,
    /// What is wrong with it, in the words of the scripts; `none`.
    pub(super) failure: &'a str,
}

/// Builds systems.
#[derive(Clone, Debug)]
pub(super) struct Builder {
    scripts: PathBuf,
}

impl Builder {
    /// Puts the scripts into a directory of their own.
    pub(super) fn new(scripts: &Path) -> Result<Self, DemoError> {
        fs::create_dir_all(scripts).map_err(DemoError::file("make", scripts))?;
        for (name, text) in SCRIPTS {
            let path = scripts.join(name);
            fs::write(&path, text).map_err(DemoError::file("write", &path))?;
        }
        Ok(Self {
            scripts: scripts.to_owned(),
        })
    }

    /// Builds a system and what it links to into `root/nix/store`.
    pub(super) fn build(&self, root: &Path, system: &System<'_>) -> Result<StorePath, DemoError> {
        let System {
            machine,
            version,
            kernel,
            failure,
        } = system;
        let kernel_path = single(root, &format!("linux-{kernel}"), "bzImage")?;
        let initrd_path = single(root, &format!("initrd-linux-{kernel}"), "initrd")?;
        let modules_path = single(root, &format!("linux-{kernel}-modules"), "modules.builtin")?;
        let path = store_path(&format!("nixos-system-{machine}-{version}"), failure)?;
        let unit = self.scripts.join("web.service");
        let text = format!(
            "[Service]\nExecStart=/bin/web {version}\n\n[Install]\nWantedBy=multi-user.target\n"
        );
        fs::write(&unit, text).map_err(DemoError::file("write", &unit))?;
        let output = Command::new("/bin/sh")
            .arg(self.scripts.join("build-toplevel.sh"))
            .env_clear()
            .env("out", real(root, &path))
            .env("version", version)
            .env("kernel_path", kernel_path.as_str())
            .env("initrd_path", initrd_path.as_str())
            .env("modules_path", modules_path.as_str())
            .env("kernel_params", "quiet")
            .env("failure", failure)
            .env("inhibitors", "{}")
            .env("unit_files", format!("web.service={}", unit.display()))
            .env(
                "stc_script",
                self.scripts.join("switch-to-configuration.sh"),
            )
            .env("activate_script", self.scripts.join("activate.sh"))
            .env("init_script", self.scripts.join("init.sh"))
            .output()
            .map_err(|source| DemoError::Start {
                what: "/bin/sh".to_owned(),
                source,
            })?;
        if output.status.success() {
            Ok(path)
        } else {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(DemoError::Build(common::text::tame_line(&said, 400)))
        }
    }
}

/// A store path with one file, which says its name.
fn single(root: &Path, name: &str, file: &str) -> Result<StorePath, DemoError> {
    let path = store_path(name, "")?;
    let directory = real(root, &path);
    fs::create_dir_all(&directory).map_err(DemoError::file("make", &directory))?;
    let file = directory.join(file);
    fs::write(&file, format!("{name}\n")).map_err(DemoError::file("write", &file))?;
    Ok(path)
}

/// Where a store path lies below a root.
fn real(root: &Path, path: &StorePath) -> PathBuf {
    root.join(path.as_str().trim_start_matches('/'))
}

/// A store path for a name, always the same; `variant` tells apart what has the same name.
fn store_path(name: &str, variant: &str) -> Result<StorePath, DemoError> {
    const ALPHABET: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";
    let digest = Sha256::digest(format!("lab-updater demo\0{name}\0{variant}"));
    let hash: String = digest
        .iter()
        .map(|byte| char::from(ALPHABET[usize::from(byte % 32)]))
        .collect();
    format!("/nix/store/{hash}-{name}")
        .parse()
        .map_err(|error: common::closure::StorePathError| DemoError::Build(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_has_what_an_agent_looks_at() {
        let dir = tempfile::tempdir().expect("a directory");
        let builder = Builder::new(&dir.path().join("scripts")).expect("scripts");
        let machine: MachineName = "web-01".parse().expect("a name");
        let system = System {
            machine: &machine,
            version: "1",
            kernel: "6.12.8",
            failure: "none",
        };
        let root = dir.path().join("root");
        let path = builder.build(&root, &system).expect("built");
        assert_eq!(path.name(), "nixos-system-web-01-1");
        let toplevel = real(&root, &path);
        let version = fs::read_to_string(toplevel.join("nixos-version")).expect("there");
        assert_eq!(version, "1\n");
        for file in ["bin/switch-to-configuration", "init", "switch-inhibitors"] {
            assert!(toplevel.join(file).exists(), "{file}");
        }
        let kernel = fs::read_link(toplevel.join("kernel")).expect("a link");
        assert!(
            real(&root, &store_path("linux-6.12.8", "").expect("a path"))
                .join("bzImage")
                .exists()
        );
        assert!(kernel.ends_with("bzImage"), "{kernel:?}");
    }

    #[test]
    fn a_broken_system_is_another_path_of_the_same_name() {
        let good = store_path("x", "none").expect("a path");
        let bad = store_path("x", "health").expect("a path");
        assert_ne!(good, bad);
        assert_eq!(good.name(), bad.name());
    }
}
