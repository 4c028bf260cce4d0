//! Windows, calendars and time zones against slow oracles, and iCalendar texts against what they mean.

mod clocks;
mod ics;
mod openings;
mod oracle;
