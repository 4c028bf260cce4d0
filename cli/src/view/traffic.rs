//! `lab traffic`.

use lab_proto::operator::{GroupTraffic, TrafficList, TrafficMove, TrafficSide};

use super::Look;

/// Every group with two sides.
pub fn list(list: &TrafficList, look: &Look) -> String {
    if list.groups.is_empty() {
        return "no group has two sides; the configuration has them as blueGreen of a group\n"
            .to_owned();
    }
    list.groups.iter().map(|group| one(group, look)).collect()
}

/// One of them: its sides, where its traffic is, and what is under way.
pub fn one(group: &GroupTraffic, look: &Look) -> String {
    let row = |what: &str, says: String| vec![what.to_owned(), says];
    let mut rows: Vec<Vec<String>> = group
        .sides
        .iter()
        .map(|side| row(&side.name, of_side(side, group, look)))
        .collect();
    if let Some(moving) = &group.moving {
        rows.push(row("now", under_way(moving, look)));
    }
    if !group.given_up.is_empty() {
        rows.push(row(
            "⚠",
            format!("the last move was given up: {}", group.given_up),
        ));
    }
    if !group.before.is_empty() && group.moving.is_none() {
        rows.push(row("back", format!("lab traffic back {}", group.group)));
    }
    format!("{}\n{}", group.group, look.columns(2, rows))
}

/// Why the traffic is not on this side now that no move is under way; `None` when it is.
pub fn missing(group: &GroupTraffic, to: &str) -> Option<String> {
    let GroupTraffic {
        group: name,
        settled,
        by,
        given_up,
        ..
    } = group;
    if !given_up.is_empty() {
        return Some(format!(
            "the traffic of group {name} did not move to side {to}: {given_up}"
        ));
    }
    let live = group.sides.iter().find(|side| side.live);
    let on = live.map_or("", |side| side.name.as_str());
    match settled {
        true if on == to => None,
        true => Some(format!(
            "the traffic of group {name} is on side {on}, by {by}, and not on side {to}"
        )),
        false => Some(format!(
            "where the traffic of group {name} is, is not known for sure"
        )),
    }
}

fn of_side(side: &TrafficSide, group: &GroupTraffic, look: &Look) -> String {
    let machines = side.machines.join(", ");
    let mark = match (side.live, group.settled) {
        (true, true) => {
            let (since, by) = (look.ago(&group.since), &group.by);
            format!("● traffic, since {since}, by {by}   ")
        }
        (true, false) if group.since.is_empty() => "● traffic, as far as is known   ".to_owned(),
        (_, false) => "◐ maybe traffic   ".to_owned(),
        (false, true) => "○ idle   ".to_owned(),
    };
    format!("{mark}{machines}")
}

fn under_way(moving: &TrafficMove, look: &Look) -> String {
    let TrafficMove {
        to,
        by,
        attempt,
        attempts,
        at,
        error,
        asked,
        ..
    } = moving;
    let begun = format!("to side {to}, by {by}, attempt {attempt} of {attempts}");
    match (error.as_str(), &asked[..]) {
        ("", []) => format!("{begun}, begun {}", look.ago(at)),
        ("", asked) => {
            let (since, asked) = (look.ago(at), asked.join(", "));
            format!("{begun}, begun {since}, waiting for {asked}")
        }
        (error, _) => format!("{begun} failed: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::look;

    fn side(name: &str, live: bool) -> TrafficSide {
        TrafficSide {
            name: name.into(),
            live,
            machines: vec![format!("{name}-1"), format!("{name}-2")],
        }
    }

    #[test]
    fn each_group_says_where_its_traffic_is_and_what_is_under_way() {
        let groups = vec![
            GroupTraffic {
                group: "api".into(),
                sides: vec![side("blue", true), side("green", false)],
                ..GroupTraffic::default()
            },
            GroupTraffic {
                group: "shop".into(),
                sides: vec![side("blue", true), side("green", false)],
                since: "2026-11-21T20:00:00Z".into(),
                by: "rollout r3".into(),
                moving: Some(TrafficMove {
                    to: "green".into(),
                    by: "ada".into(),
                    attempt: 2,
                    attempts: 5,
                    error: "server web/green-2 is not up".into(),
                    ..TrafficMove::default()
                }),
                ..GroupTraffic::default()
            },
            GroupTraffic {
                group: "mail".into(),
                sides: vec![side("blue", true), side("green", false)],
                since: "2026-11-21T20:00:00Z".into(),
                by: "rollout r3".into(),
                moving: Some(TrafficMove {
                    to: "green".into(),
                    by: "rollout r4".into(),
                    attempt: 1,
                    attempts: 5,
                    at: "2026-11-21T20:00:00Z".into(),
                    asked: vec!["green-1".into(), "green-2".into()],
                    ..TrafficMove::default()
                }),
                ..GroupTraffic::default()
            },
            GroupTraffic {
                group: "web".into(),
                sides: vec![side("blue", false), side("green", true)],
                settled: true,
                since: "2026-11-21T20:00:00Z".into(),
                by: "rollout r3".into(),
                before: "blue".into(),
                given_up: "HAProxy cannot be reached".into(),
                ..GroupTraffic::default()
            },
        ];
        let all = TrafficList {
            groups,
            ..TrafficList::default()
        };
        insta::assert_snapshot!(list(&all, &look()));
        assert!(list(&TrafficList::default(), &look()).starts_with("no group"));
    }
}
