//! What a restore from a backup changes: everything that was issued since the backup is unknown
//! here and may be in use out there.

use common::{Epoch, LeaseId, StopMode, Timestamp};

use crate::{change::Change, fleet::Fleet, identity::TokenState};

/// By how much a restore raises the epoch at least: more stops than anybody makes between two
/// backups. As a time it is a second, and a backup that follows a restore is not longer ahead of the
/// clock than that.
const EPOCH_JUMP: u64 = 1_000;

/// By how much it raises the next lease number at least: more leases than a fleet grants between
/// two backups. As a time it is a second as well.
const LEASE_JUMP: u64 = 1_000_000;

/// Who an emergency stop after a restore is from.
const BY: &str = "restore";

impl Fleet {
    /// The changes that declare this state, just read from a backup, to be the fleet's again.
    ///
    /// Epoch and lease number go past everything that can have been used, so that leases granted
    /// since are void. They follow the clock, in milliseconds and microseconds since 1970: the same
    /// backup may be restored a second time after the fleet ran on from the first, and neither stops
    /// nor grants come as fast as that. Their holders may still be away and are not known here: an
    /// emergency stop holds until an operator has looked and lifts it. Tokens that are open in the
    /// backup may have been used since, so none of them is taken any more.
    pub fn restored(&self, now: Timestamp) -> Vec<Change> {
        let millis = u64::try_from(now.0).unwrap_or(0);
        let epoch = Epoch((self.facts().epoch.0 + EPOCH_JUMP).max(millis));
        let micros = millis.saturating_mul(1_000);
        let next_lease = LeaseId((self.facts().next_lease.0 + LEASE_JUMP).max(micros));
        let tokens = self.facts().registry.tokens.iter();
        let open = tokens.filter(|(_, token)| token.state == TokenState::Open);
        let revoked = open.map(|(id, _)| Change::TokenRevoked { id: id.clone() });
        let stopped = Change::Stopped {
            epoch,
            groups: Vec::new(),
            mode: StopMode::Finish,
            by: BY.to_owned(),
            reason: "the store came from a backup: see that no machine is in the middle of an \
                     update, then lift the stop"
                .to_owned(),
            at: now,
        };
        [Change::Restored { epoch, next_lease }, stopped]
            .into_iter()
            .chain(revoked)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn restored(backup: &Fleet, now: Timestamp) -> Fleet {
        let mut fleet = backup.clone();
        for change in backup.restored(now) {
            fleet.apply(&change);
        }
        fleet
    }

    #[test]
    fn a_backup_taken_after_a_restore_can_be_restored_again_and_again() {
        let mut now = Timestamp(1_774_694_025_614);
        let mut backup = Fleet::new(now);
        for _ in 0..5 {
            backup = restored(&backup, now);
            let mut known = (backup.facts().epoch, backup.facts().next_lease);
            for _ in 0..3 {
                now = now + Duration::from_secs(60);
                let again = restored(&backup, now);
                let these = (again.facts().epoch, again.facts().next_lease);
                assert!(known.0 < these.0, "{known:?} {these:?}");
                assert!(known.1 < these.1, "{known:?} {these:?}");
                known = these;
            }
            now = now + Duration::from_secs(60);
        }
    }
}
