//! Between the wire's words and the core's. The only file besides the client that names a message
//! of the wire. What makes no sense stops here.

mod traffic;

use std::time::Duration;

use agent_core::{Directive, Proceed, Renewal, Signal, StandDown, state::Unreported};
use common::{
    Action, AttemptStatus, CleanUp, CleanedUp, Declined, DeclinedKind, Epoch, Health, HealthState,
    LeaseId, MachineReport, OutcomeKind, RolloutId, Staged, StopMode, Target, text,
};
use lab_proto::agent as wire;
use platform::changes;
use prost::Message as _;

use self::traffic::{traffic_call, traffic_done};
use crate::link::LinkError;

/// Largest message the coordinator takes, less some room for its framing.
const MESSAGE_MAX: usize = 60 * 1024;

/// How long an agent waits that does not understand what it is told.
const UNKNOWN_PAUSE: Duration = Duration::from_secs(60);

/// A poll.
pub(crate) fn poll_request(hold: Duration, report: &MachineReport) -> wire::PollRequest {
    let mut request = wire::PollRequest {
        report: Some(machine_report(report)),
        hold_ms: millis(hold),
    };
    if request.encoded_len() > MESSAGE_MAX {
        shorten_details(request.report.as_mut());
    }
    request
}

/// A renewal.
pub(crate) fn renew_request(
    lease: LeaseId,
    epoch: Epoch,
    status: &AttemptStatus,
    silence: Duration,
) -> wire::RenewRequest {
    wire::RenewRequest {
        lease: lease.0,
        epoch: epoch.0,
        attempt: Some(attempt(status)),
        silence_ms: millis(silence),
    }
}

/// A result. The outputs of its steps give way until it fits: the newest keep most.
pub(crate) fn report_request(result: &Unreported, report: &MachineReport) -> wire::ReportRequest {
    let step = |record: &agent_core::state::Record| wire::StepRecord {
        step: record.step.clone(),
        took_ms: record.took_ms,
        output: record.output.clone(),
    };
    let mut request = wire::ReportRequest {
        rollout: result.rollout.to_string(),
        lease: result.lease.0,
        outcome: outcome(result.outcome.kind).into(),
        reason: result.outcome.reason.clone(),
        report: Some(machine_report(report)),
        steps: result.records.iter().map(step).collect(),
    };
    for index in 0..request.steps.len() {
        if request.encoded_len() <= MESSAGE_MAX {
            return request;
        }
        request.steps[index].output = text::tame(&request.steps[index].output, 256);
    }
    if request.encoded_len() > MESSAGE_MAX {
        shorten_details(request.report.as_mut());
    }
    request
}

/// Leaves of the health checks what says which of them failed.
fn shorten_details(report: Option<&mut wire::MachineReport>) {
    let Some(health) = report.and_then(|report| report.health.as_mut()) else {
        return;
    };
    health.checks.sort_by_key(|check| check.passed);
    health.checks.truncate(200);
    for check in &mut health.checks {
        check.detail = text::tame_line(&check.detail, 100);
    }
}

fn machine_report(report: &MachineReport) -> wire::MachineReport {
    let path = |path: &Option<common::StorePath>| {
        path.as_ref().map_or_else(String::new, ToString::to_string)
    };
    wire::MachineReport {
        agent_version: report.agent_version.clone(),
        boot_id: report.boot_id.to_string(),
        sequence: report.sequence,
        running: path(&report.running),
        booted: path(&report.booted),
        profile: path(&report.profile),
        generation: report.generation,
        generations: report
            .generations
            .iter()
            .map(|generation| wire::Generation {
                number: generation.number,
                path: generation.path.to_string(),
            })
            .collect(),
        health: Some(health(&report.health, report.health_request)),
        epoch: report.epoch.0,
        staged: report.staged.as_ref().map(staged),
        attempt: report.attempt.as_ref().map(attempt),
        store_free_bytes: report.store_free_bytes,
        last_lease: report.last_lease.0,
        declined: report.declined.as_ref().map(declined),
        cleaned_up: report.cleaned_up.as_ref().map(cleaned_up),
        traffic: report.traffic.as_ref().map(traffic_done),
    }
}

fn cleaned_up(done: &CleanedUp) -> wire::CleanedUp {
    wire::CleanedUp {
        request: done.request,
        removed: done.removed,
        freed_bytes: done.freed_bytes,
        failure: done.failure.clone().unwrap_or_default(),
    }
}

fn declined(declined: &Declined) -> wire::Declined {
    let kind = match declined.kind {
        DeclinedKind::StagingFailed => wire::DeclinedKind::StagingFailed,
        DeclinedKind::BadTarget => wire::DeclinedKind::BadTarget,
        DeclinedKind::NotAllowed => wire::DeclinedKind::NotAllowed,
    };
    wire::Declined {
        target: Some(target_to_wire(&declined.target)),
        wish: declined.wish,
        kind: kind.into(),
        reason: declined.reason.clone(),
    }
}

fn health(health: &Health, request: u64) -> wire::Health {
    let state = match health.state {
        HealthState::Unknown => wire::HealthState::Unspecified,
        HealthState::Healthy => wire::HealthState::Healthy,
        HealthState::Unhealthy => wire::HealthState::Unhealthy,
    };
    wire::Health {
        state: state.into(),
        checks: health
            .checks
            .iter()
            .map(|check| wire::CheckResult {
                name: check.name.clone(),
                passed: check.passed,
                detail: check.detail.clone(),
            })
            .collect(),
        request,
    }
}

fn staged(staged: &Staged) -> wire::Staged {
    wire::Staged {
        target: Some(target_to_wire(&staged.target)),
        path: staged.path.to_string(),
        needs_reboot: staged.needs_reboot,
        reboot_reasons: staged.reboot_reasons.clone(),
        changes: staged.changes.as_ref().map(changes::to_wire),
        soft_reboot: staged.soft_reboot,
    }
}

fn attempt(status: &AttemptStatus) -> wire::Attempt {
    wire::Attempt {
        rollout: status
            .rollout
            .as_ref()
            .map_or_else(String::new, ToString::to_string),
        lease: status.lease.0,
        step: status.step.clone(),
        past_no_return: status.past_no_return,
    }
}

fn target_to_wire(target: &Target) -> wire::Target {
    let kind = match target {
        Target::Closure(path) => wire::target::Kind::Closure(path.to_string()),
        Target::Flake {
            reference,
            attribute,
        } => wire::target::Kind::Flake(wire::FlakeTarget {
            reference: reference.clone(),
            attribute: attribute.clone(),
        }),
        Target::Channel { url } => {
            wire::target::Kind::Channel(wire::ChannelTarget { url: url.clone() })
        }
    };
    wire::Target { kind: Some(kind) }
}

fn outcome(kind: OutcomeKind) -> wire::OutcomeKind {
    match kind {
        OutcomeKind::Confirmed => wire::OutcomeKind::Confirmed,
        OutcomeKind::RolledBack => wire::OutcomeKind::RolledBack,
        OutcomeKind::Stuck => wire::OutcomeKind::Stuck,
        OutcomeKind::RebootRequired => wire::OutcomeKind::RebootRequired,
        OutcomeKind::Refused => wire::OutcomeKind::Refused,
        OutcomeKind::Abandoned => wire::OutcomeKind::Abandoned,
    }
}

/// The answer to a poll. What this agent does not know yet is a reason to wait.
pub(crate) fn directive(answer: wire::Directive) -> Result<(Epoch, Directive), LinkError> {
    use wire::directive::Action as Said;
    let directive = match answer.action {
        None => unknown(),
        Some(Said::Wait(wait)) => Directive::Wait {
            kind: text::tame_line(&wait.kind, text::DETAIL_MAX),
            text: text::tame_line(&wait.text, text::REASON_MAX),
            ask_again: duration(wait.ask_again_ms),
        },
        Some(Said::Stage(stage)) => Directive::Stage {
            rollout: match stage.rollout.as_str() {
                "" => None,
                name => Some(rollout(name)?),
            },
            // A coordinator that is older than the field stages updates.
            action: action(stage.action()).unwrap_or(Action::Update),
            target: target(stage.target)?.ok_or_else(|| senseless("nothing to stage"))?,
            force: stage.force,
            wish: stage.wish,
        },
        Some(Said::Proceed(order)) => Directive::Proceed(proceed(order)?),
        Some(Said::Check(check)) => Directive::Check {
            request: check.request,
            timeout: duration(check.timeout_ms),
        },
        Some(Said::CleanUp(asked)) => Directive::CleanUp {
            request: asked.request,
            cleanup: CleanUp {
                generations: asked.generations,
                younger_s: asked.younger_than_s,
                collect: asked.collect_garbage,
            },
        },
        Some(Said::MoveTraffic(asked)) => match traffic_call(asked)? {
            Some(call) => Directive::MoveTraffic(call),
            None => unknown(),
        },
        Some(Said::StandDown(stop)) => Directive::StandDown(stand_down(&stop)),
    };
    Ok((Epoch(answer.epoch), directive))
}

fn unknown() -> Directive {
    Directive::Wait {
        kind: "unknown-directive".to_owned(),
        text: "the coordinator says something that this agent does not know".to_owned(),
        ask_again: UNKNOWN_PAUSE,
    }
}

fn action(said: wire::Action) -> Option<Action> {
    match said {
        wire::Action::Update => Some(Action::Update),
        wire::Action::Rollback => Some(Action::Rollback),
        wire::Action::Reboot => Some(Action::Reboot),
        wire::Action::Unspecified => None,
    }
}

fn proceed(order: wire::Proceed) -> Result<Proceed, LinkError> {
    let action =
        action(order.action()).ok_or_else(|| senseless("a lease for an unknown action"))?;
    let target = target(order.target)?;
    if target.is_none() && action != Action::Reboot {
        return Err(senseless("a lease without a target"));
    }
    Ok(Proceed {
        rollout: rollout(&order.rollout)?,
        lease: LeaseId(order.lease),
        epoch: Epoch(order.epoch),
        valid_for: duration(order.valid_for_ms),
        action,
        target,
        allow_reboot: order.allow_reboot,
        allow_soft_reboot: order.allow_soft_reboot,
        rollback_on_failure: order.rollback_on_failure,
        health_timeout: duration(order.health_timeout_ms),
        force: order.force,
    })
}

/// The answer to a renewal.
pub(crate) fn renewal(answer: wire::RenewReply) -> Result<(Epoch, Renewal), LinkError> {
    use wire::renew_reply::Answer as Said;
    let renewal = match answer.answer {
        None => return Err(senseless("a renewal without an answer")),
        Some(Said::ValidForMs(ms)) => Renewal::Valid {
            valid_for: duration(ms),
        },
        Some(Said::StandDown(stop)) => Renewal::StandDown(stand_down(&stop)),
        Some(Said::NotHeld(reason)) => Renewal::NotHeld {
            reason: text::tame_line(&reason, text::REASON_MAX),
        },
    };
    Ok((Epoch(answer.epoch), renewal))
}

/// Something pushed. What this agent does not know yet still carries the epoch.
pub(crate) fn signal(signal: &wire::Signal) -> (Epoch, Signal) {
    use wire::signal::Event as Said;
    let event = match &signal.event {
        None => Signal::Epoch,
        Some(Said::Wake(wire::Wake {})) => Signal::Wake,
        Some(Said::StandDown(stop)) => Signal::StandDown(stand_down(stop)),
    };
    (Epoch(signal.epoch), event)
}

fn stand_down(stop: &wire::StandDown) -> StandDown {
    let mode = match stop.mode() {
        // A mode that is not known: what changes the machine least.
        wire::StopMode::Unspecified | wire::StopMode::Finish => StopMode::Finish,
        wire::StopMode::Rollback => StopMode::Rollback,
    };
    StandDown {
        epoch: Epoch(stop.epoch),
        mode,
        reason: text::tame_line(&stop.reason, text::REASON_MAX),
    }
}

fn target(target: Option<wire::Target>) -> Result<Option<Target>, LinkError> {
    let Some(kind) = target.and_then(|target| target.kind) else {
        return Ok(None);
    };
    Ok(Some(match kind {
        wire::target::Kind::Closure(path) => Target::Closure(
            path.parse()
                .map_err(|error| senseless(&format!("{error}")))?,
        ),
        wire::target::Kind::Flake(flake) => Target::Flake {
            reference: flake.reference,
            attribute: flake.attribute,
        },
        wire::target::Kind::Channel(channel) => Target::Channel { url: channel.url },
    }))
}

fn rollout(name: &str) -> Result<RolloutId, LinkError> {
    name.parse()
        .map_err(|error| senseless(&format!("the rollout: {error}")))
}

fn senseless(what: &str) -> LinkError {
    LinkError::Senseless(text::tame_line(what, text::DETAIL_MAX))
}

fn duration(ms: u32) -> Duration {
    Duration::from_millis(u64::from(ms))
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
