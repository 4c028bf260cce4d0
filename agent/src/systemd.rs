//! systemd over D-Bus: transient units of PID 1, their ends, timers, failed units, the reboot.
//!
//! Every call has a deadline, and a lost bus connection is made again: a switch may restart D-Bus
//! itself. A unit's end is read from its properties until it has one; a signal that is missed in a
//! restart of the bus or of the agent is therefore not missed at all.

use std::{
    cell::RefCell,
    fs,
    time::{Duration, Instant},
};

use zbus::{Connection, OwnedVariant, Variant, connection::Builder, proxy::CacheProperties};
use zbus_systemd::{
    login1,
    systemd1::{ManagerProxy, ServiceProxy, UnitProxy},
};

use crate::host::{End, FailedUnit, HostError, UNIT_PREFIX, Unit};

/// Longest that one D-Bus call may take: PID 1 may be busy with a daemon-reload for some seconds.
const CALL: Duration = Duration::from_secs(25);

/// How long a unit whose time is up may take to end before it is killed. Shorter than the grace
/// after which the agent gives up on it.
pub const END_WITHIN: Duration = CALL;

/// First pause between two looks at a unit; doubles up to [`LOOK_MAX`].
const LOOK_FIRST: Duration = Duration::from_millis(20);
const LOOK_MAX: Duration = Duration::from_secs(1);

/// How long a unit may stay away from the bus (a restart of D-Bus) before its end counts as lost.
const BUS_AWAY: Duration = Duration::from_secs(120);

/// `CLD_EXITED` of `waitid(2)`; the other codes are deaths by signal.
const CLD_EXITED: i32 = 1;

type Property = (String, OwnedVariant);

/// The connection to systemd.
#[derive(Debug, Default)]
pub struct Systemd {
    connection: RefCell<Option<Connection>>,
}

/// What a service is made of; another one when its unit was changed and loaded anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceMake {
    /// `ExecStart`, the first of it.
    pub command: Option<Vec<String>>,
    /// What the unit's file and those beside it say; `None` where one cannot be read.
    pub files: Vec<Option<String>>,
}

/// What the properties of a unit say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitLook {
    /// `ActiveState`.
    pub active: String,
    /// `SubState`.
    pub sub: String,
    /// `Result` of a service.
    pub result: String,
    /// `ExecMainCode`: how the process ended, 0 while it has not.
    pub code: i32,
    /// `ExecMainStatus`: exit status or signal.
    pub status: i32,
}

impl UnitLook {
    /// How the unit ended; `None` while it is at work.
    pub fn end(&self) -> Option<End> {
        let over = matches!(
            (self.active.as_str(), self.sub.as_str()),
            ("active", "exited") | ("failed" | "inactive", _)
        );
        // A unit whose start is still queued looks like one that is over; its deadline bounds the wait.
        let queued = self.active == "inactive" && self.result == "success" && self.code == 0;
        if !over || queued {
            return None;
        }
        Some(match self.result.as_str() {
            "timeout" | "watchdog" => End::TimedOut,
            "success" | "exit-code" | "signal" | "core-dump" | "oom-kill" if self.code != 0 => {
                // 200 and above come from systemd itself: the program was never executed
                // (systemd.exec(5), "Process Exit Codes").
                match (self.code, self.status) {
                    (CLD_EXITED, 200..=243) => {
                        End::NotStarted(format!("systemd's own status {}", self.status))
                    }
                    (CLD_EXITED, status) => End::Exited(status),
                    (_, signal) => End::Signal(signal),
                }
            }
            other => End::NotStarted(other.to_owned()),
        })
    }
}

impl Systemd {
    async fn connection(&self) -> zbus::Result<Connection> {
        if let Some(connection) = self.connection.borrow().clone() {
            return Ok(connection);
        }
        let builder = Builder::system().method_timeout(CALL);
        let connection = tokio::time::timeout(CALL, builder.build())
            .await
            .map_err(|_| zbus::Error::Failure("no answer from the system bus".to_owned()))??;
        *self.connection.borrow_mut() = Some(connection.clone());
        Ok(connection)
    }

    /// Keeps the error's cause, and drops the connection unless the far end itself answered.
    fn failed(&self, doing: impl Into<String>, cause: zbus::Error) -> HostError {
        if !matches!(cause, zbus::Error::MethodError(..) | zbus::Error::FDO(_)) {
            *self.connection.borrow_mut() = None;
        }
        HostError::Bus {
            doing: doing.into(),
            cause: Box::new(cause),
        }
    }

    async fn manager(&self) -> zbus::Result<ManagerProxy<'static>> {
        let connection = self.connection().await?;
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
            let properties = service_properties(unit, environment)?;
            self.manager()
                .await?
                .start_transient_unit(unit.name(), "fail".to_owned(), properties, Vec::new())
                .await
        };
        start
            .await
            .map(drop)
            .map_err(|error| self.failed(doing, error))
    }

    /// Starts a timer of our own, and with it the service that it is to start.
    pub async fn start_timer(
        &self,
        name: &str,
        description: &str,
        after: Duration,
        command: &[String],
        environment: &[(String, String)],
    ) -> Result<(), HostError> {
        let start = async {
            let timer = vec![
                property("Description", description)?,
                property("TimersMonotonic", vec![("OnActiveSec", micros(after))])?,
                property("AccuracyUSec", 1_000_000_u64)?,
                property("RemainAfterElapse", false)?,
            ];
            let service = vec![
                property("Description", description)?,
                property("Type", "exec")?,
                property("ExecStart", exec(command))?,
                property("Environment", assignments(environment))?,
                property("CollectMode", "inactive-or-failed")?,
            ];
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
        started.map_err(|error| self.failed(format!("start {name}.timer"), error))
    }

    /// What a unit's properties say now; `None` when there is no such unit.
    pub async fn look(&self, name: &str) -> Result<Option<UnitLook>, HostError> {
        let look = async {
            let connection = self.connection().await?;
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
        look.await
            .map_err(|error| self.failed(format!("look at {name}"), error))
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
        let list = async {
            let manager = self.manager().await?;
            manager.list_units_by_patterns(Vec::new(), patterns).await
        };
        let units = list
            .await
            .map_err(|error| self.failed("list units", error))?;
        Ok(units.into_iter().map(|unit| unit.0).collect())
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
                Err(error) if !is_no_such_unit(&error) => {
                    return Err(self.failed(format!("stop {name}"), error));
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

    /// A unit's active state; `None` when it is not loaded, or inactive and about to be unloaded.
    async fn look_active(&self, name: &str) -> Result<Option<String>, HostError> {
        let state = self.active_state(name).await?;
        Ok((state != "inactive").then_some(state))
    }

    /// A unit's active state, "inactive" when it is not loaded.
    pub async fn active_state(&self, name: &str) -> Result<String, HostError> {
        let state = async {
            let connection = self.connection().await?;
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
        state
            .await
            .map_err(|error| self.failed(format!("look at {name}"), error))
    }

    /// Units that have failed or are waiting to be started again, ours left out.
    pub async fn failed_units(&self) -> Result<Vec<FailedUnit>, HostError> {
        let list = async {
            let manager = self.manager().await?;
            let states = vec!["failed".to_owned(), "auto-restart".to_owned()];
            manager.list_units_filtered(states).await
        };
        let units = list
            .await
            .map_err(|error| self.failed("list failed units", error))?;
        Ok(units
            .into_iter()
            .filter(|unit| !unit.0.starts_with(UNIT_PREFIX))
            .map(|unit| FailedUnit {
                name: unit.0,
                restarting: unit.3 != "failed",
            })
            .collect())
    }

    /// Asks logind for a reboot.
    pub async fn reboot(&self) -> Result<(), HostError> {
        let reboot = async {
            let connection = self.connection().await?;
            let manager = login1::ManagerProxy::builder(&connection)
                .cache_properties(CacheProperties::No)
                .build()
                .await?;
            manager.reboot(false).await
        };
        reboot
            .await
            .map_err(|error| self.failed("ask logind for a reboot", error))
    }

    /// What the service that a process belongs to is made of, as systemd has it loaded now: its
    /// command line, its file and the files beside it (`ExecStart`, `FragmentPath`, `DropInPaths`).
    pub async fn service_of(&self, pid: u32) -> Result<ServiceMake, HostError> {
        let make = async {
            let connection = self.connection().await?;
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
            .map_err(|error| self.failed("look at the own unit", error))
    }
}

fn is_no_such_unit(error: &zbus::Error) -> bool {
    matches!(error, zbus::Error::MethodError(name, ..)
        if matches!(name.as_str(), "org.freedesktop.systemd1.NoSuchUnit" | "org.freedesktop.systemd1.UnitNotLoaded"))
}

fn property<'v, T>(name: &str, value: T) -> zbus::Result<Property>
where
    T: Into<Variant<'v>>,
{
    let value: Variant<'v> = value.into();
    Ok((name.to_owned(), value.try_to_owned()?))
}

/// `ExecStart` in the bus's form: program, arguments, whether its failure is to be ignored.
fn exec(command: &[String]) -> Vec<(String, Vec<String>, bool)> {
    let program = command.first().cloned().unwrap_or_default();
    vec![(program, command.to_vec(), false)]
}

fn assignments(environment: &[(String, String)]) -> Vec<String> {
    environment
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect()
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A service that outlives the agent, keeps its result until it is asked for, and cannot leave a
/// process behind.
fn service_properties(
    unit: &Unit,
    environment: &[(String, String)],
) -> zbus::Result<Vec<Property>> {
    let all: Vec<(String, String)> = [environment, &unit.environment].concat();
    let mut properties = vec![
        property("Description", unit.description.as_str())?,
        property("Type", "exec")?,
        property("RemainAfterExit", true)?,
        property("ExecStart", exec(&unit.command))?,
        property("Environment", assignments(&all))?,
        property("WorkingDirectory", "/")?,
        property("StandardInput", "null")?,
        property("StandardOutput", "journal")?,
        property("StandardError", "journal")?,
        property("KillMode", "control-group")?,
        property("RuntimeMaxUSec", micros(unit.within))?,
        property("TimeoutStopUSec", micros(END_WITHIN))?,
    ];
    if let Some(bytes) = unit.resources.memory_max {
        properties.push(property("MemoryMax", bytes)?);
    }
    if let Some(tasks) = unit.resources.tasks_max {
        properties.push(property("TasksMax", tasks)?);
    }
    Ok(properties)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(active: &str, sub: &str, result: &str, code: i32, status: i32) -> Option<End> {
        UnitLook {
            active: active.to_owned(),
            sub: sub.to_owned(),
            result: result.to_owned(),
            code,
            status,
        }
        .end()
    }

    #[test]
    fn a_unit_at_work_has_no_end() {
        assert_eq!(look("active", "running", "success", 0, 0), None);
        assert_eq!(look("activating", "start", "success", 0, 0), None);
        assert_eq!(look("deactivating", "stop-sigterm", "timeout", 0, 0), None);
    }

    #[test]
    fn a_start_that_is_still_queued_is_no_end() {
        assert_eq!(look("inactive", "dead", "success", 0, 0), None);
        assert_eq!(
            look("inactive", "dead", "success", 1, 0),
            Some(End::Exited(0))
        );
    }

    #[test]
    fn ends_are_read_from_properties() {
        assert_eq!(
            look("active", "exited", "success", 1, 0),
            Some(End::Exited(0))
        );
        assert_eq!(
            look("failed", "failed", "exit-code", 1, 4),
            Some(End::Exited(4))
        );
        assert_eq!(
            look("failed", "failed", "exit-code", 1, 100),
            Some(End::Exited(100))
        );
        assert_eq!(
            look("failed", "failed", "signal", 2, 9),
            Some(End::Signal(9))
        );
        assert_eq!(
            look("failed", "failed", "core-dump", 3, 11),
            Some(End::Signal(11))
        );
        assert_eq!(
            look("failed", "failed", "timeout", 2, 15),
            Some(End::TimedOut)
        );
        assert_eq!(
            look("failed", "failed", "oom-kill", 2, 9),
            Some(End::Signal(9))
        );
    }

    #[test]
    fn a_unit_has_ended_before_the_agent_gives_up_on_it() {
        let slack = 2 * LOOK_MAX + Duration::from_secs(5);
        assert!(agent_core::Limits::default().grace >= END_WITHIN + slack);
    }

    #[test]
    fn what_never_ran_is_no_exit_status() {
        let end = look("failed", "failed", "exit-code", 1, 203);
        assert!(matches!(end, Some(End::NotStarted(_))), "{end:?}");
        let end = look("failed", "failed", "resources", 0, 0);
        assert!(matches!(end, Some(End::NotStarted(_))), "{end:?}");
    }
}
