//! What operators are shown: the fleet's views as messages.

use common::{Action, CheckResult, LeaseId, StopMode, Target, Timestamp};
use coordinator_core::{
    analysis::Gate,
    fleet::Stop,
    quarantine::Quarantine,
    rollout::{Approval, PauseReason, Place, Rollout, RolloutState, Wave, WaveState},
    view::{HealthView, MachineView, PlaceView, RolloutView, StatusView, StopView, WhyView},
    wait::{WaitReason, Whom},
};
use lab_proto::operator as wire;
use platform::changes;

use super::{count, path, seconds_until, time, wait};

/// The status of rollouts.
pub fn status(view: StatusView, now: Timestamp) -> wire::Status {
    wire::Status {
        epoch: view.epoch.0,
        stopped: view.stop.is_some(),
        stop: view.stop.map(stop),
        rollouts: view
            .rollouts
            .into_iter()
            .map(|rollout| of_rollout(rollout, now))
            .collect(),
        revision: view.revision,
        away: count(view.away),
        away_allowed: view.away_allowed,
        time: time(now),
    }
}

fn stop(stop: Stop) -> wire::Stop {
    let mode = match stop.mode {
        StopMode::Finish => "finish",
        StopMode::Rollback => "rollback",
    };
    wire::Stop {
        by: stop.by,
        reason: stop.reason,
        at: time(stop.at),
        mode: mode.to_owned(),
        groups: stop.groups.iter().map(ToString::to_string).collect(),
    }
}

/// The word for what a rollout does.
pub(super) fn action_word(action: Action) -> &'static str {
    match action {
        Action::Update => "update",
        Action::Rollback => "rollback",
        Action::Reboot => "reboot",
    }
}

fn of_rollout(view: RolloutView, now: Timestamp) -> wire::Rollout {
    let RolloutView {
        rollout,
        group_waits,
        machines,
        only_late_left,
    } = view;
    let state = match &rollout.state {
        RolloutState::Active => "active",
        RolloutState::Paused(_) => "paused",
        RolloutState::Finished => "finished",
        RolloutState::Failed => "failed",
        RolloutState::Aborted { .. } => "aborted",
    };
    let mut seen = machines.into_iter();
    let waits = group_waits.into_iter().chain(std::iter::repeat(None));
    let groups: Vec<wire::RolloutGroup> = rollout
        .groups
        .iter()
        .zip(waits)
        .map(|(group, wait)| {
            let waves = group.waves.iter();
            let whom = Whom {
                machine: None,
                group: Some(&group.name),
                rollout: Some((&rollout.id, rollout.action)),
            };
            wire::RolloutGroup {
                name: group.name.to_string(),
                state: group_state(&rollout, group).to_owned(),
                waves: waves
                    .map(|wave| wire::Wave {
                        gates: gates(wave, &group.policy.gates),
                        ..of_wave(wave, group.finished_at.is_some(), &mut seen, whom, now)
                    })
                    .collect(),
                max_parallel: group.policy.max_parallel,
                max_failures: group.policy.max_failures,
                failed: group.failed,
                wait_reason: wait.as_ref().map(|wait| wait::reason(wait, whom)),
                windows_missed: group.windows_missed,
                timezone: group.policy.timezone.clone(),
            }
        })
        .collect();
    wire::Rollout {
        id: rollout.id.to_string(),
        kind: action_word(rollout.action).to_owned(),
        state: state.to_owned(),
        created_by: rollout.created_by.clone(),
        created_at: time(rollout.created_at),
        ended_at: rollout.ended_at.map(time),
        pause: pause(&rollout),
        failed: rollout.groups.iter().map(|group| group.failed).sum(),
        max_failures: rollout.max_failures,
        reason: rollout.reason.clone(),
        immediate: rollout.immediate,
        takes_back: rollout.takes_back && !rollout.is_final(),
        undoes: rollout.undoes.clone().map(String::from).unwrap_or_default(),
        groups,
        only_late_left,
    }
}

fn group_state(rollout: &Rollout, group: &coordinator_core::rollout::RolloutGroup) -> &'static str {
    let begun = group
        .waves
        .iter()
        .any(|wave| wave.state != WaveState::Waiting);
    match group.approval {
        _ if group.finished_at.is_some() => "finished",
        Approval::Asked(_) if !rollout.is_final() => "awaiting-approval",
        _ if group.held_since.is_some() && !rollout.is_final() => "held",
        _ if begun => "open",
        Approval::NotNeeded | Approval::Needed | Approval::Asked(_) | Approval::Given { .. } => {
            "waiting"
        }
    }
}

/// Why a rollout is paused or was aborted, and the way out where there is one.
fn pause(rollout: &Rollout) -> Option<wire::PauseReason> {
    match &rollout.state {
        RolloutState::Paused(reason) => Some(wire::PauseReason {
            kind: reason.kind().to_owned(),
            text: reason.to_string(),
            way_out: reason.way_out(&rollout.id),
        }),
        RolloutState::Aborted { by, reason } => {
            let said = PauseReason::Operator {
                by: by.clone(),
                reason: reason.clone(),
            };
            Some(wire::PauseReason {
                kind: said.kind().to_owned(),
                text: said.to_string().replacen("paused", "aborted", 1),
                way_out: String::new(),
            })
        }
        RolloutState::Active | RolloutState::Finished | RolloutState::Failed => None,
    }
}

fn of_wave(
    wave: &Wave,
    group_is_finished: bool,
    seen: &mut impl Iterator<Item = PlaceView>,
    whom: Whom<'_>,
    now: Timestamp,
) -> wire::Wave {
    let (state, soaks_until) = match wave.state {
        // A group ends with its last machine, whatever its last wave was at.
        _ if group_is_finished => ("closed", None),
        WaveState::Waiting => ("waiting", None),
        WaveState::Open(_) => ("open", None),
        WaveState::Soaking(until) => ("soaking", Some(time(until))),
        WaveState::Closed => ("closed", None),
    };
    // Views come in the order of the places, as the core promises.
    let machines = wave.places.iter().zip(seen);
    wire::Wave {
        state: state.to_owned(),
        machines: machines
            .map(|(place, view)| of_place(place, view, whom, now))
            .collect(),
        soaks_until,
        canary: wave.canary,
        gates: Vec::new(),
        side: wave
            .side
            .as_ref()
            .map_or_else(String::new, ToString::to_string),
    }
}

/// The gates of a wave of which everybody was back.
fn gates(wave: &Wave, gates: &[Gate]) -> Vec<wire::Gate> {
    let Some(analysis) = &wave.analysis else {
        return Vec::new();
    };
    let each = gates.iter().zip(&analysis.tallies);
    each.map(|(gate, tally)| {
        let state = match tally.too_many(gate) {
            _ if analysis.accepted || tally.accepted => "accepted",
            Some(_) => "failed",
            None if tally.passed(gate) => "passed",
            None => "measuring",
        };
        let last = tally.last.as_ref();
        wire::Gate {
            name: gate.name.clone(),
            state: state.to_owned(),
            passed: tally.passed,
            needed: gate.passes,
            failed: tally.failed,
            failed_allowed: gate.failure_limit,
            inconclusive: tally.inconclusive,
            inconclusive_allowed: gate.inconclusive_limit,
            errors: tally.errors,
            errors_allowed: gate.error_limit,
            finding: last.map_or_else(String::new, |last| last.finding.word().to_owned()),
            detail: last.map_or_else(String::new, |last| last.detail.clone()),
            measured_at: last.map_or_else(String::new, |last| time(last.at)),
        }
    })
    .collect()
}

fn of_place(
    place: &Place,
    view: PlaceView,
    of_group: Whom<'_>,
    now: Timestamp,
) -> wire::RolloutMachine {
    let whom = Whom {
        machine: Some(&place.machine),
        ..of_group
    };
    wire::RolloutMachine {
        name: view.machine.to_string(),
        state: view.state.to_owned(),
        generation: view.generation,
        running: path(view.running.as_ref()),
        target: place
            .closure
            .as_ref()
            .map_or_else(|| place.target.to_string(), ToString::to_string),
        wait_reason: view.wait.as_ref().map(|wait| wait::reason(wait, whom)),
        lease: view.lease.map(|lease| of_lease(lease, now)),
        reason: place.reason.clone(),
        verdict: place
            .verdict
            .map_or_else(String::new, |verdict| verdict.word().to_owned()),
        step: view.step,
    }
}

fn of_lease((id, until): (LeaseId, Timestamp), now: Timestamp) -> wire::Lease {
    wire::Lease {
        id: id.0,
        expires_in_s: seconds_until(until, now),
    }
}

/// Targets that were put aside.
pub fn targets(aside: Vec<(String, Quarantine)>) -> wire::TargetList {
    let targets = aside
        .into_iter()
        .map(|(target, quarantine)| wire::TargetAside {
            target,
            quarantine: Some(of_quarantine(quarantine)),
        });
    wire::TargetList {
        targets: targets.collect(),
    }
}

fn of_quarantine(quarantine: Quarantine) -> wire::Quarantine {
    wire::Quarantine {
        by: quarantine.by,
        reason: quarantine.reason,
        since: time(quarantine.at),
    }
}

/// One machine.
pub fn machine(view: MachineView, now: Timestamp) -> wire::Machine {
    let report = view.report.as_ref();
    let staged = report.and_then(|report| report.staged.as_ref());
    let staged = staged.filter(|staged| Some(&staged.target) == view.target.as_ref());
    let of_report = |what: fn(&common::MachineReport) -> Option<&common::StorePath>| {
        path(report.and_then(what))
    };
    wire::Machine {
        name: view.name.to_string(),
        group: view
            .group
            .as_ref()
            .map_or_else(String::new, ToString::to_string),
        state: view.state.to_owned(),
        away: view.away,
        running: of_report(|report| report.running.as_ref()),
        booted: of_report(|report| report.booted.as_ref()),
        profile: of_report(|report| report.profile.as_ref()),
        generation: report.map_or(0, |report| report.generation),
        generations: view
            .generations
            .iter()
            .map(|generation| wire::MachineGeneration {
                number: generation.number,
                path: generation.path.to_string(),
            })
            .collect(),
        needs_reboot: staged.is_some_and(|staged| staged.needs_reboot),
        soft_reboot: staged.is_some_and(|staged| staged.soft_reboot),
        changes: staged
            .and_then(|staged| staged.changes.as_ref())
            .map(changes::to_wire),
        target: view
            .target
            .as_ref()
            .map_or_else(String::new, Target::to_string),
        staged: view.staged,
        engaged: view.engaged.map(String::from).unwrap_or_default(),
        boot_id: report.map_or_else(String::new, |report| report.boot_id.to_string()),
        agent_version: report.map_or_else(String::new, |report| report.agent_version.clone()),
        last_seen: view.last_seen.map(time),
        checks: view.checks.into_iter().map(check).collect(),
        epoch: view.epoch.0,
        enrolled: view.enrolled,
        quarantine: view.quarantine.map(of_quarantine),
        alarms: view
            .alarms
            .into_iter()
            .map(|(alarm, since)| wire::Alarm {
                kind: alarm.kind().to_owned(),
                since: time(since),
            })
            .collect(),
        step: view
            .attempt
            .map_or_else(String::new, |attempt| attempt.step),
        lease: view.lease.map(|lease| of_lease(lease, now)),
    }
}

fn check(check: CheckResult) -> wire::Check {
    wire::Check {
        name: check.name,
        passed: check.passed,
        detail: check.detail,
    }
}

/// Why a machine does not go.
pub fn why(view: WhyView) -> wire::WhyReply {
    let wait_reason = view
        .wait
        .as_ref()
        .map(|wait| wait::reason(wait, view.whom()));
    let (rollout, state) = match view.place {
        Some((rollout, state)) => (rollout.to_string(), state.to_owned()),
        None => (String::new(), String::new()),
    };
    wire::WhyReply {
        machine: view.machine.to_string(),
        may_go: view.wait.is_none() && !view.has_turn,
        next: view
            .wait
            .as_ref()
            .and_then(WaitReason::next)
            .map_or_else(String::new, time),
        then: view
            .wait
            .as_ref()
            .and_then(WaitReason::then)
            .unwrap_or_default(),
        wait_reason,
        state,
        rollout,
        step: view.step,
    }
}

/// How a machine is.
pub(crate) fn health(view: HealthView) -> wire::MachineHealth {
    wire::MachineHealth {
        machine: view.machine.to_string(),
        group: view
            .group
            .as_ref()
            .map_or_else(String::new, ToString::to_string),
        state: view.state.to_owned(),
        checks: view.checks.into_iter().map(check).collect(),
    }
}

/// Where a machine stands with the stop.
pub(crate) fn stop_progress(view: StopView) -> wire::StopProgress {
    wire::StopProgress {
        machine: view.machine.to_string(),
        state: view.state.to_owned(),
        step: view.step,
    }
}
