//! Who asks too often is told to come back later, alone, and nothing is lost by it.

mod bed;

use std::{num::NonZeroU32, time::Duration};

use bed::{Bed, OLD, dial, poll, report};
use coordinator::{
    connections::Caps,
    limits::{Rate, Rates},
    store::memory::MemoryStore,
};
use lab_proto::{
    agent::agent_client::AgentClient,
    operator::{
        EmergencyStopRequest, ListMachinesRequest, RevokeIdentityRequest, StatusRequest,
        operator_client::OperatorClient,
    },
};
use platform::{
    channel::{Timeouts, connect},
    enrol::{EnrolError, enrol},
};
use tempfile::TempDir;
use tonic::{Code, Status};

const FREE: Rates = Rates {
    machine: None,
    operator: None,
    enrolment: None,
};

fn rate(per_second: u32, burst: u32) -> Option<Rate> {
    let number = |number| NonZeroU32::new(number).expect("not zero");
    Some(Rate {
        per_second: number(per_second),
        burst: number(burst),
    })
}

async fn bed(rates: Rates) -> Bed {
    let directory = TempDir::new().expect("a directory");
    let config = coordinator::Config {
        rates,
        ..bed::config_in(&directory)
    };
    Bed::start_as(&config, MemoryStore::new(), directory).await
}

/// Waits as long as the refusal says.
async fn come_back(refused: &Status) {
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    let pushback = refused.metadata().get("grpc-retry-pushback-ms");
    let millis = pushback.expect("a time").to_str().expect("ASCII");
    let wait = Duration::from_millis(millis.parse().expect("a number"));
    assert!(wait <= Duration::from_secs(1), "{wait:?}");
    tokio::time::sleep(wait).await;
}

#[tokio::test]
async fn a_machine_that_asks_too_often_comes_back_later_and_others_do_not_notice() {
    let mut bed = bed(Rates {
        machine: rate(1, 3),
        ..FREE
    })
    .await;
    bed.configure().await;
    let mut agent = bed.agent("dev-01").await;
    let mut other = bed.agent("dev-02").await;
    let mut sequence = 0;
    let refused = loop {
        sequence += 1;
        assert!(sequence < 20, "never refused");
        if let Err(refused) = agent.poll(poll(report(sequence, OLD))).await {
            break refused;
        }
    };
    assert!(sequence > 3);
    assert!(refused.message().contains("too many requests"));
    other
        .poll(poll(report(1, OLD)))
        .await
        .expect("not its doing");
    come_back(&refused).await;
    // On the same connection, which was not ended.
    agent
        .poll(poll(report(sequence, OLD)))
        .await
        .expect("again");
    assert_eq!(bed.server.connections(), 3);
}

#[tokio::test]
async fn all_certificates_of_a_name_are_one() {
    let mut bed = bed(Rates {
        machine: rate(1, 2),
        operator: rate(1, 20),
        enrolment: None,
    })
    .await;
    bed.configure().await;
    let mut old = bed.agent("dev-01").await;
    let token = bed.token("dev-01").await;
    let fresh = bed.enrol(&token).await;
    let mut new = AgentClient::new(dial(&bed.server, &fresh).await);
    while old.poll(poll(report(1, OLD))).await.is_ok() {}
    let refused = new.poll(poll(report(2, OLD))).await;
    let refused = refused.expect_err("the same machine");
    assert_eq!(refused.code(), Code::ResourceExhausted);

    let mut one = bed.operator("vera", "viewer").await;
    let mut two = bed.operator("vera", "operator").await;
    while one.get_status(StatusRequest::default()).await.is_ok() {}
    let refused = two.list_machines(ListMachinesRequest::default()).await;
    let refused = refused.expect_err("the same operator");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    // Whoever may stop everything always can.
    two.emergency_stop(stop()).await.expect("stopped");
}

fn stop() -> EmergencyStopRequest {
    EmergencyStopRequest {
        reason: "smoke".into(),
        ..EmergencyStopRequest::default()
    }
}

/// Waits until so many connections are left.
async fn until_connected(bed: &Bed, count: usize) {
    let left = async {
        while bed.server.connections() != count {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let soon = Duration::from_secs(10);
    if tokio::time::timeout(soon, left).await.is_err() {
        panic!("{} are connected", bed.server.connections());
    }
}

#[tokio::test]
async fn whoever_is_refused_again_and_again_loses_the_connection() {
    let mut bed = bed(FREE).await;
    let admin = 1;
    let token = bed.token_for(bed::viewer("vera")).await;
    let identity = bed.enrol(&token).await;
    let mut viewer = OperatorClient::new(dial(&bed.server, &identity).await);
    viewer
        .get_status(StatusRequest::default())
        .await
        .expect("a status");
    for _ in 0..10 {
        let refused = viewer.emergency_stop(stop()).await.expect_err("a viewer");
        assert_eq!(refused.code(), Code::PermissionDenied);
    }
    assert_eq!(bed.server.connections(), admin + 1);
    // That it may not it is told once more, and then the line is dead.
    let refused = viewer.emergency_stop(stop()).await.expect_err("a viewer");
    assert_eq!(refused.code(), Code::PermissionDenied);
    until_connected(&bed, admin).await;
    // What it may it may all the same, on a connection that lasts.
    let mut viewer = OperatorClient::new(dial(&bed.server, &identity).await);
    for _ in 0..3 {
        let status = viewer.get_status(StatusRequest::default()).await;
        status.expect("a status");
    }
    assert_eq!(bed.server.connections(), admin + 1);
    drop(viewer);

    // One whose certificate is not good any more has nothing to say on any connection.
    let revoke = RevokeIdentityRequest {
        name: "vera".into(),
        reason: "left".into(),
        ..RevokeIdentityRequest::default()
    };
    bed.admin.revoke_identity(revoke).await.expect("revoked");
    until_connected(&bed, admin).await;
    let mut viewer = OperatorClient::new(dial(&bed.server, &identity).await);
    let refused = viewer.get_status(StatusRequest::default()).await;
    assert_eq!(refused.expect_err("revoked").code(), Code::Unauthenticated);
    until_connected(&bed, admin).await;
}

#[tokio::test]
async fn machines_never_take_the_places_of_operators() {
    let directory = TempDir::new().expect("a directory");
    let config = coordinator::Config {
        rates: FREE,
        caps: Caps::members(2, 2),
        ..bed::config_in(&directory)
    };
    let mut bed = Bed::start_as(&config, MemoryStore::new(), directory).await;
    bed.configure().await;
    let token = bed.token("dev-01").await;
    let first = bed.enrol(&token).await;
    let token = bed.token("dev-02").await;
    let second = bed.enrol(&token).await;
    let agents = [&first, &first, &second, &second];
    let mut connected = Vec::new();
    for (number, identity) in agents.into_iter().enumerate() {
        let address = bed.server.address().to_string();
        let channel = connect(&address, identity, Timeouts::default()).await;
        assert_eq!(channel.is_ok(), number < 2, "{number}: {channel:?}");
        connected.extend(channel);
    }
    let mut second = bed.operator("vera", "operator").await;
    second.emergency_stop(stop()).await.expect("stopped");
}

#[tokio::test]
async fn an_address_that_enrols_too_often_keeps_its_tokens_and_comes_back_later() {
    let mut bed = bed(Rates {
        enrolment: rate(1, 1),
        ..FREE
    })
    .await;
    bed.configure().await;
    let first = bed.token("dev-01").await;
    let second = bed.token("dev-02").await;
    let address = bed.server.enrol_address().to_string();
    let (one, two) = tokio::join!(enrol(&address, &first), enrol(&address, &second));
    let (late, refused) = match (one, two) {
        (Ok(_), Err(refused)) => (second, refused),
        (Err(refused), Ok(_)) => (first, refused),
        (Ok(_), Ok(_)) => panic!("both at once"),
        (Err(one), Err(two)) => panic!("neither: {one}, {two}"),
    };
    assert!(matches!(refused, EnrolError::NoAnswer(_)), "{refused}");
    assert!(
        refused.to_string().contains("too many requests"),
        "{refused}"
    );
    tokio::time::sleep(Duration::from_secs(1)).await;
    enrol(&address, &late)
        .await
        .expect("the token is still good");
}

#[tokio::test]
async fn usual_limits_are_far_above_what_is_usual() {
    let bed = bed(Rates::default()).await;
    let admin = bed.admin_identity();
    let mut admin = OperatorClient::new(dial(&bed.server, &admin).await);
    for _ in 0..100 {
        let status = admin.get_status(StatusRequest::default()).await;
        status.expect("a status");
    }
}
