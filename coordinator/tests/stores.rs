//! Stores of earlier versions open for ever, and give back the same facts.
//!
//! Each directory in `stores/` is a store as it lay on a disk, and the `.json` beside it the facts
//! that come of it. What is there is never written again; when the store changes,
//! `LAB_WRITE_STORE=v2 cargo test -p coordinator --test stores` writes a new one beside it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use common::Timestamp;
use coordinator::store::{Batch, HistoryQuery, Record, Store as _, sled::SledStore};
use coordinator_core::{
    Fleet,
    fleet::Facts,
    history::Entry,
    identity::{Actor, Role, Who},
    request::AuditEntry,
};
use serde_json::Value;
use tempfile::TempDir;

fn directory(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(name)
}

fn now() -> Timestamp {
    Timestamp::from_secs(1_800_000_000)
}

/// The files of a store, where they may be written to.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for file in fs::read_dir(from).expect("readable") {
        let file = file.expect("readable");
        fs::copy(file.path(), to.join(file.file_name())).expect("copied");
    }
}

#[test]
fn stores_of_earlier_versions_open_and_say_the_same() {
    if let Ok(name) = std::env::var("LAB_WRITE_STORE") {
        write(&name);
    }
    let mut found = 0;
    for entry in fs::read_dir(directory("stores")).expect("stores") {
        let path = entry.expect("readable").path();
        if !path.is_dir() {
            continue;
        }
        found += 1;
        let name = path.display();
        let place = TempDir::new().expect("a directory");
        copy(&path, &place.path().join("store"));
        let mut store = SledStore::open(&place.path().join("store")).expect("opens");
        let loaded = store.load().expect("loads");
        assert_ne!(loaded.snapshot, Facts::default(), "{name} has no snapshot");
        assert!(!loaded.records.is_empty(), "{name} has no journal after it");
        let fleet = loaded.replay(now()).expect("sound");
        let golden = fs::read_to_string(path.with_extension("json")).expect("facts");
        let golden: Value = serde_json::from_str(&golden).expect("JSON");
        let found = serde_json::to_value(fleet.facts()).expect("JSON");
        assert_eq!(difference(&golden, &found, "facts"), None, "{name}");

        let archive = store.archive();
        let audit = archive.verify_audit().expect("readable");
        assert!(audit.records > 0 && audit.fault.is_none(), "{audit:?}");
        let all = HistoryQuery {
            limit: 10,
            ..HistoryQuery::default()
        };
        let history = archive.history(&all, None).expect("readable");
        assert!(!history.entries.is_empty());
        let revision = fleet.facts().revision;
        let config = archive.config(revision).expect("readable");
        assert_eq!(config.expect("there").revision, revision);
        // And it can be worked with.
        store.append(&everything()).expect("durable");
        store.snapshot(fleet.facts()).expect("begun");
    }
    assert!(found > 0, "no stores");
}

/// Where the facts are not those that were written down then. What later versions know besides is
/// none: fields are only ever added.
fn difference(golden: &Value, found: &Value, path: &str) -> Option<String> {
    let differs = || {
        Some(format!(
            "{path}: {golden} was written down, {found} is found"
        ))
    };
    match (golden, found) {
        (Value::Object(then), Value::Object(now)) => then.iter().find_map(|(key, value)| {
            let at = format!("{path}.{key}");
            difference(value, now.get(key).unwrap_or(&Value::Null), &at)
        }),
        (Value::Array(then), Value::Array(now)) if then.len() == now.len() => {
            let pairs = then.iter().zip(now).enumerate();
            pairs
                .map(|(index, pair)| (format!("{path}[{index}]"), pair))
                .find_map(|(at, (then, now))| difference(then, now, &at))
        }
        _ if golden == found => None,
        _ => differs(),
    }
}

/// Something for every part of a store but the journal.
fn everything() -> Batch {
    let who = Who::Operator(Actor {
        name: "ada".parse().expect("a name"),
        role: Role::Admin,
        serial: "4f".into(),
    });
    Batch {
        history: vec![Entry {
            at: now(),
            kind: "notify".into(),
            text: "hello".into(),
            ..Entry::default()
        }],
        audit: vec![AuditEntry {
            who,
            action: "notify".into(),
            object: "all".into(),
            reason: String::new(),
            result: "done".into(),
        }],
        ..Batch::at(now())
    }
}

/// Makes a store of the newest journal there is, its first half in a snapshot.
fn write(name: &str) {
    let target = directory("stores").join(name);
    assert!(!target.exists(), "{} is there already", target.display());
    let journals = fs::read_dir(directory("journals")).expect("journals");
    let newest = journals.map(|file| file.expect("readable").path()).max();
    let text = fs::read_to_string(newest.expect("a journal")).expect("readable");
    let mut lines = text.lines();
    let first: Facts = serde_json::from_str(lines.next().expect("facts")).expect("facts");
    let records: Vec<Record> = lines
        .map(|line| serde_json::from_str(line).expect(line))
        .collect();

    let place = TempDir::new().expect("a directory");
    let mut store = SledStore::open(&place.path().join("store")).expect("a store");
    let mut fleet = Fleet::load(first, now());
    store.append(&everything()).expect("durable");
    let half = records.len() / 2;
    for (number, record) in records.into_iter().enumerate() {
        record.changes.iter().for_each(|change| fleet.apply(change));
        let batch = Batch {
            changes: record.changes,
            ..Batch::at(record.at)
        };
        store.append(&batch).expect("durable");
        if number == half {
            store.snapshot(fleet.facts()).expect("begun");
        }
    }
    drop(store);
    let mut store = SledStore::open(&place.path().join("store")).expect("a store");
    let fleet = store.load().expect("loads").replay(now()).expect("sound");
    drop(store);
    fs::create_dir_all(&target).expect("made");
    for file in fs::read_dir(place.path().join("store")).expect("readable") {
        let file = file.expect("readable");
        if file.path().is_file() {
            fs::copy(file.path(), target.join(file.file_name())).expect("copied");
        }
    }
    let facts = serde_json::to_string_pretty(fleet.facts()).expect("JSON");
    fs::write(target.with_extension("json"), facts + "\n").expect("written");
}
