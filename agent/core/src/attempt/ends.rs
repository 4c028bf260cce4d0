//! What the end of each step leads to: the next step, the way back, the verdict.

use std::time::Duration;

use common::{Action, OutcomeKind, text};

use crate::{
    agent::{Agent, Running},
    cause::Cause,
    effect::Output,
    facts::NextBoot,
    input::{ActivationEnd, Answer, Done, Failure, Judgement},
    moment::Moment,
    reading::{armed, bounded, hook_end, judgement, line, listed, staged_of, words},
    state::{HookState, Mode, Previous, RECORDS_MAX, RebootKind, Record, Step},
};

impl Agent {
    /// A step ended. A late answer of an earlier step never gets here.
    pub(crate) fn attempt_step_done(
        &mut self,
        now: Moment,
        running: Running,
        answer: Answer,
        out: &mut Output,
    ) {
        let Answer { result, output } = answer;
        self.record(now.since(running.began), &output);
        let Some(attempt) = &mut self.durable.attempt else {
            return;
        };
        attempt.job = None;
        out.persist = true;
        match attempt.step.clone() {
            Step::Staging => match staged_of(result) {
                Ok(staged) => {
                    self.durable.staged = Some(staged.clone());
                    self.is_staged(now, &staged, out);
                }
                Err(failure) => self.turn_back(now, Cause::Staging(words(&failure)), out),
            },
            Step::Snapshot => self.snapshot_done(now, result, out),
            Step::Arming => match armed(result) {
                Ok(()) => {
                    self.note_armed();
                    self.go_on(now, Step::PreHook, out);
                }
                Err(failure) => self.turn_back(now, Cause::Arming(words(&failure)), out),
            },
            Step::PreHook => {
                let (state, says) = hook_end(result);
                attempt.hooks.pre = state;
                match state {
                    HookState::Succeeded => self.go_on(now, Step::Activating, out),
                    HookState::Failed => self.turn_back(now, Cause::PreHook(says), out),
                    HookState::NotBegun => self.turn_back(now, Cause::TooLate, out),
                    HookState::Begun | HookState::Unknown => {
                        self.turn_back(now, Cause::PreHookUnknown(says), out);
                    }
                }
            }
            Step::Activating => self.activation_done(now, result, out),
            Step::Announcing | Step::Unknown(_) => {}
            Step::Rebooting | Step::RebootingBack => self.reboot_asked(now, &result),
            // The agent is alive and has deadlines of its own: without the timer the judgement
            // is as good as with it. Should the agent die, the program that is started some time
            // after each boot finds that no timer runs.
            Step::Rearming => {
                if armed(result).is_ok() {
                    self.note_armed();
                }
                self.go_on(now, self.first_step_on_target(), out);
            }
            Step::PostHook => {
                let lost = result == Err(Failure::Lost);
                let (state, says) = hook_end(result);
                attempt.hooks.post = state;
                match state {
                    HookState::Succeeded => self.go_on(now, Step::Judging, out),
                    HookState::Unknown if lost => {
                        self.turn_back(now, Cause::PostHookUnknown(says), out);
                    }
                    HookState::Failed
                    | HookState::NotBegun
                    | HookState::Begun
                    | HookState::Unknown => self.turn_back(now, Cause::PostHook(says), out),
                }
            }
            Step::Judging => match judgement(result) {
                Ok(judgement) => self.judged(now, judgement, out),
                // Checks that hang speak against the target, not that nobody could look.
                Err(failure @ Failure::TimedOut) => {
                    self.turn_back(now, Cause::Unhealthy(words(&failure)), out);
                }
                Err(
                    failure @ (Failure::Failed(_)
                    | Failure::NotAllowed(_)
                    | Failure::NotReady(_)
                    | Failure::Elsewhere(_)
                    | Failure::Lost
                    | Failure::TooLate
                    | Failure::Unfitting),
                ) => self.turn_back(now, Cause::NotJudged(words(&failure)), out),
            },
            Step::RollingBack => self.restored(now, result, out),
            Step::RollbackHook => {
                let (state, says) = hook_end(result);
                attempt.hooks.rollback = state;
                self.rollback_hook_done(now, state, &says, out);
            }
            Step::JudgingRollback => self.rollback_judged(now, judgement(result), out),
            Step::Closing { outcome } => self.disarmed(now, outcome, &result, out),
        }
    }

    /// The dead-man timer of this boot runs.
    fn note_armed(&mut self) {
        let boot_id = self.facts.as_ref().map(|facts| facts.boot_id.clone());
        if let Some(attempt) = &mut self.durable.attempt {
            attempt.armed_in = boot_id;
        }
    }

    fn record(&mut self, took: Duration, output: &str) {
        let Some(attempt) = &mut self.durable.attempt else {
            return;
        };
        if attempt.records.len() >= RECORDS_MAX {
            attempt.records.remove(0);
        }
        attempt.records.push(Record {
            step: attempt.step.word().to_owned(),
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            output: text::tame(output, text::OUTPUT_MAX),
        });
    }

    fn snapshot_done(&mut self, now: Moment, result: Result<Done, Failure>, out: &mut Output) {
        let (facts, baseline, needs_reboot) = match result {
            Ok(Done::Snapshot {
                facts,
                baseline,
                needs_reboot,
            }) => (facts, baseline, needs_reboot),
            Ok(_) => {
                let cause = Cause::Snapshot(words(&Failure::Unfitting));
                return self.turn_back(now, cause, out);
            }
            Err(Failure::NotReady(why)) => {
                // Staged anew it asks for its turn only when it is ready.
                self.durable.staged = None;
                return self.turn_back(now, Cause::NotReady(line(&why)), out);
            }
            Err(failure) => {
                return self.turn_back(now, Cause::Snapshot(words(&failure)), out);
            }
        };
        let (Some(running), Some(boot_default)) =
            (facts.running.clone(), facts.boot_default().cloned())
        else {
            let cause = Cause::Snapshot("what runs, or what boots next, is not known".to_owned());
            self.facts = Some(facts);
            return self.turn_back(now, cause, out);
        };
        let profile = facts.profile.clone().filter(|path| *path != boot_default);
        self.facts = Some(facts);
        let Some(attempt) = &mut self.durable.attempt else {
            return;
        };
        attempt.previous = Some(Previous {
            running,
            boot_default,
            profile,
        });
        attempt.baseline = bounded(baseline);
        if needs_reboot.is_some() {
            attempt.mode = Mode::Boot;
        }
        let soft = attempt.allow_soft_reboot && attempt.action != Action::Reboot;
        if soft && needs_reboot == Some(RebootKind::UserSpace) {
            attempt.reboot_kind = RebootKind::UserSpace;
        }
        // Setting the boot default disturbs nobody: no timer, no hooks.
        let quiet = attempt.mode == Mode::Boot && !attempt.allow_reboot;
        let next = if quiet {
            Step::Activating
        } else {
            Step::Arming
        };
        self.go_on(now, next, out);
    }

    fn activation_done(&mut self, now: Moment, result: Result<Done, Failure>, out: &mut Output) {
        let end = match result {
            Ok(Done::Activated { end, facts }) => {
                self.facts = Some(facts);
                end
            }
            Ok(_) => {
                let cause = Cause::NotActivated(words(&Failure::Unfitting));
                return self.turn_back(now, cause, out);
            }
            Err(Failure::TooLate) => return self.turn_back(now, Cause::TooLate, out),
            Err(Failure::Elsewhere(path)) => {
                // Staged anew for the system that it is to go from now.
                self.durable.staged = None;
                return self.turn_back(now, Cause::ChangedBefore(path), out);
            }
            Err(Failure::Lost) => return self.activate_again(now, out),
            // The switch itself hangs; what comes before it has an answer long before.
            Err(failure @ Failure::TimedOut) => {
                return self.turn_back(now, Cause::Activation(words(&failure)), out);
            }
            Err(
                failure @ (Failure::Failed(_)
                | Failure::NotAllowed(_)
                | Failure::NotReady(_)
                | Failure::Unfitting),
            ) => {
                return self.turn_back(now, Cause::NotActivated(words(&failure)), out);
            }
        };
        match end {
            ActivationEnd::Done | ActivationEnd::Degraded => self.activated(now, out),
            ActivationEnd::RebootNeeded => {
                if let Some(attempt) = &mut self.durable.attempt {
                    attempt.mode = Mode::Boot;
                }
                self.activated(now, out);
            }
            ActivationEnd::Busy => {
                let tries = self.durable.attempt.as_ref().map_or(0, |a| a.activations);
                if tries < self.limits.switch_tries {
                    self.wait = Some(now + self.limits.busy_pause);
                } else {
                    self.turn_back(now, Cause::Busy, out);
                }
            }
            ActivationEnd::Failed { status } => {
                self.turn_back(now, Cause::Activation(line(&status)), out);
            }
        }
    }

    /// `switch-to-configuration` went through: does the machine show it?
    fn activated(&mut self, now: Moment, out: &mut Output) {
        let (Some(attempt), Some(facts)) = (&self.durable.attempt, &self.facts) else {
            return;
        };
        let (shows, next) = match attempt.mode {
            Mode::Switch => (facts.running == attempt.path, Step::PostHook),
            Mode::Boot => (
                // An entry of somebody else's is no way to the target either.
                !matches!(facts.next_boot, NextBoot::Other(_))
                    && attempt
                        .path
                        .as_ref()
                        .is_some_and(|path| facts.boots_next(path)),
                Step::Announcing,
            ),
        };
        if !shows {
            // Where the reboot would lead elsewhere, the machine is not sent there to find out, and
            // the target is not at fault.
            let cause = match &facts.next_boot {
                _ if attempt.mode == Mode::Switch || facts.profile != attempt.path => {
                    Cause::Activation("it went through, and changed nothing".to_owned())
                }
                NextBoot::System(path) => Cause::NotActivated(line(&format!(
                    "the boot loader starts {path} next, whatever is installed"
                ))),
                NextBoot::Other(entry) => Cause::NotActivated(line(&format!(
                    "the boot loader starts its entry {entry} next, whatever is installed"
                ))),
                NextBoot::Unknown => {
                    Cause::Activation("it went through, and changed nothing".to_owned())
                }
            };
            self.turn_back(now, cause, out);
        } else if attempt.mode == Mode::Boot && !attempt.allow_reboot {
            self.turn_back(now, Cause::RebootNotAllowed, out);
        } else {
            self.go_on(now, next, out);
        }
    }

    fn reboot_asked(&mut self, now: Moment, result: &Result<Done, Failure>) {
        let pause = match result {
            Ok(_) => self.limits.reboot_timeout,
            Err(_) => self.limits.busy_pause,
        };
        self.wait = Some(now + pause);
    }

    fn judged(&mut self, now: Moment, judgement: Judgement, out: &mut Output) {
        let Judgement {
            healthy,
            findings,
            no_better,
            cut_off: _,
            health,
            facts,
        } = judgement;
        self.set_health(health, 0);
        let running = facts.running.clone();
        let arrived = self
            .durable
            .attempt
            .as_ref()
            .is_some_and(|a| a.arrived(&facts));
        self.facts = Some(facts);
        if !healthy {
            self.turn_back(now, Cause::Unhealthy(listed(&findings)), out);
        } else if !arrived {
            self.turn_back(now, Cause::WrongSystem(running), out);
        } else {
            match self.may_go_on(now) {
                Ok(()) => {
                    let remark = (!no_better.is_empty()).then(|| listed(&no_better));
                    self.close(now, OutcomeKind::Confirmed, remark, out);
                }
                Err(cause) => self.turn_back(now, cause, out),
            }
        }
    }
}
