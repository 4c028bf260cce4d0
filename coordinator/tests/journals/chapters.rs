//! The life of a fleet that has seen everything.

use std::time::Duration;

use common::{AttemptStatus, Epoch, LeaseId, OutcomeKind, StopMode, Timestamp, TrafficDone};
use coordinator_core::{
    Change, FleetConfig, Request,
    identity::{Holder, Role},
    request::{OperatorRequest, Promotion, Which},
    rollout::RolloutState,
    traffic::ATTEMPTS,
};
use serde_json::json;

use super::story::{NEW, NEXT, OLD, Story, machine};

pub(super) fn life_of_a_fleet() -> String {
    let begin = Timestamp::from_secs(1_790_000_000);
    let mut story = Story::new(begin);
    identities(&mut story);
    first_rollout(&mut story);
    later_rollouts(&mut story);
    much_later(&mut story);
    returns(&mut story);
    gates(&mut story);
    waves(&mut story);
    aside(&mut story);
    tries(&mut story);
    nothing_left(&mut story);
    sides(&mut story);
    hooks(&mut story);
    windows(&mut story);
    schedules(&mut story);
    let (epoch, next_lease) = (Epoch(1002), LeaseId(1_000_000));
    let restored = Change::Restored { epoch, next_lease };
    story.fleet.apply(&restored);
    story.write(vec![restored]);
    story.lines.join("\n") + "\n"
}

fn identities(story: &mut Story) {
    let document = json!({
        "updateGroups": {
            "dev": {
                "machines": ["dev-01", "dev-02"], "updatePolicy": "aggressive",
                "allowReboot": true
            },
            "critical": {
                "machines": ["db-01", "db-02", "db-03"], "updatePolicy": "manual-approval",
                "dependencies": ["dev"], "maintenanceWindow": "00:00-23:59",
                "canary": 1
            }
        },
        "updateSettings": { "maxParallel": 4, "staggerDelay": 0, "timezone": "Europe/Berlin" }
    });
    story.operator(OperatorRequest::SetConfig {
        config: Box::new(FleetConfig::parse(&document).expect("valid")),
        if_revision: None,
        reason: "first".into(),
    });
    let end = story.now + Duration::from_secs(3600);
    let ada = Holder::Operator {
        name: "ada".parse().expect("a name"),
        role: Role::Admin,
    };
    story.ask(Request::Bootstrap {
        holder: ada,
        serial: "4f".into(),
        expires_at: end,
    });
    for (number, name) in [(1, "dev-01"), (2, "dev-02"), (3, "db-01")] {
        story.operator(OperatorRequest::CreateToken {
            secret_hash: format!("{number:064x}"),
            holder: Holder::Machine(machine(name)),
            expires_at: end,
        });
    }
    for number in [1, 2] {
        story.ask(Request::Enrol {
            secret_hash: format!("{number:064x}"),
            from: "192.0.2.7".into(),
            serial: format!("5{number}"),
            expires_at: end,
        });
    }
    story.later(20);
    story.ask(Request::RenewCertificate {
        serial: "51".into(),
        new_serial: "53".into(),
        expires_at: end,
    });
    let (id, reason) = ("t3".to_owned(), "lost".to_owned());
    story.operator(OperatorRequest::RevokeToken { id, reason });
    story.operator(OperatorRequest::RevokeIdentity {
        which: Which::Serial("52".into()),
        reason: "stolen".into(),
    });
}

/// One machine returns with a certificate that has ended; another asks, and a restore makes that void.
fn returns(story: &mut Story) {
    story.come("dev-01", "53", "61");
    story.operator(OperatorRequest::ApproveReturn {
        machine: machine("dev-01"),
        key: None,
        reason: "it was in the workshop".into(),
    });
    story.come("dev-01", "53", "62");
    story.later(30 * 24 * 60);
    story.come("dev-01", "62", "63");
    let withdrawn = Change::ReturnWithdrawn {
        machine: machine("dev-01"),
    };
    story.fleet.apply(&withdrawn);
    story.write(vec![withdrawn]);
}

/// Tokens, and a certificate that was replaced, are forgotten when there is a new one.
fn much_later(story: &mut Story) {
    story.later(8 * 24 * 60);
    story.operator(OperatorRequest::CreateToken {
        secret_hash: format!("{:064x}", 4),
        holder: Holder::Machine(machine("db-02")),
        expires_at: story.now + Duration::from_secs(3600),
    });
}

/// A wave that closes once its gates have passed.
fn gates(story: &mut Story) {
    story.configure(|document| {
        document["analysis"] = json!({
            "port": { "tcp": "web-01.example.org:443", "passes": 2 },
            "rate": {
                "promql": "up", "prometheus": "http://prometheus.example.org:9090",
                "compare": "not-lower", "window": "5m",
            },
            "checks": { "healthCheck": "web", "passes": 1 },
        });
        document["updateGroups"]["web"] = json!({
            "machines": ["web-01"], "updatePolicy": "aggressive",
            "gates": ["port", "rate", "checks"],
        });
    });
    story.poll("web-01", OLD, None);
    story.pin(&["web-01"], NEW);
    story.poll("web-01", OLD, Some(NEW));
    let rollout = story.execute(&["web-01"]);
    let grant = story.granted("web-01", NEW);
    story.result("web-01", &grant, OutcomeKind::Confirmed, NEW);
    story.later(6);
    let rollout = story.fleet.rollout(&rollout).expect("kept");
    assert_eq!(rollout.state, RolloutState::Finished);
}

/// Silence, a late return, a failure, approval, a canary that goes back, a refusal.
fn first_rollout(story: &mut Story) {
    const ALL: [&str; 5] = ["dev-01", "dev-02", "db-01", "db-02", "db-03"];
    for name in ALL {
        story.poll(name, OLD, None);
    }
    story.pin(&ALL, NEW);
    for name in ALL {
        story.poll(name, OLD, Some(NEW));
    }
    let rollout = story.execute(&[]);
    let first = story.granted("dev-01", NEW);
    let second = story.granted("dev-02", NEW);
    story.later(16);
    // The first is heard of again, at it; the second never is.
    let mut report = story.report("dev-01", OLD, Some(NEW));
    report.attempt = Some(AttemptStatus {
        rollout: Some(rollout.clone()),
        lease: first.lease,
        step: "activating".into(),
        past_no_return: true,
    });
    story.poll_with("dev-01", report);
    story.result("dev-01", &first, OutcomeKind::Confirmed, NEW);
    // Both were silent, which was more than may fail.
    story.resume();
    story.later(16);
    let mut report = story.report("dev-02", OLD, Some(NEW));
    report.last_lease = second.lease;
    story.poll_with("dev-02", report);
    for name in ["db-01", "db-02", "db-03"] {
        story.poll(name, OLD, Some(NEW));
    }
    story.later(1);
    story.operator(OperatorRequest::Approve {
        rollout: None,
        group: None,
        reject: false,
        comment: String::new(),
    });
    let report = story.report("db-02", OLD, None);
    story.ended("db-02", &rollout, LeaseId(0), OutcomeKind::Refused, report);
    story.resume();
    let canary = story.granted("db-01", NEW);
    story.result("db-01", &canary, OutcomeKind::RolledBack, OLD);
    story.resume();
    story.later(11);
    let last = story.granted("db-03", NEW);
    story.result("db-03", &last, OutcomeKind::Confirmed, NEW);
}

/// A machine that is there already, one that is taken over, an end by hand, a stop.
fn later_rollouts(story: &mut Story) {
    let both = ["dev-01", "dev-02"];
    story.pin(&both, NEXT);
    let second = story.execute(&both);
    story.poll("dev-01", NEXT, None);
    story.operator(OperatorRequest::Pause {
        rollout: Some(second.clone()),
        reason: "lunch".into(),
    });
    let third = story.execute(&["dev-02"]);
    story.operator(OperatorRequest::Abort {
        rollout: Some(third),
        reason: "enough".into(),
    });
    story.operator(OperatorRequest::EmergencyStop {
        groups: vec!["dev".parse().expect("a name")],
        mode: StopMode::Rollback,
        reason: "smoke".into(),
    });
    let reason = "a toaster".to_owned();
    story.operator(OperatorRequest::Resume { reason });
    story.operator(OperatorRequest::ForgetMachine {
        machine: machine("dev-02"),
        reason: "gone".into(),
    });
}

/// A group that waits after its first wave until somebody lets it go on.
fn waves(story: &mut Story) {
    story.configure(|document| {
        document["updateGroups"]["app"] = json!({
            "machines": ["app-01", "app-02"], "updatePolicy": "aggressive",
            "waves": [1, "100%"], "pauseAfter": "each-wave", "order": ["failed-last"],
        });
        document["updateSettings"]["maxFailures"] = json!("50%");
        document["updateSettings"]["coordinators"] = json!(["dev-01"]);
    });
    let names = ["app-01", "app-02"];
    for name in names {
        story.poll(name, OLD, None);
    }
    story.pin(&names, NEW);
    let rollout = story.execute(&names);
    let grant = story.granted("app-01", NEW);
    story.result("app-01", &grant, OutcomeKind::Confirmed, NEW);
    story.operator(OperatorRequest::Promote {
        promotion: Promotion::default(),
        reason: "it looks good".into(),
    });
    let grant = story.granted("app-02", NEW);
    story.result("app-02", &grant, OutcomeKind::RolledBack, OLD);
    let rollout = story.fleet.rollout(&rollout).expect("kept");
    assert_eq!(rollout.state, RolloutState::Finished);
}

/// Somebody puts a machine aside and lets it take part again.
fn aside(story: &mut Story) {
    let machines = vec![machine("app-02")];
    story.operator(OperatorRequest::Quarantine {
        machines: machines.clone(),
        reason: "its disk is failing".into(),
    });
    let reason = "it has another one".to_owned();
    story.operator(OperatorRequest::Release { machines, reason });
}

/// A machine fails twice, and what it failed with is put aside and released; nobody updates it for too long.
fn tries(story: &mut Story) {
    story.configure(|document| {
        document["updateGroups"]["again"] = json!({
            "machines": ["again-01"], "updatePolicy": "aggressive", "retries": 1, "retryAfter": "5m",
            "requireApproval": "wave", "allowReboot": true, "rollbackOnFailure": "machine",
        });
        document["updateSettings"]["quarantineTargetAfter"] = json!(1);
        document["updateSettings"]["alarms"] = json!({ "notUpdated": "1h" });
    });
    story.poll("again-01", OLD, None);
    story.pin(&["again-01"], NEXT);
    story.execute(&["again-01"]);
    story.operator(OperatorRequest::Approve {
        rollout: None,
        group: None,
        reject: false,
        comment: "after the backup".into(),
    });
    let grant = story.granted("again-01", NEXT);
    story.result("again-01", &grant, OutcomeKind::Refused, OLD);
    story.later(6);
    let grant = story.granted("again-01", NEXT);
    story.result("again-01", &grant, OutcomeKind::RolledBack, OLD);
    // What failed on others before has been put aside as well.
    for target in [NEXT, NEW] {
        story.operator(OperatorRequest::ReleaseTarget {
            target: target.to_owned(),
            reason: "it is mended".into(),
        });
    }
    story.later(60);
    story.configure(|document| {
        let settings = document["updateSettings"]
            .as_object_mut()
            .expect("settings");
        settings.remove("quarantineTargetAfter");
        settings.remove("alarms");
    });
}

/// A rollout is to be taken back, and whom it updated is put aside meanwhile.
fn nothing_left(story: &mut Story) {
    story.configure(|document| {
        document["updateGroups"]["pair"] = json!({
            "machines": ["pair-01", "pair-02"], "updatePolicy": "aggressive", "maxFailures": 0,
            "allowReboot": true,
        });
    });
    let names = ["pair-01", "pair-02"];
    for name in names {
        story.poll(name, OLD, None);
    }
    story.pin(&names, NEW);
    story.execute(&names);
    let grant = story.granted("pair-01", NEW);
    story.result("pair-01", &grant, OutcomeKind::Confirmed, NEW);
    let machines = vec![machine("pair-01")];
    story.operator(OperatorRequest::Quarantine {
        machines: machines.clone(),
        reason: "its disk is failing".into(),
    });
    let grant = story.granted("pair-02", NEW);
    story.result("pair-02", &grant, OutcomeKind::RolledBack, OLD);
    let reason = "it has another one".to_owned();
    story.operator(OperatorRequest::Release { machines, reason });
}

/// A group with two sides; one move fails, and one is under way at the end.
fn sides(story: &mut Story) {
    story.configure(|document| {
        document["updateGroups"]["shop"] = json!({
            "machines": ["shop-01", "shop-02"], "updatePolicy": "aggressive",
            "blueGreen": {
                "sides": { "blue": ["shop-01"], "green": ["shop-02"] },
                "traffic": { "haproxy": { "address": "lb-01:9999", "backend": "shop" } },
            },
        });
    });
    let names = ["shop-01", "shop-02"];
    for name in names {
        story.poll(name, OLD, None);
    }
    story.pin(&names, NEW);
    story.execute(&names);
    story.moved(Err("lb-01 cannot be reached"));
    story.later(1);
    story.moved(Ok(""));
    let grant = story.granted("shop-02", NEW);
    story.result("shop-02", &grant, OutcomeKind::Confirmed, NEW);
    story.moved(Ok("sessions that outlasted the drain: 1 on shop-01"));
    story.later(11);
    let grant = story.granted("shop-01", NEW);
    story.result("shop-01", &grant, OutcomeKind::Confirmed, NEW);
    for _ in 0..ATTEMPTS {
        if story.fleet.wanted_moves().is_empty() {
            story.operator(OperatorRequest::MoveTraffic {
                group: "shop".parse().expect("a name"),
                to: None,
                reason: "a test".into(),
            });
        }
        story.moved(Err("lb-01 cannot be reached"));
        story.later(1);
    }
    story.operator(OperatorRequest::MoveTraffic {
        group: "shop".parse().expect("a name"),
        to: Some("blue".parse().expect("a name")),
        reason: "a test".into(),
    });
}

/// Two sides whose machines take and leave their traffic by themselves; at the end one of them is asked.
fn hooks(story: &mut Story) {
    story.configure(|document| {
        document["updateGroups"]["mail"] = json!({
            "machines": ["mail-01", "mail-02"], "updatePolicy": "aggressive",
            "blueGreen": {
                "sides": { "blue": ["mail-01"], "green": ["mail-02"] },
                "traffic": { "hook": true },
            },
        });
    });
    for name in ["mail-01", "mail-02"] {
        let mut report = story.report(name, OLD, None);
        report.traffic = Some(TrafficDone::default());
        story.poll_with(name, report);
    }
    let (mail, green) = (
        "mail".parse().expect("a name"),
        "green".parse().expect("a name"),
    );
    let to = OperatorRequest::MoveTraffic {
        group: mail,
        to: Some(green),
        reason: "a test".into(),
    };
    story.operator(to.clone());
    story.takes_or_leaves("mail-02", Some("exit status 1"));
    story.later(1);
    story.takes_or_leaves("mail-02", None);
    story.takes_or_leaves("mail-01", None);
    story.operator(to);
}

/// Nobody of a group goes in its window.
fn windows(story: &mut Story) {
    story.configure(|document| {
        document["updateGroups"]["late"] = json!({
            "machines": ["late-01"], "updatePolicy": "aggressive",
            "maintenanceWindow": "01:00-01:30", "avoid": ["holidays"],
        });
        document["updateSettings"]["calendars"] = json!({ "holidays": { "dates": ["12-25"] } });
    });
    story.poll("late-01", OLD, None);
    story.pin(&["late-01"], NEW);
    story.execute(&["late-01"]);
    // It is there, and does not get done with staging.
    for _ in 0..20 * 12 {
        story.later(5);
        story.poll("late-01", OLD, None);
    }
}

/// A health check and a cleanup once a day, and a check that is left out.
fn schedules(story: &mut Story) {
    story.configure(|document| {
        document["schedules"] = json!({
            "health": { "cron": "0 1 * * *", "action": "health-check", "groups": ["late"] },
            "tidy": { "cron": "0 3 * * *", "action": "cleanup", "keep": 3, "groups": ["late"] },
        });
    });
    story.operator(OperatorRequest::SkipSchedule {
        schedule: "health".parse().expect("a name"),
        reason: "a fair".into(),
    });
    story.later(49 * 60);
}
