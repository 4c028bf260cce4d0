//! What happens to machines: reboots, power cuts, partitions, damage, and healing.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use common::id::{BootId, MachineName};

use super::{
    Fleet, FleetError, Power, handle::GLANCE, install::AGENT_UNIT, network, protocol::Request,
    provision,
};

/// How long a machine may take to be up.
const BOOT_MAX: Duration = Duration::from_secs(60);

/// How long a machine may take to reach others once its cable is plugged in.
const NETWORK_MAX: Duration = Duration::from_secs(15);

/// What `break` does to a running machine; `heal` undoes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Damage {
    /// `/health` is no longer served.
    Health,
    /// The web service stops with a failure.
    Unit,
    /// The machine's own end of the cable goes down.
    Network,
    /// The agent is killed (systemd may start it again).
    Agent,
    /// All processes stop where they are: the machine is silent.
    Freeze,
}

impl Fleet {
    /// The machine's present boot.
    ///
    /// # Errors
    /// When it is off.
    pub fn boot_id(&self, machine: &MachineName) -> Result<BootId, FleetError> {
        // systemd-nspawn gives every boot an id of its own.
        let id = self.run(machine, &["cat", "/proc/sys/kernel/random/boot_id"])?;
        Ok(id.trim().parse()?)
    }

    /// Waits until the machine's systemd has started everything.
    ///
    /// # Errors
    /// When it does not within a minute, or cannot boot.
    pub fn await_up(&self, machine: &MachineName) -> Result<(), FleetError> {
        let since = Instant::now();
        loop {
            let status = self.status_of(machine)?;
            if status.power == Power::Crashed {
                let log = self.run.log(machine.as_str());
                let console = fs::read_to_string(&log).unwrap_or_default();
                return Err(FleetError::Refused(format!(
                    "{machine} does not boot: {console}"
                )));
            }
            if status.leader.is_some() {
                let state = self.exec(machine, &["systemctl", "is-system-running"]);
                let state = state.map(|finished| finished.stdout).unwrap_or_default();
                if ["running", "degraded"].contains(&state.trim()) {
                    return Ok(());
                }
            }
            if since.elapsed() > BOOT_MAX {
                return Err(FleetError::Deadline {
                    what: format!("the boot of {machine}"),
                    limit: BOOT_MAX,
                });
            }
            thread::sleep(GLANCE);
        }
    }

    /// Reboots the machine, as its own systemd does it, and waits until it is up again.
    ///
    /// # Errors
    /// When it is off or does not come back.
    pub fn reboot(&self, machine: &MachineName) -> Result<(), FleetError> {
        let before = self.status_of(machine)?.boots;
        // The command may be ended by the reboot that it asks for.
        self.exec(machine, &["systemctl", "reboot"])?;
        self.await_boot(machine, before)
    }

    /// Waits for the boot after the one numbered `before`, and until the machine is up.
    ///
    /// # Errors
    /// When it does not come.
    pub fn await_boot(&self, machine: &MachineName, before: u64) -> Result<(), FleetError> {
        let since = Instant::now();
        while self.status_of(machine)?.boots <= before {
            if since.elapsed() > BOOT_MAX {
                return Err(FleetError::Deadline {
                    what: format!("the reboot of {machine}"),
                    limit: BOOT_MAX,
                });
            }
            thread::sleep(GLANCE);
        }
        self.await_up(machine)
    }

    /// Ends every process of the machine at once. What it wrote and did not sync is kept all the
    /// same: the page cache is the host's.
    ///
    /// # Errors
    /// When the processes do not end.
    pub fn power_cut(&self, machine: &MachineName) -> Result<(), FleetError> {
        self.ask_done(&Request::PowerCut(machine.clone()))
    }

    /// Starts a machine that is off, and waits until it is up.
    ///
    /// # Errors
    /// When it does not boot.
    pub fn power_on(&self, machine: &MachineName) -> Result<(), FleetError> {
        let before = self.status_of(machine)?.boots;
        self.ask_done(&Request::PowerOn(machine.clone()))?;
        self.await_boot(machine, before)
    }

    /// Takes the machine off the network.
    ///
    /// # Errors
    /// When there is no such machine.
    pub fn partition(&self, machine: &MachineName) -> Result<(), FleetError> {
        self.set_link(machine, false)
    }

    /// Connects it again.
    ///
    /// # Errors
    /// When there is no such machine.
    pub fn plug_in(&self, machine: &MachineName) -> Result<(), FleetError> {
        self.set_link(machine, true)
    }

    /// Breaks something in the running machine.
    ///
    /// # Errors
    /// When the machine is off, or has nothing of the kind.
    pub fn damage(&self, machine: &MachineName, damage: Damage) -> Result<(), FleetError> {
        let words: &[&str] = match damage {
            Damage::Health => &["rm", "-f", "/run/toy/www/health"],
            Damage::Unit => &["systemctl", "kill", "--signal=SEGV", "web.service"],
            Damage::Network => &["ip", "link", "set", network::CARD, "down"],
            Damage::Agent => &["systemctl", "kill", "--signal=KILL", AGENT_UNIT],
            Damage::Freeze => return self.set_frozen(machine, true),
        };
        self.run(machine, words).map(drop)
    }

    /// Undoes partition and [`Fleet::damage`], and starts the machine when it is off.
    ///
    /// # Errors
    /// When the machine does not come up.
    pub fn heal(&self, machine: &MachineName) -> Result<(), FleetError> {
        self.set_link(machine, true)?;
        let status = self.status_of(machine)?;
        if status.frozen {
            self.set_frozen(machine, false)?;
        }
        if status.power != Power::On {
            self.power_on(machine)?;
        }
        self.run(machine, &["ip", "link", "set", network::CARD, "up"])?;
        let serve = "mkdir -p /run/toy/www && echo ok >/run/toy/www/health";
        self.run(machine, &["sh", "-c", serve])?;
        self.run(machine, &["systemctl", "reset-failed"])?;
        // The kernel takes up to a second to notice a cable, and then asks for addresses again.
        let since = Instant::now();
        while !self.reaches_control(machine)? {
            if since.elapsed() > NETWORK_MAX {
                return Err(FleetError::Deadline {
                    what: format!("{machine} reaching control"),
                    limit: NETWORK_MAX,
                });
            }
        }
        Ok(())
    }

    /// Whether the machine gets an answer from `control` within a second.
    ///
    /// # Errors
    /// When the machine is off.
    pub fn reaches_control(&self, machine: &MachineName) -> Result<bool, FleetError> {
        let address = provision::cache_address() + "/nix-cache-info";
        let ask = [
            "curl",
            "-sf",
            "-o",
            "/dev/null",
            "--max-time",
            "1",
            &address,
        ];
        Ok(self.exec(machine, &ask)?.status.success())
    }

    fn set_link(&self, machine: &MachineName, up: bool) -> Result<(), FleetError> {
        let machine = machine.clone();
        self.ask_done(&Request::Link { machine, up })
    }

    fn set_frozen(&self, machine: &MachineName, frozen: bool) -> Result<(), FleetError> {
        let machine = machine.clone();
        self.ask_done(&Request::Freeze { machine, frozen })
    }
}
