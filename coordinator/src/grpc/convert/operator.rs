//! Operators' messages, and answers that are not views of the fleet.

use std::{fmt::Display, str::FromStr, time::Duration};

use common::{
    Action, MachineName, StopMode, StorePath, Target,
    text::{REASON_MAX, tame_line},
};
use coordinator_core::{
    FleetConfig,
    config::{Fault, Faults},
    history::Entry,
    identity::Role,
    request::{Back, OperatorRequest, Promotion, Selection, Wish},
};
use lab_proto::operator as wire;

use super::{Malformed, name, optional, path, time};
use crate::{audit::AuditRecord, store::ConfigRevision};

/// What went wrong where a document was sent.
pub(crate) enum BadDocument {
    /// Its shape or content has faults.
    Faults(Vec<Fault>),
    /// It is no JSON at all.
    NotJson(String),
}

pub(super) fn text(text: &str) -> String {
    tame_line(text, REASON_MAX)
}

/// A selection.
pub(crate) fn selection(selection: Option<wire::Selection>) -> Result<Selection, Malformed> {
    let selection = selection.unwrap_or_default();
    Ok(Selection {
        groups: names("selection.groups", &selection.groups)?,
        machines: names("selection.machines", &selection.machines)?,
    })
}

/// Each of these texts as a name.
fn names<T: FromStr<Err: Display>>(
    field: &'static str,
    texts: &[String],
) -> Result<Vec<T>, Malformed> {
    texts.iter().map(|text| name(field, text)).collect()
}

/// A wish, and the plan it must still come out with.
pub(crate) fn wish(message: wire::ExecuteRequest) -> Result<(Wish, Option<String>), Malformed> {
    let action = match message.kind.as_str() {
        "" | "update" => Action::Update,
        "rollback" => Action::Rollback,
        "reboot" => Action::Reboot,
        other => {
            return Err(Malformed::new(
                "kind",
                format!("{other:?} is not a kind of rollout"),
            ));
        }
    };
    let wish = Wish {
        selection: selection(message.selection)?,
        action,
        parallel: (message.parallel > 0).then_some(message.parallel),
        back: way_back(message.to_generation, &message.before)?,
        immediate: message.immediate,
        reason: text(&message.reason),
        retry_failed: message.retry_failed,
    };
    let rolls_back = wish.action == Action::Rollback;
    if !rolls_back && wish.back != Back::Previous {
        let text = "only a rollback goes to a generation, or takes a rollout back";
        return Err(Malformed::new("kind", text));
    }
    if wish.action == Action::Reboot && wish.immediate {
        let text = "only a rollback or an emergency update is immediate";
        return Err(Malformed::new("kind", text));
    }
    let if_plan = (!message.if_plan.is_empty()).then_some(message.if_plan);
    Ok((wish, if_plan))
}

/// Where a rollback leads.
fn way_back(generation: u64, before: &str) -> Result<Back, Malformed> {
    match (generation, before) {
        (0, "") => Ok(Back::Previous),
        (generation, "") => Ok(Back::Generation(generation)),
        (0, rollout) => Ok(Back::Before(name("before", rollout)?)),
        (_, _) => {
            let text = "machines go to a generation, or to what they ran before a rollout";
            Err(Malformed::new("before", text))
        }
    }
}

/// A wish that anybody may have who may begin rollouts.
pub(crate) fn ordinary_wish(
    message: wire::ExecuteRequest,
) -> Result<(Wish, Option<String>), Malformed> {
    let (wish, if_plan) = wish(message)?;
    if wish.action == Action::Update && wish.immediate {
        let text =
            "an update that is immediate is an emergency update, which has a call of its own";
        return Err(Malformed::new("immediate", text));
    }
    Ok((wish, if_plan))
}

/// The wish of an emergency update.
pub(crate) fn emergency_wish(
    message: wire::ExecuteRequest,
) -> Result<(Wish, Option<String>), Malformed> {
    let (wish, if_plan) = wish(wire::ExecuteRequest {
        immediate: true,
        ..message
    })?;
    if wish.action != Action::Update {
        let text = "only updates have emergencies; a rollback is immediate by itself";
        return Err(Malformed::new("kind", text));
    }
    if wish.reason.trim().is_empty() {
        let text = "everybody is told why, so that must be said";
        return Err(Malformed::new("reason", text));
    }
    Ok((wish, if_plan))
}

/// Targets to pin.
pub(crate) fn pin_targets(message: wire::PinTargetsRequest) -> Result<OperatorRequest, Malformed> {
    let mut targets = Vec::with_capacity(message.targets.len());
    for (machine, target) in message.targets {
        let machine: MachineName = name("targets", &machine)?;
        let missing = || Malformed::new("targets", format!("nothing is said for {machine}"));
        let target = target_of(target.kind.ok_or_else(missing)?)?;
        targets.push((machine, target));
    }
    // A map has no order of its own.
    targets.sort();
    Ok(OperatorRequest::PinTargets {
        targets,
        reason: text(&message.reason),
    })
}

fn target_of(target: wire::pinned_target::Kind) -> Result<Target, Malformed> {
    let plain = |field, text: String| {
        let odd = text.is_empty() || text.len() > REASON_MAX || text.chars().any(char::is_control);
        if odd {
            Err(Malformed::new(
                field,
                "is empty, too long, or has odd characters",
            ))
        } else {
            Ok(text)
        }
    };
    Ok(match target {
        wire::pinned_target::Kind::Closure(path) => {
            Target::Closure(name::<StorePath>("targets.closure", &path)?)
        }
        wire::pinned_target::Kind::Flake(flake) => Target::Flake {
            reference: plain("targets.flake.reference", flake.reference)?,
            attribute: plain("targets.flake.attribute", flake.attribute)?,
        },
        wire::pinned_target::Kind::Channel(url) => Target::Channel {
            url: plain("targets.channel", url)?,
        },
    })
}

/// Yes or no.
pub(crate) fn approve(message: wire::ApproveRequest) -> Result<OperatorRequest, Malformed> {
    Ok(OperatorRequest::Approve {
        rollout: optional("rollout", &message.rollout)?,
        group: optional("group", &message.group)?,
        reject: message.reject,
        comment: text(&message.comment),
    })
}

pub(crate) fn promote(message: wire::PromoteRequest) -> Result<OperatorRequest, Malformed> {
    Ok(OperatorRequest::Promote {
        promotion: Promotion {
            rollout: optional("rollout", &message.rollout)?,
            group: optional("group", &message.group)?,
            full: message.full,
        },
        reason: text(&message.reason),
    })
}

pub(crate) fn pause(message: wire::RolloutRequest) -> Result<OperatorRequest, Malformed> {
    Ok(OperatorRequest::Pause {
        rollout: optional("rollout", &message.rollout)?,
        reason: text(&message.reason),
    })
}

pub(crate) fn resume_rollout(message: wire::RolloutRequest) -> Result<OperatorRequest, Malformed> {
    let rollout = optional("rollout", &message.rollout)?;
    let reason = text(&message.reason);
    Ok(if message.measure_again {
        OperatorRequest::MeasureAgain { rollout, reason }
    } else {
        OperatorRequest::ResumeRollout { rollout, reason }
    })
}

pub(crate) fn abort(message: wire::RolloutRequest) -> Result<OperatorRequest, Malformed> {
    Ok(OperatorRequest::Abort {
        rollout: optional("rollout", &message.rollout)?,
        reason: text(&message.reason),
    })
}

/// A stop. Without a mode, the gentler one.
pub(crate) fn emergency_stop(
    message: wire::EmergencyStopRequest,
) -> Result<OperatorRequest, Malformed> {
    let mode = match message.mode.as_str() {
        "" | "finish" => StopMode::Finish,
        "rollback" => StopMode::Rollback,
        other => {
            let text = format!("{other:?} is not a mode: finish or rollback");
            return Err(Malformed::new("mode", text));
        }
    };
    let groups = message.groups.iter().map(|group| name("groups", group));
    Ok(OperatorRequest::EmergencyStop {
        groups: groups.collect::<Result<_, _>>()?,
        mode,
        reason: text(&message.reason),
    })
}

pub(crate) fn resume(message: &wire::ResumeRequest) -> OperatorRequest {
    OperatorRequest::Resume {
        reason: text(&message.reason),
    }
}

pub(crate) fn health_check(
    message: wire::HealthCheckRequest,
) -> Result<OperatorRequest, Malformed> {
    let timeout = Duration::from_secs(u64::from(message.timeout_s));
    Ok(OperatorRequest::RequestHealthCheck {
        selection: selection(message.selection)?,
        timeout: (!timeout.is_zero()).then_some(timeout),
    })
}

pub(crate) fn forget(message: &wire::ForgetMachineRequest) -> Result<OperatorRequest, Malformed> {
    Ok(OperatorRequest::ForgetMachine {
        machine: name("machine", &message.machine)?,
        reason: text(&message.reason),
    })
}

pub(crate) fn quarantine(
    message: &wire::QuarantineMachinesRequest,
) -> Result<OperatorRequest, Malformed> {
    Ok(OperatorRequest::Quarantine {
        machines: names("machines", &message.machines)?,
        reason: text(&message.reason),
    })
}

pub(crate) fn release(
    message: &wire::ReleaseMachinesRequest,
) -> Result<OperatorRequest, Malformed> {
    Ok(OperatorRequest::Release {
        machines: names("machines", &message.machines)?,
        reason: text(&message.reason),
    })
}

pub(crate) fn quarantine_target(message: &wire::QuarantineTargetRequest) -> OperatorRequest {
    OperatorRequest::QuarantineTarget {
        target: message.target.clone(),
        reason: text(&message.reason),
    }
}

pub(crate) fn release_target(message: &wire::ReleaseTargetRequest) -> OperatorRequest {
    OperatorRequest::ReleaseTarget {
        target: message.target.clone(),
        reason: text(&message.reason),
    }
}

/// A document, read and checked.
pub(crate) fn document(document: &str) -> Result<FleetConfig, BadDocument> {
    let value = platform::json::document(document);
    let value = value.map_err(|error| BadDocument::NotJson(error.to_string()))?;
    FleetConfig::parse(&value).map_err(|Faults(faults)| BadDocument::Faults(faults))
}

pub(crate) fn set_config(config: FleetConfig, message: &wire::SetConfigRequest) -> OperatorRequest {
    OperatorRequest::SetConfig {
        config: Box::new(config),
        if_revision: (message.if_revision > 0).then_some(message.if_revision),
        reason: text(&message.reason),
    }
}

/// What comes of a checked document.
pub(crate) fn checked(revision: u64, faults: Vec<Fault>) -> wire::CheckConfigReply {
    wire::CheckConfigReply {
        revision,
        faults: self::faults(faults),
        ..wire::CheckConfigReply::default()
    }
}

/// Faults, or warnings.
pub(crate) fn faults(faults: Vec<Fault>) -> Vec<wire::ConfigFault> {
    let faults = faults.into_iter().map(|fault| wire::ConfigFault {
        path: fault.path,
        message: fault.message,
        hint: fault.hint,
    });
    faults.collect()
}

pub(crate) fn config(revision: ConfigRevision) -> wire::ConfigReply {
    wire::ConfigReply {
        revision: revision.revision,
        document: revision.document.to_string(),
        set_by: revision.by,
        set_at: time(revision.at),
    }
}

/// A notice to people.
pub(crate) fn notify(message: &wire::NotifyRequest) -> Result<OperatorRequest, Malformed> {
    let level = match message.level.as_str() {
        "" => "info",
        "debug" | "info" | "warning" | "error" => &message.level,
        other => {
            let text = format!("{other:?} is not a level: debug, info, warning, error");
            return Err(Malformed::new("level", text));
        }
    };
    if message.message.trim().is_empty() {
        return Err(Malformed::new("message", "is empty"));
    }
    Ok(OperatorRequest::Notify {
        level: level.to_owned(),
        message: text(&message.message),
        channel: text(&message.channel),
    })
}

/// One line of the history.
pub(crate) fn history_entry(entry: Entry) -> wire::HistoryEntry {
    wire::HistoryEntry {
        at: time(entry.at),
        kind: entry.kind,
        rollout: entry.rollout.map_or_else(String::new, |id| id.to_string()),
        machine: entry
            .machine
            .map_or_else(String::new, |name| name.to_string()),
        group: entry
            .group
            .map_or_else(String::new, |name| name.to_string()),
        by: entry.by,
        text: entry.text,
        verdict: entry
            .verdict
            .map_or_else(String::new, |verdict| verdict.word().to_owned()),
        took_s: entry.took_s,
        from: path(entry.from.as_ref()),
        to: path(entry.to.as_ref()),
        generation: entry.generation,
    }
}

/// One record of the audit log.
pub(crate) fn audit_record(record: AuditRecord) -> wire::AuditRecord {
    let AuditRecord { body, hash } = record;
    wire::AuditRecord {
        sequence: body.sequence,
        at: time(body.at),
        actor_kind: body.actor_kind.word().to_owned(),
        actor: body.actor,
        role: body.role.map_or("", Role::word).to_owned(),
        serial: body.serial,
        action: body.action,
        object: body.object,
        reason: body.reason,
        result: body.result,
        hash: common::text::hex(&hash),
    }
}
