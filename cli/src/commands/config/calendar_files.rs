//! `icsFile` of a calendar: the text of the file takes its place, as `ics`. The coordinator knows no
//! files of an operator.

use std::{fs, io::Read as _, path::Path};

use serde_json::{Map, Value};

use crate::error::LabError;

/// Most bytes of a file; the coordinator takes half of that, and says so itself.
const BYTES_MAX: u64 = 1024 * 1024;

/// Puts the text of every file into the document. Names of files count from where the document is.
pub(super) fn put_in(document: &mut Value, file: &Path) -> Result<(), LabError> {
    let calendars = document.pointer_mut("/updateSettings/calendars");
    let Some(calendars) = calendars.and_then(Value::as_object_mut) else {
        return Ok(());
    };
    for (name, calendar) in calendars {
        let Some(calendar) = calendar.as_object_mut() else {
            continue;
        };
        let at = || {
            format!(
                "{}: updateSettings.calendars.{name}.icsFile",
                file.display()
            )
        };
        one(calendar, file).map_err(|what| LabError::usage(what).at(at()))?;
    }
    Ok(())
}

fn one(calendar: &mut Map<String, Value>, file: &Path) -> Result<(), String> {
    let Some(named) = calendar.get("icsFile").filter(|named| !named.is_null()) else {
        return Ok(());
    };
    if calendar.get("ics").is_some_and(|text| !text.is_null()) {
        return Err("one of ics and icsFile is enough".to_owned());
    }
    let named = named
        .as_str()
        .ok_or("the name of a file is expected here")?;
    let directory = file.parent().unwrap_or(Path::new(""));
    let path = directory.join(named);
    let failed = |error| format!("failed to read {}: {error}", path.display());
    let mut text = String::new();
    let opened = fs::File::open(&path).map_err(failed)?;
    opened
        .take(BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    if text.len() as u64 > BYTES_MAX {
        return Err(format!(
            "{} has more than {BYTES_MAX} bytes",
            path.display()
        ));
    }
    calendar.remove("icsFile");
    calendar.insert("ics".to_owned(), Value::String(text));
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_calendar_file_is_read_from_beside_the_document() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("off.ics"), "BEGIN:VCALENDAR").expect("written");
        let file = directory.path().join("update-config.json");
        let document =
            |calendar: Value| json!({ "updateSettings": { "calendars": { "off": calendar } } });
        let mut good = document(json!({ "icsFile": "off.ics", "dates": ["12-25"] }));
        put_in(&mut good, &file).expect("read");
        assert_eq!(
            good,
            document(json!({ "ics": "BEGIN:VCALENDAR", "dates": ["12-25"] }))
        );
        for (bad, why) in [
            (json!({ "icsFile": "none.ics" }), "failed to read"),
            (json!({ "icsFile": 5 }), "the name of a file"),
            (json!({ "icsFile": "off.ics", "ics": "x" }), "is enough"),
        ] {
            let error = put_in(&mut document(bad), &file).expect_err(why);
            assert!(error.what.contains(why), "{error}");
            assert!(
                error.to_string().contains("calendars.off.icsFile"),
                "{error}"
            );
        }
        fs::write(
            directory.path().join("off.ics"),
            "x".repeat(1024 * 1024 + 1),
        )
        .expect("written");
        let mut big = document(json!({ "icsFile": "off.ics" }));
        assert!(
            put_in(&mut big, &file)
                .expect_err("too big")
                .what
                .contains("more than")
        );
        for other in [json!([]), json!({ "updateSettings": { "calendars": 3 } })] {
            let mut same = other.clone();
            put_in(&mut same, &file).expect("nothing to read");
            assert_eq!(same, other);
        }
    }
}
