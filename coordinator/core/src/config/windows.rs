//! Windows as they are written: a text, or times and days.

use serde_json::Value;

use super::section::{Faults, Section, fault};
use crate::window::{self, Window, WindowError};

const TIMES: &str = "write times such as \"02:00-06:00\"; the whole day is \"00:00-24:00\"";
const DAY: &str = "write each day by itself, such as \"mon\" or \"monday\"";

/// One window, or a list of them; each a text, or `{ times, days }`.
pub(super) fn windows(s: &mut Section<'_>, key: &'static str, faults: &mut Faults) -> Vec<Window> {
    let items = s.one_or_more(key).into_iter();
    items
        .filter_map(|(path, item)| window(item, &path, faults))
        .collect()
}

fn window(value: &Value, path: &str, faults: &mut Faults) -> Option<Window> {
    if let Value::String(text) = value {
        return times(text, path, faults);
    }
    let mut section = Section::new(value, path, faults)?;
    let path_of_times = section.path_of("times");
    let window = match section.text("times", faults) {
        Some(text) => times(&text, &path_of_times, faults),
        None => {
            if !section.has("times") {
                fault(faults, &path_of_times, "is missing", TIMES);
            }
            None
        }
    };
    let path_of_days = section.path_of("days");
    let days = section.names::<String>("days", faults).unwrap_or_default();
    section.finish(faults);
    let mut on = Vec::with_capacity(days.len());
    for (index, text) in days.iter().enumerate() {
        let path = format!("{path_of_days}[{index}]");
        match window::day(text) {
            Ok(day) => on.push(day),
            Err(error) => {
                fault(faults, &path, error.to_string(), DAY);
                // Documents of before were read by its first letters.
                on.extend(window::day_by_its_beginning(text));
            }
        }
    }
    window.map(|window| window.on_days(on))
}

fn times(text: &str, path: &str, faults: &mut Faults) -> Option<Window> {
    text.parse()
        .map_err(|error: WindowError| fault(faults, path, error.to_string(), TIMES))
        .ok()
}
