//! What a fresh machine needs before it is one of a fleet: the common layer over the image, Nix's
//! configuration with the fleet's signed cache, and a first system.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    thread,
};

use common::{closure::StorePath, id::MachineName};

use super::{CONTROL, Fleet, FleetError, SystemSpec, machine, run_dir::RunDir, system::CACHE_KEY};

/// Name of the cache's key pair; part of the public key.
const KEY_NAME: &str = "lab-fleet-1";

/// The port of the cache on `control`.
const CACHE_PORT: u16 = 8088;

/// Version of the first system of every machine.
pub(super) const FIRST_VERSION: &str = "1";

/// Where a machine has its boot's id when its systemd does not tell units with a /proc of their own.
pub(super) const BOOT_ID: &str = "/run/lab-boot-id";

/// The boot loader: starts the boot default's stage 2, or systemd alone before there is one. Before that
/// it notes the boot's id: systemd-nspawn mounts it over the kernel's, and systemd 252 (unlike 257) does
/// not do the same in a unit's own /proc.
const BOOT: &str = "\
#!/bin/sh
case $(/lib/systemd/systemd --version) in
'systemd 252 '*) cat /proc/sys/kernel/random/boot_id >@boot-id@ ;;
esac
system=$(readlink /boot/default) && [ -x \"$system/init\" ] && exec \"$system/init\" \"$@\"
exec /lib/systemd/systemd \"$@\"
";

const CACHE_UNIT: &str = "\
[Unit]
Description=The fleet's binary cache

[Service]
ExecStart=/usr/local/bin/fleet serve-files --listen 0.0.0.0:8088 --root /srv/cache
Restart=always
";

/// Debian's package has the daemon and no units for it.
const NIX_DAEMON_UNIT: &str = "\
[Unit]
Description=Nix daemon
Requires=nix-daemon.socket

[Service]
ExecStart=/usr/bin/nix-daemon
KillMode=process
";

const NIX_DAEMON_SOCKET: &str = "\
[Unit]
Description=Nix daemon socket

[Socket]
ListenStream=/nix/var/nix/daemon-socket/socket
";

/// For what is mounted from outside before the machine's systemd begins: it is no file system of its
/// own, and nobody would mount it again after a soft-reboot.
const STAYS_MOUNTED: &str = "[Unit]\nDefaultDependencies=no\n";

/// Timers of the image that have nothing to do with what is tested.
const MASKED: &[&str] = &[
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "fstrim.timer",
    "e2scrub_all.timer",
    "console-getty.service",
];

/// Files of the layer: path, mode, content. Units are where a distribution has its own: what is in
/// `/etc/systemd/system` is a system's.
const FILES: &[(&str, u32, &str)] = &[
    ("etc/NIXOS", 0o444, ""),
    ("srv/cache/nix-cache-info", 0o644, "StoreDir: /nix/store\n"),
    (
        "etc/nix/registry.json",
        0o444,
        "{\"flakes\":[],\"version\":2}\n",
    ),
    (
        "etc/systemd/journald.conf.d/fleet.conf",
        0o444,
        "[Journal]\nStorage=persistent\nSystemMaxUse=48M\nRateLimitIntervalSec=0\n",
    ),
    (
        "usr/local/lib/systemd/system/lab-cache.service",
        0o444,
        CACHE_UNIT,
    ),
    (
        "usr/local/lib/systemd/system/nix-daemon.service",
        0o444,
        NIX_DAEMON_UNIT,
    ),
    (
        "usr/local/lib/systemd/system/nix-daemon.socket",
        0o444,
        NIX_DAEMON_SOCKET,
    ),
    (
        "usr/local/lib/systemd/system/boot.mount.d/fleet.conf",
        0o444,
        STAYS_MOUNTED,
    ),
    (
        "usr/local/lib/systemd/system/srv-witness.mount.d/fleet.conf",
        0o444,
        STAYS_MOUNTED,
    ),
    (
        "usr/local/share/lab-toy/hardening.nix",
        0o444,
        include_str!("../../../nixos-modules/hardening.nix"),
    ),
    (
        "usr/local/share/lab-toy/system.nix",
        0o444,
        include_str!("../../assets/system.nix"),
    ),
    (
        "usr/local/share/lab-toy/flake.nix",
        0o444,
        include_str!("../../assets/flake.nix"),
    ),
    (
        "usr/local/share/lab-toy/build-toplevel.sh",
        0o555,
        include_str!("../../assets/build-toplevel.sh"),
    ),
    (
        "usr/local/share/lab-toy/activate.sh",
        0o555,
        include_str!("../../assets/activate.sh"),
    ),
    (
        "usr/local/share/lab-toy/init.sh",
        0o555,
        include_str!("../../assets/init.sh"),
    ),
    (
        "usr/local/share/lab-toy/switch-to-configuration.sh",
        0o555,
        include_str!("../../assets/switch-to-configuration.sh"),
    ),
    (
        "usr/local/share/lab-toy/install-systemd-boot.sh",
        0o555,
        include_str!("../../assets/install-systemd-boot.sh"),
    ),
];

/// Writes the layer that all machines share. `program` is the `fleet` program itself, which serves
/// files in the machines.
pub(super) fn write_layer(run: &RunDir, program: &Path) -> Result<(), FleetError> {
    let layer = run.layer();
    let write = |path: &str, mode: u32, text: &str| {
        let path = layer.join(path);
        let dir = path.parent().unwrap_or(&layer);
        fs::create_dir_all(dir).map_err(FleetError::file("create", dir))?;
        fs::write(&path, text).map_err(FleetError::file("write", &path))?;
        let mode = fs::Permissions::from_mode(mode);
        fs::set_permissions(&path, mode).map_err(FleetError::file("set the mode of", &path))
    };
    for (path, mode, text) in FILES {
        write(path, *mode, text)?;
    }
    let boot = BOOT.replace("@boot-id@", BOOT_ID);
    write(machine::BOOT_PROGRAM.trim_start_matches('/'), 0o555, &boot)?;
    let units = layer.join("etc/systemd/system");
    fs::create_dir_all(&units).map_err(FleetError::file("create", &units))?;
    for unit in MASKED {
        let link = units.join(unit);
        symlink("/dev/null", &link).map_err(FleetError::file("link", &link))?;
    }
    for dir in [
        "var/log/journal",
        "nix/var/nix/gcroots",
        "usr/local/bin",
        "srv/cache",
        "boot",
    ] {
        let dir = layer.join(dir);
        fs::create_dir_all(&dir).map_err(FleetError::file("create", &dir))?;
    }
    let sockets = layer.join("usr/local/lib/systemd/system/sockets.target.wants");
    fs::create_dir_all(&sockets).map_err(FleetError::file("create", &sockets))?;
    let link = sockets.join("nix-daemon.socket");
    symlink("../nix-daemon.socket", &link).map_err(FleetError::file("link", &link))?;
    // The roots that NixOS has: what runs, and what was booted, is never collected.
    for name in ["current-system", "booted-system"] {
        let link = layer.join("nix/var/nix/gcroots").join(name);
        symlink(Path::new("/run").join(name), &link).map_err(FleetError::file("link", &link))?;
    }
    // Directories of the layer show through with their mode.
    for dir in [
        "",
        "etc",
        "usr",
        "usr/local",
        "usr/local/bin",
        "usr/local/lib",
        "nix",
        "var",
        "srv",
        "boot",
    ] {
        let dir = layer.join(dir);
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&dir, mode).map_err(FleetError::file("set the mode of", &dir))?;
    }
    let own = layer.join("usr/local/bin/fleet");
    fs::copy(program, &own)
        .map_err(FleetError::file("write", &own))
        .map(drop)
}

impl Fleet {
    /// Makes the cache and its key, tells all machines of it, gives every machine its first system.
    pub(super) fn provision(&self) -> Result<(), FleetError> {
        let control = self.control();
        let public = CACHE_KEY.replace(".sec", ".pub");
        self.write_file(&control, "/etc/nix/nix.conf", &nix_conf(None))?;
        self.run(
            &control,
            &[
                "nix-store",
                "--generate-binary-cache-key",
                KEY_NAME,
                CACHE_KEY,
                &public,
            ],
        )?;
        self.run(&control, &["systemctl", "start", "lab-cache.service"])?;
        let key = self.read_file(&control, &public)?;
        for machine in self.machines() {
            self.write_file(machine, "/etc/nix/nix.conf", &nix_conf(Some(key.trim())))?;
        }
        let specs: Vec<_> = self
            .machines()
            .iter()
            .map(|machine| SystemSpec::new(machine, FIRST_VERSION))
            .collect();
        self.deploy(&specs).map(drop)
    }

    /// Publishes the systems and makes each machine run its own, as a first installation does: no
    /// agent takes part, and the system counts as booted.
    ///
    /// # Errors
    /// When a system cannot be built, fetched or switched to.
    pub fn deploy(&self, specs: &[SystemSpec]) -> Result<Vec<StorePath>, FleetError> {
        let paths = self.publish(specs)?;
        thread::scope(|scope| {
            let pairs = specs.iter().zip(&paths);
            let tasks: Vec<_> = pairs
                .map(|(spec, path)| scope.spawn(|| self.install_system(&spec.host, path)))
                .collect();
            tasks.into_iter().try_for_each(|task| {
                task.join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        })?;
        Ok(paths)
    }

    fn install_system(&self, machine: &MachineName, path: &StorePath) -> Result<(), FleetError> {
        let path = path.as_str();
        let profile = "/nix/var/nix/profiles/system";
        let switch = format!("{path}/bin/switch-to-configuration");
        self.run(machine, &["nix-store", "--realise", path])?;
        self.run(machine, &["nix-env", "-p", profile, "--set", path])?;
        self.run(machine, &[&switch, "switch"])?;
        self.run(machine, &["ln", "-sfn", path, "/run/booted-system"])?;
        Ok(())
    }
}

/// The cache, as the machines reach it.
pub(super) fn cache_address() -> String {
    format!("http://{CONTROL}:{CACHE_PORT}")
}

/// Nix's configuration: with the key of the cache on a machine, without any cache on `control`.
fn nix_conf(cache_key: Option<&str>) -> String {
    let mut conf = String::from(
        "experimental-features = nix-command flakes\n\
         sandbox = false\n\
         build-users-group =\n\
         flake-registry = /etc/nix/registry.json\n\
         substitute = true\n\
         connect-timeout = 2\n\
         download-attempts = 1\n",
    );
    match cache_key {
        Some(key) => {
            let cache = cache_address();
            conf += &format!("substituters = {cache}\ntrusted-public-keys = {key}\n");
        }
        None => conf += "substituters =\n",
    }
    conf
}
