//! Commands that ask one thing and print the answer: what they say to the coordinator, what they
//! print for people and for programs, and how they end.

use lab_proto::operator::{
    Audit, AuditRecord, ConfigLog, Identity, IdentityList, Token, TokenList, VerifyAuditReply,
};
use serde::Serialize;

use super::*;

/// A command, the coordinator's answers to it, and what is to come of it.
struct Row {
    line: &'static str,
    answers: Vec<(&'static str, Value)>,
    /// The last request of this method.
    asks: (&'static str, Value),
    code: i32,
    /// Standard output, whole; `*` is whatever depends on today.
    text: &'static str,
    /// Standard output with `--output json`.
    json: Value,
}

/// One that is answered with a sentence.
fn done(line: &'static str, method: &'static str, asks: Value) -> Row {
    Row {
        line,
        answers: vec![(method, json!({ "text": "so it is" }))],
        asks: (method, asks),
        code: 0,
        text: "so it is\n",
        json: json!({ "text": "so it is" }),
    }
}

/// One whose answer is printed as it is for programs.
fn told(
    line: &'static str,
    (method, asks): (&'static str, Value),
    answer: impl Serialize,
    text: &'static str,
) -> Row {
    let answer = value(answer);
    Row {
        line,
        answers: vec![(method, answer.clone())],
        asks: (method, asks),
        code: 0,
        text,
        json: answer,
    }
}

fn value(message: impl Serialize) -> Value {
    serde_json::to_value(message).expect("JSON")
}

/// Runs every row twice: for people and for programs.
async fn check(rows: Vec<Row>) {
    let files = tempfile::tempdir().expect("a directory");
    std::fs::write(files.path().join("new.json"), after().to_string()).expect("written");
    for row in rows {
        let line = row.line;
        let mut script = Script::default();
        for (method, answer) in &row.answers {
            script = script.says(method, answer);
        }
        let end = status("finished", &[("web-01", "updated")]);
        let coordinator = Coordinator::start(script.streams(&[end])).await;
        let words: Vec<&str> = line.split(' ').collect();
        for json in [false, true] {
            let mut command = lab(&coordinator, &words);
            command.current_dir(files.path());
            if json {
                command.arg("--output=json");
            }
            let (code, out, err) = ended(command.output().await.expect("started"));
            assert_eq!(code, row.code, "{line}: {out}{err}");
            let (method, said) = &row.asks;
            assert_eq!(coordinator.said(method), *said, "{line}");
            if json {
                assert_eq!(json_of(&out), row.json, "{line}");
            } else {
                let (begin, end) = row.text.split_once('*').unwrap_or((row.text, ""));
                let rest = out
                    .strip_prefix(begin)
                    .and_then(|out| out.strip_suffix(end));
                let whole = row.text.contains('*') || rest == Some("");
                assert!(rest.is_some() && whole, "{line}: {out}");
            }
        }
        let said = coordinator
            .calls()
            .iter()
            .filter(|call| *call == row.asks.0)
            .count();
        assert_eq!(said, 2, "{line}: once for each run");
    }
}

#[tokio::test]
async fn decisions_about_rollouts() {
    let rollout =
        |reason: &str| json!({ "rollout": "r-7", "reason": reason, "measure_again": false });
    let again = json!({ "rollout": "r-7", "reason": "", "measure_again": true });
    check(vec![
        done("update resume r-7 --measure-again", "resume_rollout", again),
        done(
            "update approve --comment=fine",
            "approve",
            json!({ "rollout": "", "group": "", "reject": false, "comment": "fine" }),
        ),
        done(
            "update reject r-7 --group=critical --reason=friday",
            "approve",
            json!({
                "rollout": "r-7", "group": "critical", "reject": true, "comment": "friday",
            }),
        ),
        done("update pause r-7 --reason=look", "pause", rollout("look")),
        done("update resume r-7", "resume_rollout", rollout("")),
        done("update abort r-7 --reason=bad", "abort", rollout("bad")),
    ])
    .await;
}

#[tokio::test]
async fn reboots() {
    let begun = json!({ "rollout": "r-7", "plan": null });
    let asks = |machines: &[&str], groups: &[&str], parallel: u32, reason: &str| {
        json!({
            "selection": { "groups": groups, "machines": machines },
            "kind": "reboot", "parallel": parallel, "if_plan": "", "to_generation": 0,
            "immediate": false, "reason": reason, "retry_failed": false,
            "before": "",
        })
    };
    let reboot = |line, asks: Value, text, json| Row {
        line,
        answers: vec![("plan", value(plan())), ("execute", begun.clone())],
        asks: ("execute", asks),
        code: 0,
        text,
        json,
    };
    let followed = value(rollout("r-7", "finished", &[("web-01", "updated")]));
    let nothing = value(PlanReply::default());
    check(vec![
        reboot(
            "machines reboot web-01 web-02 --group=critical --parallel=2 --reason=kernel --yes --detach",
            asks(&["web-01", "web-02"], &["critical"], 2, "kernel"),
            "rollout r-7 goes on; come back to it: lab update watch r-7\n",
            json!({ "result": "detached", "id": "r-7", "rollout": null }),
        ),
        reboot(
            "machines reboot web-01 --yes",
            asks(&["web-01"], &[], 0, ""),
            "✔ update r-7 finished: 1 of 1 machine updated\n",
            json!({ "result": "finished", "id": "r-7", "rollout": followed }),
        ),
        Row {
            line: "machines reboot web-01 --yes",
            answers: vec![],
            asks: ("plan", asks(&["web-01"], &[], 0, "")),
            code: 0,
            text: "nothing to do\n",
            json: json!({ "result": "nothing-to-do", "plan": nothing }),
        },
    ])
    .await;
}

/// The document in force, and the one in `new.json`.
fn before() -> Value {
    json!({ "updateGroups": { "dev": { "allowReboot": true, "machines": ["a"] } } })
}

fn after() -> Value {
    json!({ "updateGroups": { "dev": { "machines": ["a"] } } })
}

/// What is sent when the machine is given its first key.
fn given_to_a() -> Value {
    let mut document = before();
    document["updateMachines"] = json!({ "a": { "retries": 2 } });
    json!({ "document": document.to_string(), "if_revision": 3, "reason": "" })
}

#[tokio::test]
async fn configuration() {
    let in_force = ConfigReply {
        revision: 3,
        document: before().to_string(),
        set_by: "geir".into(),
        set_at: "2026-11-22T11:00:00Z".into(),
    };
    let fault = json!({ "path": "updateGroups.dev", "message": "no machines", "hint": "" });
    let checked = |revision: u64| {
        json!({
            "revision": revision, "faults": [], "as_before": [], "warnings": [],
        })
    };
    let faulty = json!({
        "revision": 3, "faults": [fault], "as_before": [], "warnings": [],
    });
    let refused = json!({
        "revision": 3, "changes": [], "faults": [fault], "as_before": [], "warnings": [],
    });
    let goes_on = json!([
        { "rollout": "r7", "groups": ["dev"], "paused": false },
        { "rollout": "r8", "groups": ["dev"], "paused": true },
    ]);
    let path = "updateSettings.calendars.freezes";
    let over =
        json!([{ "path": path, "message": "2025-12-24 is over", "hint": "is the year right?" }]);
    let would = json!({ "revision": 3, "faults": [], "as_before": goes_on, "warnings": over });
    let set = json!({ "revision": 4, "faults": [], "as_before": goes_on, "warnings": over });
    let sent = |if_revision: u64, reason: &str| {
        json!({
            "document": after().to_string(), "if_revision": if_revision, "reason": reason,
        })
    };
    let change = json!({
        "path": "updateGroups.dev.allowReboot", "before": true, "after": null,
    });
    let get = ("get_config", value(&in_force));
    let unset = |answer: Value, code, text, json| Row {
        line: "update-config unset --group=dev --key=allowReboot --reason=never",
        answers: vec![get.clone(), ("set_config", answer)],
        asks: ("set_config", sent(3, "never")),
        code,
        text,
        json,
    };
    let check_file = |answer: Value, code, text, json| Row {
        line: "update-config check new.json",
        answers: vec![("check_config", answer)],
        asks: ("check_config", sent(0, "")),
        code,
        text,
        json,
    };
    let shown = |line, revision: u64, text, document: Value| Row {
        line,
        answers: vec![get.clone()],
        asks: ("get_config", json!({ "revision": revision })),
        code: 0,
        text,
        json: json!({
            "revision": 3, "set_by": "geir", "set_at": "2026-11-22T11:00:00Z",
            "document": document,
        }),
    };
    let group = before()["updateGroups"]["dev"].take();
    check(vec![
        unset(
            checked(4),
            0,
            "- updateGroups.dev.allowReboot: true\nrevision 4 is in force\n",
            json!({
                "revision": 4, "changes": [change], "faults": [], "as_before": [],
                "warnings": [],
            }),
        ),
        unset(
            set,
            0,
            "- updateGroups.dev.allowReboot: true\nrevision 4 is in force\nrollout r7 goes on under the rules that dev had when it began; `lab update pause r7` holds it, `lab update abort r7` ends it\nrollout r8 is paused; once resumed it goes on *    hint: is the year right?\n",
            json!({
                "revision": 4, "changes": [change], "faults": [], "as_before": goes_on,
                "warnings": over,
            }),
        ),
        unset(faulty.clone(), 2, "", refused),
        Row {
            line: "update-config set --machine=a --key=retries --value=2",
            answers: vec![get.clone(), ("set_config", checked(4))],
            asks: ("set_config", given_to_a()),
            code: 0,
            text: "+ updateMachines.a.retries: 2\nrevision 4 is in force\n",
            json: json!({
                "revision": 4, "faults": [], "as_before": [], "warnings": [],
                "changes": [{ "path": "updateMachines.a.retries", "before": null, "after": 2 }],
            }),
        },
        check_file(
            checked(3),
            0,
            "✔ no faults\n",
            checked(3),
        ),
        check_file(
            would.clone(),
            0,
            "✔ no faults\nrollout r7 would go on under the rules that dev had when it began; `lab update pause r7` holds it, `lab update abort r7` ends it\nrollout r8 is paused; once resumed it would go on *\nperhaps not what you mean:\n  updateSettings.calendars.freezes: 2025-12-24 is over\n    hint: is the year right?\n",
            would,
        ),
        check_file(faulty.clone(), 2, "", faulty),
        Row {
            line: "update-config diff new.json",
            answers: vec![get.clone()],
            asks: ("get_config", json!({ "revision": 0 })),
            code: 0,
            text: "- updateGroups.dev.allowReboot: true\n",
            json: json!([change]),
        },
        shown(
            "update-config show",
            0,
            "{\n  \"updateGroups\": {*}\n",
            before(),
        ),
        shown(
            "update-config show --group=dev --revision=2",
            2,
            "{\n  \"allowReboot\": true,\n  \"machines\": [\n    \"a\"\n  ]\n}\n",
            group,
        ),
        Row {
            line: "update-config log --limit=2",
            answers: vec![(
                "get_config_log",
                value(ConfigLog {
                    revisions: vec![in_force.clone()],
                }),
            )],
            asks: ("get_config_log", json!({ "limit": 2 })),
            code: 0,
            text: "revision 3  2026-11-22 11:00:00  by geir\n",
            json: json!({
                "revisions": [{
                    "revision": 3, "set_by": "geir", "set_at": "2026-11-22T11:00:00Z",
                    "document": before(),
                }],
            }),
        },
    ])
    .await;
}

#[tokio::test]
async fn audit() {
    let record = AuditRecord {
        sequence: 12,
        at: "2026-11-22T11:00:00Z".into(),
        actor: "geir".into(),
        role: "admin".into(),
        action: "EmergencyStop".into(),
        object: "fleet".into(),
        reason: "bad release".into(),
        result: "done".into(),
        actor_kind: "operator".into(),
        ..AuditRecord::default()
    };
    let intact = VerifyAuditReply {
        intact: true,
        records: 12,
        head: "9c1f".into(),
        ..VerifyAuditReply::default()
    };
    let broken = VerifyAuditReply {
        intact: false,
        fault: "record 7 does not fit record 6".into(),
        ..intact.clone()
    };
    let verify = || ("verify_audit", json!({}));
    check(vec![
        told(
            "audit --limit=5 --days=2",
            ("get_audit", json!({ "limit": 5, "days": 2 })),
            Audit {
                records: vec![record],
            },
            "12  2026-11-22 11:00:00  geir (admin)  EmergencyStop fleet (bad release): done\n",
        ),
        told(
            "audit verify",
            verify(),
            intact,
            "✔ intact: 12 records, head 9c1f\n",
        ),
        Row {
            code: 1,
            ..told(
                "audit verify",
                verify(),
                broken,
                "✖ broken: record 7 does not fit record 6 (of 12 records)\n",
            )
        },
    ])
    .await;
}

#[tokio::test]
async fn tokens_and_identities() {
    let token = Token {
        id: "t-3".into(),
        name: "web-01".into(),
        kind: "machine".into(),
        expires_at: "2026-11-22T13:00:00Z".into(),
        state: "open".into(),
        created_by: "geir".into(),
        ..Token::default()
    };
    let identity = Identity {
        serial: "3fa29c".into(),
        name: "geir".into(),
        kind: "operator".into(),
        role: "admin".into(),
        expires_at: "2026-11-29T12:00:00Z".into(),
        state: "revoked".into(),
        ..Identity::default()
    };
    let asks = Identity {
        name: "web-01".into(),
        asked_at: "2026-11-22T11:00:00Z".into(),
        key: "9f2c".into(),
        ..identity.clone()
    };
    let so_it_is = json!({ "text": "so it is" });
    check(vec![
        told(
            "token list",
            ("list_tokens", json!({})),
            TokenList {
                tokens: vec![token],
            },
            "t-3  ✔ open  machine web-01  until *  by geir\n",
        ),
        done(
            "token revoke t-3 --reason=lost",
            "revoke_token",
            json!({ "id": "t-3", "reason": "lost" }),
        ),
        told(
            "identity list",
            ("list_identities", json!({})),
            IdentityList {
                identities: vec![identity],
            },
            "operator geir (admin)  ✖ revoked  until *  3fa29c\n",
        ),
        done(
            // Who does not ask has no question: the coordinator says what is wrong.
            "identity approve web-01 --reason=known",
            "approve_identity",
            json!({ "name": "web-01", "key": "", "reason": "known" }),
        ),
        Row {
            line: "identity approve web-01 --yes",
            answers: vec![
                ("list_identities", json!({ "identities": [value(asks)] })),
                ("approve_identity", so_it_is.clone()),
            ],
            asks: (
                "approve_identity",
                json!({ "name": "web-01", "key": "9f2c", "reason": "" }),
            ),
            code: 0,
            text: "so it is\n",
            json: so_it_is,
        },
        done(
            "identity revoke geir --reason=left --yes",
            "revoke_identity",
            json!({ "serial": "", "name": "geir", "reason": "left" }),
        ),
        done(
            "identity revoke --serial=3fa29c --reason=stolen --yes",
            "revoke_identity",
            json!({ "serial": "3fa29c", "name": "", "reason": "stolen" }),
        ),
    ])
    .await;
}
