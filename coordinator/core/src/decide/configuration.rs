//! A new configuration, and the rollouts that go on while it comes into force.

use common::{MachineName, Timestamp};

use super::Draft;
use crate::{
    change::Change,
    config::{Fault, FleetConfig},
    fleet::Fleet,
    policy::Policy,
    request::{AsBefore, Refusal, Reply},
    rollout::{Place, Rollout, RolloutGroup, RolloutState},
};

impl Fleet {
    /// What bringing another configuration into force would come to.
    pub(super) fn check_config(
        &self,
        now: Timestamp,
        config: &FleetConfig,
    ) -> Result<Reply, Refusal> {
        self.keeps_what_is_avoided(config)?;
        Ok(Reply::Config {
            revision: self.facts().revision,
            as_before: self.as_before(config),
            warnings: self.warnings(config, now),
        })
    }

    fn warnings(&self, config: &FleetConfig, now: Timestamp) -> Vec<Fault> {
        let mut warnings = config.over(self.facts().config.as_deref(), now);
        warnings.extend(self.never_fit(config, now));
        warnings
    }

    /// Brings another configuration into force, by somebody for a reason that may be empty.
    pub(super) fn set_config(
        &mut self,
        now: Timestamp,
        (by, reason): (&str, String),
        config: Box<FleetConfig>,
        if_revision: Option<u64>,
        draft: &mut Draft,
    ) -> Result<Reply, Refusal> {
        let present = self.facts().revision;
        if let Some(expected) = if_revision
            && expected != present
        {
            return Err(Refusal::Changed(format!(
                "revision {present} is in force, not {expected}: somebody else changed it"
            )));
        }
        if self
            .facts()
            .config
            .as_ref()
            .is_some_and(|old| old.document == config.document)
        {
            return Ok(Reply::Config {
                revision: present,
                as_before: Vec::new(),
                warnings: Vec::new(),
            });
        }
        self.keeps_what_is_avoided(&config)?;
        let (as_before, warnings) = (self.as_before(&config), self.warnings(&config, now));
        let revision = present + 1;
        let by = by.to_owned();
        let other_sides = self.sides_changed_by(&config);
        self.commit(
            draft,
            Change::ConfigSet {
                revision,
                config,
                by,
                reason,
                at: now,
            },
        );
        self.move_with_other_sides(&other_sides, now, draft);
        Ok(Reply::Config {
            revision,
            as_before,
            warnings,
        })
    }

    fn unfinished(&self) -> impl Iterator<Item = &Rollout> {
        let numbers = self.index().unfinished.iter();
        numbers.filter_map(|number| self.facts().rollouts.get(number))
    }

    /// Refuses a configuration without a calendar that an unfinished rollout avoids: which ones those are
    /// is frozen into it, and with the calendar its freeze would be gone, at once and unsaid.
    fn keeps_what_is_avoided(&self, config: &FleetConfig) -> Result<(), Refusal> {
        let Some(present) = &self.facts().config else {
            return Ok(());
        };
        let names = present.calendars.keys();
        let gone = names.filter(|name| !config.calendars.contains_key(*name));
        let gone: Vec<&String> = gone.collect();
        if gone.is_empty() {
            return Ok(());
        }
        for rollout in self.unfinished().filter(|rollout| !rollout.immediate) {
            let unfinished = rollout.groups.iter().filter(|g| g.finished_at.is_none());
            for (group, place) in unfinished.flat_map(places) {
                let avoided = &group.rules(place.rules).avoid;
                let calendar = gone.iter().find(|name| avoided.contains(**name));
                // Who has left the fleet leaves the rollout as well.
                let stays = config.group_of.contains_key(&place.machine);
                if let Some(calendar) = calendar.filter(|_| stays) {
                    return Err(Refusal::NotNow(format!(
                        "rollout {0} is not finished, and its group {1} avoids the calendar \
                         {calendar:?}, which is not in this configuration: keep the calendar, or end \
                         the rollout first with `lab update abort {0}`",
                        rollout.id, group.name
                    )));
                }
            }
        }
        Ok(())
    }

    /// The unfinished rollouts that go on under rules which this configuration changes.
    fn as_before(&self, config: &FleetConfig) -> Vec<AsBefore> {
        let Some(present) = &self.facts().config else {
            return Vec::new();
        };
        let changed = |machine: &MachineName, frozen: &Policy| {
            let rules = config.policy_of(machine);
            rules.is_some_and(|new| present.policy_of(machine) != Some(new) && frozen != new)
        };
        let concerns = |group: &&RolloutGroup| {
            let mut open = group.places().filter(|place| !place.state.is_final());
            open.any(|place| changed(&place.machine, group.rules(place.rules)))
        };
        let of = |rollout: &Rollout| AsBefore {
            rollout: rollout.id.clone(),
            groups: rollout
                .groups
                .iter()
                .filter(concerns)
                .map(|group| group.name.clone())
                .collect(),
            paused: matches!(rollout.state, RolloutState::Paused(_)),
        };
        let rollouts = self.unfinished().map(of);
        rollouts
            .filter(|rollout| !rollout.groups.is_empty())
            .collect()
    }
}

/// The places of a group, each with the group.
fn places(group: &RolloutGroup) -> impl Iterator<Item = (&RolloutGroup, &Place)> {
    group.places().map(move |place| (group, place))
}
