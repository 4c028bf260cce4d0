//! What the host must offer for a virtual machine, besides what a fleet needs, and the command that
//! would provide it.

use std::path::{Path, PathBuf};

/// Debian packages that it needs on the host.
pub const PACKAGES: &[&str] = &[
    "qemu-system-x86",
    "ovmf",
    "mtools",
    "dosfstools",
    "fdisk",
    "e2fsprogs",
];

/// The firmware, and what it keeps.
pub(super) const FIRMWARE: [&str; 2] = [
    "/usr/share/OVMF/OVMF_CODE_4M.fd",
    "/usr/share/OVMF/OVMF_VARS_4M.fd",
];

/// Programs of these packages.
const PROGRAMS: &[&str] = &[
    "qemu-system-x86_64",
    "mcopy",
    "mkfs.vfat",
    "mkfs.ext4",
    "sfdisk",
];

/// Where programs are looked for besides `PATH`.
const SYSTEM_PATH: &[&str] = &["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// What the host lacks, and how to get it; nothing when it lacks nothing.
pub fn missing() -> Option<String> {
    if let Some(missing) = crate::fleet::host::missing() {
        return Some(missing.to_string());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places: Vec<PathBuf> = std::env::split_paths(&path)
        .chain(SYSTEM_PATH.iter().map(PathBuf::from))
        .collect();
    let there = |program: &str| places.iter().any(|place| place.join(program).is_file());
    let programs = PROGRAMS.iter().filter(|program| !there(program));
    let firmware = FIRMWARE.iter().filter(|file| !Path::new(file).is_file());
    let lacking: Vec<&str> = programs.chain(firmware).copied().collect();
    (!lacking.is_empty()).then(|| {
        format!(
            "this host cannot run a virtual machine: no {}; possible after `apt-get install {}`",
            lacking.join(", no "),
            PACKAGES.join(" ")
        )
    })
}
