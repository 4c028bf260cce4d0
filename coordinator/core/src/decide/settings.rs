//! Another configuration of the fleet.

use common::Timestamp;

use super::Draft;
use crate::{
    change::Change,
    config::FleetConfig,
    fleet::Fleet,
    request::{Refusal, Reply},
};

impl Fleet {
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
            return Ok(Reply::Config { revision: present });
        }
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
        Ok(Reply::Config { revision })
    }
}
