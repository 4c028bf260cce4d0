//! What people read: from the coordinator's messages to plain text, laid out for a width, a zone
//! and a moment. Nothing here prints.

pub mod changes;
pub mod config;
pub mod history;
pub mod machines;
pub mod plan;
pub mod progress;
pub mod schedule;
pub mod status;
pub mod targets;
pub mod traffic;
pub mod trust;
pub mod why;

use std::env;

use comfy_table::{ColumnConstraint, ContentArrangement, Table, presets};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};

/// Least columns in which sentences can be read.
const WORDS_MIN: usize = 16;

/// For whom to lay out.
#[derive(Clone, Debug)]
pub struct Look {
    /// Columns; `None` when nobody sees it: lines stay whole, for grep and logs.
    pub width: Option<u16>,
    /// Rows of the terminal.
    pub height: usize,
    /// The zone in which times are shown.
    pub zone: TimeZone,
    /// The moment from which "in 5 min" counts.
    pub now: Timestamp,
}

impl Look {
    /// The terminal of this process, its zone and its clock.
    pub fn of_terminal() -> Self {
        let terminal = terminal_size::terminal_size();
        let columns = || env::var("COLUMNS").ok()?.parse().ok();
        Self {
            width: terminal.map(|(width, _)| width.0).or_else(columns),
            height: terminal.map_or(24, |(_, height)| usize::from(height.0)),
            zone: TimeZone::system(),
            now: Timestamp::now(),
        }
    }

    /// The same, a while later: what is drawn again counts from the new moment.
    #[must_use]
    pub fn refreshed(&self) -> Self {
        Self {
            now: Timestamp::now(),
            ..self.clone()
        }
    }

    /// A time as `Sun 22 Nov 02:00, in 3 h`: absolute in the reader's zone, and relative.
    pub fn when(&self, time: &str) -> String {
        match time.parse::<Timestamp>() {
            Ok(time) => format!("{}, {}", self.absolute(time), self.relative(time)),
            Err(_) => time.to_owned(),
        }
    }

    /// The same, and what the clocks of another zone show, where they show something else:
    /// `Sun 22 Nov 02:00, in 3 h (Sat 21 Nov 20:00 America/New_York)`.
    pub fn when_there(&self, time: &str, zone: &str) -> String {
        let here = self.when(time);
        let (Ok(at), Ok(there)) = (time.parse::<Timestamp>(), TimeZone::get(zone)) else {
            return here;
        };
        let there = self.clock(at, there);
        if there == self.absolute(at) {
            here
        } else {
            format!("{here} ({there} {zone})")
        }
    }

    /// Whether the clocks of another zone show something else then.
    pub fn is_other_there(&self, time: &str, zone: &str) -> bool {
        self.when_there(time, zone) != self.when(time)
    }

    /// A time as `2026-11-22 02:00:00` in the reader's zone.
    pub fn stamp(&self, time: &str) -> String {
        match time.parse::<Timestamp>() {
            Ok(time) => {
                let zoned = time.to_zoned(self.zone.clone());
                zoned.strftime("%Y-%m-%d %H:%M:%S").to_string()
            }
            Err(_) => time.to_owned(),
        }
    }

    /// A span of time as `Sun 22 Nov 02:00 to 02:40`.
    pub fn between(&self, from: &str, until: &str) -> String {
        match (from.parse(), until.parse()) {
            (Ok(from), Ok(until)) => self.between_by(from, until, &self.zone),
            _ => format!("{from} to {until}"),
        }
    }

    /// The same, and what the clocks of another zone show, where they show something else.
    pub fn between_there(&self, from: &str, until: &str, zone: &str) -> String {
        let here = self.between(from, until);
        let (Ok(from), Ok(until)) = (from.parse(), until.parse()) else {
            return here;
        };
        let there = TimeZone::get(zone).map(|there| self.between_by(from, until, &there));
        match there {
            Ok(there) if there != here => format!("{here} ({there} {zone})"),
            Ok(_) | Err(_) => here,
        }
    }

    fn between_by(&self, from: Timestamp, until: Timestamp, zone: &TimeZone) -> String {
        let begin = self.clock(from, zone.clone());
        let (first, last) = (from.to_zoned(zone.clone()), until.to_zoned(zone.clone()));
        let end = match first.date() == last.date() {
            true => last.strftime("%H:%M").to_string(),
            false => self.clock(until, zone.clone()),
        };
        format!("{begin} to {end}")
    }

    /// A time as `3 h ago`.
    pub fn ago(&self, time: &str) -> String {
        match time.parse::<Timestamp>() {
            Ok(time) => self.relative(time),
            Err(_) => time.to_owned(),
        }
    }

    fn absolute(&self, time: Timestamp) -> String {
        self.clock(time, self.zone.clone())
    }

    fn clock(&self, time: Timestamp, zone: TimeZone) -> String {
        let far = time.duration_since(self.now).abs() > SignedDuration::from_hours(24 * 300);
        let format = if far { "%-d %b %Y" } else { "%a %-d %b %H:%M" };
        time.to_zoned(zone).strftime(format).to_string()
    }

    fn relative(&self, time: Timestamp) -> String {
        let distance = time.duration_since(self.now);
        let span = span(distance.unsigned_abs().as_secs());
        if distance.unsigned_abs().as_secs() < 5 {
            "now".to_owned()
        } else if distance.is_negative() {
            format!("{span} ago")
        } else {
            format!("in {span}")
        }
    }

    /// Rows in columns, two spaces apart, behind `indent` spaces; the last column wraps.
    pub fn columns(&self, indent: usize, rows: impl IntoIterator<Item = Vec<String>>) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        match self.width {
            Some(width) => {
                let room = width
                    .saturating_sub(u16::try_from(indent).unwrap_or(0))
                    .max(20);
                table.set_content_arrangement(ContentArrangement::Dynamic);
                table.set_width(room);
            }
            None => {
                table.set_content_arrangement(ContentArrangement::Disabled);
            }
        }
        for row in rows {
            table.add_row(row);
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        // Names and states stay whole as long as the last column keeps room for words.
        let widths = table.column_max_content_widths();
        let before_last = widths.len().saturating_sub(1);
        let fixed: u16 = widths.iter().take(before_last).map(|width| width + 2).sum();
        if self
            .width
            .is_some_and(|width| usize::from(fixed) + indent + WORDS_MIN <= usize::from(width))
        {
            for column in table.column_iter_mut().take(before_last) {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        let indent = " ".repeat(indent);
        table
            .lines()
            .map(|line| format!("{indent}{line}").trim_end().to_owned() + "\n")
            .collect()
    }
}

/// A length of time, as [`common::time::span`] says it.
pub fn span(seconds: u64) -> String {
    common::time::span(std::time::Duration::from_secs(seconds))
}

/// A store path as a person says it: the name without what the machine makes clear, and the first
/// characters of its hash. `-` when there is none.
pub fn closure(path: &str, machine: &str) -> String {
    let Ok(path) = path.parse::<common::StorePath>() else {
        return if path.is_empty() {
            "-".to_owned()
        } else {
            path.to_owned()
        };
    };
    let name = path.name();
    let system = format!("nixos-system-{machine}-");
    let short = name.strip_prefix(&system).unwrap_or(name);
    let hash = &path.as_str()[common::closure::STORE.len()..][..7];
    format!("{short} ({hash})")
}

/// From one system to another, by what differs: the names, or else the hashes.
pub fn transition(from: &str, to: &str, machine: &str) -> String {
    let (from, to) = (closure(from, machine), closure(to, machine));
    let name = |text: &str| {
        text.split_once(" (")
            .map_or(text.to_owned(), |(name, _)| name.to_owned())
    };
    let (old, new) = (name(&from), name(&to));
    if old == new {
        format!("{from} → {to}")
    } else {
        format!("{old} → {new}")
    }
}

/// A state with its mark.
pub fn marked(state: &str) -> String {
    let mark = match state {
        "updated" | "finished" | "closed" | "confirmed" | "healthy" | "valid" | "done"
        | "open-now" | "acknowledged" | "passed" => '✔',
        "leased" | "staging" | "open" | "active" | "soaking" | "measuring" | "finishing"
        | "undoing" => '▶',
        "rolled-back" | "failed" | "refused" | "unhealthy" | "stuck" | "aborted" | "revoked"
        | "rejected" => '✖',
        "overdue" | "missed" | "reboot-required" | "paused" | "awaiting-approval" | "held"
        | "offline" | "expired" | "asks-to-return" | "silent" | "abandoned" => '⚠',
        _ => '○',
    };
    let state = if state.is_empty() { "unknown" } else { state };
    format!("{mark} {state}")
}

/// `1 machine`, `2 machines`.
pub fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

// The tests of the program make the same answers.
#[cfg(test)]
#[path = "../tests/lab/made.rs"]
mod made;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// 80 columns in Oslo, on 22 November 2026 at 12:00 UTC.
    pub(crate) fn look() -> Look {
        Look {
            width: Some(80),
            height: 24,
            zone: TimeZone::get("Europe/Oslo").expect("a zone"),
            now: "2026-11-22T12:00:00Z".parse().expect("a time"),
        }
    }

    #[test]
    fn times_are_told_in_the_readers_zone_and_from_now() {
        let look = look();
        for (time, text) in [
            ("2026-11-22T12:00:03Z", "Sun 22 Nov 13:00, now"),
            ("2026-11-22T15:30:00Z", "Sun 22 Nov 16:30, in 3 h 30 min"),
            ("2026-11-20T11:00:00+00:00", "Fri 20 Nov 12:00, 2 d 1 h ago"),
            ("2020-01-01T00:00:00Z", "1 Jan 2020, 2517 d 12 h ago"),
            ("soon", "soon"),
        ] {
            assert_eq!(look.when(time), text);
        }
        assert_eq!(look.stamp("2026-07-01T00:30:00Z"), "2026-07-01 02:30:00");
        let there = |zone| look.when_there("2026-11-22T15:30:00Z", zone);
        let here = "Sun 22 Nov 16:30, in 3 h 30 min";
        assert_eq!(there("Europe/Berlin"), here, "the same clocks");
        for unknown in ["", "Mars/Olympus"] {
            assert_eq!(there(unknown), here);
        }
        let tokyo = format!("{here} (Mon 23 Nov 00:30 Asia/Tokyo)");
        assert_eq!(there("Asia/Tokyo"), tokyo);
        let between =
            |zone| look.between_there("2026-11-22T14:30:00Z", "2026-11-22T15:30:00Z", zone);
        let here = "Sun 22 Nov 15:30 to 16:30";
        for alike in ["Europe/Berlin", "", "Mars/Olympus"] {
            assert_eq!(between(alike), here);
        }
        let tokyo = format!("{here} (Sun 22 Nov 23:30 to Mon 23 Nov 00:30 Asia/Tokyo)");
        assert_eq!(between("Asia/Tokyo"), tokyo);
    }

    #[test]
    fn store_paths_are_told_by_what_differs() {
        let path = "/nix/store/0c5y5y5y5y5y5y5y5y5y5y5y5y5y5y5y-nixos-system-web-01-26.05.1";
        assert_eq!(closure(path, "web-01"), "26.05.1 (0c5y5y5)");
        assert_eq!(closure(path, "db"), "nixos-system-web-01-26.05.1 (0c5y5y5)");
        assert_eq!(closure("", "db"), "-");
        assert_eq!(transition("", path, "web-01"), "- → 26.05.1");
        let rebuilt = path.replacen("0c5", "1c5", 1);
        assert_eq!(
            transition(path, &rebuilt, "web-01"),
            "26.05.1 (0c5y5y5) → 26.05.1 (1c5y5y5)"
        );
        assert_eq!(
            closure("git+https://x?rev=1#db", "db"),
            "git+https://x?rev=1#db"
        );
    }

    #[test]
    fn columns_wrap_only_for_a_terminal() {
        let rows = || vec![vec!["db-primary".to_owned(), "word ".repeat(30)]];
        let narrow = look().columns(2, rows());
        assert!(narrow.lines().count() > 1);
        assert!(
            narrow
                .lines()
                .all(|line| line.len() <= 80 && line.starts_with("  "))
        );
        let log = Look {
            width: None,
            ..look()
        };
        assert_eq!(log.columns(2, rows()).lines().count(), 1);
    }
}
