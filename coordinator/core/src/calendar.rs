//! Calendars: times in which nothing is to begin. Business hours, dates, and iCalendar files.
//!
//! Whole days and clock times are those of the group that avoids the calendar, by the rule of
//! `window.rs`; an event of an iCalendar file that names its own zone keeps it.

pub mod dates;
pub mod ics;

use common::Timestamp;
use jiff::tz::TimeZone;

use self::{dates::Days, ics::Events};
use crate::window::{Window, WindowState};

/// One calendar of the configuration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Calendar {
    hours: Vec<Window>,
    days: Vec<Days>,
    events: Events,
}

/// What a calendar says of an instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Says {
    /// Nothing until then; [`Timestamp::MAX`]: nothing any more.
    Free {
        /// When it next says something.
        until: Timestamp,
    },
    /// Nothing is to begin.
    Blocked {
        /// The entry that says so, as it was written.
        entry: String,
        /// When that entry ends.
        until: Timestamp,
    },
}

impl Calendar {
    /// A calendar of clock times, days and events.
    pub fn new(hours: Vec<Window>, days: Vec<Days>, events: Events) -> Self {
        Self {
            hours,
            days,
            events,
        }
    }

    /// Whether something of an iCalendar file is in it.
    #[cfg(feature = "seeded-bugs")]
    pub(crate) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// What is in it and was not in the one before, and is over already.
    pub(crate) fn over(
        &self,
        before: Option<&Self>,
        now: Timestamp,
        zone: &TimeZone,
    ) -> Vec<String> {
        let known = |days: &&Days| before.is_some_and(|before| before.days.contains(days));
        let days = self.days.iter().filter(|days| !known(days));
        let over = days.filter(|days| days.next(now, zone).is_none());
        let mut over: Vec<String> = over.map(ToString::to_string).collect();
        let known = before.is_some_and(|before| before.events == self.events);
        let none_left = || self.events.next(now, zone).next().is_none();
        if !known && !self.events.is_empty() && none_left() {
            over.push("every event".to_owned());
        }
        over
    }

    /// What it says of this instant to a group of this zone; of several entries the one that ends
    /// last.
    pub fn says(&self, now: Timestamp, zone: &TimeZone) -> Says {
        let mut free = Timestamp::MAX;
        let mut blocked: Option<(String, Timestamp)> = None;
        let mut block = |entry: &dyn Fn() -> String, until: Timestamp| {
            if blocked.as_ref().is_none_or(|(_, last)| *last < until) {
                blocked = Some((entry(), until));
            }
        };
        for window in &self.hours {
            match window.state(now, zone) {
                WindowState::Open { until } => block(&|| window.to_string(), until),
                WindowState::Closed { opens_at } => {
                    free = free.min(opens_at.unwrap_or(Timestamp::MAX));
                }
            }
        }
        for days in &self.days {
            match days.next(now, zone) {
                Some((start, end)) if start <= now => block(&|| days.to_string(), end),
                Some((start, _)) => free = free.min(start),
                None => {}
            }
        }
        for (start, end, text) in self.events.next(now, zone) {
            if start <= now {
                block(&|| text.to_owned(), end);
            } else {
                free = free.min(start);
            }
        }
        match blocked {
            Some((entry, until)) => Says::Blocked { entry, until },
            None => Says::Free { until: free },
        }
    }
}
