//! The properties of our units, in the bus's form.

use std::time::Duration;

use zbus::{OwnedVariant, Variant};

use super::END_WITHIN;
use crate::{
    dead_man::EXIT_NOT_BACK,
    host::{NOBODY, NOBODYS_HOME, RunAs, Unit},
};

/// Pause before the dead-man program is started again when it has failed.
const DEAD_MAN_PAUSE: Duration = Duration::from_secs(60);

/// A property of a unit.
pub(super) type Property = (String, OwnedVariant);

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

/// An exit status in the bus's form of `RestartPreventExitStatus`: statuses and signals.
fn never_again(status: u8) -> (Vec<i32>, Vec<i32>) {
    (vec![status.into()], Vec::new())
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The timer of the dead-man program.
pub(super) fn timer(description: &str, after: Duration) -> zbus::Result<Vec<Property>> {
    Ok(vec![
        property("Description", description)?,
        property("TimersMonotonic", vec![("OnActiveSec", micros(after))])?,
        property("AccuracyUSec", 1_000_000_u64)?,
        property("RemainAfterElapse", false)?,
    ])
}

/// The dead-man program.
pub(super) fn dead_man_service(
    description: &str,
    command: &[String],
    environment: &[(String, String)],
) -> zbus::Result<Vec<Property>> {
    Ok(vec![
        property("Description", description)?,
        property("Type", "exec")?,
        property("ExecStart", exec(command))?,
        property("Environment", assignments(environment))?,
        property("CollectMode", "inactive-or-failed")?,
        // Nobody else brings the machine back: it does not give up, and does not hurry.
        property("Restart", "on-failure")?,
        property("RestartUSec", micros(DEAD_MAN_PAUSE))?,
        property("StartLimitIntervalUSec", 0_u64)?,
        property("RestartPreventExitStatus", never_again(EXIT_NOT_BACK))?,
    ])
}

/// A service that outlives the agent, keeps its result until it is asked for, and cannot leave a
/// process behind.
pub(super) fn service(
    unit: &Unit,
    environment: &[(String, String)],
) -> zbus::Result<Vec<Property>> {
    // The unit's own variables instead of the usual ones: systemd takes no name twice.
    let usual = environment.iter().filter(|(name, _)| {
        let mut own = unit.environment.iter();
        !own.any(|(other, _)| other == name)
    });
    let all: Vec<(String, String)> = usual.chain(&unit.environment).cloned().collect();
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
    match unit.run_as {
        RunAs::Root => {}
        // With it come `NoNewPrivileges=`, `ProtectSystem=strict` and directories of its own for
        // what is temporary: systemd.exec(5).
        RunAs::Nobody => {
            let home = NOBODYS_HOME.trim_start_matches("/run/");
            properties.push(property("User", NOBODY)?);
            properties.push(property("DynamicUser", true)?);
            properties.push(property("RuntimeDirectory", vec![home.to_owned()])?);
        }
    }
    Ok(properties)
}

#[cfg(test)]
mod tests {
    use agent_core::MayBegin;

    use super::*;
    use crate::host::{Family, Resources};

    fn value(properties: &[Property], name: &str) -> Option<String> {
        let property = properties.iter().find(|(key, _)| key == name);
        property.map(|(_, value)| format!("{:?}", **value))
    }

    #[test]
    fn a_unit_has_the_limits_that_it_is_given() {
        let mut unit = Unit {
            family: Family::Stage,
            tag: "1-2".to_owned(),
            description: "x".to_owned(),
            command: vec!["/bin/true".to_owned()],
            environment: Vec::new(),
            within: Duration::from_secs(9),
            resources: Resources {
                memory_max: Some(77_777),
                tasks_max: Some(333),
            },
            run_as: RunAs::Root,
            may_begin: MayBegin::Always,
        };
        let limited = service(&unit, &[]).expect("properties");
        let has = |name, text: &str| value(&limited, name).is_some_and(|v| v.contains(text));
        assert!(has("MemoryMax", "77777"), "{limited:?}");
        assert!(has("TasksMax", "333"), "{limited:?}");
        assert!(has("RuntimeMaxUSec", "9000000"), "{limited:?}");
        unit.resources = Resources::default();
        let free = service(&unit, &[]).expect("properties");
        assert_eq!(value(&free, "MemoryMax"), None);
        assert_eq!(value(&free, "TasksMax"), None);
        assert_eq!(value(&free, "DynamicUser"), None);
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        unit.environment = vec![pair("HOME", "/tmp")];
        let usual = [pair("PATH", "/bin"), pair("HOME", "/root")];
        let own = service(&unit, &usual).expect("properties");
        let environment = value(&own, "Environment").expect("variables");
        assert!(environment.contains("HOME=/tmp"), "{environment}");
        assert!(environment.contains("PATH=/bin"), "{environment}");
        assert!(!environment.contains("HOME=/root"), "{environment}");
        unit.run_as = RunAs::Nobody;
        let nobody = service(&unit, &[]).expect("properties");
        assert_eq!(value(&nobody, "DynamicUser").as_deref(), Some("Bool(true)"));
    }

    #[test]
    fn the_dead_man_program_does_not_give_up() {
        let service = dead_man_service("x", &["/x".to_owned()], &[]).expect("properties");
        let has = |name, text: &str| value(&service, name).is_some_and(|v| v.contains(text));
        assert!(has("Restart", "on-failure"), "{service:?}");
        assert!(has("RestartUSec", "60000000"), "{service:?}");
        assert!(has("StartLimitIntervalUSec", "0"), "{service:?}");
        let signature = service
            .iter()
            .find(|(name, _)| name == "RestartPreventExitStatus")
            .map(|(_, value)| value.value_signature().to_string());
        assert_eq!(signature.as_deref(), Some("(aiai)"));
    }
}
