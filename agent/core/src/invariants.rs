//! What must hold at every instant, as code. [`violations`] looks at the durable state alone and is
//! asked of every state read from disk; [`output_violations`] looks at what the agent lets out.

use common::OutcomeKind;

use crate::{
    cleanup::CONFIRMED_MAX,
    effect::{Effect, Job, MayBegin, Output, Work},
    limits::Limits,
    moment::Moment,
    state::{
        Attempt, BAD_TARGETS_MAX, Durable, HookState, Mode, RECORDS_MAX, RebootKind, Step, StepId,
    },
};

/// Something that must never be true, and is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Fencing: the attempt's lease is not the highest seen.
    #[error("the attempt's lease is not the highest seen")]
    LeaseNotHighest,
    /// Fencing: the attempt's epoch has not been seen.
    #[error("the attempt's epoch is newer than any seen")]
    EpochNotSeen,
    /// The attempt's lease was used before.
    #[error("the attempt's lease was used before")]
    LeaseUsedTwice,
    /// Two things at once: an attempt beside a staging, or beside a result not yet handed in.
    #[error("an attempt runs beside {0}")]
    TwoAtOnce(&'static str),
    /// Something was changed before it was known where from or where to.
    #[error("the machine was changed before it was recorded {0}")]
    NotRecorded(&'static str),
    /// The way back without a reason.
    #[error("the attempt is on its way back for no reason")]
    BackWithoutCause,
    /// Hooks: a hook was begun without the one that belongs before it.
    #[error("the {0} hook was begun, but not as the pre-update hook's counterpart")]
    HookNotPaired(&'static str),
    /// The machine was changed although the pre-update hook did not do its work.
    #[error("the machine was changed although the pre-update hook did not succeed")]
    ChangedAfterPreHookSaidNo,
    /// A live switch was followed by a reboot into it.
    #[error("a reboot was asked for in an attempt that goes without")]
    RebootOfASwitch,
    /// User space alone is to be rebooted where policy has not said that this will do, or the machine
    /// is only switched.
    #[error("a soft-reboot leads to the target, and nobody has said that it may")]
    SoftRebootNotAllowed,
    /// Confirmed although something spoke against it.
    #[error("confirmed although something spoke against it")]
    ConfirmedWithCause,
    /// A list grew beyond its bound.
    #[error("there are more {0} than are kept")]
    Unbounded(&'static str),
    /// Work was begun that the journal does not name, or that is not saved first.
    #[error("step {0} is begun without having been written down")]
    NotJournaled(StepId),
    /// Activation of something else than the attempt's target.
    #[error("something else is activated than the attempt's target")]
    ForeignActivation,
    /// Going back to something else than what was recorded.
    #[error("the way back leads to something else than what was recorded")]
    ForeignRestore,
    /// A disruptive step without a lease that holds.
    #[error("a disruptive step is begun without a lease that holds")]
    NoLease,
    /// A script of the machine's own may be started by an agent that only came to wait for it.
    #[error("one of the machine's own scripts may be begun a second time")]
    HookBegunAgain,
    /// A reboot on account of an attempt that may not reboot.
    #[error("a reboot is asked for that is not allowed")]
    RebootNotAllowed,
    /// A cleanup may take what the machine needs to go back.
    #[error("a cleanup may take what the machine needs to go back")]
    WayBackNotKept,
    /// The traffic script is run for an order that was overtaken by a newer one, or has its answer.
    #[error("the traffic script is run for an order that has its answer, or was overtaken")]
    StaleTrafficOrder,
    /// A result that is not the one kept is handed in.
    #[error("another result is handed in than the one that is kept")]
    ForeignResult,
}

/// Every violation in this state; empty in a sound one.
pub fn violations(durable: &Durable) -> Vec<Violation> {
    let mut found = Vec::new();
    if durable.bad_targets.len() > BAD_TARGETS_MAX {
        found.push(Violation::Unbounded("bad targets"));
    }
    if durable.confirmed.len() > CONFIRMED_MAX {
        found.push(Violation::Unbounded("confirmed systems"));
    }
    if let (Some(moving), Some(done)) = (&durable.moving_traffic, &durable.traffic_done.order) {
        let order = &moving.call.order;
        if order == done || order.is_before(done) {
            found.push(Violation::StaleTrafficOrder);
        }
    }
    let Some(attempt) = &durable.attempt else {
        return found;
    };
    let mut check = |holds: bool, violation: Violation| {
        if !holds {
            found.push(violation);
        }
    };
    check(attempt.lease == durable.lease, Violation::LeaseNotHighest);
    check(attempt.epoch <= durable.epoch, Violation::EpochNotSeen);
    check(
        attempt.lease > durable.last_lease,
        Violation::LeaseUsedTwice,
    );
    check(durable.staging.is_none(), Violation::TwoAtOnce("a staging"));
    check(
        durable.cleaning.is_none(),
        Violation::TwoAtOnce("a cleanup"),
    );
    check(
        durable.moving_traffic.is_none(),
        Violation::TwoAtOnce("a traffic script"),
    );
    check(
        durable.unreported.is_none(),
        Violation::TwoAtOnce("a result that was not handed in"),
    );
    check(
        attempt.records.len() <= RECORDS_MAX,
        Violation::Unbounded("records"),
    );
    // What another version did follows its own rules; only going back from it follows ours.
    if attempt.foreign {
        return found;
    }
    let disturbed = attempt.touched || attempt.armed || attempt.hooks.pre != HookState::NotBegun;
    check(
        !disturbed || attempt.previous.is_some(),
        Violation::NotRecorded("where it comes from"),
    );
    check(
        !disturbed || attempt.path.is_some(),
        Violation::NotRecorded("where it goes"),
    );
    check(
        attempt.touched == (attempt.activations > 0),
        Violation::NotRecorded("that it is changed"),
    );
    let hooks = &attempt.hooks;
    check(
        hooks.post == HookState::NotBegun || hooks.pre == HookState::Succeeded,
        Violation::HookNotPaired("post-update"),
    );
    let made_up_for = match hooks.pre {
        HookState::Succeeded | HookState::Unknown => true,
        HookState::NotBegun | HookState::Begun | HookState::Failed => false,
    };
    check(
        hooks.rollback == HookState::NotBegun || made_up_for,
        Violation::HookNotPaired("rollback"),
    );
    let agreed = match hooks.pre {
        HookState::NotBegun | HookState::Succeeded => true,
        HookState::Begun | HookState::Failed | HookState::Unknown => false,
    };
    check(
        !attempt.touched || agreed,
        Violation::ChangedAfterPreHookSaidNo,
    );
    check(
        attempt.reboots == 0 || attempt.mode == Mode::Boot,
        Violation::RebootOfASwitch,
    );
    let soft = attempt.reboot_kind == RebootKind::UserSpace;
    let may_be_soft = attempt.allow_soft_reboot && attempt.mode == Mode::Boot;
    check(
        !soft || may_be_soft || attempt.foreign,
        Violation::SoftRebootNotAllowed,
    );
    match &attempt.step {
        Step::RollingBack | Step::RebootingBack | Step::RollbackHook | Step::JudgingRollback => {
            check(attempt.cause.is_some(), Violation::BackWithoutCause);
        }
        Step::Closing { outcome } => check(
            outcome.kind != OutcomeKind::Confirmed || attempt.cause.is_none(),
            Violation::ConfirmedWithCause,
        ),
        Step::Staging
        | Step::Snapshot
        | Step::Arming
        | Step::PreHook
        | Step::Activating
        | Step::Announcing
        | Step::Rebooting
        | Step::Rearming
        | Step::PostHook
        | Step::Judging
        | Step::Unknown(_) => {}
    }
    found
}

/// Every violation in what the agent lets out, given the durable state as it is to be saved.
pub fn output_violations(
    now: Moment,
    limits: &Limits,
    durable: &Durable,
    output: &Output,
) -> Vec<Violation> {
    let mut found = Vec::new();
    for effect in &output.effects {
        match effect {
            Effect::Begin(job) => {
                if !matches!(job.work, Work::CheckHealth { .. })
                    && (!is_written_down(durable, job) || !output.persist)
                {
                    found.push(Violation::NotJournaled(job.step));
                }
                found.extend(work_violation(durable, &job.work));
                let disturbs = |attempt: &Attempt| job.work.disturbs(&attempt.step);
                let needs_lease = durable.attempt.as_ref().is_some_and(disturbs);
                let bounded = bounded_by_lease(limits, durable, job);
                if needs_lease && !(bounded && lease_holds(now, limits, durable)) {
                    found.push(Violation::NoLease);
                }
            }
            Effect::Attach(job) => {
                if !is_written_down(durable, job) {
                    found.push(Violation::NotJournaled(job.step));
                }
                found.extend(work_violation(durable, &job.work));
                // Unless a lease holds, and that is asked now, only its end is waited for.
                let may_start = job.may_begin.now(now).is_ok();
                let fresh = bounded_by_lease(limits, durable, job)
                    && (job.may_begin == MayBegin::Always || lease_holds(now, limits, durable));
                if may_start && !fresh {
                    found.push(Violation::NoLease);
                }
                let once = matches!(job.work, Work::RunHook { .. } | Work::MoveTraffic { .. });
                if once && job.may_begin != MayBegin::Never {
                    found.push(Violation::HookBegunAgain);
                }
            }
            Effect::Report { result, .. } => {
                if durable.unreported.as_ref() != Some(result.as_ref()) {
                    found.push(Violation::ForeignResult);
                }
            }
            Effect::Poll { .. }
            | Effect::Renew { .. }
            | Effect::KeepRoots { .. }
            | Effect::Measure
            | Effect::Note(_) => {}
        }
    }
    found
}

/// Whether the journal names this job.
fn is_written_down(durable: &Durable, job: &Job) -> bool {
    let step = match &job.work {
        Work::CleanUp { .. } => durable.cleaning.as_ref().map(|cleaning| cleaning.job),
        Work::MoveTraffic { .. } => durable.moving_traffic.as_ref().map(|moving| moving.job),
        Work::Stage { .. }
        | Work::Snapshot { .. }
        | Work::ArmDeadMan { .. }
        | Work::DisarmDeadMan { .. }
        | Work::RunHook { .. }
        | Work::Activate { .. }
        | Work::Reboot { .. }
        | Work::Judge { .. }
        | Work::Restore { .. }
        | Work::CheckHealth { .. } => durable.open_step(),
    };
    step == Some(job.step)
}

/// Whether the shell may begin this only while the lease holds, where it is a disturbance.
fn bounded_by_lease(limits: &Limits, durable: &Durable, job: &Job) -> bool {
    let Some(attempt) = &durable.attempt else {
        return true;
    };
    let end = attempt.lease_until.moment - limits.lease_margin;
    match job.may_begin {
        MayBegin::Always => !job.work.disturbs(&attempt.step),
        MayBegin::Before(moment) => moment <= end,
        MayBegin::Never => true,
    }
}

fn lease_holds(now: Moment, limits: &Limits, durable: &Durable) -> bool {
    durable.attempt.as_ref().is_some_and(|attempt| {
        durable.boot_id.as_ref() == Some(&attempt.lease_until.boot_id)
            && now + limits.lease_margin < attempt.lease_until.moment
            && attempt.epoch >= durable.epoch
            && attempt.lease >= durable.lease
            && attempt.stop.is_none()
    })
}

fn work_violation(durable: &Durable, work: &Work) -> Option<Violation> {
    let attempt = durable.attempt.as_ref();
    let path = attempt.and_then(|attempt| attempt.path.as_ref());
    let recorded = attempt.and_then(|attempt| attempt.previous.as_ref());
    let (holds, violation) = match work {
        Work::Activate { path: to, .. } => (path == Some(to), Violation::ForeignActivation),
        Work::ArmDeadMan { previous, .. } | Work::Restore { previous, .. } => {
            (recorded == Some(previous), Violation::ForeignRestore)
        }
        // On the way back only the machine as a whole is rebooted.
        Work::Reboot {
            kind: RebootKind::UserSpace,
            ..
        } if attempt.is_some_and(|attempt| attempt.step != Step::Rebooting) => {
            (false, Violation::SoftRebootNotAllowed)
        }
        Work::Reboot { .. } => {
            let allowed = attempt.is_some_and(|attempt| attempt.allow_reboot);
            (allowed, Violation::RebootNotAllowed)
        }
        Work::CleanUp { .. } if attempt.is_some() => (false, Violation::TwoAtOnce("a cleanup")),
        Work::CleanUp { needed, .. } => {
            let mut wanted = durable.needed_to_go_back().into_iter();
            let kept = wanted.all(|path| needed.contains(&path));
            (kept, Violation::WayBackNotKept)
        }
        Work::MoveTraffic { .. } => (attempt.is_none(), Violation::TwoAtOnce("a traffic script")),
        Work::Stage { .. }
        | Work::Snapshot { .. }
        | Work::DisarmDeadMan { .. }
        | Work::RunHook { .. }
        | Work::Judge { .. }
        | Work::CheckHealth { .. } => return None,
    };
    (!holds).then_some(violation)
}
