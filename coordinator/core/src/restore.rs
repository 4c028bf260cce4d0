//! What a restore from a backup changes: everything that was issued since the backup is unknown
//! here and may be in use out there.

use common::{Epoch, LeaseId, MachineName, StopMode, Timestamp};

use crate::{
    change::Change, decide::Draft, fleet::Fleet, identity::TokenState, request::AgentRequest,
};

/// By how much a restore raises the epoch at least: more stops than anybody makes between two
/// backups. As a time it is a second.
const EPOCH_JUMP: u64 = 1_000;

/// By how much more at most, by chance. Two restores of the same backup whose epoch is ahead of the
/// clock are not to take the same one. As a time it is a minute, and a backup that follows a restore
/// is not longer ahead of the clock than that.
const EPOCH_SPREAD: u64 = 1 << 16;

/// How many leases there are for each epoch: more than a fleet grants in a millisecond.
const LEASES: u64 = 1_000;

/// Who an emergency stop is from that nobody asked for.
const BY: &str = "restore";

impl Fleet {
    /// The changes that declare this state, just read from a backup, to be the fleet's again.
    ///
    /// Epoch and lease number go past everything that can have been used, so that leases granted
    /// since are void. They follow the clock: the same backup may be restored a second time after the
    /// fleet ran on from the first, and neither stops nor grants come as fast as that. Where the clock
    /// was wrong, see `overtaken`. Holders of leases may still be away and are not
    /// known here: an emergency stop holds until an operator has looked and lifts it. Tokens that are
    /// open in the backup may have been used since, so none of them is taken any more, and so it is
    /// with approvals of machines that asked to return.
    pub fn restored(&self, now: Timestamp) -> Vec<Change> {
        let last = self.facts().next_lease;
        let (epoch, next_lease) = past(self.facts().epoch, last, now);
        let tokens = self.facts().registry.tokens.iter();
        let open = tokens.filter(|(_, token)| token.state == TokenState::Open);
        let revoked = open.map(|(id, _)| Change::TokenRevoked { id: id.clone() });
        let returns = self.facts().registry.returns.keys().cloned();
        let withdrawn = returns.map(|machine| Change::ReturnWithdrawn { machine });
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
            .chain(withdrawn)
            .collect()
    }

    /// Takes a machine's word for an epoch or a lease that was never given out here: the state here
    /// is older than the fleet's. It came from a backup while its clock was behind, or with the disk
    /// of a virtual machine and nobody declared the restore. Everything stands still until an
    /// operator has looked. A machine that lies achieves that, and no more.
    pub(crate) fn overtaken(
        &mut self,
        now: Timestamp,
        machine: &MachineName,
        request: &AgentRequest,
        draft: &mut Draft,
    ) {
        let (epoch, lease) = seen(request);
        let facts = self.facts();
        let known = epoch <= facts.epoch && lease < facts.next_lease;
        let believable = epoch <= Epoch::LAST && lease <= LeaseId::LAST;
        if known || !believable || self.group_of(machine).is_none() {
            return;
        }
        let what = if epoch > facts.epoch {
            format!("epoch {epoch}")
        } else {
            format!("lease {lease}")
        };
        let reason = format!(
            "{machine} has seen {what}, which was never given out here: this coordinator's state is \
             older than the fleet's. See that no machine is in the middle of an update, then lift \
             the stop"
        );
        let mode = facts
            .stop
            .as_ref()
            .map_or(StopMode::Finish, |stop| stop.mode);
        let (epoch, lease) = (epoch.max(facts.epoch), lease.max(facts.next_lease));
        let (epoch, next_lease) = past(epoch, lease, now);
        self.commit(draft, Change::Restored { epoch, next_lease });
        self.commit(
            draft,
            Change::Stopped {
                epoch: epoch.next(),
                groups: Vec::new(),
                mode,
                by: BY.to_owned(),
                reason,
                at: now,
            },
        );
        draft.broadcast = true;
    }
}

/// An epoch and a first lease that nothing can have reached which went on from these two. Both follow
/// the clock, in milliseconds and microseconds since 1970; the last digits of the time are chance.
fn past(epoch: Epoch, lease: LeaseId, now: Timestamp) -> (Epoch, LeaseId) {
    let millis = u64::try_from(now.0).unwrap_or(0);
    let jump = EPOCH_JUMP + millis % EPOCH_SPREAD;
    let ahead = epoch.0.max(lease.0 / LEASES).saturating_add(jump);
    let epoch = ahead.max(millis);
    (Epoch(epoch), LeaseId(epoch.saturating_mul(LEASES)))
}

/// The latest epoch and lease that a machine says it has seen.
fn seen(request: &AgentRequest) -> (Epoch, LeaseId) {
    match request {
        AgentRequest::Poll { report } => {
            let attempt = report.attempt.as_ref().map(|attempt| attempt.lease);
            let lease = attempt.unwrap_or_default().max(report.last_lease);
            (report.epoch, lease)
        }
        AgentRequest::Renew { lease, epoch, .. } => (*epoch, *lease),
        AgentRequest::Result { lease, report, .. } => (report.epoch, report.last_lease.max(*lease)),
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
            let start = (backup.facts().epoch, backup.facts().next_lease);
            let mut known = vec![start];
            for _ in 0..3 {
                now = now + Duration::from_secs(60);
                let again = restored(&backup, now);
                let these = (again.facts().epoch, again.facts().next_lease);
                // An earlier one shows when a machine reports, the same one never would.
                assert!(!known.contains(&these), "{known:?} {these:?}");
                assert!(these > start, "{start:?} {these:?}");
                known.push(these);
            }
            now = now + Duration::from_secs(60);
        }
    }
}
