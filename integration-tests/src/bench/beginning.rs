//! What the store of the coordinator that is measured begins with.

use std::{fs, path::Path, time::Duration};

use common::{MachineName, OutcomeKind, StorePath, Timestamp};
use coordinator::store::{Batch, Store};
use coordinator_core::{
    Change, FleetConfig,
    history::Entry,
    identity::{Certificate, Holder},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};

use super::{Error, closure};

/// The file in the state directory that says it to the coordinator.
const FILE: &str = "beginning.json";

/// History entries made durable together.
const TOGETHER: usize = 1000;

/// What kind of fleet it is.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Shape {
    /// Groups that the machines are spread over.
    pub(super) groups: usize,
    /// Machines that may be away at once.
    pub(super) away: usize,
    /// Attempts in its history.
    pub(super) history: usize,
}

/// What a new store begins with: machines that have their certificates already.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Beginning {
    /// Machines and the serial numbers of their certificates.
    pub(super) machines: Vec<(MachineName, String)>,
    pub(super) shape: Shape,
}

impl Beginning {
    /// Leaves it in the state directory.
    pub(super) fn write(&self, state: &Path) -> Result<(), Error> {
        Ok(fs::write(state.join(FILE), serde_json::to_vec(self)?)?)
    }

    /// Puts into the store what was left in the state directory, once.
    pub(super) fn take(state: &Path, store: &mut dyn Store, now: Timestamp) -> Result<(), Error> {
        let file = state.join(FILE);
        if !file.exists() {
            return Ok(());
        }
        let this: Self = serde_json::from_slice(&fs::read(&file)?)?;
        store.append(&this.facts(now)?)?;
        let attempts = this.attempts(now)?;
        for entries in attempts.chunks(TOGETHER) {
            store.append(&Batch {
                history: entries.to_vec(),
                ..Batch::at(now)
            })?;
        }
        Ok(fs::remove_file(&file)?)
    }

    fn facts(&self, now: Timestamp) -> Result<Batch, Error> {
        let mut groups = Map::new();
        let per_group = self
            .machines
            .len()
            .div_ceil(self.shape.groups.max(1))
            .max(1);
        for (number, machines) in self.machines.chunks(per_group).enumerate() {
            let names: Vec<&str> = machines.iter().map(|(name, _)| name.as_str()).collect();
            let policy = json!({ "machines": names, "updatePolicy": "aggressive" });
            groups.insert(format!("g{number}"), policy);
        }
        let document = json!({
            "updateGroups": groups,
            "updateSettings": { "maxParallel": self.shape.away, "offlineAfter": "10h" },
        });
        let mut batch = Batch::at(now);
        batch.changes.push(Change::ConfigSet {
            revision: 1,
            config: Box::new(FleetConfig::parse(&document)?),
            by: "bench".to_owned(),
            reason: String::new(),
            at: now,
        });
        batch
            .changes
            .extend(
                self.machines
                    .iter()
                    .map(|(name, serial)| Change::CertificateIssued {
                        serial: serial.clone(),
                        certificate: Certificate {
                            holder: Holder::Machine(name.clone()),
                            issued_at: now,
                            expires_at: now + Duration::from_secs(24 * 3600),
                            revoked: false,
                        },
                        token: None,
                    }),
            );
        Ok(batch)
    }

    /// What the history of a fleet holds that has been updated for long: an attempt every second
    /// up to now.
    fn attempts(&self, now: Timestamp) -> Result<Vec<Entry>, Error> {
        let path = |version| -> Result<StorePath, Error> {
            let text = closure(version);
            text.parse().map_err(|_| Error::Name(text))
        };
        let (from, to) = (path(0)?, path(1)?);
        let machines = self.machines.iter().map(|(name, _)| name).cycle();
        let entries = (0..self.shape.history).zip(machines);
        let entries = entries.map(|(number, machine)| Entry {
            at: now - Duration::from_secs((self.shape.history - number) as u64),
            kind: "attempt".to_owned(),
            machine: Some(machine.clone()),
            verdict: Some(OutcomeKind::Confirmed),
            took_s: 240,
            from: Some(from.clone()),
            to: Some(to.clone()),
            generation: number as u64,
            ..Entry::default()
        });
        Ok(entries.collect())
    }
}
