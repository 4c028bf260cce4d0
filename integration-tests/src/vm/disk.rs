//! The disk of the virtual machine: a partition table, the boot loader's file system and the
//! machine's own, made from its files without mounting anything.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::VmError;
use crate::fleet::run_program;

const MIB: u64 = 1 << 20;

/// Where the boot loader's file system begins, and how large it is: a kernel and an initrd of each
/// system that a run makes.
const ESP_AT: u64 = MIB;
const ESP_SIZE: u64 = 512 * MIB;

/// The machine's own.
const ROOT_AT: u64 = ESP_AT + ESP_SIZE;
const ROOT_SIZE: u64 = 4096 * MIB;

/// systemd-boot in the machine's files, and where firmware looks for a boot loader that it was told
/// nothing of.
const BOOT_LOADER: &str = "usr/lib/systemd/boot/efi/systemd-bootx64.efi";
const FALLBACK: &str = "EFI/BOOT";

/// The kernel's name of the machine's file system.
pub(super) const ROOT_DEVICE: &str = "/dev/vda2";

/// The kernel's name of the boot loader's.
pub(super) const ESP_DEVICE: &str = "/dev/vda1";

/// Makes the disk of a machine with these files, in this directory. What is in `/boot` moves to the
/// boot loader's file system.
pub(super) fn make(root: &Path, dir: &Path) -> Result<PathBuf, VmError> {
    let disk = dir.join("disk.img");
    let size = ROOT_AT + ROOT_SIZE + MIB;
    File::create(&disk)
        .and_then(|file| file.set_len(size))
        .map_err(VmError::file("create", &disk))?;
    write_table(&disk)?;

    let boot = root.join("boot");
    let fallback = boot.join(FALLBACK);
    fs::create_dir_all(&fallback).map_err(VmError::file("create", &fallback))?;
    let loader = fallback.join("BOOTX64.EFI");
    fs::copy(root.join(BOOT_LOADER), &loader).map_err(VmError::file("write", &loader))?;
    run_program(
        Command::new("mkfs.vfat")
            .args(["-F", "32", "-n", "ESP", "--offset"])
            .arg((ESP_AT / 512).to_string())
            .arg(&disk)
            .arg((ESP_SIZE / 1024).to_string()),
    )?;
    let mut copy = Command::new("mcopy");
    copy.arg("-s")
        .arg("-i")
        .arg(format!("{}@@{ESP_AT}", disk.display()));
    let files = fs::read_dir(&boot).map_err(VmError::file("read", &boot))?;
    let files: Vec<PathBuf> = files.flatten().map(|entry| entry.path()).collect();
    run_program(copy.args(&files).arg("::/"))?;
    for file in files {
        let removed = if file.is_dir() {
            fs::remove_dir_all(&file)
        } else {
            fs::remove_file(&file)
        };
        removed.map_err(VmError::file("remove", &file))?;
    }

    run_program(
        Command::new("mkfs.ext4")
            .args(["-q", "-F", "-E", &format!("offset={ROOT_AT}"), "-d"])
            .args([root, &disk])
            .arg(format!("{}k", ROOT_SIZE / 1024)),
    )?;
    Ok(disk)
}

fn write_table(disk: &Path) -> Result<(), VmError> {
    let sectors = |bytes: u64| bytes / 512;
    let table = format!(
        "label: gpt\n\
         start={}, size={}, type=uefi\n\
         start={}, size={}, type=linux\n",
        sectors(ESP_AT),
        sectors(ESP_SIZE),
        sectors(ROOT_AT),
        sectors(ROOT_SIZE)
    );
    let failed = || VmError::file("write the partition table of", disk);
    let mut sfdisk = Command::new("sfdisk")
        .arg("--quiet")
        .arg(disk)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .map_err(failed())?;
    if let Some(mut input) = sfdisk.stdin.take() {
        input.write_all(table.as_bytes()).map_err(failed())?;
    }
    let status = sfdisk.wait().map_err(failed())?;
    super::error::must(status.success(), || format!("sfdisk: {status}"))
}
