//! The journal of a real machine, through `journalctl`.

use std::{collections::BTreeMap, fs, io, time::Duration};

use common::text;
use nix::time::{ClockId, clock_gettime};
use serde_json::Value;

use super::System;
use crate::host::{HostError, Since, UNIT_PREFIX};

/// What systemd writes when it is about to start a service again by itself: `sd-messages.h`,
/// `SD_MESSAGE_UNIT_RESTART_SCHEDULED`.
const RESTART_SCHEDULED: &str = "MESSAGE_ID=5eb03494b6584870a536b337290809b3";

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
        let entry: Value = serde_json::from_str(text.trim())
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
        let mut mark = None;
        let (from, since) = match since {
            Since::Mark => {
                let cursor = fs::read_to_string(&self.journal_mark).unwrap_or_default();
                if cursor.is_empty() {
                    return Ok(Vec::new());
                }
                // Not `--after-cursor`: with it journalctl 252 passes over one entry too many when
                // the marked one is not of this priority.
                let from = format!("--cursor={cursor}");
                mark = Some(cursor);
                (from, Duration::ZERO)
            }
            Since::Ago(duration) => ("--boot".to_owned(), ago(duration)?),
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
        let entries = text.lines().map(entry);
        let new =
            entries.filter(|entry| is_since(entry, since) && !is_mark(entry, mark.as_deref()));
        Ok(new.map(|entry| entry_line(&entry)).collect())
    }

    /// From the journal and not from the services' own counters: those begin anew with every start
    /// by hand, and do not say when.
    pub(super) async fn loops(
        &self,
        within: Duration,
        times: u32,
    ) -> Result<Vec<String>, HostError> {
        let arguments = [
            "--quiet",
            "--no-pager",
            "--boot",
            "--lines=1000",
            "--output=json",
            "--output-fields=UNIT",
            RESTART_SCHEDULED,
            // Anybody may write a message with this number.
            "_PID=1",
        ];
        let text = self.look("journalctl", &arguments).await?;
        Ok(looping(&text, ago(within)?, times))
    }
}

/// When that was, as the journal counts: since the boot. Not by the time of day, which may have been
/// set back: then all of yesterday would be new.
fn ago(duration: Duration) -> Result<Duration, HostError> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_err(|errno| HostError::io("read the clock", errno.into()))?;
    Ok(Duration::from(now).saturating_sub(duration))
}

/// One line of `journalctl --output=json`; null when it is none.
fn entry(json: &str) -> Value {
    serde_json::from_str(json).unwrap_or_default()
}

/// Whether the entry was written at this time after the boot, or later. What does not say when it was
/// is old, unless all of them count.
fn is_since(entry: &Value, since: Duration) -> bool {
    let at = entry["__MONOTONIC_TIMESTAMP"].as_str();
    let at = at.and_then(|micros| micros.parse().ok());
    at.map_or(Duration::ZERO, Duration::from_micros) >= since
}

/// Whether this is the entry that was the newest when the mark was set.
fn is_mark(entry: &Value, mark: Option<&str>) -> bool {
    mark.is_some_and(|mark| entry["__CURSOR"] == mark)
}

/// The units that are named at least so many times since this time after the boot.
fn looping(journal: &str, since: Duration, times: u32) -> Vec<String> {
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for line in journal.lines() {
        let entry = entry(line);
        let is_new = is_since(&entry, since);
        if let Some(unit) = entry["UNIT"].as_str().filter(|_| is_new) {
            *counts.entry(unit.to_owned()).or_default() += 1;
        }
    }
    let often = counts.into_iter().filter(|(_, count)| *count >= times);
    let units = often.map(|(unit, _)| unit);
    units
        .filter(|unit| !unit.starts_with(UNIT_PREFIX))
        .collect()
}

/// One journal entry in a few words.
fn entry_line(entry: &Value) -> String {
    let word = |name: &str| entry[name].as_str().unwrap_or("?").to_owned();
    text::tame_line(
        &format!("{}: {}", word("SYSLOG_IDENTIFIER"), word("MESSAGE")),
        200,
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_service_that_is_started_again_often_is_in_a_loop() {
        let at = |seconds: u64, unit: &str| {
            let micros = (seconds * 1_000_000).to_string();
            let entry = json!({ "UNIT": unit, "__MONOTONIC_TIMESTAMP": micros });
            format!("{entry}\n")
        };
        let entry = |unit: &str| at(70, unit);
        let journal = [
            entry("b.service").repeat(3),
            entry("once.service"),
            at(50, "once.service").repeat(9),
            entry("a.service").repeat(4),
            entry("lab-updater-check-0-1-1.service").repeat(9),
            "not json\n".to_owned(),
        ];
        let minute = Duration::from_secs(60);
        let found = looping(&journal.concat(), minute, 3);
        assert_eq!(found, ["a.service", "b.service"]);
        assert_eq!(looping("", minute, 3), [""; 0]);
    }

    #[test]
    fn the_marked_entry_is_not_new_and_the_next_one_is() {
        let (marked, next) = (
            json!({ "__CURSOR": "s=1;i=a" }),
            json!({ "__CURSOR": "s=1;i=b" }),
        );
        assert!(is_mark(&marked, Some("s=1;i=a")));
        assert!(!is_mark(&next, Some("s=1;i=a")));
        assert!(!is_mark(&marked, None));
    }

    #[test]
    fn a_journal_entry_becomes_one_harmless_line() {
        let json = r#"{"MESSAGE":"disk\u001b[31m on fire\nreally","SYSLOG_IDENTIFIER":"kernel"}"#;
        assert_eq!(entry_line(&entry(json)), "kernel: disk [31m on fire really");
        assert_eq!(entry_line(&entry("not json")), "?: ?");
    }
}
