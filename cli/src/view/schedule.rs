//! `lab schedule list`.

use lab_proto::operator::{Schedule, ScheduleList, SchedulePast, ScheduleRun};

use super::{Look, marked};

/// Every schedule: what it does, when next, what of it is under way, and how the last run ended.
pub fn list(list: &ScheduleList, look: &Look) -> String {
    if list.schedules.is_empty() {
        return "no schedules; the configuration has them under `schedules`\n".to_owned();
    }
    let one = |schedule: &Schedule| {
        let groups = match schedule.groups.as_slice() {
            [] => "all groups".to_owned(),
            groups => groups.join(", "),
        };
        let mut text = format!(
            "{}   {} of {groups}, {:?} in {}\n",
            schedule.name, schedule.action, schedule.cron, schedule.timezone
        );
        let row = |what: &str, says: String| vec![what.to_owned(), says];
        let next = match &schedule.next {
            Some(next) => look.when_there(next, &schedule.timezone),
            None => "never".to_owned(),
        };
        let mut rows = Vec::new();
        match &schedule.skip {
            Some(skip) => {
                let why = match skip.reason.as_str() {
                    "" => String::new(),
                    reason => format!(": {reason}"),
                };
                let says = format!("{next}; left out, as {} wishes{why}", skip.by);
                rows.push(row("next", says));
            }
            None => rows.push(row("next", next)),
        }
        if let Some(run) = &schedule.run {
            rows.push(row("now", under_way(run, look)));
        }
        if let Some(last) = &schedule.last {
            rows.push(row("last", ended(last, look)));
        }
        text.push_str(&look.columns(2, rows));
        text
    };
    list.schedules.iter().map(one).collect()
}

fn under_way(run: &ScheduleRun, look: &Look) -> String {
    let what = match run.stage.as_str() {
        "resolving" => "its targets are being found out".to_owned(),
        "checking" => "machines are asked for their health".to_owned(),
        "cleaning" => "machines are being cleaned up".to_owned(),
        "rollout" => format!("rollout {}", run.rollout),
        other => other.to_owned(),
    };
    let by = match run.by.as_str() {
        "" => String::new(),
        by => format!(", asked for by {by}"),
    };
    format!(
        "run {}: {what}{by}, begun {}{}",
        run.number,
        look.ago(&run.began_at),
        left_out(run)
    )
}

/// Whom the rollout of a run leaves out, the first few by name.
fn left_out(run: &ScheduleRun) -> String {
    const SHOWN: usize = 4;
    let shown = run.left_out.iter().take(SHOWN);
    let shown: Vec<String> = shown
        .map(|out| format!("{} (in rollout {})", out.machine, out.rollout))
        .collect();
    match run.left_out.len() {
        0 => String::new(),
        1..=SHOWN => format!("; left out: {}", shown.join(", ")),
        all => format!("; left out: {} and {} more", shown.join(", "), all - SHOWN),
    }
}

fn ended(past: &SchedulePast, look: &Look) -> String {
    let state = marked(&past.how);
    format!("{state} {}: {}", look.ago(&past.at), past.text)
}

#[cfg(test)]
mod tests {
    use lab_proto::operator::ScheduleSkip;

    use super::*;
    use crate::view::tests::look;

    #[test]
    fn each_says_when_next_and_how_it_went() {
        let weekly = Schedule {
            name: "weekly".into(),
            action: "update".into(),
            cron: "0 2 * * 0".into(),
            timezone: "America/New_York".into(),
            next: Some("2026-11-22T07:00:00Z".into()),
            skip: Some(ScheduleSkip {
                by: "geir".into(),
                reason: "open house".into(),
            }),
            run: Some(ScheduleRun {
                number: 7,
                began_at: "2026-11-21T20:00:00Z".into(),
                stage: "rollout".into(),
                rollout: "r3".into(),
                by: "ada".into(),
                ..ScheduleRun::default()
            }),
            last: Some(SchedulePast {
                how: "missed".into(),
                at: "2026-11-15T09:00:00Z".into(),
                text: "nobody was there to begin it".into(),
                ..SchedulePast::default()
            }),
            ..Schedule::default()
        };
        let health = Schedule {
            name: "health".into(),
            action: "health-check".into(),
            cron: "@daily".into(),
            timezone: "UTC".into(),
            groups: vec!["db".into(), "web".into()],
            ..Schedule::default()
        };
        let schedules = ScheduleList {
            schedules: vec![health, weekly],
            ..ScheduleList::default()
        };
        insta::assert_snapshot!(list(&schedules, &look()));
        assert!(list(&ScheduleList::default(), &look()).starts_with("no schedules"));
    }
}
