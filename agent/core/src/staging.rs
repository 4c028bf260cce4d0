//! Obtaining a target without a lease, and saying so when that cannot be done.

use common::{
    Action, Declined, DeclinedKind, LeaseId, Outcome, OutcomeKind, RolloutId, Staged, StorePath,
    Target,
};

use crate::{
    agent::{Agent, HoldOff},
    cause::Cause,
    effect::{Effect, MayBegin, NotFollowed, Note, Output, Work},
    facts::UnitState,
    input::{Answer, Failure},
    moment::Moment,
    reading::{line, staged_of},
    state::{Staging, StepId, Unreported},
};

/// What is to be obtained, and who wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) target: Target,
    pub(crate) action: Action,
    pub(crate) rollout: Option<RolloutId>,
    pub(crate) wish: u64,
}

impl Wanted {
    fn of(staging: Staging) -> Self {
        Self {
            target: staging.target,
            action: staging.action,
            rollout: staging.rollout,
            wish: staging.wish,
        }
    }
}

impl Agent {
    pub(crate) fn on_stage(&mut self, now: Moment, wanted: Wanted, force: bool, out: &mut Output) {
        if self.durable.attempt.is_some() {
            return;
        }
        self.poll_later(now);
        if self.durable.unreported.is_some() {
            out.effects.push(Effect::Note(Note::NotFollowed {
                why: NotFollowed::Unreported,
            }));
            self.calls.report.due_by(now);
            return;
        }
        let is_staged = |staged: &Staged| staged.target == wanted.target;
        if self.durable.staged.as_ref().is_some_and(is_staged)
            || self.is_staging(&wanted)
            || self.held_off(now).is_some_and(|held| held.is_of(&wanted))
        {
            return;
        }
        let bad = wanted.target.closure().and_then(|p| self.bad_reason(p));
        if let Some(reason) = bad.filter(|_| !force) {
            self.refuse(now, wanted, DeclinedKind::BadTarget, reason, out);
            return;
        }
        self.durable.staging = Some(Staging {
            target: wanted.target,
            action: wanted.action,
            rollout: wanted.rollout,
            wish: wanted.wish,
            tries: 0,
            job: StepId::default(),
        });
        self.stage_again(now, out);
    }

    /// Whether exactly this is at work. Between two tries it is not: a new wish need not wait for
    /// the next one.
    fn is_staging(&self, wanted: &Wanted) -> bool {
        self.durable.staging.as_ref().is_some_and(|staging| {
            let same = staging.target == wanted.target
                && staging.action == wanted.action
                && staging.rollout == wanted.rollout;
            same && (staging.wish == wanted.wish || self.wait.is_none())
        })
    }

    /// The hold-off that lasts.
    pub(crate) fn held_off(&self, now: Moment) -> Option<&HoldOff> {
        self.hold_off.as_ref().filter(|held| now < held.until)
    }

    /// Why this path is remembered as bad.
    pub(crate) fn bad_reason(&self, path: &StorePath) -> Option<String> {
        self.durable
            .bad_targets
            .iter()
            .find(|bad| bad.path == *path)
            .map(|bad| bad.reason.clone())
    }

    /// Begins the staging, or begins it again.
    pub(crate) fn stage_again(&mut self, now: Moment, out: &mut Output) {
        let Some(staging) = self.durable.staging.clone() else {
            return;
        };
        let job = self.new_job(self.limits.stage_timeout, work(&staging));
        self.durable.staging = Some(Staging {
            tries: staging.tries + 1,
            job: job.step,
            ..staging
        });
        self.drop_job(out);
        self.job = Some(self.running(now, &job));
        out.persist = true;
        out.effects.push(Effect::Begin(job));
    }

    /// What becomes of a staging that an earlier life of the agent began.
    pub(crate) fn staging_after_restart(&mut self, now: Moment, unit: UnitState, out: &mut Output) {
        let Some(staging) = self.durable.staging.clone() else {
            return;
        };
        match unit {
            UnitState::Running => {
                let job = crate::effect::Job {
                    step: staging.job,
                    within: self.limits.stage_timeout,
                    may_begin: MayBegin::Always,
                    work: work(&staging),
                };
                self.job = Some(self.running(now, &job));
                out.effects.push(Effect::Attach(job));
            }
            UnitState::Ended(answer) => self.staging_done(now, *answer, out),
            UnitState::Absent => self.staging_failed(now, &Failure::Lost, out),
        }
    }

    pub(crate) fn staging_done(&mut self, now: Moment, answer: Answer, out: &mut Output) {
        match staged_of(answer.result) {
            Ok(staged) => {
                self.durable.staging = None;
                self.durable.staged = Some(staged);
                out.persist = true;
                self.keep_roots(out);
                self.poll_now(now);
            }
            Err(failure) => self.staging_failed(now, &failure, out),
        }
    }

    fn staging_failed(&mut self, now: Moment, failure: &Failure, out: &mut Output) {
        let Some(staging) = self.durable.staging.clone() else {
            return;
        };
        let kind = match failure {
            Failure::NotAllowed(_) => DeclinedKind::NotAllowed,
            Failure::TimedOut
            | Failure::Failed(_)
            | Failure::NotReady(_)
            | Failure::Elsewhere(_)
            | Failure::TooLate
            | Failure::Lost
            | Failure::Unfitting => DeclinedKind::StagingFailed,
        };
        if staging.tries < self.limits.stage_tries && kind == DeclinedKind::StagingFailed {
            self.wait = Some(now + self.limits.stage_pause);
            return;
        }
        let reason = line(&failure.to_string());
        self.refuse(now, Wanted::of(staging), kind, reason, out);
    }

    /// Says no to a target before there is a lease, and does not try it again for a while. Within
    /// a rollout that is a result; ahead of any, the reports say it as long as it lasts.
    fn refuse(
        &mut self,
        now: Moment,
        wanted: Wanted,
        kind: DeclinedKind,
        reason: String,
        out: &mut Output,
    ) {
        self.durable.staging = None;
        self.drop_job(out);
        out.persist = true;
        let rollout = wanted.rollout.clone();
        self.hold_off = Some(HoldOff {
            until: now + self.limits.backoff_max,
            rollout: wanted.rollout,
            declined: Declined {
                target: wanted.target,
                wish: wanted.wish,
                kind,
                reason: reason.clone(),
            },
        });
        let cause = match kind {
            DeclinedKind::StagingFailed | DeclinedKind::NotAllowed => Cause::Staging(reason),
            DeclinedKind::BadTarget => Cause::BadTarget(reason),
        };
        let outcome = Outcome {
            kind: OutcomeKind::Refused,
            reason: cause.reason(),
        };
        match rollout {
            Some(rollout) => {
                let result = Unreported {
                    rollout,
                    lease: LeaseId::default(),
                    outcome,
                    records: Vec::new(),
                };
                self.hand_in(now, result, out);
            }
            None => {
                out.effects.push(Effect::Note(Note::Ended {
                    lease: LeaseId::default(),
                    outcome: outcome.kind,
                    reason: outcome.reason,
                }));
                self.poll_now(now);
            }
        }
    }
}

fn work(staging: &Staging) -> Work {
    Work::Stage {
        target: staging.target.clone(),
        action: staging.action,
        rollout: staging.rollout.clone(),
    }
}

impl HoldOff {
    fn is_of(&self, wanted: &Wanted) -> bool {
        self.rollout == wanted.rollout
            && self.declined.target == wanted.target
            && self.declined.wish == wanted.wish
    }
}
