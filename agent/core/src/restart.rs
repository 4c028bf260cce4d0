//! What a restart means, in every step: from the journal, the unit of the open step, the boot and
//! what runs, to the next step. Total: there is no state and no finding without an answer.
//!
//! Work that can be begun again is begun again. A hook is not: when its result was lost it counts
//! as *unknown*, which on the way there turns the attempt round (a machine whose pre-update hook
//! may have done half of its work gets its rollback hook), and on the way back is only reported.

use std::time::Duration;

use common::StorePath;

use crate::{
    agent::{Agent, Running},
    cause::Cause,
    effect::{Effect, Output},
    facts::{Found, UnitState},
    input::{Answer, Failure},
    moment::Moment,
    reading::line,
    state::{Mode, Step},
};

impl Agent {
    pub(crate) fn after_restart(&mut self, now: Moment, found: Found, out: &mut Output) {
        let Found {
            facts,
            unit,
            dead_man_fired,
        } = found;
        let same_boot = self.durable.boot_id.as_ref() == Some(&facts.boot_id);
        self.durable.life = self.durable.life.saturating_add(1);
        self.durable.boot_id = Some(facts.boot_id.clone());
        out.persist = true;
        self.health_due = now;
        self.facts = Some(facts);
        if self.durable.unreported.is_some() {
            self.calls.report.set_due(now);
        }
        if self.durable.attempt.is_none() {
            if !same_boot {
                // Whether it takes a reboot was decided against another booted system.
                self.durable.staged = None;
            }
            self.calls.poll.set_due(now);
            self.staging_after_restart(now, unit, out);
            self.cleanup_after_restart(now, out);
            self.traffic_after_restart(now, out);
            return;
        }
        self.calls.renew.set_due(now);
        let acted = |attempt: &crate::state::Attempt| attempt.touched && attempt.restores == 0;
        let dead_man = dead_man_fired && self.durable.attempt.as_ref().is_some_and(acted);
        if dead_man {
            self.turn_back(now, Cause::DeadMan, out);
        } else if same_boot {
            self.after_agent_restart(now, unit, out);
        } else {
            self.after_boot(now, out);
        }
    }

    /// The agent was restarted, the machine was not.
    fn after_agent_restart(&mut self, now: Moment, unit: UnitState, out: &mut Output) {
        let Some(attempt) = &self.durable.attempt else {
            return;
        };
        let step = attempt.step.clone();
        match (unit, attempt.job) {
            (UnitState::Running, Some(id)) => {
                if let Some(job) = self.job_begun_before(now, id) {
                    self.job = Some(self.running(now, &job));
                    out.effects.push(Effect::Attach(job));
                    return;
                }
            }
            (UnitState::Ended(answer), Some(id)) => {
                self.ended_unseen(now, id, *answer, out);
                return;
            }
            (UnitState::Absent, _) | (UnitState::Running | UnitState::Ended(_), None) => {}
        }
        match step {
            Step::Staging | Step::Snapshot | Step::Arming | Step::Rearming | Step::Judging => {
                self.go_on(now, step, out);
            }
            Step::PreHook | Step::PostHook | Step::RollbackHook => self.hook_lost(now, step, out),
            Step::Activating => self.activate_again(now, out),
            Step::Announcing => self.go_on(now, step, out),
            Step::Rebooting => self.reboot_again(now, out),
            Step::RollingBack => match self.wait_for_dead_man() {
                Some(wait) => self.wait = Some(now + wait),
                None => self.restore_again(now, out),
            },
            Step::RebootingBack => self.boot_back_again(now, out),
            Step::JudgingRollback | Step::Closing { .. } => self.enter(now, step, out),
            Step::Unknown(word) => self.leave_unknown(now, word, out),
        }
    }

    /// How long the agent before this one may still have waited for the dead-man program, having
    /// tried in vain to go back itself: it comes when it comes, whoever waits.
    fn wait_for_dead_man(&self) -> Option<Duration> {
        let attempt = self.durable.attempt.as_ref()?;
        let in_vain = attempt.restores >= self.limits.switch_tries && attempt.job.is_none();
        let runs =
            attempt.armed_in == self.durable.boot_id && attempt.cause != Some(Cause::DeadMan);
        (in_vain && runs).then(|| self.longest_attempt(attempt))
    }

    /// The machine was booted, asked to or not.
    fn after_boot(&mut self, now: Moment, out: &mut Output) {
        let (Some(attempt), Some(facts)) = (&mut self.durable.attempt, &self.facts) else {
            return;
        };
        let step = attempt.step.clone();
        let running = facts.running.clone();
        let arrived = attempt.arrived(facts);
        match step {
            // Nothing had been changed: the lease is of another boot, so the attempt is abandoned.
            Step::Staging | Step::Snapshot | Step::Arming => {
                self.turn_back(now, Cause::LeaseRanOut, out);
            }
            Step::PreHook | Step::RollbackHook => self.hook_lost(now, step, out),
            // A power cut in the middle of the way, and the new boot default came up: as good as
            // the reboot that was to come. Judged like it.
            Step::Activating | Step::Announcing if arrived => {
                if attempt.mode == Mode::Boot {
                    attempt.reboots = attempt.reboots.max(1);
                }
                self.enter(now, Step::Rearming, out);
            }
            Step::Rebooting | Step::Rearming | Step::Judging if arrived => {
                self.enter(now, Step::Rearming, out);
            }
            Step::PostHook if arrived => self.hook_lost(now, step, out),
            // Nobody had asked for this boot yet: that it did not bring the target is not its fault.
            Step::Activating | Step::Announcing => {
                let what = running
                    .as_ref()
                    .map_or("an unknown system", StorePath::as_str);
                let cause = Cause::NotActivated(line(&format!("meanwhile {what} was booted")));
                self.turn_back(now, cause, out);
            }
            Step::Rebooting | Step::Rearming | Step::PostHook | Step::Judging => {
                self.turn_back(now, Cause::WrongBoot(running), out)
            }
            Step::RollingBack => self.restore_again(now, out),
            Step::RebootingBack => self.after_undo(now, out),
            Step::JudgingRollback | Step::Closing { .. } => self.enter(now, step, out),
            Step::Unknown(word) => self.leave_unknown(now, word, out),
        }
    }

    /// Another version of the agent was here: back to where the machine came from.
    fn leave_unknown(&mut self, now: Moment, word: String, out: &mut Output) {
        let known = self.durable.attempt.as_ref().and_then(|a| a.cause.clone());
        self.turn_back(now, known.unwrap_or(Cause::UnknownStep(word)), out);
    }

    fn ended_unseen(
        &mut self,
        now: Moment,
        id: crate::state::StepId,
        answer: Answer,
        out: &mut Output,
    ) {
        let unseen = Running {
            step: id,
            began: now,
            deadline: now,
            extended: false,
        };
        self.attempt_step_done(now, unseen, answer, out);
    }

    /// A hook was begun and nobody knows how it ended: never begun again.
    fn hook_lost(&mut self, now: Moment, step: Step, out: &mut Output) {
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): it is begun again.
        if self.has_bug(crate::bug::Bug::HookRunTwice) {
            self.enter(now, step, out);
            return;
        }
        let _ = step;
        let lost = Answer {
            result: Err(Failure::Lost),
            output: String::new(),
        };
        self.ended_unseen(now, crate::state::StepId::default(), lost, out);
    }

    fn restore_again(&mut self, now: Moment, out: &mut Output) {
        let tries = self.durable.attempt.as_ref().map_or(0, |a| a.restores);
        if tries < self.limits.switch_tries {
            self.enter(now, Step::RollingBack, out);
        } else {
            self.after_undo(now, out);
        }
    }

    /// The present step has waited long enough.
    pub(crate) fn wait_is_over(&mut self, now: Moment, out: &mut Output) {
        let Some(attempt) = &self.durable.attempt else {
            return;
        };
        match &attempt.step {
            Step::Activating => self.activate_again(now, out),
            Step::Announcing => self.announced(now, out),
            Step::Rebooting => self.reboot_again(now, out),
            Step::RollingBack => self.restore_again(now, out),
            Step::RebootingBack => self.boot_back_again(now, out),
            Step::JudgingRollback => self.enter(now, Step::JudgingRollback, out),
            Step::Staging
            | Step::Snapshot
            | Step::Arming
            | Step::PreHook
            | Step::Rearming
            | Step::PostHook
            | Step::Judging
            | Step::RollbackHook
            | Step::Closing { .. }
            | Step::Unknown(_) => {}
        }
    }
}
