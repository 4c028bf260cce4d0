//! Waiting that ends early: at the time limit, or with Ctrl-C.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::*;

/// Runs `lab` and presses Ctrl-C once it has called `method` so many times: it has read the answers
/// to all calls before that one.
async fn interrupted(
    coordinator: &Coordinator,
    words: &[&str],
    (method, times): (&str, usize),
) -> (i32, String, String) {
    let mut command = lab(coordinator, words);
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let called = || {
        let calls = coordinator.calls();
        calls.iter().filter(|call| *call == method).count()
    };
    while called() < times {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let id = child
        .id()
        .expect("running")
        .try_into()
        .expect("a process id");
    kill(Pid::from_raw(id), Signal::SIGINT).expect("sent");
    ended(child.wait_with_output().await.expect("ended"))
}

#[tokio::test]
async fn the_time_limit_and_ctrl_c_leave_the_rollout_alone() {
    let script = || begun().streams(&[status("active", &[("a", "leased")])]);
    let coordinator = Coordinator::start(script()).await;
    let line = ["update", "execute", "--timeout=1"];
    let (code, _, err) = run(&coordinator, &line).await;
    assert_eq!(code, 124, "{err}");
    assert!(
        err.contains("rollout r-7 goes on") && err.contains("lab update watch r-7"),
        "{err}"
    );

    let coordinator = Coordinator::start(script()).await;
    let line = ["update", "watch", "r-7", "-o", "json"];
    let (code, out, err) = interrupted(&coordinator, &line, ("watch_status", 1)).await;
    assert_eq!(code, 130, "{err}");
    assert!(err.contains("rollout r-7 goes on"), "{err}");
    let whole = json!({ "result": "interrupted", "id": "r-7", "rollout": null });
    assert_eq!(json_of(&out), whole);
    let stops = ["pause", "abort", "emergency_stop"];
    assert!(
        coordinator
            .calls()
            .iter()
            .all(|call| !stops.contains(&call.as_str()))
    );
}

#[tokio::test]
async fn prepare_tells_what_is_staged_so_far() {
    let both = |staged| machines(OLD, &[("web-01", staged), ("web-02", false)]);
    let pinned = PinTargetsReply {
        machines: vec!["web-01".into(), "web-02".into()],
    };
    let script = || {
        Script::default()
            .says("pin_targets", &pinned)
            .says("list_machines", both(false))
    };
    let away = || tonic::Status::unavailable("restarting");
    let first = format!("--closure=web-01={NEW}");
    let second = format!("--closure=web-02={NEW}");
    let line = ["update", "prepare", &first, &second];
    let json_line = [line.as_slice(), &["-o", "json"]].concat();
    let limited = [line.as_slice(), &["--timeout=1"]].concat();
    let limited_json = [json_line.as_slice(), &["--timeout=1"]].concat();
    let staging = |staged: &[&str], waiting: &[&str]| {
        json!({
            "staged": staged, "waiting": waiting, "offline": [], "engaged": {}, "failed": {},
        })
    };
    let one = staging(&["web-01"], &["web-02"]);
    let text = "web-02  ▶ staging\n1 of 2 machines staged\n";

    let coordinator = Coordinator::start(script().says("list_machines", both(true))).await;
    let (code, out, err) = run(&coordinator, &limited_json).await;
    assert_eq!((code, json_of(&out)), (124, one.clone()), "{err}");
    assert!(err.contains("the machines go on staging"), "{err}");
    let (code, out, err) = run(&coordinator, &limited).await;
    assert_eq!((code, out.as_str()), (124, text), "{err}");

    let coordinator = Coordinator::start(script().says("list_machines", both(true))).await;
    let (code, out, err) = interrupted(&coordinator, &json_line, ("why", 2)).await;
    assert_eq!((code, json_of(&out)), (130, one), "{err}");
    assert!(err.contains("the machines go on staging"), "{err}");

    // The coordinator went away behind the pins: nobody has staged anything as far as is known.
    let coordinator = Coordinator::start(script().refuses("list_machines", away())).await;
    let (code, out, err) = interrupted(&coordinator, &json_line, ("list_machines", 2)).await;
    let none = staging(&[], &["web-01", "web-02"]);
    assert_eq!((code, json_of(&out)), (130, none), "{err}");
}

#[tokio::test]
async fn health_and_verification_tell_who_answered_before_ctrl_c() {
    let started = HealthCheckStarted {
        request: 4,
        machines: vec!["web-01".into(), "web-02".into()],
    };
    let away = || tonic::Status::unavailable("restarting");
    let script = || Script::default().says("request_health_check", &started);
    let half = || script().says("get_health", answers_of(&["healthy", "waiting"]));
    let both = machines(NEW, &[("web-01", true), ("web-02", true)]);
    let health = ["health-check", "-o", "json"];
    let verify = ["update", "verify", "-o", "json"];
    let states = |out: &str, field: &str| {
        let machines = json_of(out)["machines"].take();
        let machines = machines.as_array().expect("a list").iter();
        let told = machines.map(|machine| machine[field].as_str().expect("text").to_owned());
        told.collect::<Vec<_>>()
    };

    let coordinator = Coordinator::start(half()).await;
    let (code, out, err) = interrupted(&coordinator, &health, ("get_health", 2)).await;
    assert_eq!(code, 130, "{err}");
    assert_eq!(states(&out, "state"), ["healthy", "waiting"]);
    assert!(err.contains("no answer yet from 1 machine"), "{err}");

    let coordinator = Coordinator::start(script().refuses("get_health", away())).await;
    let (code, out, err) = interrupted(&coordinator, &health, ("get_health", 1)).await;
    assert_eq!(code, 130, "{err}");
    assert_eq!(states(&out, "machine"), ["web-01", "web-02"]);
    assert_eq!(states(&out, "state"), ["waiting", "waiting"]);

    let coordinator = Coordinator::start(half().says("list_machines", &both)).await;
    let (code, out, err) = interrupted(&coordinator, &verify, ("get_health", 2)).await;
    assert_eq!(code, 130, "{err}");
    assert_eq!(states(&out, "health"), ["healthy", "waiting"]);
    assert_eq!(states(&out, "running"), [NEW, NEW]);
    assert_eq!(json_of(&out)["ok"], false);

    // Whoever pressed Ctrl-C is not held up by what cannot be had any more.
    let coordinator = Coordinator::start(half().refuses("list_machines", away())).await;
    let (code, out, err) = interrupted(&coordinator, &verify, ("get_health", 2)).await;
    assert_eq!(code, 130, "{err}");
    assert_eq!(states(&out, "health"), ["healthy", "waiting"]);
    assert_eq!(states(&out, "running"), ["", ""]);
    assert_eq!(json_of(&out)["ok"], false);
}
