//! Traffic: which orders about it the machine's own script is run for, and the life of one run.
//!
//! Orders may arrive late, twice and in another order than they were given in, so each is compared with
//! the last one answered: an older one of the same group is never run. A run whose end nobody has seen is
//! not begun again either, not even after a boot: meanwhile the coordinator may have decided otherwise. It
//! hears of a failure, and orders anew.
//!
//! No attempt begins while the script is at work, and no script during an attempt. Cleanups, stagings and
//! health checks go on beside it: they do not touch what it does, and a machine that is to leave its
//! traffic must not wait for the end of a garbage collection.

use std::time::Duration;

use common::{TrafficCall, TrafficDone, TrafficOrder, text};

use crate::{
    agent::Agent,
    effect::{Effect, Job, MayBegin, NotFollowed, Note, Output, Work},
    input::{Answer, Done, Failure},
    limits::TRAFFIC_TIMEOUT_MAX,
    moment::Moment,
    reading::{line, words},
    state::MovingTraffic,
};

/// Most of what a script has said that is told, in bytes.
const SAID_MAX: usize = 200;

impl Agent {
    /// The coordinator orders the machine to take traffic or to leave it. It asks until it has an
    /// answer: an order that has come already, and one beside another or beside an attempt, are passed
    /// over.
    pub(crate) fn on_move_traffic(&mut self, now: Moment, call: TrafficCall, out: &mut Output) {
        if self.durable.attempt.is_some() {
            return;
        }
        if !self.limits.has_traffic_script {
            self.not_followed(now, NotFollowed::NoTrafficScript, out);
            return;
        }
        if self.is_overtaken(&call.order) {
            self.not_followed(now, NotFollowed::OldTrafficOrder, out);
            return;
        }
        self.poll_later(now);
        let is_answered = self.durable.traffic_done.order.as_ref() == Some(&call.order);
        let at_work = self.durable.moving_traffic.as_ref();
        let stays = at_work.is_some_and(|moving| !is_taken_back(&moving.call.order, &call.order));
        if is_answered || stays {
            return;
        }
        let call = self.bounded(call);
        let within = call.within;
        let job = self.new_job(within, Work::MoveTraffic { call: call.clone() });
        self.durable.moving_traffic = Some(MovingTraffic {
            call,
            job: job.step,
        });
        self.moving_traffic = Some(self.running(now, &job));
        out.persist = true;
        out.effects.push(Effect::Begin(job));
    }

    /// Whether a newer order of the same group has come.
    fn is_overtaken(&self, order: &TrafficOrder) -> bool {
        #[cfg(feature = "seeded-bugs")]
        // BUG (seeded): whatever comes is run.
        if self.has_bug(crate::bug::Bug::StaleTrafficOrder) {
            return false;
        }
        let moving = self.durable.moving_traffic.as_ref();
        let moving = moving.map(|moving| &moving.call.order);
        let mut seen = moving.into_iter().chain(&self.durable.traffic_done.order);
        seen.any(|seen| order.is_before(seen))
    }

    /// The call within what a coordinator may ask for. Zero: the machine's own limit.
    fn bounded(&self, call: TrafficCall) -> TrafficCall {
        let within = if call.within.is_zero() {
            self.limits.hook_timeout
        } else {
            call.within
        };
        let within: Duration = within.min(TRAFFIC_TIMEOUT_MAX);
        TrafficCall {
            drain: call.drain.min(within),
            within,
            ..call
        }
    }

    /// A run that an earlier life of the agent began: its unit is waited for, if it is there.
    pub(crate) fn traffic_after_restart(&mut self, now: Moment, out: &mut Output) {
        let Some(moving) = self.durable.moving_traffic.clone() else {
            return;
        };
        let job = Job {
            step: moving.job,
            within: moving.call.within,
            may_begin: MayBegin::Never,
            work: Work::MoveTraffic { call: moving.call },
        };
        self.moving_traffic = Some(self.running(now, &job));
        out.effects.push(Effect::Attach(job));
    }

    /// The script ended. The answer is kept until the next one's, and told at once.
    pub(crate) fn traffic_moved(&mut self, now: Moment, answer: Answer, out: &mut Output) {
        self.moving_traffic = None;
        let Some(moving) = self.durable.moving_traffic.take() else {
            return;
        };
        let Answer { result, output } = answer;
        let failure = match result {
            Ok(Done::TrafficMoved) => None,
            Ok(_) => Some(words(&Failure::Unfitting)),
            Err(failure) => Some(told(&failure, &output)),
        };
        self.durable.traffic_done = TrafficDone {
            order: Some(moving.call.order),
            failure,
        };
        out.persist = true;
        let done = self.durable.traffic_done.clone();
        out.effects.push(Effect::Note(Note::TrafficMoved(done)));
        self.poll_now(now);
    }
}

/// Whether what is at work is the contrary of what is ordered: then it is ended, or whoever is to take its
/// traffic again would first wait for its connections to end. The order that it ran for was taken back.
fn is_taken_back(at_work: &TrafficOrder, order: &TrafficOrder) -> bool {
    at_work.group == order.group && at_work.gets != order.gets
}

/// Why the script came to nothing, and what it said last.
fn told(failure: &Failure, output: &str) -> String {
    let said = text::last_lines(output, SAID_MAX);
    if said.is_empty() {
        words(failure)
    } else {
        line(&format!("{failure}: {said}"))
    }
}
