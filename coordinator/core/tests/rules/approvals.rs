//! Who may approve, and what becomes of a question that nobody answers.

use common::{GroupName, ScheduleName, Target};
use coordinator_core::{
    FleetConfig, Request,
    history::Entry,
    identity::{Actor, Role},
    request::{OperatorRequest, Refusal},
    rollout::{Approval, PauseReason, RolloutGroup, RolloutState},
    wait::Whom,
};
use serde_json::{Value, json};

use crate::fleet::{World, minutes, name, path};

fn world(keys: Value, settings: Value) -> World {
    let mut group = json!({ "machines": ["a"], "updatePolicy": "manual-approval" });
    let keys = keys.as_object().expect("keys").clone();
    group.as_object_mut().expect("an object").extend(keys);
    World::new(json!({ "db": group }), settings)
}

fn answer(world: &mut World, name: &str, reject: bool) -> Option<Refusal> {
    say(world, name, None, reject, "")
}

fn answer_for(
    world: &mut World,
    group: Option<GroupName>,
    name: &str,
    comment: &str,
) -> Option<Refusal> {
    say(world, name, group, false, comment)
}

fn say(
    world: &mut World,
    name: &str,
    group: Option<GroupName>,
    reject: bool,
    comment: &str,
) -> Option<Refusal> {
    let actor = Actor {
        name: name.parse().expect("a name"),
        role: Role::Admin,
        serial: "2".to_owned(),
    };
    let request = OperatorRequest::Approve {
        rollout: None,
        group,
        reject,
        comment: comment.to_owned(),
    };
    let decision = world.handle(Request::Operator { actor, request });
    decision.reply.refusal().cloned()
}

#[test]
fn nobody_approves_their_own_rollout_where_the_settings_say_so() {
    let mut world = world(json!({}), json!({ "fourEyes": true }));
    world.execute();
    let refusal = answer(&mut world, "ada", false).expect("it is hers");
    assert!(matches!(refusal, Refusal::Forbidden(_)), "{refusal}");
    world.waits_for("a", "approval");
    assert_eq!(answer(&mut world, "bob", false), None);
    world.update("a");
}

/// The group, and a schedule of it; it has run, for somebody or at its time, and waits for approval.
fn ran(four_eyes: bool, by_hand: bool) -> World {
    let settings = json!({ "fourEyes": four_eyes, "source": { "targets": "/targets.json" } });
    let mut world = world(json!({}), settings);
    world.schedule(json!({ "nightly": { "cron": "0 2 * * *", "action": "update" } }));
    let schedule: ScheduleName = "nightly".parse().expect("a name");
    if by_hand {
        let (schedule, reason) = (schedule.clone(), String::new());
        world.done(OperatorRequest::RunSchedule { schedule, reason });
    } else {
        world.pass(minutes(121));
    }
    let targets = Ok(vec![(name("a"), Target::Closure(path("3")))]);
    let _answered = world.handle(Request::ScheduleResolved {
        schedule,
        run: 1,
        targets,
    });
    world.waits_for("a", "approval");
    world
}

#[test]
fn who_runs_a_schedule_does_not_approve_what_comes_of_it() {
    let mut world = ran(true, true);
    // Also after a restart.
    let facts = serde_json::to_value(world.fleet.facts()).expect("JSON");
    world.goes_on_from(serde_json::from_value(facts).expect("facts"));
    let refusal = answer(&mut world, "ada", false).expect("she ran it");
    assert!(matches!(refusal, Refusal::Forbidden(_)), "{refusal}");
    assert!(
        refusal.to_string().contains("a schedule that you ran"),
        "{refusal}"
    );
    assert_eq!(answer(&mut world, "bob", false), None);
    // What began at its time is nobody's own.
    assert_eq!(answer(&mut ran(true, false), "ada", false), None);
    assert_eq!(answer(&mut ran(false, true), "ada", false), None);
    assert_eq!(answer(&mut ran(true, true), "ada", true), None);
}

#[test]
fn everybody_may_say_no_to_their_own() {
    let mut world = world(json!({}), json!({ "fourEyes": true }));
    let rollout = world.execute();
    assert_eq!(answer(&mut world, "ada", true), None);
    let state = world.state(&rollout);
    assert!(matches!(
        state,
        RolloutState::Paused(PauseReason::Rejected { .. })
    ));
}

#[test]
fn without_that_setting_one_person_will_do() {
    let mut world = world(json!({}), json!({}));
    world.execute();
    assert_eq!(answer(&mut world, "ada", false), None);
    world.update("a");
}

#[test]
fn silence_is_consent_only_where_the_policy_says_so_and_only_after_its_time() {
    let keys = json!({ "autoApproveAfter": "2h", "approvalExpiry": "3h" });
    let mut asked = world(keys, json!({}));
    asked.execute();
    asked.pass(minutes(119));
    asked.waits_for("a", "approval");
    asked.pass(minutes(2));
    asked.update("a");
    let mut other = world(json!({ "approvalExpiry": "3h" }), json!({}));
    let rollout = other.execute();
    other.pass(minutes(181));
    let state = other.state(&rollout);
    assert!(matches!(
        state,
        RolloutState::Paused(PauseReason::ApprovalExpired { .. })
    ));
}

#[test]
fn an_answer_that_never_comes_is_refused() {
    for (keys, says) in [
        (json!({ "autoApproveAfter": "200h" }), "never comes"),
        (
            json!({ "autoApproveAfter": "3h", "approvalExpiry": "3h" }),
            "never comes",
        ),
        (
            json!({ "autoApproveAfter": "1h", "requireApproval": false }),
            "means nothing",
        ),
        (json!({ "autoApproveAfter": 0 }), "too short"),
    ] {
        let mut group = json!({ "machines": ["a"], "updatePolicy": "manual-approval" });
        let own = keys.as_object().expect("keys").clone();
        group.as_object_mut().expect("an object").extend(own);
        let document = json!({ "updateGroups": { "db": group } });
        let faults = FleetConfig::parse(&document).expect_err("refused");
        let found = faults.0.iter().find(|fault| {
            fault.path == "updateGroups.db.autoApproveAfter" && fault.message.contains(says)
        });
        assert!(found.is_some(), "{keys}: {faults:?}");
    }
}

/// The faults of a configuration in which silence is consent for one group.
fn where_silence_is_consent(fleet: &Value, policy: &Value, group: &Value) -> Vec<String> {
    let document = json!({
        "updateGroups": { "db": {
            "machines": ["a"], "updatePolicy": "asks", "fourEyes": group,
        } },
        "updatePolicies": { "asks": {
            "updatePolicy": "manual-approval", "autoApproveAfter": "2h", "fourEyes": policy,
        } },
        "updateSettings": { "fourEyes": fleet },
    });
    assert!(
        serde_json::from_value::<FleetConfig>(document.clone()).is_ok(),
        "one that was in force already is read"
    );
    let faults = FleetConfig::parse(&document).err();
    let faults = faults.into_iter().flat_map(|faults| faults.0);
    faults.map(|fault| fault.to_string()).collect()
}

#[test]
fn silence_is_no_second_pair_of_eyes() {
    let (yes, no, unsaid) = (json!(true), json!(false), json!(null));
    for (fleet, policy, group, where_from) in [
        (&yes, &unsaid, &unsaid, "updateSettings.fourEyes"),
        (&no, &yes, &unsaid, "updatePolicies.asks.fourEyes"),
        (&no, &no, &yes, "updateGroups.db.fourEyes"),
    ] {
        let faults = where_silence_is_consent(fleet, policy, group);
        assert_eq!(faults.len(), 1, "{faults:?}");
        for says in [
            "updateGroups.db.autoApproveAfter",
            where_from,
            "nobody would have looked",
        ] {
            assert!(faults[0].contains(says), "{says}: {faults:?}");
        }
    }
    for (fleet, policy, group) in [
        (&yes, &yes, &no),
        (&yes, &no, &unsaid),
        (&no, &unsaid, &unsaid),
    ] {
        let faults = where_silence_is_consent(fleet, policy, group);
        assert_eq!(faults, [""; 0]);
    }
}

#[test]
fn a_policy_that_no_group_names_says_that_too() {
    let policy = |four_eyes: Value| {
        let keys = json!({
            "updatePolicy": "manual-approval", "autoApproveAfter": "2h", "fourEyes": four_eyes,
        });
        let document = json!({
            "updateGroups": { "db": { "machines": ["a"] } },
            "updatePolicies": { "asks": keys },
            "updateSettings": { "fourEyes": true },
        });
        FleetConfig::parse(&document)
            .err()
            .map(|faults| faults.0[0].path.clone())
    };
    let at = "updatePolicies.asks.autoApproveAfter".to_owned();
    assert_eq!(policy(json!(true)), Some(at));
    // Groups that name it may say otherwise than the fleet.
    assert_eq!(policy(json!(null)), None);
}

/// Three machines in waves of one, each of which is asked for.
fn by_waves() -> World {
    let group = json!({
        "machines": ["a", "b", "c"], "updatePolicy": "aggressive", "waves": [1, 2],
        "requireApproval": "wave",
    });
    World::new(json!({ "db": group }), json!({}))
}

#[test]
fn each_wave_is_asked_for_where_the_policy_says_so() {
    let mut world = by_waves();
    world.execute();
    world.waits_for("a", "approval");
    assert_eq!(answer(&mut world, "ada", false), None);
    world.update("a");
    for next in ["b", "c"] {
        world.pass(minutes(1));
        world.waits_for(next, "approval");
        assert_eq!(answer(&mut world, "ada", false), None);
        world.update(next);
    }
    world.pass(minutes(1));
    let refusal = answer(&mut world, "ada", false).expect("nothing is asked any more");
    assert!(matches!(refusal, Refusal::NotNow(_)), "{refusal}");
}

#[test]
fn a_wave_in_which_nobody_is_left_is_not_asked_for() {
    let mut world = by_waves();
    world.execute();
    world.report("b").running = Some(path("2"));
    world.poll("b");
    assert_eq!(answer(&mut world, "ada", false), None);
    world.update("a");
    world.pass(minutes(1));
    world.waits_for("c", "approval");
}

#[test]
fn one_answer_is_for_all_groups_that_share_it_and_one_question_is_asked() {
    let group = |name: &str, of: Value| json!({ "machines": [name], "updatePolicy": "aggressive", "requireApproval": of });
    let groups = json!({
        "one": group("a", json!("rollout")),
        "two": group("b", json!("rollout")),
        "three": group("c", json!(true)),
    });
    let mut world = World::new(groups, json!({}));
    let rollout = world.execute();
    world.pass(minutes(1));
    let groups = |world: &World| {
        world
            .fleet
            .rollout(&rollout)
            .expect("it is known")
            .groups
            .clone()
    };
    let asked = |group: &RolloutGroup| matches!(group.approval, Approval::Asked(_));
    assert_eq!(groups(&world).iter().filter(|g| asked(g)).count(), 2);
    for machine in ["a", "b", "c"] {
        world.waits_for(machine, "approval");
    }
    let group = Some("two".parse().expect("a name"));
    assert_eq!(
        answer_for(&mut world, group, "ada", "after the backup"),
        None
    );
    world.update("a");
    world.update("b");
    world.waits_for("c", "approval");
    let groups = groups(&world);
    let given = groups.iter().filter(
        |g| matches!(&g.approval, Approval::Given { comment, .. } if comment == "after the backup"),
    );
    assert_eq!(given.count(), 2);
}

#[test]
fn what_is_no_scope_of_an_approval_is_refused() {
    for value in [json!("machine"), json!(1), json!("true")] {
        let group = json!({ "machines": ["a"], "requireApproval": value });
        let document = json!({ "updateGroups": { "db": group } });
        let faults = FleetConfig::parse(&document).expect_err("refused");
        assert_eq!(faults.0[0].path, "updateGroups.db.requireApproval");
    }
}

#[test]
fn whoever_is_asked_is_told_that_somebody_else_than_the_author_must_answer() {
    let mut world = world(json!({}), json!({ "fourEyes": true }));
    world.execute();
    let others = "by somebody other than ada (updateSettings.fourEyes)";
    let text = format!("`lab update approve r1 --group=db`, {others}");
    assert_eq!(asked(&mut world), said("db", &text));
    let waits = world.wait("a").to_string();
    assert_eq!(waits, format!("group db waits for approval {others}"));
}

#[test]
fn of_a_schedule_the_author_is_who_ran_it_and_at_its_time_nobody() {
    let waits = |by_hand| ran(true, by_hand).wait("a").to_string();
    let others = "by somebody other than ada (updateSettings.fourEyes)";
    assert_eq!(waits(true), format!("group db waits for approval {others}"));
    assert_eq!(waits(false), "group db waits for approval");
}

#[test]
fn one_answer_for_several_groups_is_somebody_elses_when_one_of_them_wants_that() {
    let group = |machine: &str, four_eyes: bool| json!({ "machines": [machine], "requireApproval": "rollout", "fourEyes": four_eyes });
    let groups = json!({ "app": group("a", false), "web": group("b", true) });
    let mut world = World::new(groups, json!({}));
    world.execute();
    let waits = world.wait("a").to_string();
    assert!(
        waits.contains("other than ada (updateGroups.web.fourEyes)"),
        "{waits}"
    );
}

#[test]
fn resuming_after_a_no_or_no_answer_only_asks_again() {
    let mut rejected = world(json!({}), json!({}));
    rejected.execute();
    assert_eq!(answer(&mut rejected, "ada", true), None);
    let mut expired = world(json!({ "approvalExpiry": "3h" }), json!({}));
    expired.execute();
    expired.pass(minutes(181));
    for mut world in [rejected, expired] {
        let reason = world.wait("a");
        let hint = reason.hint(Whom::default());
        assert_eq!(
            hint.as_deref(),
            Some("lab update resume r1, which asks again")
        );
        let rollout = "r1".parse().expect("a name");
        let RolloutState::Paused(pause) = world.state(&rollout) else {
            panic!("not paused");
        };
        let way_out = pause.way_out(&rollout);
        assert!(
            way_out.contains("`lab update resume r1` asks again"),
            "{way_out}"
        );
    }
}

/// What people are told when they are asked for an approval, by group.
fn asked(world: &mut World) -> Vec<(String, String)> {
    let asked = world.history.drain(..);
    let asked = asked.filter(|entry| entry.kind == "approval-asked");
    let of = |entry: Entry| (entry.group.expect("a group").to_string(), entry.text);
    asked.map(of).collect()
}

fn said(group: &str, text: &str) -> Vec<(String, String)> {
    vec![(group.to_owned(), text.to_owned())]
}

#[test]
fn who_is_asked_for_an_approval_is_told_the_command_that_answers_it() {
    let command = "`lab update approve r1 --group=db`";
    let mut group = world(json!({}), json!({}));
    group.execute();
    assert_eq!(asked(&mut group), said("db", command));
    // Once.
    group.pass(minutes(10));
    assert_eq!(asked(&mut group), []);

    let mut waves = by_waves();
    waves.execute();
    assert_eq!(asked(&mut waves), said("db", &format!("wave 1: {command}")));
    assert_eq!(answer(&mut waves, "ada", false), None);
    waves.update("a");
    waves.waits_for("b", "approval");
    assert_eq!(asked(&mut waves), said("db", &format!("wave 2: {command}")));

    let mut shared = world(json!({ "requireApproval": "rollout" }), json!({}));
    shared.execute();
    let says = format!("with every group that shares its approval: {command}");
    assert_eq!(asked(&mut shared), said("db", &says));
}
