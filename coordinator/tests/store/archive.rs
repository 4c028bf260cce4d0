//! History and audit: found again by what they are about, and whole.

use std::time::Duration;

use common::Timestamp;
use coordinator::{
    audit::AuditRecord,
    store::{Archive, Batch, HistoryQuery, Store as _, memory::MemoryStore},
};
use coordinator_core::{
    history::Entry,
    identity::{Role, Who},
    request::AuditEntry,
};
use tempfile::TempDir;

use super::{audit, database, machine, now, open};

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

    let tree = database(&directory);
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
