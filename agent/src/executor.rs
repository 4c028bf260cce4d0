//! What each kind of work means, in terms of the machine's edge ([`Host`]). The same for a real
//! machine and for a directory.

mod blockers;
mod cleanup;
mod judge;
mod room;
mod scripts;
mod stage;
mod switch;

use std::{cell::Cell, time::Duration};

use agent_core::{Answer, Done, Facts, Failure, Found, Job, StepId, Trial, UnitState, Work};
use common::{LeaseId, StorePath};
use platform::clock::Clock;

use self::switch::activation_end;
pub use self::switch::{restore, went_through};
use crate::{
    ballast::Ballast,
    config::Config,
    host::{Family, Host, HostError, Reboot, Since, moment},
    links::CURRENT,
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
    pub async fn measure(&self) -> Result<Facts, HostError> {
        let mut facts = self.host.links().facts(self.host.boot_id()?);
        facts.next_boot = self.host.next_boot().await;
        Ok(facts)
    }

    /// What there is when the agent starts. An ended unit counts as running: waiting for it, which
    /// the core then asks for, takes no time, and its answer is read in one place only.
    pub async fn find(&self, open: Option<StepId>, lease: LeaseId) -> Result<Found, HostError> {
        if lease == LeaseId::default()
            && let Err(error) = self.host.boot_always("start").await
        {
            let error = common::error_chain::Chain(&error);
            tracing::error!("the next boot may start what ran before the last attempt: {error}");
        }
        let running = match open {
            Some(step) => self.host.has_unit(step).await?,
            None => false,
        };
        Ok(Found {
            facts: self.measure().await?,
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
    pub async fn sweep(&self, awaited: &[StepId]) {
        if let Err(error) = self.host.sweep(awaited).await {
            tracing::warn!("ended units may be left behind: {error}");
        }
    }

    /// Carries out a job, or waits for one that is at work.
    pub async fn carry_out(&self, job: &Job) -> CarriedOut {
        let ended = |answer| CarriedOut::Answer(Box::new(answer));
        if let Work::Reboot { kind, trial, .. } = &job.work {
            let may_begin = || job.may_begin.now(moment(&self.clock));
            if let (Some(trial), Ok(())) = (trial, may_begin()) {
                self.try_once(trial, &job.step.to_string()).await;
            }
            // Last of all: that took its time.
            if let Err(why) = may_begin() {
                return ended(answer(Err(why)));
            }
            return match self.host.reboot(*kind).await {
                Ok(Reboot::Happened) => CarriedOut::Booted,
                Ok(Reboot::UnderWay) => ended(answer(Ok(Done::RebootAsked))),
                Err(error) => ended(answer(Err(error.into()))),
            };
        }
        let done = self.work(job).await;
        ended(done.unwrap_or_else(|error| answer(Err(error.into()))))
    }

    /// Sees to it, as far as the boot loader can, that a target that does not boot is left again.
    /// Where it cannot, the reboot is no more of a risk than it is without an agent.
    async fn try_once(&self, trial: &Trial, tag: &str) {
        match self.host.boot_once(trial, tag).await {
            Ok(None) => {}
            Ok(Some(how)) => tracing::info!("should {} not boot: {how}", trial.target),
            Err(error) => {
                let error = common::error_chain::Chain(&error);
                let target = &trial.target;
                tracing::warn!("should {target} not boot, a person is needed: {error}");
            }
        }
    }

    async fn work(&self, job: &Job) -> Result<Answer, HostError> {
        match &job.work {
            Work::Stage { target, action, .. } => self.stage(job, target, *action).await,
            Work::Snapshot {
                target,
                action,
                reboot_wait,
            } => self.snapshot(job, target, *action, *reboot_wait).await,
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
            Work::Activate { path, mode, over } => {
                self.activate(job, path, *mode, over.as_ref()).await
            }
            // Handled by the caller: after it there may be nobody to answer.
            Work::Reboot { .. } => Ok(answer(Err(Failure::Unfitting))),
            Work::Judge {
                baseline,
                timeout,
                back,
            } => {
                if *back {
                    self.heard.set(false);
                }
                self.judge(job, baseline, *timeout).await
            }
            Work::Restore {
                lease,
                previous,
                mode,
                over,
            } => {
                if let Some(over) = over {
                    self.check_runs(CURRENT, &[over, &previous.running])?;
                }
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
                let facts = self.measure().await?;
                let done = activation_end(&ran.end).map(|end| Done::Restored { end, facts });
                Ok(Answer {
                    result: done,
                    output: ran.output,
                })
            }
            Work::CleanUp {
                cleanup,
                needed,
                begun,
            } => self.clean_up(job, cleanup, needed, begun.as_ref()).await,
            Work::MoveTraffic { call } => self.move_traffic(job, call).await,
            Work::CheckHealth { timeout, .. } => {
                let since = Since::Ago(self.config.check_interval);
                let checks = self.checks(job, since);
                let health = match self.clock.timeout(*timeout, checks).await {
                    Ok(health) => health,
                    Err(_) => return Ok(answer(Err(Failure::TimedOut))),
                };
                let facts = self.measure().await?;
                Ok(answer(Ok(Done::Checked { health, facts })))
            }
        }
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
        if let Err(error) = self.host.boot_always(&lease.to_string()).await {
            let error = common::error_chain::Chain(&error);
            tracing::error!("the next boot may start what ran before the attempt: {error}");
        }
        self.verdicts.forget_before(lease);
        let fired = judge == Judge::DeadMan;
        Ok(answer(Ok(Done::Disarmed { fired })))
    }
}

fn answer(result: Result<Done, Failure>) -> Answer {
    Answer {
        result,
        output: String::new(),
    }
}
