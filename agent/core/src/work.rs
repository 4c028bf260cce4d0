//! What there is to do in each step, complete: the journal in, a job out.

use std::time::Duration;

use crate::{
    agent::Agent,
    cause::Cause,
    effect::{HookContext, Job, MayBegin, Trial, Work},
    input::Hook,
    moment::Moment,
    state::{Attempt, Mode, Previous, RebootKind, Step, StepId},
};

impl Agent {
    /// The work of the present step, under a new name; `None` where the step has none.
    pub(crate) fn job_of_step(&mut self) -> Option<Job> {
        let (within, work) = self.work_of_step()?;
        Some(self.new_job(within, work))
    }

    /// The work of the present step and its time limit.
    pub(crate) fn work_of_step(&self) -> Option<(Duration, Work)> {
        let attempt = self.durable.attempt.as_ref()?;
        let limits = &self.limits;
        let lease = attempt.lease;
        let hook = |hook| {
            let context = self.hook_context(attempt)?;
            Some((limits.hook_timeout, Work::RunHook { hook, context }))
        };
        let judge = |back| {
            let timeout = attempt.health_timeout();
            let baseline = attempt.baseline.clone();
            (
                timeout + limits.short_step,
                Work::Judge {
                    baseline,
                    timeout,
                    back,
                },
            )
        };
        match &attempt.step {
            Step::Staging => {
                let work = Work::Stage {
                    target: attempt.target.clone()?,
                    action: attempt.action,
                    rollout: Some(attempt.rollout.clone()),
                };
                Some((limits.stage_timeout, work))
            }
            Step::Snapshot => {
                let target = attempt.path.clone()?;
                // The backup check is one of the machine's own scripts.
                let mut within = limits.short_step + limits.hook_timeout;
                let action = attempt.action;
                let wait = attempt.allow_reboot.then_some(limits.reboot_wait);
                within += wait.unwrap_or_default();
                let work = Work::Snapshot {
                    target,
                    action,
                    reboot_wait: wait,
                };
                Some((within, work))
            }
            Step::Arming | Step::Rearming => {
                let work = Work::ArmDeadMan {
                    lease,
                    previous: self.previous(attempt)?,
                    after: self.longest_attempt(attempt),
                };
                Some((limits.short_step, work))
            }
            Step::PreHook => hook(Hook::Pre),
            Step::Activating => {
                let work = Work::Activate {
                    path: attempt.path.clone()?,
                    mode: attempt.mode,
                    over: self
                        .previous(attempt)
                        .filter(|_| self.is_in_first_boot(attempt)),
                };
                Some((limits.switch_timeout, work))
            }
            Step::Announcing | Step::Unknown(_) => None,
            Step::Rebooting => {
                let kind = attempt.reboot_kind;
                let back = self.previous(attempt).map(|previous| previous.boot_default);
                let trial = attempt.path.clone().zip(back);
                // A soft-reboot does not come past the boot loader.
                let trial = trial
                    .filter(|_| kind == RebootKind::Machine)
                    .map(|(target, back)| Trial { target, back });
                Some((limits.short_step, Work::Reboot { lease, kind, trial }))
            }
            // What is wrong may be what a soft-reboot would keep.
            Step::RebootingBack => {
                let (kind, trial) = (RebootKind::Machine, None);
                Some((limits.short_step, Work::Reboot { lease, kind, trial }))
            }
            Step::PostHook => hook(Hook::Post),
            Step::Judging => Some(judge(false)),
            Step::JudgingRollback => Some(judge(true)),
            Step::RollingBack => {
                let work = Work::Restore {
                    lease,
                    previous: self.previous(attempt)?,
                    mode: self.restore_mode(attempt),
                    over: attempt
                        .path
                        .clone()
                        .filter(|_| self.is_in_first_boot(attempt)),
                };
                // Under the dead-man timer its program has its turn first, and as long.
                let turns = match &attempt.cause {
                    Some(Cause::DeadMan) => 2,
                    Some(_) | None => 1,
                };
                Some((limits.switch_timeout * turns, work))
            }
            Step::RollbackHook => hook(Hook::Rollback),
            Step::Closing { .. } if !attempt.armed => None,
            Step::Closing { .. } => Some((limits.short_step, Work::DisarmDeadMan { lease })),
        }
    }

    /// Up to when the work may be begun: what disturbs the machine only while the lease holds,
    /// whenever that comes to be done.
    pub(crate) fn may_begin(&self, work: &Work) -> MayBegin {
        match &self.durable.attempt {
            Some(attempt) if work.disturbs(&attempt.step) => {
                MayBegin::Before(attempt.lease_until.moment - self.limits.lease_margin)
            }
            Some(_) | None => MayBegin::Always,
        }
    }

    /// The work of the present step, begun by an agent before this one. What that one did not come
    /// to do is done only under a lease that still holds, and a hook not at all: whether it ran
    /// and is gone, or never ran, nobody can tell.
    pub(crate) fn job_begun_before(&self, now: Moment, step: StepId) -> Option<Job> {
        let (within, work) = self.work_of_step()?;
        let attempt = self.durable.attempt.as_ref()?;
        let may_begin = match &work {
            Work::RunHook { .. } | Work::MoveTraffic { .. } => MayBegin::Never,
            Work::Stage { .. }
            | Work::Snapshot { .. }
            | Work::ArmDeadMan { .. }
            | Work::DisarmDeadMan { .. }
            | Work::Activate { .. }
            | Work::Reboot { .. }
            | Work::Judge { .. }
            | Work::Restore { .. }
            | Work::CheckHealth { .. }
            | Work::CleanUp { .. } => {
                if work.disturbs(&attempt.step) && self.may_disrupt(now).is_err() {
                    MayBegin::Before(now)
                } else {
                    self.may_begin(&work)
                }
            }
        };
        Some(Job {
            step,
            within,
            may_begin,
            work,
        })
    }

    /// Where the attempt came from.
    pub(crate) fn previous(&self, attempt: &Attempt) -> Option<Previous> {
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): what runs now is taken for what ran before.
        if self.has_bug(crate::bug::Bug::PreviousNotRecorded) {
            let running = self.facts.as_ref()?.running.clone()?;
            return Some(Previous {
                boot_default: running.clone(),
                running,
                profile: None,
            });
        }
        attempt.previous.clone()
    }

    fn hook_context(&self, attempt: &Attempt) -> Option<HookContext> {
        Some(HookContext {
            rollout: attempt.rollout.clone(),
            lease: attempt.lease,
            target: attempt.path.clone()?,
            previous: self.previous(attempt)?.running,
            reboot: attempt.mode == Mode::Boot,
            reason: attempt
                .cause
                .as_ref()
                .map(Cause::reason)
                .unwrap_or_default(),
        })
    }

    /// Longer than everything that can still happen in this boot, going back included: the
    /// dead-man timer is for an agent that is dead, not for one that is slow.
    pub(crate) fn longest_attempt(&self, attempt: &Attempt) -> Duration {
        let limits = &self.limits;
        let health = attempt.health_timeout() + limits.short_step + limits.grace;
        let hook = limits.hook_timeout + limits.grace;
        let switch = (limits.switch_timeout + limits.grace + limits.busy_pause)
            .saturating_mul(limits.switch_tries);
        let reboot = (limits.short_step + limits.grace + limits.reboot_timeout)
            .saturating_mul(limits.reboot_tries);
        let reboots = match attempt.mode {
            Mode::Switch => Duration::ZERO,
            Mode::Boot => limits.announce_timeout + reboot * 2,
        };
        let longest = hook * 3 + switch * 2 + health * 2 + reboots + limits.short_step * 2;
        limits
            .attempt_timeout
            .map_or(longest, |limit| limit.min(longest))
    }
}

impl Work {
    /// Whether this is the beginning of a disturbance in this step (going back is not: it ends one).
    pub(crate) fn disturbs(&self, step: &Step) -> bool {
        match self {
            Self::Activate { .. } => true,
            Self::RunHook { hook, .. } => *hook == Hook::Pre,
            Self::Reboot { .. } => *step == Step::Rebooting,
            Self::Stage { .. }
            | Self::Snapshot { .. }
            | Self::ArmDeadMan { .. }
            | Self::DisarmDeadMan { .. }
            | Self::Judge { .. }
            | Self::Restore { .. }
            | Self::CheckHealth { .. }
            | Self::CleanUp { .. }
            | Self::MoveTraffic { .. } => false,
        }
    }
}
