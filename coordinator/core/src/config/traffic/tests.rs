//! Groups with two sides, as they are written and as they are refused.

use serde_json::json;

use super::*;
use crate::config::FleetConfig;

fn read(group: &Value, settings: &Value) -> Result<FleetConfig, Vec<String>> {
    let mut group = group.clone();
    group["machines"] = json!(["a", "b", "c"]);
    let document = json!({
        "updateGroups": { "web": group },
        "updatePolicies": { "with-canary": { "canary": 1 } },
        "updateSettings": settings,
    });
    let read = FleetConfig::parse(&document);
    read.map_err(|faults| faults.0.iter().map(ToString::to_string).collect())
}

fn good() -> Value {
    json!({
        "sides": { "green": ["c"], "blue": ["a", "b"] },
        "traffic": { "haproxy": { "socket": "/run/haproxy/admin.sock", "backend": "web" } },
    })
}

#[test]
fn sides_and_what_moves_the_traffic_are_read() {
    let mut sides = good();
    sides["drain"] = json!("5m");
    sides["traffic"]["haproxy"]["servers"] = json!({ "a": "A:1" });
    let config = read(&json!({ "blueGreen": sides }), &json!({})).expect("valid");
    let policy = &config.groups.values().next().expect("one").policy;
    let sides = policy.blue_green.as_ref().expect("sides");
    let names = sides.sides.each_ref().map(|side| side.name.as_str());
    assert_eq!(names, ["blue", "green"]);
    assert_eq!(policy.canary, 0, "not that of its preset");
    assert_eq!(
        (sides.drain, sides.watch),
        (Duration::from_secs(300), WATCH)
    );
    let servers = ["a", "b"].map(|m| haproxy(sides).server(&m.parse().expect(m)).to_owned());
    assert_eq!(servers, ["A:1", "b"]);
    let mut other = good();
    other["traffic"]["haproxy"] = json!({ "address": "127.0.0.1:9999", "backend": "web" });
    let config = read(&json!({ "blueGreen": other }), &json!({})).expect("valid");
    let policy = &config.groups.values().next().expect("one").policy;
    let sides = policy.blue_green.as_ref().expect("sides");
    assert_eq!(haproxy(sides).at, At::Address("127.0.0.1:9999".to_owned()));
    let mut hook = good();
    hook["traffic"] = json!({ "hook": true });
    let config = read(&json!({ "blueGreen": hook }), &json!({})).expect("valid");
    let policy = &config.groups.values().next().expect("one").policy;
    let sides = policy.blue_green.as_ref().expect("sides");
    assert_eq!(sides.adapter, Adapter::Hook);
}

fn haproxy(sides: &BlueGreen) -> &Haproxy {
    match &sides.adapter {
        Adapter::Haproxy(haproxy) => haproxy,
        Adapter::Hook => panic!("no HAProxy"),
    }
}

fn long_drain() -> Value {
    let mut sides = good();
    sides["traffic"] = json!({ "hook": true });
    sides["drain"] = json!("59m");
    json!({ "blueGreen": sides })
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let with = |pointer: &str, value: Value| {
        let mut sides = good();
        let (parent, key) = pointer.rsplit_once('/').expect("a path");
        let parent = sides.pointer_mut(parent).expect("there");
        parent[key] = value;
        json!({ "blueGreen": sides })
    };
    let beside = |key: &str, value: Value| json!({ "blueGreen": good(), key: value });
    let haproxy = "/traffic/haproxy";
    for (group, place, says) in [
        (json!({ "blueGreen": 1 }), "", "object"),
        (json!({ "blueGreen": {} }), ".sides", "missing"),
        (
            with("/sides", json!({ "blue": ["a", "b", "c"] })),
            ".sides",
            "not two",
        ),
        (with("/sides/red", json!(["c"])), ".sides", "not two"),
        (with("/sides/green", json!([])), ".sides.green", "at least"),
        (with("/sides/green", json!("c")), ".sides.green", "no list"),
        (
            with("/sides/green", json!(["c", "d"])),
            ".sides.green",
            "not in the group",
        ),
        (
            with("/sides/green", json!(["c", "a"])),
            ".sides.green",
            "twice",
        ),
        (
            with("/sides/blue", json!(["a"])),
            ".sides",
            "b is on no side",
        ),
        (with("/traffic", json!({})), ".traffic", "names nothing"),
        (with("/traffic", Value::Null), ".traffic", "missing"),
        (
            with("/traffic", json!({ "hook": false })),
            ".traffic",
            "names nothing",
        ),
        (with("/traffic/hook", json!(true)), ".traffic", "two things"),
        (with("/traffic/hook", json!("x")), ".traffic.hook", "true"),
        (
            with("/traffic/nginx", json!({})),
            ".traffic.nginx",
            "haproxy",
        ),
        (
            with(&format!("{haproxy}/backend"), json!("")),
            ".traffic.haproxy.backend",
            "no name",
        ),
        (
            with(&format!("{haproxy}/backend"), json!("a b")),
            ".traffic.haproxy.backend",
            "no name",
        ),
        (
            with(haproxy, json!({ "socket": "/s" })),
            ".traffic.haproxy.backend",
            "missing",
        ),
        (
            with(haproxy, json!({ "backend": "web" })),
            ".traffic.haproxy",
            "exactly one",
        ),
        (
            with(&format!("{haproxy}/address"), json!("h:1")),
            ".traffic.haproxy",
            "exactly one",
        ),
        (
            with(&format!("{haproxy}/socket"), json!("s")),
            ".traffic.haproxy.socket",
            "absolute",
        ),
        (
            with(&format!("{haproxy}/servers"), json!({ "a": "b" })),
            ".traffic.haproxy.servers",
            "of two machines",
        ),
        (
            with(&format!("{haproxy}/servers"), json!({ "d": "x" })),
            ".traffic.haproxy.servers",
            "not in the group",
        ),
        (with("/watch", json!("long")), ".watch", "long"),
        (long_drain(), ".drain", "too long for scripts"),
        (with("/wacth", json!("1m")), ".wacth", "watch"),
        (beside("canary", json!(1)), "", "canary"),
        (beside("waves", json!(["50%"])), "", "waves"),
        (beside("updatePolicy", json!("with-canary")), "", "canary"),
    ] {
        let found = read(&group, &json!({})).expect_err(place);
        let fits = |fault: &String| {
            let place = format!("updateGroups.web.blueGreen{place}: ");
            fault.starts_with(&place) && fault.contains(says)
        };
        assert!(found.iter().any(fits), "{group}: {found:?}");
    }
    let found = read(
        &json!({ "blueGreen": good() }),
        &json!({ "coordinators": ["a"] }),
    );
    assert!(found.expect_err("a coordinator")[0].contains("runs a coordinator"));
}
