//! The way back, and the verdict: undoing what was begun, in the order opposite to how it was
//! begun, and ending in exactly one verdict. One way back that is unhealthy too ends as *stuck*:
//! the machine stays up and waits for a person.

use common::{HealthState, Outcome, OutcomeKind, text};

use crate::{
    agent::Agent,
    cause::Cause,
    cleanup::CONFIRMED_MAX,
    effect::{Effect, Output},
    input::{ActivationEnd, Done, Failure, Judgement},
    moment::Moment,
    reading::{line, listed, words},
    state::{Attempt, BAD_TARGETS_MAX, BadTarget, HookState, Mode, Step, Unreported},
};

impl Agent {
    /// The attempt will not be confirmed. Undoes what was begun.
    pub(crate) fn turn_back(&mut self, now: Moment, cause: Cause, out: &mut Output) {
        let cause = self.unless_elsewhere(cause);
        let stays = self.stays(&cause);
        let Some(attempt) = &mut self.durable.attempt else {
            return;
        };
        let undo = match cause {
            // The boot default is what it is meant to be.
            Cause::RebootNotAllowed => false,
            // What somebody else brought is theirs.
            Cause::ChangedBefore(_) | Cause::ChangedMeanwhile(_) => false,
            Cause::Stopped
            | Cause::LeaseRanOut
            | Cause::NotHeld(_)
            | Cause::BadTarget(_)
            | Cause::Staging(_)
            | Cause::NotReady(_)
            | Cause::Snapshot(_)
            | Cause::Arming(_)
            | Cause::PreHook(_)
            | Cause::PreHookUnknown(_)
            | Cause::Busy
            | Cause::TooLate
            | Cause::Activation(_)
            | Cause::NotActivated(_)
            | Cause::RebootDidNotHappen
            | Cause::WrongBoot(_)
            | Cause::PostHook(_)
            | Cause::PostHookUnknown(_)
            | Cause::NotJudged(_)
            | Cause::Unhealthy(_)
            | Cause::WrongSystem(_)
            | Cause::DeadMan
            | Cause::Endless
            | Cause::UnknownStep(_)
            | Cause::Other(_) => attempt.touched,
        };
        attempt.cause = Some(cause);
        attempt.job = None;
        out.persist = true;
        self.drop_job(out);
        if stays {
            self.close(now, OutcomeKind::Stuck, None, out);
        } else if undo {
            self.enter(now, Step::RollingBack, out);
        } else {
            self.after_undo(now, out);
        }
    }

    /// The cause, or that somebody else has switched the machine, which excuses everything else.
    fn unless_elsewhere(&self, cause: Cause) -> Cause {
        let others = self.durable.attempt.as_ref().and_then(|attempt| {
            let running = self.facts.as_ref()?.running.as_ref()?;
            let previous = &attempt.previous.as_ref()?.running;
            let ours = running == previous || Some(running) == attempt.path.as_ref();
            (attempt.touched && !ours && self.is_in_first_boot(attempt)).then(|| running.clone())
        });
        match (cause, others) {
            // Its program goes back whatever runs, and is not to be stopped in the middle.
            (Cause::DeadMan, _) => Cause::DeadMan,
            (cause @ (Cause::ChangedBefore(_) | Cause::ChangedMeanwhile(_)), _) => cause,
            (_, Some(path)) => Cause::ChangedMeanwhile(path),
            (cause, None) => cause,
        }
    }

    /// Whether the machine has not been booted since the attempt began: what runs was switched to.
    pub(crate) fn is_in_first_boot(&self, attempt: &Attempt) -> bool {
        let boot = self.facts.as_ref().map(|facts| &facts.boot_id);
        boot == Some(&attempt.boot_id)
    }

    /// Whether policy leaves the machine as it is: on the target, which is at fault.
    fn stays(&self, cause: &Cause) -> bool {
        let (Some(attempt), Some(facts)) = (&self.durable.attempt, &self.facts) else {
            return false;
        };
        !attempt.rollback_on_failure
            && attempt.past_no_return()
            && cause.judges_target()
            && facts.running.is_some()
            && facts.running == attempt.path
    }

    /// How to go back. A machine that was booted into the target is booted back; one that never
    /// left the previous system only needs its boot default.
    pub(crate) fn restore_mode(&self, attempt: &Attempt) -> Mode {
        match attempt.mode {
            Mode::Switch => Mode::Switch,
            Mode::Boot => {
                let running = self.facts.as_ref().and_then(|facts| facts.running.as_ref());
                let is_back = running == attempt.previous.as_ref().map(|p| &p.running);
                if is_back || self.was_booted(attempt) {
                    Mode::Boot
                } else {
                    Mode::Switch
                }
            }
        }
    }

    /// Whether the machine was booted in the course of the attempt, asked to or not, or is about to
    /// be.
    fn was_booted(&self, attempt: &Attempt) -> bool {
        let boot = self.facts.as_ref().map(|facts| &facts.boot_id);
        attempt.reboots > 0 || boot.is_some_and(|boot| *boot != attempt.boot_id)
    }

    pub(crate) fn restored(
        &mut self,
        now: Moment,
        result: Result<Done, Failure>,
        out: &mut Output,
    ) {
        let end = match result {
            Ok(Done::Restored { end, facts }) => {
                self.facts = Some(facts);
                Some(end)
            }
            Err(Failure::Elsewhere(path)) => {
                return self.turn_back(now, Cause::ChangedMeanwhile(path), out);
            }
            Ok(_) | Err(_) => None,
        };
        let Some(attempt) = &self.durable.attempt else {
            return;
        };
        match end {
            Some(ActivationEnd::Done | ActivationEnd::Degraded) => {
                if attempt.mode == Mode::Boot && self.was_booted(attempt) {
                    self.boot_back(now, out);
                } else {
                    self.after_undo(now, out);
                }
            }
            Some(ActivationEnd::RebootNeeded) => self.boot_back(now, out),
            Some(ActivationEnd::Busy | ActivationEnd::Failed { .. }) | None => {
                if attempt.restores < self.limits.switch_tries {
                    self.wait = Some(now + self.limits.busy_pause);
                } else if end.is_none() && attempt.armed && attempt.cause != Some(Cause::DeadMan) {
                    // Nothing of it could even be run. The dead-man program needs nothing that the
                    // target may have broken: it is not called off, but waited for.
                    self.wait = Some(now + self.longest_attempt(attempt));
                } else {
                    self.after_undo(now, out);
                }
            }
        }
    }

    /// Boots the previous system, if the machine does not run it already and may be booted; else the
    /// judgement will say that it is not back.
    fn boot_back(&mut self, now: Moment, out: &mut Output) {
        let may_boot = self
            .durable
            .attempt
            .as_ref()
            .is_some_and(|a| a.allow_reboot);
        if self.runs_previous() || !may_boot {
            self.after_undo(now, out);
        } else {
            self.enter(now, Step::RebootingBack, out);
        }
    }

    /// The reboot back did not happen: again, or to the judgement, which will say so.
    pub(crate) fn boot_back_again(&mut self, now: Moment, out: &mut Output) {
        let asked = self.durable.attempt.as_ref().map_or(0, |a| a.reboots_back);
        if asked < self.limits.reboot_tries {
            self.enter(now, Step::RebootingBack, out);
        } else {
            self.after_undo(now, out);
        }
    }

    fn runs_previous(&self) -> bool {
        let running = self.facts.as_ref().and_then(|facts| facts.running.as_ref());
        let previous = self.durable.attempt.as_ref().and_then(|a| self.previous(a));
        running.is_some() && running == previous.as_ref().map(|p| &p.running)
    }

    /// What was changed is put back: the rollback hook next, if there is something to make up for.
    pub(crate) fn after_undo(&mut self, now: Moment, out: &mut Output) {
        let owes = self
            .durable
            .attempt
            .as_ref()
            .is_some_and(Attempt::owes_rollback_hook);
        if owes {
            self.enter(now, Step::RollbackHook, out);
        } else {
            self.after_rollback_hook(now, out);
        }
    }

    /// The rollback stands, whatever its hook says; what it says is reported.
    pub(crate) fn rollback_hook_done(
        &mut self,
        now: Moment,
        state: HookState,
        says: &str,
        out: &mut Output,
    ) {
        let complaint = match state {
            HookState::Succeeded => None,
            HookState::Failed => Some(format!("the rollback hook failed: {says}")),
            HookState::NotBegun | HookState::Begun | HookState::Unknown => {
                Some(format!("how the rollback hook ended is not known: {says}"))
            }
        };
        if let (Some(complaint), Some(attempt)) = (complaint, &mut self.durable.attempt) {
            attempt.complaint = Some(line(&complaint));
        }
        self.after_rollback_hook(now, out);
    }

    fn after_rollback_hook(&mut self, now: Moment, out: &mut Output) {
        let Some(attempt) = &self.durable.attempt else {
            return;
        };
        let left = matches!(attempt.cause, Some(Cause::ChangedMeanwhile(_)));
        if attempt.restores > 0 && !left {
            self.enter(now, Step::JudgingRollback, out);
        } else {
            let kind = verdict_of(attempt);
            self.close(now, kind, None, out);
        }
    }

    pub(crate) fn rollback_judged(
        &mut self,
        now: Moment,
        judgement: Result<Judgement, Failure>,
        out: &mut Output,
    ) {
        let objection = match judgement {
            Err(failure) => Some(words(&failure)),
            Ok(judgement) => {
                self.set_health(judgement.health, 0);
                self.facts = Some(judgement.facts);
                // A network that is still gone is not what the target did, or nothing that going
                // back mends; and nobody could be told. So it is no verdict: it is waited for.
                if !judgement.healthy && judgement.cut_off {
                    self.wait = Some(now + self.limits.busy_pause);
                    return;
                }
                if judgement.healthy {
                    self.not_really_back()
                } else {
                    Some(listed(&judgement.findings))
                }
            }
        };
        let Some(attempt) = &self.durable.attempt else {
            return;
        };
        match objection {
            None => {
                let kind = verdict_of(attempt);
                self.close(now, kind, None, out);
            }
            Some(objection) => {
                let why = format!("and after going back: {objection}");
                self.close(now, OutcomeKind::Stuck, Some(why), out);
            }
        }
    }

    /// What shows that the machine is not back where it came from, though it is healthy.
    fn not_really_back(&self) -> Option<String> {
        let (Some(attempt), Some(facts)) = (&self.durable.attempt, &self.facts) else {
            return None;
        };
        let previous = self.previous(attempt)?;
        if facts.running.as_ref() != Some(&previous.running) {
            return Some("the machine does not run what it ran before".to_owned());
        }
        if !facts.boots_next(&previous.boot_default) {
            return Some("the next boot does not start what it would have started".to_owned());
        }
        None
    }

    /// Writes the verdict; then the dead-man timer is stopped.
    pub(crate) fn close(
        &mut self,
        now: Moment,
        kind: OutcomeKind,
        remark: Option<String>,
        out: &mut Output,
    ) {
        let Some(attempt) = &self.durable.attempt else {
            return;
        };
        let said: Vec<String> = attempt
            .cause
            .as_ref()
            .map(Cause::reason)
            .into_iter()
            .chain(remark)
            .chain(attempt.complaint.clone())
            .collect();
        let outcome = Outcome {
            kind,
            reason: text::tame_line(&said.join("; "), text::REASON_MAX),
        };
        self.enter(now, Step::Closing { outcome }, out);
    }

    /// The dead-man timer is stopped, or was found to have gone off before the verdict. Where it
    /// cannot be stopped nothing is lost: its program finds the verdict written and does nothing.
    pub(crate) fn disarmed(
        &mut self,
        now: Moment,
        outcome: Outcome,
        result: &Result<Done, Failure>,
        out: &mut Output,
    ) {
        let Some(attempt) = &self.durable.attempt else {
            return;
        };
        let went_off = matches!(result, Ok(Done::Disarmed { fired: true }));
        if went_off && attempt.touched && attempt.restores == 0 {
            let says_so = outcome.kind == OutcomeKind::Confirmed;
            if says_so || outcome.kind == OutcomeKind::Stuck {
                self.turn_back(now, Cause::DeadMan, out);
                return;
            }
        }
        self.finish(now, out);
    }

    /// The dead-man timer acts: it goes back by itself. The agent goes back as well, which finds
    /// everything done or does the rest, and judges.
    pub(crate) fn on_dead_man(&mut self, now: Moment, lease: common::LeaseId, out: &mut Output) {
        let fits = |attempt: &Attempt| {
            // Between two tries, or after the last, nothing of the agent's own is under way.
            let waits = attempt.step == Step::RollingBack && attempt.job.is_none();
            attempt.lease == lease && attempt.touched && (attempt.restores == 0 || waits)
        };
        if self.durable.attempt.as_ref().is_some_and(fits) {
            self.turn_back(now, Cause::DeadMan, out);
        }
    }

    /// The attempt is over: its result stays until the coordinator has it.
    pub(crate) fn finish(&mut self, now: Moment, out: &mut Output) {
        let Some(attempt) = self.durable.attempt.take() else {
            return;
        };
        let blamed = attempt.blames_target();
        let Step::Closing { outcome } = attempt.step else {
            self.durable.attempt = Some(attempt);
            return;
        };
        self.drop_job(out);
        if self.health.state == HealthState::Unknown {
            self.health_due = now;
        }
        self.not_held = None;
        self.calls.renew.clear();
        self.durable.last_lease = attempt.lease;
        // Booting the same system again is no reason to drop the root of the one before, nor to
        // think ill of what runs.
        let elsewhere = attempt.path != attempt.previous.as_ref().map(|p| p.running.clone());
        if let Some(previous) = attempt.previous.filter(|_| elsewhere) {
            self.durable.kept = vec![previous.running, previous.boot_default];
            self.durable.kept.dedup();
        }
        if let Some(path) = attempt.path {
            let confirmed = outcome.kind == OutcomeKind::Confirmed;
            if confirmed {
                self.durable.confirmed.retain(|known| *known != path);
                self.durable.confirmed.push(path.clone());
                let surplus = self.durable.confirmed.len().saturating_sub(CONFIRMED_MAX);
                self.durable.confirmed.drain(..surplus);
            }
            if confirmed || blamed {
                self.durable.bad_targets.retain(|bad| bad.path != path);
            }
            // What could not even be noted may not be complete in the store any more.
            let doubtful = matches!(attempt.cause, Some(Cause::Snapshot(_)));
            if confirmed || blamed || doubtful {
                self.durable.staged.take_if(|staged| staged.path == path);
            }
            if blamed && !confirmed && elsewhere {
                if self.durable.bad_targets.len() >= BAD_TARGETS_MAX {
                    self.durable.bad_targets.remove(0);
                }
                self.durable.bad_targets.push(BadTarget {
                    path,
                    reason: line(&outcome.reason),
                });
            }
        }
        self.keep_roots(out);
        out.effects.push(Effect::Measure);
        let result = Unreported {
            rollout: attempt.rollout,
            lease: attempt.lease,
            outcome,
            records: attempt.records,
        };
        self.hand_in(now, result, out);
    }
}

/// What an attempt comes to when the way back works.
fn verdict_of(attempt: &Attempt) -> OutcomeKind {
    match &attempt.cause {
        None => OutcomeKind::Stuck,
        Some(cause) => match cause {
            Cause::RebootNotAllowed => OutcomeKind::RebootRequired,
            Cause::BadTarget(_)
            | Cause::Staging(_)
            | Cause::Snapshot(_)
            | Cause::Arming(_)
            | Cause::PreHook(_)
            | Cause::PreHookUnknown(_) => OutcomeKind::Refused,
            // The switch never began.
            Cause::Busy | Cause::NotReady(_) | Cause::TooLate | Cause::ChangedBefore(_) => {
                OutcomeKind::Abandoned
            }
            // Whoever is at work there has to say what it is to run.
            Cause::ChangedMeanwhile(_) => OutcomeKind::Stuck,
            Cause::Stopped
            | Cause::LeaseRanOut
            | Cause::NotHeld(_)
            | Cause::UnknownStep(_)
            | Cause::Other(_) => {
                if attempt.past_no_return() {
                    OutcomeKind::RolledBack
                } else {
                    OutcomeKind::Abandoned
                }
            }
            Cause::Activation(_)
            | Cause::NotActivated(_)
            | Cause::RebootDidNotHappen
            | Cause::WrongBoot(_)
            | Cause::PostHook(_)
            | Cause::PostHookUnknown(_)
            | Cause::NotJudged(_)
            | Cause::Unhealthy(_)
            | Cause::WrongSystem(_)
            | Cause::DeadMan => OutcomeKind::RolledBack,
            Cause::Endless if attempt.touched => OutcomeKind::RolledBack,
            Cause::Endless => OutcomeKind::Refused,
        },
    }
}
