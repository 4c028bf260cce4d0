//! Every fact against the state before it: each step of a state machine is one that exists.

use std::collections::BTreeMap;

use common::{Action, GroupName, LeaseId, MachineName, RolloutId, Timestamp};

use super::{Violation, violate};
use crate::{
    alarm::Alarm,
    approval::THE_POLICY,
    bad_target::source_of,
    change::Change,
    fleet::Fleet,
    policy::ApprovalOf,
    rollout::{
        Approval, PauseReason, Place, PlaceState, Rollout, RolloutGroup, RolloutState, Wave,
        WaveState,
    },
    transition::{ApprovalStep, PlaceStep, RolloutStep, WaveStep},
};

/// Whether nobody has answered for so long that it counts as yes: for this group, or for one that shares its
/// approval.
fn consents(before: &Fleet, rollout: &RolloutId, group: &GroupName, at: Timestamp) -> bool {
    let shares = |g: &RolloutGroup| g.policy.approval_of == ApprovalOf::Rollout;
    let long_enough = |g: &RolloutGroup| {
        let asked = g.approval.waits_since().flatten();
        let after = g.policy.approved_after;
        asked
            .zip(after)
            .is_some_and(|(asked, after)| asked + after <= at)
    };
    // Of several that share it, one after another is told.
    let told = |g: &RolloutGroup| matches!(&g.approval, Approval::Given { by, at: told, .. } if by == THE_POLICY && *told == at);
    let shared = group_of(before, rollout, group).is_some_and(shares);
    let groups = before.rollout(rollout).into_iter().flat_map(|r| &r.groups);
    let mut asked = groups.filter(|g| g.name == *group || (shared && shares(g)));
    asked.any(|g| long_enough(g) || told(g))
}

/// Whether somebody else than who began the rollout must approve this group, or one that shares its approval.
fn takes_somebody_else(before: &Fleet, rollout: &RolloutId, group: &GroupName) -> bool {
    let shares = |g: &RolloutGroup| g.policy.approval_of == ApprovalOf::Rollout;
    let shared = group_of(before, rollout, group).is_some_and(shares);
    let config = before.facts().config.as_ref();
    let strict = |name| config.is_some_and(|config| config.needs_four_eyes(name));
    let groups = before.rollout(rollout).into_iter().flat_map(|r| &r.groups);
    let mut others = groups.filter(|g| shares(g) && g.approval.waits_since().is_some());
    strict(group) || (shared && others.any(|g| strict(&g.name)))
}

/// Whether this fact may follow on this state; `None` when it may.
pub fn follows(before: &Fleet, change: &Change) -> Option<Violation> {
    let exists = match change {
        Change::ApprovalAsked { rollout, group, at } => {
            let step = ApprovalStep::Asked(*at);
            group_of(before, rollout, group).is_some_and(|g| g.approval.next(step).is_some())
        }
        Change::Approved {
            rollout,
            group,
            by,
            comment,
            at,
        } => {
            let (by, comment, at) = (by.clone(), comment.clone(), *at);
            let own = before.rollout(rollout).is_some_and(|r| r.is_of(&by));
            let own = own && takes_somebody_else(before, rollout, group);
            let too_soon = by == THE_POLICY && !consents(before, rollout, group, at);
            let group = group_of(before, rollout, group);
            let step = ApprovalStep::Given { by, comment, at };
            !own && !too_soon && group.is_some_and(|g| g.approval.next(step).is_some())
        }
        Change::WaveOpened {
            rollout,
            group,
            wave,
            at,
        } => {
            let group_now = group_of(before, rollout, group);
            let approved = group_now.is_some_and(|g| g.approval.waits_since().is_none());
            approved && wave_takes(before, rollout, group, *wave, WaveStep::Opened(*at))
        }
        Change::WaveSoaking {
            rollout,
            group,
            wave,
            until,
        } => wave_takes(before, rollout, group, *wave, WaveStep::Soaks(*until)),
        Change::WaveClosed {
            rollout,
            group,
            wave,
        } => {
            wave_takes(before, rollout, group, *wave, WaveStep::Closed)
                && gates_hold(before, rollout, group, *wave)
        }
        Change::WaveHeld {
            rollout,
            group,
            wave,
            ..
        } => group_of(before, rollout, group)
            .is_some_and(|g| g.held_at() == Some(*wave) && g.held_since.is_none()),
        Change::Promoted {
            rollout,
            group,
            waves,
            ..
        } => group_of(before, rollout, group)
            .is_some_and(|g| g.promoted < *waves && *waves <= g.waves.len()),
        Change::AnalysisBegan {
            rollout,
            group,
            wave,
            ..
        } => wave_of(before, rollout, group, *wave).is_some_and(|wave| {
            wave.analysis
                .as_ref()
                .is_none_or(|found| found.since.is_none())
        }),
        Change::Measured {
            rollout,
            group,
            wave,
            gate,
            ..
        } => wave_of(before, rollout, group, *wave)
            .and_then(|wave| wave.analysis.as_ref())
            .is_some_and(|found| found.since.is_some() && *gate < found.tallies.len()),
        Change::GroupFinished { rollout, group, .. } => {
            group_of(before, rollout, group).is_some_and(|g| g.finished_at.is_none())
        }
        // Each window is told of once.
        Change::WindowMissed {
            rollout,
            group,
            shut_at,
            ..
        } => group_of(before, rollout, group).is_some_and(|g| {
            g.finished_at.is_none() && g.windows_told.is_none_or(|told| told < *shut_at)
        }),
        Change::LeaseGranted { lease, .. } => {
            let place = place_in(before, &lease.rollout, &lease.machine);
            let machine = before.quarantine_of(&lease.machine).is_some();
            let targets = &before.facts().targets_aside;
            let target = place.is_some_and(|p| targets.contains_key(source_of(&p.target)));
            let aside = machine || (target && is_to_a_choice(before, &lease.rollout));
            !aside
                && super::traffic::is_idle(before, lease)
                && place.is_some_and(|place| takes(place, PlaceStep::Granted(lease.id)))
        }
        Change::LeaseOverdue { lease, .. } => holder_takes(before, *lease, |_| PlaceStep::Overdue),
        Change::LeaseRevived { lease } => holder_takes(before, *lease, |_| PlaceStep::Revived),
        Change::LeaseLost { lease, .. } => holder_takes(before, *lease, |_| PlaceStep::Lost),
        Change::LeaseEnded { lease, outcome, .. } => {
            holder_takes(before, *lease, |p| PlaceStep::Ended(*outcome, p.returned))
        }
        Change::Arrived { rollout, machine } => {
            let place = place_in(before, rollout, machine);
            place.is_some_and(|place| takes(place, PlaceStep::Arrived))
        }
        Change::Declined {
            rollout, machine, ..
        } => {
            let place = place_in(before, rollout, machine);
            place.is_some_and(|place| takes(place, PlaceStep::Declined))
        }
        Change::Skipped {
            rollout, machine, ..
        } => {
            let place = place_in(before, rollout, machine);
            place.is_some_and(|place| takes(place, PlaceStep::Skipped))
        }
        Change::RolloutPaused {
            rollout, reason, ..
        } => rollout_takes(before, rollout, RolloutStep::Paused(reason.clone())),
        Change::NothingToTakeBack { rollout } => {
            before.rollout(rollout).is_some_and(|r| r.takes_back)
        }
        Change::RolloutResumed { rollout, .. } => {
            rollout_takes(before, rollout, RolloutStep::Resumed)
        }
        Change::RolloutAborted {
            rollout,
            by,
            reason,
            ..
        } => {
            let (by, reason) = (by.clone(), reason.clone());
            rollout_takes(before, rollout, RolloutStep::Aborted { by, reason })
        }
        Change::RolloutEnded {
            rollout, succeeded, ..
        } => rollout_takes(before, rollout, RolloutStep::Ended(*succeeded)),
        // The epoch is raised by a stop and by a restore, and by nothing else.
        Change::Stopped { epoch, .. } | Change::Restored { epoch, .. } => {
            *epoch > before.facts().epoch
        }
        Change::Schedule { schedule, step } => {
            let course = before.facts().courses.get(schedule);
            course.is_some_and(|course| {
                let covered = |groups: &[GroupName]| before.stop_over_any(groups);
                course.takes(step, covered)
            })
        }
        Change::Traffic { group, step } => super::traffic::takes(before, group, step),
        Change::RolloutCreated { rollout, .. } => {
            takes_back_rightly(before, rollout)
                && nobody_is_known_to_refuse(before, rollout)
                && nobody_is_sent_to_bad(before, rollout)
                && super::traffic::begins_idle(before, rollout)
                && super::order::holds(before, rollout)
                && super::canary::holds(rollout)
        }
        Change::Quarantined { machine, .. } => before.quarantine_of(machine).is_none(),
        Change::Alarmed {
            alarm, machines, ..
        } => machines.iter().all(|(machine, since)| {
            let known = before.facts().machines.get(machine);
            known.is_some_and(|known| {
                known.since(*alarm) == Some(*since) && !known.told.contains(alarm)
            })
        }),
        Change::Retried {
            rollout, machine, ..
        } => {
            let place = place_in(before, rollout, machine);
            let found = before.rollout(rollout);
            let groups = found.into_iter().flat_map(|rollout| &rollout.groups);
            let mut groups = groups.filter(|g| g.places().any(|p| p.machine == *machine));
            let rules = place.and_then(|place| Some(groups.next()?.rules(place.rules)));
            place.is_some_and(|place| {
                let may = rules.is_some_and(|rules| place.tries < rules.retries);
                may && takes(place, PlaceStep::Retried)
            })
        }
        Change::TargetQuarantined { target, .. } => {
            !before.facts().targets_aside.contains_key(target)
        }
        Change::TargetReleased { target, .. } => before.facts().targets_aside.contains_key(target),
        Change::Released { machine, .. } => before.quarantine_of(machine).is_some(),
        Change::ConfigSet { .. }
        | Change::Reported { .. }
        | Change::Pinned { .. }
        | Change::Recovered { .. }
        | Change::StopLifted { .. }
        | Change::Forgotten { .. }
        | Change::TokenCreated { .. }
        | Change::TokenRevoked { .. }
        | Change::CertificateIssued { .. }
        | Change::CertificateRevoked { .. }
        | Change::ReturnAsked { .. }
        | Change::ReturnApproved { .. }
        | Change::ReturnAnswered { .. }
        | Change::ReturnWithdrawn { .. }
        | Change::IdentitiesForgotten { .. } => true,
    };
    let schedules = matches!(change, Change::Schedule { .. });
    let traffic = matches!(change, Change::Traffic { .. });
    (!exists).then(|| Violation {
        invariant: match (schedules, traffic) {
            (true, _) => 11,
            (_, true) => 12,
            (false, false) => 5,
        },
        text: format!("{change:?} does not follow on the state before it"),
    })
}

/// An update that is not to try again what failed has nobody in it who has said that it failed there, or is not allowed.
fn nobody_is_known_to_refuse(before: &Fleet, rollout: &Rollout) -> bool {
    let refuses = |place: &Place| {
        let known = before.facts().machines.get(&place.machine);
        known.is_some_and(|known| known.refuses(&place.target).is_some())
    };
    let asks = rollout.action == Action::Update && !rollout.retry_failed;
    !asks || !rollout.places().any(refuses)
}

/// Nobody chooses for a machine what was put aside.
fn nobody_is_sent_to_bad(before: &Fleet, rollout: &Rollout) -> bool {
    let aside = &before.facts().targets_aside;
    let bad = |place: &Place| aside.contains_key(source_of(&place.target));
    !is_by_choice(rollout) || !rollout.places().any(bad)
}

/// Whether somebody chose what its machines come to: nothing that is put aside may be chosen.
fn is_to_a_choice(before: &Fleet, id: &RolloutId) -> bool {
    before.rollout(id).is_some_and(is_by_choice)
}

fn is_by_choice(rollout: &Rollout) -> bool {
    rollout.action == Action::Update || rollout.to_generation.is_some()
}

fn rollout_takes(fleet: &Fleet, id: &RolloutId, step: RolloutStep) -> bool {
    let state = fleet.rollout(id).map(|rollout| &rollout.state);
    state.is_some_and(|state| state.next(step).is_some())
}

fn group_of<'a>(
    fleet: &'a Fleet,
    id: &RolloutId,
    name: &common::GroupName,
) -> Option<&'a RolloutGroup> {
    fleet.rollout(id)?.group(name)
}

fn wave_takes(
    fleet: &Fleet,
    id: &RolloutId,
    name: &common::GroupName,
    wave: usize,
    step: WaveStep,
) -> bool {
    let state: Option<WaveState> = group_of(fleet, id, name)
        .and_then(|group| group.waves.get(wave))
        .map(|wave| wave.state);
    state.is_some_and(|state| state.next(step).is_some())
}

fn wave_of<'a>(
    fleet: &'a Fleet,
    id: &RolloutId,
    name: &common::GroupName,
    wave: usize,
) -> Option<&'a Wave> {
    group_of(fleet, id, name)?.waves.get(wave)
}

/// Every gate of a wave of which somebody was updated has passed as often as it must, and found no more
/// of anything else than it accepts; or a person has accepted it. Nothing holds up the way back.
fn gates_hold(fleet: &Fleet, id: &RolloutId, name: &common::GroupName, wave: usize) -> bool {
    let (Some(rollout), Some(group)) = (fleet.rollout(id), group_of(fleet, id, name)) else {
        return false;
    };
    let wave = &group.waves[wave];
    let mut places = wave.places.iter();
    if rollout.action == common::Action::Rollback
        || group.policy.gates.is_empty()
        || !places.any(|place| place.state == PlaceState::Updated)
    {
        return true;
    }
    wave.analysis.as_ref().is_some_and(|found| {
        let mut each = group.policy.gates.iter().zip(&found.tallies);
        found.accepted
            || each.all(|(gate, tally)| {
                let enough = tally.passed >= gate.passes
                    && tally.failed <= gate.failure_limit
                    && tally.inconclusive <= gate.inconclusive_limit
                    && tally.errors <= gate.error_limit;
                enough || tally.accepted
            })
    })
}

fn place_in<'a>(fleet: &'a Fleet, id: &RolloutId, machine: &MachineName) -> Option<&'a Place> {
    let rollout: &Rollout = fleet.rollout(id)?;
    rollout.places().find(|place| place.machine == *machine)
}

fn takes(place: &Place, step: PlaceStep) -> bool {
    let next: Option<PlaceState> = place.state.next(step);
    next.is_some()
}

/// 2: whoever is in quarantine is not about to begin in any rollout, and whoever has failed so often in a
/// row that it is to be put aside has been.
pub(super) fn aside(fleet: &Fleet, found: &mut Vec<Violation>) {
    for machine in fleet.facts().quarantined.keys() {
        let engaged = fleet.engagement(machine);
        if engaged.is_some_and(|(_, place)| place.state == PlaceState::Pending) {
            let text = format!("{machine} is in quarantine and is still to go");
            violate(found, 2, text);
        }
    }
    let Some(config) = &fleet.facts().config else {
        return;
    };
    for (machine, known) in &fleet.facts().machines {
        let after = || config.terms_of(machine).quarantine_after;
        let too_often = || after().is_some_and(|after| known.failures_in_a_row >= after);
        // Few fail, and everybody would have to be looked up.
        if known.failures_in_a_row > 0 && too_often() && fleet.quarantine_of(machine).is_none() {
            let text = format!(
                "{machine} failed {} times in a row",
                known.failures_in_a_row
            );
            violate(found, 2, text);
        }
    }
}

/// 2: what has failed on so many machines that it is to be put aside has been.
pub(super) fn bad_targets(fleet: &Fleet, found: &mut Vec<Violation>) {
    let facts = fleet.facts();
    let config = facts.config.as_ref();
    let Some(after) = config.and_then(|config| config.quarantine_target_after) else {
        return;
    };
    let mut counts = BTreeMap::<&str, u32>::new();
    for source in facts
        .machines
        .values()
        .filter_map(|m| m.failed_with.as_deref())
    {
        *counts.entry(source).or_default() += 1;
    }
    for (source, count) in counts {
        if count >= after {
            violate(found, 2, format!("{source} failed on {count} machines"));
        }
    }
}

/// 2: what has lasted for too long has been told, unless it is due.
pub(super) fn told(fleet: &Fleet, found: &mut Vec<Violation>) {
    let config = fleet.facts().config.as_ref();
    let Some(config) = config else { return };
    let (now, deadline) = (fleet.hearsay().now, fleet.hearsay().deadline);
    for (name, known) in &fleet.facts().machines {
        for alarm in Alarm::ALL {
            let since = known.since(alarm);
            let since = since.filter(|_| !known.told.contains(&alarm));
            let due = since.and_then(|since| {
                let after = config.terms_of(name).alarms.after(alarm);
                Some(since + after?)
            });
            let late = due.is_some_and(|due| due <= now && due < deadline && now < deadline);
            // Few are late, and everybody would have to be looked up.
            if late && config.group_of.contains_key(name) {
                let text = format!("{name}: {} for too long, and nobody is told", alarm.says());
                violate(found, 2, text);
            }
        }
    }
}

/// The holder's place takes the step. Its rollout may have ended and been forgotten meanwhile.
fn holder_takes(fleet: &Fleet, id: LeaseId, step: impl FnOnce(&Place) -> PlaceStep) -> bool {
    let Some(lease) = fleet.facts().leases.get(&id) else {
        return false;
    };
    let Some(rollout) = fleet.rollout(&lease.rollout) else {
        return true;
    };
    let mut places = rollout.places();
    let place = places.find(|place| place.state.lease() == Some(id));
    place.is_some_and(|place| takes(place, step(place)))
}

/// What is taken back by itself is taken back from a rollout that is paused for it and has nobody at work,
/// from machines that it updated or whose next boot it chose, and only where their rules let them go back.
fn takes_back_rightly(before: &Fleet, rollback: &Rollout) -> bool {
    let undone = rollback.undoes.as_ref().and_then(|id| before.rollout(id));
    let Some(undone) = undone.filter(|_| rollback.created_by == crate::undo::BY) else {
        return true;
    };
    let may = |machine: &MachineName| {
        let groups = undone.groups.iter();
        let mut places = groups.flat_map(|g| g.places().map(move |place| (g, place)));
        places.any(|(group, place)| {
            place.machine == *machine
                && place.has_brought_something()
                && group.rules(place.rules).takes_back
        })
    };
    let mut machines = rollback.places().map(|place| &place.machine);
    let at_work = undone.places().any(|place| place.state.lease().is_some());
    let RolloutState::Paused(reason) = &undone.state else {
        return false;
    };
    let too_much = if let PauseReason::BudgetSpent { group, allowed, .. } = reason {
        undone.group(group).is_some_and(|g| {
            let failed = g.places().filter(|place| place.state.is_failure()).count();
            failed > usize::try_from(g.forgiven + allowed).unwrap_or(usize::MAX)
        })
    } else {
        true
    };
    undone.takes_back && !at_work && too_much && machines.all(may)
}
