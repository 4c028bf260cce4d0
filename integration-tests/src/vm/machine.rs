//! QEMU: power on and off, the console, commands in the machine.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use common::{id::MachineName, text};

use super::{VmError, host::FIRMWARE};
use crate::fleet::Fleet;

/// The machine's memory.
const MEMORY: &str = "1024M";

/// The machine as `control` sees it: a shell for whoever connects.
const SHELL_PORT: u16 = 2222;

/// `control` as the machine sees it; its own address, and the length of the network's prefix.
pub(super) const CONTROL_ADDRESS: &str = "10.0.2.2";
pub(super) const OWN_ADDRESS: &str = "10.0.2.15/24";

/// Units that the machine has besides those of its systems: its network card, which a container gets
/// from outside, and the shell.
pub(super) const UNITS: &[(&str, &str)] = &[
    (
        "vm-network.service",
        "[Unit]\n\
         BindsTo=sys-subsystem-net-devices-eth0.device\n\
         After=sys-subsystem-net-devices-eth0.device\n\
         [Service]\n\
         Type=oneshot\n\
         RemainAfterExit=yes\n\
         ExecStart=ip link set eth0 up\n\
         ExecStart=ip addr replace @own@ dev eth0\n\
         ExecStart=ip route replace default via @control@\n\
         [Install]\n\
         WantedBy=multi-user.target\n",
    ),
    (
        "vm-shell.socket",
        "[Socket]\n\
         ListenStream=2222\n\
         Accept=yes\n\
         [Install]\n\
         WantedBy=sockets.target\n",
    ),
    (
        "vm-shell@.service",
        "[Service]\n\
         ExecStart=/bin/sh\n\
         StandardInput=socket\n\
         StandardOutput=socket\n\
         StandardError=socket\n\
         Environment=HOME=/root LANG=C.UTF-8\n",
    ),
];

/// Sends `$1` to the machine's shell and prints what comes back. Run on `control`.
const ASK_SHELL: &str = "exec 3<>/dev/tcp/127.0.0.1/2222 && \
    printf '(%s) 2>&1 </dev/null; printf \"\\\\nended %%s\\\\n\" $?; exit\\n' \"$1\" >&3 && cat <&3";

/// Longest for the machine to be up after it was started or reset: firmware, boot loader and kernel
/// without hardware acceleration, several times when boots fail.
const UP_MAX: Duration = Duration::from_secs(600);

/// Longest for QEMU to begin and to end.
const QEMU_MAX: Duration = Duration::from_secs(20);

/// Between two looks.
const GLANCE: Duration = Duration::from_millis(500);

/// The virtual machine.
#[derive(Debug)]
pub(super) struct Vm {
    /// The disk, what the firmware keeps, the console's text, the monitor's socket.
    dir: PathBuf,
    control: MachineName,
}

impl Vm {
    /// The machine with the disk in this directory, still off.
    pub(super) fn new(fleet: &Fleet, dir: &Path) -> Result<Self, VmError> {
        let kept = dir.join("firmware.fd");
        fs::copy(FIRMWARE[1], &kept).map_err(VmError::file("write", &kept))?;
        Ok(Self {
            dir: dir.to_owned(),
            control: fleet.control(),
        })
    }

    /// Turns it on.
    pub(super) fn power_on(&self, fleet: &Fleet) -> Result<(), VmError> {
        let dir = self.dir.display();
        let console = self.dir.join("qemu.log");
        let errors = File::create(&console).map_err(VmError::file("create", &console))?;
        let code = FIRMWARE[0];
        let words = [
            "qemu-system-x86_64",
            "-accel",
            "tcg",
            "-machine",
            "q35",
            "-cpu",
            "max",
            "-smp",
            "1",
            "-m",
            MEMORY,
            "-nodefaults",
            "-display",
            "none",
            "-chardev",
            &format!("file,id=console,append=on,path={dir}/console.log"),
            "-serial",
            "chardev:console",
            "-monitor",
            &format!("unix:{dir}/monitor,server=on,wait=off"),
            "-drive",
            &format!("if=pflash,format=raw,readonly=on,file={code}"),
            "-drive",
            &format!("if=pflash,format=raw,file={dir}/firmware.fd"),
            "-drive",
            &format!("if=virtio,format=raw,file={dir}/disk.img"),
            "-netdev",
            &format!("user,id=net,hostfwd=tcp:127.0.0.1:{SHELL_PORT}-:{SHELL_PORT}"),
            "-device",
            "virtio-net-pci,netdev=net,romfile=",
            "-device",
            "virtio-rng-pci",
        ];
        let mut command = fleet.command_beside(&self.control, &words)?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .map_err(VmError::file("start", "qemu-system-x86_64"))?;
        self.eventually("QEMU runs", QEMU_MAX, || Ok(self.is_on()))
    }

    /// Takes its power away.
    pub(super) fn power_off(&self) -> Result<(), VmError> {
        let socket = self.socket();
        let failed = || VmError::file("use", &socket);
        let mut monitor = UnixStream::connect(&socket).map_err(failed())?;
        monitor.set_read_timeout(Some(QEMU_MAX)).map_err(failed())?;
        writeln!(monitor, "quit").map_err(failed())?;
        // To its end, which is QEMU's.
        monitor.read_to_end(&mut Vec::new()).ok();
        self.eventually("QEMU ends", QEMU_MAX, || Ok(!self.is_on()))
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("monitor")
    }

    fn is_on(&self) -> bool {
        UnixStream::connect(self.socket()).is_ok()
    }

    /// Everything that firmware, boot loader and kernels have printed.
    pub(super) fn console(&self) -> String {
        let printed = fs::read(self.dir.join("console.log")).unwrap_or_default();
        String::from_utf8_lossy(&printed).into_owned()
    }

    /// How often the firmware has started the boot loader.
    pub(super) fn boots(&self) -> usize {
        self.console().matches("BdsDxe: starting Boot").count()
    }

    /// How often a kernel has panicked.
    pub(super) fn panics(&self) -> usize {
        self.console().matches("Kernel panic").count()
    }

    /// Runs a script in the machine, as root; it must succeed. Returns what it printed.
    pub(super) fn run(&self, fleet: &Fleet, script: &str) -> Result<String, VmError> {
        let ask = ["timeout", "60", "bash", "-c", ASK_SHELL, "bash", script];
        let printed = fleet.run(&self.control, &ask)?;
        match printed.rsplit_once("\nended ") {
            Some((said, "0\n")) => Ok(said.to_owned()),
            Some(_) | None => {
                let printed = text::last_lines(&printed, 2000);
                Err(VmError::Wrong(format!(
                    "`{script}` in the machine: {printed}"
                )))
            }
        }
    }

    /// Waits until its systemd has started everything.
    pub(super) fn await_up(&self, fleet: &Fleet) -> Result<(), VmError> {
        self.eventually("the machine is up", UP_MAX, || {
            let state = self.run(fleet, "systemctl is-system-running || true");
            let state = state.unwrap_or_default();
            Ok(["running", "degraded"].contains(&state.trim()))
        })
    }

    /// Waits until it is so.
    pub(super) fn eventually(
        &self,
        what: &str,
        limit: Duration,
        so: impl Fn() -> Result<bool, VmError>,
    ) -> Result<(), VmError> {
        let since = Instant::now();
        while !so()? {
            if since.elapsed() > limit {
                let console = text::last_lines(&self.console(), 1500);
                let what = format!("{what} (the console: {console})");
                return Err(VmError::Deadline { what, limit });
            }
            thread::sleep(GLANCE);
        }
        Ok(())
    }
}
