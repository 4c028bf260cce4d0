//! Journals of earlier versions load for ever.
//!
//! Each `.jsonl` beside this file is a snapshot and the records after it, one JSON document a line, as
//! `lab-coordinator journal dump` prints them. A file that is there is never written again; when
//! facts are added, `LAB_WRITE_JOURNAL=v2 cargo test -p coordinator --test journals` writes a new
//! one beside it.

mod chapters;
mod story;

use std::{collections::BTreeSet, fs, path::PathBuf};

use common::Timestamp;
use coordinator::store::{Batch, Record, Store as _, memory::MemoryStore};
use coordinator_core::fleet::Facts;
use serde_json::Value;

use self::chapters::life_of_a_fleet;

/// Every kind of fact that the journals together must have.
const FACTS: [&str; 50] = [
    "config-set",
    "reported",
    "pinned",
    "rollout-created",
    "approval-asked",
    "approved",
    "wave-opened",
    "wave-soaking",
    "wave-closed",
    "group-finished",
    "lease-granted",
    "lease-overdue",
    "lease-revived",
    "lease-ended",
    "lease-lost",
    "recovered",
    "arrived",
    "declined",
    "skipped",
    "rollout-paused",
    "rollout-resumed",
    "rollout-aborted",
    "rollout-ended",
    "stopped",
    "stop-lifted",
    "restored",
    "forgotten",
    "token-created",
    "token-revoked",
    "certificate-issued",
    "certificate-revoked",
    "identities-forgotten",
    "return-asked",
    "return-approved",
    "return-answered",
    "return-withdrawn",
    "analysis-began",
    "measured",
    "wave-held",
    "promoted",
    "window-missed",
    "schedule",
    "quarantined",
    "released",
    "alarmed",
    "retried",
    "target-quarantined",
    "target-released",
    "nothing-to-take-back",
    "traffic",
];

/// Where runs of schedules begin that the journals together must have.
const STAGES: [&str; 2] = ["checking", "cleaning"];

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/journals")
}

fn now() -> Timestamp {
    Timestamp::from_secs(1_800_000_000)
}

#[test]
fn journals_of_earlier_versions_load() {
    if let Ok(name) = std::env::var("LAB_WRITE_JOURNAL") {
        let file = directory().join(format!("{name}.jsonl"));
        assert!(!file.exists(), "{} is there already", file.display());
        fs::write(file, life_of_a_fleet()).expect("written");
    }
    let mut found = BTreeSet::new();
    let mut stages = BTreeSet::new();
    for file in fs::read_dir(directory()).expect("journals") {
        let path = file.expect("readable").path();
        if path
            .extension()
            .is_none_or(|extension| extension != "jsonl")
        {
            continue;
        }
        let text = fs::read_to_string(&path).expect("readable");
        let mut lines = text.lines();
        let snapshot: Facts =
            serde_json::from_str(lines.next().expect("a snapshot")).expect("facts");
        let mut store = MemoryStore::new();
        store.snapshot(&snapshot).expect("kept");
        for line in lines {
            let record: Record = serde_json::from_str(line).expect(line);
            let raw: Value = serde_json::from_str(line).expect("JSON");
            let facts = raw["changes"].as_array().expect("facts");
            stages.extend(facts.iter().filter_map(stage));
            found.extend(
                facts
                    .iter()
                    .filter_map(|fact| fact["fact"].as_str().map(str::to_owned)),
            );
            let batch = Batch {
                changes: record.changes,
                ..Batch::at(record.at)
            };
            store.append(&batch).expect("kept");
        }
        let fleet = store.load().expect("loaded").replay(now());
        let fleet = fleet.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(!fleet.facts().registry.certificates.is_empty());
    }
    let missing: Vec<&&str> = FACTS
        .iter()
        .filter(|fact| !found.contains(**fact))
        .collect();
    assert!(missing.is_empty(), "no journal has {missing:?}");
    for stage in STAGES {
        assert!(
            stages.contains(stage),
            "no run of a schedule begins {stage}"
        );
    }
}

/// Where a run begins, if this fact is the beginning of one.
fn stage(fact: &Value) -> Option<String> {
    let stage = fact.pointer("/step/run/stage")?;
    let named = stage.as_object().and_then(|stage| stage.keys().next());
    stage.as_str().map(str::to_owned).or_else(|| named.cloned())
}
