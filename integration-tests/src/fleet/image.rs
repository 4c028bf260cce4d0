//! The root file system that all machines share: Debian with systemd, D-Bus and Nix, built once by
//! debootstrap, cached outside the checkout and never written to again. A second one, made of the
//! first, has a kernel and a boot loader too.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::Command,
};

use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

use super::{FleetError, apt_sources::Sources, command};

/// Where images are cached; default `~/.cache/lab-updater`.
pub(super) const CACHE_VARIABLE: &str = "LAB_FLEET_CACHE";

/// Names the Debian suite, and with it the versions of systemd and Nix; default [`SUITE`].
pub(super) const SUITE_VARIABLE: &str = "LAB_FLEET_SUITE";

const SUITE: &str = "trixie";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// What debootstrap does for each of these suites; an older one does not know the newest by name.
const SCRIPT: &str = "/usr/share/debootstrap/scripts/sid";

/// Installed by debootstrap itself.
const BASE_PACKAGES: &str = "systemd,systemd-sysv,dbus,iproute2,curl,ca-certificates,perl";

/// Installed in a second step: debootstrap cannot configure Nix.
const SECOND_STEP: &str = "\
set -e
mount -t proc proc \"$1/proc\"
chroot \"$1\" apt-get -q update
DEBIAN_FRONTEND=noninteractive chroot \"$1\" apt-get -q -y install --no-install-recommends nix-bin libpam-systemd libfaketime
chroot \"$1\" apt-get clean
rm -rf \"$1\"/var/lib/apt/lists/* \"$1\"/var/cache/apt/*.bin \"$1\"/usr/share/doc/* \"$1\"/usr/share/man/*
rm -f \"$1/etc/resolv.conf\" \"$1/etc/hostname\" \"$1/etc/machine-id\" \"$1/etc/localtime\"
mkdir -p \"$1/nix/store\" \"$1/nix/var/nix/profiles\" \"$1/nix/var/nix/gcroots\"
";

/// Where a bootable image has its `bzImage` and `initrd`.
pub const BOOT_FILES: &str = "/usr/lib/lab-boot";

/// What the bootable image has besides. Packages of kernels leave their files in /boot, which is the
/// boot loader's file system on the machines.
const BOOTABLE_STEP: &str = "\
set -e
mount -t proc proc \"$1/proc\"
cp /etc/resolv.conf \"$1/etc/resolv.conf\"
chroot \"$1\" apt-get -q update
DEBIAN_FRONTEND=noninteractive chroot \"$1\" apt-get -q -y install --no-install-recommends \
    linux-image-cloud-amd64 initramfs-tools systemd-boot systemd-boot-efi systemd-boot-tools udev kmod zstd
chroot \"$1\" apt-get clean
mkdir -p \"$1$2\"
mv \"$1\"/boot/vmlinuz-* \"$1$2/bzImage\"
mv \"$1\"/boot/initrd.img-* \"$1$2/initrd\"
rm -rf \"$1\"/boot/* \"$1\"/vmlinuz* \"$1\"/initrd.img* \"$1/etc/resolv.conf\"
rm -rf \"$1\"/var/lib/apt/lists/* \"$1\"/var/cache/apt/*.bin \"$1\"/usr/share/doc/* \"$1\"/usr/share/man/*
";

/// The directory of the image, built first when there is none.
///
/// # Errors
/// When debootstrap or apt fail; what they printed is in the error.
pub(super) fn ensure(progress: &dyn Fn(&str)) -> Result<PathBuf, FleetError> {
    let suite = suite();
    cached(
        &format!("image-{}", digest(&suite, &[])),
        progress,
        |root| build(root, &suite, progress),
    )
}

/// The same for the image that has a kernel and a boot loader.
///
/// # Errors
/// When debootstrap or apt fail; what they printed is in the error.
pub(super) fn ensure_bootable(progress: &dyn Fn(&str)) -> Result<PathBuf, FleetError> {
    let plain = ensure(progress)?;
    let name = format!(
        "bootable-{}",
        digest(&suite(), &[BOOTABLE_STEP, BOOT_FILES])
    );
    cached(&name, progress, |root| {
        progress("building the bootable image (once): a kernel and systemd-boot");
        command::run(Command::new("cp").arg("-a").args([&plain, root]))?;
        in_own_mounts(BOOTABLE_STEP, root, &[BOOT_FILES])
    })
}

/// The directory of this name in the cache, filled first when there is none.
fn cached(
    name: &str,
    progress: &dyn Fn(&str),
    fill: impl FnOnce(&PathBuf) -> Result<(), FleetError>,
) -> Result<PathBuf, FleetError> {
    let cache = cache_dir();
    fs::create_dir_all(&cache).map_err(FleetError::file("create", &cache))?;
    let image = cache.join(name);
    if image.is_dir() {
        return Ok(image);
    }
    let lock_path = cache.join("image.lock");
    let lock = File::create(&lock_path).map_err(FleetError::file("create", &lock_path))?;
    progress("waiting for the lock of the image cache");
    let _lock = Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, errno)| FleetError::file("lock", &lock_path)(errno.into()))?;
    if image.is_dir() {
        return Ok(image);
    }
    remove_unfinished(&cache)?;
    let unfinished = cache.join("image.unfinished");
    fill(&unfinished)?;
    fs::rename(&unfinished, &image).map_err(FleetError::file("rename", &unfinished))?;
    progress("the image is ready and cached");
    Ok(image)
}

fn suite() -> String {
    std::env::var(SUITE_VARIABLE).unwrap_or_else(|_| SUITE.to_owned())
}

fn cache_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os(CACHE_VARIABLE) {
        return PathBuf::from(dir);
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
    cache
        .unwrap_or_else(|| home.join(".cache"))
        .join("lab-updater")
}

/// Names the recipe, so that another recipe is another image.
fn digest(suite: &str, more: &[&str]) -> String {
    let mut hash = Sha256::new();
    let base = [suite, BASE_PACKAGES, SECOND_STEP, std::env::consts::ARCH];
    for part in base.iter().chain(more) {
        hash.update(part);
        hash.update([0]);
    }
    hash.finalize()[..6]
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

/// Removes what an interrupted build left. The caller holds the lock.
fn remove_unfinished(cache: &Path) -> Result<(), FleetError> {
    let unfinished = cache.join("image.unfinished");
    match fs::remove_dir_all(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(FleetError::file("remove", unfinished)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn build(root: &Path, suite: &str, progress: &dyn Fn(&str)) -> Result<(), FleetError> {
    let sources = Sources::of_host(suite);
    progress(&format!(
        "building the image of {suite} (once; about a minute): debootstrap"
    ));
    command::run(
        Command::new("debootstrap")
            .args(["--variant=minbase", &format!("--include={BASE_PACKAGES}")])
            .arg(format!("--keyring={KEYRING}"))
            .args([suite.as_ref(), root.as_os_str(), sources.mirror.as_ref()])
            .arg(SCRIPT),
    )?;
    progress("building the image: Nix");
    sources.write_to(root)?;
    in_own_mounts(SECOND_STEP, root, &[])
}

/// Runs a script on a root file system (`$1`), in a mount namespace of its own: whatever happens, its
/// mounts end with it.
fn in_own_mounts(script: &str, root: &Path, more: &[&str]) -> Result<(), FleetError> {
    let unshare = ["--mount", "--propagation=private", "sh", "-c", script, "sh"];
    let mut command = Command::new("unshare");
    command.args(unshare).arg(root).args(more);
    command::run(&mut command).map(drop)
}
