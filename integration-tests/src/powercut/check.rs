//! What is in the store after a cut, against what was promised before it.

use std::{collections::BTreeMap, path::Path};

use common::{LeaseId, MachineName, OutcomeKind, Timestamp};
use coordinator::store::{HistoryQuery, Store as _, StoreError, sled::SledStore};
use coordinator_core::{Fleet, history::Entry};

use super::{
    promise::{Ended, Promises},
    work::{pinned_machine, turning_machine, version_of},
};

/// More entries than any run makes.
const ALL: usize = usize::MAX;

/// What the store remembers.
#[derive(Debug)]
pub(super) struct Remembered {
    fleet: Fleet,
    /// Newest version of every machine that only gets pins, as the fleet has it.
    pins: BTreeMap<u32, u64>,
    /// How many pins the audit log has of each.
    audited: BTreeMap<u32, u64>,
    /// How many confirmed attempts the history has of each turning machine.
    confirmed: BTreeMap<u32, u64>,
}

/// What does not fit.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Promises that the store does not know of.
    pub(super) lost: u64,
    /// Contradictions: something half there, or there although nobody asked for it.
    pub(super) wrong: Vec<String>,
}

impl Remembered {
    /// Opens the store and reads all of it back; its rules are checked by the replay.
    pub(super) fn read(store: &Path, askers: u32, now: Timestamp) -> Result<Self, StoreError> {
        let mut store = SledStore::open(store)?;
        let fleet = store.load()?.replay(now)?;
        let archive = store.archive();
        let chain = archive.verify_audit()?;
        if let Some(fault) = chain.fault {
            return Err(StoreError::Content(format!("the audit log: {fault}")));
        }
        let audit = archive.audit(Timestamp::default(), ALL)?;
        let query = HistoryQuery {
            limit: ALL,
            ..HistoryQuery::default()
        };
        let (mut history, mut from) = (Vec::new(), None);
        loop {
            let page = archive.history(&query, from)?;
            history.extend(page.entries);
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        let mut remembered = Self {
            fleet,
            pins: BTreeMap::new(),
            audited: BTreeMap::new(),
            confirmed: BTreeMap::new(),
        };
        let mut pins_of: BTreeMap<&str, u64> = BTreeMap::new();
        for record in audit
            .iter()
            .filter(|record| record.body.action == "prepare")
        {
            *pins_of.entry(&record.body.reason).or_default() += 1;
        }
        let mut confirmed_of: BTreeMap<&MachineName, u64> = BTreeMap::new();
        for machine in history.iter().filter_map(confirmed) {
            *confirmed_of.entry(machine).or_default() += 1;
        }
        for number in 0..askers / 2 {
            if let Ok(name) = pinned_machine(number) {
                let machine = remembered.fleet.facts().machines.get(&name);
                let pin = machine.and_then(|machine| version_of(&machine.pin.as_ref()?.target));
                remembered.pins.insert(number, pin.unwrap_or(0));
                let audited = pins_of.get(name.as_str()).copied();
                remembered.audited.insert(number, audited.unwrap_or(0));
            }
            if let Ok(name) = turning_machine(number) {
                let count = confirmed_of.get(&name).copied().unwrap_or(0);
                remembered.confirmed.insert(number, count);
            }
        }
        Ok(remembered)
    }

    /// What of these promises is not there.
    pub(super) fn lost(&self, promises: &Promises) -> u64 {
        let mut lost = 0;
        for (machine, version) in &promises.pinned {
            lost += version.saturating_sub(self.pin(*machine));
        }
        for (machine, ended) in &promises.ended {
            lost += ended.count.saturating_sub(self.count(*machine));
        }
        for (machine, lease) in &promises.granted {
            lost += u64::from(!self.knows(*machine, LeaseId(*lease), promises));
        }
        lost
    }

    /// Compares with every promise that was heard.
    pub(super) fn against(&self, promises: &Promises) -> Found {
        let mut wrong = Vec::new();
        for (machine, version) in &self.pins {
            let promised = promises.pinned.get(machine).copied().unwrap_or(0);
            // One that was asked for and not acknowledged may be there, but not a second.
            if *version > promised + 1 {
                wrong.push(format!("p{machine} has version {version} after {promised}"));
            }
            let audited = self.audited.get(machine).copied().unwrap_or(0);
            if audited != *version {
                wrong.push(format!(
                    "p{machine} has version {version}, the audit log {audited} pins"
                ));
            }
        }
        for (machine, count) in &self.confirmed {
            let promised = promises.ended.get(machine).copied().unwrap_or_default();
            if *count > promised.count + 1 {
                wrong.push(format!(
                    "t{machine} has {count} results after {}",
                    promised.count
                ));
            }
        }
        Found {
            lost: self.lost(promises),
            wrong,
        }
    }

    /// What the store has is what holds from here on: what was asked for in the last moment and not
    /// acknowledged may be there or not, but does not come or go later.
    pub(super) fn holds(&self, promises: &mut Promises) {
        promises.pinned.clone_from(&self.pins);
        for (machine, count) in &self.confirmed {
            promises.ended.entry(*machine).or_default().count = *count;
        }
        // A grant that nobody began is given back when its machine polls after its boot.
        promises.granted.clear();
    }

    fn pin(&self, machine: u32) -> u64 {
        self.pins.get(&machine).copied().unwrap_or(0)
    }

    fn count(&self, machine: u32) -> u64 {
        self.confirmed.get(&machine).copied().unwrap_or(0)
    }

    /// Whether the fleet remembers this grant: its number is used up, and the lease is held or has
    /// ended with a result.
    fn knows(&self, machine: u32, lease: LeaseId, promises: &Promises) -> bool {
        let facts = self.fleet.facts();
        let Ended { lease: last, count } =
            promises.ended.get(&machine).copied().unwrap_or_default();
        let ended = last == lease.0 || self.count(machine) > count;
        facts.next_lease > lease && (ended || facts.leases.contains_key(&lease))
    }
}

/// The machine of an attempt that ended well.
fn confirmed(entry: &Entry) -> Option<&MachineName> {
    let done = entry.kind == "attempt" && entry.verdict == Some(OutcomeKind::Confirmed);
    entry.machine.as_ref().filter(|_| done)
}
