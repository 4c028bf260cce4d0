//! The store on disk: what goes in comes back, in any size and over any restart; what is not whole
//! or not ours is refused with a reason.

use std::time::Duration;

use common::{Epoch, LeaseId, MachineName, Timestamp};
use coordinator::{
    audit::AuditRecord,
    offline,
    store::{
        Archive, Batch, HistoryQuery, Store, StoreError, memory::MemoryStore, sled::SledStore,
    },
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

/// As much as the query wants, in as many looks as it takes.
fn history(archive: &dyn Archive, query: &HistoryQuery) -> Vec<Entry> {
    let mut found = Vec::new();
    let mut from = None;
    loop {
        let page = archive.history(query, from).expect("readable");
        found.extend(page.entries);
        from = page.next;
        if from.is_none() {
            return found;
        }
    }
}

#[test]
fn a_machine_that_is_seldom_in_the_history_is_found_in_bounded_looks() {
    let directory = TempDir::new().expect("a directory");
    let mut store = open(&directory);
    let entry = |number: usize, machine| Entry {
        at: now() + Duration::from_secs(number as u64),
        machine: Some(machine),
        ..Entry::default()
    };
    let batch = |history| Batch {
        history,
        ..Batch::at(now())
    };
    let rare = entry(0, machine(0));
    store.append(&batch(vec![rare.clone()])).expect("durable");
    for thousand in 0..25 {
        let many = (1..=1000).map(|n| entry(thousand * 1000 + n, machine(1)));
        store.append(&batch(many.collect())).expect("durable");
    }
    let archive = store.archive();
    let query = HistoryQuery {
        limit: 10,
        machines: vec![machine(0)],
        ..HistoryQuery::default()
    };
    let first = archive.history(&query, None).expect("readable");
    assert!(first.entries.is_empty() && first.next.is_some());
    assert_eq!(history(&*archive, &query), [rare]);
    // Nothing is left out or twice where one look ends and the next begins.
    let all = HistoryQuery {
        limit: 50_000,
        ..HistoryQuery::default()
    };
    let mut times: Vec<Timestamp> = history(&*archive, &all).iter().map(|e| e.at).collect();
    times.reverse();
    let expected: Vec<Timestamp> = (0..=25_000)
        .map(|n| now() + Duration::from_secs(n))
        .collect();
    assert!(times == expected, "{} entries", times.len());
}

#[test]
fn history_is_found_by_time_machine_and_group() {
    let directory = TempDir::new().expect("a directory");
    let mut store = open(&directory);
    let mut memory = MemoryStore::new();
    for number in 0..20_usize {
        let entry = Entry {
            at: now() + Duration::from_secs(number as u64),
            kind: "attempt".into(),
            machine: Some(machine(number % 4)),
            group: if number % 2 == 0 {
                "even".parse().ok()
            } else {
                None
            },
            text: number.to_string(),
            ..Entry::default()
        };
        let batch = Batch {
            history: vec![entry.clone(), entry],
            ..Batch::at(now())
        };
        store.append(&batch).expect("durable");
        memory.append(&batch).expect("kept");
    }
    assert_eq!(store.journal_len(), 0);
    let all = HistoryQuery {
        limit: 1000,
        since: Timestamp(i64::MIN),
        ..HistoryQuery::default()
    };
    let queries = [
        (40, all.clone()),
        (
            3,
            HistoryQuery {
                limit: 3,
                ..all.clone()
            },
        ),
        (
            10,
            HistoryQuery {
                since: now() + Duration::from_secs(15),
                ..all.clone()
            },
        ),
        (
            10,
            HistoryQuery {
                machines: vec![machine(1)],
                ..all.clone()
            },
        ),
        (
            20,
            HistoryQuery {
                groups: vec!["even".parse().expect("a name")],
                ..all
            },
        ),
    ];
    for (count, query) in queries {
        let found = history(&*store.archive(), &query);
        assert_eq!(found.len(), count, "{query:?}");
        assert!(found.is_sorted_by(|newer, older| newer.at >= older.at));
        assert_eq!(found, history(&*memory.archive(), &query), "{query:?}");
    }
}

#[test]
fn the_audit_chain_goes_on_after_a_restart_and_shows_tampering() {
    let directory = TempDir::new().expect("a directory");
    for round in 0..3 {
        let mut store = open(&directory);
        for object in ["a", "b"] {
            // The longest and the most awkward to write down.
            let batch = Batch {
                audit: vec![audit(object), audit(&"\"".repeat(100_000))],
                ..Batch::at(now() + Duration::from_secs(round))
            };
            store.append(&batch).expect("durable");
        }
    }
    let store = open(&directory);
    let check = store.archive().verify_audit().expect("readable");
    assert_eq!((check.records, check.fault), (12, None));
    let newest = store
        .archive()
        .audit(now() + Duration::from_secs(2), 3)
        .expect("readable");
    assert_eq!(newest.len(), 3);
    assert_eq!(newest[0].hash, check.head);
    assert!(newest[0].body.object.len() < 2000);
    drop(store);

    let tree = sled::open(directory.path().join("store")).expect("sled");
    let records = tree.open_tree("audit").expect("a tree");
    let (key, mut value) = records.iter().nth(6).expect("a record").expect("readable");
    let last = value.len() - 5;
    value[last] ^= 1;
    records.insert(key, value).expect("written");
    drop((records, tree));
    let check = open(&directory).archive().verify_audit().expect("readable");
    assert_eq!(check.records, 6);
    assert!(check.fault.expect("a fault").contains("record 7"));
}

#[test]
fn audit_records_of_every_kind_of_asker_come_back() {
    let directory = TempDir::new().expect("a directory");
    let mut store = open(&directory);
    let kinds = [
        audit("a").who,
        Who::Machine {
            name: machine(1),
            serial: "5a".into(),
        },
        Who::Token("t3".into()),
        Who::Stranger,
        Who::System,
    ];
    let entries = kinds.map(|who| AuditEntry { who, ..audit("a") });
    let batch = Batch {
        audit: entries.to_vec(),
        ..Batch::at(now())
    };
    store.append(&batch).expect("durable");
    drop(store);
    let archive = open(&directory).archive();
    let mut records = archive.audit(now(), 10).expect("readable");
    records.reverse();
    let found: Vec<(&str, &str, Option<Role>, &str)> = records
        .iter()
        .map(|AuditRecord { body, .. }| {
            let kind = body.actor_kind.word();
            (kind, &*body.actor, body.role, &*body.serial)
        })
        .collect();
    let expected = [
        ("operator", "ada", Some(Role::Admin), "4f"),
        ("machine", "m1", None, "5a"),
        ("token", "t3", None, ""),
        ("stranger", "", None, ""),
        ("system", "", None, ""),
    ];
    assert_eq!(found, expected);
    assert_eq!(archive.verify_audit().expect("readable").fault, None);
}

fn with_tree(directory: &TempDir, tree: &str, change: impl FnOnce(&sled::Tree)) {
    let db = sled::open(directory.path().join("store")).expect("sled");
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

#[test]
fn gaps_and_cut_entries_are_refused() {
    for damage in ["gap", "cut", "text"] {
        let directory = TempDir::new().expect("a directory");
        let mut store = open(&directory);
        for number in 0..5 {
            store.append(&facts(&[fact(number)])).expect("durable");
        }
        drop(store);
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
    let mut store = open(&directory);
    for number in 0..5 {
        store.append(&facts(&[fact(number)])).expect("durable");
    }
    drop(store);
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
