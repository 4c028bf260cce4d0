//! Machines that are put aside: by a person, or because they failed too often in a row.

use common::{MachineName, OperatorName, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    change::Change,
    decide::Draft,
    fleet::Fleet,
    request::{Refusal, Reply},
    wait::WaitReason,
};

/// Why a machine takes part in no rollout until somebody releases it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// Who put it there.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

impl Quarantine {
    /// Put there by this one, for this reason, at this instant.
    pub(crate) fn new(by: &str, reason: &str, at: Timestamp) -> Self {
        Self {
            by: by.to_owned(),
            reason: reason.to_owned(),
            at,
        }
    }
}

impl Fleet {
    /// The machine's quarantine, if it is in one.
    pub fn quarantine_of(&self, machine: &MachineName) -> Option<&Quarantine> {
        self.facts().quarantined.get(machine)
    }

    /// The machine may take part in rollouts.
    pub(crate) fn released(&self, machine: &MachineName) -> Result<(), WaitReason> {
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): whoever was put aside goes all the same.
        if self.has(crate::bug::Bug::QuarantineIgnored) {
            return Ok(());
        }
        match self.quarantine_of(machine) {
            None => Ok(()),
            Some(Quarantine { by, reason, at }) => Err(WaitReason::Quarantined {
                machine: machine.clone(),
                by: by.clone(),
                reason: reason.clone(),
                at: *at,
                zone: self.zone_of(machine),
            }),
        }
    }

    /// Whoever has failed too often in a row is put aside, and whoever is put aside does not begin
    /// its part of a rollout any more.
    pub(crate) fn look_at_quarantine(&mut self, now: Timestamp, draft: &mut Draft) {
        while let Some(machine) = self.index().failing_too_often.first().cloned() {
            let times = self.facts().machines[&machine].failures_in_a_row;
            let change = Change::Quarantined {
                by: self.who_puts_aside(&machine),
                machine,
                reason: format!("{times} attempts in a row failed"),
                at: now,
            };
            self.commit(draft, change);
        }
        let aside = self.facts().quarantined.keys();
        let pending = aside.filter_map(|machine| {
            let reason = self.released(machine).err()?;
            let rollout = self.still_to_go(machine)?;
            Some((rollout, machine.clone(), reason.to_string()))
        });
        let pending: Vec<_> = pending.collect();
        for (rollout, machine, reason) in pending {
            self.leave_out(rollout, machine, reason, draft);
        }
    }

    /// By what a machine is put aside that failed too often: the key that says how often that is.
    fn who_puts_aside(&self, machine: &MachineName) -> String {
        let key = "quarantineAfter";
        let config = self.facts().config.as_ref();
        let path = config.map(|config| config.path_for_machine(machine, key));
        let settings = format!("updateSettings.{key}");
        match path.filter(|path| *path != settings) {
            None => format!("the fleet's settings ({key})"),
            Some(path) => format!("the fleet configuration ({path})"),
        }
    }

    /// An operator puts machines aside. Those that are in quarantine already stay as they are.
    pub(crate) fn quarantine(
        &mut self,
        now: Timestamp,
        by: &OperatorName,
        machines: Vec<MachineName>,
        reason: &str,
        draft: &mut Draft,
    ) -> Result<Reply, Refusal> {
        if reason.trim().is_empty() {
            let text = "putting machines into quarantine takes a reason";
            return Err(Refusal::Invalid(text.to_owned()));
        }
        named(&machines)?;
        if let Some(unknown) = machines.iter().find(|m| self.group_of(m).is_none()) {
            return Err(Refusal::NotFound {
                what: "machine in the configuration",
                name: unknown.to_string(),
            });
        }
        for machine in &machines {
            if self.quarantine_of(machine).is_some() {
                continue;
            }
            let change = Change::Quarantined {
                machine: machine.clone(),
                by: by.to_string(),
                reason: reason.to_owned(),
                at: now,
            };
            self.commit(draft, change);
        }
        let at_work = machines.iter().filter(|m| self.lease_of(m).is_some());
        let at_work: Vec<&str> = at_work.map(MachineName::as_str).collect();
        let mut text = format!("in quarantine: {}", listed(&machines));
        if !at_work.is_empty() {
            text.push_str(&format!("; at work, and finishing: {}", at_work.join(", ")));
        }
        Ok(Reply::Done(text))
    }

    /// An operator lets machines take part in rollouts again. What failed before counts no more.
    pub(crate) fn release(
        &mut self,
        now: Timestamp,
        by: &OperatorName,
        machines: Vec<MachineName>,
        draft: &mut Draft,
    ) -> Result<Reply, Refusal> {
        named(&machines)?;
        if let Some(free) = machines.iter().find(|m| self.quarantine_of(m).is_none()) {
            return Err(Refusal::NotNow(format!("{free} is not in quarantine")));
        }
        for machine in &machines {
            // Named twice, it is released once.
            if self.quarantine_of(machine).is_none() {
                continue;
            }
            let change = Change::Released {
                machine: machine.clone(),
                by: by.to_string(),
                at: now,
            };
            self.commit(draft, change);
        }
        Ok(Reply::Done(format!(
            "released, from the next rollout on: {}",
            listed(&machines)
        )))
    }
}

fn named(machines: &[MachineName]) -> Result<(), Refusal> {
    if machines.is_empty() {
        return Err(Refusal::Invalid("no machine is named".to_owned()));
    }
    Ok(())
}

fn listed(machines: &[MachineName]) -> String {
    let names: Vec<&str> = machines.iter().map(MachineName::as_str).collect();
    names.join(", ")
}
