//! Targets that are put aside: by a person, or because too many machines failed with them. Nobody is updated
//! to one until somebody releases it, nor taken to it by the number of a generation; going back to what ran before is
//! not held up.
//!
//! A closure is one target, and so are all attributes of a flake reference: what one machine has shown of a
//! revision speaks against it everywhere.

use common::{MachineName, OperatorName, RolloutId, Target, Timestamp};

use crate::{
    change::Change,
    decide::Draft,
    fleet::Fleet,
    quarantine::Quarantine,
    request::{Refusal, Reply},
    rollout::{PlaceState, Rollout},
    wait::WaitReason,
};

/// Who puts a target aside that failed on too many machines.
const THE_SETTINGS: &str = "the fleet's settings (quarantineTargetAfter)";

/// Longest name of a target.
const NAME_MAX: usize = 1024;

/// What the targets of machines that are to run the same have in common: a closure's path, a flake's
/// reference without its attribute, or a channel's address.
pub fn source_of(target: &Target) -> &str {
    match target {
        Target::Closure(path) => path.as_str(),
        Target::Flake { reference, .. } => reference,
        Target::Channel { url } => url,
    }
}

impl Fleet {
    /// Nobody has put aside what the machine would come to, or it is no choice of anybody's.
    pub(crate) fn good(
        &self,
        machine: &MachineName,
        chosen: bool,
        target: &Target,
    ) -> Result<(), WaitReason> {
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): what was put aside is gone to all the same.
        if self.has(crate::bug::Bug::BadTargetIgnored) {
            return Ok(());
        }
        let aside = self.facts().targets_aside.get(source_of(target));
        match aside.filter(|_| chosen) {
            None => Ok(()),
            Some(Quarantine { by, reason, at }) => Err(WaitReason::TargetQuarantined {
                target: source_of(target).to_owned(),
                by: by.clone(),
                reason: reason.clone(),
                at: *at,
                zone: self.zone_of(machine),
            }),
        }
    }

    /// What failed on too many machines is put aside.
    pub(crate) fn look_at_targets(&mut self, now: Timestamp, draft: &mut Draft) {
        let config = self.facts().config.as_ref();
        let Some(after) = config.and_then(|config| config.quarantine_target_after) else {
            return;
        };
        while let Some((count, source)) = self.index().failing_targets.last().cloned()
            && after <= count
        {
            let machines = self.index().failing_with.get(&source);
            let machines: Vec<&str> = machines.into_iter().flatten().map(|m| m.as_str()).collect();
            let reason = format!("it failed on {}", machines.join(", "));
            self.put_aside(source, THE_SETTINGS, reason, now, draft);
        }
    }

    fn put_aside(
        &mut self,
        source: String,
        by: &str,
        reason: String,
        now: Timestamp,
        draft: &mut Draft,
    ) {
        let change = Change::TargetQuarantined {
            target: source.clone(),
            by: by.to_owned(),
            reason,
            at: now,
        };
        self.commit(draft, change);
        let unfinished = self.index().unfinished.iter();
        let rollouts = unfinished.map(|number| &self.facts().rollouts[number]);
        let held: Vec<(RolloutId, MachineName, WaitReason)> = rollouts
            .flat_map(|rollout| to_go(rollout).map(move |place| (rollout, place)))
            .filter(|(_, place)| source_of(&place.target) == source)
            .filter_map(|(rollout, place)| {
                let held = self
                    .good(&place.machine, rollout.is_to_a_choice(), &place.target)
                    .err()?;
                // Another rollout may have it by now.
                self.still_to_go(&place.machine)
                    .filter(|id| *id == rollout.id)
                    .map(|id| (id, place.machine.clone(), held))
            })
            .collect();
        for (rollout, machine, held) in held {
            self.leave_out(rollout, machine, held.to_string(), draft);
        }
    }

    /// The machine is still to go to what was put aside: it gave its turn back meanwhile, or another rollout
    /// had it. It does not begin any more; why.
    pub(crate) fn leave_out_of_bad(
        &mut self,
        machine: &MachineName,
        draft: &mut Draft,
    ) -> Option<WaitReason> {
        let (rollout, place) = self.engagement(machine)?;
        if place.state != PlaceState::Pending {
            return None;
        }
        let chosen = rollout.is_to_a_choice();
        let held = self.good(machine, chosen, &place.target).err()?;
        let rollout = rollout.id.clone();
        self.leave_out(rollout, machine.clone(), held.to_string(), draft);
        Some(held)
    }

    /// An operator puts a target aside.
    pub(crate) fn quarantine_target(
        &mut self,
        now: Timestamp,
        by: &OperatorName,
        target: &str,
        reason: String,
        draft: &mut Draft,
    ) -> Result<Reply, Refusal> {
        if reason.trim().is_empty() {
            let text = "putting a target into quarantine takes a reason";
            return Err(Refusal::Invalid(text.to_owned()));
        }
        let source = named(target)?;
        if self.facts().targets_aside.contains_key(source) {
            let text = format!("{source} is in quarantine already");
            return Err(Refusal::NotNow(text));
        }
        let pins = self.facts().machines.values();
        let pins = pins.filter_map(|machine| machine.pin.as_ref());
        let wanted = pins.filter(|pin| source_of(&pin.target) == source).count();
        self.put_aside(source.to_owned(), by.as_str(), reason, now, draft);
        let who = match wanted {
            0 => "no machine is to run it now".to_owned(),
            1 => "1 machine was to run it".to_owned(),
            many => format!("{many} machines were to run it"),
        };
        Ok(Reply::Done(format!("in quarantine: {source}; {who}")))
    }

    /// An operator lets machines be updated to a target again.
    pub(crate) fn release_target(
        &mut self,
        now: Timestamp,
        by: &OperatorName,
        target: &str,
        draft: &mut Draft,
    ) -> Result<Reply, Refusal> {
        let source = named(target)?;
        if !self.facts().targets_aside.contains_key(source) {
            let text = format!("{source} is not in quarantine");
            return Err(Refusal::NotNow(text));
        }
        let change = Change::TargetReleased {
            target: source.to_owned(),
            by: by.to_string(),
            at: now,
        };
        self.commit(draft, change);
        Ok(Reply::Done(format!(
            "released, from the next rollout on: {source}"
        )))
    }
}

/// Places that have not begun.
fn to_go(rollout: &Rollout) -> impl Iterator<Item = &crate::rollout::Place> {
    let pending = |place: &&crate::rollout::Place| place.state == PlaceState::Pending;
    rollout.places().filter(pending)
}

/// The target as it is kept: what follows a `#` is one machine's part of it.
fn named(target: &str) -> Result<&str, Refusal> {
    let source = target.split('#').next().unwrap_or_default().trim();
    let good = !source.is_empty()
        && source.len() <= NAME_MAX
        && !source.chars().any(|c| c.is_control() || c.is_whitespace());
    if good {
        Ok(source)
    } else {
        let text = "a target is a closure's path, a flake reference, or a channel's address";
        Err(Refusal::Invalid(text.to_owned()))
    }
}
