//! When the clock alone changes something next: the instant at which the fleet is to be asked again.

use std::time::Duration;

use common::Timestamp;

use crate::{
    fleet::Fleet,
    rollout::{Approval, RolloutState, Rules, WaveState},
    wait::WaitReason,
};

/// How often an open wave is looked at for machines that fell silent; silence makes no event.
const SILENCE_LOOK: Duration = Duration::from_secs(60);

/// A deadline never lies closer: what was due now has just been done.
const SHORTEST: Duration = Duration::from_millis(1);

impl Fleet {
    /// The earliest of all of them; never in the past.
    pub(crate) fn find_deadline(&self, now: Timestamp) -> Timestamp {
        let leases = self.hearsay.expiries.first().map(|(until, _)| *until);
        let rollouts = self
            .index()
            .unfinished
            .iter()
            .map(|number| self.rollout_deadline(*number, now));
        let schedules = self.schedule_deadline();
        // What is told in several parts is due again at once.
        let alarms = self.alarm_deadline(now + SHORTEST);
        let traffic = self.traffic_deadline(now);
        let all = rollouts.chain(leases).chain(schedules).chain(traffic);
        let all = all.chain([alarms]);
        all.min().unwrap_or(Timestamp::MAX)
    }

    fn rollout_deadline(&self, number: u64, now: Timestamp) -> Timestamp {
        let rollout = &self.facts().rollouts[&number];
        let windows = self.windows_end(number, now);
        if rollout.state != RolloutState::Active {
            return windows;
        }
        let mut deadline = match self.only_late_since(number) {
            Some(since) => return self.late_until(number, since, now),
            None => self.patience_ends(number, now).min(windows),
        };
        for (index, group) in rollout.groups.iter().enumerate() {
            if group.finished_at.is_some() {
                continue;
            }
            let wait = self.group_wait(number, index, now);
            if let Some(until) = wait.as_ref().and_then(WaitReason::until) {
                deadline = deadline.min(until);
            }
            if let Some(due) = self.next_try(number, index, now) {
                deadline = deadline.min(due);
            }
            if let Some(due) = self.gates_due(number, index, now) {
                deadline = deadline.min(due);
            }
            // While something else holds the group back, nobody is asked and nothing expires.
            if let (Some(WaitReason::Approval { .. }), Approval::Asked(since)) =
                (&wait, &group.approval)
            {
                let policy = &group.policy;
                let answered = policy.approved_after.unwrap_or(policy.approval_expiry);
                deadline = deadline.min(*since + answered.min(policy.approval_expiry));
            }
            if let Some(until) = group.soaks_until(now) {
                deadline = deadline.min(until);
            }
            if let Some(WaveState::Open(_)) = group.waves.get(group.current).map(|w| w.state) {
                deadline = deadline.min(now + SILENCE_LOOK);
            }
        }
        deadline.max(now + SHORTEST)
    }

    /// When what is known of the windows of its groups holds no longer: one shuts, which may have to be
    /// told, or opens.
    fn windows_end(&self, number: u64, now: Timestamp) -> Timestamp {
        let rollout = &self.facts().rollouts[&number];
        let known = self.hearsay.windows.range((number, 0, Rules::Group)..);
        let known = known.take_while(|((of, _, _), _)| *of == number);
        // What holds no longer by now is of rules that nobody goes by any more.
        let counts = known.filter(|((_, group, _), seen)| {
            rollout.groups[*group].finished_at.is_none() && seen.holds(now)
        });
        let end = counts.map(|(_, seen)| seen.until).min();
        end.unwrap_or(Timestamp::MAX)
    }

    /// When the first of the late machines that have not begun is given up, of those that are late since then;
    /// those at work have their leases.
    fn late_until(&self, number: u64, since: Timestamp, now: Timestamp) -> Timestamp {
        let late = self.still_pending(number);
        let until = late.map(|machine| since + self.terms_of(machine).catch_up);
        until
            .min()
            .map_or(Timestamp::MAX, |until| until.max(now + SHORTEST))
    }
}
