//! A coordinator and four agents on the shared fleet: one scenario at a time, each from the same
//! beginning.

use std::{
    collections::BTreeSet,
    mem,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::{Duration, Instant},
};

use common::{closure::StorePath, error_chain::Chain, id::MachineName};
use integration_tests::fleet::{
    AGENT_UNIT, COORDINATOR_UNIT, Finished, Fleet, Programs, SystemSpec,
};
use serde_json::{Value, json};

use super::bed::{NODES, PROGRAM, bed};

/// The group's limit: machines that may be away together.
pub(crate) const PARALLEL: usize = 2;

/// Machines of most scenarios: the first of [`NODES`], in a group of their own.
const STAGE_NODES: usize = 4;

/// Longest for anything that a scenario waits for.
const PATIENCE: Duration = Duration::from_secs(240);

/// Between two looks.
const GLANCE: Duration = Duration::from_millis(200);

/// The installed coordinator and agents.
struct Installed {
    fleet: &'static Fleet,
    nodes: Vec<MachineName>,
    hardening: String,
    versions: Mutex<u32>,
    /// Machines for which a scenario made a system with a configuration of its own.
    altered: Mutex<BTreeSet<MachineName>>,
}

/// Where a scenario puts what must change a machine's agent unit, gone when the next one begins.
pub(crate) const OVERRIDE: &str = "/run/systemd/system/lab-updater.service.d";

/// The stage while one scenario has it.
pub(crate) struct Stage {
    installed: &'static Installed,
    _turn: MutexGuard<'static, ()>,
}

/// The stage for one scenario; none when the host cannot.
pub(crate) fn stage() -> Option<Stage> {
    static TURN: Mutex<()> = Mutex::new(());
    static INSTALLED: OnceLock<Installed> = OnceLock::new();
    let bed = bed()?;
    // A scenario that failed does not take the others with it.
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let installed = INSTALLED.get_or_init(|| Installed::new(&bed.fleet));
    let stage = Stage {
        installed,
        _turn: turn,
    };
    stage.begin();
    Some(stage)
}

impl Installed {
    fn new(fleet: &'static Fleet) -> Self {
        let nodes: Vec<MachineName> = NODES
            .iter()
            .map(|name| name.parse().expect("a name"))
            .collect();
        let programs = ok(Programs::ready(PROGRAM.as_ref()));
        ok(fleet.install_coordinator(&programs));
        let installed = Self {
            hardening: ok(fleet.hardening()),
            fleet,
            nodes,
            versions: Mutex::new(1),
            altered: Mutex::default(),
        };
        // Tokens are only given to machines that the configuration knows.
        installed.import_config();
        ok(fleet.install_agents(&programs, &installed.nodes, ""));
        installed
    }

    /// The configuration of most scenarios.
    fn config(&self) -> Value {
        let (nodes, others) = self.nodes.split_at(STAGE_NODES);
        let group = |machines: &[MachineName]| {
            json!({
                "machines": machines,
                "updatePolicy": "aggressive",
                "maxParallel": PARALLEL,
                "maxFailures": 0,
                "allowReboot": true,
                "healthCheckTimeout": "10s",
                "expectedDuration": "30s",
            })
        };
        json!({
            "updateGroups": { "nodes": group(nodes), "others": group(others) },
            "updateSettings": {
                "maxParallel": PARALLEL,
                "staggerDelay": 0,
                "leaseTime": "60s",
                "graceTime": "5m",
            },
        })
    }

    fn import_config(&self) {
        ok(self.fleet.import_config(&self.config()));
    }
}

/// The value, or a panic with the whole cause.
#[track_caller]
pub(crate) fn ok<T>(result: Result<T, integration_tests::fleet::FleetError>) -> T {
    result.unwrap_or_else(|error| panic!("{}", Chain(&error)))
}

impl Stage {
    /// Brings everything back to where a scenario begins: machines up, no stop, no open rollout, no
    /// machine that counts as failed.
    fn begin(&self) {
        let fleet = self.fleet();
        let altered = mem::take(&mut *self.altered());
        for node in self.nodes() {
            ok(fleet.heal(node));
            if altered.contains(node) {
                let plain = format!("rm -rf {OVERRIDE} && systemctl daemon-reload");
                ok(fleet.run(node, &["sh", "-ec", &plain]));
                let has_agent = ok(fleet.exec(node, &["systemctl", "cat", AGENT_UNIT]));
                if has_agent.code() != 0 {
                    ok(fleet.deploy(std::slice::from_ref(&self.system(node))));
                }
            }
            ok(fleet.run(node, &["systemctl", "start", AGENT_UNIT]));
        }
        ok(fleet.run(&fleet.control(), &["systemctl", "start", COORDINATOR_UNIT]));
        ok(fleet.configure_coordinator(""));
        self.installed.import_config();
        let status = self.status();
        if status["stopped"] == json!(true) {
            self.lab(&["resume", "--reason=the next scenario"]);
        }
        for rollout in status["rollouts"].as_array().into_iter().flatten() {
            if ["active", "paused"].contains(&text(&rollout["state"])) {
                self.lab(&["update", "abort", text(&rollout["id"])]);
            }
        }
        for node in self.nodes() {
            if !text(&self.machine(node)["away"]).is_empty() {
                self.lab(&[
                    "machines",
                    "forget",
                    node.as_str(),
                    "--reason=the next scenario",
                    "--yes",
                ]);
            }
        }
        for node in self.nodes() {
            if self.machine(node)["state"] == json!("unhealthy") {
                // Healed by now; asked, or its agent looks again in its own time only.
                let machine = format!("--machine={node}");
                self.lab(&["health-check", &machine]);
            }
            self.eventually(&format!("{node} is healthy"), || {
                self.machine(node)["state"] == json!("healthy")
            });
        }
        for node in &altered {
            self.install(&self.system(node));
        }
    }

    fn altered(&self) -> MutexGuard<'_, BTreeSet<MachineName>> {
        let altered = &self.installed.altered;
        altered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The configuration of most scenarios.
    pub(crate) fn config(&self) -> Value {
        self.installed.config()
    }

    pub(crate) fn fleet(&self) -> &'static Fleet {
        self.installed.fleet
    }

    /// The four machines of most scenarios, in the group `nodes`.
    pub(crate) fn nodes(&self) -> &'static [MachineName] {
        &self.all_nodes()[..STAGE_NODES]
    }

    /// Every machine with an agent.
    pub(crate) fn all_nodes(&self) -> &'static [MachineName] {
        &self.installed.nodes
    }

    /// Runs `lab`; any exit status is an answer.
    pub(crate) fn lab(&self, words: &[&str]) -> Finished {
        ok(self.fleet().lab(words))
    }

    /// Runs `lab`, which must say yes.
    #[track_caller]
    pub(crate) fn lab_yes(&self, words: &[&str]) -> String {
        let finished = self.lab(words);
        assert_eq!(finished.code(), 0, "lab {words:?}: {finished:?}");
        finished.stdout
    }

    /// Runs `lab`, which must answer in JSON.
    #[track_caller]
    pub(crate) fn lab_json(&self, words: &[&str]) -> Value {
        let mut all = words.to_vec();
        all.push("--output=json");
        let printed = self.lab(&all);
        serde_json::from_str(&printed.stdout)
            .unwrap_or_else(|error| panic!("lab {words:?}: {error}: {printed:?}"))
    }

    /// What `lab update status` says.
    pub(crate) fn status(&self) -> Value {
        self.lab_json(&["update", "status", "--all"])
    }

    /// What the coordinator knows of a machine.
    pub(crate) fn machine(&self, node: &MachineName) -> Value {
        let shown = self.lab_json(&["machines", "show", node.as_str()]);
        if shown["name"].is_null() {
            shown["machines"][0].clone()
        } else {
            shown
        }
    }

    /// The newest rollout.
    pub(crate) fn rollout(&self) -> Value {
        let status = self.status();
        let all = status["rollouts"].as_array().cloned().unwrap_or_default();
        let newest = all
            .into_iter()
            .max_by_key(|rollout| text(&rollout["created_at"]).to_owned());
        newest.expect("a rollout")
    }

    /// A machine's part in the newest rollout.
    pub(crate) fn in_rollout(&self, node: &MachineName) -> Value {
        let rollout = self.rollout();
        let groups = rollout["groups"].as_array().into_iter().flatten();
        let waves = groups.flat_map(|group| group["waves"].as_array().into_iter().flatten());
        let mut machines = waves.flat_map(|wave| wave["machines"].as_array().into_iter().flatten());
        let found = machines.find(|machine| machine["name"] == json!(node));
        found
            .cloned()
            .unwrap_or_else(|| panic!("{node} is not in {rollout:#}"))
    }

    /// A system for a machine that no scenario had before, with the agent in it and the kernel that
    /// the machine has booted.
    pub(crate) fn system(&self, node: &MachineName) -> SystemSpec {
        self.system_with(node, "")
    }

    /// The same with more in the agent's configuration, until the next scenario begins.
    pub(crate) fn system_with(&self, node: &MachineName, more: &str) -> SystemSpec {
        self.system_with_unit(node, "", more)
    }

    /// The same with more in the service part of the agent's unit.
    pub(crate) fn system_with_unit(
        &self,
        node: &MachineName,
        unit: &str,
        more: &str,
    ) -> SystemSpec {
        if !unit.is_empty() || !more.is_empty() {
            self.altered().insert(node.clone());
        }
        let versions = &self.installed.versions;
        let mut version = versions.lock().unwrap_or_else(PoisonError::into_inner);
        *version += 1;
        let kernel = self.link(node, "/run/booted-system/kernel");
        let (_, kernel) = kernel.split_once("-linux-").expect("a kernel's store path");
        SystemSpec::new(node, &version.to_string())
            .kernel(kernel.trim_end_matches("/bzImage"))
            .agent(&format!("{}{unit}", self.installed.hardening), more)
    }

    /// Publishes the systems and pins each as its machine's target; waits until they are staged.
    #[track_caller]
    pub(crate) fn prepare(&self, systems: &[SystemSpec]) -> Vec<StorePath> {
        let paths = ok(self.fleet().publish(systems));
        let prepared = self.try_prepare(systems, &paths);
        assert_eq!(prepared.code(), 0, "{prepared:?}\n{}", self.scene());
        paths
    }

    /// Pins each path as its machine's target; whether they can be staged is the answer.
    pub(crate) fn try_prepare(&self, systems: &[SystemSpec], paths: &[StorePath]) -> Finished {
        let mut words = vec![
            "update".to_owned(),
            "prepare".to_owned(),
            "--timeout=60".to_owned(),
        ];
        for (system, path) in systems.iter().zip(paths) {
            words.push(format!("--closure={}={path}", system.host));
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.lab(&words)
    }

    /// Makes a machine run a system as a first installation does: without a rollout.
    #[track_caller]
    pub(crate) fn install(&self, system: &SystemSpec) {
        let paths = ok(self.fleet().deploy(std::slice::from_ref(system)));
        let node = &system.host;
        ok(self
            .fleet()
            .run(node, &["systemctl", "restart", AGENT_UNIT]));
        self.eventually(&format!("{node} says what it runs"), || {
            let machine = self.machine(node);
            machine["running"] == json!(paths[0]) && machine["state"] == json!("healthy")
        });
    }

    /// `lab update execute` for these machines.
    pub(crate) fn execute(&self, nodes: &[&MachineName], more: &[&str]) -> Finished {
        let names: Vec<&str> = nodes.iter().map(|node| node.as_str()).collect();
        let machines = format!("--machine={}", names.join(","));
        let mut words = vec!["update", "execute", "--yes", "--timeout=200", &machines];
        words.extend(more);
        self.lab(&words)
    }

    /// Starts a rollout and comes back at once.
    #[track_caller]
    pub(crate) fn execute_detached(&self, nodes: &[&MachineName]) {
        let started = self.execute(nodes, &["--detach"]);
        assert_eq!(started.code(), 0, "{started:?}");
    }

    /// Waits for the end of the newest rollout; returns its state.
    #[track_caller]
    pub(crate) fn await_end(&self) -> String {
        self.eventually("the rollout ends or pauses", || {
            self.rollout()["state"] != json!("active")
        });
        text(&self.rollout()["state"]).to_owned()
    }

    /// What a machine runs, read on the machine.
    pub(crate) fn running(&self, node: &MachineName) -> String {
        self.link(node, "/run/current-system")
    }

    /// A link of a machine.
    pub(crate) fn link(&self, node: &MachineName, path: &str) -> String {
        ok(self.fleet().run(node, &["readlink", "-f", path]))
            .trim()
            .to_owned()
    }

    /// Running system, profile and boot default, which must be the same.
    #[track_caller]
    pub(crate) fn settled(&self, node: &MachineName) -> String {
        let running = self.running(node);
        assert_eq!(
            self.link(node, "/nix/var/nix/profiles/system"),
            running,
            "profile of {node}"
        );
        assert_eq!(
            self.link(node, "/boot/default"),
            running,
            "boot default of {node}"
        );
        running
    }

    /// Waits until it is so.
    #[track_caller]
    pub(crate) fn eventually(&self, what: &str, so: impl Fn() -> bool) {
        let since = Instant::now();
        while !so() {
            assert!(
                since.elapsed() < PATIENCE,
                "not in time: {what}\n{}",
                self.scene()
            );
            thread::sleep(GLANCE);
        }
    }

    /// Everything that explains a failure.
    pub(crate) fn scene(&self) -> String {
        let fleet = self.fleet();
        let mut scene = format!("{:#}\n", self.status());
        scene += &fleet.journal(&fleet.control(), COORDINATOR_UNIT);
        for node in self.nodes() {
            scene += &format!("--- {node}\n{}", fleet.journal(node, "lab-updater*"));
        }
        scene
    }
}

/// The text of a JSON string; empty when it is none.
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
