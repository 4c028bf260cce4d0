//! Machines for which the times of a new configuration are too short, by what they have shown. It is valid all the
//! same: what everybody is expected to take fits, and what a machine takes may change. But it does not begin
//! anything any more, and nobody would hear of that before its next rollout.

use std::{collections::BTreeMap, time::Duration};

use common::{GroupName, MachineName, Timestamp, time::span};

use crate::{
    config::{Fault, FleetConfig},
    fleet::Fleet,
    opening::Openings,
    policy::Policy,
    wait::list,
    window::Window,
};

/// Windows, calendars and zone that machines of one group obey.
type Times<'a> = (&'a GroupName, &'a [Window], &'a [String], &'a str);

/// Machines that have taken longer than is expected, each with how long.
type Slow<'a> = (&'a Policy, Vec<(Duration, &'a MachineName)>);

impl Fleet {
    /// Whom the times of this configuration never let begin.
    pub(super) fn never_fit(&self, config: &FleetConfig, now: Timestamp) -> Vec<Fault> {
        let slow = self.slow_in(config).into_iter();
        let told = slow.filter_map(|((group, ..), (policy, mut machines))| {
            let openings = Openings::of(policy, &config.calendars);
            machines.sort_unstable();
            // Where there is time for one there is time for everybody who is quicker.
            let fit = machines.partition_point(|(needs, _)| openings.can_go(now, *needs).is_some());
            let left = machines.split_off(fit);
            let (longest, first) = *left.last()?;
            let names: Vec<&MachineName> = left.iter().rev().map(|(_, name)| *name).collect();
            let key = match policy.windows.as_slice() {
                [] => "avoid",
                _ => "maintenanceWindow",
            };
            Some(Fault {
                path: config.path_for_machine(first, key),
                message: format!(
                    "of group {group}, {} took up to {}, and within two years there is never so much time",
                    list(&names),
                    span(longest)
                ),
                hint: "make maintenanceWindow longer, or avoid less".to_owned(),
            })
        });
        told.collect()
    }

    /// Who has taken longer than is expected, by the times that they obey. For what is expected there is time, or
    /// it would have been refused.
    fn slow_in<'a>(&self, config: &'a FleetConfig) -> BTreeMap<Times<'a>, Slow<'a>> {
        let mut slow: BTreeMap<Times<'a>, Slow<'a>> = BTreeMap::new();
        for (machine, group) in &config.group_of {
            let Some(policy) = config.policy_of(machine) else {
                continue;
            };
            let known = self.facts().machines.get(machine);
            let expected = policy.expected_duration;
            let needs = known.map_or(expected, |known| known.needs(false, expected));
            let always = policy.windows.is_empty() && policy.avoid.is_empty();
            if !always && needs > expected {
                let times = (
                    group,
                    &policy.windows[..],
                    &policy.avoid[..],
                    &*policy.timezone,
                );
                let known = slow.entry(times).or_insert_with(|| (policy, Vec::new()));
                known.1.push((needs, machine));
            }
        }
        slow
    }
}
