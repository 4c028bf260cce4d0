//! What `lab update verify` found, machine by machine.

use std::collections::{BTreeMap, BTreeSet};

use lab_proto::operator::{Machine, MachineHealth};
use serde::Serialize;

use crate::view::{
    Look, closure, counted,
    machines::{failed_checks, is_healthy, is_waiting},
};

/// What `lab update verify` found.
#[derive(Debug, Serialize)]
pub(super) struct Verification {
    ok: bool,
    pub(super) machines: Vec<Verified>,
}

/// What it found on one machine.
#[derive(Debug, Serialize)]
pub(super) struct Verified {
    name: String,
    group: String,
    ok: bool,
    running: String,
    target: String,
    health: String,
    /// Why not; empty when it is as it should be.
    problems: Vec<String>,
    /// Whether its answer is all that is missing.
    #[serde(skip)]
    open: bool,
}

impl Verification {
    pub(super) fn of(
        machines: Vec<Machine>,
        health: &[MachineHealth],
        arrived: &BTreeSet<String>,
    ) -> Self {
        let health: BTreeMap<&str, &MachineHealth> = health
            .iter()
            .map(|health| (health.machine.as_str(), health))
            .collect();
        let verify = |machine: Machine| {
            let health = health.get(machine.name.as_str()).copied();
            let arrived = machine.running == machine.target || arrived.contains(&machine.name);
            Verified::of(machine, health, arrived)
        };
        let machines: Vec<Verified> = machines.into_iter().map(verify).collect();
        Self {
            ok: machines.iter().all(|machine| machine.ok),
            machines,
        }
    }

    /// What is known of machines whose systems could not be asked for.
    pub(super) fn of_health(health: Vec<MachineHealth>) -> Self {
        let verify = |health: MachineHealth| Verified {
            name: health.machine,
            group: health.group,
            ok: false,
            running: String::new(),
            target: String::new(),
            health: health.state,
            problems: vec!["what it runs is not known".to_owned()],
            open: true,
        };
        Self {
            ok: false,
            machines: health.into_iter().map(verify).collect(),
        }
    }

    pub(super) fn view(&self, look: &Look) -> String {
        let differing = self.machines.iter().filter(|machine| !machine.ok);
        let rows = differing.map(|machine| {
            let runs = closure(&machine.running, &machine.name);
            vec![
                format!("✖ {}", machine.name),
                machine.group.clone(),
                runs,
                machine.problems.join("; "),
            ]
        });
        let mut text = look.columns(0, rows);
        let good = self.machines.iter().filter(|machine| machine.ok).count();
        let mark = if self.ok { '✔' } else { '✖' };
        let all = counted(self.machines.len(), "machine");
        text.push_str(&format!("{mark} {good} of {all} on target and healthy\n"));
        text
    }
}

impl Verified {
    fn of(machine: Machine, health: Option<&MachineHealth>, arrived: bool) -> Self {
        let mut problems = Vec::new();
        if machine.target.is_empty() {
            problems.push("has no target: lab update prepare".to_owned());
        } else if !arrived {
            let target = closure(&machine.target, &machine.name);
            let booting = machine.needs_reboot && machine.profile == machine.target;
            problems.push(if booting {
                format!("target {target} waits for a reboot")
            } else {
                format!("target is {target}")
            });
        }
        let open = problems.is_empty() && health.is_some_and(is_waiting);
        match health {
            Some(health) if is_healthy(health) => {}
            Some(health) => {
                let why = failed_checks(health);
                let separator = if why.is_empty() { "" } else { ": " };
                problems.push(format!("{}{separator}{why}", health.state));
            }
            None => problems.push("was not checked".to_owned()),
        }
        Self {
            ok: problems.is_empty(),
            health: health.map_or_else(String::new, |health| health.state.clone()),
            name: machine.name,
            group: machine.group,
            running: machine.running,
            target: machine.target,
            problems,
            open,
        }
    }

    /// Yes or no, once it is known.
    pub(super) fn answer(&self) -> Option<bool> {
        (!self.open).then_some(self.ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::look;
    use lab_proto::operator::Check;

    #[test]
    fn verify_names_every_difference() {
        let path = |version: char| {
            let hash = version.to_string().repeat(32);
            format!("/nix/store/{hash}-nixos-system-web-26.05.{version}")
        };
        let machine = |name: &str, running: char, target: Option<char>| Machine {
            name: name.into(),
            group: "critical".into(),
            running: path(running),
            profile: path('2'),
            target: target.map(path).unwrap_or_default(),
            needs_reboot: name == "boots",
            ..Machine::default()
        };
        let health = |name: &str, state: &str, checks| MachineHealth {
            machine: name.into(),
            group: "critical".into(),
            state: state.into(),
            checks,
        };
        let failed = Check {
            name: "web".into(),
            detail: "connection refused".into(),
            passed: false,
        };
        let machines = vec![
            machine("good", '2', Some('2')),
            machine("old", '1', Some('2')),
            machine("boots", '1', Some('2')),
            machine("sick", '2', Some('2')),
            machine("away", '2', Some('2')),
            machine("none", '2', None),
            machine("unasked", '2', Some('2')),
            Machine {
                target: "git+https://x?rev=1#flake".into(),
                ..machine("flake", '2', None)
            },
        ];
        let answers = [
            health("good", "healthy", vec![]),
            health("old", "healthy", vec![]),
            health("boots", "healthy", vec![]),
            health("sick", "unhealthy", vec![failed]),
            health("away", "offline", vec![]),
            health("none", "healthy", vec![]),
            health("flake", "healthy", vec![]),
        ];
        let flakes = BTreeSet::from(["flake".to_owned()]);
        let verification = Verification::of(machines, &answers, &flakes);
        assert!(!verification.ok);
        insta::assert_snapshot!("verify", verification.view(&look()));
        let good = Verification::of(vec![machine("good", '2', Some('2'))], &answers, &flakes);
        assert!(good.ok);
        assert_eq!(
            good.view(&look()),
            "✔ 1 of 1 machine on target and healthy\n"
        );
    }
}
