//! Who asks too often is told to come back later, alone, and nothing is lost by it.

mod bed;

use std::{num::NonZeroU32, time::Duration};

use bed::{Bed, OLD, dial, poll, report};
use coordinator::{
    limits::{Rate, Rates},
    store::memory::MemoryStore,
};
use lab_proto::{
    agent::agent_client::AgentClient,
    operator::{
        EmergencyStopRequest, ListMachinesRequest, StatusRequest, operator_client::OperatorClient,
    },
};
use platform::enrol::{EnrolError, enrol};
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
async fn all_certificates_of_a_machine_are_not_one_but_those_of_an_operator_are() {
    let mut bed = bed(Rates {
        machine: rate(1, 2),
        operator: rate(1, 20),
        enrolment: None,
    })
    .await;
    bed.configure().await;
    let mut old = bed.agent("dev-01").await;
    while old.poll(poll(report(1, OLD))).await.is_ok() {}
    let token = bed.token("dev-01").await;
    let fresh = bed.enrol(&token).await;
    let mut new = AgentClient::new(dial(&bed.server, &fresh).await);
    new.poll(poll(report(2, OLD)))
        .await
        .expect("a bucket of its own");

    let mut one = bed.operator("vera", "viewer").await;
    let mut two = bed.operator("vera", "operator").await;
    while one.get_status(StatusRequest::default()).await.is_ok() {}
    let refused = two.list_machines(ListMachinesRequest::default()).await;
    let refused = refused.expect_err("the same operator");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    // Whoever may stop everything always can.
    let stop = EmergencyStopRequest {
        reason: "smoke".into(),
        ..EmergencyStopRequest::default()
    };
    two.emergency_stop(stop).await.expect("stopped");
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
