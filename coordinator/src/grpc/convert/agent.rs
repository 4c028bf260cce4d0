//! Agents' messages.

use std::time::Duration;

use common::{
    Action, AttemptStatus, CheckResult, CleanedUp, Declined, DeclinedKind, Epoch, Generation, Gets,
    Health, HealthState, LeaseId, MachineReport, Outcome, OutcomeKind, Staged, StopMode, StorePath,
    Target, Timestamp, TrafficCall, TrafficDone, TrafficOrder,
    report::GENERATIONS_MAX,
    text::{DETAIL_MAX, REASON_MAX, tame_line},
};
use coordinator_core::{
    WaitReason,
    request::{AgentRequest, Directive, Grant, Renewal, StandDown},
};
use lab_proto::agent as wire;

use super::{Malformed, changes, millis, name, optional};
use crate::driver::{Event, Signal};

/// Most checks of one report.
const CHECKS_MAX: usize = 64;

/// Longest single word (a step, a version), in bytes.
pub(super) const WORD_MAX: usize = 64;

/// Pause before the next poll when a poll was not held.
const PAUSE: Duration = Duration::from_secs(10);

/// A machine's report.
pub(crate) fn report(report: Option<wire::MachineReport>) -> Result<Box<MachineReport>, Malformed> {
    let report = report.ok_or_else(|| Malformed::new("report", "is missing"))?;
    let generations = report.generations.iter().take(GENERATIONS_MAX);
    let generations = generations.map(|generation| {
        Ok(Generation {
            number: generation.number,
            path: name("report.generations", &generation.path)?,
        })
    });
    let health = report.health.unwrap_or_default();
    Ok(Box::new(MachineReport {
        agent_version: tame_line(&report.agent_version, WORD_MAX),
        boot_id: name("report.boot_id", &report.boot_id)?,
        sequence: report.sequence,
        running: optional("report.running", &report.running)?,
        booted: optional("report.booted", &report.booted)?,
        profile: optional("report.profile", &report.profile)?,
        generation: report.generation,
        generations: generations.collect::<Result<_, Malformed>>()?,
        health_request: health.request,
        health: health_of(health),
        epoch: Epoch(report.epoch),
        staged: report.staged.map(staged).transpose()?,
        attempt: report.attempt.map(attempt).transpose()?,
        store_free_bytes: report.store_free_bytes,
        last_lease: LeaseId(report.last_lease),
        declined: report.declined.map(declined).transpose()?.flatten(),
        cleaned_up: report.cleaned_up.map(cleaned_up),
        traffic: report.traffic.map(traffic_done).transpose()?,
    }))
}

/// What came of an order; of none, when this coordinator does not know what it was about.
fn traffic_done(done: wire::TrafficDone) -> Result<TrafficDone, Malformed> {
    let order = done.order.map(|order| {
        let gets = match order.gets() {
            wire::TrafficGets::Unspecified => return Ok(None),
            wire::TrafficGets::Traffic => Gets::Traffic,
            wire::TrafficGets::Nothing => Gets::Nothing,
        };
        Ok(Some(TrafficOrder {
            epoch: Epoch(order.epoch),
            group: name("report.traffic.order.group", &order.group)?,
            number: order.number,
            attempt: order.attempt,
            gets,
        }))
    });
    let failure = tame_line(&done.failure, REASON_MAX);
    Ok(TrafficDone {
        order: order.transpose()?.flatten(),
        failure: (!failure.is_empty()).then_some(failure),
    })
}

fn cleaned_up(done: wire::CleanedUp) -> CleanedUp {
    let failure = tame_line(&done.failure, REASON_MAX);
    CleanedUp {
        request: done.request,
        removed: done.removed,
        freed_bytes: done.freed_bytes,
        failure: (!failure.is_empty()).then_some(failure),
    }
}

/// What is not staged; nothing when this coordinator does not know the kind.
fn declined(declined: wire::Declined) -> Result<Option<Declined>, Malformed> {
    let kind = match declined.kind() {
        wire::DeclinedKind::Unspecified => return Ok(None),
        wire::DeclinedKind::StagingFailed => DeclinedKind::StagingFailed,
        wire::DeclinedKind::BadTarget => DeclinedKind::BadTarget,
        wire::DeclinedKind::NotAllowed => DeclinedKind::NotAllowed,
    };
    let target = declined.target.and_then(|target| target.kind);
    let target = target.ok_or_else(|| Malformed::new("report.declined.target", "is missing"))?;
    Ok(Some(Declined {
        target: target_of("report.declined.target", target)?,
        wish: declined.wish,
        kind,
        reason: tame_line(&declined.reason, REASON_MAX),
    }))
}

fn health_of(health: wire::Health) -> Health {
    let state = match health.state() {
        wire::HealthState::Unspecified => HealthState::Unknown,
        wire::HealthState::Healthy => HealthState::Healthy,
        wire::HealthState::Unhealthy => HealthState::Unhealthy,
    };
    let checks = health.checks.into_iter().take(CHECKS_MAX);
    Health {
        state,
        checks: checks
            .map(|check| CheckResult {
                name: tame_line(&check.name, WORD_MAX),
                passed: check.passed,
                detail: tame_line(&check.detail, DETAIL_MAX),
            })
            .collect(),
    }
}

fn staged(staged: wire::Staged) -> Result<Staged, Malformed> {
    let target = staged.target.and_then(|target| target.kind);
    let target = target.ok_or_else(|| Malformed::new("report.staged.target", "is missing"))?;
    let reasons = staged.reboot_reasons.iter().take(CHECKS_MAX);
    Ok(Staged {
        target: target_of("report.staged.target", target)?,
        path: name("report.staged.path", &staged.path)?,
        needs_reboot: staged.needs_reboot,
        reboot_reasons: reasons.map(|reason| tame_line(reason, WORD_MAX)).collect(),
        soft_reboot: staged.needs_reboot && staged.soft_reboot,
        changes: staged.changes.and_then(changes::heard),
    })
}

fn target_of(field: &'static str, target: wire::target::Kind) -> Result<Target, Malformed> {
    let text = |text: &str| tame_line(text, REASON_MAX);
    Ok(match target {
        wire::target::Kind::Closure(path) => Target::Closure(name::<StorePath>(field, &path)?),
        wire::target::Kind::Flake(flake) => Target::Flake {
            reference: text(&flake.reference),
            attribute: text(&flake.attribute),
        },
        wire::target::Kind::Channel(channel) => Target::Channel {
            url: text(&channel.url),
        },
    })
}

fn attempt(attempt: wire::Attempt) -> Result<AttemptStatus, Malformed> {
    Ok(AttemptStatus {
        rollout: optional("attempt.rollout", &attempt.rollout)?,
        lease: LeaseId(attempt.lease),
        step: tame_line(&attempt.step, WORD_MAX),
        past_no_return: attempt.past_no_return,
    })
}

/// A heartbeat.
pub(crate) fn renewal_request(message: wire::RenewRequest) -> Result<AgentRequest, Malformed> {
    Ok(AgentRequest::Renew {
        lease: LeaseId(message.lease),
        epoch: Epoch(message.epoch),
        attempt: message.attempt.map(attempt).transpose()?,
        silence: Duration::from_millis(u64::from(message.silence_ms)),
    })
}

/// The result of an attempt.
pub(crate) fn result(message: wire::ReportRequest) -> Result<AgentRequest, Malformed> {
    let kind = match message.outcome() {
        wire::OutcomeKind::Confirmed => OutcomeKind::Confirmed,
        wire::OutcomeKind::RolledBack => OutcomeKind::RolledBack,
        wire::OutcomeKind::Stuck => OutcomeKind::Stuck,
        wire::OutcomeKind::RebootRequired => OutcomeKind::RebootRequired,
        wire::OutcomeKind::Refused => OutcomeKind::Refused,
        wire::OutcomeKind::Abandoned => OutcomeKind::Abandoned,
        wire::OutcomeKind::Unspecified => {
            return Err(Malformed::new(
                "outcome",
                "is missing, or newer than this coordinator",
            ));
        }
    };
    let took = message
        .steps
        .iter()
        .fold(0u64, |sum, step| sum.saturating_add(step.took_ms));
    Ok(AgentRequest::Result {
        rollout: name("rollout", &message.rollout)?,
        lease: LeaseId(message.lease),
        outcome: Outcome {
            kind,
            reason: tame_line(&message.reason, REASON_MAX),
        },
        took: Duration::from_millis(took),
        report: report(message.report)?,
    })
}

/// The answer to a poll. `held`: the call was held as long as the agent wanted.
pub(crate) fn directive(
    epoch: Epoch,
    directive: Directive,
    held: bool,
    now: Timestamp,
) -> wire::Directive {
    use wire::directive::Action as Said;
    let action = match directive {
        Directive::Wait(reason) => Said::Wait(wait(&reason, held, now)),
        Directive::Stage {
            rollout,
            target,
            action,
            force,
            wish,
        } => Said::Stage(wire::Stage {
            rollout: rollout.map_or_else(String::new, |id| id.to_string()),
            target: Some(target_to_wire(target)),
            force,
            wish,
            action: action_to_wire(action).into(),
        }),
        Directive::Proceed(grant) => Said::Proceed(proceed(grant)),
        Directive::Check { request, timeout } => Said::Check(wire::RunHealthCheck {
            request,
            timeout_ms: millis(timeout),
        }),
        Directive::CleanUp { request, cleanup } => Said::CleanUp(wire::CleanUp {
            request,
            generations: cleanup.generations,
            younger_than_s: cleanup.younger_s,
            collect_garbage: cleanup.collect,
        }),
        Directive::MoveTraffic(call) => Said::MoveTraffic(move_traffic(call)),
        Directive::StandDown(stop) => Said::StandDown(stand_down(epoch, stop)),
    };
    wire::Directive {
        epoch: epoch.0,
        action: Some(action),
    }
}

fn move_traffic(call: TrafficCall) -> wire::MoveTraffic {
    let TrafficOrder {
        epoch,
        group,
        number,
        attempt,
        gets,
    } = call.order;
    let gets = match gets {
        Gets::Traffic => wire::TrafficGets::Traffic,
        Gets::Nothing => wire::TrafficGets::Nothing,
    };
    wire::MoveTraffic {
        order: Some(wire::TrafficOrder {
            epoch: epoch.0,
            group: group.into(),
            number,
            attempt,
            gets: gets.into(),
        }),
        side: call.side.into(),
        drain_ms: millis(call.drain),
        timeout_ms: millis(call.within),
    }
}

fn wait(reason: &WaitReason, held: bool, now: Timestamp) -> wire::Wait {
    let pause = match reason.until() {
        _ if held => Duration::ZERO,
        Some(until) => PAUSE.min(until.since(now)),
        None => PAUSE,
    };
    wire::Wait {
        kind: reason.kind().to_owned(),
        text: reason.to_string(),
        ask_again_ms: millis(pause),
    }
}

fn proceed(grant: Grant) -> wire::Proceed {
    wire::Proceed {
        rollout: grant.rollout.to_string(),
        lease: grant.lease.0,
        epoch: grant.epoch.0,
        valid_for_ms: millis(grant.valid_for),
        action: action_to_wire(grant.action).into(),
        target: Some(target_to_wire(grant.target)),
        allow_reboot: grant.allow_reboot,
        allow_soft_reboot: grant.allow_soft_reboot,
        rollback_on_failure: grant.rollback_on_failure,
        health_timeout_ms: millis(grant.health_timeout),
        force: grant.force,
    }
}

fn action_to_wire(action: Action) -> wire::Action {
    match action {
        Action::Update => wire::Action::Update,
        Action::Rollback => wire::Action::Rollback,
        Action::Reboot => wire::Action::Reboot,
    }
}

fn target_to_wire(target: Target) -> wire::Target {
    let kind = match target {
        Target::Closure(path) => wire::target::Kind::Closure(path.to_string()),
        Target::Flake {
            reference,
            attribute,
        } => wire::target::Kind::Flake(wire::FlakeTarget {
            reference,
            attribute,
        }),
        Target::Channel { url } => wire::target::Kind::Channel(wire::ChannelTarget { url }),
    };
    wire::Target { kind: Some(kind) }
}

fn stand_down(epoch: Epoch, stop: StandDown) -> wire::StandDown {
    let mode = match stop.mode {
        StopMode::Finish => wire::StopMode::Finish,
        StopMode::Rollback => wire::StopMode::Rollback,
    };
    wire::StandDown {
        epoch: epoch.0,
        mode: mode.into(),
        reason: stop.reason,
    }
}

/// The answer to a heartbeat.
pub(crate) fn renewal(epoch: Epoch, renewal: Renewal) -> wire::RenewReply {
    use wire::renew_reply::Answer;
    let answer = match renewal {
        Renewal::Valid(duration) => Answer::ValidForMs(millis(duration)),
        Renewal::StandDown(stop) => Answer::StandDown(stand_down(epoch, stop)),
        Renewal::NotHeld(reason) => Answer::NotHeld(reason),
    };
    wire::RenewReply {
        epoch: epoch.0,
        answer: Some(answer),
    }
}

/// A signal.
pub(crate) fn signal(signal: Signal) -> wire::Signal {
    let epoch = signal.epoch;
    let event = signal.event.map(|event| match event {
        Event::Wake => wire::signal::Event::Wake(wire::Wake {}),
        Event::StandDown(stop) => wire::signal::Event::StandDown(stand_down(epoch, stop)),
    });
    wire::Signal {
        epoch: epoch.0,
        event,
    }
}
