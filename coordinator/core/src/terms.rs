//! How long a machine is waited for, and what is put up with of it: each machine's own, as the configuration in
//! force says it. Rollouts that are under way follow it at once.

use std::time::Duration;

use common::MachineName;

use crate::{alarm::Alarms, fleet::Fleet};

/// How long one machine is waited for, and what is put up with of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How long a lease lasts without a word from its holder.
    pub lease: Duration,
    /// How long it may still come back when it is overdue before it counts as failed for good.
    pub grace: Duration,
    /// Silence after which it counts as offline.
    pub offline_after: Duration,
    /// How long a rollout waits for it while it is offline.
    pub catch_up: Duration,
    /// How long it may take to stage its target.
    pub stage: Duration,
    /// Failed attempts in a row after which it is put aside; `None`: never.
    pub quarantine_after: Option<u32>,
    /// What is told of it when it has lasted for so long.
    pub alarms: Alarms,
}

impl Default for Terms {
    /// Lease: three lost heartbeats and a slow reboot fit into 15 minutes. Grace: as long again.
    /// Offline: ten missed polls. Catch-up: a day, the longest a laptop sleeps over a workday.
    /// Staging: a big closure over a slow line.
    fn default() -> Self {
        let minutes = |n: u64| Duration::from_secs(n * 60);
        Self {
            lease: minutes(15),
            grace: minutes(15),
            offline_after: minutes(10),
            catch_up: minutes(24 * 60),
            stage: minutes(60),
            quarantine_after: None,
            alarms: Alarms::default(),
        }
    }
}

/// The shortest terms of any machine: before these nothing of the kind is due anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortest {
    /// How long the lease lasts that ends first.
    pub lease: Duration,
    /// How long those have to stage who have the least time for it.
    pub stage: Duration,
}

impl Shortest {
    /// Of the fleet's, and of these.
    pub(crate) fn of<'a>(fleet: Terms, others: impl Iterator<Item = &'a Terms>) -> Self {
        let shortest = Self {
            lease: fleet.lease,
            stage: fleet.stage,
        };
        others.fold(shortest, |shortest, terms| Self {
            lease: shortest.lease.min(terms.lease),
            stage: shortest.stage.min(terms.stage),
        })
    }
}

impl Fleet {
    /// The machine's own terms, from the configuration in force; the fleet's of one that is in none.
    pub fn terms_of(&self, machine: &MachineName) -> Terms {
        let Some(config) = &self.facts().config else {
            return Terms::default();
        };
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): everybody has the fleet's.
        if self.has(crate::bug::Bug::OwnTimesIgnored) {
            return config.terms;
        }
        config.terms_of(machine)
    }

    /// The shortest terms of any machine.
    pub(crate) fn shortest_terms(&self) -> Shortest {
        let config = self.facts().config.as_ref();
        let nobody = || Shortest::of(Terms::default(), [].iter());
        config.map_or_else(nobody, |config| config.shortest)
    }
}
