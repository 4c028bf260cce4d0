//! Wait reasons.

use common::{GroupName, MachineName};
use coordinator_core::{WaitReason, wait::Whom};
use lab_proto::operator as wire;

use super::time;

/// A wait reason with its numbers in the fields that its kind has, as it is told of somebody.
pub(crate) fn reason(reason: &WaitReason, whom: Whom<'_>) -> wire::WaitReason {
    let names = |list: &[MachineName]| list.iter().map(ToString::to_string).collect();
    let mut shown = wire::WaitReason {
        kind: reason.kind().to_owned(),
        text: reason.to_string(),
        until: reason.until().map_or_else(String::new, time),
        hint: reason.hint(whom).unwrap_or_default(),
        by_itself: Some(reason.by_itself()),
        ..wire::WaitReason::default()
    };
    match reason {
        WaitReason::Stopped { by, reason } => {
            shown.by.clone_from(by);
            shown.reason.clone_from(reason);
        }
        WaitReason::Quarantined {
            by,
            reason,
            at,
            zone,
            machine: _,
        }
        | WaitReason::TargetQuarantined {
            by,
            reason,
            at,
            zone,
            target: _,
        } => {
            shown.by.clone_from(by);
            shown.reason.clone_from(reason);
            shown.since = time(*at);
            shown.timezone.clone_from(zone);
        }
        WaitReason::Retry {
            tries,
            reason,
            zone,
            until: _,
        } => {
            shown.count = u64::from(*tries);
            shown.reason.clone_from(reason);
            shown.timezone.clone_from(zone);
        }
        WaitReason::Paused {
            rollout,
            reason,
            asks_again: _,
        } => {
            shown.rollout = rollout.to_string();
            shown.reason.clone_from(reason);
        }
        WaitReason::Approval {
            group,
            rollout,
            zone,
            counts_at: _,
            expires_at: _,
            four_eyes: _,
        } => {
            shown.group = group.to_string();
            shown.rollout = rollout.to_string();
            shown.timezone.clone_from(zone);
        }
        WaitReason::Held {
            group,
            rollout,
            wave,
        } => {
            shown.group = group.to_string();
            shown.rollout = rollout.to_string();
            shown.count = u64::from(*wave);
        }
        WaitReason::StagingFailed { reason, zone, .. } => {
            shown.reason.clone_from(reason);
            shown.timezone.clone_from(zone);
        }
        WaitReason::BadTarget { reason } | WaitReason::TargetNotAllowed { reason } => {
            shown.reason.clone_from(reason);
        }
        WaitReason::Final { state, reason } => {
            shown.reason.clone_from(state);
            shown.detail.clone_from(reason);
        }
        WaitReason::Dependency {
            group,
            machines,
            more,
        } => {
            shown.group = group.to_string();
            shown.machines = names(machines);
            shown.more = u64::from(*more);
        }
        WaitReason::Stagger { group, zone, .. } => {
            shown.group = group.to_string();
            shown.timezone.clone_from(zone);
        }
        WaitReason::WindowTooShort {
            needs, left, zone, ..
        } => {
            shown.needs_s = needs.as_secs();
            shown.left_s = left.as_secs();
            shown.timezone.clone_from(zone);
        }
        WaitReason::WindowClosed { zone, .. }
        | WaitReason::Soaking { zone, .. }
        | WaitReason::Staging { zone, .. }
        | WaitReason::CleaningUp { zone, .. } => {
            shown.timezone.clone_from(zone);
        }
        WaitReason::Frozen {
            calendar,
            entry,
            ends_at,
            zone,
            ..
        } => {
            shown.calendar.clone_from(calendar);
            shown.entry.clone_from(entry);
            shown.entry_ends = ends_at.map_or_else(String::new, time);
            shown.timezone.clone_from(zone);
        }
        WaitReason::Analysing {
            gate,
            passed,
            needed,
            zone,
            ..
        } => {
            shown.gate.clone_from(gate);
            shown.timezone.clone_from(zone);
            shown.count = u64::from(*passed);
            shown.allowed = u64::from(*needed);
        }
        WaitReason::WaveNotOpen {
            wave,
            open,
            machines,
            more,
            zone,
            next: _,
        } => {
            shown.machines = names(machines);
            shown.more = u64::from(*more);
            shown.timezone.clone_from(zone);
            shown.count = u64::from(*wave);
            shown.allowed = u64::from(*open);
        }
        WaitReason::LiveSide {
            group,
            side,
            behind,
            was: _,
            first,
        } => {
            shown.group = group.to_string();
            shown.side = side.to_string();
            shown.machines = names(behind);
            shown.rollout = first.as_ref().map(ToString::to_string).unwrap_or_default();
        }
        WaitReason::SideNotReady {
            group,
            side,
            machines,
        } => {
            shown.group = group.to_string();
            shown.side = side.to_string();
            shown.machines = names(machines);
        }
        WaitReason::TrafficMoving {
            group,
            to,
            attempt,
            error,
            machines,
            zone,
            until: _,
        } => {
            shown.group = group.to_string();
            shown.side = to.to_string();
            shown.machines = names(machines);
            shown.count = u64::from(*attempt);
            shown.reason = error.as_deref().unwrap_or_default().to_owned();
            shown.timezone = zone.to_string();
        }
        WaitReason::Retrying { machines, zone, .. } => {
            shown.machines = names(machines);
            shown.timezone.clone_from(zone);
        }
        WaitReason::GroupUnhealthy { machines } | WaitReason::Apart { machines } => {
            shown.machines = names(machines);
        }
        WaitReason::Quorum { machines, allowed } => {
            shown.machines = names(machines);
            shown.allowed = u64::from(*allowed);
        }
        WaitReason::CoordinatorLast { groups } => {
            let groups: Vec<&str> = groups.iter().map(GroupName::as_str).collect();
            shown.group = groups.join(", ");
        }
        WaitReason::MachineUnhealthy { checks } => shown.reason = checks.join(", "),
        WaitReason::GroupLimit { away, allowed } | WaitReason::FleetLimit { away, allowed } => {
            shown.machines = names(away);
            shown.count = away.len() as u64;
            shown.allowed = u64::from(*allowed);
        }
        WaitReason::Offline { since, zone } => {
            shown.timezone.clone_from(zone);
            shown.reason = since.map_or_else(String::new, |since| format!("since {}", time(since)));
        }
        WaitReason::MovedOn { rollout } => shown.rollout = rollout.to_string(),
        WaitReason::NoSuchGeneration { number } => shown.generation = *number,
        WaitReason::UpToDate
        | WaitReason::NoTarget
        | WaitReason::NothingBefore
        | WaitReason::NoRollout
        | WaitReason::UnknownMachine => {}
    }
    shown
}
