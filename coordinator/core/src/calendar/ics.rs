//! iCalendar (RFC 5545): the text of a file → events, each a time in which nothing is to begin.
//!
//! Recurrence rules are read and counted by the `rrule` crate, in the event's own clock times; what
//! they mean as instants is found as for windows. All is read and counted once, when a document is
//! read, up to [`HORIZON_YEAR`]; whatever is too much to be counted is refused with its line.

mod event;
mod lines;

use common::Timestamp;
use jiff::{civil::DateTime, tz::TimeZone};

use crate::window;

/// Longest text, in bytes: a year of somebody's busy calendar has a tenth of it.
pub const TEXT_MAX: usize = 512 * 1024;

/// Most events in one text.
pub const EVENTS_MAX: usize = 2000;

/// Most times that the events of one text come to: what happens every day fits.
pub const TIMES_MAX: usize = 30_000;

/// Events are counted until the end of the year before this one.
pub const HORIZON_YEAR: i16 = 2080;

/// Times that were over before this year are left out.
const FIRST_YEAR: i16 = 2020;

/// Why a text is no calendar that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct IcsError {
    /// Where, from 1.
    pub line: usize,
    /// What is wrong there.
    pub what: String,
}

impl IcsError {
    fn new(line: usize, what: impl Into<String>) -> Self {
        let what = what.into();
        Self { line, what }
    }
}

/// When the events of a calendar are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Events {
    /// Their summaries.
    texts: Vec<String>,
    /// In the clock times of whoever avoids them: in order, and none over another.
    floating: Vec<Span<DateTime>>,
    /// The same of those with a zone of their own.
    fixed: Vec<Span<Timestamp>>,
}

/// One time of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Span<T> {
    start: T,
    end: T,
    /// Which of the texts.
    text: usize,
}

impl Events {
    /// Reads the text of a file.
    pub fn parse(text: &str) -> Result<Self, IcsError> {
        if text.len() > TEXT_MAX {
            let what = format!(
                "the text has {} bytes, {TEXT_MAX} are read at most",
                text.len()
            );
            return Err(IcsError::new(1, what));
        }
        let found = event::events(text)?;
        let mut events = Self::default();
        for event in &found {
            // An instance that was moved is an event of its own, and no longer one of its series.
            let moved = found.iter().filter(|other| {
                !event.uid.is_empty() && other.uid == event.uid && other.instance.is_some()
            });
            let moved = moved.filter_map(|other| other.instance.as_ref());
            let moved: Vec<_> = if event.instance.is_none() {
                moved.cloned().collect()
            } else {
                Vec::new()
            };
            if event.cancelled {
                continue;
            }
            let text = events.texts.len();
            for (start, end) in event.times(&moved)? {
                events.add(start, end, text, event.line)?;
            }
            events.texts.push(match event.summary.as_str() {
                "" => "an event".to_owned(),
                summary => summary.to_owned(),
            });
        }
        merge(&mut events.floating);
        merge(&mut events.fixed);
        Ok(events)
    }

    /// Whether nothing of it is still to come, by the years that are looked at.
    pub fn is_empty(&self) -> bool {
        self.floating.is_empty() && self.fixed.is_empty()
    }

    fn add(
        &mut self,
        start: event::When,
        end: DateTime,
        text: usize,
        line: usize,
    ) -> Result<(), IcsError> {
        if end.year() < FIRST_YEAR || start.civil.year() >= HORIZON_YEAR {
            return Ok(());
        }
        if self.floating.len() + self.fixed.len() >= TIMES_MAX {
            let what = format!("the events come to more than {TIMES_MAX} times");
            return Err(IcsError::new(line, what));
        }
        match &start.zone {
            None => self.floating.push(Span {
                start: start.civil,
                end,
                text,
            }),
            Some(zone) => {
                let instant = |at: DateTime| window::instant(at.date(), at.time(), zone);
                if let (Some(start), Some(end)) = (instant(start.civil), instant(end))
                    && start < end
                {
                    self.fixed.push(Span { start, end, text });
                }
            }
        }
        Ok(())
    }

    /// Of those with a zone and of those without, the first that is not over: from when, until when,
    /// and what it is called.
    pub(super) fn next(
        &self,
        now: Timestamp,
        zone: &TimeZone,
    ) -> impl Iterator<Item = (Timestamp, Timestamp, &str)> {
        let at = self.fixed.partition_point(|span| span.end <= now);
        let fixed = self
            .fixed
            .get(at)
            .map(|span| (span.start, span.end, span.text));
        let floating = self.next_floating(now, zone);
        let text = |text: usize| self.texts.get(text).map_or("", String::as_str);
        let both = [fixed, floating].into_iter().flatten();
        both.map(move |(start, end, which)| (start, end, text(which)))
    }

    fn next_floating(
        &self,
        now: Timestamp,
        zone: &TimeZone,
    ) -> Option<(Timestamp, Timestamp, usize)> {
        // No clock was ever put back by more than a day.
        let clock = window::local(now, zone)?.datetime();
        let yesterday = clock.checked_sub(jiff::Span::new().days(2)).ok()?;
        let at = self.floating.partition_point(|span| span.end <= yesterday);
        self.floating.get(at..)?.iter().find_map(|span| {
            let start = window::instant(span.start.date(), span.start.time(), zone)?;
            let end = window::instant(span.end.date(), span.end.time(), zone)?;
            (start < end && now < end).then_some((start, end, span.text))
        })
    }
}

/// Puts them in order, and makes one of those that overlap; it is called as the one that began first.
fn merge<T: Copy + Ord>(spans: &mut Vec<Span<T>>) {
    spans.sort_unstable();
    let mut merged: Vec<Span<T>> = Vec::with_capacity(spans.len());
    for span in spans.drain(..) {
        match merged.last_mut() {
            Some(last) if span.start < last.end => last.end = last.end.max(span.end),
            Some(_) | None => merged.push(span),
        }
    }
    *spans = merged;
}
