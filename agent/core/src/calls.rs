//! Calls to the coordinator: which is under way, when the next is due, and how long to wait after
//! one that failed.

use std::time::Duration;

use crate::{effect::CallId, limits::Limits, moment::Moment};

/// A call under way.
#[derive(Clone, Copy, Debug)]
struct Flight {
    call: CallId,
    deadline: Moment,
}

/// One kind of call: at most one under way, and a time for the next.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Line {
    flight: Option<Flight>,
    due: Option<Moment>,
}

impl Line {
    /// The next call is due at this moment; one under way goes on.
    pub(crate) fn set_due(&mut self, at: Moment) {
        self.due = Some(at);
    }

    /// The next call is due no later than this moment.
    pub(crate) fn due_by(&mut self, at: Moment) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// No call is wanted, and the answer of one under way is of no more use.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Forgets the call under way, so that the next takes its place.
    pub(crate) fn drop_flight(&mut self) {
        self.flight = None;
    }

    /// Whether the answer of this call is waited for; it no longer is afterwards.
    pub(crate) fn landed(&mut self, call: CallId) -> bool {
        let mine = self.flight.is_some_and(|flight| flight.call == call);
        if mine {
            self.flight = None;
        }
        mine
    }

    /// Whether a call is to be made now.
    fn is_due(&self, now: Moment) -> bool {
        self.flight.is_none() && self.due.is_some_and(|due| due <= now)
    }

    /// The call under way, when its answer has not come in time.
    fn overdue(&self, now: Moment) -> Option<CallId> {
        self.flight
            .filter(|flight| flight.deadline <= now)
            .map(|flight| flight.call)
    }

    fn next(&self) -> Option<Moment> {
        match self.flight {
            Some(flight) => Some(flight.deadline),
            None => self.due,
        }
    }
}

/// All calls.
#[derive(Clone, Debug, Default)]
pub(crate) struct Calls {
    pub(crate) poll: Line,
    pub(crate) renew: Line,
    pub(crate) report: Line,
    /// Calls that failed since one succeeded.
    pub(crate) failures: u32,
    /// Polls in a row that were answered with nothing, and not held.
    quick: u32,
    made: u64,
}

/// Shortest pause between two polls, should a coordinator answer without holding the call.
const POLL_PAUSE_MIN: Duration = Duration::from_millis(100);

/// What that grows to: short enough that nobody waits for it, and no loop.
const POLL_PAUSE_QUICK: Duration = Duration::from_secs(2);

/// A poll that was answered within this time was not held.
const HELD_MIN: Duration = Duration::from_secs(1);

/// Kinds of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Poll,
    Renew,
    Report,
}

impl Calls {
    /// The pause before the next poll, after one that brought nothing and took this time. A coordinator
    /// that holds no polls is not asked as fast as it answers.
    pub(crate) fn pause_after_nothing(&mut self, took: Duration) -> Duration {
        self.quick = if took < HELD_MIN {
            self.quick.saturating_add(1)
        } else {
            0
        };
        let doublings = self.quick.saturating_sub(1).min(5);
        (POLL_PAUSE_MIN * 2_u32.pow(doublings)).min(POLL_PAUSE_QUICK)
    }

    fn line(&mut self, kind: Kind) -> &mut Line {
        match kind {
            Kind::Poll => &mut self.poll,
            Kind::Renew => &mut self.renew,
            Kind::Report => &mut self.report,
        }
    }

    /// Begins a call that is to be answered within this time.
    pub(crate) fn begin(&mut self, kind: Kind, now: Moment, within: Duration) -> CallId {
        self.made += 1;
        let call = CallId(self.made);
        let line = self.line(kind);
        line.due = None;
        line.flight = Some(Flight {
            call,
            deadline: now + within,
        });
        call
    }

    /// The kinds that are to be called now.
    pub(crate) fn due(&self, now: Moment) -> Vec<Kind> {
        let mut due = Vec::new();
        for (kind, line) in [
            (Kind::Report, &self.report),
            (Kind::Renew, &self.renew),
            (Kind::Poll, &self.poll),
        ] {
            if line.is_due(now) {
                due.push(kind);
            }
        }
        due
    }

    /// A call that was not answered in time.
    pub(crate) fn overdue(&self, now: Moment) -> Option<CallId> {
        self.poll
            .overdue(now)
            .or(self.renew.overdue(now))
            .or(self.report.overdue(now))
    }

    /// Which kind of call this was, if it was waited for; it no longer is afterwards.
    pub(crate) fn failed(&mut self, call: CallId) -> Option<Kind> {
        let kind = [Kind::Poll, Kind::Renew, Kind::Report]
            .into_iter()
            .find(|kind| self.line(*kind).landed(call))?;
        self.failures = self.failures.saturating_add(1);
        Some(kind)
    }

    /// When the next call of this kind is due after one that failed: a pause that doubles with each
    /// failure up to a ceiling, of which a random half to whole is taken ("equal jitter"), so that a
    /// fleet whose coordinator comes back does not call all at once.
    pub(crate) fn retry(&mut self, kind: Kind, now: Moment, limits: &Limits, longest: Duration) {
        let doublings = self.failures.saturating_sub(1).min(16);
        let full = limits
            .backoff_first
            .saturating_mul(1 << doublings)
            .min(limits.backoff_max)
            .min(longest);
        let half = full / 2;
        let salt = limits.seed ^ self.made.rotate_left(17) ^ u64::from(self.failures);
        let jitter = half.mul_f64(unit_interval(salt));
        self.line(kind).due_by(now + half + jitter);
    }

    /// The earliest moment at which a call is due or overdue.
    pub(crate) fn next(&self) -> Option<Moment> {
        [&self.poll, &self.renew, &self.report]
            .into_iter()
            .filter_map(Line::next)
            .min()
    }
}

/// A number in [0, 1) that looks random and depends on nothing but the salt (splitmix64).
fn unit_interval(salt: u64) -> f64 {
    let mut z = salt.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    // 32 bits are exact in an f64, and plenty.
    f64::from(u32::try_from(z >> 32).unwrap_or(0)) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_ceiling_and_are_never_shorter_than_half() {
        let limits = Limits::default();
        let mut calls = Calls::default();
        let mut now = Moment(0);
        let mut full = limits.backoff_first;
        for _ in 0..40 {
            let call = calls.begin(Kind::Poll, now, limits.call_timeout);
            assert_eq!(calls.failed(call), Some(Kind::Poll));
            calls.retry(Kind::Poll, now, &limits, Duration::MAX);
            let due = calls.next().expect("a retry is due");
            let pause = due.since(now);
            assert!(pause >= full / 2 && pause <= full, "{pause:?} of {full:?}");
            full = (full * 2).min(limits.backoff_max);
            now = due;
        }
    }

    #[test]
    fn machines_do_not_call_in_step() {
        let pauses: std::collections::BTreeSet<u64> = (0..100)
            .map(|seed| {
                let limits = Limits {
                    seed,
                    ..Limits::default()
                };
                let mut calls = Calls {
                    failures: 8,
                    ..Calls::default()
                };
                calls.retry(Kind::Poll, Moment(0), &limits, Duration::MAX);
                calls.next().expect("a retry is due").0
            })
            .collect();
        assert!(pauses.len() > 90, "{} different pauses", pauses.len());
    }

    #[test]
    fn an_answer_counts_once() {
        let mut calls = Calls::default();
        let call = calls.begin(Kind::Renew, Moment(0), Duration::from_secs(1));
        assert!(calls.renew.landed(call));
        assert!(!calls.renew.landed(call));
        assert_eq!(calls.failed(call), None);
    }
}
