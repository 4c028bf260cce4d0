//! How the machine is: checks, failed units and the network, before the update and after it.

use std::{collections::BTreeSet, time::Duration};

use agent_core::{Answer, Baseline, Comparison, Done, Failure, Job, Reach};
use common::Health;
use futures_util::future::join_all;

use super::{Executor, LOOK_AGAIN, answer};
use crate::{
    config::Probe,
    health,
    host::{Family, Host, HostError, Since},
};

impl<H: Host> Executor<H> {
    /// Looks until all is well, until it cannot become well any more, or until time is up.
    pub(super) async fn judge(
        &self,
        job: &Job,
        baseline: &Baseline,
        timeout: Duration,
    ) -> Result<Answer, HostError> {
        let deadline = self.clock.uptime() + timeout;
        self.clock
            .sleep(self.config.limits.settle.min(timeout / 2))
            .await;
        let mut failed_before: BTreeSet<String> = BTreeSet::new();
        loop {
            let left = deadline.saturating_sub(self.clock.uptime());
            let checks = self.checks(job, Since::Mark);
            let health = match self.clock.timeout(left.max(LOOK_AGAIN), checks).await {
                Ok(health) => health,
                Err(_) => return Ok(answer(Err(Failure::TimedOut))),
            };
            let (units, unseen) = match self.host.failed_units().await {
                Ok(units) => (units, None),
                // A bus that is just being started again is no verdict: another look will tell.
                Err(error) => (Vec::new(), Some(error)),
            };
            let mut look = Comparison::of(baseline, &units, &health);
            look.worse.extend(self.cut_off(baseline).await);
            let late = self.clock.uptime() >= deadline;
            let is_seen = unseen.is_none();
            if let Some(error) = unseen.filter(|_| late && look.worse.is_empty()) {
                return Err(error);
            }
            // Failed twice in a row, and nobody starts it again: waiting does not help.
            let hopeless = !look.failed_units.is_disjoint(&failed_before);
            if (is_seen && look.is_settled()) || hopeless || late {
                let facts = self.measure()?;
                return Ok(answer(Ok(Done::Judged(look.judgement(health, facts)))));
            }
            failed_before = look.failed_units;
            self.clock.sleep(LOOK_AGAIN).await;
        }
    }

    /// The checks that fail before anything is changed: twice in a row, so that a hiccup excuses
    /// nothing. Journal entries are counted from the attempt's beginning on, and older ones excuse
    /// none of those.
    pub(super) async fn failing_checks(&self, job: &Job) -> Vec<String> {
        let since = Since::Ago(self.config.check_interval);
        let health = self.checks(job, since).await;
        let first: BTreeSet<&str> = health.failed().collect();
        if first.is_empty() {
            return Vec::new();
        }
        self.clock.sleep(LOOK_AGAIN).await;
        let again = self.checks(job, since).await;
        let excuses = |name: &&str| {
            let mut checks = self.config.checks.iter();
            checks.any(|check| check.name == *name && !matches!(check.probe, Probe::Journal { .. }))
        };
        let both = again.failed().filter(|name| first.contains(name));
        both.filter(excuses).map(str::to_owned).collect()
    }

    /// Those of them that answer over the network.
    pub(super) async fn reached(&self, all: &[Reach]) -> Vec<Reach> {
        let asked = all.iter().map(|who| async {
            let answers = self.host.reaches(*who).await;
            answers.then_some(*who)
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// Whether the target has cut the machine off: the coordinator has been silent since, and of
    /// those that answered before nobody does. A coordinator that may itself be gone proves nothing.
    async fn cut_off(&self, baseline: &Baseline) -> Option<String> {
        let before = &baseline.reached;
        let proves = before.iter().any(|who| *who != Reach::Coordinator);
        if self.heard.get() || !proves || !self.reached(before).await.is_empty() {
            return None;
        }
        let names: Vec<&str> = before.iter().map(|who| who.word()).collect();
        let names = names.join(", ");
        Some(format!("cut off from the network: {names} answered before"))
    }

    pub(super) async fn checks(&self, job: &Job, since: Since) -> Health {
        let tag = job.step.to_string();
        let unit = (Family::Check, tag.as_str());
        health::run_all(&self.host, &self.clock, &self.config.checks, unit, since).await
    }
}
