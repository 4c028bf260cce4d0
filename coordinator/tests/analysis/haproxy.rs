//! Traffic between two sides of real backends, moved by a real HAProxy while clients ask without a pause.

mod bed;
mod persistence;
mod story;

use std::time::Duration;

use coordinator::traffic::haproxy::{Backend, HaproxyError, Limits, Placed};
use coordinator_core::traffic::At;

use bed::{Bed, Load};

const LIMITS: Limits = Limits {
    up: Duration::from_secs(10),
    drain: Duration::from_secs(10),
};

const BLUE: [&str; 2] = ["blue-1", "blue-2"];
const GREEN: [&str; 2] = ["green-1", "green-2"];

/// Which of the servers get traffic, and which of those HAProxy itself has up.
async fn in_and_up(backend: Backend<'_>) -> (Vec<String>, Vec<String>) {
    let servers = backend.servers().await.expect("servers");
    let named = |of: &dyn Fn(&coordinator::traffic::haproxy::Server) -> bool| {
        let names = servers.iter().filter(|(_, server)| of(server));
        names.map(|(name, _)| name.clone()).collect::<Vec<_>>()
    };
    (
        named(&|server| server.is_in()),
        named(&|server| server.serves()),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_sides_change_and_are_stopped() {
    let mut bed = Bed::start("check").await;
    let at = bed.at.clone();
    let backend = Backend {
        at: &at,
        name: "web",
    };
    // As after a start of HAProxy: both sides get traffic until somebody says which one.
    let placed = backend.place(&BLUE, &GREEN, LIMITS).await.expect("blue");
    assert_eq!(placed, Placed::default());
    let load = Load::start(bed.front);
    let mut versions = vec![load.answers_from_now().await];
    for (into, out_of) in [(GREEN, BLUE), (BLUE, GREEN), (GREEN, BLUE)] {
        let placed = backend.place(&into, &out_of, LIMITS).await.expect("moved");
        assert_eq!(placed, Placed::default(), "drained in time");
        // The side that was left is updated at once: gone, and then there again.
        for server in out_of {
            bed.stop(server);
        }
        versions.push(load.answers_from_now().await);
        for server in out_of {
            bed.serve(server);
        }
    }
    let (asked, failed) = load.stop().await;
    assert_eq!(failed, Vec::<String>::new(), "of {asked} requests");
    assert!(asked > 500, "only {asked} requests");
    let sides: Vec<&str> = versions.iter().map(String::as_str).collect();
    assert_eq!(sides, ["blue", "green", "blue", "green"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_side_that_does_not_come_up_gets_nothing_and_takes_nothing() {
    let mut bed = Bed::start("check").await;
    let at = bed.at.clone();
    let backend = Backend {
        at: &at,
        name: "web",
    };
    backend.place(&BLUE, &GREEN, LIMITS).await.expect("blue");
    bed.stop("green-2");
    tokio::time::sleep(Duration::from_millis(700)).await;
    let load = Load::start(bed.front);
    let limits = Limits {
        up: Duration::from_secs(1),
        ..LIMITS
    };
    let error = backend.place(&GREEN, &BLUE, limits).await;
    let error = error.expect_err("one is down");
    assert!(matches!(error, HaproxyError::NotUp { .. }), "{error:?}");
    assert!(error.to_string().contains("web/green-2"), "{error}");
    assert!(!error.to_string().contains("green-1"), "{error}");
    let (is_in, up) = in_and_up(backend).await;
    assert_eq!(is_in, BLUE);
    assert_eq!(up, BLUE);
    let (asked, failed) = load.stop().await;
    assert_eq!(failed, Vec::<String>::new(), "of {asked} requests");
    // Said again once it is there, it is done.
    bed.serve("green-2");
    backend.place(&GREEN, &BLUE, LIMITS).await.expect("green");
    backend.place(&GREEN, &BLUE, LIMITS).await.expect("again");
    assert_eq!(in_and_up(backend).await.0, GREEN);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_last_longer_than_the_drain_are_told() {
    let bed = Bed::start("check").await;
    let at = bed.at.clone();
    let backend = Backend {
        at: &at,
        name: "web",
    };
    backend.place(&BLUE, &GREEN, LIMITS).await.expect("blue");
    let slow = tokio::spawn(bed::get(bed.front, "/slow"));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let limits = Limits {
        drain: Duration::from_millis(400),
        ..LIMITS
    };
    let placed = backend.place(&GREEN, &BLUE, limits).await.expect("green");
    let sessions: u64 = placed.left.iter().map(|(_, count)| count).sum();
    assert_eq!(sessions, 1, "{placed:?}");
    let answer = slow.await.expect("a task");
    assert!(answer.expect("an answer").starts_with("blue"));
}

#[tokio::test]
async fn whatever_is_wrong_is_said_with_server_and_answer() {
    let mut bed = Bed::start("").await;
    let at = bed.at.clone();
    let backend = Backend {
        at: &at,
        name: "web",
    };
    let place = |backend: Backend<'static>| async move {
        let placed = backend.place(&GREEN, &BLUE, LIMITS).await;
        placed.expect_err("wrong").to_string()
    };
    let at: &'static At = Box::leak(Box::new(at.clone()));
    let web = Backend { at, name: "web" };
    let says = place(web).await;
    assert!(says.contains("web/green-1 has no health check"), "{says}");
    let error = backend.place(&["nobody"], &BLUE, LIMITS).await;
    let says = error.expect_err("nobody").to_string();
    assert!(says.contains("web has no server nobody"), "{says}");
    let says = place(Backend { at, name: "nope" }).await;
    assert!(says.contains("show servers state nope"), "{says}");
    assert!(says.contains("Can't find backend"), "{says}");
    bed.say("set server web/green-1 state maint").await;
    let says = place(web).await;
    assert!(says.contains("web/green-1 is in maintenance"), "{says}");
    bed.end();
    let says = place(web).await;
    assert!(says.contains("cannot be reached"), "{says}");
}
