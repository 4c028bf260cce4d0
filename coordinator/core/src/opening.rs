//! When a group may really begin something: its maintenance windows without the times in which its
//! calendars let nothing begin.
//!
//! What is found holds for a while, and is kept: it is asked for at every decision and changes a few
//! times a day.

use std::{collections::BTreeMap, time::Duration};

use common::Timestamp;
use jiff::tz::TimeZone;

use crate::{
    calendar::{Calendar, Says},
    policy::Policy,
    window::{self, Window, WindowState},
};

/// How far ahead an opening is looked for. One range of days or one event is a year at most, but several
/// may follow each other: while more than this is left of them, nothing is found, and the end of each is
/// an occasion to look again.
const AHEAD: Duration = Duration::from_secs(2 * 366 * 24 * 3600);

/// How often what is open or shut may change until the search is given up: windows every hour of some
/// years.
const STEPS: usize = 10_000;

/// What is open for so long is not looked at further, unless more is needed.
const LONG: Duration = Duration::from_secs(14 * 24 * 3600);

/// What must be left of an opening beyond what is needed, or nobody would get a grant in time: who is told
/// that it opens has yet to ask.
pub(crate) const TO_BEGIN: Duration = Duration::from_secs(60);

/// Whether something may begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Until then; [`Timestamp::MAX`]: always. What is open for more than two weeks may be open for
    /// longer still.
    Open {
        /// When it must have ended.
        until: Timestamp,
    },
    /// Not now.
    Shut {
        /// When that ends, or changes its cause; `None`: never.
        until: Option<Timestamp>,
        /// Why.
        cause: Cause,
    },
}

/// What keeps a group from beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// No window is open.
    Window,
    /// A calendar that it avoids.
    Calendar {
        /// Its name.
        calendar: String,
        /// The entry in it.
        entry: String,
    },
}

/// The windows of a group and what it avoids.
#[derive(Clone, Debug)]
pub struct Openings<'a> {
    windows: &'a [Window],
    calendars: Vec<(&'a str, &'a Calendar)>,
    zone: TimeZone,
}

impl<'a> Openings<'a> {
    /// Those of a policy. A calendar that is not there any more blocks nothing.
    pub fn of(policy: &'a Policy, calendars: &'a BTreeMap<String, Calendar>) -> Self {
        let avoided = policy.avoid.iter().filter_map(|name| {
            let (name, calendar) = calendars.get_key_value(name)?;
            Some((name.as_str(), calendar))
        });
        // The name was checked when the configuration was; the database is built in.
        let zone = window::zone(&policy.timezone).unwrap_or(TimeZone::UTC);
        Self::new(&policy.windows, avoided.collect(), zone)
    }

    /// Those of these windows, calendars by name, and zone.
    pub fn new(
        windows: &'a [Window],
        calendars: Vec<(&'a str, &'a Calendar)>,
        zone: TimeZone,
    ) -> Self {
        Self {
            windows,
            calendars,
            zone,
        }
    }

    /// The same in another zone.
    #[cfg(feature = "seeded-bugs")]
    pub(crate) fn in_zone(self, zone: TimeZone) -> Self {
        Self { zone, ..self }
    }

    /// The same, and nothing is avoided.
    #[cfg(feature = "seeded-bugs")]
    pub(crate) fn without_calendars(self) -> Self {
        let calendars = Vec::new();
        Self { calendars, ..self }
    }

    /// The same, without the calendars that have events.
    #[cfg(feature = "seeded-bugs")]
    pub(crate) fn without_events(mut self) -> Self {
        self.calendars
            .retain(|(_, calendar)| !calendar.has_events());
        self
    }

    /// The same in the first of the windows alone.
    #[cfg(feature = "seeded-bugs")]
    pub(crate) fn in_the_first_window(self) -> Self {
        let windows = self.windows.get(..1).unwrap_or(self.windows);
        Self { windows, ..self }
    }

    /// The zone that its clock times are of.
    #[cfg(feature = "seeded-bugs")]
    pub(crate) fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// Whether something may begin at this instant.
    pub fn at(&self, now: Timestamp) -> State {
        match self.look(now) {
            State::Open { until } => State::Open {
                until: self.open_on(now, until, LONG),
            },
            shut @ State::Shut { .. } => shut,
        }
    }

    /// The first time from this instant on that is open for at least so long: from when, until when.
    pub fn next(&self, from: Timestamp, needs: Duration) -> Option<(Timestamp, Timestamp)> {
        let mut at = from;
        for _ in 0..STEPS {
            if at.since(from) > AHEAD {
                return None;
            }
            match self.look(at) {
                State::Open { until } => {
                    let until = self.open_on(at, until, LONG.max(needs));
                    if until.since(at) >= needs {
                        return Some((at, until));
                    }
                    at = until;
                }
                State::Shut { until, .. } => at = until?,
            }
        }
        None
    }

    /// When something that needs so long can really begin, from this instant on.
    pub(crate) fn can_go(&self, from: Timestamp, needs: Duration) -> Option<Timestamp> {
        let next = self.next(from, needs + TO_BEGIN);
        next.map(|(from, _)| from)
    }

    /// Of the times that were open in between, how many there were and when the last one shut. Those
    /// that are open still do not count.
    pub(crate) fn gone_by(&self, from: Timestamp, now: Timestamp) -> Option<(u32, Timestamp)> {
        let mut gone: Option<(u32, Timestamp)> = None;
        let mut at = from;
        while let Some((_, shut)) = self
            .next(at, Duration::ZERO)
            .filter(|(_, shut)| *shut <= now)
        {
            // Unless it was only too long to be looked at further.
            if matches!(self.look(shut), State::Shut { .. }) {
                let count = gone.map_or(0, |(count, _)| count) + 1;
                gone = Some((count, shut));
            }
            at = shut;
        }
        gone
    }

    /// Where something that is open until then is open on, the later end.
    fn open_on(&self, from: Timestamp, until: Timestamp, enough: Duration) -> Timestamp {
        let mut until = until;
        while until < Timestamp::MAX && until.since(from) < enough {
            match self.look(until) {
                State::Open { until: later } if until < later => until = later,
                State::Open { .. } | State::Shut { .. } => break,
            }
        }
        until
    }

    /// What windows and calendars say of this one instant. Of two that say no, the one that says it
    /// for longer counts.
    fn look(&self, now: Timestamp) -> State {
        let window = window::state_of(self.windows, now, &self.zone);
        let mut free = Timestamp::MAX;
        let mut blocked: Option<(&str, String, Timestamp)> = None;
        for (name, calendar) in &self.calendars {
            match calendar.says(now, &self.zone) {
                Says::Free { until } => free = free.min(until),
                Says::Blocked { entry, until } => {
                    if blocked.as_ref().is_none_or(|(_, _, last)| *last < until) {
                        blocked = Some((name, entry, until));
                    }
                }
            }
        }
        let shut_until = match window {
            WindowState::Open { .. } => Some(now),
            WindowState::Closed { opens_at } => opens_at,
        };
        match (window, blocked, shut_until) {
            (WindowState::Open { until }, None, _) => State::Open {
                until: until.min(free),
            },
            (_, Some((calendar, entry, until)), Some(opens_at)) if opens_at < until => {
                State::Shut {
                    until: Some(until),
                    cause: Cause::Calendar {
                        calendar: calendar.to_owned(),
                        entry,
                    },
                }
            }
            (_, _, opens_at) => State::Shut {
                until: opens_at,
                cause: Cause::Window,
            },
        }
    }
}

/// What a group's openings were found to be, and how long that holds.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    from: Timestamp,
    /// When it must be looked at again.
    pub(crate) until: Timestamp,
    /// What they were found to be.
    pub(crate) state: State,
    /// The least that a machine of the group that is still to go needs.
    pub(crate) needs: Duration,
    /// When, if it is shut, the group can really go.
    pub(crate) goes_at: Option<Timestamp>,
}

impl Seen {
    /// Looks at them now.
    pub(crate) fn of(openings: &Openings<'_>, needs: Duration, now: Timestamp) -> Self {
        let state = openings.at(now);
        let (until, goes_at) = match &state {
            State::Open { until } => (*until, None),
            State::Shut { until, .. } => {
                let goes_at = openings.can_go(now, needs);
                (until.unwrap_or(Timestamp::MAX), goes_at)
            }
        };
        Self {
            from: now,
            until,
            state,
            needs,
            goes_at,
        }
    }

    /// Whether something may begin, if there is time enough.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    /// Whether that still holds at this instant.
    pub(crate) fn holds(&self, now: Timestamp) -> bool {
        self.from <= now && now < self.until
    }
}
