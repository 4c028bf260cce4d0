//! The journal of a real machine, through `journalctl`.

use std::{fs, io};

use common::text;

use super::System;
use crate::host::{HostError, Since};

impl System {
    /// The end of what a unit wrote, from the journal.
    pub(super) async fn output(&self, unit: &str) -> String {
        let lines = [
            "--quiet",
            "--no-pager",
            "--output=cat",
            "--lines=60",
            // Not `--unit`: that brings what systemd says about the unit as well.
            &format!("_SYSTEMD_UNIT={unit}"),
        ];
        let output = self.look("journalctl", &lines).await;
        text::tame(&output.unwrap_or_default(), text::OUTPUT_MAX)
    }

    pub(super) async fn mark(&self) -> Result<(), HostError> {
        let arguments = [
            "--quiet",
            "--no-pager",
            "--lines=1",
            "--output=json",
            "--output-fields=_BOOT_ID",
        ];
        let text = self.look("journalctl", &arguments).await?;
        let entry: serde_json::Value = serde_json::from_str(text.trim())
            .map_err(|error| HostError::io("read the journal", io::Error::other(error)))?;
        let cursor = entry["__CURSOR"].as_str().unwrap_or_default();
        fs::write(&self.journal_mark, cursor)
            .map_err(|error| HostError::io("remember the place in the journal", error))
    }

    pub(super) async fn entries(
        &self,
        priority: u8,
        since: Since,
    ) -> Result<Vec<String>, HostError> {
        let from = match since {
            Since::Mark => {
                let cursor = fs::read_to_string(&self.journal_mark).unwrap_or_default();
                if cursor.is_empty() {
                    return Ok(Vec::new());
                }
                format!("--after-cursor={cursor}")
            }
            Since::Ago(duration) => format!("--since=-{}s", duration.as_secs()),
        };
        let priority = format!("--priority={priority}");
        let arguments = [
            "--quiet",
            "--no-pager",
            "--lines=20",
            "--output=json",
            "--output-fields=MESSAGE,SYSLOG_IDENTIFIER",
            &priority,
            &from,
        ];
        let text = self.look("journalctl", &arguments).await?;
        Ok(text.lines().map(entry_line).collect())
    }
}

/// One journal entry in a few words.
fn entry_line(json: &str) -> String {
    let entry: serde_json::Value = serde_json::from_str(json).unwrap_or_default();
    let word = |name: &str| entry[name].as_str().unwrap_or("?").to_owned();
    text::tame_line(
        &format!("{}: {}", word("SYSLOG_IDENTIFIER"), word("MESSAGE")),
        200,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_entry_becomes_one_harmless_line() {
        let json = r#"{"MESSAGE":"disk\u001b[31m on fire\nreally","SYSLOG_IDENTIFIER":"kernel"}"#;
        assert_eq!(entry_line(json), "kernel: disk [31m on fire really");
        assert_eq!(entry_line("not json"), "?: ?");
    }
}
