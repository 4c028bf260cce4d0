//! Backends that keep clients to their servers: their traffic is not moved.

use coordinator::traffic::haproxy::{Backend, HaproxyError};

use super::{
    BLUE, GREEN, LIMITS,
    bed::{Bed, Words},
    in_and_up,
};

/// What a move says, where nothing may be changed by it.
async fn refused(words: Words<'_>) -> String {
    let bed = Bed::with(words).await;
    let backend = Backend {
        at: &bed.at,
        name: "web",
    };
    let before = in_and_up(backend).await.0;
    assert_eq!(before.len(), 4, "both sides: {before:?}");
    let error = backend.place(&GREEN, &BLUE, LIMITS).await;
    let error = error.expect_err("it cannot be told who has left");
    assert!(
        matches!(
            error,
            HaproxyError::KeepsClients { .. } | HaproxyError::Hidden { .. }
        ),
        "{error:?}"
    );
    assert_eq!(in_and_up(backend).await.0, before, "{error}");
    error.to_string()
}

#[tokio::test]
async fn a_backend_with_a_cookie_is_refused_and_stays_as_it_is() {
    let says = refused(Words {
        backend: "  cookie SRV insert indirect nocache",
        server: "check cookie NAME",
        ..Words::default()
    })
    .await;
    assert!(says.contains("backend web keeps clients"), "{says}");
    assert!(says.contains("`cookie blue-1` of server blue-1"), "{says}");
    assert!(says.contains("reload HAProxy"), "{says}");
    let says = refused(Words {
        backend: "  cookie SRV insert dynamic\n  dynamic-cookie-key secret",
        ..Words::default()
    })
    .await;
    assert!(says.contains("`cookie "), "{says}");
    assert!(!says.contains("secret"), "{says}");
    let says = refused(Words {
        backend: "  cookie SRV insert indirect nocache",
        ..Words::default()
    })
    .await;
    assert!(says.contains("`cookie SRV` of the backend"), "{says}");
}

#[tokio::test]
async fn a_backend_with_stick_rules_is_refused_and_stays_as_it_is() {
    for rule in ["on src", "match src", "store-request src"] {
        let backend = format!("  stick-table type ip size 1k expire 1m\n  stick {rule}");
        let says = refused(Words {
            backend: &backend,
            ..Words::default()
        })
        .await;
        assert!(says.contains("with stick-table web"), "{rule}: {says}");
    }
}

#[tokio::test]
async fn a_socket_that_hides_cookies_is_refused() {
    let says = refused(Words {
        level: "user",
        backend: "  cookie SRV insert indirect nocache",
        server: "check cookie NAME",
        ..Words::default()
    })
    .await;
    assert!(says.contains("level admin"), "{says}");
}

#[tokio::test]
async fn traffic_that_is_there_already_does_not_settle_where_clients_are_kept() {
    let bed = Bed::with(Words {
        backend: "  cookie SRV insert indirect nocache",
        server: "check cookie NAME",
        ..Words::default()
    })
    .await;
    let backend = Backend {
        at: &bed.at,
        name: "web",
    };
    for server in GREEN {
        let command = format!("set server web/{server} state drain");
        bed.say(&command).await;
    }
    let error = backend.place(&BLUE, &GREEN, LIMITS).await;
    let error = error.expect_err("green still has clients");
    assert!(
        matches!(error, HaproxyError::KeepsClients { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn tables_that_only_count_and_those_of_other_backends_hold_nothing_up() {
    let bed = Bed::with(Words {
        backend: "  stick-table type ip size 1k expire 1m store http_req_rate(10s)\n\
                  \x20 http-request track-sc0 src\n  http-request track-sc1 src table rates",
        sections: "backend rates\n  stick-table type ip size 1k expire 1m store http_req_rate(10s)\n\
                   backend web-2\n  cookie SRV insert\n  stick-table type ip size 1k expire 1m\n  stick on src\n\
                   \x20 server other 127.0.0.1:9 cookie other",
        ..Words::default()
    })
    .await;
    let backend = Backend {
        at: &bed.at,
        name: "web",
    };
    backend.place(&GREEN, &BLUE, LIMITS).await.expect("green");
    assert_eq!(in_and_up(backend).await.0, GREEN);
}
