//! The agent: one machine's life. Here is what it is made of and the one way in; what it does is
//! in `directive` (what the coordinator says), `staging`, `attempt` and `way_back` (the steps),
//! `restart`, `cleanup`, `traffic`, and `health` (the checks between attempts).

use std::{collections::BTreeSet, time::Duration};

use common::{Declined, Epoch, Health, MachineReport, RolloutId, StorePath, report};

use crate::{
    calls::{Calls, Kind},
    effect::{CallId, Effect, Job, Note, Output, Work},
    facts::{Facts, Found},
    input::{Answer, Failure, Input},
    limits::{Limits, STOPPED_FOR},
    moment::Moment,
    reading::line,
    state::{Durable, StepId},
};

/// One machine's life. Made by [`Agent::restore`], begun by [`Agent::start`].
#[derive(Clone, Debug)]
pub struct Agent {
    pub(crate) limits: Limits,
    pub(crate) durable: Durable,
    /// As last measured; `None` before the start, and then nothing happens.
    pub(crate) facts: Option<Facts>,
    pub(crate) health: Health,
    pub(crate) health_request: u64,
    pub(crate) health_due: Moment,
    pub(crate) check: Option<(Running, u64)>,
    /// The job of the cleanup, beside whatever else goes on but an attempt.
    pub(crate) cleaning: Option<Running>,
    /// The job of the traffic script, beside the same.
    pub(crate) moving_traffic: Option<Running>,
    pub(crate) calls: Calls,
    /// The job of the attempt or of the staging: there is only ever one of the two.
    pub(crate) job: Option<Running>,
    /// When the attempt's or the staging's present step goes on by itself.
    pub(crate) wait: Option<Moment>,
    /// What the last renewal gave; decides when the next is due.
    pub(crate) validity: Duration,
    /// The coordinator said that it does not know the attempt's lease.
    pub(crate) not_held: Option<String>,
    /// A staging that came to nothing.
    pub(crate) hold_off: Option<HoldOff>,
    /// The newest emergency stop that was remarked on.
    pub(crate) stop_noted: Epoch,
    /// How often the present result was sent.
    sent: u32,
    numbers: u32,
    sequence: u64,
    #[cfg(feature = "seeded-bugs")]
    bug: Option<crate::bug::Bug>,
}

/// A staging that came to nothing and is not begun again for a while.
#[derive(Clone, Debug)]
pub(crate) struct HoldOff {
    pub(crate) until: Moment,
    pub(crate) rollout: Option<RolloutId>,
    pub(crate) declined: Declined,
}

/// A job under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Running {
    pub(crate) step: StepId,
    pub(crate) began: Moment,
    pub(crate) deadline: Moment,
    /// It was given more time: the agent was stopped while it ran out.
    pub(crate) extended: bool,
}

impl Running {
    /// The same with time to hear an answer, if its own ran out while nobody could hear one: a machine
    /// that was suspended, a process that was stopped. Once.
    fn with_time_to_hear(self, now: Moment, grace: Duration) -> Self {
        if self.extended || now < self.deadline + STOPPED_FOR {
            return self;
        }
        Self {
            deadline: now + grace,
            extended: true,
            ..self
        }
    }
}

impl Agent {
    /// An agent that goes on from what is on disk. Does nothing until it is started.
    pub fn restore(limits: Limits, durable: Durable) -> Self {
        Self {
            limits,
            durable,
            facts: None,
            health: Health::default(),
            health_request: 0,
            health_due: Moment::default(),
            check: None,
            cleaning: None,
            moving_traffic: None,
            calls: Calls::default(),
            job: None,
            wait: None,
            validity: Duration::ZERO,
            not_held: None,
            hold_off: None,
            stop_noted: Epoch::default(),
            sent: 0,
            numbers: 0,
            sequence: 0,
            #[cfg(feature = "seeded-bugs")]
            bug: None,
        }
    }

    /// The same agent with one known bug.
    #[cfg(feature = "seeded-bugs")]
    #[must_use]
    pub fn with_bug(mut self, bug: crate::bug::Bug) -> Self {
        self.bug = Some(bug);
        self
    }

    /// Whether this agent was made with this bug.
    #[cfg(feature = "seeded-bugs")]
    pub(crate) fn has_bug(&self, bug: crate::bug::Bug) -> bool {
        self.bug == Some(bug)
    }

    /// The first call of a process: from the journal and from what is found on the machine to the
    /// next step. Has an answer for every step and everything that can be found.
    pub fn start(&mut self, now: Moment, found: Found) -> Output {
        let mut out = Output::default();
        self.after_restart(now, found, &mut out);
        self.advance(now, &mut out);
        out
    }

    /// One thing happened. Does first what the clock alone makes due, unless the coordinator said
    /// something: a machine that was frozen hears a stop before it asks for an overdue reboot.
    /// Before [`Agent::start`] nothing happens.
    pub fn handle(&mut self, now: Moment, input: Input) -> Output {
        let mut out = Output::default();
        if self.facts.is_none() {
            return out;
        }
        if !input.is_said_by_the_coordinator() {
            self.advance(now, &mut out);
        }
        self.take(now, input, &mut out);
        self.advance(now, &mut out);
        out
    }

    fn take(&mut self, now: Moment, input: Input, out: &mut Output) {
        match input {
            Input::Tick => {}
            Input::Directive {
                call,
                sent,
                epoch,
                directive,
            } => self.on_directive(now, call, sent.min(now), epoch, directive, out),
            Input::Signal { epoch, signal } => self.on_signal(now, epoch, signal, out),
            Input::Renewed {
                call,
                sent,
                lease,
                epoch,
                renewal,
            } => {
                let landed = self.calls.renew.landed(call);
                self.on_renewed(now, landed, sent.min(now), (lease, epoch), renewal, out);
            }
            Input::ReportAcknowledged {
                call,
                rollout,
                lease,
                epoch,
            } => {
                self.calls.report.landed(call);
                self.calls.failures = 0;
                self.see_epoch(now, epoch, out);
                let matches = |result: &mut crate::state::Unreported| {
                    result.rollout == rollout && result.lease == lease
                };
                if self.durable.unreported.take_if(matches).is_some() {
                    out.persist = true;
                    self.sent = 0;
                    self.calls.report.clear();
                    self.poll_now(now);
                }
            }
            Input::CallFailed { call, reason } => self.on_call_failed(now, call, &reason, out),
            Input::StepDone { step, answer } => self.on_step_done(now, step, answer, out),
            Input::Measured(facts) => self.on_measured(now, facts),
            Input::DeadManFired { lease } => self.on_dead_man(now, lease, out),
        }
    }

    /// Does what the clock alone makes true. Doing it twice at one moment is doing it once.
    fn advance(&mut self, now: Moment, out: &mut Output) {
        while let Some(call) = self.calls.overdue(now) {
            self.on_call_failed(now, call, "no answer in time", out);
        }
        self.lease_runs_out(now, out);
        let grace = self.limits.grace;
        self.job = self.job.map(|job| job.with_time_to_hear(now, grace));
        for apart in [&mut self.cleaning, &mut self.moving_traffic] {
            *apart = apart.map(|job| job.with_time_to_hear(now, grace));
        }
        if let Some((running, _)) = &mut self.check {
            *running = running.with_time_to_hear(now, grace);
        }
        if let Some(running) = self.job.filter(|running| running.deadline <= now) {
            self.on_step_done(now, running.step, timed_out(), out);
        }
        if let Some((running, _)) = self.check.filter(|(running, _)| running.deadline <= now) {
            self.on_step_done(now, running.step, timed_out(), out);
        }
        for apart in [self.cleaning, self.moving_traffic] {
            if let Some(running) = apart.filter(|running| running.deadline <= now) {
                self.on_step_done(now, running.step, timed_out(), out);
            }
        }
        if self.wait.is_some_and(|until| until <= now) {
            self.wait = None;
            if self.durable.attempt.is_some() {
                self.wait_is_over(now, out);
            } else {
                self.stage_again(now, out);
            }
        }
        if self.durable.attempt.is_none() && self.check.is_none() && self.health_due <= now {
            self.check_health(now, 0, self.limits.health_timeout, out);
        }
        for kind in self.calls.due(now) {
            match kind {
                Kind::Poll => self.poll(now, out),
                Kind::Renew => self.renew(now, out),
                Kind::Report => self.send_report(now, out),
            }
        }
    }

    /// When to call [`Agent::handle`] with [`Input::Tick`] if nothing happens before; `None` only
    /// before the start.
    pub fn next_deadline(&self) -> Option<Moment> {
        self.facts.as_ref()?;
        let health = match (&self.durable.attempt, self.check) {
            (Some(_), _) => None,
            (None, Some((running, _))) => Some(running.deadline),
            (None, None) => Some(self.health_due),
        };
        [
            self.calls.next(),
            self.job.map(|running| running.deadline),
            self.cleaning.map(|running| running.deadline),
            self.moving_traffic.map(|running| running.deadline),
            self.wait,
            health,
            self.lease_deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// What is to be on disk.
    pub fn durable(&self) -> &Durable {
        &self.durable
    }

    /// The machine's own limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What is true of the machine, as last measured; `None` before [`Agent::start`].
    ///
    /// Each report's sequence number is higher than the one before, also over restarts of the agent
    /// within one boot: it follows the boot-time clock.
    pub fn report(&mut self, now: Moment) -> Option<MachineReport> {
        let facts = self.facts.clone()?;
        self.sequence = (self.sequence + 1).max(now.0);
        let mut generations = facts.generations;
        generations.truncate(report::GENERATIONS_MAX);
        Some(MachineReport {
            agent_version: self.limits.agent_version.clone(),
            boot_id: facts.boot_id,
            sequence: self.sequence,
            running: facts.running,
            booted: facts.booted,
            profile: facts.profile,
            generation: facts.generation,
            generations,
            health: self.health.clone(),
            health_request: self.health_request,
            epoch: self.durable.epoch,
            staged: self.durable.staged.clone(),
            attempt: self.status(),
            store_free_bytes: facts.store_free_bytes,
            last_lease: self.durable.last_lease,
            declined: self.held_off(now).map(|held| held.declined.clone()),
            cleaned_up: Some(self.durable.cleaned_up.clone()),
            traffic: self
                .limits
                .has_traffic_script
                .then(|| self.durable.traffic_done.clone()),
        })
    }

    fn poll(&mut self, now: Moment, out: &mut Output) {
        let hold = self.limits.poll_hold;
        let Some(report) = self.report(now) else {
            return;
        };
        let within = hold + self.limits.call_timeout;
        let call = self.calls.begin(Kind::Poll, now, within);
        out.effects.push(Effect::Poll {
            call,
            hold,
            report: Box::new(report),
        });
    }

    /// Polls at once, in place of a poll under way, unless an attempt is in progress.
    pub(crate) fn poll_now(&mut self, now: Moment) {
        if self.durable.attempt.is_none() {
            self.calls.poll.drop_flight();
            self.calls.poll.set_due(now);
        }
    }

    /// Polls after a pause, because doing it at once would bring the same answer.
    pub(crate) fn poll_later(&mut self, now: Moment) {
        if self.durable.attempt.is_none() {
            self.calls.poll.set_due(now + self.limits.poll_pause);
        }
    }

    fn send_report(&mut self, now: Moment, out: &mut Output) {
        let (Some(result), Some(report)) = (self.durable.unreported.clone(), self.report(now))
        else {
            self.calls.report.clear();
            return;
        };
        #[cfg(feature = "seeded-bugs")]
        let result = {
            let mut result = result;
            // BUG (seeded): the second time something else is said.
            if self.sent > 0 && self.has_bug(crate::bug::Bug::ResultNotIdempotent) {
                result.outcome.kind = common::OutcomeKind::Abandoned;
            }
            result
        };
        self.sent = self.sent.saturating_add(1);
        let call = self
            .calls
            .begin(Kind::Report, now, self.limits.call_timeout);
        out.effects.push(Effect::Report {
            call,
            result: Box::new(result),
            report: Box::new(report),
        });
    }

    fn on_call_failed(&mut self, now: Moment, call: CallId, reason: &str, out: &mut Output) {
        let Some(kind) = self.calls.failed(call) else {
            return;
        };
        out.effects.push(Effect::Note(Note::Silent {
            reason: line(reason),
            failures: self.calls.failures,
        }));
        let longest = match kind {
            Kind::Poll | Kind::Report => Duration::MAX,
            // Several tries fit into what is left of the lease.
            Kind::Renew => (self.validity / 8).max(self.limits.backoff_first),
        };
        self.calls.retry(kind, now, &self.limits, longest);
        match kind {
            Kind::Renew => self.announced(now, out),
            Kind::Poll | Kind::Report => {}
        }
    }

    fn on_step_done(&mut self, now: Moment, step: StepId, answer: Answer, out: &mut Output) {
        if let Some((running, request)) = self.check.filter(|(running, _)| running.step == step) {
            self.check = None;
            self.health_due = now + self.limits.health_every;
            self.checked(now, running, request, answer, out);
            return;
        }
        if self.cleaning.is_some_and(|running| running.step == step) {
            self.cleaned_up(now, answer, out);
            return;
        }
        let is_traffic = |running: Running| running.step == step;
        if self.moving_traffic.is_some_and(is_traffic) {
            self.traffic_moved(now, answer, out);
            return;
        }
        let Some(running) = self.job.filter(|running| running.step == step) else {
            return;
        };
        self.job = None;
        if self.durable.attempt.is_some() {
            self.attempt_step_done(now, running, answer, out);
        } else {
            self.staging_done(now, answer, out);
        }
    }

    /// During an attempt every answer brings the facts that belong to it; a measurement begun
    /// before could only bring older ones.
    pub(crate) fn on_measured(&mut self, now: Moment, facts: Facts) {
        if self.durable.attempt.is_some() {
            return;
        }
        let changed = self.facts.as_ref().is_some_and(|known| {
            known.running != facts.running
                || known.profile != facts.profile
                || known.next_boot != facts.next_boot
                || known.booted != facts.booted
        });
        self.facts = Some(facts);
        if changed {
            self.poll_now(now);
        }
    }

    /// The job under way is of no more use. If it was to be begun by this very output it is not.
    pub(crate) fn drop_job(&mut self, out: &mut Output) {
        self.wait = None;
        let Some(dropped) = self.job.take() else {
            return;
        };
        out.effects.retain(|effect| match effect {
            Effect::Begin(job) | Effect::Attach(job) => job.step != dropped.step,
            Effect::Poll { .. }
            | Effect::Renew { .. }
            | Effect::Report { .. }
            | Effect::KeepRoots { .. }
            | Effect::Measure
            | Effect::Note(_) => true,
        });
    }

    /// An attempt begins: checks and polls give way to it.
    pub(crate) fn clear_the_way(&mut self, out: &mut Output) {
        self.check = None;
        self.calls.poll.clear();
        self.drop_job(out);
        self.not_held = None;
        self.hold_off = None;
    }

    /// Names a new piece of work.
    pub(crate) fn new_job(&mut self, within: Duration, work: Work) -> Job {
        self.numbers += 1;
        let may_begin = self.may_begin(&work);
        Job {
            step: StepId {
                life: self.durable.life,
                number: self.numbers,
            },
            within,
            may_begin,
            work,
        }
    }

    /// The job as seen from now on.
    pub(crate) fn running(&self, now: Moment, job: &Job) -> Running {
        Running {
            step: job.step,
            began: now,
            deadline: now + job.within + self.limits.grace,
            extended: false,
        }
    }

    /// The roots that are to be kept now.
    pub(crate) fn keep_roots(&self, out: &mut Output) {
        let mut paths: BTreeSet<StorePath> = self.durable.kept.iter().cloned().collect();
        paths.extend(self.durable.staged.iter().map(|staged| staged.path.clone()));
        out.effects.push(Effect::KeepRoots {
            paths: paths.into_iter().collect(),
        });
    }

    /// A result is to be handed in.
    pub(crate) fn hand_in(
        &mut self,
        now: Moment,
        result: crate::state::Unreported,
        out: &mut Output,
    ) {
        out.effects.push(Effect::Note(Note::Ended {
            lease: result.lease,
            outcome: result.outcome.kind,
            reason: result.outcome.reason.clone(),
        }));
        self.durable.unreported = Some(result);
        out.persist = true;
        self.sent = 0;
        self.calls.report.clear();
        self.calls.report.set_due(now);
        self.poll_later(now);
    }

    /// The highest epoch seen, from now on at least this one.
    pub(crate) fn raise_epoch(&mut self, epoch: Epoch, out: &mut Output) -> bool {
        let newer = epoch > self.durable.epoch;
        if newer {
            self.durable.epoch = epoch;
            out.persist = true;
        }
        newer
    }
}

fn timed_out() -> Answer {
    Answer {
        result: Err(Failure::TimedOut),
        output: String::new(),
    }
}
