//! What each kind of work means, in terms of the machine's edge ([`Host`]). The same for a real
//! machine and for a directory.

use std::{
    cell::Cell, collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _, time::Duration,
};

use agent_core::{
    ActivationEnd, Answer, Baseline, Comparison, Done, Facts, Failure, Found, Hook, HookContext,
    HookEnd, Job, MayBegin, Mode, Previous, Reach, StepId, UnitState, Work,
};
use common::{Health, LeaseId, Staged, StorePath, Target};
use futures_util::future::join_all;
use platform::clock::Clock;

use crate::{
    ballast::Ballast,
    config::{Config, Probe},
    health,
    host::{End, Family, Host, HostError, Ran, Reboot, Resources, Since, Unit, moment},
    links::{CURRENT, PROFILE},
    roots,
    verdict::{Judge, Verdicts},
};

/// Pause between two looks at a machine that is not well.
pub const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Carries out the core's jobs on one machine.
pub struct Executor<H> {
    host: H,
    config: Config,
    clock: Clock,
    verdicts: Verdicts,
    /// The coordinator has answered since this process last changed the system that runs.
    heard: Cell<bool>,
}

/// What became of a job.
pub enum CarriedOut {
    /// It ended.
    Answer(Box<Answer>),
    /// The machine was booted anew: this process has to go.
    Booted,
}

impl<H: Host> Executor<H> {
    /// An executor on this machine.
    pub fn new(host: H, config: Config, clock: Clock) -> Self {
        let verdicts = Verdicts::new(&config.state_dir);
        Self {
            host,
            config,
            clock,
            verdicts,
            heard: Cell::new(false),
        }
    }

    /// The machine.
    pub fn host(&self) -> &H {
        &self.host
    }

    /// The coordinator has answered: the machine has a network.
    pub fn has_heard(&self) {
        self.heard.set(true);
    }

    /// Measures the machine.
    pub fn measure(&self) -> Result<Facts, HostError> {
        Ok(self.host.links().facts(self.host.boot_id()?))
    }

    /// What there is when the agent starts. An ended unit counts as running: waiting for it, which
    /// the core then asks for, takes no time, and its answer is read in one place only.
    pub async fn find(&self, open: Option<StepId>, lease: LeaseId) -> Result<Found, HostError> {
        let running = match open {
            Some(step) => self.host.has_unit(step).await?,
            None => false,
        };
        Ok(Found {
            facts: self.measure()?,
            unit: if running {
                UnitState::Running
            } else {
                UnitState::Absent
            },
            dead_man_fired: self.dead_man_acts(lease),
        })
    }

    /// Whether the dead-man program of this lease has taken over.
    pub fn dead_man_acts(&self, lease: LeaseId) -> bool {
        self.verdicts.judge(lease) == Some(Judge::DeadMan)
    }

    /// Keeps exactly these systems from garbage collection.
    pub fn keep_roots(&self, paths: &[StorePath]) -> Result<(), HostError> {
        roots::keep(self.host.links(), paths)
    }

    /// Forgets the units of a step whose end is written down.
    pub async fn clear(&self, step: StepId) -> Result<(), HostError> {
        self.host.clear(&step.to_string()).await
    }

    /// Forgets what an agent before this one had written down and could not clear any more: a unit
    /// that failed would make the machine count as degraded.
    pub async fn sweep(&self, open: Option<StepId>) {
        if let Err(error) = self.host.sweep(open).await {
            tracing::warn!("ended units may be left behind: {error}");
        }
    }

    /// Carries out a job, or waits for one that is at work.
    pub async fn carry_out(&self, job: &Job) -> CarriedOut {
        let ended = |answer| CarriedOut::Answer(Box::new(answer));
        if let Work::Reboot { .. } = job.work {
            if let Err(why) = job.may_begin.now(moment(&self.clock)) {
                return ended(answer(Err(why)));
            }
            return match self.host.reboot().await {
                Ok(Reboot::Happened) => CarriedOut::Booted,
                Ok(Reboot::UnderWay) => ended(answer(Ok(Done::RebootAsked))),
                Err(error) => ended(answer(Err(error.into()))),
            };
        }
        let done = self.work(job).await;
        ended(done.unwrap_or_else(|error| answer(Err(error.into()))))
    }

    async fn work(&self, job: &Job) -> Result<Answer, HostError> {
        match &job.work {
            Work::Stage { target, .. } => self.stage(job, target).await,
            Work::Snapshot { target } => self.snapshot(job, target).await,
            Work::ArmDeadMan { lease, after, .. } => {
                // From here on a full disk must not stop anybody on the way back.
                self.verdicts.prepare(*lease)?;
                let kept = Ballast::within(&self.config.state_dir).keep();
                kept.map_err(|error| HostError::io("keep room for the way back", error))?;
                self.host.arm(*lease, *after).await?;
                Ok(answer(Ok(Done::Armed)))
            }
            Work::DisarmDeadMan { lease } => self.disarm(*lease).await,
            Work::RunHook { hook, context } => self.hook(job, *hook, context).await,
            Work::Activate { path, mode } => self.activate(job, path, *mode).await,
            // Handled by the caller: after it there may be nobody to answer.
            Work::Reboot { .. } => Ok(answer(Err(Failure::Unfitting))),
            Work::Judge { baseline, timeout } => self.judge(job, baseline, *timeout).await,
            Work::Restore {
                lease,
                previous,
                mode,
            } => {
                let tag = job.step.to_string();
                let mut within = job.within;
                if !self.host.has_unit(job.step).await? {
                    if self.dead_man_acts(*lease) {
                        // Two that go back at once only stop one another.
                        within /= 2;
                        self.host.await_dead_man(*lease, within).await?;
                    }
                    self.host.stop(&Family::DISRUPTIVE).await?;
                }
                let limits = (within, self.config.limits.switch_tasks_max);
                let ran = restore(&self.host, previous, *mode, &tag, limits).await?;
                let facts = self.measure()?;
                let done = activation_end(&ran.end).map(|end| Done::Restored { end, facts });
                Ok(Answer {
                    result: done,
                    output: ran.output,
                })
            }
            Work::CheckHealth { timeout, .. } => {
                let since = Since::Ago(self.config.check_interval);
                let checks = self.checks(job, since);
                let health = match self.clock.timeout(*timeout, checks).await {
                    Ok(health) => health,
                    Err(_) => return Ok(answer(Err(Failure::TimedOut))),
                };
                let facts = self.measure()?;
                Ok(answer(Ok(Done::Checked { health, facts })))
            }
        }
    }

    async fn stage(&self, job: &Job, target: &Target) -> Result<Answer, HostError> {
        self.config.targets.check(target)?;
        if !self.host.has_unit(job.step).await? {
            self.host
                .stop(&[Family::Stage, Family::BackupCheck])
                .await?;
            self.check_hooks()?;
            self.check_store_space()?;
        }
        let (path, output) = self.host.obtain(job.step, target, job.within).await?;
        let links = self.host.links();
        links
            .check_system(&path)
            .map_err(|error| HostError::Missing(error.to_string()))?;
        self.check_store_space()?;
        self.check_boot_space(&path)?;
        self.check_backup(job).await?;
        let reboot_reasons = links.reboot_reasons(&path);
        let staged = Staged {
            target: target.clone(),
            path,
            needs_reboot: !reboot_reasons.is_empty(),
            reboot_reasons,
        };
        Ok(Answer {
            result: Ok(Done::Staged(staged)),
            output,
        })
    }

    fn check_hooks(&self) -> Result<(), HostError> {
        let hooks = &self.config.hooks;
        let all = [
            &hooks.pre_update,
            &hooks.post_update,
            &hooks.rollback,
            &hooks.backup_check,
        ];
        for hook in all.into_iter().flatten() {
            let usable = fs::metadata(hook)
                .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
            if !usable {
                let hook = hook.display();
                return Err(HostError::Missing(format!("the hook {hook} cannot be run")));
            }
        }
        Ok(())
    }

    fn check_store_space(&self) -> Result<(), HostError> {
        let reserve = self.config.limits.store_reserve_bytes;
        match self.host.links().free_bytes("/nix/store") {
            Some(free) if free < reserve => Err(HostError::Missing(format!(
                "the store has {free} bytes free, {reserve} must stay free"
            ))),
            Some(_) | None => Ok(()),
        }
    }

    fn check_boot_space(&self, path: &StorePath) -> Result<(), HostError> {
        let links = self.host.links();
        let needed = links.boot_bytes_needed(path);
        if needed == 0 {
            return Ok(());
        }
        let reserve = self.config.limits.boot_reserve_bytes;
        match links.free_bytes("/boot") {
            Some(free) if free < needed.saturating_add(reserve) => {
                Err(HostError::Missing(format!(
                    "/boot has {free} bytes free; the new kernel needs {needed}, and {reserve} must stay free"
                )))
            }
            Some(_) | None => Ok(()),
        }
    }

    async fn check_backup(&self, job: &Job) -> Result<(), HostError> {
        let Some(script) = &self.config.hooks.backup_check else {
            return Ok(());
        };
        let unit = Unit {
            family: Family::BackupCheck,
            tag: job.step.to_string(),
            description: "lab-updater: backup check".to_owned(),
            command: vec![script.to_string_lossy().into_owned()],
            environment: Vec::new(),
            within: self.config.hooks.timeout,
            resources: Resources::tasks(self.config.limits.hook_tasks_max),
            may_begin: MayBegin::Always,
        };
        let ran = self.host.run(&unit).await?;
        if ran.end.succeeded() {
            return Ok(());
        }
        let output = common::text::tame_line(&ran.output, 400);
        Err(HostError::Program {
            doing: "see a fresh backup".to_owned(),
            said: format!("{}: {output}", ran.end),
        })
    }

    async fn snapshot(&self, job: &Job, target: &StorePath) -> Result<Answer, HostError> {
        if !self.host.is_complete(target).await? {
            return Err(HostError::Missing(format!(
                "{target} is not in the store any more"
            )));
        }
        let facts = self.measure()?;
        let (Some(running), Some(boot_default)) = (&facts.running, &facts.profile) else {
            return Err(HostError::Missing(format!(
                "{CURRENT} and {PROFILE} do not both lead to a system: there would be no way back"
            )));
        };
        for path in [running, boot_default] {
            roots::add(self.host.links(), path)?;
        }
        if let Err(error) = self.host.mark_journal().await {
            tracing::warn!("new journal entries will not be told from old ones: {error}");
        }
        let failed_units = self.host.failed_units().await?;
        let baseline = Baseline {
            failed_units: failed_units.into_iter().map(|unit| unit.name).collect(),
            failed_checks: self.failing_checks(job).await,
            reached: self.reached(&Reach::ALL).await,
        };
        // The running system may be another one than when the target was staged.
        let needs_reboot = !self.host.links().reboot_reasons(target).is_empty();
        Ok(answer(Ok(Done::Snapshot {
            facts,
            baseline,
            needs_reboot,
        })))
    }

    /// The mark first: from then on the dead-man program does nothing, wherever its timer stands.
    async fn disarm(&self, lease: LeaseId) -> Result<Answer, HostError> {
        let judge = self.verdicts.claim(lease, Judge::Agent)?;
        if let Err(error) = self.host.disarm(lease).await {
            tracing::warn!(
                lease = lease.0,
                "the timer runs on, without effect: {error}"
            );
        }
        self.verdicts.forget_before(lease);
        let fired = judge == Judge::DeadMan;
        Ok(answer(Ok(Done::Disarmed { fired })))
    }

    async fn hook(
        &self,
        job: &Job,
        hook: Hook,
        context: &HookContext,
    ) -> Result<Answer, HostError> {
        let hooks = &self.config.hooks;
        let (family, script, name) = match hook {
            Hook::Pre => (Family::PreHook, &hooks.pre_update, "pre-update"),
            Hook::Post => (Family::PostHook, &hooks.post_update, "post-update"),
            Hook::Rollback => (Family::RollbackHook, &hooks.rollback, "rollback"),
        };
        let Some(script) = script else {
            return Ok(answer(Ok(Done::Hook(HookEnd::NotConfigured))));
        };
        if hook == Hook::Rollback && !self.host.has_unit(job.step).await? {
            // A hook that was given up on may be at work still: never two beside each other.
            let others = [Family::PreHook, Family::PostHook];
            self.host.stop(&others).await?;
        }
        let unit = Unit {
            family,
            tag: job.step.to_string(),
            description: format!("lab-updater: {name} hook, lease {}", context.lease),
            command: vec![script.to_string_lossy().into_owned()],
            environment: hook_environment(name, context),
            within: job.within,
            resources: Resources::tasks(self.config.limits.hook_tasks_max),
            may_begin: job.may_begin,
        };
        let ran = self.host.run(&unit).await?;
        let result = match ran.end {
            End::Exited(0) => Ok(Done::Hook(HookEnd::Succeeded)),
            End::TimedOut => Err(Failure::TimedOut),
            end @ (End::Exited(_) | End::Signal(_) | End::NotStarted(_)) => {
                Ok(Done::Hook(HookEnd::Failed {
                    status: end.to_string(),
                }))
            }
        };
        Ok(Answer {
            result,
            output: ran.output,
        })
    }

    async fn activate(&self, job: &Job, path: &StorePath, mode: Mode) -> Result<Answer, HostError> {
        let tag = job.step.to_string();
        let limits = (job.within, self.config.limits.switch_tasks_max);
        // The profile first: boot loader installers read the generations from it.
        let set = self.host.set_profile(&tag, path, job.may_begin).await;
        set.map_err(|error| match error {
            // Somebody holds the profile's lock: not the target's switch, which then hangs.
            HostError::TimedOut(doing) => HostError::Program {
                doing,
                said: "it did not end in time".to_owned(),
            },
            other @ (HostError::Bus { .. }
            | HostError::Io { .. }
            | HostError::Program { .. }
            | HostError::Missing(_)
            | HostError::Lost(_)
            | HostError::NotAllowed(_)
            | HostError::NotBegun { .. }) => other,
        })?;
        let begin = |tag: &str, mode| Unit {
            may_begin: job.may_begin,
            ..switch(
                &self.host,
                Family::Activate,
                tag,
                path,
                action(mode),
                limits,
            )
        };
        let mut ran = self.host.run(&begin(&tag, mode)).await?;
        let inhibited = || {
            let reasons = self.host.links().reboot_reasons(path);
            mode == Mode::Switch
                && reasons
                    .iter()
                    .any(|reason| reason.starts_with("inhibitor:"))
        };
        // Status 1 says only "refused"; that an inhibitor did it is read from the systems.
        let refused = matches!(ran.end, End::Exited(1)) && inhibited();
        if refused {
            // It was refused before the boot loader was installed: the next boot would still start
            // the old system.
            let boot = begin(&format!("boot-{tag}"), Mode::Boot);
            ran = self.host.run(&boot).await?;
        }
        let end = match activation_end(&ran.end) {
            Ok(ActivationEnd::Done | ActivationEnd::Degraded) if refused => {
                Ok(ActivationEnd::RebootNeeded)
            }
            end => end,
        };
        self.heard.set(false);
        let facts = self.measure()?;
        Ok(Answer {
            result: end.map(|end| Done::Activated { end, facts }),
            output: ran.output,
        })
    }

    /// Looks until all is well, until it cannot become well any more, or until time is up.
    async fn judge(
        &self,
        job: &Job,
        baseline: &Baseline,
        timeout: Duration,
    ) -> Result<Answer, HostError> {
        let deadline = self.clock.uptime() + timeout;
        self.clock
            .sleep(self.config.limits.settle.min(timeout / 2))
            .await;
        let mut failed_before: BTreeSet<String> = BTreeSet::new();
        loop {
            let left = deadline.saturating_sub(self.clock.uptime());
            let checks = self.checks(job, Since::Mark);
            let health = match self.clock.timeout(left.max(LOOK_AGAIN), checks).await {
                Ok(health) => health,
                Err(_) => return Ok(answer(Err(Failure::TimedOut))),
            };
            let (units, unseen) = match self.host.failed_units().await {
                Ok(units) => (units, None),
                // A bus that is just being started again is no verdict: another look will tell.
                Err(error) => (Vec::new(), Some(error)),
            };
            let mut look = Comparison::of(baseline, &units, &health);
            look.worse.extend(self.cut_off(baseline).await);
            let late = self.clock.uptime() >= deadline;
            let is_seen = unseen.is_none();
            if let Some(error) = unseen.filter(|_| late && look.worse.is_empty()) {
                return Err(error);
            }
            // Failed twice in a row, and nobody starts it again: waiting does not help.
            let hopeless = !look.failed_units.is_disjoint(&failed_before);
            if (is_seen && look.is_settled()) || hopeless || late {
                let facts = self.measure()?;
                return Ok(answer(Ok(Done::Judged(look.judgement(health, facts)))));
            }
            failed_before = look.failed_units;
            self.clock.sleep(LOOK_AGAIN).await;
        }
    }

    /// The checks that fail before anything is changed: twice in a row, so that a hiccup excuses
    /// nothing. Journal entries are counted from the attempt's beginning on, and older ones excuse
    /// none of those.
    async fn failing_checks(&self, job: &Job) -> Vec<String> {
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
    async fn reached(&self, all: &[Reach]) -> Vec<Reach> {
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

    async fn checks(&self, job: &Job, since: Since) -> Health {
        let tag = job.step.to_string();
        health::run_all(&self.host, &self.clock, &self.config.checks, &tag, since).await
    }
}

/// Goes back, each unit within a time and a number of tasks: profile and boot default to the recorded ones, and with [`Mode::Switch`] the running
/// system too. Safe to repeat. What is at work for the attempt has been stopped: it might hold the
/// lock of `switch-to-configuration`.
pub async fn restore<H: Host>(
    host: &H,
    previous: &Previous,
    mode: Mode,
    tag: &str,
    limits: (Duration, u64),
) -> Result<Ran, HostError> {
    host.set_profile(tag, &previous.boot_default, MayBegin::Always)
        .await?;
    let same = previous.running == previous.boot_default;
    if mode == Mode::Switch && same {
        let unit = switch(
            host,
            Family::Restore,
            tag,
            &previous.running,
            "switch",
            limits,
        );
        return host.run(&unit).await;
    }
    let boot_tag = format!("boot-{tag}");
    let unit = switch(
        host,
        Family::Restore,
        &boot_tag,
        &previous.boot_default,
        "boot",
        limits,
    );
    let ran = host.run(&unit).await?;
    if mode == Mode::Boot || !ran.end.succeeded() {
        return Ok(ran);
    }
    // A system was staged for the next boot before the attempt began: it stays the boot default.
    let unit = switch(
        host,
        Family::Restore,
        tag,
        &previous.running,
        "test",
        limits,
    );
    host.run(&unit).await
}

/// Whether a switch went through, with or without complaints.
pub fn went_through(end: &End) -> bool {
    matches!(
        activation_end(end),
        Ok(ActivationEnd::Done | ActivationEnd::Degraded)
    )
}

/// What an exit status of `switch-to-configuration` means (both implementations; the numbers of
/// its own early failures are any small ones).
fn activation_end(end: &End) -> Result<ActivationEnd, Failure> {
    match end {
        End::Exited(0) => Ok(ActivationEnd::Done),
        End::Exited(2 | 4) => Ok(ActivationEnd::Degraded),
        End::Exited(11) => Ok(ActivationEnd::Busy),
        End::Exited(100) => Ok(ActivationEnd::RebootNeeded),
        End::Exited(_) | End::Signal(_) => Ok(ActivationEnd::Failed {
            status: end.to_string(),
        }),
        // The program of the system was never run.
        End::NotStarted(_) => Err(Failure::Failed(end.to_string())),
        End::TimedOut => Err(Failure::TimedOut),
    }
}

fn action(mode: Mode) -> &'static str {
    match mode {
        Mode::Switch => "switch",
        Mode::Boot => "boot",
    }
}

fn switch<H: Host>(
    host: &H,
    family: Family,
    tag: &str,
    system: &StorePath,
    action: &str,
    (within, tasks_max): (Duration, u64),
) -> Unit {
    let program = host.switcher(system);
    Unit {
        family,
        tag: tag.to_owned(),
        description: format!("lab-updater: {action} to {system}"),
        command: vec![program.to_string_lossy().into_owned(), action.to_owned()],
        environment: Vec::new(),
        within,
        resources: Resources::tasks(tasks_max),
        may_begin: MayBegin::Always,
    }
}

fn hook_environment(name: &str, context: &HookContext) -> Vec<(String, String)> {
    let pairs = [
        ("LAB_HOOK", name.to_owned()),
        ("LAB_ROLLOUT", context.rollout.to_string()),
        ("LAB_LEASE", context.lease.to_string()),
        ("LAB_TARGET", context.target.to_string()),
        ("LAB_PREVIOUS", context.previous.to_string()),
        ("LAB_REBOOT", u8::from(context.reboot).to_string()),
        ("LAB_REASON", context.reason.clone()),
    ];
    pairs.map(|(key, value)| (key.to_owned(), value)).into()
}

fn answer(result: Result<Done, Failure>) -> Answer {
    Answer {
        result,
        output: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exit_status_means_something() {
        let end = |status| activation_end(&End::Exited(status));
        assert_eq!(end(0), Ok(ActivationEnd::Done));
        assert_eq!(end(2), Ok(ActivationEnd::Degraded));
        assert_eq!(end(4), Ok(ActivationEnd::Degraded));
        assert_eq!(end(11), Ok(ActivationEnd::Busy));
        assert_eq!(end(100), Ok(ActivationEnd::RebootNeeded));
        for status in [1, 3, 5, 13, 127, 143, 255] {
            assert!(
                matches!(end(status), Ok(ActivationEnd::Failed { .. })),
                "{status}"
            );
        }
        let never_run = activation_end(&End::NotStarted("resources".to_owned()));
        assert!(
            matches!(never_run, Err(Failure::Failed(_))),
            "{never_run:?}"
        );
        let killed = activation_end(&End::Signal(9));
        assert_eq!(
            killed,
            Ok(ActivationEnd::Failed {
                status: "killed by signal 9".to_owned()
            })
        );
        assert_eq!(activation_end(&End::TimedOut), Err(Failure::TimedOut));
        assert!(went_through(&End::Exited(4)) && !went_through(&End::Exited(1)));
    }
}
