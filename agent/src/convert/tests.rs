use agent_core::state::Record;
use common::{CheckResult, Outcome, StorePath};

use super::*;

const PATH: &str = "/nix/store/0c5y5y5y5y5y5y5y5y5y5y5y5y5y5y5y-nixos-system-web-01-26.05";

fn report() -> MachineReport {
    MachineReport {
        agent_version: "0.1.0".to_owned(),
        boot_id: "boot".parse().expect("a name"),
        sequence: 7,
        running: Some(PATH.parse().expect("a path")),
        booted: None,
        profile: None,
        generation: 0,
        generations: Vec::new(),
        health: Health::default(),
        health_request: 0,
        epoch: Epoch(1),
        staged: None,
        attempt: None,
        store_free_bytes: 0,
        last_lease: LeaseId(0),
        declined: None,
        cleaned_up: None,
        traffic: None,
    }
}

#[test]
fn what_is_staged_is_told_with_its_reboot() {
    let path: StorePath = PATH.parse().expect("a path");
    let staged = Staged {
        target: Target::Closure(path.clone()),
        path,
        needs_reboot: true,
        reboot_reasons: vec!["inhibitor:dbus".to_owned()],
        soft_reboot: true,
        changes: None,
    };
    let said = super::staged(&staged);
    assert_eq!(said.path, PATH);
    assert!(said.needs_reboot && said.soft_reboot);
    assert_eq!(said.reboot_reasons, staged.reboot_reasons);
}

fn order() -> wire::Proceed {
    wire::Proceed {
        rollout: "r-1".to_owned(),
        lease: 5,
        epoch: 2,
        valid_for_ms: 60_000,
        action: wire::Action::Update.into(),
        target: Some(wire::Target {
            kind: Some(wire::target::Kind::Closure(PATH.to_owned())),
        }),
        allow_reboot: true,
        allow_soft_reboot: true,
        rollback_on_failure: true,
        health_timeout_ms: 0,
        force: true,
    }
}

fn said(action: Option<wire::directive::Action>) -> wire::Directive {
    wire::Directive { epoch: 2, action }
}

#[test]
fn a_lease_is_read_whole() {
    let action = wire::directive::Action::Proceed(order());
    let (epoch, directive) = directive(said(Some(action))).expect("good");
    assert_eq!(epoch, Epoch(2));
    let Directive::Proceed(proceed) = directive else {
        panic!("{directive:?}");
    };
    assert_eq!(proceed.valid_for, Duration::from_secs(60));
    assert_eq!(
        proceed.target,
        Some(Target::Closure(PATH.parse().expect("a path")))
    );
    assert!(
        proceed.allow_reboot
            && proceed.allow_soft_reboot
            && proceed.rollback_on_failure
            && proceed.force
    );
}

#[test]
fn a_lease_that_makes_no_sense_is_refused() {
    let spoil: [fn(&mut wire::Proceed); 5] = [
        |order| order.rollout = "../x".to_owned(),
        |order| order.action = 77,
        |order| order.action = 0,
        |order| order.target = None,
        |order| {
            order.target = Some(wire::Target {
                kind: Some(wire::target::Kind::Closure("/etc/passwd".to_owned())),
            });
        },
    ];
    for spoil in spoil {
        let mut order = order();
        spoil(&mut order);
        let action = wire::directive::Action::Proceed(order);
        let answer = directive(said(Some(action)));
        assert!(matches!(answer, Err(LinkError::Senseless(_))), "{answer:?}");
    }
}

#[test]
fn a_cleanup_is_read_whole_and_told_whole() {
    let asked = wire::CleanUp {
        request: 4,
        generations: 5,
        younger_than_s: 86_400,
        collect_garbage: true,
    };
    let action = wire::directive::Action::CleanUp(asked);
    let (_, directive) = directive(said(Some(action))).expect("good");
    let expected = CleanUp {
        generations: 5,
        younger_s: 86_400,
        collect: true,
    };
    let request = 4;
    let cleanup = expected;
    assert_eq!(directive, Directive::CleanUp { request, cleanup });
    let mut report = report();
    report.cleaned_up = Some(CleanedUp {
        request,
        removed: 3,
        freed_bytes: 1 << 40,
        failure: Some("no room".to_owned()),
    });
    let told = poll_request(Duration::ZERO, &report);
    let told = told.report.and_then(|report| report.cleaned_up);
    let expected = wire::CleanedUp {
        request,
        removed: 3,
        freed_bytes: 1 << 40,
        failure: "no room".to_owned(),
    };
    assert_eq!(told, Some(expected));
}

fn asked_to_move() -> wire::MoveTraffic {
    wire::MoveTraffic {
        order: Some(wire::TrafficOrder {
            epoch: 2,
            group: "web".to_owned(),
            number: 7,
            attempt: 3,
            gets: wire::TrafficGets::Nothing.into(),
        }),
        side: "blue".to_owned(),
        drain_ms: 60_000,
        timeout_ms: 90_000,
    }
}

#[test]
fn an_order_about_traffic_is_read_whole_and_told_whole() {
    let action = wire::directive::Action::MoveTraffic(asked_to_move());
    let (_, directive) = directive(said(Some(action))).expect("good");
    let order = common::TrafficOrder {
        epoch: Epoch(2),
        group: "web".parse().expect("a name"),
        number: 7,
        attempt: 3,
        gets: common::Gets::Nothing,
    };
    let call = common::TrafficCall {
        order: order.clone(),
        side: "blue".parse().expect("a name"),
        drain: Duration::from_secs(60),
        within: Duration::from_secs(90),
    };
    assert_eq!(directive, Directive::MoveTraffic(call));
    let mut report = report();
    report.traffic = Some(common::TrafficDone {
        order: Some(order),
        failure: Some("exit status 1".to_owned()),
    });
    let told = poll_request(Duration::ZERO, &report);
    let told = told.report.and_then(|report| report.traffic);
    let expected = wire::TrafficDone {
        order: asked_to_move().order,
        failure: "exit status 1".to_owned(),
    };
    assert_eq!(told, Some(expected));
}

#[test]
fn an_order_about_traffic_that_makes_no_sense_is_refused() {
    fn order_of(asked: &mut wire::MoveTraffic) -> &mut wire::TrafficOrder {
        asked.order.as_mut().expect("an order")
    }
    let spoil: [fn(&mut wire::MoveTraffic); 4] = [
        |asked| asked.order = None,
        |asked| asked.side = "../blue".to_owned(),
        |asked| asked.side = String::new(),
        |asked| order_of(asked).group = "a b".to_owned(),
    ];
    let hear = |spoil: fn(&mut wire::MoveTraffic)| {
        let mut asked = asked_to_move();
        spoil(&mut asked);
        directive(said(Some(wire::directive::Action::MoveTraffic(asked))))
    };
    for spoil in spoil {
        let answer = hear(spoil);
        assert!(matches!(answer, Err(LinkError::Senseless(_))), "{answer:?}");
    }
    // What a newer coordinator may ask for.
    let unknown: [fn(&mut wire::MoveTraffic); 2] = [
        |asked| order_of(asked).gets = 0,
        |asked| order_of(asked).gets = 99,
    ];
    for spoil in unknown {
        let (_, directive) = hear(spoil).expect("nothing wrong");
        assert!(matches!(directive, Directive::Wait { .. }), "{directive:?}");
    }
}

#[test]
fn a_reboot_needs_no_target() {
    let mut order = order();
    order.action = wire::Action::Reboot.into();
    order.target = None;
    assert!(directive(said(Some(wire::directive::Action::Proceed(order)))).is_ok());
}

#[test]
fn what_is_not_known_yet_is_a_reason_to_wait() {
    let (_, directive) = directive(said(None)).expect("good");
    assert!(matches!(directive, Directive::Wait { ask_again, .. } if ask_again > Duration::ZERO));
    let (epoch, event) = signal(&wire::Signal {
        epoch: 9,
        event: None,
    });
    assert_eq!((epoch, event), (Epoch(9), Signal::Epoch));
    let stop = wire::StandDown {
        epoch: 3,
        mode: 99,
        reason: "a\u{1b}b".to_owned(),
    };
    let stop = stand_down(&stop);
    assert_eq!((stop.mode, stop.reason.as_str()), (StopMode::Finish, "a b"));
    assert!(
        renewal(wire::RenewReply {
            epoch: 1,
            answer: None
        })
        .is_err()
    );
}

#[test]
fn the_largest_result_fits_into_a_message() {
    let record = || Record {
        step: "activating".to_owned(),
        took_ms: 1,
        output: "é".repeat(text::OUTPUT_MAX / 2),
    };
    let mut full = report();
    full.health = Health::of(
        (0..300)
            .map(|index| CheckResult {
                name: format!("check-{index}"),
                passed: index != 299,
                detail: "x".repeat(text::DETAIL_MAX),
            })
            .collect(),
    );
    let result = Unreported {
        rollout: "r-1".parse().expect("a name"),
        lease: LeaseId(5),
        outcome: Outcome {
            kind: OutcomeKind::RolledBack,
            reason: "x".repeat(text::REASON_MAX),
        },
        records: (0..agent_core::state::RECORDS_MAX)
            .map(|_| record())
            .collect(),
    };
    let request = report_request(&result, &full);
    assert!(
        request.encoded_len() <= 64 * 1024,
        "{}",
        request.encoded_len()
    );
    assert_eq!(request.steps.len(), agent_core::state::RECORDS_MAX);
    let poll = poll_request(Duration::from_secs(60), &full);
    assert!(poll.encoded_len() <= 64 * 1024, "{}", poll.encoded_len());
    let checks = poll
        .report
        .and_then(|report| report.health)
        .expect("health")
        .checks;
    assert_eq!(checks[0].name, "check-299", "what failed is kept");

    let small = report_request(&result, &report());
    let newest = small.steps.last().expect("steps");
    assert_eq!(
        newest.output.len(),
        text::OUTPUT_MAX,
        "the newest keep most"
    );
}
