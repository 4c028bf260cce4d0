//! Fleet, coordinator, disk and virtual machine, and what one does with them: updates of the machine
//! and what came of them.

use std::{cell::Cell, fmt, path::PathBuf, time::Duration};

use common::{closure::StorePath, id::MachineName};
use serde_json::{Value, json};

use super::{
    VmError, disk,
    disk::{ESP_DEVICE, ROOT_DEVICE},
    error::must,
    machine::{CONTROL_ADDRESS, OWN_ADDRESS, UNITS, Vm},
};
use crate::fleet::{BOOT_FILES, Fleet, FleetOptions, Programs, SystemSpec};

/// The machine.
const NODE: &str = "vm-1";

/// How often a boot entry may be tried, as a NixOS module would set it.
pub(super) const TRIES: u32 = 2;

/// Longest for one of our own words to be true after a scenario.
const SETTLED_MAX: Duration = Duration::from_secs(180);

/// Longest for an update to be over.
const VERDICT_MAX: Duration = Duration::from_secs(1200);

/// What the agent's configuration has besides the usual: a boot takes its time here.
const AGENT_CONFIG: &str = "\
limits.stage_timeout = \"10m\"
limits.switch_timeout = \"5m\"
limits.boot_timeout = \"10m\"
limits.settle = \"5s\"
boot_directory = \"/boot\"
";

/// The timer that takes back a boot without agent, with the patience that the agent has.
const BOOT_TIMER: &str = "\
[Unit]
Description=Way back from a boot without lab-updater agent

[Timer]
OnBootSec=600

[Install]
WantedBy=timers.target
";

/// How a run is done.
#[derive(Clone, Debug)]
pub struct Options {
    /// The fleet's name.
    pub name: String,
    /// The program that has the parts of a fleet.
    pub program: PathBuf,
    /// Where disk and console go.
    pub dir: PathBuf,
}

/// Everything that is up.
#[derive(Debug)]
pub struct Bed {
    pub(super) fleet: Fleet,
    pub(super) vm: Vm,
    pub(super) node: MachineName,
    hardening: String,
    versions: Cell<u32>,
}

/// What `lab update execute` came to.
#[derive(Debug)]
pub(super) struct Executed {
    /// Its exit status.
    pub(super) status: i32,
    /// The coordinator's verdict on the machine.
    pub(super) verdict: String,
    /// What `lab` printed.
    pub(super) said: String,
}

impl fmt::Display for Executed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            status,
            verdict,
            said,
        } = self;
        write!(f, "exit status {status}, verdict {verdict:?}: {said}")
    }
}

impl Bed {
    /// Makes the machine and turns it on.
    ///
    /// # Errors
    /// When a part of it does not work.
    pub fn up(options: &Options, progress: &dyn Fn(&str)) -> Result<Self, VmError> {
        let node: MachineName = NODE.parse().map_err(crate::fleet::FleetError::from)?;
        let fleet = Fleet::up_bootable(
            &FleetOptions {
                name: options.name.clone(),
                machines: vec![node.clone()],
                program: options.program.clone(),
                ends_with_us: true,
                disk: None,
                files: None,
                memory: None,
            },
            progress,
        )?;
        progress("installing coordinator and agent");
        let programs = Programs::ready(&options.program)?;
        fleet.install_coordinator(&programs)?;
        fleet.import_config(&json!({
            "updateGroups": { "nodes": {
                "machines": [node],
                "updatePolicy": "aggressive",
                "maxFailures": 0,
                "allowReboot": true,
                "healthCheckTimeout": "2m",
                "expectedDuration": "1m",
            } },
            "updateSettings": { "staggerDelay": 0 },
        }))?;
        fleet.install_agents(&programs, std::slice::from_ref(&node), "")?;
        let bed = Self {
            hardening: fleet.hardening()?,
            vm: Vm::new(&fleet, &options.dir)?,
            fleet,
            node,
            versions: Cell::new(1),
        };
        progress("making the disk");
        bed.make_disk(&options.dir)?;
        progress("booting it");
        bed.vm.power_on(&bed.fleet)?;
        bed.vm.await_up(&bed.fleet)?;
        bed.await_settled()?;
        Ok(bed)
    }

    /// Gives the container its first bootable system, and makes a disk of it.
    fn make_disk(&self, dir: &std::path::Path) -> Result<(), VmError> {
        let (fleet, node) = (&self.fleet, &self.node);
        // So that the systems find a boot loader to install themselves into.
        fleet.write_file(node, "/boot/loader/loader.conf", "timeout 0\n")?;
        let paths = fleet.deploy(&[self.system()])?;
        let only = "nix-env -p /nix/var/nix/profiles/system --delete-generations old";
        let install = format!("{}/bin/switch-to-configuration boot", paths[0]);
        // What a container boots by has no place beside a boot loader.
        let install = format!("{only} && {install} && rm -f /boot/default");
        fleet.run(node, &["sh", "-ec", &install])?;
        fleet.power_cut(node)?;
        for (name, text) in UNITS {
            let text = text.replace("@own@", OWN_ADDRESS);
            let text = text.replace("@control@", CONTROL_ADDRESS);
            let unit = format!("/etc/systemd/system/{name}");
            fleet.write_file(node, &unit, &text)?;
            for line in text.lines() {
                if let Some(target) = line.strip_prefix("WantedBy=") {
                    let wants = format!("/etc/systemd/system/{target}.wants/{name}");
                    let link = fleet.path(node, &wants);
                    let made = link
                        .parent()
                        .map_or(Ok(()), std::fs::create_dir_all)
                        .and_then(|()| std::os::unix::fs::symlink(&unit, &link));
                    made.map_err(VmError::file("make", link))?;
                }
            }
        }
        let hosts = format!("127.0.0.1 localhost {node}\n{CONTROL_ADDRESS} control\n");
        fleet.write_file(node, "/etc/hosts", &hosts)?;
        let mounts = format!("{ESP_DEVICE} /boot vfat umask=0077 0 0\n");
        fleet.write_file(node, "/etc/fstab", &mounts)?;
        disk::make(&fleet.path(node, "/"), dir).map(drop)
    }

    /// A system that the machine had not before, with our agent and a kernel that boots.
    pub(super) fn system(&self) -> SystemSpec {
        let version = self.versions.get() + 1;
        self.versions.set(version);
        let system = SystemSpec {
            kernel_params: format!(
                "root={ROOT_DEVICE} rw console=ttyS0 net.ifnames=0 panic=3 quiet"
            ),
            boot_files: BOOT_FILES.to_owned(),
            boot_tries: TRIES,
            ..SystemSpec::new(&self.node, &version.to_string())
        };
        system
            .agent(&self.hardening, AGENT_CONFIG)
            .unit("lab-updater-dead-man.timer", BOOT_TIMER)
    }

    /// The same with a kernel that the machine has not booted: going there takes a reboot.
    pub(super) fn with_own_kernel(&self) -> SystemSpec {
        let system = self.system();
        let kernel = format!("6.12-{}", system.version);
        system.kernel(&kernel)
    }

    /// Publishes a system, makes it the machine's target, and waits until it is staged.
    pub(super) fn prepare(&self, system: SystemSpec) -> Result<StorePath, VmError> {
        let path = self.fleet.publish(&[system])?.remove(0);
        let target = format!("--closure={}={path}", self.node);
        let prepared = self
            .fleet
            .lab(&["update", "prepare", "--timeout=600", &target])?;
        must(prepared.code() == 0, || {
            format!("prepare: {} {}", prepared.stdout, prepared.stderr)
        })?;
        Ok(path)
    }

    /// Begins the update of the machine to its target.
    pub(super) fn begin(&self) -> Result<(), VmError> {
        let machine = format!("--machine={}", self.node);
        let words = ["update", "execute", "--yes", "--detach", &machine];
        let begun = self.fleet.lab(&words)?;
        must(begun.code() == 0, || format!("execute: {begun:?}"))
    }

    /// Waits until the update is over; returns the coordinator's verdict on the machine.
    pub(super) fn await_verdict(&self) -> Result<String, VmError> {
        self.vm.eventually("the update is over", VERDICT_MAX, || {
            Ok(!text(&self.in_rollout()?["verdict"]).is_empty())
        })?;
        Ok(text(&self.in_rollout()?["verdict"]).to_owned())
    }

    /// Updates the machine to its target, to the end.
    pub(super) fn execute(&self) -> Result<Executed, VmError> {
        let machine = format!("--machine={}", self.node);
        let words = ["update", "execute", "--yes", "--timeout=1200", &machine];
        let finished = self.fleet.lab(&words)?;
        Ok(Executed {
            status: finished.code(),
            verdict: text(&self.in_rollout()?["verdict"]).to_owned(),
            said: format!("{} {}", finished.stdout.trim(), finished.stderr.trim()),
        })
    }

    /// Brings everything back to where a scenario can begin: no open rollout, no machine that counts
    /// as failed.
    pub(super) fn await_settled(&self) -> Result<(), VmError> {
        for rollout in self.rollouts()? {
            if ["active", "paused"].contains(&text(&rollout["state"])) {
                self.fleet.lab(&["update", "abort", text(&rollout["id"])])?;
            }
        }
        let node = self.node.as_str();
        if !text(&self.machine()?["away"]).is_empty() {
            let words = [
                "machines",
                "forget",
                node,
                "--reason=the next scenario",
                "--yes",
            ];
            self.fleet.lab(&words)?;
        }
        let running = self.link("/run/current-system")?;
        self.vm.eventually(
            "the coordinator finds the machine healthy",
            SETTLED_MAX,
            || {
                let machine = self.machine()?;
                if machine["state"] == json!("unhealthy") {
                    self.fleet
                        .lab(&["health-check", &format!("--machine={node}")])?;
                }
                Ok(machine["state"] == json!("healthy") && machine["running"] == json!(running))
            },
        )
    }

    /// What the agent's self-test says, and its exit status in the last line.
    pub(super) fn self_test(&self) -> Result<String, VmError> {
        let script = "\
            unit=/etc/systemd/system/lab-updater.service\n\
            config=$(sed -n 's/^ExecStart=.*--config //p' $unit)\n\
            lab-agent self-test --config $config\n\
            echo \"exit status $?\"";
        self.vm.run(&self.fleet, script)
    }

    /// Where a link of the machine leads.
    pub(super) fn link(&self, path: &str) -> Result<String, VmError> {
        let said = self.vm.run(&self.fleet, &format!("readlink -f {path}"))?;
        Ok(said.trim().to_owned())
    }

    /// The boot entries of the machine, as `bootctl` tells them.
    pub(super) fn entries(&self) -> Result<Vec<Value>, VmError> {
        let said = self
            .vm
            .run(&self.fleet, "bootctl list --json=short 2>/dev/null")?;
        let entries: Vec<Value> = serde_json::from_str(&said)
            .map_err(|error| VmError::Wrong(format!("bootctl: {error}: {said}")))?;
        Ok(entries)
    }

    /// The entry that boots next.
    pub(super) fn default_entry(&self) -> Result<Value, VmError> {
        let mut entries = self.entries()?.into_iter();
        let default = entries.find(|entry| entry["isDefault"] == json!(true));
        default.ok_or_else(|| VmError::Wrong("no boot entry is the default".to_owned()))
    }

    fn lab_json(&self, words: &[&str]) -> Result<Value, VmError> {
        let finished = self.fleet.lab(&[words, &["--output=json"]].concat())?;
        serde_json::from_str(&finished.stdout)
            .map_err(|error| VmError::Wrong(format!("lab {words:?}: {error}: {finished:?}")))
    }

    fn machine(&self) -> Result<Value, VmError> {
        let shown = self.lab_json(&["machines", "show", self.node.as_str()])?;
        Ok(if shown["name"].is_null() {
            shown["machines"][0].clone()
        } else {
            shown
        })
    }

    fn rollouts(&self) -> Result<Vec<Value>, VmError> {
        let status = self.lab_json(&["update", "status", "--all"])?;
        Ok(status["rollouts"].as_array().cloned().unwrap_or_default())
    }

    /// The machine's part in the newest rollout.
    fn in_rollout(&self) -> Result<Value, VmError> {
        let newest = self.rollouts()?.into_iter();
        let newest = newest.max_by_key(|rollout| text(&rollout["created_at"]).to_owned());
        let newest = newest.unwrap_or_default();
        let groups = newest["groups"].as_array().into_iter().flatten();
        let waves = groups.flat_map(|group| group["waves"].as_array().into_iter().flatten());
        let mut machines = waves.flat_map(|wave| wave["machines"].as_array().into_iter().flatten());
        let found = machines.find(|machine| machine["name"] == json!(self.node));
        Ok(found.cloned().unwrap_or_default())
    }

    /// The last lines of the agent's and the coordinator's journals, for a failure.
    pub fn scene(&self) -> String {
        let agent = "journalctl --no-pager --lines=60 --unit 'lab-updater*'";
        let agent = self.vm.run(&self.fleet, agent);
        let agent = agent.unwrap_or_else(|error| error.to_string());
        let unit = crate::fleet::COORDINATOR_UNIT;
        let coordinator = self.fleet.journal(&self.fleet.control(), unit);
        format!("--- agent\n{agent}\n--- coordinator\n{coordinator}")
    }

    /// Turns the machine off and ends the fleet.
    ///
    /// # Errors
    /// When the fleet does not end.
    pub fn down(&self) -> Result<(), VmError> {
        self.vm.power_off()?;
        Ok(self.fleet.down()?)
    }
}

/// The text of a JSON string; empty when it is none.
pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
