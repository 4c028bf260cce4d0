//! Times in which nothing begins (`updateSettings.calendars`), and who avoids them (`avoid`).

use std::collections::BTreeMap;

use common::GroupName;
use serde_json::Value;

use super::{
    section::{Faults, Section, fault, nearest},
    windows::windows,
};
use crate::calendar::{
    Calendar,
    dates::{Days, DaysError},
    ics::Events,
};

/// Most calendars of a fleet.
const CALENDARS_MAX: usize = 32;

/// Most dates of one of them.
const DATES_MAX: usize = 1000;

const DATES: &str =
    "write \"2026-12-24\", \"2026-12-24/2027-01-02\", \"12-25\" for every year, or \"easter-2\"";

/// `calendars.<name> = { hours, dates, ics }`
pub(super) fn read(settings: &mut Section<'_>, faults: &mut Faults) -> BTreeMap<String, Calendar> {
    let mut found = BTreeMap::new();
    let Some(value) = settings.get("calendars") else {
        return found;
    };
    let path = settings.path_of("calendars");
    let Some(section) = Section::new(value, &path, faults) else {
        return found;
    };
    if section.entries().count() > CALENDARS_MAX {
        let message = format!("{CALENDARS_MAX} calendars are read at most");
        fault(faults, &path, message, "put what belongs together into one");
        return found;
    }
    for (name, value) in section.entries() {
        let path = section.path_of(name);
        if let Err(error) = name.parse::<GroupName>() {
            fault(faults, &path, error.to_string(), "give it another name");
        }
        if let Some(keys) = Section::new(value, &path, faults) {
            found.insert(name.clone(), calendar(keys, faults));
        }
    }
    found
}

fn calendar(mut keys: Section<'_>, faults: &mut Faults) -> Calendar {
    let before = faults.len();
    let hours = windows(&mut keys, "hours", faults);
    let days = dates(&mut keys, faults);
    let events = events(&mut keys, faults);
    if keys.get("icsFile").is_some() {
        let message = "is read by `lab update-config import`, which puts the text here as ics";
        let hint = "import the document with lab, or write its text as ics; in Nix, which reads the file where \
                    it stands: ics = builtins.readFile ./releases.ics;";
        fault(faults, &keys.path_of("icsFile"), message, hint);
    }
    if faults.len() == before && hours.is_empty() && days.is_empty() && events.is_empty() {
        let message = "names no time that is still to come";
        let hint = "give it hours, dates or ics, or leave it out";
        fault(faults, &keys.path.clone(), message, hint);
    }
    keys.finish(faults);
    Calendar::new(hours, days, events)
}

fn dates(keys: &mut Section<'_>, faults: &mut Faults) -> Vec<Days> {
    let path = keys.path_of("dates");
    let mut texts = keys.names::<String>("dates", faults).unwrap_or_default();
    if texts.len() > DATES_MAX {
        let message = format!("{DATES_MAX} dates are read at most");
        fault(faults, &path, message, "write ranges, or yearly rules");
        texts.truncate(DATES_MAX);
    }
    let mut days = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        match text.parse::<Days>() {
            Ok(found) => days.push(found),
            Err(error) => {
                let hint = match error {
                    DaysError::Shape(_) => DATES,
                    DaysError::Endless(_) => "say until when: a freeze without end is none",
                    DaysError::Backwards(_) => "exchange the two",
                    DaysError::TooLong(_) => "write the year in which it ends, or two ranges",
                };
                fault(faults, &format!("{path}[{index}]"), error.to_string(), hint);
            }
        }
    }
    days
}

fn events(keys: &mut Section<'_>, faults: &mut Faults) -> Events {
    let Some(text) = keys.text("ics", faults) else {
        return Events::default();
    };
    Events::parse(&text).unwrap_or_else(|error| {
        let hint = "mend or leave out the event; or export it from the calendar anew";
        fault(faults, &keys.path_of("ics"), error.to_string(), hint);
        Events::default()
    })
}

/// `avoid = [ "holidays" ]`: each of them must be there.
pub(super) fn avoid(
    keys: &mut Section<'_>,
    calendars: &BTreeMap<String, Calendar>,
    faults: &mut Faults,
) -> Option<Vec<String>> {
    let names = keys.names::<String>("avoid", faults)?;
    // Others are lists of names only where every one of them is a text.
    let listed = keys.peek("avoid").and_then(Value::as_array);
    for (index, name) in listed.into_iter().flatten().enumerate() {
        let Some(name) = name.as_str().filter(|name| !calendars.contains_key(*name)) else {
            continue;
        };
        let path = format!("{}[{index}]", keys.path_of("avoid"));
        let hint = match calendars.is_empty() {
            true => "name calendars in updateSettings.calendars".to_owned(),
            false => nearest(name, calendars.keys().map(String::as_str), "calendars"),
        };
        fault(
            faults,
            &path,
            format!("there is no calendar {name:?}"),
            hint,
        );
    }
    Some(names)
}
