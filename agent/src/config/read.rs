//! From the file as it is written to a configuration without faults.

use std::{path::PathBuf, time::Duration};

use common::MachineName;
use platform::clock::Clock;

use super::{
    Config, DAY, ExecutorConfig, Faults, HOUR, Hooks, Limits, MINUTE,
    checks::checks,
    raw::{self, RawConfig, RawDuration, RawExecutorKind},
};
use crate::targets::Allowed;

/// Port of the enrolment service, beside the coordinator's.
const ENROL_PORT: u16 = 7444;

impl Config {
    /// Checks every value.
    pub(super) fn check(raw: RawConfig) -> Result<Self, Faults> {
        let mut faults = Faults::default();
        let machine = machine_name(&mut faults, raw.machine.as_deref());
        faults.address("coordinator", &raw.coordinator);
        let enrol = raw.enrol.unwrap_or_else(|| beside(&raw.coordinator));
        faults.address("enrol", &enrol);
        let state_dir = raw
            .state_dir
            .unwrap_or_else(|| "/var/lib/lab-updater".into());
        faults.absolute("state_dir", &state_dir);
        if let Some(token_file) = &raw.token_file {
            faults.absolute("token_file", token_file);
        }
        let poll_hold = faults.duration("poll_hold", raw.poll_hold.as_ref(), MINUTE, 10 * MINUTE);
        if poll_hold < Duration::from_secs(1) {
            faults.add("poll_hold", "less than 1 s would be a flood of polls");
        }
        let boot_directory = raw.boot_directory.unwrap_or_else(|| "/boot".into());
        faults.absolute("boot_directory", &boot_directory);
        let check_interval = faults.duration(
            "check_interval",
            raw.check_interval.as_ref(),
            5 * MINUTE,
            DAY,
        );
        let executor = executor(&mut faults, raw.executor);
        let targets = targets(&mut faults, raw.targets);
        let hooks = hooks(&mut faults, raw.hooks);
        let limits = limits(&mut faults, &raw.limits);
        let conditions = checks(&mut faults, "conditions", raw.conditions);
        for (index, condition) in conditions.iter().enumerate() {
            if condition.timeout > hooks.timeout {
                let key = format!("conditions[{index}].timeout");
                faults.add(&key, "longer than `hooks.timeout`");
            }
        }
        let checks = checks(&mut faults, "checks", raw.checks);
        let clock = Clock::from_settings(
            raw.clock.speed.unwrap_or(1.0),
            raw.clock.start.as_deref(),
            raw.clock.real_start.as_deref(),
        )
        .unwrap_or_else(|error| {
            faults.add("clock", error);
            None
        });
        match machine {
            Some(machine) if faults.0.is_empty() => Ok(Self {
                machine,
                coordinator: raw.coordinator,
                enrol,
                token_file: raw.token_file,
                state_dir,
                poll_hold,
                check_interval,
                boot_directory,
                executor,
                targets,
                hooks,
                limits,
                conditions,
                checks,
                clock,
            }),
            Some(_) | None => Err(faults),
        }
    }
}

/// The enrolment service on the coordinator's host.
fn beside(coordinator: &str) -> String {
    let host = coordinator
        .rsplit_once(':')
        .map_or(coordinator, |(host, _)| host);
    format!("{host}:{ENROL_PORT}")
}

fn machine_name(faults: &mut Faults, given: Option<&str>) -> Option<MachineName> {
    let host = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok());
    let Some(name) = given.map(str::to_owned).or(host) else {
        faults.add("machine", "not given, and the host has no usable name");
        return None;
    };
    name.parse()
        .map_err(|error| faults.add("machine", format_args!("{name:?}: {error}")))
        .ok()
}

fn executor(faults: &mut Faults, raw: raw::RawExecutor) -> ExecutorConfig {
    match raw.kind.unwrap_or(RawExecutorKind::System) {
        RawExecutorKind::System => {
            if raw.root.is_some() || raw.cache.is_some() {
                faults.add("executor", "root and cache belong to kind = \"directory\"");
            }
            ExecutorConfig::System
        }
        RawExecutorKind::Directory => {
            let mut path = |key: &str, path: Option<PathBuf>| {
                let path = path.unwrap_or_default();
                faults.absolute(key, &path);
                path
            };
            ExecutorConfig::Directory {
                root: path("executor.root", raw.root),
                cache: path("executor.cache", raw.cache),
            }
        }
    }
}

/// Prefixes that say at least which scheme and, where the scheme has one, which host.
fn targets(faults: &mut Faults, raw: raw::RawTargets) -> Allowed {
    let whole = |prefix: &str| {
        let rest = match prefix.split_once("://") {
            Some(("file" | "git+file", path)) => path.strip_prefix('/'),
            Some((_, rest)) => Some(rest).filter(|rest| !rest.starts_with('/')),
            None => prefix.split_once(':').map(|(_, rest)| rest),
        };
        rest.is_some_and(|rest| !rest.is_empty())
    };
    for prefix in raw.flakes.iter().filter(|prefix| !whole(prefix)) {
        let fault = format_args!("{prefix:?} does not say what a reference may begin with");
        faults.add("targets.flakes", fault);
    }
    for prefix in &raw.channels {
        let scheme = ["https://", "file://"]
            .iter()
            .any(|s| prefix.starts_with(s));
        if !scheme || !whole(prefix) {
            let fault = format_args!("{prefix:?} does not begin with https:// and a host");
            faults.add("targets.channels", fault);
        }
    }
    Allowed {
        flakes: raw.flakes,
        channels: raw.channels,
    }
}

fn hooks(faults: &mut Faults, raw: raw::RawHooks) -> Hooks {
    let timeout = faults.duration("hooks.timeout", raw.timeout.as_ref(), 5 * MINUTE, DAY);
    let mut path = |key: &str, path: Option<PathBuf>| {
        if let Some(path) = &path {
            faults.absolute(key, path);
        }
        path
    };
    Hooks {
        pre_update: path("hooks.pre_update", raw.pre_update),
        post_update: path("hooks.post_update", raw.post_update),
        rollback: path("hooks.rollback", raw.rollback),
        backup_check: path("hooks.backup_check", raw.backup_check),
        traffic: path("hooks.traffic", raw.traffic),
        timeout,
    }
}

fn limits(faults: &mut Faults, raw: &raw::RawLimits) -> Limits {
    const MIB: u64 = 1024 * 1024;
    let mut duration = |key: &str, raw: &Option<RawDuration>, default, max| {
        faults.duration(key, raw.as_ref(), default, max)
    };
    let limits = Limits {
        stage_timeout: duration("limits.stage_timeout", &raw.stage_timeout, 2 * HOUR, DAY),
        stage_pause: duration("limits.stage_pause", &raw.stage_pause, MINUTE / 2, HOUR),
        switch_timeout: duration(
            "limits.switch_timeout",
            &raw.switch_timeout,
            30 * MINUTE,
            DAY,
        ),
        reboot_wait: duration("limits.reboot_wait", &raw.reboot_wait, 10 * MINUTE, DAY),
        boot_timeout: duration("limits.boot_timeout", &raw.boot_timeout, 15 * MINUTE, DAY),
        attempt_timeout: raw.attempt_timeout.as_ref().map(|raw| {
            let raw = Some(raw.clone());
            duration("limits.attempt_timeout", &raw, HOUR, DAY)
        }),
        settle: duration("limits.settle", &raw.settle, MINUTE / 2, HOUR),
        memory_max: raw.memory_max,
        tasks_max: raw.tasks_max.unwrap_or(4096),
        switch_tasks_max: raw.switch_tasks_max.unwrap_or(8192),
        hook_tasks_max: raw.hook_tasks_max.unwrap_or(4096),
        store_reserve_bytes: raw.store_reserve_bytes.unwrap_or(1024 * MIB),
        boot_reserve_bytes: raw.boot_reserve_bytes.unwrap_or(16 * MIB),
        memory_reserve_bytes: raw.memory_reserve_bytes.unwrap_or(64 * MIB),
    };
    if limits.memory_max.is_some_and(|bytes| bytes < 64 * MIB) {
        faults.add(
            "limits.memory_max",
            "less than 64 MiB: not even a download fits",
        );
    }
    for (key, tasks, needs) in [
        ("limits.tasks_max", limits.tasks_max, 16),
        ("limits.switch_tasks_max", limits.switch_tasks_max, 256),
        ("limits.hook_tasks_max", limits.hook_tasks_max, 16),
    ] {
        if tasks < needs {
            faults.add(
                key,
                format_args!("fewer than {needs}: its own work needs more"),
            );
        }
    }
    limits
}
