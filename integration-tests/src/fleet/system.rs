//! Systems for the machines: closures of NixOS shape, built by Nix on `control` from a specification
//! and published to the fleet's signed cache.

use std::collections::BTreeMap;

use common::{closure::StorePath, id::MachineName};
use serde::Serialize;

use super::{Fleet, FleetError};

/// Where the Nix expressions lie on `control`.
pub(super) const EXPRESSIONS: &str = "/usr/local/share/lab-toy";

/// The cache that machines substitute from, a directory of `control`.
const CACHE_STORE: &str = "file:///srv/cache?compression=none";

/// The key that signs it.
pub(super) const CACHE_KEY: &str = "/etc/nix/cache-key.sec";

/// The web service that every system has: it answers `/health` on port 8080 of the loopback.
const WEB_UNIT: &str = "\
[Unit]
Description=A service that a health check can ask

[Service]
ExecStart=/usr/local/bin/fleet serve-files --listen 127.0.0.1:8080 --root /run/toy/www
Environment=VERSION=@version@
Restart=always

[Install]
WantedBy=multi-user.target
";

/// A unit that cannot start.
const BROKEN_UNIT: &str = "\
[Unit]
Description=A service that fails

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/false

[Install]
WantedBy=multi-user.target
";

/// The switch inhibitor that toy systems have.
const DBUS: &str = "dbus-implementation";

/// What is wrong with a system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Failure {
    /// Nothing.
    #[default]
    None,
    /// Its pre-switch check refuses (exit 1).
    Precheck,
    /// Its boot loader cannot be installed (exit 1).
    Bootloader,
    /// Its activation script fails and goes on (exit 2).
    Activate,
    /// One of its units does not start (exit 4).
    Units,
    /// Its init interface differs (exit 100): it needs a reboot.
    Init,
    /// Its activation never ends, except at boot.
    Hang,
    /// Its web service runs and does not serve `/health`.
    Health,
    /// It takes the network card down.
    Network,
    /// It does not boot: its init ends, and the kernel panics.
    Panic,
}

/// What a system is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SystemSpec {
    /// The machine that it is for.
    pub host: MachineName,
    /// Its version: part of its name, and of the web service's unit.
    pub version: String,
    /// The kernel's version; another one needs a reboot.
    pub kernel: String,
    /// The kernel's command line, without `init=`.
    #[serde(rename = "kernelParams")]
    pub kernel_params: String,
    /// Directory on `control` with a `bzImage` and an `initrd` that can be booted; empty: files that
    /// only play kernel and initrd.
    #[serde(rename = "bootFiles")]
    pub boot_files: String,
    /// How often its boot entry may be tried before it is good; 0: boots are not counted.
    #[serde(rename = "bootTries")]
    pub boot_tries: u32,
    /// Bytes in its closure that nobody needs.
    pub bulk: u64,
    /// What is wrong with it.
    pub failure: Failure,
    /// Switch inhibitors: when the running system has others, only a reboot may activate this one.
    pub inhibitors: BTreeMap<String, String>,
    /// Another `switch-to-configuration` in place of the toy's, a path of the machine; none when it
    /// is empty.
    pub switcher: String,
    /// Files in store paths of their own, by name.
    pub files: BTreeMap<String, String>,
    /// Unit files besides those of `/etc/systemd/system` in the image, by name; `@file:NAME@` in
    /// them is the store path of that file.
    pub units: BTreeMap<String, String>,
}

impl SystemSpec {
    /// A system with nothing wrong, with the first kernel and the web service.
    pub fn new(host: &MachineName, version: &str) -> Self {
        let web = WEB_UNIT.replace("@version@", version);
        Self {
            host: host.clone(),
            version: version.to_owned(),
            kernel: "6.12.1".to_owned(),
            kernel_params: String::new(),
            boot_files: String::new(),
            boot_tries: 0,
            bulk: 0,
            failure: Failure::None,
            inhibitors: BTreeMap::from([(DBUS.to_owned(), "broker".to_owned())]),
            switcher: String::new(),
            files: BTreeMap::new(),
            units: BTreeMap::from([("web.service".to_owned(), web)]),
        }
    }

    /// The same with another kernel.
    #[must_use]
    pub fn kernel(mut self, version: &str) -> Self {
        version.clone_into(&mut self.kernel);
        self
    }

    /// The same with another implementation of D-Bus than `broker`: a switch inhibitor.
    #[must_use]
    pub fn dbus(mut self, implementation: &str) -> Self {
        self.inhibitors
            .insert(DBUS.to_owned(), implementation.to_owned());
        self
    }

    /// The same with something wrong.
    #[must_use]
    pub fn failing(mut self, failure: Failure) -> Self {
        if failure == Failure::Units {
            self = self.unit("toy-broken.service", BROKEN_UNIT);
        }
        self.failure = failure;
        self
    }

    /// The same with one more unit, or another text of it.
    #[must_use]
    pub fn unit(mut self, name: &str, text: &str) -> Self {
        self.units.insert(name.to_owned(), text.to_owned());
        self
    }
}

impl Fleet {
    /// The implementation of D-Bus that the running system of a machine has, and another one.
    ///
    /// # Errors
    /// When the machine cannot be asked.
    pub fn dbus(&self, machine: &MachineName) -> Result<(&'static str, &'static str), FleetError> {
        let inhibitors = ["cat", "/run/current-system/switch-inhibitors"];
        let broker = self.run(machine, &inhibitors)?.contains("broker");
        Ok(if broker {
            ("broker", "dbus")
        } else {
            ("dbus", "broker")
        })
    }

    /// Builds the systems on `control`; the paths are in the order of `specs`.
    ///
    /// # Errors
    /// When Nix cannot build them.
    pub fn build(&self, specs: &[SystemSpec]) -> Result<Vec<StorePath>, FleetError> {
        if specs.is_empty() {
            return Ok(Vec::new());
        }
        let spec = serde_json::to_string(specs).map_err(FleetError::Answer)?;
        let expression = format!("{EXPRESSIONS}/system.nix");
        let printed = self.run(
            &self.control(),
            &[
                "nix-build",
                "--no-out-link",
                &expression,
                "--argstr",
                "spec",
                &spec,
            ],
        )?;
        let paths: Vec<StorePath> = printed.lines().map(str::parse).collect::<Result<_, _>>()?;
        assert_eq!(
            paths.len(),
            specs.len(),
            "nix-build names one path for each system"
        );
        Ok(paths)
    }

    /// Builds the systems and publishes them, signed, to the cache.
    ///
    /// # Errors
    /// When Nix cannot build or copy them.
    pub fn publish(&self, specs: &[SystemSpec]) -> Result<Vec<StorePath>, FleetError> {
        let paths = self.build(specs)?;
        if paths.is_empty() {
            return Ok(paths);
        }
        let store = format!("{CACHE_STORE}&secret-key={CACHE_KEY}");
        self.nix_over(&["copy", "--to", &store], &paths)?;
        Ok(paths)
    }

    /// Copies what was built into the cache without signing it.
    ///
    /// # Errors
    /// When Nix cannot copy it.
    pub fn publish_unsigned(&self, paths: &[StorePath]) -> Result<(), FleetError> {
        self.nix_over(&["copy", "--to", CACHE_STORE], paths)
    }

    /// Signs what is in the cache, with everything that it needs.
    ///
    /// # Errors
    /// When Nix cannot sign it.
    pub fn sign(&self, paths: &[StorePath]) -> Result<(), FleetError> {
        let sign = ["store", "sign", "--recursive", "--store", CACHE_STORE];
        self.nix_over(&[&sign[..], &["--key-file", CACHE_KEY]].concat(), paths)
    }

    /// Runs `nix` on `control` with these words, then the paths.
    fn nix_over(&self, words: &[&str], paths: &[StorePath]) -> Result<(), FleetError> {
        let mut command = vec!["nix"];
        command.extend(words);
        command.extend(paths.iter().map(StorePath::as_str));
        self.run(&self.control(), &command).map(drop)
    }
}
