//! systemd over D-Bus: transient units of PID 1, their ends, timers, failed units, the reboot.
//!
//! Every call has a deadline, and a lost connection is made again, where the bus is broken straight
//! to PID 1: a switch may restart D-Bus itself, or end it. A unit's end is read from its properties
//! until it has one; a signal that is missed in a restart of the bus or of the agent is therefore not
//! missed at all.

mod bus;
mod logind;
mod pid1;
mod properties;
mod unit_look;

use std::{
    fs,
    time::{Duration, Instant},
};

use zbus::proxy::CacheProperties;
use zbus_systemd::systemd1::{ManagerProxy, ServiceProxy, UnitProxy};

use crate::host::{End, FailedUnit, HostError, UNIT_PREFIX, Unit};

pub use self::unit_look::UnitLook;
use self::{
    bus::{Bus, CALL},
    properties::{dead_man_service, service, timer},
};

/// How long a unit whose time is up may take to end before it is killed. Shorter than the grace
/// after which the agent gives up on it.
pub const END_WITHIN: Duration = CALL;

/// First pause between two looks at a unit; doubles up to [`LOOK_MAX`].
const LOOK_FIRST: Duration = Duration::from_millis(20);
const LOOK_MAX: Duration = Duration::from_secs(1);

/// How long a unit may stay away from the bus (a restart of D-Bus) before its end counts as lost.
const BUS_AWAY: Duration = Duration::from_secs(120);

/// The connection to systemd.
#[derive(Debug, Default)]
pub struct Systemd {
    bus: Bus,
}

/// What a service is made of; another one when its unit was changed and loaded anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceMake {
    /// `ExecStart`, the first of it.
    pub command: Option<Vec<String>>,
    /// What the unit's file and those beside it say; `None` where one cannot be read.
    pub files: Vec<Option<String>>,
}

impl Systemd {
    /// One that reaches systemd by these ways.
    #[cfg(test)]
    fn with(bus: Bus) -> Self {
        Self { bus }
    }

    async fn manager(&self) -> zbus::Result<ManagerProxy<'static>> {
        let connection = self.bus.connection().await?;
        ManagerProxy::builder(&connection)
            .cache_properties(CacheProperties::No)
            .build()
            .await
    }

    /// Starts a transient service and returns when systemd has accepted it.
    pub async fn start(
        &self,
        unit: &Unit,
        environment: &[(String, String)],
    ) -> Result<(), HostError> {
        let doing = format!("start {}", unit.name());
        let start = async {
            let properties = service(unit, environment)?;
            self.manager()
                .await?
                .start_transient_unit(unit.name(), "fail".to_owned(), properties, Vec::new())
                .await
        };
        start
            .await
            .map(drop)
            .map_err(|error| self.bus.failed(doing, error))
    }

    /// Starts the dead-man timer, and with it the service that it is to start.
    pub async fn start_dead_man(
        &self,
        name: &str,
        description: &str,
        after: Duration,
        command: &[String],
        environment: &[(String, String)],
    ) -> Result<(), HostError> {
        let start = async {
            let timer = timer(description, after)?;
            let service = dead_man_service(description, command, environment)?;
            self.manager()
                .await?
                .start_transient_unit(
                    format!("{name}.timer"),
                    "replace".to_owned(),
                    timer,
                    vec![(format!("{name}.service"), service)],
                )
                .await
        };
        let started = start.await.map(drop);
        started.map_err(|error| self.bus.failed(format!("start {name}.timer"), error))
    }

    /// What a unit's properties say now; `None` when there is no such unit.
    pub async fn look(&self, name: &str) -> Result<Option<UnitLook>, HostError> {
        let look = async || {
            let connection = self.bus.connection().await?;
            let path = match self.manager().await?.get_unit(name.to_owned()).await {
                Ok(path) => path,
                Err(error) if is_no_such_unit(&error) => return Ok(None),
                Err(error) => return Err(error),
            };
            let unit = UnitProxy::builder(&connection)
                .path(path.clone())
                .cache_properties(CacheProperties::No)
                .build()
                .await?;
            let service = ServiceProxy::builder(&connection)
                .path(path)
                .cache_properties(CacheProperties::No)
                .build()
                .await?;
            Ok(Some(UnitLook {
                active: unit.active_state().await?,
                sub: unit.sub_state().await?,
                result: service.result().await?,
                code: service.exec_main_code().await?,
                status: service.exec_main_status().await?,
            }))
        };
        self.bus.read(&format!("look at {name}"), look).await
    }

    /// Waits for the end of a unit. `within` is its own time limit; a little later this gives up.
    pub async fn wait(&self, name: &str, within: Duration) -> Result<End, HostError> {
        let begun = Instant::now();
        let mut heard = Instant::now();
        let mut pause = LOOK_FIRST;
        loop {
            match self.look(name).await {
                Ok(Some(look)) => {
                    heard = Instant::now();
                    if let Some(end) = look.end() {
                        return Ok(end);
                    }
                }
                Ok(None) => return Err(HostError::Lost(name.to_owned())),
                Err(error) if heard.elapsed() > BUS_AWAY => return Err(error),
                Err(error) => tracing::debug!(unit = name, "{error}"),
            }
            // systemd kills it at `within`, and the kill itself may take its stop timeout.
            if begun.elapsed() > within + 4 * CALL {
                return Err(HostError::TimedOut(name.to_owned()));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOK_MAX);
        }
    }

    /// Names of the loaded units that match one of the patterns.
    pub async fn list(&self, patterns: Vec<String>) -> Result<Vec<String>, HostError> {
        self.list_in(&[], patterns).await
    }

    /// The same of those that are in one of these states.
    async fn list_in(
        &self,
        states: &[&str],
        patterns: Vec<String>,
    ) -> Result<Vec<String>, HostError> {
        let states: Vec<String> = states.iter().map(|state| (*state).to_owned()).collect();
        let list = async || {
            let manager = self.manager().await?;
            let listed = manager.list_units_by_patterns(states.clone(), patterns.clone());
            listed.await
        };
        let units = self.bus.read("list units", list).await?;
        Ok(units.into_iter().map(|unit| unit.0).collect())
    }

    /// Names of the loaded units that match one of the patterns and have ended.
    pub async fn list_ended(&self, patterns: Vec<String>) -> Result<Vec<String>, HostError> {
        self.list_in(&["exited", "failed"], patterns).await
    }

    /// Stops a unit and forgets its result; nothing when there is none. Returns when it is gone.
    pub async fn clear(&self, name: &str) -> Result<(), HostError> {
        let deadline = Instant::now() + 4 * CALL;
        let mut pause = LOOK_FIRST;
        while let Some(look) = self.look_active(name).await? {
            let clear = async {
                let manager = self.manager().await?;
                if look == "failed" {
                    manager.reset_failed_unit(name.to_owned()).await
                } else {
                    let job = manager.stop_unit(name.to_owned(), "replace".to_owned());
                    job.await.map(drop)
                }
            };
            match clear.await {
                // A bus that was just started again is another one the next time.
                Err(error) if !is_no_such_unit(&error) => {
                    let error = self.bus.failed(format!("stop {name}"), error);
                    if Instant::now() > deadline {
                        return Err(error);
                    }
                    tracing::debug!("{error}");
                }
                Ok(()) | Err(_) => {}
            }
            if Instant::now() > deadline {
                return Err(HostError::TimedOut(format!("stop {name}")));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOK_MAX);
        }
        Ok(())
    }

    /// Waits for the end of these units, and stops those that have none within this time.
    pub async fn end(&self, names: &[&str], within: Duration) -> Result<(), HostError> {
        let deadline = Instant::now() + within;
        for name in names {
            let mut pause = LOOK_FIRST;
            while Instant::now() < deadline {
                match self.active_state(name).await {
                    Ok(state) if matches!(state.as_str(), "inactive" | "failed") => break,
                    Ok(_) => {}
                    // Whatever is at work may be restarting the bus.
                    Err(error) => tracing::debug!(unit = name, "{error}"),
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LOOK_MAX);
            }
            self.clear(name).await?;
        }
        Ok(())
    }

    /// A unit's active state; `None` when it is not loaded, or inactive and about to be unloaded.
    async fn look_active(&self, name: &str) -> Result<Option<String>, HostError> {
        let state = self.active_state(name).await?;
        Ok((state != "inactive").then_some(state))
    }

    /// A unit's active state, "inactive" when it is not loaded.
    pub async fn active_state(&self, name: &str) -> Result<String, HostError> {
        let state = async || {
            let connection = self.bus.connection().await?;
            let path = match self.manager().await?.get_unit(name.to_owned()).await {
                Ok(path) => path,
                Err(error) if is_no_such_unit(&error) => return Ok("inactive".to_owned()),
                Err(error) => return Err(error),
            };
            let unit = UnitProxy::builder(&connection)
                .path(path)
                .cache_properties(CacheProperties::No)
                .build()
                .await?;
            unit.active_state().await
        };
        self.bus.read(&format!("look at {name}"), state).await
    }

    /// Units that have failed or are waiting to be started again, ours left out.
    pub async fn failed_units(&self) -> Result<Vec<FailedUnit>, HostError> {
        let list = async || {
            let manager = self.manager().await?;
            let states = vec!["failed".to_owned(), "auto-restart".to_owned()];
            manager.list_units_filtered(states).await
        };
        let units = self.bus.read("list failed units", list).await?;
        Ok(units
            .into_iter()
            .filter(|unit| !unit.0.starts_with(UNIT_PREFIX))
            .map(|unit| FailedUnit {
                name: unit.0,
                restarting: unit.3 != "failed",
            })
            .collect())
    }

    /// What the service that a process belongs to is made of, as systemd has it loaded now: its
    /// command line, its file and the files beside it (`ExecStart`, `FragmentPath`, `DropInPaths`).
    pub async fn service_of(&self, pid: u32) -> Result<ServiceMake, HostError> {
        let make = async {
            let connection = self.bus.connection().await?;
            let path = self.manager().await?.get_unit_by_pid(pid).await?;
            let unit = UnitProxy::builder(&connection)
                .path(path.clone())
                .cache_properties(CacheProperties::No)
                .build()
                .await?;
            let service = ServiceProxy::builder(&connection)
                .path(path)
                .cache_properties(CacheProperties::No)
                .build()
                .await?;
            let commands = service.exec_start().await?;
            let mut files = vec![unit.fragment_path().await?];
            files.extend(unit.drop_in_paths().await?);
            let files = files.into_iter().map(|file| fs::read_to_string(file).ok());
            Ok(ServiceMake {
                command: commands.into_iter().next().map(|command| command.1),
                files: files.collect(),
            })
        };
        make.await
            .map_err(|error| self.bus.failed("look at the own unit", error))
    }
}

fn is_no_such_unit(error: &zbus::Error) -> bool {
    matches!(error, zbus::Error::MethodError(name, ..)
        if matches!(name.as_str(), "org.freedesktop.systemd1.NoSuchUnit" | "org.freedesktop.systemd1.UnitNotLoaded"))
}
