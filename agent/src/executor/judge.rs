//! How the machine is: checks, failed units and the network, before the update and after it.

use std::{collections::BTreeSet, time::Duration};

use agent_core::{
    Answer, Baseline, Comparison, Done, FailedUnit, Failure, Job, Judgement, Reach,
    limits::STOPPED_FOR,
};
use common::Health;
use futures_util::future::join_all;

use super::{Executor, LOOK_AGAIN, answer};
use crate::{
    config::Probe,
    health,
    host::{Family, Host, HostError, Since},
};

/// How long it then looks once more, at most. Shorter than the core's own patience.
const LOOK_AGAIN_MAX: Duration = Duration::from_secs(30);

/// A service that was started again so often within the settle time is in a loop: one that had to wait
/// for another is not.
const LOOP_TIMES: u32 = 3;

/// Syslog's priority *critical*: what no program writes lightly, a crash of one included.
const CRITICAL: u8 = 2;

/// Most of such entries that are told.
const TOLD_MAX: usize = 3;

impl<H: Host> Executor<H> {
    /// Looks until all is well, until it cannot become well any more, or until time is up.
    pub(super) async fn judge(
        &self,
        job: &Job,
        baseline: &Baseline,
        timeout: Duration,
    ) -> Result<Answer, HostError> {
        let mut deadline = self.clock.uptime() + timeout;
        let mut looked_again = false;
        let mut was_cut_off = false;
        self.clock
            .sleep(self.config.limits.settle.min(timeout / 2))
            .await;
        let mut failed_before: BTreeSet<String> = BTreeSet::new();
        loop {
            // A process that was stopped for a while has seen nothing meanwhile: it looks once more.
            let was_stopped = |at: Duration| self.clock.uptime() > at + STOPPED_FOR;
            if was_stopped(deadline) && !looked_again {
                looked_again = true;
                deadline = self.clock.uptime() + timeout.min(LOOK_AGAIN_MAX);
            }
            let left = deadline.saturating_sub(self.clock.uptime());
            let checks = self.checks(job, Since::Mark);
            let health = match self.clock.timeout(left.max(LOOK_AGAIN), checks).await {
                Ok(health) => health,
                Err(_) if was_stopped(deadline) && !looked_again => continue,
                Err(_) => return Ok(answer(Err(Failure::TimedOut))),
            };
            let (units, unseen) = match self.units_not_well().await {
                Ok(units) => (units, None),
                // A bus that is just being started again is no verdict: another look will tell.
                Err(error) => (Vec::new(), Some(error)),
            };
            let mut look = Comparison::of(baseline, &units, &health);
            let cut_off = self.cut_off(baseline).await;
            // A network that has just come back leaves checks that failed without it.
            was_cut_off |= cut_off.is_some();
            look.worse.extend(cut_off);
            let now = self.clock.uptime();
            let late = now >= deadline && (now <= deadline + STOPPED_FOR || looked_again);
            let is_seen = unseen.is_none();
            if let Some(error) = unseen.filter(|_| late && look.worse.is_empty()) {
                return Err(error);
            }
            // Failed twice in a row, and nobody starts it again: waiting does not help.
            let hopeless = !look.failed_units.is_disjoint(&failed_before);
            if (is_seen && look.is_settled()) || hopeless || late {
                let facts = self.measure().await?;
                let mut judgement = Judgement {
                    cut_off: was_cut_off,
                    ..look.judgement(health, facts)
                };
                self.tell_critical(&mut judgement).await;
                return Ok(answer(Ok(Done::Judged(judgement))));
            }
            failed_before = look.failed_units;
            self.clock.sleep(LOOK_AGAIN).await;
        }
    }

    /// Units that have failed, that are about to be started again, or that are again and again.
    pub(super) async fn units_not_well(&self) -> Result<Vec<FailedUnit>, HostError> {
        let mut units = self.host.failed_units().await?;
        let window = self.config.limits.settle;
        for name in self.host.restart_loops(window, LOOP_TIMES).await? {
            if !units.iter().any(|unit| unit.name == name) {
                let restarting = true;
                units.push(FailedUnit { name, restarting });
            }
        }
        Ok(units)
    }

    /// Critical entries that came since the attempt began explain what speaks against the machine.
    /// Alone they are told and decide nothing: hardware writes such things of its own accord, and a
    /// check of the kind `journal` is there for those who want them to.
    async fn tell_critical(&self, judgement: &mut Judgement) {
        let entries = match self.host.serious_entries(CRITICAL, Since::Mark).await {
            Ok(entries) => entries,
            Err(error) => {
                tracing::warn!("critical journal entries cannot be told: {error}");
                return;
            }
        };
        let newest = entries.iter().rev().take(TOLD_MAX).rev();
        let told = newest.map(|entry| format!("critical in the journal: {entry}"));
        if judgement.healthy {
            judgement.no_better.extend(told);
        } else {
            judgement.findings.extend(told);
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
