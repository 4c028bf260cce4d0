//! The health checks between attempts: from time to time, and when the coordinator asks.

use std::time::Duration;

use common::{CheckResult, Health};

use crate::{
    agent::{Agent, Running},
    effect::{Effect, Note, Output, Work},
    input::{Answer, Done, Failure},
    moment::Moment,
    reading::line,
};

impl Agent {
    /// Runs the health checks beside whatever else goes on; not during an attempt, which has its
    /// own judgement.
    pub(crate) fn check_health(
        &mut self,
        now: Moment,
        request: u64,
        timeout: Duration,
        out: &mut Output,
    ) {
        let work = Work::CheckHealth { request, timeout };
        let within = timeout + self.limits.short_step;
        let job = self.new_job(within, work);
        self.check = Some((self.running(now, &job), request));
        out.effects.push(Effect::Begin(job));
    }

    /// Whether this request is being answered, or has been.
    pub(crate) fn check_is_known(&self, request: u64) -> bool {
        self.health_request == request || self.check.is_some_and(|(_, known)| known == request)
    }

    /// The health checks ended.
    pub(crate) fn checked(
        &mut self,
        now: Moment,
        running: Running,
        request: u64,
        answer: Answer,
        out: &mut Output,
    ) {
        let (health, facts) = match answer.result {
            Ok(Done::Checked { health, facts }) => (health, Some(facts)),
            Ok(
                Done::Staged(_)
                | Done::Snapshot { .. }
                | Done::Armed
                | Done::Disarmed { .. }
                | Done::Hook(_)
                | Done::Activated { .. }
                | Done::RebootAsked
                | Done::Judged(_)
                | Done::Restored { .. }
                | Done::CleanedUp { .. }
                | Done::TrafficMoved,
            ) => (
                unanswered(&Failure::Unfitting, now.since(running.began)),
                None,
            ),
            Err(failure) => (unanswered(&failure, now.since(running.began)), None),
        };
        let before = self.health.state;
        self.set_health(health, request);
        if let Some(facts) = facts {
            self.on_measured(now, facts);
        }
        if before != self.health.state {
            out.effects.push(Effect::Note(Note::Health {
                health: self.health.clone(),
            }));
            self.poll_now(now);
        }
        if request != 0 {
            self.poll_now(now);
        }
    }

    /// What the machine's checks say from now on.
    pub(crate) fn set_health(&mut self, health: Health, request: u64) {
        let mut health = health;
        for check in &mut health.checks {
            check.name = line(&check.name);
            check.detail = line(&check.detail);
        }
        self.health = health;
        self.health_request = request;
    }
}

/// Health checks that gave no answer: that alone makes a machine unhealthy.
fn unanswered(failure: &Failure, after: Duration) -> Health {
    Health::of(vec![CheckResult {
        name: "health-checks".to_owned(),
        passed: false,
        detail: line(&format!("after {} s: {failure}", after.as_secs())),
    }])
}
