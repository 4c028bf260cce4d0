//! Gates measured against real servers, whatever is at the other end, and traffic moved by a real HAProxy.

mod comparison;
mod haproxy;
mod prometheus;
mod servers;

use std::{net::SocketAddr, time::Duration};

use common::Timestamp;
use coordinator::analysis::{Found, Prober, Times};
use coordinator_core::{
    FleetConfig,
    analysis::{Finding, Gate},
};
use platform::clock::Clock;
use serde_json::{Value, json};
use servers::{Answer, answers, closed, listens, tls};

/// The gate of this description, as the configuration has it.
pub(crate) fn gate(described: &Value) -> Gate {
    let document = json!({
        "analysis": { "it": described },
        "updateGroups": { "web": { "machines": ["a"], "gates": ["it"] } },
    });
    let config = FleetConfig::parse(&document).expect("a configuration");
    let group = config.groups.into_values().next().expect("a group");
    group.policy.gates.into_iter().next().expect("a gate")
}

pub(crate) async fn measure(described: &Value) -> Found {
    let at = Clock::system().now();
    let times = Times {
        opened: Timestamp(at.as_millis() - 60_000),
        since: at,
        at,
    };
    let prober = Prober::new().expect("a prober");
    prober.measure(&gate(described), times).await
}

#[track_caller]
pub(crate) fn is(found: &Found, finding: Finding, says: &str) {
    assert_eq!(found.finding, finding, "{}", found.detail);
    assert!(
        found.detail.contains(says),
        "{says:?} not in {}",
        found.detail
    );
}

/// What a server at this address is held against.
async fn http(address: SocketAddr, more: Value) -> Found {
    let mut described = json!({ "http": format!("http://{address}/health"), "timeout": "2s" });
    let map = described.as_object_mut().expect("an object");
    map.extend(more.as_object().expect("an object").clone());
    measure(&described).await
}

#[tokio::test]
async fn http_is_held_against_status_text_and_time() {
    let fine = answers(Answer::Http("200 OK", "all is well")).await;
    is(&http(fine, json!({})).await, Finding::Pass, "200 OK");
    let text = json!({ "contains": "is well" });
    is(&http(fine, text).await, Finding::Pass, "200");
    let text = json!({ "contains": "is bad" });
    is(&http(fine, text).await, Finding::Fail, "is bad");
    let status = json!({ "status": 204 });
    is(&http(fine, status).await, Finding::Fail, "and not 204");
    let ill = answers(Answer::Http("503 Service Unavailable", "")).await;
    is(&http(ill, json!({})).await, Finding::Fail, "503");
    is(
        &http(ill, json!({ "status": 503 })).await,
        Finding::Pass,
        "503",
    );
    let slow = answers(Answer::Late(Duration::from_millis(300))).await;
    is(
        &http(slow, json!({ "within": "100ms" })).await,
        Finding::Fail,
        "are allowed",
    );
    is(
        &http(slow, json!({ "within": "2s" })).await,
        Finding::Pass,
        "200",
    );
}

#[tokio::test]
async fn an_address_that_leads_elsewhere_is_not_followed() {
    let there = answers(Answer::Http("200 OK", "the inside")).await;
    let here = answers(Answer::Redirect(there)).await;
    let found = http(here, json!({ "contains": "the inside" })).await;
    is(&found, Finding::Fail, "302");
    is(
        &http(here, json!({ "status": 302 })).await,
        Finding::Pass,
        "302",
    );
}

#[tokio::test]
async fn whatever_answers_is_bounded_in_time_and_size() {
    is(
        &http(closed().await, json!({})).await,
        Finding::Fail,
        "refused",
    );
    let garbage = answers(Answer::Raw(b"\x16\x03\x01 SSH-2.0-nothing\r\n\r\n")).await;
    is(&http(garbage, json!({})).await, Finding::Fail, "");
    let silent = answers(Answer::Silence).await;
    is(
        &http(silent, json!({})).await,
        Finding::Fail,
        "no answer within 2s",
    );
    let endless = answers(Answer::Endless).await;
    let found = http(endless, json!({ "contains": "needle" })).await;
    is(&found, Finding::Fail, "the beginning of its answer");
    is(&http(endless, json!({})).await, Finding::Pass, "200");
    let trickles = answers(Answer::Trickle).await;
    is(
        &http(trickles, json!({})).await,
        Finding::Fail,
        "no answer within 2s",
    );
}

#[tokio::test]
async fn a_port_takes_connections_or_does_not() {
    let open = listens().await;
    let address = json!({ "tcp": open.local_addr().expect("bound").to_string() });
    is(&measure(&address).await, Finding::Pass, "takes connections");
    let shut = json!({ "tcp": closed().await.to_string() });
    is(&measure(&shut).await, Finding::Fail, "refused");
    let nowhere = json!({ "tcp": "nowhere.invalid:80", "timeout": "5s" });
    is(&measure(&nowhere).await, Finding::Fail, "");
}

#[tokio::test]
async fn a_name_is_held_against_its_address() {
    let here = json!({ "dns": "localhost" });
    is(&measure(&here).await, Finding::Pass, "127.0.0.1");
    let here = json!({ "dns": "localhost", "answer": "127.0.0.1" });
    is(&measure(&here).await, Finding::Pass, "127.0.0.1");
    let elsewhere = json!({ "dns": "localhost", "answer": "192.0.2.7" });
    is(
        &measure(&elsewhere).await,
        Finding::Fail,
        "and not 192.0.2.7",
    );
    let nowhere = measure(&json!({ "dns": "nowhere.invalid", "timeout": "5s" })).await;
    // Whether there is none, or nobody to ask: that depends on the host.
    assert!(
        matches!(nowhere.finding, Finding::Fail | Finding::Error),
        "{}",
        nowhere.detail
    );
}

#[tokio::test]
async fn a_certificate_has_days_left_or_has_not() {
    let long = json!({ "certificate": tls(30, false).await.to_string(), "daysLeft": 29 });
    is(&measure(&long).await, Finding::Pass, "lasts until");
    let short = json!({ "certificate": tls(10, false).await.to_string() });
    is(
        &measure(&short).await,
        Finding::Fail,
        "its certificate ends at",
    );
    let over = json!({ "certificate": tls(-1, false).await.to_string() });
    is(&measure(&over).await, Finding::Fail, "ended at");
    // Its own is seen before it finds that there is none of ours.
    let asks = json!({ "certificate": tls(30, true).await.to_string() });
    is(&measure(&asks).await, Finding::Pass, "lasts until");
}

#[tokio::test]
async fn what_shows_no_certificate_is_an_error() {
    let with = |address: SocketAddr| json!({ "certificate": address.to_string(), "timeout": "2s" });
    is(
        &measure(&with(closed().await)).await,
        Finding::Error,
        "refused",
    );
    let plain = answers(Answer::Http("200 OK", "")).await;
    is(
        &measure(&with(plain)).await,
        Finding::Error,
        "no certificate",
    );
    let garbage = answers(Answer::Raw(b"\x16\x03\x03\x00\x04\x02\x00\x00\xff")).await;
    is(
        &measure(&with(garbage)).await,
        Finding::Error,
        "no certificate",
    );
    let silent = answers(Answer::Silence).await;
    is(
        &measure(&with(silent)).await,
        Finding::Error,
        "no answer within 2s",
    );
}
