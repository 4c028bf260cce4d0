//! `lab machines`, `lab health-check` and `lab update verify`: what machines run and how they are.

use lab_proto::operator::{Alarm, Check, HealthReply, Machine, MachineHealth, MachineList};

use super::{Look, changes, closure, counted, marked, span};

/// The table of all machines.
pub fn list(list: &MachineList, look: &Look) -> String {
    if list.machines.is_empty() {
        return "no machines; they come with the configuration: lab update-config import\n".into();
    }
    look.columns(0, list.machines.iter().map(|machine| row(machine, look)))
}

fn row(machine: &Machine, look: &Look) -> Vec<String> {
    let seen = machine.last_seen.as_deref();
    let mut remarks = Vec::new();
    if !machine.enrolled {
        remarks.push("not enrolled".to_owned());
    }
    if let Some(quarantine) = &machine.quarantine {
        remarks.push(format!("in quarantine: {}", quarantine.reason));
    }
    for alarm in &machine.alarms {
        remarks.push(format!("{} since {}", said(alarm), look.ago(&alarm.since)));
    }
    if !machine.away.is_empty() {
        remarks.push(format!("away: {}", machine.away));
    }
    if !machine.step.is_empty() {
        remarks.push(machine.step.clone());
    }
    if !machine.target.is_empty() && machine.target != machine.running {
        let staged = match (machine.staged, machine.engaged.as_str()) {
            (true, _) => "staged".to_owned(),
            (false, "") => "not staged".to_owned(),
            (false, rollout) => format!("staged when {rollout} is over"),
        };
        remarks.push(format!(
            "→ {}, {staged}",
            closure(&machine.target, &machine.name)
        ));
    }
    remarks.extend(reboot_pending(machine).map(str::to_owned));
    if machine.state == "offline" {
        remarks.extend(seen.map(|at| format!("seen {}", look.ago(at))));
    }
    vec![
        machine.name.clone(),
        machine.group.clone(),
        marked(&machine.state),
        match machine.generation {
            0 => "-".to_owned(),
            generation => format!("gen {generation}"),
        },
        closure(&machine.running, &machine.name),
        remarks.join("; "),
    ]
}

/// What an alarm says, in words.
fn said(alarm: &Alarm) -> &str {
    match alarm.kind.as_str() {
        "not-updated" => "not updated",
        "not-applied" => "staged, not applied",
        kind => kind,
    }
}

/// Whether the next boot starts something else than what runs.
fn reboot_pending(machine: &Machine) -> Option<&'static str> {
    let differs = !machine.profile.is_empty() && machine.profile != machine.running;
    differs.then_some("the next boot starts another system")
}

/// Everything about one machine.
pub fn show(machine: &Machine, look: &Look) -> String {
    // Paths are for copying: they are never broken.
    let whole = Look {
        width: None,
        ..look.clone()
    };
    let path = |path: &str| if path.is_empty() { "unknown" } else { path }.to_owned();
    let mut rows = vec![
        ("group", machine.group.clone()),
        ("state", marked(&machine.state)),
        ("running", path(&machine.running)),
        ("booted", path(&machine.booted)),
        ("next boot", path(&machine.profile)),
    ];
    if !machine.target.is_empty() {
        let staged = if machine.staged {
            "staged"
        } else {
            "not staged"
        };
        let reboot = match (machine.needs_reboot, machine.soft_reboot) {
            (true, true) => ", needs a reboot, for which a soft-reboot is enough",
            (true, false) => ", needs a reboot",
            (false, _) => "",
        };
        rows.push(("target", format!("{} ({staged}{reboot})", machine.target)));
    }
    if let Some(quarantine) = &machine.quarantine {
        let (since, by) = (look.when(&quarantine.since), &quarantine.by);
        let text = format!("since {since}, by {by}: {}", quarantine.reason);
        rows.push(("quarantine", text));
    }
    for alarm in &machine.alarms {
        rows.push((
            "alarm",
            format!("{} since {}", said(alarm), look.when(&alarm.since)),
        ));
    }
    if !machine.away.is_empty() {
        rows.push(("away", machine.away.clone()));
    }
    if !machine.step.is_empty() {
        rows.push(("step", machine.step.clone()));
    }
    if let Some(lease) = &machine.lease {
        let left = u64::try_from(lease.expires_in_s)
            .map_or("ran out".to_owned(), |left| format!("{} left", span(left)));
        rows.push(("lease", format!("{} ({left})", lease.id)));
    }
    let seen = machine.last_seen.as_deref();
    rows.push((
        "last seen",
        seen.map_or("never".to_owned(), |at| look.when(at)),
    ));
    rows.push((
        "enrolled",
        if machine.enrolled { "yes" } else { "no" }.to_owned(),
    ));
    rows.push(("agent", machine.agent_version.clone()));
    rows.push(("epoch", machine.epoch.to_string()));
    let rows = rows.into_iter().filter(|(_, value)| !value.is_empty());
    let mut text = format!("{}\n", machine.name);
    text.push_str(&whole.columns(2, rows.map(|(name, value)| vec![name.to_owned(), value])));
    if let Some(found) = &machine.changes {
        text.push('\n');
        text.push_str(&changes::show(found, look));
    }
    if !machine.checks.is_empty() {
        text.push_str("\nchecks\n");
        text.push_str(&look.columns(2, machine.checks.iter().map(check_row)));
    }
    if !machine.generations.is_empty() {
        text.push_str("\ngenerations\n");
        let rows = machine.generations.iter().map(|generation| {
            let current = if generation.number == machine.generation {
                "current"
            } else {
                ""
            };
            let system = closure(&generation.path, &machine.name);
            vec![generation.number.to_string(), system, current.to_owned()]
        });
        text.push_str(&look.columns(2, rows));
    }
    text
}

fn check_row(check: &Check) -> Vec<String> {
    let mark = if check.passed { '✔' } else { '✖' };
    vec![format!("{mark} {}", check.name), check.detail.clone()]
}

/// The answers to a health check: one line each, and what failed.
pub fn health(reply: &HealthReply, look: &Look) -> String {
    let healthy = reply
        .machines
        .iter()
        .filter(|machine| is_healthy(machine))
        .count();
    let mut text = look.columns(
        0,
        reply.machines.iter().map(|machine| {
            vec![
                machine.machine.clone(),
                machine.group.clone(),
                marked(&machine.state),
                failed_checks(machine),
            ]
        }),
    );
    text.push_str(&format!(
        "{healthy} of {} healthy\n",
        counted(reply.machines.len(), "machine")
    ));
    text
}

/// Whether a machine answered, and well.
pub fn is_healthy(machine: &MachineHealth) -> bool {
    machine.state == "healthy"
}

/// Whether a machine that was asked has not answered yet.
pub fn is_waiting(machine: &MachineHealth) -> bool {
    machine.state == "waiting"
}

/// The checks that failed, each with what it saw.
pub fn failed_checks(machine: &MachineHealth) -> String {
    let failed = machine.checks.iter().filter(|check| !check.passed);
    let told: Vec<String> = failed
        .map(|check| format!("{}: {}", check.name, check.detail))
        .collect();
    match (told.is_empty(), machine.state.as_str()) {
        (false, _) => told.join("; "),
        (true, "waiting") => "no answer yet".to_owned(),
        (true, "offline" | "never-seen") => "cannot be asked".to_owned(),
        (true, _) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::look;
    use lab_proto::operator::{Lease, MachineGeneration, Quarantine};

    fn path(version: char) -> String {
        let hash = version.to_string().repeat(32);
        format!("/nix/store/{hash}-nixos-system-web-01-26.05.{version}")
    }

    fn web() -> Machine {
        Machine {
            name: "web-01".into(),
            group: "critical".into(),
            state: "healthy".into(),
            away: "leased".into(),
            running: path('1'),
            booted: path('1'),
            profile: path('2'),
            generation: 42,
            generations: vec![
                MachineGeneration {
                    number: 42,
                    path: path('2'),
                },
                MachineGeneration {
                    number: 41,
                    path: path('1'),
                },
            ],
            target: path('2'),
            staged: true,
            needs_reboot: true,
            agent_version: "0.1.0".into(),
            last_seen: Some("2026-11-22T11:59:50Z".into()),
            checks: vec![
                Check {
                    name: "web".into(),
                    passed: true,
                    detail: "200 OK".into(),
                },
                Check {
                    name: "disk".into(),
                    passed: false,
                    detail: "/nix is 97 % full".into(),
                },
            ],
            epoch: 4,
            enrolled: true,
            step: "rebooting".into(),
            lease: Some(Lease {
                id: 17,
                expires_in_s: -3,
            }),
            ..Machine::default()
        }
    }

    #[test]
    fn a_reboot_that_a_soft_one_is_enough_for_is_told_as_such() {
        let machine = |needs_reboot, soft_reboot| Machine {
            target: "/nix/store/t".into(),
            staged: true,
            needs_reboot,
            soft_reboot,
            ..Machine::default()
        };
        let told = |machine: &Machine| {
            let text = show(machine, &look());
            let line = text.lines().find(|line| line.contains("staged"));
            line.unwrap_or_default().trim().to_owned()
        };
        assert!(told(&machine(false, false)).ends_with("(staged)"));
        assert!(told(&machine(true, false)).ends_with("(staged, needs a reboot)"));
        let soft = told(&machine(true, true));
        assert!(soft.ends_with("needs a reboot, for which a soft-reboot is enough)"));
    }

    #[test]
    fn the_table_and_one_machine() {
        let offline = Machine {
            name: "db-primary".into(),
            group: "critical".into(),
            state: "offline".into(),
            last_seen: Some("2026-11-20T12:00:00Z".into()),
            enrolled: true,
            ..Machine::default()
        };
        let never = Machine {
            name: "web-02".into(),
            group: "critical".into(),
            state: "never-seen".into(),
            quarantine: Some(Quarantine {
                by: "ada".into(),
                reason: "its disk is failing".into(),
                since: "2026-11-21T12:00:00Z".into(),
            }),
            alarms: vec![Alarm {
                kind: "not-updated".into(),
                since: "2026-10-01T12:00:00Z".into(),
            }],
            ..Machine::default()
        };
        let machines = vec![web(), offline, never];
        insta::assert_snapshot!("machines", list(&MachineList { machines }, &look()));
        insta::assert_snapshot!("machine", show(&web(), &look()));
    }

    #[test]
    fn health_names_what_failed() {
        let machine = |name: &str, state: &str, checks| MachineHealth {
            machine: name.into(),
            group: "dev".into(),
            state: state.into(),
            checks,
        };
        let checks = web().checks;
        let machines = vec![
            machine("dev-01", "healthy", vec![]),
            machine("dev-02", "unhealthy", checks),
            machine("test-env", "waiting", vec![]),
            machine("dev-03", "offline", vec![]),
        ];
        insta::assert_snapshot!("health", health(&HealthReply { machines }, &look()));
    }
}
