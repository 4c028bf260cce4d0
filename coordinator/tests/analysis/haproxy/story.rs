//! The whole of it: a coordinator, a real HAProxy, machines whose service is really gone while they are
//! updated, and clients that ask all the time.

use std::{collections::BTreeMap, time::Duration};

use coordinator::traffic::haproxy::Backend;
use coordinator_core::traffic::At;
use lab_proto::{
    agent::{
        MachineReport, OutcomeKind, ReportRequest, agent_client::AgentClient,
        directive::Action as Said, target::Kind,
    },
    operator::{
        ExecuteRequest, GroupTraffic, ListTrafficRequest, MoveTrafficRequest, SetConfigRequest,
        StatusRequest,
    },
};
use serde_json::json;
use tonic::{Code, transport::Channel};

use super::{
    BLUE, GREEN,
    bed::{Bed as Haproxy, Load},
    in_and_up,
};
use crate::comparison::bed::{Bed, NEW, OLD, poll, report, staged};

/// A machine as the coordinator sees it; its service is a backend of HAProxy.
struct Machine {
    agent: AgentClient<Channel>,
    sequence: u64,
    runs: String,
    staged: Option<String>,
}

impl Machine {
    fn report(&mut self) -> MachineReport {
        self.sequence += 1;
        match &self.staged {
            Some(target) => staged(self.sequence, &self.runs, target),
            None => report(self.sequence, &self.runs),
        }
    }
}

struct Story {
    bed: Bed,
    haproxy: Haproxy,
    machines: BTreeMap<&'static str, Machine>,
    /// Who was away, in order.
    went: Vec<&'static str>,
}

impl Story {
    async fn begin() -> Self {
        let haproxy = Haproxy::start("check").await;
        let At::Socket(socket) = &haproxy.at else {
            panic!("a socket");
        };
        let mut bed = Bed::start().await;
        let document = json!({
            "updateGroups": { "web": {
                "machines": ["blue-1", "blue-2", "green-1", "green-2"],
                "maxParallel": 2,
                "blueGreen": {
                    "sides": { "blue": BLUE, "green": GREEN },
                    "traffic": { "haproxy": { "socket": socket, "backend": "web" } },
                    // Long enough that who is looked at on the new side is seen there, also on a busy host.
                    "watch": "8s",
                    "drain": "10s",
                },
            } },
            "updateSettings": { "maxParallel": 4 },
        });
        let request = SetConfigRequest {
            document: document.to_string(),
            ..SetConfigRequest::default()
        };
        let reply = bed.admin.set_config(request).await.expect("an answer");
        assert_eq!(reply.into_inner().faults, []);
        let mut machines = BTreeMap::new();
        for name in BLUE.into_iter().chain(GREEN) {
            let agent = bed.agent(name).await;
            let machine = Machine {
                agent,
                sequence: 0,
                runs: OLD.to_owned(),
                staged: None,
            };
            machines.insert(name, machine);
        }
        let mut story = Self {
            bed,
            haproxy,
            machines,
            went: Vec::new(),
        };
        story.everybody_polls().await;
        for name in BLUE.into_iter().chain(GREEN) {
            story.bed.pin(name, NEW).await;
        }
        story
    }

    /// Everybody asks once and does as it is told: what is updated is gone for a while.
    async fn everybody_polls(&mut self) {
        for (name, machine) in &mut self.machines {
            let asked = poll(machine.report());
            let told = machine.agent.poll(asked).await.expect("an answer");
            match told.into_inner().action.expect("an action") {
                Said::Stage(stage) => {
                    let target = stage.target.and_then(|target| target.kind);
                    let Some(Kind::Closure(path)) = target else {
                        panic!("a closure");
                    };
                    machine.staged = Some(path);
                }
                Said::Proceed(grant) => {
                    self.went.push(name);
                    self.haproxy.stop(name);
                    tokio::time::sleep(Duration::from_millis(400)).await;
                    self.haproxy.serve(name);
                    machine.runs = machine.staged.take().expect("staged");
                    let report = MachineReport {
                        last_lease: grant.lease,
                        ..machine.report()
                    };
                    let reported = ReportRequest {
                        rollout: grant.rollout,
                        lease: grant.lease,
                        outcome: OutcomeKind::Confirmed.into(),
                        report: Some(report),
                        ..ReportRequest::default()
                    };
                    machine.agent.report(reported).await.expect("taken");
                }
                Said::Wait(_)
                | Said::Check(_)
                | Said::StandDown(_)
                | Said::CleanUp(_)
                | Said::MoveTraffic(_) => {}
            }
        }
    }

    async fn traffic(&mut self) -> GroupTraffic {
        let list = self.bed.admin.list_traffic(ListTrafficRequest {}).await;
        list.expect("a list").into_inner().groups.remove(0)
    }

    fn live(traffic: &GroupTraffic) -> &str {
        let mut sides = traffic.sides.iter();
        &sides.find(|side| side.live).expect("one").name
    }

    /// Goes on until the traffic has settled on this side.
    async fn settles_on(&mut self, side: &str) {
        for _ in 0..300 {
            if self.is_on(side).await {
                return;
            }
            self.everybody_polls().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{:?}", self.traffic().await);
    }

    /// The same, and nobody asks meanwhile: nobody goes.
    async fn settles_alone_on(&mut self, side: &str) {
        for _ in 0..300 {
            if self.is_on(side).await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{:?}", self.traffic().await);
    }

    async fn is_on(&mut self, side: &str) -> bool {
        let traffic = self.traffic().await;
        traffic.settled && traffic.moving.is_none() && Self::live(&traffic) == side
    }

    async fn state(&mut self) -> String {
        let all = StatusRequest {
            all: true,
            ..StatusRequest::default()
        };
        let status = self.bed.admin.get_status(all).await.expect("a status");
        status.into_inner().rollouts[0].state.clone()
    }

    async fn ends(&mut self) {
        for _ in 0..300 {
            if self.state().await == "finished" {
                return;
            }
            self.everybody_polls().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the rollout does not end");
    }
}

fn to(side: &str) -> MoveTrafficRequest {
    MoveTrafficRequest {
        group: "web".to_owned(),
        to: side.to_owned(),
        reason: "a test".to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_updates_both_sides_and_no_request_fails() {
    let mut story = Story::begin().await;
    let load = Load::start(story.haproxy.front);
    let begun = story.bed.admin.execute(ExecuteRequest::default()).await;
    assert_eq!(begun.expect("begun").into_inner().rollout, "r1");
    story.settles_alone_on("blue").await;
    assert_eq!(load.answers_from_now().await, "blue");
    story.settles_on("green").await;
    assert_eq!(story.went, GREEN, "and nobody else yet");
    assert_eq!(load.answers_from_now().await, "green");
    story.ends().await;
    assert_eq!(story.went[2..], BLUE);
    // Back and there again, by hand.
    story.bed.admin.move_traffic(to("")).await.expect("back");
    story.settles_alone_on("blue").await;
    assert_eq!(load.answers_from_now().await, "blue");
    story
        .bed
        .admin
        .move_traffic(to("green"))
        .await
        .expect("there");
    story.settles_alone_on("green").await;
    assert_eq!(load.answers_from_now().await, "green");
    let (asked, failed) = load.stop().await;
    assert_eq!(failed, Vec::<String>::new(), "of {asked} requests");
    story.bed.server.stop().await.expect("a calm end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_way_back_is_there_in_the_middle_of_a_rollout_and_for_whoever_may() {
    let mut story = Story::begin().await;
    for role in ["viewer", "approver"] {
        let mut other = story.bed.operator(role, role).await;
        let refused = other.move_traffic(to("green")).await.expect_err(role);
        assert_eq!(refused.code(), Code::PermissionDenied);
        let list = other.list_traffic(ListTrafficRequest {}).await;
        assert_eq!(list.expect("a list").into_inner().groups.len(), 1);
    }
    let nowhere = story.bed.admin.move_traffic(to("")).await;
    assert_eq!(nowhere.expect_err("back?").code(), Code::FailedPrecondition);
    let load = Load::start(story.haproxy.front);
    let begun = story.bed.admin.execute(ExecuteRequest::default()).await;
    begun.expect("begun");
    story.settles_on("green").await;
    let done = story.bed.admin.move_traffic(to("")).await.expect("back");
    let text = done.into_inner().text;
    assert!(text.contains("side blue; rollout r1 is paused"), "{text}");
    story.settles_alone_on("blue").await;
    assert_eq!(story.state().await, "paused");
    assert_eq!(load.answers_from_now().await, "blue");
    let (asked, failed) = load.stop().await;
    assert_eq!(failed, Vec::<String>::new(), "of {asked} requests");
    // HAProxy is gone: said, and tried again.
    story.haproxy.end();
    story
        .bed
        .admin
        .move_traffic(to("green"))
        .await
        .expect("begun");
    let mut error = String::new();
    for _ in 0..100 {
        let moving = story.traffic().await.moving;
        error = moving.map(|moving| moving.error).unwrap_or_default();
        if !error.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(error.contains("HAProxy cannot be reached"), "{error}");
    story.bed.server.stop().await.expect("a calm end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_haproxy_that_forgets_in_the_middle_of_a_rollout_is_told_again() {
    let mut story = Story::begin().await;
    let begun = story.bed.admin.execute(ExecuteRequest::default()).await;
    begun.expect("begun");
    story.settles_alone_on("blue").await;
    let at = story.haproxy.at.clone();
    let backend = Backend {
        at: &at,
        name: "web",
    };
    story.haproxy.begin_anew().await;
    // Both sides have traffic again, which is put right.
    for left in (0..200).rev() {
        let (is_in, _) = in_and_up(backend).await;
        if is_in == BLUE {
            break;
        }
        assert!(left > 0, "{is_in:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // And nobody is at odds about it: the rollout goes on.
    story.ends().await;
    story.bed.server.stop().await.expect("a calm end");
}
