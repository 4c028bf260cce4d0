//! A machine's host in the simulated network: the real agent process, killed and started again; its
//! disk and its way to the coordinator, with the world looking on; the real dead-man program.

use std::{future::Future, io, rc::Rc, time::Duration};

use ::turmoil::net::TcpStream;
use agent::{
    config::{Check, Config, ExecutorConfig, Hooks, Limits as ConfigLimits, Probe},
    coordinator_client::CoordinatorClient,
    dead_man,
    driver::{Driver, DriverError, Exit},
    executor::Executor,
    link::{Link, LinkError},
    state_file::{StateFile, StateFileError, StateStore},
    targets::Allowed,
};
use agent_core::{Directive, Durable, Limits, Renewal, Signal, state::Unreported};
use common::{AttemptStatus, Epoch, LeaseId, MachineReport};
use platform::channel::{self, Timeouts};
use tokio::task::LocalSet;

use super::{
    host::SimHost,
    setup::{COORDINATOR, HOUR, MINUTE, PORT, SECOND, elapsed},
    world::{Shared, runs},
};

/// Dials through the simulated network.
pub(crate) async fn dial(address: String) -> io::Result<TcpStream> {
    TcpStream::connect(address).await
}

/// Where the coordinator is served.
pub(crate) fn coordinator() -> String {
    format!("{COORDINATOR}:{PORT}")
}

/// A machine from its power-on to its end, which comes from outside.
pub(crate) async fn live(
    world: Shared,
    machine: usize,
    hook: std::path::PathBuf,
) -> ::turmoil::Result {
    {
        let mut world = world.lock();
        world.machines[machine].start(elapsed())?;
        world.recovered(machine);
        world.tell(|w| {
            format!(
                "{} is up: {}",
                w.machines[machine].name,
                runs(&w.machines[machine])
            )
        });
    }
    tokio::task::spawn_local(watch_dead_man(world.clone(), machine, hook.clone()));
    loop {
        let kill = world.lock().machines[machine].kill.clone();
        let process = LocalSet::new();
        let ended = process
            .run_until(async {
                tokio::select! {
                    biased;
                    () = kill.notified() => None,
                    ended = run(world.clone(), machine, &hook) => Some(ended),
                }
            })
            .await;
        drop(process);
        let pause = {
            let mut world = world.lock();
            world.tell(|w| {
                let name = &w.machines[machine].name;
                match &ended {
                    None => format!("{name}'s agent is killed"),
                    Some(Ok(exit)) => format!("{name}'s agent ends: {exit:?}"),
                    Some(Err(error)) => format!("{name}'s agent ends: {error}"),
                }
            });
            if world.strikes(50_000, "agent-stays-dead") {
                world.rng.around(HOUR / 2)
            } else {
                world.rng.between(SECOND, MINUTE / 2)
            }
        };
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}

/// One life of the agent's process.
async fn run(world: Shared, machine: usize, hook: &std::path::Path) -> Result<Exit, DriverError> {
    let (config, limits, clock, bug) = {
        let mut world = world.lock();
        let clock = world.machines[machine].clock.clock();
        world.machines[machine].starts += 1;
        let config = config(&world, machine, hook);
        let bug = world.bug.and_then(crate::sim::SeededBug::of_agent);
        (config, limits(&world, machine), clock, bug)
    };
    let over_the_network =
        |address: String, identity| -> std::pin::Pin<Box<dyn Future<Output = _>>> {
            Box::pin(async move {
                channel::connect_with(dial, &address, &identity, Timeouts::default()).await
            })
        };
    let link = Observed {
        inner: CoordinatorClient::with_dial(&config, Rc::new(over_the_network)),
        world: world.clone(),
        machine,
    };
    let disk = Disk {
        file: StateFile::new(config.state_file()),
        world: world.clone(),
        machine,
    };
    let host = SimHost::new(world, machine);
    let executor = Executor::new(host, config, clock.clone());
    let mut driver = Driver::new(limits, disk, executor, Rc::new(link), clock)?;
    if let Some(bug) = bug {
        driver = driver.with_bug(bug);
    }
    driver.run(std::future::pending()).await
}

/// Lets the real dead-man program act when its timer goes off.
async fn watch_dead_man(world: Shared, machine: usize, hook: std::path::PathBuf) {
    let (config, fires) = {
        let world = world.lock();
        let fires = world.machines[machine].dead_man_fires.clone();
        (config(&world, machine, &hook), fires)
    };
    loop {
        fires.notified().await;
        let armed = world.lock().machines[machine].dead_man.take();
        let Some((lease, _)) = armed else { continue };
        let host = SimHost::new(world.clone(), machine);
        let verdict = dead_man::run(&host, &config, Some(lease)).await;
        world.lock().tell(|w| {
            let name = &w.machines[machine].name;
            match &verdict {
                Ok(verdict) => format!("{name}'s dead man, lease {lease}: {verdict:?}"),
                Err(error) => format!("{name}'s dead man, lease {lease}: {error}"),
            }
        });
    }
}

fn config(world: &super::world::World, machine: usize, hook: &std::path::Path) -> Config {
    let m = &world.machines[machine];
    let check = Check {
        name: "service".to_owned(),
        timeout: Duration::from_secs(10),
        probe: Probe::Unit {
            unit: "service.service".to_owned(),
        },
    };
    Config {
        machine: m.name.clone(),
        coordinator: coordinator(),
        enrol: String::new(),
        token_file: None,
        state_dir: m.directory.join("state"),
        poll_hold: world.setup.poll_hold,
        check_interval: world.setup.health_every,
        boot_directory: "/boot".into(),
        executor: ExecutorConfig::System,
        targets: Allowed::default(),
        hooks: Hooks {
            pre_update: Some(hook.to_owned()),
            post_update: Some(hook.to_owned()),
            rollback: Some(hook.to_owned()),
            backup_check: None,
            traffic: None,
            timeout: Duration::from_secs(300),
        },
        limits: ConfigLimits {
            stage_timeout: Duration::from_secs(1200),
            stage_pause: Duration::from_secs(60),
            switch_timeout: Duration::from_secs(600),
            reboot_wait: Duration::ZERO,
            boot_timeout: Duration::from_secs(900),
            attempt_timeout: None,
            settle: Duration::from_secs(30),
            memory_max: None,
            tasks_max: 4096,
            switch_tasks_max: 8192,
            hook_tasks_max: 4096,
            store_reserve_bytes: 0,
            boot_reserve_bytes: 0,
            memory_reserve_bytes: 0,
        },
        conditions: Vec::new(),
        checks: vec![check],
        clock: None,
    }
}

fn limits(world: &super::world::World, machine: usize) -> Limits {
    let m = &world.machines[machine];
    Limits {
        agent_version: "simulated".to_owned(),
        seed: world.setup.seed ^ (m.starts << 32) ^ (machine as u64) << 56,
        poll_hold: world.setup.poll_hold,
        poll_pause: world.setup.poll_pause,
        health_every: world.setup.health_every,
        stage_timeout: Duration::from_secs(1200),
        switch_timeout: Duration::from_secs(600),
        ..Limits::default()
    }
}

/// The agent's disk: the real state file. Processes die before or after a write, now and then.
struct Disk {
    file: StateFile,
    world: Shared,
    machine: usize,
}

impl Disk {
    fn dies(&self, kind: &'static str) -> Result<(), StateFileError> {
        let mut world = self.world.lock();
        let rate = world.setup.agent_cut;
        if !world.strikes(rate, kind) {
            return Ok(());
        }
        Err(StateFileError::Io {
            verb: "survive writing",
            path: "agent.json".into(),
            cause: io::ErrorKind::Interrupted.into(),
        })
    }
}

impl StateStore for Disk {
    fn load(&self) -> Result<Option<Durable>, StateFileError> {
        let loaded = self.file.load()?;
        let epoch = loaded.as_ref().map(|state| state.epoch);
        self.world
            .lock()
            .remembered(self.machine, epoch.unwrap_or_default());
        Ok(loaded)
    }

    fn save(&self, state: &Durable) -> Result<(), StateFileError> {
        self.dies("agent-dies-before-write")?;
        self.file.save(state)?;
        self.world.lock().saved(self.machine, state);
        self.dies("agent-dies-after-write")
    }
}

/// The real client, with the world listening.
struct Observed {
    inner: CoordinatorClient,
    world: Shared,
    machine: usize,
}

impl Link for Observed {
    async fn poll(
        &self,
        hold: Duration,
        report: &MachineReport,
    ) -> Result<(Epoch, Directive), LinkError> {
        let sent = elapsed();
        let (epoch, directive) = self.inner.poll(hold, report).await?;
        let mut world = self.world.lock();
        world.heard(self.machine, epoch);
        if let Directive::Proceed(order) = &directive {
            let until = sent + u64::try_from(order.valid_for.as_millis()).unwrap_or(HOUR);
            let truth = &mut world.machines[self.machine].truth;
            truth.until.insert(order.lease, until);
            truth.epochs.insert(order.lease, order.epoch);
        }
        let line = match &directive {
            Directive::Wait { kind, .. } => format!("wait: {kind}"),
            Directive::Stage { target, .. } => format!("stage {target}"),
            Directive::Proceed(order) => format!("proceed, lease {}", order.lease),
            Directive::Check { request, .. } => format!("check {request}"),
            Directive::CleanUp { request, .. } => format!("clean up {request}"),
            Directive::MoveTraffic(call) => format!("move traffic {}", call.order.number),
            Directive::StandDown(_) => "stand down".to_owned(),
        };
        world.tell(|w| format!("{} hears: {line}", w.machines[self.machine].name));
        Ok((epoch, directive))
    }

    async fn renew(
        &self,
        lease: LeaseId,
        epoch: Epoch,
        status: &AttemptStatus,
        silence: Duration,
    ) -> Result<(Epoch, Renewal), LinkError> {
        let sent = elapsed();
        let (epoch, renewal) = self.inner.renew(lease, epoch, status, silence).await?;
        let mut world = self.world.lock();
        world.heard(self.machine, epoch);
        let said = match &renewal {
            Renewal::Valid { valid_for } => {
                let until = sent + u64::try_from(valid_for.as_millis()).unwrap_or(HOUR);
                let known = &mut world.machines[self.machine].truth.until;
                let known = known.entry(lease).or_default();
                *known = until.max(*known);
                "valid"
            }
            Renewal::StandDown(_) => "stand down",
            Renewal::NotHeld { .. } => "not held",
        };
        world.tell(|w| {
            let name = &w.machines[self.machine].name;
            format!("{name} renews lease {lease}: {said}")
        });
        Ok((epoch, renewal))
    }

    async fn report(
        &self,
        result: &Unreported,
        report: &MachineReport,
    ) -> Result<Epoch, LinkError> {
        let epoch = self.inner.report(result, report).await?;
        let mut world = self.world.lock();
        world.heard(self.machine, epoch);
        let (lease, kind) = (result.lease, result.outcome.kind);
        world.tell(|w| {
            let name = &w.machines[self.machine].name;
            format!("{name} has told of lease {lease}: {kind}")
        });
        Ok(epoch)
    }

    async fn listen(&self, heard: impl Fn(Epoch, Signal)) -> Result<(), LinkError> {
        let listening = self.inner.listen(|epoch, signal| {
            self.world.lock().heard(self.machine, epoch);
            heard(epoch, signal);
        });
        listening.await
    }
}
