//! `lab update-history`: what happened, newest first.

use lab_proto::operator::{History, HistoryEntry};

use super::{Look, marked, span, transition};

/// The table.
pub fn history(history: &History, look: &Look) -> String {
    if history.entries.is_empty() {
        return "nothing happened in that time\n".to_owned();
    }
    look.columns(0, history.entries.iter().map(|entry| row(entry, look)))
}

fn row(entry: &HistoryEntry, look: &Look) -> Vec<String> {
    let what = match entry.verdict.as_str() {
        "" => entry.kind.clone(),
        verdict => marked(verdict),
    };
    let whom = match (entry.machine.as_str(), entry.group.as_str()) {
        ("", "") => entry.rollout.clone(),
        ("", group) => group.to_owned(),
        (machine, _) => machine.to_owned(),
    };
    vec![look.stamp(&entry.at), what, whom, details(entry)]
}

fn details(entry: &HistoryEntry) -> String {
    let mut parts = Vec::new();
    if !entry.text.is_empty() {
        parts.push(entry.text.clone());
    }
    if !entry.to.is_empty() {
        parts.push(transition(&entry.from, &entry.to, &entry.machine));
    }
    if entry.generation > 0 {
        parts.push(format!("generation {}", entry.generation));
    }
    if entry.took_s > 0 {
        parts.push(format!("took {}", span(entry.took_s)));
    }
    if !entry.by.is_empty() {
        parts.push(format!("by {}", entry.by));
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::look;

    #[test]
    fn a_day_in_the_life_of_a_fleet() {
        let path = |version: char| {
            let hash = version.to_string().repeat(32);
            format!("/nix/store/{hash}-nixos-system-monitor-01-26.05.{version}")
        };
        let attempt = HistoryEntry {
            at: "2026-11-22T02:14:09Z".into(),
            kind: "attempt".into(),
            rollout: "r-0012".into(),
            machine: "monitor-01".into(),
            group: "infrastructure".into(),
            text: "health check \"web\" failed: connection refused".into(),
            verdict: "rolled-back".into(),
            took_s: 312,
            from: path('1'),
            to: path('2'),
            generation: 41,
            ..HistoryEntry::default()
        };
        let created = HistoryEntry {
            at: "2026-11-22T02:00:00Z".into(),
            kind: "rollout-created".into(),
            rollout: "r-0012".into(),
            by: "geir".into(),
            ..HistoryEntry::default()
        };
        let notice = HistoryEntry {
            at: "2026-11-22T01:00:00Z".into(),
            kind: "notify".into(),
            text: "Staggered update completed successfully".into(),
            by: "geir".into(),
            ..HistoryEntry::default()
        };
        let entries = vec![attempt, created, notice];
        insta::assert_snapshot!("history", history(&History { entries }, &look()));
    }

    #[test]
    fn silence_is_told() {
        assert_eq!(
            history(&History::default(), &look()),
            "nothing happened in that time\n"
        );
    }
}
