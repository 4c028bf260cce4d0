//! Why one machine does not go now, or what it is at.

use common::{Action, GroupName, MachineName, RolloutId, Timestamp};

use crate::{
    fleet::Fleet,
    identity::Holder,
    request::Refusal,
    wait::{WaitReason, Whom},
};

/// Why a machine does not go.
#[derive(Clone, Debug, PartialEq)]
pub struct WhyView {
    /// Which machine.
    pub machine: MachineName,
    /// The reason; none when it could go this instant, or has its turn.
    pub wait: Option<WaitReason>,
    /// Its part in a rollout, if it has one: id and state.
    pub place: Option<(RolloutId, &'static str)>,
    /// Its group, if it is in one.
    pub group: Option<GroupName>,
    /// What that rollout does.
    pub action: Option<Action>,
    /// Whether it has its turn: it holds a lease, live or overdue.
    pub has_turn: bool,
    /// Step of its running attempt, by its last word.
    pub step: String,
}

impl WhyView {
    /// Of whom the reason is told.
    pub fn whom(&self) -> Whom<'_> {
        let rollout = self.place.as_ref().map(|(rollout, _)| rollout);
        Whom {
            machine: Some(&self.machine),
            group: self.group.as_ref(),
            rollout: rollout.zip(self.action),
        }
    }
}

impl Fleet {
    pub(super) fn why(&self, machine: &MachineName, now: Timestamp) -> Result<WhyView, Refusal> {
        if !self.has_heard_of(machine) {
            return Err(Refusal::NotFound {
                what: "machine",
                name: machine.to_string(),
            });
        }
        let place = self.index().place_of.get(machine);
        let place = place.and_then(|at| self.at(*at));
        let action = place.map(|(rollout, _, _)| rollout.action);
        let group = place.map(|(_, group, _)| &group.name);
        let group = group.or_else(|| self.group_of(machine)).cloned();
        let place = place.map(|(rollout, _, place)| (rollout.id.clone(), place.state.word()));
        let lease = self.lease_of(machine);
        // A lease outlives its rollout when that is aborted.
        let held = lease.map(|lease| match lease.overdue_since {
            Some(_) => (lease.rollout.clone(), "overdue"),
            None => (lease.rollout.clone(), "leased"),
        });
        let known = self.facts().machines.get(machine);
        let attempt = known.and_then(|machine| machine.heard.attempt.as_ref());
        Ok(WhyView {
            machine: machine.clone(),
            wait: match lease {
                Some(_) => None,
                None => self.permission(machine, now).err(),
            },
            place: held.or(place),
            group,
            action,
            has_turn: lease.is_some(),
            step: attempt.map_or_else(String::new, |attempt| attempt.step.clone()),
        })
    }

    /// Whether anything is known of a machine of that name, be it only that it has a certificate.
    fn has_heard_of(&self, machine: &MachineName) -> bool {
        let enrolled = |holder: &Holder| match holder {
            Holder::Machine(name) => name == machine,
            Holder::Operator { .. } => false,
        };
        let mut certificates = self.facts().registry.certificates.values();
        self.group_of(machine).is_some()
            || self.facts().machines.contains_key(machine)
            || certificates.any(|certificate| enrolled(&certificate.holder))
    }
}
