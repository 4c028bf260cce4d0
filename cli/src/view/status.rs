//! `lab update status`: every rollout with its groups, waves and machines.

use lab_proto::operator::{Gate, Rollout, RolloutGroup, RolloutMachine, Status, Stop, WaitReason};

use super::{Look, closure, counted, marked, span, transition};

/// The whole screen.
pub fn status(status: &Status, look: &Look) -> String {
    let mut text = format!(
        "epoch {}   configuration {}   {} of {} away\n",
        status.epoch,
        match status.revision {
            0 => "none yet".to_owned(),
            revision => format!("revision {revision}"),
        },
        status.away,
        status.away_allowed,
    );
    if let Some(stop) = &status.stop {
        text.push_str(&stopped(stop, look));
    } else if status.stopped {
        text.push_str("✖ stopped   lift it: lab resume --reason=…\n");
    }
    if status.rollouts.is_empty() {
        let next = match status.revision {
            0 => "lab update-config import update-config.nix",
            _ => "lab update prepare, then lab update execute",
        };
        text.push_str(&format!("\nno rollouts yet; begin with: {next}\n"));
    }
    for rollout in &status.rollouts {
        text.push('\n');
        text.push_str(&one_rollout(rollout, look));
    }
    text
}

fn stopped(stop: &Stop, look: &Look) -> String {
    let whom = match stop.groups.as_slice() {
        [] => "the whole fleet".to_owned(),
        groups => groups.join(", "),
    };
    let past = match stop.mode.as_str() {
        "rollback" => "machines past the point of no return go back",
        _ => "machines past the point of no return finish",
    };
    format!(
        "✖ stopped: {whom}, by {} ({})\n  reason: {}\n  {past}; lift it: lab resume --reason=…\n",
        stop.by,
        look.when(&stop.at),
        stop.reason,
    )
}

/// One rollout.
pub fn one_rollout(rollout: &Rollout, look: &Look) -> String {
    let ended = rollout
        .ended_at
        .as_deref()
        .map_or_else(String::new, |at| format!(", ended {}", look.ago(at)));
    let mut text = format!(
        "{} {}   {}   by {} {}{ended}\n",
        rollout.kind,
        rollout.id,
        marked(&rollout.state),
        rollout.created_by,
        look.ago(&rollout.created_at),
    );
    if rollout.immediate && rollout.kind == "update" {
        let text_of = format!(
            "⚠ an emergency, past windows, soak and stagger: {}",
            rollout.reason
        );
        text.push_str(&look.columns(2, [vec![text_of]]));
    }
    if !rollout.undoes.is_empty() {
        let why = match rollout.reason.as_str() {
            "" => String::new(),
            reason => format!(": {reason}"),
        };
        let line = format!("takes back {}{why}", rollout.undoes);
        text.push_str(&look.columns(2, [vec![line]]));
    }
    if let Some(pause) = &rollout.pause {
        text.push_str(&look.columns(2, [vec![format!("⚠ {}: {}", pause.kind, pause.text)]]));
        if !pause.way_out.is_empty() {
            text.push_str(&look.columns(4, [vec![format!("way out: {}", pause.way_out)]]));
        }
    }
    if rollout.only_late_left {
        text.push_str("  only machines that are offline are left; they catch up by themselves\n");
    }
    for group in &rollout.groups {
        text.push_str(&one_group(group, look));
    }
    text
}

fn one_group(group: &RolloutGroup, look: &Look) -> String {
    let machines = || group.waves.iter().flat_map(|wave| &wave.machines);
    let updated = machines()
        .filter(|machine| machine.state == "updated")
        .count();
    let budget = match group.failed {
        0 => String::new(),
        failed => format!(", {failed} failed ({} allowed)", group.max_failures),
    };
    let missed = match group.windows_missed {
        0 => String::new(),
        missed => {
            let windows = counted(usize::try_from(missed).unwrap_or(usize::MAX), "window");
            format!(", {windows} missed")
        }
    };
    let mut text = format!(
        "  {}   {}   {updated} of {} updated, {} at once{budget}{missed}\n",
        group.name,
        marked(&group.state),
        counted(machines().count(), "machine"),
        group.max_parallel,
    );
    // That the rollout is paused is said above.
    let waits_for = group
        .wait_reason
        .as_ref()
        .filter(|reason| reason.kind != "paused");
    if let Some(reason) = waits_for {
        let text_and_here = format!("{}{}", reason.text, here(reason, look));
        text.push_str(&look.columns(4, [vec![waits(&text_and_here, &reason.hint)]]));
    }
    let many = group.waves.len() > 1;
    for (number, wave) in group.waves.iter().enumerate() {
        if many {
            let canary = if wave.canary { " (canary)" } else { "" };
            let side = match wave.side.as_str() {
                "" => String::new(),
                side => format!(" (side {side})"),
            };
            let soak = wave
                .soaks_until
                .as_deref()
                .map_or_else(String::new, |until| {
                    let until = look.when_there(until, &group.timezone);
                    format!("   soaks until {until}")
                });
            let line = format!(
                "wave {}{canary}{side}   {}{soak}",
                number + 1,
                marked(&wave.state)
            );
            let until = wave.soaks_until.as_deref().unwrap_or_default();
            // With one time only, a second or two over the width reads better than on a line of their own.
            text.push_str(&match look.is_other_there(until, &group.timezone) {
                true => look.columns(4, [vec![line]]),
                false => format!("    {line}\n"),
            });
        }
        let gates = wave.gates.iter().map(gate_row);
        text.push_str(&look.columns(if many { 6 } else { 4 }, gates));
        text.push_str(
            &look.columns(
                if many { 6 } else { 4 },
                wave.machines
                    .iter()
                    .map(|machine| machine_row(machine, group.wait_reason.as_ref())),
            ),
        );
    }
    text
}

/// Name, state, counts, and what was seen last of a gate that has not passed.
fn gate_row(gate: &Gate) -> Vec<String> {
    let mut counts = format!("{} of {} passed", gate.passed, gate.needed);
    for (count, allowed, what) in [
        (gate.failed, gate.failed_allowed, "failed"),
        (gate.inconclusive, gate.inconclusive_allowed, "inconclusive"),
        (gate.errors, gate.errors_allowed, "errors"),
    ] {
        if count > 0 {
            counts.push_str(&format!(", {count} {what} ({allowed} allowed)"));
        }
    }
    let newest = match gate.state.as_str() {
        "passed" => String::new(),
        _ => gate.detail.clone(),
    };
    let name = format!("gate {}", gate.name);
    vec![name, marked(&gate.state), counts, newest]
}

/// Name, state, what it runs, remarks; why it waits unless its whole group does for the same.
fn machine_row(machine: &RolloutMachine, group_waits: Option<&WaitReason>) -> Vec<String> {
    let systems = if machine.running == machine.target || machine.target.is_empty() {
        closure(&machine.running, &machine.name)
    } else {
        transition(&machine.running, &machine.target, &machine.name)
    };
    vec![
        machine.name.clone(),
        marked(&machine.state),
        match machine.generation {
            0 => "-".to_owned(),
            generation => format!("gen {generation}"),
        },
        systems,
        remark(machine, group_waits),
    ]
}

fn remark(machine: &RolloutMachine, group_waits: Option<&WaitReason>) -> String {
    let mut remarks = Vec::new();
    if !machine.step.is_empty() {
        remarks.push(machine.step.clone());
    }
    if let Some(lease) = &machine.lease {
        remarks.push(match u64::try_from(lease.expires_in_s) {
            Ok(left) => format!("lease {}, {} left", lease.id, span(left)),
            Err(_) => format!("lease {} ran out", lease.id),
        });
    }
    if !machine.reason.is_empty() {
        remarks.push(machine.reason.clone());
    }
    let of_its_own =
        |reason: &&WaitReason| group_waits.is_none_or(|group| group.kind != reason.kind);
    if let Some(reason) = machine.wait_reason.as_ref().filter(of_its_own) {
        remarks.push(reason.text.clone());
    }
    remarks.join("; ")
}

/// The reader's own time, where the sentence has that of a group's zone.
fn here(reason: &WaitReason, look: &Look) -> String {
    let told = match reason.kind.as_str() {
        "window-closed" | "window-too-short" | "frozen" => {
            !reason.timezone.is_empty() && !reason.until.is_empty()
        }
        "soaking" | "stagger" | "traffic-moving" => {
            look.is_other_there(&reason.until, &reason.timezone)
        }
        // The sentence has no time.
        _ => false,
    };
    if !told {
        return String::new();
    }
    format!("; here {}", look.when(&reason.until))
}

fn waits(text: &str, hint: &str) -> String {
    if hint.is_empty() {
        format!("waits: {text}")
    } else {
        format!("waits: {text} (try: {hint})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::look;
    use lab_proto::operator::{Lease, PauseReason, Wave};

    fn path(machine: &str, version: &str) -> String {
        let hash = "0c5y5y5y5y5y5y5y5y5y5y5y5y5y5y5y".replace('5', &version[version.len() - 1..]);
        format!("/nix/store/{hash}-nixos-system-{machine}-{version}")
    }

    fn machine(name: &str, state: &str) -> RolloutMachine {
        let running = if state == "updated" {
            "26.05.2"
        } else {
            "26.05.1"
        };
        RolloutMachine {
            name: name.into(),
            state: state.into(),
            generation: 41,
            running: path(name, running),
            target: path(name, "26.05.2"),
            ..RolloutMachine::default()
        }
    }

    /// A rollout in the middle: one group done, one with a canary and a failure, one waiting.
    pub(crate) fn example() -> Status {
        let leased = RolloutMachine {
            step: "activating".into(),
            lease: Some(Lease {
                id: 17,
                expires_in_s: 251,
            }),
            ..machine("log-server", "leased")
        };
        let back = RolloutMachine {
            reason: "health check \"web\" failed: connection refused".into(),
            verdict: "rolled-back".into(),
            ..machine("monitor-01", "rolled-back")
        };
        let waiting = RolloutMachine {
            wait_reason: Some(WaitReason {
                kind: "group-limit".into(),
                text: "1 of 1 machines of infrastructure are away: log-server".into(),
                ..WaitReason::default()
            }),
            ..machine("backup-01", "ready")
        };
        let group = |name: &str, state: &str, waves| RolloutGroup {
            name: name.into(),
            state: state.into(),
            waves,
            max_parallel: 1,
            max_failures: 1,
            ..RolloutGroup::default()
        };
        let wave = |state: &str, machines| Wave {
            state: state.into(),
            machines,
            ..Wave::default()
        };
        let done = ["dev-01", "dev-02", "test-env"].map(|name| machine(name, "updated"));
        let infrastructure = RolloutGroup {
            failed: 1,
            ..group(
                "infrastructure",
                "open",
                vec![
                    Wave {
                        canary: true,
                        ..wave("closed", vec![back])
                    },
                    wave("open", vec![leased, waiting]),
                ],
            )
        };
        let critical = RolloutGroup {
            wait_reason: Some(WaitReason {
                kind: "dependency".into(),
                text: "infrastructure is not finished".into(),
                group: "infrastructure".into(),
                hint: "lab update status --group=infrastructure".into(),
                ..WaitReason::default()
            }),
            ..group(
                "critical",
                "waiting",
                vec![wave("waiting", vec![machine("db-primary", "pending")])],
            )
        };
        Status {
            epoch: 4,
            revision: 7,
            away: 1,
            away_allowed: 3,
            time: "2026-11-22T12:00:00Z".into(),
            rollouts: vec![Rollout {
                id: "r-0012".into(),
                kind: "update".into(),
                state: "active".into(),
                created_by: "geir".into(),
                created_at: "2026-11-22T11:20:00Z".into(),
                groups: vec![
                    group("dev", "finished", vec![wave("closed", done.into())]),
                    infrastructure,
                    critical,
                ],
                failed: 1,
                ..Rollout::default()
            }],
            ..Status::default()
        }
    }

    #[test]
    fn a_rollout_in_the_middle() {
        insta::assert_snapshot!("status", status(&example(), &look()));
    }

    #[test]
    fn a_fleet_that_is_stopped_with_a_paused_rollout() {
        let mut stopped = example();
        stopped.stopped = true;
        stopped.stop = Some(Stop {
            by: "geir".into(),
            reason: "bad release".into(),
            at: "2026-11-22T11:58:00Z".into(),
            mode: "rollback".into(),
            groups: vec!["critical".into()],
        });
        stopped.rollouts[0].state = "paused".into();
        stopped.rollouts[0].pause = Some(PauseReason {
            kind: "budget-spent".into(),
            text: "1 machine of infrastructure failed, 0 are allowed".into(),
            way_out: "lab update resume r-0012, or lab update abort r-0012".into(),
        });
        stopped.rollouts[0].groups.truncate(1);
        insta::assert_snapshot!("status_stopped", status(&stopped, &look()));
    }

    #[test]
    fn an_empty_fleet_says_how_to_begin() {
        let empty = status(&Status::default(), &look());
        assert!(empty.contains("lab update-config import"), "{empty}");
    }

    #[test]
    fn json_has_the_promised_shape() {
        let json = serde_json::to_value(example()).expect("JSON");
        assert_eq!(json["epoch"], 4);
        assert_eq!(json["stopped"], false);
        let rollout = &json["rollouts"][0];
        for key in ["id", "kind", "state", "created_by"] {
            assert!(rollout[key].is_string(), "{key}");
        }
        let wave = &rollout["groups"][1]["waves"][1];
        assert_eq!(wave["state"], "open");
        let machine = &wave["machines"][0];
        assert_eq!(machine["lease"]["id"], 17);
        assert_eq!(machine["lease"]["expires_in_s"], 251);
        assert_eq!(machine["generation"], 41);
        for key in ["name", "state", "running", "target"] {
            assert!(machine[key].is_string(), "{key}");
        }
        let reason = &wave["machines"][1]["wait_reason"];
        assert_eq!(reason["kind"], "group-limit");
        assert!(reason.get("until").is_none(), "absent numbers are left out");
    }

    #[test]
    fn the_readers_clocks_are_told_as_well_where_a_groups_show_something_else() {
        let said = |kind: &str, timezone: &str| {
            let reason = WaitReason {
                kind: kind.into(),
                until: "2026-11-22T15:30:00Z".into(),
                timezone: timezone.into(),
                ..WaitReason::default()
            };
            here(&reason, &look())
        };
        let told = "; here Sun 22 Nov 16:30, in 3 h 30 min";
        for kind in ["soaking", "stagger", "traffic-moving", "window-closed"] {
            assert_eq!(said(kind, "Asia/Tokyo"), told, "{kind}");
            assert_eq!(said(kind, ""), "", "{kind} of an older coordinator");
        }
        assert_eq!(said("soaking", "Europe/Berlin"), "", "the same clocks");
        assert_eq!(said("approval", "Asia/Tokyo"), "", "no time is named");
    }
}
