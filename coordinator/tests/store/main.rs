//! The store on disk: what goes in comes back, in any size and over any restart; what is not whole
//! or not ours is refused with a reason.

mod archive;

use std::time::Duration;

use common::{Epoch, LeaseId, MachineName, Timestamp};
use coordinator::{
    offline,
    store::{Batch, Store, StoreError, sled::SledStore},
};
use coordinator_core::{
    Change, Fleet, FleetConfig,
    fleet::Facts,
    history::Entry,
    identity::{Actor, Role, Who},
    request::AuditEntry,
};
use proptest::prelude::*;
use tempfile::TempDir;

fn now() -> Timestamp {
    Timestamp::from_secs(1_800_000_000)
}

fn machine(number: usize) -> MachineName {
    format!("m{number}").parse().expect("a name")
}

/// A fact that says its number.
fn fact(number: usize) -> Change {
    Change::Forgotten {
        machine: machine(number),
        by: "ada".into(),
        reason: number.to_string(),
        at: now(),
    }
}

fn facts(changes: &[Change]) -> Batch {
    Batch {
        changes: changes.to_vec(),
        ..Batch::at(now())
    }
}

fn config(revision: u64, machines: usize) -> Change {
    let machines: Vec<String> = (0..machines).map(|n| format!("machine-{n:05}")).collect();
    let document = serde_json::json!({ "updateGroups": { "all": { "machines": machines } } });
    Change::ConfigSet {
        revision,
        config: Box::new(FleetConfig::parse(&document).expect("valid")),
        by: "ada".into(),
        reason: String::new(),
        at: now(),
    }
}

fn audit(object: &str) -> AuditEntry {
    AuditEntry {
        who: Who::Operator(Actor {
            name: "ada".parse().expect("a name"),
            role: Role::Admin,
            serial: "4f".into(),
        }),
        action: "forget".into(),
        object: object.into(),
        reason: String::new(),
        result: "done".into(),
    }
}

/// Opens the store. sled gives its lock back from a thread of its own, a little after the store
/// before was dropped.
fn open(directory: &TempDir) -> SledStore {
    SledStore::open(&directory.path().join("store")).expect("a store")
}

fn changes_in(store: &mut SledStore) -> Vec<Change> {
    let loaded = store.load().expect("loaded");
    loaded
        .records
        .into_iter()
        .flat_map(|record| record.changes)
        .collect()
}

#[test]
fn batches_come_back_in_order() {
    let directory = TempDir::new().expect("a directory");
    let mut store = open(&directory);
    for number in 0..50 {
        store
            .append(&facts(&[fact(number), fact(number + 1000)]))
            .expect("durable");
    }
    assert_eq!(store.journal_len(), 50);
    drop(store);
    let mut store = open(&directory);
    let expected: Vec<Change> = (0..50)
        .flat_map(|number| [fact(number), fact(number + 1000)])
        .collect();
    assert_eq!(changes_in(&mut store), expected);
    assert_eq!(store.journal_len(), 50);
}

fn replayed(store: &mut SledStore) -> Facts {
    store
        .load()
        .expect("loaded")
        .replay(now())
        .expect("sound")
        .facts()
        .clone()
}

/// Nothing went into files that sled never syncs.
fn no_blobs(directory: &TempDir) {
    let blobs = directory.path().join("store/blobs");
    assert_eq!(std::fs::read_dir(blobs).expect("a directory").count(), 0);
}

#[test]
fn a_snapshot_that_sled_was_writing_is_no_obstacle() {
    let directory = TempDir::new().expect("a directory");
    let mut store = open(&directory);
    store.append(&facts(&[fact(1)])).expect("durable");
    drop(store);
    drop(open(&directory));
    // As a power cut or a full disk leaves it.
    let half = directory
        .path()
        .join("store/snap.00FFFFFFFFFFFFFF.generating");
    std::fs::write(&half, "").expect("written");
    let mut store = open(&directory);
    assert_eq!(changes_in(&mut store), [fact(1)]);
    assert!(!half.exists());
}

#[test]
fn a_store_whose_making_was_cut_short_is_made_anew() {
    let directory = TempDir::new().expect("a directory");
    let mark = directory.path().join("store.unfinished");
    std::fs::create_dir(directory.path().join("store")).expect("made");
    std::fs::write(directory.path().join("store/db"), "").expect("written");
    // Without the mark something was there, and beginning anew would forget it.
    let refused = SledStore::open(&directory.path().join("store")).err();
    assert!(matches!(refused, Some(StoreError::Damaged { .. })));
    std::fs::write(&mark, "").expect("written");
    let mut store = open(&directory);
    store.append(&facts(&[fact(1)])).expect("durable");
    drop(store);
    assert!(!mark.exists());
    assert_eq!(changes_in(&mut open(&directory)), [fact(1)]);
}

#[test]
fn large_records_come_back_whole() {
    let directory = TempDir::new().expect("a directory");
    // Half a megabyte, more than a hundred chunks.
    let large = config(1, 40_000);
    let mut store = open(&directory);
    store.append(&facts(&[fact(1)])).expect("durable");
    store
        .append(&facts(std::slice::from_ref(&large)))
        .expect("durable");
    store.append(&facts(&[fact(2)])).expect("durable");
    drop(store);
    let mut store = open(&directory);
    assert_eq!(changes_in(&mut store), [fact(1), large, fact(2)]);
    let kept = store.archive().config(1).expect("readable").expect("there");
    let machines = &kept.document["updateGroups"]["all"]["machines"];
    assert_eq!(machines.as_array().map(Vec::len), Some(40_000));
    let facts = replayed(&mut store);
    store.snapshot(&facts).expect("durable");
    no_blobs(&directory);
}

#[test]
fn a_snapshot_replaces_the_journal_before_it() {
    let directory = TempDir::new().expect("a directory");
    let mut store = open(&directory);
    let mut fleet = Fleet::new(now());
    for revision in 1..=3 {
        let change = config(revision, 5_000);
        fleet.apply(&change);
        store.append(&facts(&[change])).expect("durable");
    }
    for _ in 0..2 {
        store.snapshot(fleet.facts()).expect("durable");
    }
    assert_eq!(store.journal_len(), 0);
    store.append(&facts(&[config(4, 7)])).expect("durable");
    drop(store);
    let mut store = open(&directory);
    let loaded = store.load().expect("loaded");
    assert_eq!(&loaded.snapshot, fleet.facts());
    assert_eq!(loaded.records.len(), 1);
    assert_eq!(store.journal_len(), 1);
    // What was in force once can still be looked at.
    let revisions = store.archive().configs(10).expect("readable");
    let numbers: Vec<u64> = revisions.iter().map(|revision| revision.revision).collect();
    assert_eq!(numbers, [4, 3, 2, 1]);
}

/// Chunks of the snapshot with this number, as a process that ended while it wrote them leaves them.
fn broken_off(directory: &TempDir, number: u64, chunks: std::ops::Range<u32>) {
    with_tree(directory, "snapshot", |tree| {
        for chunk in chunks {
            let key = [number.to_be_bytes().as_slice(), &chunk.to_be_bytes()].concat();
            tree.insert(key, vec![b'x'; 4096]).expect("written");
        }
    });
}

#[test]
fn remains_of_a_snapshot_that_was_broken_off_are_no_obstacle() {
    let directory = TempDir::new().expect("a directory");
    let mut fleet = Fleet::new(now());
    let mut store = open(&directory);
    let mut add = |store: &mut SledStore, change: Change| {
        fleet.apply(&change);
        store.append(&facts(&[change])).expect("durable");
        store.snapshot(fleet.facts()).expect("begun");
        fleet.facts().clone()
    };
    add(&mut store, config(1, 10));
    drop(store);
    broken_off(&directory, 2, 0..50);
    let mut store = open(&directory);
    let expected = add(&mut store, config(2, 20));
    drop(store);
    with_tree(&directory, "snapshot", |tree| {
        assert!(tree.len() < 50, "the remains are gone");
    });
    let loaded = open(&directory).load().expect("loaded");
    assert_eq!((&loaded.snapshot, loaded.records.len()), (&expected, 0));
    // Left by a version that did not clear them away.
    broken_off(&directory, 2, 50..52);
    assert_eq!(open(&directory).load().expect("loaded").snapshot, expected);
}

/// The database itself; whoever had it may just be letting it go.
fn database(directory: &TempDir) -> sled::Db {
    for _ in 0..100 {
        match sled::open(directory.path().join("store")) {
            Err(sled::Error::Io(error)) if error.to_string().contains("lock") => {
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
            opened => return opened.expect("sled"),
        }
    }
    panic!("somebody keeps the database");
}

fn with_tree(directory: &TempDir, tree: &str, change: impl FnOnce(&sled::Tree)) {
    let db = database(directory);
    change(&db.open_tree(tree).expect("a tree"));
    db.flush().expect("flushed");
}

#[test]
fn the_longest_entries_stay_small_values() {
    let directory = TempDir::new().expect("a directory");
    let mut store = open(&directory);
    let entry = Entry {
        text: "\"".repeat(100_000),
        ..Entry::default()
    };
    for _ in 0..40 {
        let batch = Batch {
            audit: vec![audit(&entry.text); 3],
            history: vec![entry.clone(); 3],
            ..Batch::at(now())
        };
        store.append(&batch).expect("durable");
    }
    no_blobs(&directory);
}

#[test]
fn a_newer_format_is_refused_and_a_newer_minor_one_is_not() {
    let directory = TempDir::new().expect("a directory");
    drop(open(&directory));
    let set = |text: &str| {
        with_tree(&directory, "meta", |meta| {
            meta.insert("format", text).expect("written");
        });
        SledStore::open(&directory.path().join("store")).map(drop)
    };
    assert!(set(r#"{"major":1,"minor":7,"new":"field"}"#).is_ok());
    let error = set(r#"{"major":2,"minor":0}"#).expect_err("too new");
    assert!(matches!(error, StoreError::Newer { found: 2, known: 1 }));
    assert!(error.to_string().contains("newer version"));
}

/// A store with five facts, in a batch each.
fn write_five(directory: &TempDir) {
    let mut store = open(directory);
    for number in 0..5 {
        store.append(&facts(&[fact(number)])).expect("durable");
    }
}

#[test]
fn gaps_and_cut_entries_are_refused() {
    for damage in ["gap", "cut", "text"] {
        let directory = TempDir::new().expect("a directory");
        write_five(&directory);
        with_tree(&directory, "journal", |journal| {
            let (key, value) = journal.iter().nth(2).expect("an entry").expect("readable");
            match damage {
                "gap" => journal.remove(key).map(drop),
                "cut" => journal.insert(key, &value[..value.len() - 3]).map(drop),
                _ => {
                    let mut other = value.to_vec();
                    other[9] = b'!';
                    journal.insert(key, other).map(drop)
                }
            }
            .expect("written");
        });
        let error = open(&directory).load().expect_err(damage);
        assert!(matches!(error, StoreError::Content(_)), "{damage}: {error}");
        assert!(error.to_string().contains("restore"), "{error}");
    }
}

#[test]
fn a_lost_tail_is_just_shorter() {
    let directory = TempDir::new().expect("a directory");
    write_five(&directory);
    with_tree(&directory, "journal", |journal| {
        let (key, _) = journal.last().expect("readable").expect("an entry");
        journal.remove(key).expect("removed");
    });
    let mut store = open(&directory);
    assert_eq!(changes_in(&mut store), [fact(0), fact(1), fact(2), fact(3)]);
    store.append(&facts(&[fact(9)])).expect("durable");
    assert_eq!(changes_in(&mut store).last(), Some(&fact(9)));
}

#[test]
fn a_second_coordinator_is_told_so() {
    let directory = TempDir::new().expect("a directory");
    let _first = open(&directory);
    let error = SledStore::open(&directory.path().join("store"))
        .map(drop)
        .expect_err("in use");
    assert!(matches!(error, StoreError::InUse(_)), "{error:?}");
}

#[test]
fn a_directory_full_of_something_else_is_no_panic() {
    let directory = TempDir::new().expect("a directory");
    let store = directory.path().join("store");
    std::fs::create_dir(&store).expect("a directory");
    for (name, content) in [("db", "no store".repeat(1000)), ("conf", "odd".to_owned())] {
        std::fs::write(store.join(name), content).expect("written");
    }
    let error = SledStore::open(&store).map(drop).expect_err("damaged");
    let text = error.to_string();
    assert!(text.contains(&*store.to_string_lossy()), "{text}");
}

#[test]
fn a_restore_goes_past_everything_that_was_issued() {
    let directory = TempDir::new().expect("a directory");
    let store = directory.path().join("store");
    drop(open(&directory));
    let first = offline::restore(&store, now()).expect("restored");
    let second = offline::restore(&store, now()).expect("restored");
    assert!(first > Epoch(1_000) && second.0 >= first.0 + 1_000);
    let fleet = open(&directory)
        .load()
        .expect("loaded")
        .replay(now())
        .expect("sound");
    assert!(fleet.facts().next_lease > LeaseId(2_000_000));
    assert!(fleet.facts().stop.is_some(), "everybody stands still");
    assert_eq!(offline::check(&store, now()).expect("good").records, 2);
    let mut lines = Vec::new();
    offline::dump(&store, &mut lines).expect("written");
    assert_eq!(lines.split(|byte| *byte == b'\n').count(), 4);
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<usize>),
    Snapshot,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => proptest::collection::vec(0..1000_usize, 1..4).prop_map(Step::Append),
        1 => Just(Step::Snapshot),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..25)
}

/// Facts that change what is applied: certificates come and go.
fn certificate(number: usize) -> Change {
    let serial = format!("{:02x}", number % 16);
    if number.is_multiple_of(3) {
        return Change::CertificateRevoked { serial };
    }
    Change::CertificateIssued {
        serial,
        certificate: coordinator_core::identity::Certificate {
            holder: coordinator_core::identity::Holder::Machine(machine(number)),
            issued_at: now(),
            expires_at: now() + Duration::from_secs(number as u64),
            revoked: false,
        },
        token: None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Invariant 9, through the disk: whatever is appended, with snapshots and restarts anywhere
    /// in between, replay gives the state that was in memory.
    #[test]
    fn replay_gives_the_state(steps in steps()) {
        let directory = TempDir::new().expect("a directory");
        let mut store = open(&directory);
        let mut fleet = Fleet::new(now());
        for step in steps {
            match step {
                Step::Append(numbers) => {
                    let changes: Vec<Change> = numbers.into_iter().map(certificate).collect();
                    changes.iter().for_each(|change| fleet.apply(change));
                    store.append(&facts(&changes)).expect("durable");
                }
                Step::Snapshot => store.snapshot(fleet.facts()).expect("durable"),
                Step::Reopen => {
                    drop(store);
                    store = open(&directory);
                }
            }
        }
        drop(store);
        let replayed = open(&directory).load().expect("loaded").replay(now()).expect("sound");
        prop_assert_eq!(replayed.facts(), fleet.facts());
    }
}
