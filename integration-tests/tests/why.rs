//! What `lab why` prints of each reason that there is.

use std::time::Duration;

use clap::Parser as _;
use cli::{
    args::Lab,
    view::{Look, why},
};
use common::{Action, GroupName, MachineName, Timestamp};
use coordinator::grpc::shown;
use coordinator_core::{WaitReason, view::WhyView};
use jiff::tz::TimeZone;

const NOW: i64 = 1_772_440_000;

fn name(text: &str) -> MachineName {
    text.parse().expect("a name")
}

fn group(text: &str) -> GroupName {
    text.parse().expect("a name")
}

fn in_minutes(minutes: i64) -> Timestamp {
    Timestamp::from_secs(NOW + minutes * 60)
}

fn look() -> Look {
    Look {
        width: Some(80),
        height: 24,
        zone: TimeZone::UTC,
        now: jiff::Timestamp::from_second(NOW).expect("a time"),
    }
}

/// The next kind of reason after this one, with something in every field; `None` after the last. A kind that
/// nobody has shown here does not compile, and one that is passed over is missing in the sequence.
fn after(reason: Option<&WaitReason>) -> Option<WaitReason> {
    let rollout = || "r1".parse().expect("a rollout");
    let zone = || "UTC".to_owned();
    let said = || "its disk is full".to_owned();
    let by = || "ada".to_owned();
    let machines = || vec![name("web-02"), name("web-03")];
    let soon = in_minutes(32);
    use WaitReason as Why;
    let Some(reason) = reason else {
        return Some(Why::Stopped {
            by: by(),
            reason: said(),
        });
    };
    Some(match reason {
        Why::Stopped { .. } => Why::Paused {
            rollout: rollout(),
            reason: said(),
            asks_again: false,
        },
        Why::Paused { .. } => Why::NoRollout,
        Why::NoRollout => Why::UpToDate,
        Why::UpToDate => Why::MovedOn { rollout: rollout() },
        Why::MovedOn { .. } => Why::NoSuchGeneration { number: 150 },
        Why::NoSuchGeneration { .. } => Why::NothingBefore,
        Why::NothingBefore => Why::NoTarget,
        Why::NoTarget => Why::UnknownMachine,
        Why::UnknownMachine => Why::Quarantined {
            machine: name("web-01"),
            by: by(),
            reason: said(),
            at: in_minutes(0),
            zone: zone(),
        },
        Why::Quarantined { .. } => Why::Retry {
            until: soon,
            tries: 2,
            reason: said(),
            zone: zone(),
        },
        Why::Retry { .. } => Why::Retrying {
            machines: machines(),
            next: Some(soon),
            zone: zone(),
        },
        Why::Retrying { .. } => Why::TargetQuarantined {
            target: "/nix/store/00000000000000000000000000000002-nixos-system-2".to_owned(),
            by: by(),
            reason: said(),
            at: in_minutes(0),
            zone: zone(),
        },
        Why::TargetQuarantined { .. } => Why::BadTarget { reason: said() },
        Why::BadTarget { .. } => Why::TargetNotAllowed {
            reason: "its path".to_owned(),
        },
        Why::TargetNotAllowed { .. } => Why::Final {
            state: "rolled-back".to_owned(),
            reason: said(),
        },
        Why::Final { .. } => Why::Offline {
            since: Some(in_minutes(0)),
            zone: zone(),
        },
        Why::Offline { .. } => Why::Staging {
            ends_at: Some(soon),
            zone: zone(),
        },
        Why::Staging { .. } => Why::CleaningUp {
            until: Some(soon),
            zone: zone(),
        },
        Why::CleaningUp { .. } => Why::StagingFailed {
            reason: said(),
            ends_at: Some(soon),
            zone: zone(),
        },
        Why::StagingFailed { .. } => Why::Dependency {
            group: group("db"),
            machines: vec![name("db-01")],
            more: 0,
        },
        Why::Dependency { .. } => Why::Stagger {
            group: group("db"),
            until: soon,
            zone: zone(),
        },
        Why::Stagger { .. } => Why::Approval {
            group: group("web"),
            rollout: rollout(),
            counts_at: None,
            expires_at: Some(soon),
            zone: zone(),
            four_eyes: None,
        },
        Why::Approval { .. } => Why::Held {
            group: group("web"),
            rollout: rollout(),
            wave: 1,
        },
        Why::Held { .. } => Why::WindowClosed {
            opens_at: Some(soon),
            zone: zone(),
        },
        Why::WindowClosed { .. } => Why::Frozen {
            calendar: "holidays".to_owned(),
            entry: "12-25".to_owned(),
            ends_at: Some(soon),
            opens_at: Some(soon),
            zone: zone(),
        },
        Why::Frozen { .. } => Why::WindowTooShort {
            needs: Duration::from_secs(1200),
            left: Duration::from_secs(300),
            closes_at: in_minutes(5),
            opens_at: Some(soon),
            zone: zone(),
        },
        Why::WindowTooShort { .. } => Why::WaveNotOpen {
            wave: 2,
            open: 1,
            machines: machines(),
            more: 3,
            next: None,
            zone: zone(),
        },
        Why::WaveNotOpen { .. } => Why::Soaking {
            until: soon,
            zone: zone(),
        },
        Why::Soaking { .. } => Why::Analysing {
            gate: "site".to_owned(),
            passed: 1,
            needed: 3,
            failed: 1,
            inconclusive: 0,
            errors: 0,
            until: Some(soon),
            zone: zone(),
        },
        Why::Analysing { .. } => Why::GroupUnhealthy {
            machines: machines(),
        },
        Why::GroupUnhealthy { .. } => Why::MachineUnhealthy {
            checks: vec!["nginx".to_owned()],
        },
        Why::MachineUnhealthy { .. } => Why::GroupLimit {
            away: machines(),
            allowed: 2,
        },
        Why::GroupLimit { .. } => Why::Apart {
            machines: machines(),
        },
        Why::Apart { .. } => Why::CoordinatorLast {
            groups: vec![group("db"), group("dev")],
        },
        Why::CoordinatorLast { .. } => Why::Quorum {
            machines: machines(),
            allowed: 2,
        },
        Why::Quorum { .. } => Why::FleetLimit {
            away: machines(),
            allowed: 2,
        },
        Why::FleetLimit { .. } => Why::LiveSide {
            group: group("web"),
            side: "blue".parse().expect("a side"),
            behind: Vec::new(),
            was: None,
            first: None,
        },
        Why::LiveSide { .. } => Why::TrafficMoving {
            group: group("web"),
            to: "green".parse().expect("a side"),
            attempt: 1,
            error: None,
            machines: machines(),
            until: soon,
            zone: "UTC".into(),
        },
        Why::TrafficMoving { .. } => Why::SideNotReady {
            group: group("web"),
            side: "green".parse().expect("a side"),
            machines: machines(),
        },
        Why::SideNotReady { .. } => return None,
    })
}

fn all() -> impl Iterator<Item = WaitReason> {
    std::iter::successors(after(None), |reason| after(Some(reason)))
}

/// Of web-01, whose part in a rollout this is.
fn printed(wait: WaitReason, action: Option<Action>) -> String {
    let rollout = || "r1".parse().expect("a rollout");
    let seen = WhyView {
        machine: name("web-01"),
        wait: Some(wait),
        place: action.map(|_| (rollout(), "pending")),
        group: Some(group("web")),
        action,
        has_turn: false,
        step: String::new(),
    };
    why::why(&shown::why(seen), &look())
}

#[test]
fn every_reason_is_told_with_who_holds_it_when_it_can_change_and_what_changes_it() {
    let told = |reason: WaitReason| {
        let kind = reason.kind();
        let outside = [
            "no-rollout",
            "up-to-date",
            "moved-on",
            "no-target",
            "unknown-machine",
        ];
        let action = (!outside.contains(&kind)).then_some(Action::Update);
        format!("{kind}\n{}", printed(reason, action))
    };
    let told: Vec<String> = all().map(told).collect();
    insta::assert_snapshot!("why", told.join("\n"));
}

#[test]
fn whoever_can_only_wait_for_somebody_is_told_so_and_nobody_else() {
    for reason in all() {
        let (kind, by_itself) = (reason.kind(), reason.by_itself());
        let known = reason.next().is_some();
        let text = printed(reason, Some(Action::Update));
        let only_a_person = text.contains("time alone changes nothing");
        assert_eq!(only_a_person, !by_itself && !known, "{kind}: {text}");
        assert_eq!(
            text.lines()
                .filter(|line| line.contains("  next: "))
                .count(),
            1
        );
    }
}

/// Commands that begin something name the machine: pasted, none of them acts on the whole fleet.
#[test]
fn no_command_acts_on_more_than_the_machine_its_group_or_its_rollout() {
    for action in [
        None,
        Some(Action::Update),
        Some(Action::Rollback),
        Some(Action::Reboot),
    ] {
        for reason in all() {
            let kind = reason.kind();
            let text = printed(reason, action).replace('\n', " ");
            let Some((_, hint)) = text.split_once("try: ") else {
                continue;
            };
            let begins = ["prepare", "execute", "rollback", "reboot"];
            let begins = begins.iter().any(|verb| hint.contains(verb));
            let named = hint.contains("--machine=web-01") || hint.contains("--group=web");
            assert!(!begins || named, "{kind}: {hint}");
            // A rollback does not become an update because its window is shut.
            let past = hint.contains("--emergency");
            assert!(!past || action == Some(Action::Update), "{kind}: {hint}");
        }
    }
}

/// The commands in a hint, as they would be typed.
fn commands(hint: &str) -> impl Iterator<Item = &str> {
    hint.split(';').filter_map(|part| {
        let command = &part[part.find("lab ")?..];
        Some(command.split(',').next().unwrap_or(command).trim())
    })
}

#[test]
fn every_command_that_is_told_is_one() {
    for reason in all() {
        let kind = reason.kind();
        let text = printed(reason, Some(Action::Update)).replace('\n', " ");
        let hint = text.split_once("try: ").map_or("", |(_, hint)| hint);
        for command in commands(hint) {
            let words = command.split_whitespace();
            let parsed = Lab::try_parse_from(words).map(|_| ());
            assert!(parsed.is_ok(), "{kind}: {command}: {parsed:?}");
        }
    }
}

#[test]
fn what_reasons_were_before_is_read_still() {
    for (stored, text) in [
        (
            r#"{"kind":"staging"}"#,
            "still obtaining and checking its target",
        ),
        (
            r#"{"kind":"cleaning-up"}"#,
            "removes old generations first, as a schedule wants",
        ),
        (
            r#"{"kind":"wave-not-open","wave":2,"open":1}"#,
            "in wave 2; wave 1 has not closed yet",
        ),
        (
            r#"{"kind":"dependency","group":"db"}"#,
            "group db must be finished first",
        ),
        (
            r#"{"kind":"final","state":"updated"}"#,
            "has ended its part of the rollout: updated",
        ),
        (
            r#"{"kind":"staging-failed","reason":"no room"}"#,
            "could not obtain its target: no room",
        ),
        (
            r#"{"kind":"retrying","machines":["web-01"]}"#,
            "the budget has no room beside web-01, which failed and is to try again",
        ),
        (
            r#"{"kind":"approval","group":"db","rollout":"r1","counts_at":null}"#,
            "group db waits for approval",
        ),
    ] {
        let reason: WaitReason = serde_json::from_str(stored).expect("as it was written");
        assert_eq!(reason.to_string(), text);
    }
}
