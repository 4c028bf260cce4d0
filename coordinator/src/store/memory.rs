//! A store in memory, for tests and simulations. Clones share their content, as two openings of
//! one directory would.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use common::Timestamp;
use coordinator_core::{fleet::Facts, history::Entry};

use super::{
    Archive, Batch, ConfigRevision, HistoryQuery, Loaded, Page, Place, Record, Store, StoreError,
};
use crate::audit::{self, AuditCheck, AuditRecord, Chain};

/// Keeps everything until the last clone is dropped.
#[derive(Clone, Default)]
pub struct MemoryStore {
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    snapshot: Facts,
    records: Vec<Record>,
    history: Vec<Entry>,
    audit: Vec<Vec<u8>>,
    chain: Chain,
    configs: Vec<ConfigRevision>,
}

impl MemoryStore {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Nothing below panics while it holds the lock.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        let kept = self.kept();
        Ok(Loaded {
            snapshot: kept.snapshot.clone(),
            records: kept.records.clone(),
        })
    }

    fn append(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let mut kept = self.kept();
        let mut chain = kept.chain;
        for entry in &batch.audit {
            let what = "an audit record";
            let (_, record) = chain
                .link(batch.at, entry)
                .map_err(|source| StoreError::Encode { what, source })?;
            kept.audit.push(record);
        }
        kept.chain = chain;
        kept.history.extend(batch.history.iter().cloned());
        kept.configs
            .extend(batch.changes.iter().filter_map(ConfigRevision::of));
        if !batch.changes.is_empty() {
            kept.records.push(Record {
                at: batch.at,
                changes: batch.changes.clone(),
            });
        }
        Ok(())
    }

    fn snapshot(&mut self, facts: &Facts) -> Result<(), StoreError> {
        let mut kept = self.kept();
        kept.snapshot = facts.clone();
        kept.records.clear();
        Ok(())
    }

    fn journal_len(&self) -> u64 {
        self.kept().records.len() as u64
    }

    fn archive(&self) -> Arc<dyn Archive> {
        Arc::new(self.clone())
    }
}

impl Archive for MemoryStore {
    fn history(&self, query: &HistoryQuery, _: Option<Place>) -> Result<Page, StoreError> {
        let kept = self.kept();
        let newest_first = kept.history.iter().rev();
        let entries = newest_first
            .filter(|entry| entry.at >= query.since && query.fits(entry))
            .take(query.limit)
            .cloned();
        Ok(Page {
            entries: entries.collect(),
            next: None,
        })
    }

    fn audit(&self, since: Timestamp, limit: usize) -> Result<Vec<AuditRecord>, StoreError> {
        let kept = self.kept();
        let newest_first = kept
            .audit
            .iter()
            .rev()
            .filter_map(|record| audit::read(record));
        Ok(newest_first
            .take_while(|record| record.body.at >= since)
            .take(limit)
            .collect())
    }

    fn verify_audit(&self) -> Result<AuditCheck, StoreError> {
        audit::verify(self.kept().audit.iter().map(Ok))
    }

    fn config(&self, revision: u64) -> Result<Option<ConfigRevision>, StoreError> {
        let kept = self.kept();
        Ok(kept
            .configs
            .iter()
            .find(|c| c.revision == revision)
            .cloned())
    }

    fn configs(&self, limit: usize) -> Result<Vec<ConfigRevision>, StoreError> {
        Ok(self
            .kept()
            .configs
            .iter()
            .rev()
            .take(limit)
            .cloned()
            .collect())
    }
}
