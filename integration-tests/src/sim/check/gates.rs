//! Gates: what machines answer is of now, and chance is given no more than its share.

use std::collections::BTreeMap;

use common::{GroupName, MachineName, RolloutId};
use coordinator_core::{
    Change, Fleet,
    analysis::{Finding, Measurement, Probe, Test},
    rollout::{PlaceState, RolloutGroup},
};

use super::super::{
    event::{At, MachineIndex},
    machine::Machine,
    world::World,
};

/// Whether numbers that were divided and multiplied again are still the same.
const ROUNDING: f64 = 1e-9;

/// Since when an answer counts, by rollout, group and number of the gate: the gates began, or the answer
/// before this one was counted.
#[derive(Debug, Default)]
pub(crate) struct Gates(BTreeMap<(RolloutId, GroupName, usize), At>);

impl Gates {
    /// What has happened since the backup has not.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }

    /// What is wrong with a change, against the state before it.
    pub(super) fn check(
        &mut self,
        before: &Fleet,
        machines: (&[Machine], &BTreeMap<MachineName, MachineIndex>),
        now: At,
        change: &Change,
    ) -> Option<String> {
        let of = |rollout: &RolloutId, group: &GroupName| before.rollout(rollout)?.group(group);
        if let Change::AnalysisBegan { rollout, group, .. } = change {
            let gates = of(rollout, group).map_or(0, |g| g.policy.gates.len());
            for gate in 0..gates {
                self.0.insert((rollout.clone(), group.clone(), gate), now);
            }
        }
        let Change::Measured {
            rollout,
            group,
            wave,
            gate,
            finding,
            ..
        } = change
        else {
            return None;
        };
        let key = (rollout.clone(), group.clone(), *gate);
        let since = self.0.insert(key, now)?;
        let g = of(rollout, group)?;
        if *finding != Finding::Pass || !asks_machines(g, *gate) {
            return None;
        }
        let places = g.waves.get(*wave)?.places.iter();
        let mut updated = places.filter(|place| place.state == PlaceState::Updated);
        let old = updated.find(|place| {
            let index = machines.1.get(&place.machine);
            let machine = index.and_then(|index| machines.0.get(*index));
            machine.is_some_and(|machine| machine.truth.checked_at < Some(since))
        })?;
        let machine = &old.machine;
        Some(format!(
            "{machine} passes a gate of {rollout} by an old answer"
        ))
    }
}

fn asks_machines(group: &RolloutGroup, gate: usize) -> bool {
    let gate = group.policy.gates.get(gate);
    gate.is_some_and(|gate| matches!(gate.probe, Probe::HealthCheck { .. }))
}

fn significance(probe: &Probe) -> Option<f64> {
    if let Probe::Promql {
        test: Test::NotWorse { significance, .. },
        ..
    } = probe
    {
        Some(significance.get())
    } else {
        None
    }
}

impl World {
    /// All looks of a gate that have found nothing, and this one, take chance for a change no more often than
    /// one alone may.
    pub(crate) fn check_measurement(&mut self, wanted: &Measurement) {
        let mirror = &self.coordinator.mirror;
        let group = mirror
            .rollout(&wanted.rollout)
            .and_then(|rollout| rollout.group(&wanted.group));
        let Some(group) = group else { return };
        let mut gates = group.policy.gates.iter();
        let Some(index) = gates.position(|gate| gate.name == wanted.gate.name) else {
            return;
        };
        let asked = significance(&wanted.gate.probe);
        let all = significance(&group.policy.gates[index].probe);
        let (Some(one), Some(all)) = (asked, all) else {
            return;
        };
        let analysis = group.waves.get(group.current);
        let analysis = analysis.and_then(|wave| wave.analysis.as_ref());
        let tally = analysis.and_then(|found| found.tallies.get(index));
        let looks = tally.map_or(0, |tally| tally.passed) + 1;
        if one * f64::from(looks) > all + ROUNDING {
            let name = &wanted.gate.name;
            let text = format!("look {looks} of {name} takes {one} of {all} for itself");
            self.violate(text);
        }
    }
}
