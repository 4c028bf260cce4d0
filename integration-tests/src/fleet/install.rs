//! Our own daemons on the machines: configuration, systemd units with the settings of the NixOS modules,
//! enrolment.

use std::{collections::BTreeMap, process::Command};

use common::{error_chain::Chain, id::MachineName};
use serde_json::Value;

use super::{
    CONTROL, Fleet, FleetError, Programs, SystemSpec,
    command::{self, Finished},
    programs::BIN,
    provision::BOOT_ID,
    system::EXPRESSIONS,
};

/// The agent's service, named as in `nixos-modules/agent.nix`.
pub const AGENT_UNIT: &str = "lab-updater.service";

/// The coordinator's service, named as in `nixos-modules/coordinator.nix`.
pub const COORDINATOR_UNIT: &str = "lab-coordinator.service";

/// Where the coordinator keeps its store and the first operator's identity.
const COORDINATOR_STATE: &str = "/var/lib/lab-coordinator";

/// The coordinator's settings file.
const COORDINATOR_CONFIG: &str = "/etc/lab-coordinator.toml";

/// The token of a machine that is not enrolled yet.
const TOKEN: &str = "/etc/lab-updater/token";

/// The environment of the agent's services.
const ENVIRONMENT: &str = "\
Environment=HOME=/var/lib/lab-updater
Environment=NIX_REMOTE=daemon
Environment=PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
";

impl SystemSpec {
    /// The same with our agent as a service of the system, as `services.lab-updater` adds it.
    /// `hardening`: see [`Fleet::hardening`]. `more` is added to the agent's configuration.
    #[must_use]
    pub fn agent(mut self, hardening: &str, more: &str) -> Self {
        let machine = &self.host;
        let usual = format!(
            "machine = \"{machine}\"\n\
             coordinator = \"{CONTROL}:7443\"\n\
             token_file = \"/run/credentials/{AGENT_UNIT}/token\"\n\
             state_dir = \"/var/lib/lab-updater\"\n\
             poll_hold = \"10s\"\n\
             limits.stage_timeout = \"60s\"\n\
             limits.stage_pause = \"1s\"\n\
             limits.switch_timeout = \"40s\"\n\
             limits.boot_timeout = \"30s\"\n\
             limits.settle = \"1s\"\n\
             limits.store_reserve_bytes = 1048576\n\
             limits.boot_reserve_bytes = 1048576\n"
        );
        let checks = format!(
            "[[checks]]\n\
             name = \"web\"\n\
             kind = \"http\"\n\
             url = \"http://localhost:8080/health\"\n\
             timeout = \"2s\"\n\
             [[checks]]\n\
             name = \"network\"\n\
             kind = \"network\"\n\
             addresses = [\"{CONTROL}:8088\"]\n\
             timeout = \"2s\"\n"
        );
        // What is given takes the place of the usual.
        let key = |line: &'_ str| line.split(" = ").next().unwrap_or_default().to_owned();
        let given: Vec<String> = more.lines().map(key).collect();
        let kept = usual.lines().filter(|line| !given.contains(&key(line)));
        let kept: Vec<&str> = kept.collect();
        let config = format!("{}\n{more}\n{checks}", kept.join("\n"));
        self.files.insert("lab-agent.toml".to_owned(), config);
        let unit = format!(
            "[Unit]\n\
             Description=lab-updater agent\n\
             After=dbus.socket nix-daemon.socket\n\
             StartLimitIntervalSec=0\n\
             X-StopOnRemoval=false\n\
             \n\
             [Service]\n\
             X-RestartIfChanged=false\n\
             Type=notify\n\
             ExecStart={BIN}/lab-agent --config @file:lab-agent.toml@\n\
             Restart=always\n\
             RestartSec=1\n\
             WatchdogSec=300\n\
             {ENVIRONMENT}\
             {hardening}\
             StateDirectory=lab-updater\n\
             StateDirectoryMode=0700\n\
             ProtectHome=read-only\n\
             ReadWritePaths=-/nix/var/nix/gcroots\n\
             BindReadOnlyPaths=-{BOOT_ID}:/proc/sys/kernel/random/boot_id\n\
             LoadCredential=token:{TOKEN}\n\
             SetCredential=token:\\n\n\
             \n\
             [Install]\n\
             WantedBy=multi-user.target\n"
        );
        let dead_man = format!(
            "[Unit]\n\
             Description=Way back from a boot without lab-updater agent\n\
             X-StopOnRemoval=false\n\
             StartLimitIntervalSec=0\n\
             \n\
             [Service]\n\
             X-RestartIfChanged=false\n\
             Type=oneshot\n\
             ExecStart={BIN}/lab-agent dead-man --config @file:lab-agent.toml@\n\
             Restart=on-failure\n\
             RestartSec=60\n\
             RestartPreventExitStatus=3\n\
             {ENVIRONMENT}"
        );
        let timer = "[Unit]\n\
             Description=Way back from a boot without lab-updater agent\n\
             \n\
             [Timer]\n\
             OnStartupSec=30\n\
             AccuracySec=1s\n\
             \n\
             [Install]\n\
             WantedBy=timers.target\n";
        let soft_reboot = format!(
            "[Unit]\n\
             Description=Way to another system by soft-reboot\n\
             DefaultDependencies=no\n\
             Before=sysinit.target shutdown.target\n\
             After=local-fs.target\n\
             Conflicts=shutdown.target\n\
             X-StopOnRemoval=false\n\
             \n\
             [Service]\n\
             X-RestartIfChanged=false\n\
             Type=oneshot\n\
             RemainAfterExit=yes\n\
             ExecStop={BIN}/lab-agent soft-reboot --config @file:lab-agent.toml@\n\
             TimeoutStopSec=60\n\
             {ENVIRONMENT}\
             \n\
             [Install]\n\
             WantedBy=multi-user.target\n"
        );
        self.unit(AGENT_UNIT, &unit)
            .unit("lab-updater-soft-reboot.service", &soft_reboot)
            .unit("lab-updater-dead-man.service", &dead_man)
            .unit("lab-updater-dead-man.timer", timer)
    }
}

impl Fleet {
    /// The sandbox settings of both services, as lines of a unit: `nixos-modules/hardening.nix`
    /// itself, read by Nix.
    ///
    /// # Errors
    /// When Nix cannot read it.
    pub fn hardening(&self) -> Result<String, FleetError> {
        let file = format!("{EXPRESSIONS}/hardening.nix");
        let words = ["nix-instantiate", "--eval", "--strict", "--json", &file];
        let json = self.run(&self.control(), &words)?;
        let settings: BTreeMap<String, Value> =
            serde_json::from_str(&json).map_err(FleetError::Answer)?;
        let lines = settings.iter().map(|(key, value)| setting(key, value));
        Ok(lines.collect())
    }

    /// Starts the coordinator on `control` as a service, with the modules' settings, and `lab`.
    ///
    /// # Errors
    /// When it does not start; its journal is in the error.
    pub fn install_coordinator(&self, programs: &Programs) -> Result<(), FleetError> {
        let control = self.control();
        programs.install(self, &control, "lab-coordinator")?;
        programs.install(self, &control, "lab")?;
        self.write_file(&control, COORDINATOR_CONFIG, &coordinator_config(""))?;
        let hardening = self.hardening()?;
        let unit = format!(
            "[Unit]\n\
             Description=lab-updater coordinator\n\
             StartLimitIntervalSec=0\n\
             \n\
             [Service]\n\
             Type=notify\n\
             ExecStart={BIN}/lab-coordinator --config {COORDINATOR_CONFIG}\n\
             Restart=always\n\
             RestartSec=1\n\
             WatchdogSec=30\n\
             LimitNOFILE=65536\n\
             {hardening}\
             DynamicUser=yes\n\
             User=lab-coordinator\n\
             StateDirectory=lab-coordinator\n\
             StateDirectoryMode=0700\n\
             PrivateUsers=yes\n\
             ProcSubset=pid\n"
        );
        self.write_file(
            &control,
            &format!("/etc/systemd/system/{COORDINATOR_UNIT}"),
            &unit,
        )?;
        self.run(&control, &["systemctl", "daemon-reload"])?;
        self.start(&control, COORDINATOR_UNIT)
    }

    /// Gives the coordinator the usual settings and `more`, and starts it with them; does nothing
    /// when these are its settings already.
    ///
    /// # Errors
    /// When it does not start with them.
    pub fn configure_coordinator(&self, more: &str) -> Result<(), FleetError> {
        let control = self.control();
        let config = coordinator_config(more);
        if self.read_file(&control, COORDINATOR_CONFIG)? == config {
            return Ok(());
        }
        self.write_file(&control, COORDINATOR_CONFIG, &config)?;
        self.run(&control, &["systemctl", "restart", COORDINATOR_UNIT])
            .map(drop)
    }

    /// Gives a machine an enrolment token in place of the one that it has used.
    ///
    /// # Errors
    /// When the coordinator makes none.
    pub fn give_token(&self, machine: &MachineName) -> Result<(), FleetError> {
        let create = ["token", "create", "--machine", machine.as_str()];
        let printed = self.lab_done(&[&create[..], &["--output=json"]].concat())?;
        let token: Value = serde_json::from_str(&printed).map_err(FleetError::Answer)?;
        let token = token["token"].as_str().unwrap_or_default();
        self.write_file(machine, TOKEN, &format!("{token}\n"))
    }

    /// Makes the document (JSON) the fleet configuration.
    ///
    /// # Errors
    /// When the coordinator refuses it.
    pub fn import_config(&self, document: &Value) -> Result<(), FleetError> {
        self.write_file(&self.control(), "/etc/fleet.json", &document.to_string())?;
        self.lab_done(&["update-config", "import", "--yes", "/etc/fleet.json"])?;
        Ok(())
    }

    /// Puts the agent on the machines: binary, a token of its own, a first system with the agent as
    /// a service. `more` is added to each agent's configuration.
    ///
    /// # Errors
    /// When an agent does not start; its journal is in the error.
    pub fn install_agents(
        &self,
        programs: &Programs,
        machines: &[MachineName],
        more: &str,
    ) -> Result<(), FleetError> {
        let hardening = self.hardening()?;
        let mut specs = Vec::new();
        for machine in machines {
            programs.install(self, machine, "lab-agent")?;
            self.give_token(machine)?;
            specs.push(SystemSpec::new(machine, "1").agent(&hardening, more));
        }
        self.deploy(&specs)?;
        for machine in machines {
            self.start(machine, AGENT_UNIT)?;
        }
        Ok(())
    }

    /// Runs `lab` on `control` as the first operator, for as long as it takes.
    ///
    /// # Errors
    /// When `control` is off.
    pub fn lab(&self, words: &[&str]) -> Result<Finished, FleetError> {
        self.as_operator(&[&["lab"], words].concat())
    }

    /// Runs `words` on `control` where `lab` is the first operator's.
    ///
    /// # Errors
    /// When `control` is off.
    pub fn as_operator(&self, words: &[&str]) -> Result<Finished, FleetError> {
        command::finish(&mut self.operator_command(words)?)
    }

    fn operator_command(&self, words: &[&str]) -> Result<Command, FleetError> {
        let identity = format!("LAB_IDENTITY={COORDINATOR_STATE}/admin.pem");
        let environment = ["env", "LAB_COORDINATOR=localhost:7443", &identity];
        self.command(&self.control(), &[&environment, words].concat())
    }

    /// Runs `lab`, which must succeed; returns what it printed.
    fn lab_done(&self, words: &[&str]) -> Result<String, FleetError> {
        command::run(&mut self.operator_command(&[&["lab"], words].concat())?)
    }

    /// The last lines of a unit's journal.
    pub fn journal(&self, machine: &MachineName, unit: &str) -> String {
        let words = [
            "journalctl",
            "--no-pager",
            "--output=short",
            "--lines=80",
            "--unit",
            unit,
        ];
        match self.exec(machine, &words) {
            Ok(finished) => finished.stdout,
            Err(error) => Chain(&error).to_string(),
        }
    }

    fn start(&self, machine: &MachineName, unit: &str) -> Result<(), FleetError> {
        let started = self.run(machine, &["systemctl", "start", unit]);
        started.map(drop).map_err(|_| {
            let journal = self.journal(machine, unit);
            FleetError::Refused(format!("{unit} does not start on {machine}:\n{journal}"))
        })
    }
}

/// The coordinator's settings.
fn coordinator_config(more: &str) -> String {
    format!(
        "state_dir = \"{COORDINATOR_STATE}\"\n\
         listen = \"[::]:7443\"\n\
         enrol_listen = \"[::]:7444\"\n\
         {more}\n"
    )
}

/// One setting of a NixOS service as lines of a unit.
fn setting(key: &str, value: &Value) -> String {
    match value {
        Value::Array(items) => items.iter().map(|item| setting(key, item)).collect(),
        Value::Bool(yes) => format!("{key}={}\n", if *yes { "true" } else { "false" }),
        Value::String(text) => format!("{key}={text}\n"),
        Value::Null | Value::Number(_) | Value::Object(_) => format!("{key}={value}\n"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_become_lines_as_nixos_writes_them() {
        assert_eq!(
            setting("CapabilityBoundingSet", &json!([""])),
            "CapabilityBoundingSet=\n"
        );
        assert_eq!(setting("PrivateTmp", &json!(true)), "PrivateTmp=true\n");
        let families = setting("RestrictAddressFamilies", &json!(["AF_UNIX", "AF_INET"]));
        assert_eq!(
            families,
            "RestrictAddressFamilies=AF_UNIX\nRestrictAddressFamilies=AF_INET\n"
        );
    }
}
