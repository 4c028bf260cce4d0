//! The way there: from the lease to the verdict *confirmed*. Each step is written down, begun, and
//! ends in exactly one of: the next step, the way back, the verdict.
//!
//! The stop and the lease are looked at before every step up to the point of no return. From there
//! on only a stop that asks for it, or the machine itself, turns the attempt round.

mod ends;

use std::time::Duration;

use common::{Action, AttemptStatus, Health, OutcomeKind, Staged, StopMode};

use crate::{
    agent::Agent,
    cause::Cause,
    effect::{Effect, Output},
    moment::Moment,
    state::{Attempt, HookState, Mode, Step},
};

impl Agent {
    /// Where the attempt or the staging stands.
    pub(crate) fn status(&self) -> Option<AttemptStatus> {
        if let Some(attempt) = &self.durable.attempt {
            return Some(attempt.status());
        }
        let staging = self.durable.staging.as_ref()?;
        Some(AttemptStatus {
            rollout: staging.rollout.clone(),
            lease: common::LeaseId::default(),
            step: Step::Staging.word().to_owned(),
            past_no_return: false,
        })
    }

    /// The lease is accepted: to the first step.
    pub(crate) fn begin_attempt(&mut self, now: Moment, out: &mut Output) {
        let Some(attempt) = &self.durable.attempt else {
            return;
        };
        let Some(target) = attempt.target.clone() else {
            // A reboot: into what the next boot starts.
            match self
                .facts
                .as_ref()
                .and_then(|facts| facts.boot_default().cloned())
            {
                Some(path) => self.set_out(now, &path, Mode::Boot, out),
                None => {
                    let cause =
                        Cause::Snapshot("what the next boot starts is not known".to_owned());
                    self.turn_back(now, cause, out);
                }
            }
            return;
        };
        match self.durable.staged.clone() {
            Some(staged) if staged.target == target => self.is_staged(now, &staged, out),
            Some(_) | None => self.enter(now, Step::Staging, out),
        }
    }

    /// The target is on the machine.
    fn is_staged(&mut self, now: Moment, staged: &Staged, out: &mut Output) {
        let Some(attempt) = &self.durable.attempt else {
            return;
        };
        // A rollback goes to a path by name: that is asking for it.
        let asked_for = match attempt.action {
            Action::Update => attempt.force,
            Action::Rollback | Action::Reboot => true,
        };
        if let Some(reason) = self.bad_reason(&staged.path).filter(|_| !asked_for) {
            self.turn_back(now, Cause::BadTarget(reason), out);
            return;
        }
        let mode = match attempt.action {
            Action::Update | Action::Rollback if !staged.needs_reboot => Mode::Switch,
            Action::Update | Action::Rollback | Action::Reboot => Mode::Boot,
        };
        self.set_out(now, &staged.path, mode, out);
    }

    fn set_out(&mut self, now: Moment, path: &common::StorePath, mode: Mode, out: &mut Output) {
        if let Some(attempt) = &mut self.durable.attempt {
            attempt.path = Some(path.clone());
            attempt.mode = mode;
        }
        self.go_on(now, Step::Snapshot, out);
    }

    /// To the next step on the way there, unless something speaks against it.
    pub(crate) fn go_on(&mut self, now: Moment, step: Step, out: &mut Output) {
        match self.may_go_on(now) {
            Ok(()) => self.enter(now, step, out),
            Err(cause) => self.turn_back(now, cause, out),
        }
    }

    /// Before the point of no return: only under a lease that holds. After it: unless a stop asks
    /// to go back.
    fn may_go_on(&self, now: Moment) -> Result<(), Cause> {
        match &self.durable.attempt {
            Some(attempt) if attempt.past_no_return() => match attempt.stop {
                Some(StopMode::Rollback) => Err(Cause::Stopped),
                Some(StopMode::Finish) | None => Ok(()),
            },
            Some(_) | None => self.may_disrupt(now),
        }
    }

    /// Whether a disruptive step may begin now.
    pub(crate) fn may_disrupt(&self, now: Moment) -> Result<(), Cause> {
        let Some(attempt) = &self.durable.attempt else {
            return Err(Cause::LeaseRanOut);
        };
        if attempt.stop.is_some() || attempt.epoch < self.durable.epoch {
            #[cfg(feature = "seeded-bugs")]
            // BUG (seeded): the fencing numbers are not looked at.
            if attempt.stop.is_none() && self.has_bug(crate::bug::Bug::OldLeaseAccepted) {
                return Ok(());
            }
            return Err(Cause::Stopped);
        }
        if let Some(reason) = &self.not_held {
            return Err(Cause::NotHeld(reason.clone()));
        }
        let boot = self.facts.as_ref().map(|facts| &facts.boot_id);
        let holds = boot == Some(&attempt.lease_until.boot_id)
            && now + self.limits.lease_margin < attempt.lease_until.moment;
        if holds {
            Ok(())
        } else {
            Err(Cause::LeaseRanOut)
        }
    }

    /// When the lease is about to run out, while that matters.
    pub(crate) fn lease_deadline(&self) -> Option<Moment> {
        let attempt = self.durable.attempt.as_ref()?;
        let matters =
            !attempt.past_no_return() && attempt.cause.is_none() && interruptible(attempt);
        matters.then(|| attempt.lease_until.moment - self.limits.lease_margin)
    }

    /// Turns round when the lease is about to run out.
    pub(crate) fn lease_runs_out(&mut self, now: Moment, out: &mut Output) {
        if self
            .lease_deadline()
            .is_some_and(|deadline| deadline <= now)
        {
            self.interrupt(now, out);
        }
    }

    /// Something may speak against going on: a step that can be left is left at once, another one
    /// ends first.
    pub(crate) fn interrupt(&mut self, now: Moment, out: &mut Output) {
        let Some(attempt) = &self.durable.attempt else {
            return;
        };
        if attempt.cause.is_some() || !interruptible(attempt) {
            return;
        }
        if let Err(cause) = self.may_go_on(now) {
            self.turn_back(now, cause, out);
        }
    }

    /// Writes the step down and begins it.
    pub(crate) fn enter(&mut self, now: Moment, step: Step, out: &mut Output) {
        let Some(attempt) = &mut self.durable.attempt else {
            return;
        };
        let closing = matches!(step, Step::Closing { .. });
        // The way back has as many steps again: it is not to be cut short by a long way there.
        let turns = if attempt.cause.is_some() { 2 } else { 1 };
        if attempt.steps >= self.limits.steps_max.saturating_mul(turns) && !closing {
            self.endless(now, out);
            return;
        }
        attempt.steps = attempt.steps.saturating_add(1);
        attempt.step = step;
        attempt.job = None;
        let changes = matches!(
            attempt.step,
            Step::PreHook | Step::Activating | Step::Rebooting | Step::RollingBack
        );
        if changes {
            // What was measured before says nothing of what is made now.
            self.health = Health::default();
            self.check = None;
        }
        match &attempt.step {
            Step::Arming | Step::Rearming => attempt.armed = true,
            Step::PreHook => attempt.hooks.pre = HookState::Begun,
            Step::PostHook => attempt.hooks.post = HookState::Begun,
            Step::RollbackHook => attempt.hooks.rollback = HookState::Begun,
            Step::Activating => {
                attempt.activations += 1;
                attempt.touched = true;
            }
            Step::Rebooting => attempt.reboots += 1,
            Step::RollingBack => attempt.restores += 1,
            Step::RebootingBack => attempt.reboots_back += 1,
            Step::Staging
            | Step::Snapshot
            | Step::Announcing
            | Step::Judging
            | Step::JudgingRollback
            | Step::Closing { .. }
            | Step::Unknown(_) => {}
        }
        out.persist = true;
        self.drop_job(out);
        let Some(job) = self.job_of_step() else {
            self.without_a_job(now, out);
            return;
        };
        if self.goes_silent() == Some(Step::RebootingBack) {
            self.renew(now, out);
        }
        if let Some(attempt) = &mut self.durable.attempt {
            attempt.job = Some(job.step);
        }
        self.job = Some(self.running(now, &job));
        out.effects.push(Effect::Begin(job));
    }

    /// There were more steps than any attempt can need: an agent that dies over and over. On the way
    /// there the machine goes back, and when that does not end either it is left as it is.
    fn endless(&mut self, now: Moment, out: &mut Output) {
        let on_its_way_back = self
            .durable
            .attempt
            .as_ref()
            .is_some_and(|a| a.cause.is_some());
        if on_its_way_back {
            let why = "going back did not come to an end".to_owned();
            self.close(now, OutcomeKind::Stuck, Some(why), out);
        } else {
            self.turn_back(now, Cause::Endless, out);
        }
    }

    /// The present step has no work of its own.
    fn without_a_job(&mut self, now: Moment, out: &mut Output) {
        match self.durable.attempt.as_ref().map(|attempt| &attempt.step) {
            Some(Step::Closing { .. }) => self.finish(now, out),
            Some(Step::Announcing) => {
                // The renewal is the work.
                self.wait = Some(now + self.limits.announce_timeout);
                self.renew(now, out);
            }
            // The journal lacks what the step needs: no attempt of ours comes to this.
            Some(
                Step::Staging
                | Step::Snapshot
                | Step::Arming
                | Step::PreHook
                | Step::Activating
                | Step::Rebooting
                | Step::Rearming
                | Step::PostHook
                | Step::Judging
                | Step::RollingBack
                | Step::RebootingBack
                | Step::RollbackHook
                | Step::JudgingRollback
                | Step::Unknown(_),
            ) => {
                let why = "the journal does not say how to go on".to_owned();
                self.close(now, OutcomeKind::Stuck, Some(why), out);
            }
            None => {}
        }
    }

    /// The present step, if it makes the machine silent for a while.
    fn goes_silent(&self) -> Option<Step> {
        let step = &self.durable.attempt.as_ref()?.step;
        let silent = matches!(
            step,
            Step::Announcing | Step::Rebooting | Step::RebootingBack
        );
        silent.then(|| step.clone())
    }

    /// The coordinator knows of the reboot, or does not answer: either way it is time.
    pub(crate) fn announced(&mut self, now: Moment, out: &mut Output) {
        let announcing = |attempt: &Attempt| attempt.step == Step::Announcing;
        if self.durable.attempt.as_ref().is_some_and(announcing) {
            self.reboot(now, out);
        }
    }

    /// Asks for the reboot into the target, the first time or again: always under a lease that
    /// holds.
    pub(crate) fn reboot(&mut self, now: Moment, out: &mut Output) {
        match self.may_disrupt(now) {
            Ok(()) => self.enter(now, Step::Rebooting, out),
            Err(cause) => self.turn_back(now, cause, out),
        }
    }

    /// The reboot into the target did not happen: again, or back.
    pub(crate) fn reboot_again(&mut self, now: Moment, out: &mut Output) {
        let asked = self.durable.attempt.as_ref().map_or(0, |a| a.reboots);
        if asked < self.limits.reboot_tries {
            self.reboot(now, out);
        } else {
            self.turn_back(now, Cause::RebootDidNotHappen, out);
        }
    }

    /// Activates once more, if that is still allowed.
    pub(crate) fn activate_again(&mut self, now: Moment, out: &mut Output) {
        let tries = self.durable.attempt.as_ref().map_or(0, |a| a.activations);
        if tries >= self.limits.switch_tries {
            let cause = Cause::NotActivated("it was begun too often".to_owned());
            return self.turn_back(now, cause, out);
        }
        let arrived = match (&self.durable.attempt, &self.facts) {
            (Some(attempt), Some(facts)) => attempt.arrived(facts),
            (None, _) | (_, None) => false,
        };
        match self.may_disrupt(now) {
            Ok(()) => self.enter(now, Step::Activating, out),
            // The target runs, only how the switch ended was lost, and meanwhile the lease: the
            // judgement decides. A silent coordinator alone turns nothing back.
            Err(Cause::LeaseRanOut | Cause::NotHeld(_)) if arrived => {
                self.go_on(now, self.first_step_on_target(), out);
            }
            Err(cause) => self.turn_back(now, cause, out),
        }
    }

    /// After a boot into the target: the post-update hook, unless it was begun before, or the
    /// machine was booted by a power cut and there was no pre-update hook either.
    pub(crate) fn first_step_on_target(&self) -> Step {
        let hooks = self
            .durable
            .attempt
            .as_ref()
            .map(|a| a.hooks)
            .unwrap_or_default();
        if hooks.post == HookState::NotBegun && hooks.pre != HookState::NotBegun {
            Step::PostHook
        } else {
            Step::Judging
        }
    }

    /// Keeps the lease alive.
    pub(crate) fn renew(&mut self, now: Moment, out: &mut Output) {
        let silence = match self.goes_silent() {
            Some(_) => self.limits.boot_timeout,
            None => Duration::ZERO,
        };
        let Some(attempt) = &self.durable.attempt else {
            self.calls.renew.clear();
            return;
        };
        // The highest seen, not the lease's own: a stop is acknowledged by it while an attempt runs.
        let (lease, epoch, status) = (attempt.lease, self.durable.epoch, attempt.status());
        let within = self.limits.call_timeout;
        let call = self.calls.begin(crate::calls::Kind::Renew, now, within);
        out.effects.push(Effect::Renew {
            call,
            lease,
            epoch,
            status,
            silence,
        });
    }
}

/// Whether the step can be left in the middle: it changes nothing.
fn interruptible(attempt: &Attempt) -> bool {
    match attempt.step {
        Step::Staging | Step::Snapshot | Step::Announcing | Step::Judging => true,
        // Between two tries nothing is under way.
        Step::Activating => attempt.job.is_none(),
        Step::Arming
        | Step::PreHook
        | Step::Rebooting
        | Step::Rearming
        | Step::PostHook
        | Step::RollingBack
        | Step::RebootingBack
        | Step::RollbackHook
        | Step::JudgingRollback
        | Step::Closing { .. }
        | Step::Unknown(_) => false,
    }
}
