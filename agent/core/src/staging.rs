//! Obtaining a target without a lease, and saying so when that cannot be done.

use common::{LeaseId, Outcome, OutcomeKind, RolloutId, Staged, StorePath, Target};

use crate::{
    agent::Agent,
    cause::Cause,
    effect::{Effect, NotFollowed, Note, Output, Work},
    facts::UnitState,
    input::{Answer, Failure},
    moment::Moment,
    reading::{line, staged_of},
    state::{Staging, StepId, Unreported},
};

impl Agent {
    pub(crate) fn on_stage(
        &mut self,
        now: Moment,
        rollout: Option<RolloutId>,
        target: Target,
        force: bool,
        out: &mut Output,
    ) {
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
        let is_staged = |staged: &Staged| staged.target == target;
        let is_staging = |staging: &Staging| staging.target == target && staging.rollout == rollout;
        if self.durable.staged.as_ref().is_some_and(is_staged)
            || self.durable.staging.as_ref().is_some_and(is_staging)
        {
            return;
        }
        if let Some((until, held_rollout, held_target)) = &self.hold_off
            && now < *until
            && *held_rollout == rollout
            && *held_target == target
        {
            return;
        }
        let known_bad = target.closure().and_then(|path| self.bad_reason(path));
        if let Some(reason) = known_bad.filter(|_| !force) {
            self.refuse(now, rollout, target, &Cause::BadTarget(reason), out);
            return;
        }
        self.durable.staging = Some(Staging {
            target,
            rollout,
            tries: 0,
            job: StepId::default(),
        });
        self.stage_again(now, out);
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
        let work = Work::Stage {
            target: staging.target.clone(),
            rollout: staging.rollout.clone(),
        };
        let job = self.new_job(self.limits.stage_timeout, work);
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
                    work: Work::Stage {
                        target: staging.target,
                        rollout: staging.rollout,
                    },
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
        if staging.tries < self.limits.stage_tries {
            self.wait = Some(now + self.limits.stage_pause);
            return;
        }
        let cause = Cause::Staging(line(&failure.to_string()));
        self.refuse(now, staging.rollout, staging.target, &cause, out);
    }

    /// Says no to a target before there is a lease. Ahead of any rollout there is nobody to tell:
    /// it is only not tried again for a while.
    fn refuse(
        &mut self,
        now: Moment,
        rollout: Option<RolloutId>,
        target: Target,
        cause: &Cause,
        out: &mut Output,
    ) {
        self.durable.staging = None;
        self.drop_job(out);
        out.persist = true;
        self.hold_off = Some((now + self.limits.backoff_max, rollout.clone(), target));
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
            None => out.effects.push(Effect::Note(Note::Ended {
                lease: LeaseId::default(),
                outcome: outcome.kind,
                reason: outcome.reason,
            })),
        }
    }
}
