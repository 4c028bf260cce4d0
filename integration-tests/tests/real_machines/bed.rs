//! The fleet that all tests of this program share, and machines lent to one test at a time.

use std::{
    env,
    ops::Deref,
    process,
    sync::{Condvar, Mutex, OnceLock, PoisonError},
};

use common::{closure::StorePath, error_chain::Chain, id::MachineName};
use integration_tests::fleet::{Fleet, FleetError, FleetOptions, SystemSpec, host};

/// Set where skipping is a failure.
const REQUIRE: &str = "LAB_REQUIRE_FLEET";

/// Machines that tests of machines borrow.
const SPARE: &[&str] = &["spare-1", "spare-2", "spare-3", "spare-4"];

/// Machines with agents on them: those of `docs/examples/four-groups.nix`.
pub(crate) const NODES: &[&str] = &[
    "dev-01",
    "dev-02",
    "test-env",
    "monitor-01",
    "log-server",
    "backup-01",
    "db-primary",
    "web-01",
    "web-02",
    "controller-01",
    "orchestrator-01",
];

/// The fleet and what of it is free.
pub(crate) struct Bed {
    /// The fleet.
    pub(crate) fleet: Fleet,
    spare: Mutex<Vec<MachineName>>,
    returned: Condvar,
}

/// The `fleet` program of this build.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_fleet");

/// The fleet; none when the host cannot, which is then said.
pub(crate) fn bed() -> Option<&'static Bed> {
    static BED: OnceLock<Option<Bed>> = OnceLock::new();
    let bed = BED.get_or_init(|| {
        if let Some(missing) = host::missing() {
            assert!(
                env::var_os(REQUIRE).is_none(),
                "{REQUIRE} is set, and {missing}"
            );
            return None;
        }
        Some(Bed::new())
    });
    if bed.is_none() {
        let missing = host::missing().map(|missing| missing.to_string());
        eprintln!("skipped: {}", missing.unwrap_or_default());
    }
    bed.as_ref()
}

impl Bed {
    fn new() -> Self {
        let named = |names: &[&str]| -> Vec<MachineName> {
            names
                .iter()
                .map(|name| name.parse().expect("a name"))
                .collect()
        };
        let spare = named(SPARE);
        let options = FleetOptions {
            name: format!("test-{}", process::id()),
            machines: [spare.clone(), named(NODES)].concat(),
            program: PROGRAM.into(),
            ends_with_us: true,
            disk: None,
            files: None,
            memory: None,
        };
        let fleet = Fleet::up(&options, &|step| eprintln!("{step}"));
        let fleet =
            fleet.unwrap_or_else(|error| panic!("the fleet does not come up: {}", Chain(&error)));
        Self {
            fleet,
            spare: Mutex::new(spare),
            returned: Condvar::new(),
        }
    }

    /// A machine for one test alone, running a healthy system.
    pub(crate) fn borrow(&'static self) -> Borrowed {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(name) = spare.pop() {
                drop(spare);
                return Borrowed { bed: self, name };
            }
            spare = self
                .returned
                .wait(spare)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A machine that a test has for itself.
pub(crate) struct Borrowed {
    bed: &'static Bed,
    name: MachineName,
}

impl Deref for Borrowed {
    type Target = MachineName;

    fn deref(&self) -> &MachineName {
        &self.name
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        let spare = || {
            self.bed
                .spare
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        let first = SystemSpec::new(&self.name, "1");
        let restored = self
            .bed
            .fleet
            .heal(&self.name)
            .and_then(|()| self.bed.fleet.deploy(&[first]).map(drop));
        if let Err(error) = restored {
            // The test that broke it has failed already, or is told of here.
            eprintln!(
                "{} is not healthy after the test: {}",
                self.name,
                Chain(&error)
            );
        }
        spare().push(self.name.clone());
        self.bed.returned.notify_one();
    }
}

impl Borrowed {
    /// Runs words in the machine that must succeed; returns what they printed, trimmed.
    pub(crate) fn run(&self, words: &[&str]) -> String {
        let printed = self.bed.fleet.run(&self.name, words);
        let printed = printed.unwrap_or_else(|error| panic!("{}", Chain(&error)));
        printed.trim().to_owned()
    }

    /// Runs words in the machine; returns their exit status and what they printed.
    pub(crate) fn exec(&self, words: &[&str]) -> (i32, String) {
        let finished = self.bed.fleet.exec(&self.name, words);
        let finished = finished.unwrap_or_else(|error| panic!("{}", Chain(&error)));
        (finished.code(), finished.stdout.clone() + &finished.stderr)
    }

    /// Publishes a system, fetches it, makes it the profile; does not switch to it.
    pub(crate) fn stage(&self, spec: SystemSpec) -> StorePath {
        let paths = self.bed.fleet.publish(&[spec]);
        let paths: Result<_, FleetError> = paths;
        let path = paths
            .unwrap_or_else(|error| panic!("{}", Chain(&error)))
            .remove(0);
        self.run(&["nix-store", "--realise", path.as_str()]);
        self.run(&[
            "nix-env",
            "-p",
            "/nix/var/nix/profiles/system",
            "--set",
            path.as_str(),
        ]);
        path
    }

    /// Runs the system's switch-to-configuration; returns its exit status and what it printed.
    pub(crate) fn switch(&self, path: &StorePath, action: &str) -> (i32, String) {
        self.exec(&[&format!("{path}/bin/switch-to-configuration"), action])
    }

    /// What /run/current-system is.
    pub(crate) fn current(&self) -> String {
        self.run(&["readlink", "/run/current-system"])
    }

    /// A property of a unit.
    pub(crate) fn property(&self, unit: &str, property: &str) -> String {
        self.run(&["systemctl", "show", "--value", "--property", property, unit])
    }
}
