//! Keys of a machine's [`Terms`]: those of the fleet, and what groups, policies and machines have of their own.

use std::{collections::BTreeMap, time::Duration};

use common::{GroupName, MachineName};
use serde_json::{Map, Value};

use super::{
    GroupConfig,
    read::{SOME, number},
    section::{Faults, Section, fault},
};
use crate::{alarm::Alarms, terms::Terms};

/// A machine counts as offline no sooner: agents ask once a minute, and one answer may be lost.
const OFFLINE_MIN: Duration = Duration::from_secs(120);

/// Shortest lease that leaves room for a lost heartbeat and a busy machine.
const LEASE_MIN: Duration = Duration::from_secs(30);

/// What this section says, and these terms where it says nothing.
pub(super) fn terms(s: &mut Section<'_>, otherwise: Terms, faults: &mut Faults) -> Terms {
    Terms {
        lease: lease(s, faults).unwrap_or(otherwise.lease),
        grace: s.duration("graceTime", faults).unwrap_or(otherwise.grace),
        offline_after: s
            .duration_from("offlineAfter", OFFLINE_MIN, faults)
            .unwrap_or(otherwise.offline_after),
        catch_up: s.duration("catchUp", faults).unwrap_or(otherwise.catch_up),
        stage: s
            .duration_from("stageTimeout", SOME, faults)
            .unwrap_or(otherwise.stage),
        quarantine_after: match number(s, "quarantineAfter", faults) {
            Some(times) => (times > 0).then_some(times),
            None => otherwise.quarantine_after,
        },
        alarms: alarms(s, otherwise.alarms, faults),
    }
}

/// The same of keys of a group's or a machine's own above those of a policy. What is wrong with these is said of
/// the policy. `all` has the keys of both, and knows them from now on.
pub(super) fn of_both(
    all: &mut Section<'_>,
    own: &Map<String, Value>,
    policy: Option<&Map<String, Value>>,
    otherwise: Terms,
    faults: &mut Faults,
) -> Terms {
    terms(all, otherwise, &mut Vec::new());
    let otherwise = policy.map_or(otherwise, |keys| {
        terms(&mut Section::of(keys, ""), otherwise, &mut Vec::new())
    });
    terms(&mut Section::of(own, &all.path), otherwise, faults)
}

/// Of each machine whose terms are not those of the fleet. `own` has those of machines with keys of their own.
pub(super) fn of_machines(
    groups: &BTreeMap<GroupName, GroupConfig>,
    own: BTreeMap<MachineName, Terms>,
    fleet: Terms,
) -> BTreeMap<MachineName, Terms> {
    let mut found = BTreeMap::new();
    for group in groups.values().filter(|group| group.terms != fleet) {
        let machines = group.machines.iter().cloned();
        found.extend(machines.map(|machine| (machine, group.terms)));
    }
    found.extend(own);
    found.retain(|_, terms| *terms != fleet);
    found
}

/// A lease that is too short is taken all the same, as every duration is.
fn lease(s: &mut Section<'_>, faults: &mut Faults) -> Option<Duration> {
    let lease = s.duration("leaseTime", faults)?;
    if lease < LEASE_MIN {
        let min = LEASE_MIN.as_secs();
        let message = format!("{min} s must have passed before a lease may end");
        let hint = "make it longer, or leave it out";
        fault(faults, &s.path_of("leaseTime"), message, hint);
    }
    Some(lease)
}

/// `alarms = { notUpdated = "720h"; notApplied = "168h"; }`; zero: never.
fn alarms(of: &mut Section<'_>, otherwise: Alarms, faults: &mut Faults) -> Alarms {
    let path = of.path_of("alarms");
    let value = of.get("alarms");
    let Some(mut s) = value.and_then(|value| Section::new(value, &path, faults)) else {
        return otherwise;
    };
    let alarms = Alarms {
        not_updated: s
            .duration("notUpdated", faults)
            .unwrap_or(otherwise.not_updated),
        not_applied: s
            .duration("notApplied", faults)
            .unwrap_or(otherwise.not_applied),
    };
    s.finish(faults);
    alarms
}
