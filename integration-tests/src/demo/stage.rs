//! The demo's stage: the machines' directories, the closures, the programs, and their end.

use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use common::{MachineName, StorePath, Timestamp};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use platform::clock::Clock;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::{
    closures::{Builder, System},
    error::DemoError,
    fleet_file::Fleet,
    machine::{AgentSettings, Machine, write_toml},
    operator::{NotYet, Operator},
    options::Kind,
    process::{Agent, Coordinator, Programs},
    schedule::Schedule,
    witness::Testimony,
};

/// How long the coordinator and the agents may take to be there.
const START_WITHIN: Duration = Duration::from_secs(60);

/// How long killed processes may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(2);

/// The kernel that machines run at first, and the one that some of them go to.
const KERNELS: [&str; 2] = ["6.12.8", "6.12.9"];

/// Everything that lies on disk.
#[derive(Debug)]
pub(super) struct Stage {
    directory: TempDir,
    builder: Builder,
    fleet: Fleet,
    machines: Vec<Machine>,
    before: BTreeMap<MachineName, StorePath>,
    targets: BTreeMap<MachineName, StorePath>,
}

/// Everything that runs.
#[derive(Debug)]
pub(super) struct Running {
    /// The fleet's time.
    pub(super) clock: Clock,
    /// When it began, in real time.
    pub(super) began: Instant,
    /// `host:port` of the coordinator.
    pub(super) address: String,
    /// The administrator's identity.
    pub(super) identity: PathBuf,
    /// A connection to the coordinator.
    pub(super) operator: Operator,
    /// The agents, by machine.
    pub(super) agents: BTreeMap<MachineName, Agent>,
    coordinator: Coordinator,
    /// Fleet time at a known uptime of the kernel, and how fast it goes from there.
    anchor: (Timestamp, Duration, f64),
}

impl Stage {
    /// Lays out the machines: version 1 runs, version 2 is what they can get.
    pub(super) fn build(fleet: Fleet) -> Result<Self, DemoError> {
        let directory = tempfile::Builder::new()
            .prefix("lab-demo-")
            .tempdir()
            .map_err(DemoError::file("make", "a temporary directory"))?;
        let builder = Builder::new(&directory.path().join("scripts"))?;
        let mut stage = Self {
            machines: Vec::new(),
            before: BTreeMap::new(),
            targets: BTreeMap::new(),
            builder,
            directory,
            fleet,
        };
        let machines = stage.path("machines");
        for (name, group) in stage.fleet.machines() {
            let machine = Machine::new(&machines, name, group);
            let first = System {
                machine: name,
                version: "1",
                kernel: KERNELS[0],
                failure: "none",
            };
            let first = stage.builder.build(machine.root(), &first)?;
            machine.install(&first)?;
            let hook_fails = stage.fleet.failure_of(name) == Some(Kind::Hook);
            machine.write_scripts(&stage.marks(), hook_fails)?;
            stage.before.insert(name.clone(), first);
            stage.machines.push(machine);
        }
        stage.publish("2")?;
        Ok(stage)
    }

    /// Builds every machine's next system into the cache, and says so in the targets' file.
    pub(super) fn publish(&mut self, version: &str) -> Result<(), DemoError> {
        for machine in &self.machines {
            let kernel = KERNELS[usize::from(self.fleet.gets_kernel(&machine.name))];
            let failure = self.fleet.failure_of(&machine.name);
            let system = System {
                machine: &machine.name,
                version,
                kernel,
                failure: failure.map_or("none", Kind::failure_of_system),
            };
            let path = self.builder.build(&self.cache(), &system)?;
            self.targets.insert(machine.name.clone(), path);
        }
        let file = self.targets_file();
        let text = json!(self.targets).to_string();
        fs::write(&file, text).map_err(DemoError::file("write", &file))
    }

    /// The fleet that is played.
    pub(super) fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Its machines.
    pub(super) fn machines(&self) -> &[Machine] {
        &self.machines
    }

    /// What a machine ran at first.
    pub(super) fn before(&self, machine: &MachineName) -> Option<&StorePath> {
        self.before.get(machine)
    }

    /// What a machine is to run.
    pub(super) fn target(&self, machine: &MachineName) -> Option<&StorePath> {
        self.targets.get(machine)
    }

    /// Every machine's target.
    pub(super) fn targets(&self) -> Vec<(MachineName, StorePath)> {
        let targets = self.targets.iter();
        targets
            .map(|(machine, path)| (machine.clone(), path.clone()))
            .collect()
    }

    /// What the hooks have said so far.
    pub(super) fn testimony(&self) -> Testimony {
        // There is no file before the first hook.
        Testimony::read(&fs::read_to_string(self.marks()).unwrap_or_default())
    }

    /// Where it all lies.
    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn marks(&self) -> PathBuf {
        self.path("marks")
    }

    fn cache(&self) -> PathBuf {
        self.path("cache")
    }

    fn targets_file(&self) -> PathBuf {
        self.path("targets.json")
    }

    /// Starts the coordinator, enrols every machine and waits until all of them are there. What
    /// runs is in `slot` as soon as it does.
    pub(super) async fn start<'a>(
        &self,
        schedule: &Schedule,
        slot: &'a mut Option<Running>,
    ) -> Result<&'a mut Running, DemoError> {
        let programs = Programs::new(&self.path("logs"))?;
        let (clock_settings, clock) = clock_of(schedule);
        let anchor = (clock.now(), uptime()?, schedule.speed);
        let began = Instant::now();
        let [listen, enrol] = free_addresses()?;
        let state = self.path("coordinator");
        let config = self.path("coordinator.toml");
        write_toml(
            &config,
            &json!({
                "state_dir": state,
                "listen": listen,
                "enrol_listen": enrol,
                "clock": clock_settings,
            }),
        )?;
        let identity = state.join("admin.pem");
        let mut coordinator = Coordinator::start(&programs, &config)?;
        let operator = connect(&mut coordinator, &listen, &identity).await?;
        let running = slot.insert(Running {
            clock,
            began,
            address: listen.clone(),
            identity,
            operator,
            agents: BTreeMap::new(),
            coordinator,
            anchor,
        });
        let document = self.fleet.document_with_targets(&self.targets_file());
        running.operator.set_config(&document).await?;
        for machine in &self.machines {
            let token = running.operator.create_token(&machine.name).await?;
            let config = machine.write_agent_config(&AgentSettings {
                coordinator: &listen,
                enrol: &enrol,
                token: &token,
                cache: &self.cache(),
                clock: clock_settings.clone(),
            })?;
            let agent = Agent::keep(&programs, &machine.name, &config);
            running.agents.insert(machine.name.clone(), agent);
        }
        running.all_there().await?;
        Ok(running)
    }

    /// Ends what machines still have at work (a switch that hangs, a timer), and removes
    /// everything from disk, unless it is to be kept.
    pub(super) fn end(self, keep: bool) -> Option<PathBuf> {
        let groups = self.machines.iter().flat_map(Machine::process_groups);
        end_groups(&groups.map(Pid::from_raw).collect::<Vec<_>>());
        if keep {
            return Some(self.directory.keep());
        }
        // What cannot be removed lies in the system's directory for temporary files.
        self.directory.close().ok();
        None
    }
}

impl Running {
    /// The fleet's time at an uptime of the kernel.
    pub(super) fn fleet_time(&self, uptime: Duration) -> Timestamp {
        let (fleet, then, speed) = self.anchor;
        if uptime >= then {
            fleet + (uptime - then).mul_f64(speed)
        } else {
            fleet - (then - uptime).mul_f64(speed)
        }
    }

    /// Fails when one of the programs is gone that should be there.
    pub(super) fn check(&mut self) -> Result<(), DemoError> {
        self.coordinator.check()?;
        for (machine, agent) in &self.agents {
            if let Some(error) = agent.failure() {
                return Err(DemoError::Ended {
                    what: format!("the agent of {machine}"),
                    status: "it is not started again".to_owned(),
                    log: error.to_string(),
                });
            }
        }
        Ok(())
    }

    /// Waits until every machine has reported and is healthy.
    async fn all_there(&mut self) -> Result<(), DemoError> {
        let began = Instant::now();
        loop {
            self.check()?;
            let machines = self.operator.machines().await?;
            let late = machines.iter().filter(|machine| machine.state != "healthy");
            let late: Vec<String> = late
                .map(|machine| format!("{} is {}", machine.name, machine.state))
                .collect();
            if late.is_empty() {
                return Ok(());
            }
            if began.elapsed() > START_WITHIN {
                return Err(DemoError::Deadline {
                    what: "the machines are all there".to_owned(),
                    limit: START_WITHIN,
                    hint: format!(": {}", late.join(", ")),
                });
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Ends the programs.
    pub(super) async fn end(self) {
        let agents = self.agents.into_values().map(Agent::end);
        futures_util::future::join_all(agents).await;
        self.coordinator.end().await;
    }
}

/// Kills process groups and waits until they are gone.
fn end_groups(groups: &[Pid]) {
    let began = Instant::now();
    for group in groups {
        // It may have ended by itself: that is what is wanted.
        killpg(*group, Signal::SIGKILL).ok();
    }
    let is_there = |group: &Pid| killpg(*group, None).is_ok();
    while groups.iter().any(is_there) && began.elapsed() < GONE_WITHIN {
        std::thread::sleep(Duration::from_millis(5));
    }
}

async fn connect(
    coordinator: &mut Coordinator,
    address: &str,
    identity: &Path,
) -> Result<Operator, DemoError> {
    let began = Instant::now();
    loop {
        coordinator.check()?;
        match Operator::connect(address, identity).await {
            Ok(operator) => return Ok(operator),
            Err(NotYet::Never(error)) => return Err(error),
            Err(NotYet::Starting) if began.elapsed() > START_WITHIN => {
                return Err(DemoError::Deadline {
                    what: "the coordinator answers".to_owned(),
                    limit: START_WITHIN,
                    hint: String::new(),
                });
            }
            Err(NotYet::Starting) => sleep(Duration::from_millis(20)).await,
        }
    }
}

/// The `[clock]` section that every program gets, and the same clock here.
fn clock_of(schedule: &Schedule) -> (Value, Clock) {
    let real = SystemTime::now();
    let since = real.duration_since(UNIX_EPOCH).unwrap_or_default();
    let settings = json!({
        "speed": schedule.speed,
        "start": rfc3339(schedule.start),
        "real_start": rfc3339(Timestamp(0) + since),
    });
    let clock = Clock::scaled_from(schedule.speed, schedule.start, real);
    (settings, clock)
}

fn rfc3339(time: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(time.as_millis())
        .unwrap_or_default()
        .to_string()
}

/// How long the kernel has been up, from where the hooks read it too.
fn uptime() -> Result<Duration, DemoError> {
    let file = "/proc/uptime";
    let text = fs::read_to_string(file).map_err(DemoError::file("read", file))?;
    let seconds = text.split(' ').next().and_then(|word| word.parse().ok());
    Ok(Duration::try_from_secs_f64(seconds.unwrap_or_default()).unwrap_or_default())
}

/// Two addresses of the loopback that nobody uses.
fn free_addresses() -> Result<[String; 2], DemoError> {
    let bind = || {
        TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| Ok((listener.local_addr()?.to_string(), listener)))
            .map_err(DemoError::file("find a free port on", "127.0.0.1"))
    };
    let (first, second) = (bind()?, bind()?);
    Ok([first.0, second.0])
}
