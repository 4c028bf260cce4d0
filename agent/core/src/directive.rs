//! What the coordinator says, and whether it is followed.

use std::time::Duration;

use common::{Action, Epoch, LeaseId, StopMode};

use crate::{
    agent::Agent,
    effect::{CallId, Effect, NotFollowed, Note, Output},
    input::{Directive, Proceed, Renewal, Signal, StandDown},
    limits::HEALTH_TIMEOUT_MAX,
    moment::Moment,
    reading::line,
    staging::Wanted,
    state::{Attempt, Baseline, BootMoment, Hooks, Mode, RebootKind, Step},
};

impl Agent {
    pub(crate) fn on_directive(
        &mut self,
        now: Moment,
        call: CallId,
        sent: Moment,
        epoch: Epoch,
        directive: Directive,
        out: &mut Output,
    ) {
        let landed = self.calls.poll.landed(call);
        self.calls.failures = 0;
        let seen = self.durable.epoch;
        if epoch < seen && !self.bug_old_accepted() {
            self.not_followed(now, NotFollowed::OldEpoch { given: epoch, seen }, out);
            return;
        }
        self.see_epoch(now, epoch, out);
        match directive {
            Directive::Wait { ask_again, .. } => {
                if landed && self.durable.attempt.is_none() {
                    let pause = self.calls.pause_after_nothing(now.since(sent));
                    self.calls.poll.due_by(now + ask_again.max(pause));
                }
            }
            Directive::Stage {
                rollout,
                target,
                action,
                force,
                wish,
            } => {
                let wanted = Wanted {
                    target,
                    action,
                    rollout,
                    wish,
                };
                self.on_stage(now, wanted, force, out);
            }
            // A newer poll is on its way, or was made: to the coordinator it says that the grant never
            // came, whenever it arrives.
            Directive::Proceed(proceed) if !landed && !self.bug_old_accepted() => {
                let given = proceed.lease;
                self.not_followed(now, NotFollowed::Superseded { given }, out);
            }
            Directive::Proceed(proceed) => match self.may_accept(now, sent, &proceed) {
                Ok(()) => self.accept(now, sent, proceed, out),
                Err(why) => self.not_followed(now, why, out),
            },
            Directive::Check { request, timeout } => {
                if self.durable.attempt.is_some() {
                    return;
                }
                if !self.check_is_known(request) {
                    self.check_health(now, request, timeout.min(HEALTH_TIMEOUT_MAX), out);
                }
                self.poll_later(now);
            }
            Directive::CleanUp { request, cleanup } => {
                self.on_clean_up(now, request, cleanup, out);
            }
            Directive::MoveTraffic(call) => self.on_move_traffic(now, call, out),
            Directive::StandDown(stop) => {
                let known = stop.epoch <= seen;
                self.on_stand_down(now, stop, out);
                // The first time at once, so that the coordinator sees that it was heard.
                if known {
                    self.poll_later(now);
                }
            }
        }
    }

    pub(crate) fn on_signal(
        &mut self,
        now: Moment,
        epoch: Epoch,
        signal: Signal,
        out: &mut Output,
    ) {
        self.see_epoch(now, epoch, out);
        match signal {
            Signal::Epoch => {}
            Signal::Wake => self.poll_now(now),
            Signal::StandDown(stop) => self.on_stand_down(now, stop, out),
        }
    }

    pub(crate) fn on_renewed(
        &mut self,
        now: Moment,
        landed: bool,
        sent: Moment,
        (lease, epoch): (LeaseId, Epoch),
        renewal: Renewal,
        out: &mut Output,
    ) {
        self.calls.failures = 0;
        let old = epoch < self.durable.epoch;
        self.see_epoch(now, epoch, out);
        let boot_id = self.facts.as_ref().map(|facts| facts.boot_id.clone());
        if landed && self.durable.attempt.is_some() {
            self.calls.renew.due_by(now + self.limits.poll_pause);
        }
        let mine = |attempt: &&mut Attempt| attempt.lease == lease;
        let Some(attempt) = self.durable.attempt.as_mut().filter(mine) else {
            return;
        };
        match renewal {
            Renewal::Valid { valid_for } if !old => {
                let until = BootMoment {
                    boot_id: boot_id.unwrap_or_else(|| attempt.lease_until.boot_id.clone()),
                    moment: sent + valid_for,
                };
                // A promise once made is kept: an answer that was overtaken shortens nothing.
                let same_boot = until.boot_id == attempt.lease_until.boot_id;
                if !same_boot || until.moment > attempt.lease_until.moment {
                    attempt.lease_until = until;
                    out.persist = true;
                }
                self.validity = valid_for;
                let pause = self.limits.backoff_first;
                self.calls
                    .renew
                    .set_due((sent + valid_for / 3).max(now + pause));
            }
            // An answer from before the newest stop renews nothing; the next one is asked soon.
            Renewal::Valid { .. } => self.calls.renew.due_by(now + self.limits.backoff_first),
            Renewal::StandDown(stop) => {
                self.on_stand_down(now, stop, out);
                self.calls.renew.due_by(now + self.limits.poll_pause);
            }
            Renewal::NotHeld { reason } => {
                attempt.lease_until.moment = attempt.lease_until.moment.min(now);
                out.persist = true;
                self.not_held = Some(line(&reason));
                self.calls.renew.clear();
                self.interrupt(now, out);
            }
        }
        if landed {
            self.announced(now, out);
        }
    }

    /// Remembers the epoch and lets the coordinator know soon. One that is newer than the running
    /// attempt's means that there was a stop (or a restore) since: the lease is void.
    pub(crate) fn see_epoch(&mut self, now: Moment, epoch: Epoch, out: &mut Output) {
        if !self.raise_epoch(epoch, out) {
            return;
        }
        self.poll_now(now);
        if let Some(attempt) = self.durable.attempt.as_mut() {
            attempt.stop.get_or_insert(StopMode::Finish);
            self.calls.renew.due_by(now);
            self.interrupt(now, out);
        }
    }

    /// An emergency stop concerns every attempt under an older epoch than its own. One that is
    /// repeated late, after the stop was lifted, finds only younger ones.
    fn on_stand_down(&mut self, now: Moment, stop: StandDown, out: &mut Output) {
        self.see_epoch(now, stop.epoch, out);
        if stop.epoch > self.stop_noted {
            self.stop_noted = stop.epoch;
            out.effects.push(Effect::Note(Note::Stopped {
                epoch: stop.epoch,
                reason: line(&stop.reason),
            }));
        }
        let older = |attempt: &&mut Attempt| attempt.epoch < stop.epoch;
        let Some(attempt) = self.durable.attempt.as_mut().filter(older) else {
            return;
        };
        // Of two stops the stronger one holds.
        let mode = attempt.stop.map_or(stop.mode, |seen| seen.max(stop.mode));
        if attempt.stop != Some(mode) {
            attempt.stop = Some(mode);
            out.persist = true;
        }
        self.interrupt(now, out);
    }

    pub(crate) fn not_followed(&mut self, now: Moment, why: NotFollowed, out: &mut Output) {
        out.effects.push(Effect::Note(Note::NotFollowed { why }));
        if self.durable.unreported.is_some() {
            self.calls.report.due_by(now);
        }
        self.poll_later(now);
    }

    fn bug_old_accepted(&self) -> bool {
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): the fencing numbers are not looked at.
        return self.has_bug(crate::bug::Bug::OldLeaseAccepted);
        #[cfg(not(feature = "seeded-bugs"))]
        false
    }

    /// Whether this lease may be used. A lease is used once: the numbers seen are on disk before
    /// anything is done under it.
    fn may_accept(&self, now: Moment, sent: Moment, proceed: &Proceed) -> Result<(), NotFollowed> {
        let durable = &self.durable;
        if durable.attempt.is_some() {
            return Err(NotFollowed::Busy);
        }
        if durable.unreported.is_some() {
            return Err(NotFollowed::Unreported);
        }
        if durable.cleaning.is_some() {
            return Err(NotFollowed::CleaningUp);
        }
        if durable.moving_traffic.is_some() {
            return Err(NotFollowed::MovingTraffic);
        }
        if proceed.epoch < durable.epoch && !self.bug_old_accepted() {
            return Err(NotFollowed::OldEpoch {
                given: proceed.epoch,
                seen: durable.epoch,
            });
        }
        if proceed.lease <= durable.lease && !self.bug_old_accepted() {
            return Err(NotFollowed::OldLease {
                given: proceed.lease,
                seen: durable.lease,
            });
        }
        if now + self.limits.lease_margin >= sent + proceed.valid_for {
            return Err(NotFollowed::TooLate {
                given: proceed.lease,
            });
        }
        Ok(())
    }

    fn accept(&mut self, now: Moment, sent: Moment, proceed: Proceed, out: &mut Output) {
        let Some(boot_id) = self.facts.as_ref().map(|facts| facts.boot_id.clone()) else {
            return;
        };
        out.effects.push(Effect::Note(Note::Accepted {
            lease: proceed.lease,
            rollout: proceed.rollout.clone(),
        }));
        self.raise_epoch(proceed.epoch, out);
        self.clear_the_way(out);
        self.durable.staging = None;
        self.durable.lease = self.durable.lease.max(proceed.lease);
        self.validity = proceed.valid_for;
        self.calls
            .renew
            .set_due((sent + proceed.valid_for / 3).max(now));
        let health_timeout = if proceed.health_timeout.is_zero() {
            self.limits.health_timeout
        } else {
            proceed.health_timeout.min(HEALTH_TIMEOUT_MAX)
        };
        self.durable.attempt = Some(Attempt {
            rollout: proceed.rollout,
            lease: proceed.lease,
            epoch: proceed.epoch,
            lease_until: BootMoment {
                boot_id: boot_id.clone(),
                moment: sent + proceed.valid_for,
            },
            action: proceed.action,
            target: proceed.target,
            path: None,
            mode: Mode::Switch,
            allow_reboot: proceed.allow_reboot || proceed.action == Action::Reboot,
            allow_soft_reboot: proceed.allow_soft_reboot,
            reboot_kind: RebootKind::Machine,
            rollback_on_failure: proceed.rollback_on_failure,
            health_timeout_ms: whole_millis(health_timeout).max(1),
            previous: None,
            baseline: Baseline::default(),
            boot_id,
            step: Step::Staging,
            job: None,
            hooks: Hooks::default(),
            armed: false,
            armed_in: None,
            touched: false,
            activations: 0,
            reboots: 0,
            restores: 0,
            reboots_back: 0,
            steps: 0,
            force: proceed.force,
            stop: None,
            cause: None,
            complaint: None,
            records: Vec::new(),
            foreign: false,
        });
        out.persist = true;
        self.begin_attempt(now, out);
    }
}

fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
