//! The lines of an iCalendar text: unfolded, with name, parameters and value.

use super::IcsError;

/// One content line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Where it begins, from 1.
    pub(super) number: usize,
    /// In capital letters.
    pub(super) name: String,
    /// Names in capital letters, and values without quotes.
    pub(super) parameters: Vec<(String, String)>,
    pub(super) value: String,
}

impl Line {
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// All lines of a text.
pub(super) fn lines(text: &str) -> Result<Vec<Line>, IcsError> {
    let mut unfolded: Vec<(usize, String)> = Vec::new();
    for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        match (line.strip_prefix([' ', '\t']), unfolded.last_mut()) {
            (Some(more), Some((_, begun))) => begun.push_str(more),
            (Some(_), None) | (None, _) => unfolded.push((index + 1, line.to_owned())),
        }
    }
    let written = unfolded
        .into_iter()
        .filter(|(_, line)| !line.trim().is_empty());
    written.map(|(number, line)| split(number, &line)).collect()
}

/// `NAME;PARAMETER="a:b":value`
fn split(number: usize, line: &str) -> Result<Line, IcsError> {
    let mut quoted = false;
    let mut parts: Vec<&str> = Vec::new();
    let mut from = 0;
    let mut value = None;
    for (at, character) in line.char_indices() {
        match character {
            '"' => quoted = !quoted,
            ';' | ':' if !quoted => {
                parts.push(&line[from..at]);
                from = at + 1;
                if character == ':' {
                    value = Some(line[from..].to_owned());
                    break;
                }
            }
            _ => {}
        }
    }
    let Some(value) = value else {
        return Err(IcsError::new(number, "is no line of an iCalendar text"));
    };
    let mut parts = parts.into_iter();
    let name = parts.next().unwrap_or_default().trim().to_uppercase();
    let parameters = parts.filter_map(|part| {
        let (name, value) = part.split_once('=')?;
        Some((
            name.trim().to_uppercase(),
            value.trim_matches('"').to_owned(),
        ))
    });
    Ok(Line {
        number,
        name,
        parameters: parameters.collect(),
        value,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_unfolded_and_split() {
        let text =
            "\u{feff}BEGIN:VEVENT\r\nSUMM\r\n ARY;x=\"a:b;c\";Y=2:Day\r\n\toff: at last\r\n\r\n";
        let found = lines(text).expect("lines");
        assert_eq!(found[0].value, "VEVENT");
        assert_eq!((found[1].number, found[1].name.as_str()), (2, "SUMMARY"));
        assert_eq!(found[1].value, "Dayoff: at last");
        assert_eq!(found[1].parameter("X"), Some("a:b;c"));
        assert_eq!(found[1].parameter("Y"), Some("2"));
        let error = lines("BEGIN:VEVENT\nno colon").expect_err("no line");
        assert_eq!(error.line, 2);
    }
}
