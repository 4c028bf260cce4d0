//! Machines and policy → groups and waves. Pure, and complete: nothing is chosen later.

use std::{collections::BTreeSet, time::Duration};

use common::{Action, GroupName, MachineName, SideName, StorePath, Target};
use serde::Serialize;

use crate::{
    policy::Policy,
    rollout::{Rules, Turn},
    wait::WaitReason,
};

/// What a rollout would do: its digest is what `execute --if-plan` checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Update, rollback or reboot.
    pub action: Action,
    /// Past windows, soak and stagger.
    pub immediate: bool,
    /// Also to targets that failed on a machine before.
    pub retry_failed: bool,
    /// The revision of the configuration that it is made by. What another one says of calendars, or of machines that
    /// are kept apart, is not in the rules of its groups, and changes when they go.
    pub revision: u64,
    /// The groups, each after those it depends on.
    pub groups: Vec<PlannedGroup>,
    /// Machines that were asked for and are left out, and why.
    pub excluded: Vec<(MachineName, WaitReason)>,
    /// Machines that may be away at once, fleet-wide.
    pub max_away: u32,
    /// Machines of all groups together that may fail; `None`: only each group counts.
    pub max_failures: Option<u32>,
}

/// One group of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlannedGroup {
    /// Which.
    pub name: GroupName,
    /// Its rules as they will be frozen.
    pub policy: Policy,
    /// The rules of its machines that have keys of their own, each once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub own: Vec<Policy>,
    /// The groups that must be finished first, and the time that must then pass: the stagger of
    /// the group that is waited for, not its own.
    pub after: Vec<(GroupName, Duration)>,
    /// Its waves.
    pub waves: Vec<PlannedWave>,
    /// When its windows and calendars let it begin, now or later; `None`: as far as one can see,
    /// never. No part of the plan: it changes with the time.
    #[serde(skip)]
    pub goes_at: Option<common::Timestamp>,
}

/// One wave of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlannedWave {
    /// Whether it is the canary.
    pub canary: bool,
    /// The machines that were named as the canary, where none of them goes and somebody stands in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub in_place_of: Vec<MachineName>,
    /// Whether it comes after other groups, too.
    pub turn: Turn,
    /// The side of its group that it is, where that has two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub side: Option<SideName>,
    /// Its machines, in order.
    pub machines: Vec<PlannedMachine>,
}

/// One machine of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlannedMachine {
    /// Which.
    pub name: MachineName,
    /// What it runs now.
    pub running: Option<StorePath>,
    /// What it is to run.
    pub target: Target,
    /// Whether that is staged already, and if so whether it takes a reboot.
    pub staged: Option<bool>,
    /// Which of its group's rules it obeys.
    #[serde(skip_serializing_if = "Rules::is_of_the_group")]
    pub rules: Rules,
}

impl PlannedGroup {
    /// The rules that a machine of it obeys.
    pub fn policy_of(&self, machine: &PlannedMachine) -> &Policy {
        machine.rules.among(&self.policy, &self.own)
    }
}

impl Plan {
    /// A short name for exactly this plan, by exactly this configuration: FNV-1a over its JSON, 64 bits. It guards against
    /// mistakes, not against forgery.
    pub fn digest(&self) -> String {
        let json = serde_json::to_vec(self).unwrap_or_default();
        let hash = json.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        format!("p{hash:016x}")
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }
}

/// Cuts machines of a group into waves: the canary first, then as much as the policy's waves say, then
/// everybody else. Machines that are named as the canary are taken out of the order. So many others of the
/// group have their turn later.
pub fn waves(policy: &Policy, machines: Vec<PlannedMachine>, later: usize) -> Vec<PlannedWave> {
    let all = machines.len();
    let (mut rest, canary, in_place_of) = canary_first(policy, machines);
    // A canary of everybody would be no canary, and whoever goes alone needs none.
    let most = if later > 0 {
        all
    } else {
        all.saturating_sub(1)
    };
    let mut waves = Vec::new();
    let mut done = 0;
    let ends = policy.waves.iter().map(|share| share.at_least(all));
    let ends = ends.chain([all]).map(|end| (end, false));
    for (end, canary) in std::iter::once((canary.min(most), true)).chain(ends) {
        let after = rest.split_off(end.saturating_sub(done).min(rest.len()));
        let machines = std::mem::replace(&mut rest, after);
        done += machines.len();
        if !machines.is_empty() {
            waves.push(PlannedWave {
                canary,
                in_place_of: match canary {
                    true => in_place_of.clone(),
                    false => Vec::new(),
                },
                turn: Turn::Any,
                side: None,
                machines,
            });
        }
    }
    waves
}

/// The machines in the order in which they go, how many of them are to be the canary, and in whose place. Of
/// machines by name of which none goes the first of the others takes the place, whatever the reason: also who
/// runs its target already may do so because what changed does not concern it.
fn canary_first(
    policy: &Policy,
    machines: Vec<PlannedMachine>,
) -> (Vec<PlannedMachine>, usize, Vec<MachineName>) {
    if policy.canary_machines.is_empty() {
        let canary = policy.canary_of(machines.len());
        return (machines, canary, Vec::new());
    }
    let named = |machine: &PlannedMachine| policy.canary_machines.contains(&machine.name);
    let (mut first, rest): (Vec<_>, Vec<_>) = machines.into_iter().partition(named);
    let (canary, in_place_of) = match first.len() {
        0 => (1, policy.canary_machines.clone()),
        named => (named, Vec::new()),
    };
    first.extend(rest);
    (first, canary, in_place_of)
}

/// The groups in an order in which each comes after those it depends on; among equals, the given
/// order. Groups in a cycle, which a valid configuration does not have, are left out.
pub fn in_dependency_order<'a>(groups: &[(&'a GroupName, &'a [GroupName])]) -> Vec<&'a GroupName> {
    let mut done: BTreeSet<&GroupName> = BTreeSet::new();
    let present: BTreeSet<&GroupName> = groups.iter().map(|(name, _)| *name).collect();
    let mut order = Vec::with_capacity(groups.len());
    loop {
        let next = groups.iter().find(|(name, dependencies)| {
            !done.contains(name)
                && dependencies
                    .iter()
                    .all(|d| done.contains(d) || !present.contains(d))
        });
        let Some((name, _)) = next else { return order };
        done.insert(*name);
        order.push(*name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> GroupName {
        text.parse().expect(text)
    }

    #[test]
    fn dependencies_come_first() {
        let (dev, infra, critical) = (name("dev"), name("infrastructure"), name("critical"));
        let on_dev = [dev.clone()];
        let on_infra = [infra.clone()];
        let groups: [(&GroupName, &[GroupName]); 3] =
            [(&critical, &on_infra), (&infra, &on_dev), (&dev, &[])];
        assert_eq!(in_dependency_order(&groups), [&dev, &infra, &critical]);
        // A dependency outside the selection does not hold the order up.
        assert_eq!(in_dependency_order(&groups[..1]), [&critical]);
    }

    proptest::proptest! {
        /// Against the definition: nobody before a group it depends on, everybody once.
        #[test]
        fn order_never_goes_against_the_graph(edges in proptest::collection::vec((0usize..8, 0usize..8), 0..16)) {
            let names: Vec<GroupName> = (0..8).map(|n| name(&format!("g{n}"))).collect();
            let mut dependencies: Vec<Vec<GroupName>> = vec![Vec::new(); 8];
            for (a, b) in edges {
                if a > b {
                    dependencies[a].push(names[b].clone());
                }
            }
            let groups: Vec<(&GroupName, &[GroupName])> =
                names.iter().zip(&dependencies).rev().map(|(n, d)| (n, d.as_slice())).collect();
            let order = in_dependency_order(&groups);
            proptest::prop_assert_eq!(order.len(), 8);
            for (place, group) in order.iter().enumerate() {
                let index = names.iter().position(|n| n == *group).expect("known");
                for dependency in &dependencies[index] {
                    proptest::prop_assert!(order[..place].contains(&dependency));
                }
            }
        }
    }
}
