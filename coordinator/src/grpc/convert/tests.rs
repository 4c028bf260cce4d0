//! Tables of what goes in and what comes out.

use std::time::Duration;

use common::{Epoch, LeaseId, StopMode, Timestamp};
use coordinator_core::{
    WaitReason,
    request::{AgentRequest, Refusal, Renewal, StandDown},
    wait::Whom,
};
use lab_proto::{agent as wire, operator};
use tonic::Code;

use super::{agent, identities, operator as from, refusal, time, wait};

#[test]
fn refusals_have_the_codes_that_lab_knows() {
    let text = || "because".to_owned();
    let table = [
        (
            Refusal::NotFound {
                what: "machine",
                name: text(),
            },
            Code::NotFound,
        ),
        (Refusal::NotNow(text()), Code::FailedPrecondition),
        (Refusal::Changed(text()), Code::Aborted),
        (Refusal::Invalid(text()), Code::InvalidArgument),
        (Refusal::Forbidden(text()), Code::PermissionDenied),
        (Refusal::Faults(Vec::new()), Code::InvalidArgument),
    ];
    for (why, code) in table {
        assert_eq!(refusal(&why).code(), code, "{why:?}");
    }
}

#[test]
fn what_is_not_found_names_the_command_that_lists_it() {
    for (what, command) in [
        ("machine", "lab machines"),
        ("machine in the configuration", "lab machines"),
        ("group", "lab machines"),
        ("rollout", "lab update status --all"),
        ("token", "lab token list"),
        ("certificate", "lab identity list"),
        ("identity", "lab identity list"),
        ("notification channel", "lab update-config show"),
        ("revision of the configuration", "lab update-config log"),
    ] {
        let name = "x".to_owned();
        let status = refusal(&Refusal::NotFound { what, name });
        let hint = status.metadata().get("lab-hint").expect(what);
        let hint = hint.to_str().expect("ASCII");
        assert_eq!(hint, format!("see what there is: {command}"), "{what}");
    }
}

#[test]
fn times_are_rfc_3339_in_utc() {
    assert_eq!(time(Timestamp(1_795_359_844_005)), "2026-11-22T15:04:04Z");
    assert_eq!(time(Timestamp(0)), "1970-01-01T00:00:00Z");
    // Whatever a machine's clock came up with, it is shown and not fatal.
    assert!(time(Timestamp::MAX).starts_with("9999-"));
    assert!(!time(Timestamp(i64::MIN)).is_empty());
}

const STORE: &str = "/nix/store/0c5y5y5y5y5y5y5y5y5y5y5y5y5y5y5y-nixos-system";

fn good() -> wire::MachineReport {
    wire::MachineReport {
        boot_id: "b1".into(),
        running: STORE.into(),
        ..wire::MachineReport::default()
    }
}

#[test]
fn malformed_reports_stop_at_the_door_with_the_field() {
    type Damage = fn(&mut wire::MachineReport);
    let table: [(&str, Damage); 7] = [
        ("report.boot_id", |report| report.boot_id.clear()),
        ("report.boot_id", |report| report.boot_id = "../x".into()),
        ("report.running", |report| {
            report.running = "/etc/passwd".into()
        }),
        ("report.profile", |report| {
            report.profile = format!("{STORE}/bin/sh")
        }),
        ("report.staged.target", |report| {
            report.staged = Some(wire::Staged::default())
        }),
        ("report.declined.target", |report| {
            report.declined = Some(wire::Declined {
                kind: wire::DeclinedKind::BadTarget.into(),
                ..wire::Declined::default()
            })
        }),
        ("attempt.rollout", |report| {
            let rollout = "\u{1b}[2J".into();
            report.attempt = Some(wire::Attempt {
                rollout,
                ..wire::Attempt::default()
            });
        }),
    ];
    for (field, damage) in table {
        let mut report = good();
        damage(&mut report);
        let malformed = agent::report(Some(report)).expect_err(field);
        assert_eq!(malformed.field, field);
        assert!(!malformed.to_string().contains('\u{1b}'));
    }
    assert_eq!(agent::report(None).expect_err("missing").field, "report");
}

#[test]
fn a_soft_reboot_is_enough_only_where_a_reboot_is_needed_and_the_agent_says_so() {
    let target = Some(wire::Target {
        kind: Some(wire::target::Kind::Closure(STORE.into())),
    });
    for (needs_reboot, soft_reboot) in [(true, true), (true, false), (false, true)] {
        let mut report = good();
        report.staged = Some(wire::Staged {
            target: target.clone(),
            path: STORE.into(),
            needs_reboot,
            soft_reboot,
            ..wire::Staged::default()
        });
        let staged = agent::report(Some(report)).expect("good").staged;
        let staged = staged.expect("staged");
        assert_eq!(staged.needs_reboot, needs_reboot);
        assert_eq!(staged.soft_reboot, needs_reboot && soft_reboot);
    }
}

#[test]
fn text_of_machines_is_bounded_and_tamed() {
    let mut report = good();
    report.agent_version = "9".repeat(100_000);
    let check = wire::CheckResult {
        name: "web\u{1b}[2J".into(),
        detail: "x".repeat(1_000_000),
        passed: false,
    };
    report.health = Some(wire::Health {
        state: 77,
        checks: vec![check; 1000],
        request: 3,
    });
    report.generations = vec![
        wire::Generation {
            number: u64::MAX,
            path: STORE.into(),
        };
        500
    ];
    let report = agent::report(Some(report)).expect("usable");
    assert!(report.agent_version.len() < 100);
    assert_eq!(report.health.state, common::HealthState::Unknown);
    assert_eq!(
        (report.health.checks.len(), report.generations.len()),
        (64, 32)
    );
    assert_eq!(report.health.checks[0].name, "web [2J");
    assert!(report.health.checks[0].detail.len() < 600);
}

#[test]
fn results_and_renewals_carry_their_numbers() {
    let report = wire::ReportRequest {
        rollout: "r1".into(),
        lease: u64::MAX,
        outcome: 99,
        report: Some(good()),
        ..wire::ReportRequest::default()
    };
    assert_eq!(
        agent::result(report.clone()).expect_err("unknown").field,
        "outcome"
    );
    let steps = [u64::MAX, 5].map(|took_ms| wire::StepRecord {
        took_ms,
        ..wire::StepRecord::default()
    });
    let report = wire::ReportRequest {
        outcome: wire::OutcomeKind::Stuck.into(),
        steps: steps.to_vec(),
        ..report
    };
    let Ok(AgentRequest::Result { took, lease, .. }) = agent::result(report) else {
        panic!("not a result");
    };
    assert_eq!(
        (took, lease),
        (Duration::from_millis(u64::MAX), LeaseId(u64::MAX))
    );

    let reply = agent::renewal(Epoch(7), Renewal::Valid(Duration::MAX));
    assert_eq!(
        reply.answer,
        Some(wire::renew_reply::Answer::ValidForMs(u32::MAX))
    );
    let stop = StandDown {
        mode: StopMode::Rollback,
        reason: "smoke".into(),
    };
    let reply = agent::renewal(Epoch(7), Renewal::StandDown(stop));
    let Some(wire::renew_reply::Answer::StandDown(stop)) = reply.answer else {
        panic!("not a stop");
    };
    assert_eq!((stop.epoch, stop.mode()), (7, wire::StopMode::Rollback));
}

#[test]
fn wait_reasons_say_their_numbers_in_json() {
    let group = || "dev".parse().expect("a name");
    let machines = || vec!["dev-01".parse().expect("a name")];
    let until = Timestamp::from_secs(1_795_000_000);
    let table = [
        (
            WaitReason::Soaking {
                until,
                zone: "Europe/Oslo".into(),
            },
            "until",
            serde_json::json!("2026-11-18T11:06:40Z"),
        ),
        (
            WaitReason::Soaking {
                until,
                zone: "Europe/Oslo".into(),
            },
            "timezone",
            serde_json::json!("Europe/Oslo"),
        ),
        (
            WaitReason::Stagger {
                group: group(),
                until,
                zone: "Europe/Oslo".into(),
            },
            "timezone",
            serde_json::json!("Europe/Oslo"),
        ),
        (
            WaitReason::Retry {
                until,
                tries: 1,
                reason: "ill".into(),
                zone: "Europe/Oslo".into(),
            },
            "timezone",
            serde_json::json!("Europe/Oslo"),
        ),
        (
            WaitReason::Approval {
                group: group(),
                rollout: "r1".parse().expect("a name"),
                counts_at: Some(until),
                expires_at: None,
                four_eyes: None,
                zone: "Europe/Oslo".into(),
            },
            "timezone",
            serde_json::json!("Europe/Oslo"),
        ),
        (
            WaitReason::Offline {
                since: Some(until),
                zone: "Europe/Oslo".into(),
            },
            "timezone",
            serde_json::json!("Europe/Oslo"),
        ),
        (
            WaitReason::Quarantined {
                machine: "dev-01".parse().expect("a name"),
                by: "ada".into(),
                reason: "its disk".into(),
                at: until,
                zone: "Europe/Oslo".into(),
            },
            "timezone",
            serde_json::json!("Europe/Oslo"),
        ),
        (
            WaitReason::Dependency {
                group: group(),
                machines: machines(),
                more: 2,
            },
            "group",
            serde_json::json!("dev"),
        ),
        (
            WaitReason::GroupLimit {
                away: machines(),
                allowed: 3,
            },
            "machines",
            serde_json::json!(["dev-01"]),
        ),
        (
            WaitReason::FleetLimit {
                away: machines(),
                allowed: 3,
            },
            "allowed",
            serde_json::json!(3),
        ),
        (
            WaitReason::WindowTooShort {
                needs: Duration::from_secs(600),
                left: Duration::from_secs(60),
                closes_at: until,
                opens_at: None,
                zone: "UTC".into(),
            },
            "left_s",
            serde_json::json!(60),
        ),
        (
            WaitReason::Frozen {
                calendar: "holidays".into(),
                entry: "12-25".into(),
                ends_at: Some(until),
                opens_at: None,
                zone: "UTC".into(),
            },
            "entry",
            serde_json::json!("12-25"),
        ),
        (
            WaitReason::WindowClosed {
                opens_at: Some(until),
                zone: "Europe/Oslo".into(),
            },
            "timezone",
            serde_json::json!("Europe/Oslo"),
        ),
        (
            WaitReason::NoSuchGeneration { number: 150 },
            "generation",
            serde_json::json!(150),
        ),
        (
            WaitReason::Stopped {
                by: "ada".into(),
                reason: "smoke".into(),
            },
            "by",
            serde_json::json!("ada"),
        ),
    ];
    let machine = "dev-01".parse().expect("a name");
    let whom = Whom {
        machine: Some(&machine),
        ..Whom::default()
    };
    for (reason, key, value) in table {
        let json = serde_json::to_value(wait::reason(&reason, whom)).expect("JSON");
        assert_eq!(json["kind"], reason.kind());
        assert_eq!(json[key], value, "{json}");
        assert!(json["text"].as_str().is_some_and(|text| !text.is_empty()));
    }
    for (reason, hint) in [
        (WaitReason::NoTarget, "lab update prepare --machine=dev-01"),
        (
            WaitReason::BadTarget {
                reason: "web failed".into(),
            },
            "lab update execute --retry-failed --machine=dev-01",
        ),
    ] {
        assert_eq!(wait::reason(&reason, whom).hint, hint);
    }
    // What a kind does not have is left out.
    let json =
        serde_json::to_value(wait::reason(&WaitReason::NoTarget, Whom::default())).expect("JSON");
    assert_eq!(
        json.as_object().map(serde_json::Map::len),
        Some(3),
        "{json}"
    );
}

#[test]
fn wishes_that_make_no_sense_are_refused() {
    let wish = |change: fn(&mut operator::ExecuteRequest)| {
        let mut message = operator::ExecuteRequest::default();
        change(&mut message);
        from::ordinary_wish(message).map_err(|malformed| malformed.field)
    };
    assert!(wish(|_| {}).is_ok());
    assert!(wish(|m| m.kind = "rollback".into()).is_ok());
    assert_eq!(wish(|m| m.kind = "explode".into()).err(), Some("kind"));
    assert_eq!(wish(|m| m.immediate = true).err(), Some("immediate"));
    let back = |m: &mut operator::ExecuteRequest| {
        (m.kind, m.immediate) = ("rollback".into(), true);
    };
    assert!(wish(back).is_ok());
    let again = |m: &mut operator::ExecuteRequest| {
        (m.kind, m.immediate) = ("reboot".into(), true);
    };
    assert_eq!(wish(again).err(), Some("kind"));
    assert_eq!(wish(|m| m.to_generation = 3).err(), Some("kind"));
    assert_eq!(wish(|m| m.before = "r7".into()).err(), Some("kind"));
    let before = |m: &mut operator::ExecuteRequest| {
        (m.kind, m.before) = ("rollback".into(), "r7".into());
    };
    assert!(wish(before).is_ok());
    let both = |m: &mut operator::ExecuteRequest| {
        (m.kind, m.before, m.to_generation) = ("rollback".into(), "r7".into(), 3);
    };
    assert_eq!(wish(both).err(), Some("before"));
    let odd = |m: &mut operator::ExecuteRequest| {
        m.selection = Some(operator::Selection {
            machines: vec!["*".into()],
            ..operator::Selection::default()
        });
    };
    assert_eq!(wish(odd).err(), Some("selection.machines"));
}

#[test]
fn an_emergency_is_an_update_with_a_reason() {
    let wish = |kind: &str, reason: &str| {
        let message = operator::ExecuteRequest {
            kind: kind.into(),
            reason: reason.into(),
            ..operator::ExecuteRequest::default()
        };
        from::emergency_wish(message).map_err(|malformed| malformed.field)
    };
    let (urgent, _) = wish("", "CVE").expect("a wish");
    assert!(urgent.immediate);
    assert_eq!(wish("update", " ").err(), Some("reason"));
    assert_eq!(wish("rollback", "CVE").err(), Some("kind"));
    assert_eq!(wish("reboot", "CVE").err(), Some("kind"));
}

#[test]
fn tokens_are_for_one_machine_or_one_operator() {
    let token = |machine: &str, name: &str, role: &str, valid_for_s| {
        let asked = operator::CreateTokenRequest {
            machine: machine.into(),
            operator: name.into(),
            role: role.into(),
            valid_for_s,
        };
        identities::token(&asked).map_err(|malformed| malformed.field)
    };
    assert_eq!(
        token("web-01", "", "", 0).expect("good").1,
        Duration::from_secs(3600)
    );
    assert!(token("", "ada", "approver", 7 * 24 * 3600).is_ok());
    for (machine, name, role, seconds, field) in [
        ("", "", "", 0, "machine"),
        ("web-01", "ada", "viewer", 0, "machine"),
        ("web-01", "", "admin", 0, "role"),
        ("", "ada", "root", 0, "role"),
        ("", "ada", "", 0, "role"),
        ("../x", "", "", 0, "machine"),
        ("web-01", "", "", 7 * 24 * 3600 + 1, "valid_for_s"),
    ] {
        assert_eq!(token(machine, name, role, seconds).err(), Some(field));
    }
}

#[test]
fn a_stop_with_a_mistyped_mode_is_refused_rather_than_guessed() {
    let stop = |mode: &str| {
        from::emergency_stop(operator::EmergencyStopRequest {
            mode: mode.into(),
            ..operator::EmergencyStopRequest::default()
        })
    };
    assert!(stop("").is_ok() && stop("finish").is_ok() && stop("rollback").is_ok());
    assert_eq!(stop("rollbak").expect_err("mistyped").field, "mode");
}
