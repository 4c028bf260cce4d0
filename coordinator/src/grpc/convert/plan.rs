//! Plans as messages.

use common::{MachineName, Timestamp};
use coordinator_core::{
    outlook::{Outlook, RebootHow},
    plan::{Plan, PlannedGroup, PlannedMachine, PlannedWave},
    policy::Policy,
    rollout::Turn,
    wait::Whom,
};
use lab_proto::operator as wire;
use platform::changes;

use super::{count, path, time, wait};

/// A plan.
pub fn plan(plan: &Plan, outlook: Option<&Outlook>, now: Timestamp) -> wire::PlanReply {
    let none = Outlook::default();
    let seen = outlook.unwrap_or(&none);
    wire::PlanReply {
        id: plan.digest(),
        groups: plan
            .groups
            .iter()
            .map(|group| planned_group(group, plan, seen, now))
            .collect(),
        excluded: plan
            .excluded
            .iter()
            .map(|(machine, reason)| wire::Excluded {
                machine: machine.to_string(),
                reason: Some(wait::reason(reason, whom(machine))),
            })
            .collect(),
        max_away: plan.max_away,
        max_failures: plan.max_failures,
        ends_at: seen.ends_at.map(time),
        never_ends: outlook.is_some_and(|outlook| outlook.ends_at.is_none()),
        changes: seen
            .changes
            .iter()
            .map(|(changes, machines)| wire::PlannedChanges {
                machines: machines.iter().map(ToString::to_string).collect(),
                changes: Some(changes::to_wire(changes)),
            })
            .collect(),
        other_changes: count(seen.other_changes).into(),
    }
}

/// Of whom it is told that it is left out.
fn whom(machine: &MachineName) -> Whom<'_> {
    Whom {
        machine: Some(machine),
        ..Whom::default()
    }
}

fn planned_group(
    group: &PlannedGroup,
    plan: &Plan,
    outlook: &Outlook,
    now: Timestamp,
) -> wire::PlannedGroup {
    let policy = &group.policy;
    let gates_s = plan.gates_take(group).as_secs();
    let waves = group.waves.len();
    wire::PlannedGroup {
        name: group.name.to_string(),
        waves: group
            .waves
            .iter()
            .enumerate()
            .map(|(number, wave)| wire::PlannedWave {
                machines: wave
                    .machines
                    .iter()
                    .map(|machine| planned_machine(machine, group, outlook))
                    .collect(),
                begins_at: turns_of(wave, outlook)
                    .map(|(from, _)| from)
                    .min()
                    .map(time),
                ends_at: turns_of(wave, outlook)
                    .map(|(_, until)| until)
                    .max()
                    .map(time),
                canary: wave.canary,
                in_place_of: wave.in_place_of.iter().map(ToString::to_string).collect(),
                side: wave
                    .side
                    .as_ref()
                    .map_or_else(String::new, ToString::to_string),
                soak_s: match number + 1 == waves {
                    true => 0,
                    false => policy.soak_after(wave.canary).as_secs(),
                },
                gates_s,
                last: wave.turn != Turn::Any,
                pauses: number + 1 < waves && policy.pauses_after(wave.canary),
            })
            .collect(),
        max_parallel: policy.max_parallel,
        max_failures: policy.max_failures,
        policy: policy.preset.word().to_owned(),
        needs_approval: policy.needs_approval,
        after: group
            .after
            .iter()
            .map(|(name, _)| name.to_string())
            .collect(),
        waits: group
            .after
            .iter()
            .map(|(name, stagger)| wire::PlannedWait {
                group: name.to_string(),
                stagger_s: stagger.as_secs(),
            })
            .collect(),
        stagger_s: policy.stagger.as_secs(),
        window: windows_in_words(policy),
        opens_at: group.goes_at.filter(|at| now < *at).map(time),
        timezone: policy.timezone.clone(),
        avoid: policy.avoid.clone(),
        never_opens: group.goes_at.is_none(),
    }
}

/// When the machines of a wave are expected to have their turns.
fn turns_of(wave: &PlannedWave, outlook: &Outlook) -> impl Iterator<Item = (Timestamp, Timestamp)> {
    let machines = wave.machines.iter();
    machines.filter_map(|machine| outlook.turns.get(&machine.name).copied())
}

fn planned_machine(
    machine: &PlannedMachine,
    group: &PlannedGroup,
    outlook: &Outlook,
) -> wire::PlannedMachine {
    let turn = outlook.turns.get(&machine.name).copied();
    let reboot = outlook.reboots.get(&machine.name);
    let policy = group.policy_of(machine);
    let window = match policy.same_times(&group.policy) {
        true => String::new(),
        false if policy.avoid.is_empty() => windows_in_words(policy),
        false => format!(
            "{}, not in {}",
            windows_in_words(policy),
            policy.avoid.join(", ")
        ),
    };
    wire::PlannedMachine {
        name: machine.name.to_string(),
        running: path(machine.running.as_ref()),
        target: machine.target.to_string(),
        staged: machine.staged.is_some(),
        needs_reboot: machine.staged.unwrap_or(false),
        window,
        begins_at: turn.map(|(from, _)| time(from)),
        ends_at: turn.map(|(_, until)| time(until)),
        reboot_reasons: reboot.map_or_else(Vec::new, |reboot| reboot.why.clone()),
        soft_reboot: reboot.is_some_and(|reboot| reboot.how == RebootHow::Soft),
        reboot_by_hand: reboot.is_some_and(|reboot| reboot.how == RebootHow::ByHand),
    }
}

/// The windows in words.
fn windows_in_words(policy: &Policy) -> String {
    if policy.windows.is_empty() {
        return "always".to_owned();
    }
    let windows: Vec<String> = policy.windows.iter().map(ToString::to_string).collect();
    format!("{} {}", windows.join(", "), policy.timezone)
}
