//! The only owner of the core: hands it what happened, makes its state durable, and only then
//! carries out what it asks for.
//!
//! Everything runs on one thread. Calls and jobs are tasks beside the loop, so that a lease is
//! renewed while a switch runs; each ends in one message to the loop.

use std::{future::Future, pin::pin, rc::Rc, time::Duration};

use agent_core::{Agent, Effect, Input, Job, Limits, Moment, Note, Output, StepId, Work};
use common::{BootId, LeaseId};
use platform::clock::Clock;
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::{AbortHandle, JoinHandle, spawn_local},
    time::Instant,
};

use crate::{
    executor::{CarriedOut, Executor},
    host::{Host, HostError, moment},
    jitter,
    link::Link,
    service::Service,
    state_file::{StateFile, StateFileError, StateStore},
    systemd::ServiceMake,
};

/// How often the machine is looked at besides: for the dead-man program's mark and a new boot while
/// an attempt runs, and to tell systemd that the loop turns. An idle agent looks as seldom as systemd's
/// watchdog allows; where there is none, a new boot is noticed in no other way.
const LOOK_AROUND_BUSY: Duration = Duration::from_secs(1);
const LOOK_AROUND_IDLE: Duration = Duration::from_secs(10);

/// Longest pause before the coordinator's signals are listened to again.
const LISTEN_AGAIN_MAX: Duration = Duration::from_secs(60);

/// Why the driver ended in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It was asked to.
    Stopped,
    /// The machine was booted anew under it: to be started again.
    Booted,
    /// The service it runs as has been changed: to be started again.
    Outdated,
}

/// Why the driver cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The state is not to be had or not to be kept: nothing was done that is not on disk.
    #[error("the agent stops, because its state is not safe")]
    State(#[from] StateFileError),
    /// The machine cannot be measured, so nothing can be decided.
    #[error("the machine cannot be measured")]
    Machine(#[from] HostError),
}

/// What the loop waits for.
enum Event {
    Input(Box<Input>),
    JobEnded(StepId, CarriedOut),
}

/// Owns the core and everything around it.
pub struct Driver<H, L, S = StateFile> {
    agent: Agent,
    state: S,
    executor: Rc<Executor<H>>,
    link: Rc<L>,
    clock: Clock,
    events: UnboundedReceiver<Event>,
    sender: UnboundedSender<Event>,
    poll: Option<JoinHandle<()>>,
    /// The work of the present step; health checks on demand, and what else waits for no step, go on
    /// beside it.
    job: Option<(StepId, JoinHandle<()>)>,
    tasks: Vec<JoinHandle<()>>,
    /// The newest run of the traffic script.
    traffic: Option<AbortHandle>,
    /// An attempt has ended since the own service was last looked at.
    look_at_service: bool,
    /// What the own service was made of when this process began.
    made_of: Option<ServiceMake>,
    dead_man_told: Option<LeaseId>,
    service: Service,
}

impl<H: Host + 'static, L: Link + 'static, S: StateStore> Driver<H, L, S> {
    /// A driver that goes on from what is on disk.
    pub fn new(
        limits: Limits,
        state: S,
        executor: Executor<H>,
        link: Rc<L>,
        clock: Clock,
    ) -> Result<Self, DriverError> {
        let durable = state.load()?.unwrap_or_default();
        let (sender, events) = unbounded_channel();
        Ok(Self {
            agent: Agent::restore(limits, durable),
            state,
            executor: Rc::new(executor),
            link,
            clock,
            events,
            sender,
            poll: None,
            job: None,
            traffic: None,
            tasks: Vec::new(),
            look_at_service: false,
            made_of: None,
            dead_man_told: None,
            service: Service::default(),
        })
    }

    /// The same driver, its core with a known bug; for simulations.
    #[cfg(feature = "seeded-bugs")]
    #[must_use]
    pub fn with_bug(mut self, bug: agent_core::Bug) -> Self {
        self.agent = self.agent.with_bug(bug);
        self
    }

    /// Runs until `stop`, or until the process has to be another one. To be called within a
    /// [`tokio::task::LocalSet`].
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<Exit, DriverError> {
        let ended = self.turn(stop).await;
        // What calls say from now on, nobody hears. Units go on without us.
        let job = self.job.iter().map(|(_, task)| task);
        self.poll
            .iter()
            .chain(job)
            .chain(&self.tasks)
            .for_each(JoinHandle::abort);
        self.service.stopping();
        ended
    }

    async fn turn(&mut self, stop: impl Future<Output = ()>) -> Result<Exit, DriverError> {
        let durable = self.agent.durable();
        let lease = durable
            .attempt
            .as_ref()
            .map_or(LeaseId::default(), |attempt| attempt.lease);
        let open = durable.open_step();
        let awaited = durable.awaited_steps();
        let found = self.executor.find(open, lease).await?;
        self.executor.sweep(&awaited).await;
        let boot_id = found.facts.boot_id.clone();
        self.made_of = self.executor.host().service().await;
        let output = self.agent.start(self.now(), found);
        self.settle(output)?;
        self.listen();
        self.service.ready();
        let mut stop = pin!(stop);
        let mut looked = Instant::now();
        loop {
            self.service.status(self.agent.durable());
            let deadline = self.agent.next_deadline();
            let look = looked + self.look_around_pause();
            tokio::select! {
                // In this order, so that what happens does not depend on chance.
                biased;
                () = &mut stop => return Ok(Exit::Stopped),
                Some(event) = self.events.recv() => {
                    if let Some(exit) = self.take(event)? {
                        return Ok(exit);
                    }
                }
                () = sleep_until(&self.clock, deadline) => self.handle(Input::Tick)?,
                () = tokio::time::sleep_until(look) => {
                    looked = Instant::now();
                    if let Some(exit) = self.look_around(&boot_id).await? {
                        return Ok(exit);
                    }
                }
            }
        }
    }

    fn now(&self) -> Moment {
        moment(&self.clock)
    }

    fn handle(&mut self, input: Input) -> Result<(), DriverError> {
        let output = self.agent.handle(self.now(), input);
        self.settle(output)
    }

    fn take(&mut self, event: Event) -> Result<Option<Exit>, DriverError> {
        match event {
            Event::Input(input) => {
                let is_answer = matches!(
                    *input,
                    Input::Directive { .. }
                        | Input::Renewed { .. }
                        | Input::ReportAcknowledged { .. }
                        | Input::Signal { .. }
                );
                if is_answer {
                    self.executor.has_heard();
                }
                self.handle(*input)?;
            }
            Event::JobEnded(_, CarriedOut::Booted) => return Ok(Some(Exit::Booted)),
            Event::JobEnded(step, CarriedOut::Answer(answer)) => {
                let answer = *answer;
                // It may have ended because the dead-man program stopped it.
                self.look_for_dead_man()?;
                self.handle(Input::StepDone { step, answer })?;
                // The result is written down now, so its unit is not needed any more.
                self.clear(step);
            }
        }
        Ok(None)
    }

    /// Durable first, effects after it.
    fn settle(&mut self, output: Output) -> Result<(), DriverError> {
        if output.persist {
            self.state.save(self.agent.durable())?;
        }
        for effect in output.effects {
            self.begin(effect);
        }
        Ok(())
    }

    fn begin(&mut self, effect: Effect) {
        match effect {
            Effect::Poll { call, hold, report } => {
                let (link, clock) = (Rc::clone(&self.link), self.clock.clone());
                let task = self.reporting(async move {
                    let sent = moment(&clock);
                    match link.poll(hold, &report).await {
                        Ok((epoch, directive)) => Input::Directive {
                            call,
                            sent,
                            epoch,
                            directive,
                        },
                        Err(error) => failed(call, &error),
                    }
                });
                if let Some(before) = self.poll.replace(task) {
                    before.abort();
                }
            }
            Effect::Renew {
                call,
                lease,
                epoch,
                status,
                silence,
            } => {
                let (link, clock) = (Rc::clone(&self.link), self.clock.clone());
                let task = self.reporting(async move {
                    let sent = moment(&clock);
                    match link.renew(lease, epoch, &status, silence).await {
                        Ok((epoch, renewal)) => Input::Renewed {
                            call,
                            sent,
                            lease,
                            epoch,
                            renewal,
                        },
                        Err(error) => failed(call, &error),
                    }
                });
                self.keep(task);
            }
            Effect::Report {
                call,
                result,
                report,
            } => {
                let link = Rc::clone(&self.link);
                let task = self.reporting(async move {
                    match link.report(&result, &report).await {
                        Ok(epoch) => Input::ReportAcknowledged {
                            call,
                            rollout: result.rollout,
                            lease: result.lease,
                            epoch,
                        },
                        Err(error) => failed(call, &error),
                    }
                });
                self.keep(task);
            }
            // The executor finds a unit that runs already, and the job says whether it may start one.
            Effect::Begin(job) | Effect::Attach(job) => self.carry_out(job),
            Effect::KeepRoots { paths } => {
                if let Err(error) = self.executor.keep_roots(&paths) {
                    tracing::warn!("garbage collection roots: {error}");
                }
            }
            Effect::Measure => self.measure(),
            Effect::Note(note) => self.note(&note),
        }
    }

    fn measure(&mut self) {
        let (executor, sender) = (Rc::clone(&self.executor), self.sender.clone());
        let task = spawn_local(async move {
            match executor.measure().await {
                // Nobody listens any more only when the process is ending.
                Ok(facts) => drop(sender.send(Event::Input(Box::new(Input::Measured(facts))))),
                Err(error) => tracing::warn!("the machine cannot be measured: {error}"),
            }
        });
        self.keep(task);
    }

    fn carry_out(&mut self, job: Job) {
        tracing::debug!(step = %job.step, "begins: {:?}", job.work);
        let moves_traffic = matches!(job.work, Work::MoveTraffic { .. });
        let is_apart =
            moves_traffic || matches!(job.work, Work::CheckHealth { .. } | Work::CleanUp { .. });
        let step = job.step;
        let (executor, sender) = (Rc::clone(&self.executor), self.sender.clone());
        let task = spawn_local(async move {
            let ended = executor.carry_out(&job).await;
            // Nobody listens any more only when the process is ending.
            sender.send(Event::JobEnded(job.step, ended)).ok();
        });
        if is_apart {
            if moves_traffic {
                // One that was taken back must not come to start its unit beside this one's.
                let before = self.traffic.replace(task.abort_handle());
                before.inspect(AbortHandle::abort);
            }
            self.keep(task);
            return;
        }
        // The core has given up what came before, if it has not ended by now: it must not go on to
        // start things beside what takes its place.
        if let Some((before, task)) = self.job.replace((step, task))
            && !task.is_finished()
        {
            task.abort();
            self.clear(before);
        }
    }

    fn clear(&mut self, step: StepId) {
        let executor = Rc::clone(&self.executor);
        self.spawn(async move {
            if let Err(error) = executor.clear(step).await {
                tracing::debug!(%step, "a unit is left behind: {error}");
            }
        });
    }

    fn note(&mut self, note: &Note) {
        match note {
            Note::Accepted { lease, rollout } => {
                tracing::info!(lease = lease.0, %rollout, "{note}");
            }
            Note::Ended { lease, outcome, .. } => {
                self.look_at_service = true;
                tracing::info!(lease = lease.0, %outcome, "{note}");
            }
            Note::Stopped { epoch, .. } => tracing::warn!(epoch = epoch.0, "{note}"),
            Note::NotFollowed { .. } => tracing::warn!("{note}"),
            Note::CleanedUp(_) => tracing::info!("{note}"),
            Note::TrafficMoved(done) if done.failure.is_some() => tracing::warn!("{note}"),
            Note::TrafficMoved(_) => tracing::info!("{note}"),
            Note::Health { .. } => tracing::info!("{note}"),
            // A coordinator that is away for a night is not worth a line a minute.
            Note::Silent { failures, .. } if failures.is_power_of_two() => {
                tracing::warn!("{note}");
            }
            Note::Silent { .. } => tracing::debug!("{note}"),
        }
    }

    /// Listens to what the coordinator pushes, for ever.
    fn listen(&mut self) {
        let (link, clock, sender) = (
            Rc::clone(&self.link),
            self.clock.clone(),
            self.sender.clone(),
        );
        let first = self.agent.limits().backoff_first;
        let mut pauses = jitter::Pauses::new(self.agent.limits().seed);
        let task = spawn_local(async move {
            let mut failures = 0;
            loop {
                let begun = clock.uptime();
                let heard = |epoch, signal| {
                    sender
                        .send(Event::Input(Box::new(Input::Signal { epoch, signal })))
                        .ok();
                };
                if let Err(error) = link.listen(heard).await {
                    tracing::debug!("signals: {error}");
                }
                let lasted = clock.uptime().saturating_sub(begun);
                failures = if lasted > LISTEN_AGAIN_MAX {
                    0
                } else {
                    failures + 1
                };
                clock
                    .sleep(pauses.backoff(first, LISTEN_AGAIN_MAX, failures))
                    .await;
            }
        });
        self.keep(task);
    }

    fn look_around_pause(&self) -> Duration {
        if self.agent.durable().attempt.is_some() || self.look_at_service {
            LOOK_AROUND_BUSY
        } else {
            let watched = self.service.watched();
            watched.map_or(LOOK_AROUND_IDLE, |limit| (limit / 3).max(LOOK_AROUND_BUSY))
        }
    }

    async fn look_around(&mut self, boot_id: &BootId) -> Result<Option<Exit>, DriverError> {
        self.service.alive();
        if self.executor.host().boot_id()? != *boot_id {
            return Ok(Some(Exit::Booted));
        }
        self.look_for_dead_man()?;
        let durable = self.agent.durable();
        if durable.attempt.is_some() {
            return Ok(None);
        }
        let idle = durable.staging.is_none() && durable.unreported.is_none();
        if idle && std::mem::take(&mut self.look_at_service) {
            let now = self.executor.host().service().await;
            let changed = now.is_some() && self.made_of.is_some() && now != self.made_of;
            self.made_of = self.made_of.take().or(now);
            return Ok(changed.then_some(Exit::Outdated));
        }
        Ok(None)
    }

    /// Tells the core, once, when the dead-man program acts on the attempt.
    fn look_for_dead_man(&mut self) -> Result<(), DriverError> {
        let lease = self.agent.durable().attempt.as_ref().map(|a| a.lease);
        let acts = |lease: &LeaseId| {
            self.dead_man_told != Some(*lease) && self.executor.dead_man_acts(*lease)
        };
        let Some(lease) = lease.filter(acts) else {
            return Ok(());
        };
        self.dead_man_told = Some(lease);
        self.handle(Input::DeadManFired { lease })
    }

    /// A task whose input goes to the loop.
    fn reporting(&self, call: impl Future<Output = Input> + 'static) -> JoinHandle<()> {
        let sender = self.sender.clone();
        spawn_local(async move {
            let input = call.await;
            sender.send(Event::Input(Box::new(input))).ok();
        })
    }

    fn spawn(&mut self, task: impl Future<Output = ()> + 'static) {
        let task = spawn_local(task);
        self.keep(task);
    }

    /// Remembers a task, so that it ends with the driver.
    fn keep(&mut self, task: JoinHandle<()>) {
        self.tasks.retain(|task| !task.is_finished());
        self.tasks.push(task);
    }
}

fn failed(call: agent_core::CallId, error: &crate::link::LinkError) -> Input {
    Input::CallFailed {
        call,
        reason: error.to_string(),
    }
}

async fn sleep_until(clock: &Clock, deadline: Option<Moment>) {
    match deadline {
        Some(deadline) => {
            let left = deadline.since(moment(clock));
            // A timer may fire a little early: never spin.
            tokio::time::sleep(clock.real(left).max(Duration::from_millis(1))).await;
        }
        None => std::future::pending().await,
    }
}
