//! `lab update plan`, `execute --dry-run`: what would happen, in which order, and to whom not.

use lab_proto::operator::{PlanReply, PlannedGroup, PlannedMachine};

use super::{Look, changes, counted, span, transition};

/// Kinds of changes, packages of each, and machines, that are shown.
const KINDS_SHOWN: usize = 3;
const PACKAGES_SHOWN: usize = 8;
const NAMES_SHOWN: usize = 3;

/// Whether a plan that moves nobody leaves nothing undone. A rollback that can take somebody nowhere has not done what
/// was asked, nor has an update that its machines would refuse.
pub fn leaves_nothing_undone(plan: &PlanReply, kind: &str) -> bool {
    let done = |why: &str| match kind {
        "rollback" => matches!(why, "up-to-date" | "moved-on"),
        _ => !matches!(why, "bad-target" | "target-not-allowed"),
    };
    let reasons = plan.excluded.iter().map(|excluded| &excluded.reason);
    let mut kinds = reasons.map(|reason| reason.as_ref().map_or("", |reason| &reason.kind));
    kinds.all(done)
}

/// A plan that moves nobody, and why it does not.
pub fn nobody(plan: &PlanReply, kind: &str, look: &Look) -> String {
    let heading = match leaves_nothing_undone(plan, kind) {
        true => "nothing to do\n",
        false => "no machine can go\n",
    };
    heading.to_owned() + &left_out(plan, look)
}

/// The whole plan.
pub fn plan(plan: &PlanReply, look: &Look) -> String {
    let machines = plan.groups.iter().flat_map(|group| &group.waves);
    let count: usize = machines.map(|wave| wave.machines.len()).sum();
    let mut text = if count == 0 {
        "nothing to do\n".to_owned()
    } else {
        format!(
            "plan {}   {}, at most {} away at once{}\n",
            plan.id,
            counted(count, "machine"),
            plan.max_away,
            plan.max_failures
                .map_or_else(String::new, |most| format!(", {most} may fail"))
        )
    };
    text.push_str(&ends(plan, look));
    for group in &plan.groups {
        text.push('\n');
        text.push_str(&one_group(group, look));
    }
    if !plan.changes.is_empty() {
        text.push_str("\nwhat changes, as far as it is staged\n");
        text.push_str(&all_changes(plan, look));
    }
    text.push_str(&left_out(plan, look));
    text
}

/// Who is left out, and why.
fn left_out(plan: &PlanReply, look: &Look) -> String {
    if plan.excluded.is_empty() {
        return String::new();
    }
    let lines = plan.excluded.iter().map(|excluded| {
        let reason = excluded.reason.as_ref();
        let text = reason.map(|reason| reason.text.clone()).unwrap_or_default();
        vec![excluded.machine.clone(), text]
    });
    "\nleft out\n".to_owned() + &look.columns(2, lines)
}

/// When it is all over.
fn ends(plan: &PlanReply, look: &Look) -> String {
    let sentence = match &plan.ends_at {
        _ if plan.groups.is_empty() => return String::new(),
        Some(at) => format!(
            "ends {}, if all goes well",
            look.when_there(at, zone_of(plan))
        ),
        None if plan.never_ends => {
            "⚠ does not end: within two years somebody's windows are not open for long enough"
                .to_owned()
        }
        None => return String::new(),
    };
    look.columns(0, [vec![sentence]])
}

/// The zone of all groups; empty where they have several, as then none of them is that of the whole plan.
fn zone_of(plan: &PlanReply) -> &str {
    let mut zones = plan.groups.iter().map(|group| group.timezone.as_str());
    let first = zones.next().unwrap_or_default();
    if zones.all(|zone| zone == first) {
        first
    } else {
        ""
    }
}

fn all_changes(plan: &PlanReply, look: &Look) -> String {
    let mut text = String::new();
    for kind in plan.changes.iter().take(KINDS_SHOWN) {
        let names = few(&kind.machines);
        let Some(changes) = &kind.changes else {
            continue;
        };
        let headline = format!("{names}: {}", changes::size(changes.size_bytes));
        text.push_str(&look.columns(2, [vec![headline]]));
        text.push_str(&changes::first(changes, PACKAGES_SHOWN, 4, look));
    }
    let rest = plan.changes.iter().skip(KINDS_SHOWN);
    let rest: usize = rest.map(|kind| kind.machines.len()).sum();
    let others = u64::try_from(rest).unwrap_or(u64::MAX) + plan.other_changes;
    if others > 0 {
        text.push_str(&format!(
            "  {others} more with other changes: lab machines show NAME\n"
        ));
    }
    text
}

/// `a, b, c and 4 more`.
fn few(machines: &[String]) -> String {
    let named = machines.iter().take(NAMES_SHOWN).map(String::as_str);
    let mut text = named.collect::<Vec<_>>().join(", ");
    if let Some(more @ 1..) = machines.len().checked_sub(NAMES_SHOWN) {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

fn one_group(group: &PlannedGroup, look: &Look) -> String {
    let mut facts = vec![format!("{} at once", group.max_parallel)];
    facts.push(format!("{} may fail", group.max_failures));
    if !group.policy.is_empty() {
        facts.insert(0, group.policy.clone());
    }
    let mut text = format!("{}   {}\n", group.name, facts.join(", "));
    for name in &group.after {
        let wait = group.waits.iter().find(|wait| wait.group == *name);
        // The group's own stagger is what comes after it.
        let stagger = match wait.map_or(0, |wait| wait.stagger_s) {
            0 => String::new(),
            seconds => format!(", {} later", span(seconds)),
        };
        text.push_str(&format!("  after {name}{stagger}\n"));
    }
    if !group.window.is_empty() {
        let opens = group.opens_at.as_deref().map_or_else(
            || "open now".to_owned(),
            |at| format!("opens {}", look.when_there(at, &group.timezone)),
        );
        let opens = match group.never_opens {
            true => "⚠ within two years not open for long enough".to_owned(),
            false => opens,
        };
        let window = format!("window {}, {opens}", group.window);
        text.push_str(&look.columns(2, [vec![window]]));
        if !group.avoid.is_empty() {
            text.push_str(&format!("  not in {}\n", group.avoid.join(", ")));
        }
    }
    if group.needs_approval {
        text.push_str(&format!(
            "  ⚠ needs approval: lab update approve --group={}\n",
            group.name
        ));
    }
    for (number, wave) in group.waves.iter().enumerate() {
        let canary = match (wave.canary, wave.in_place_of.join(", ").as_str()) {
            (true, "") => ", canary".to_owned(),
            (true, named) => format!(", canary in place of {named}"),
            (false, _) => String::new(),
        };
        let side = match wave.side.as_str() {
            "" => String::new(),
            side => format!(", side {side}"),
        };
        let soak = match wave.soak_s {
            0 => String::new(),
            seconds if wave.side.is_empty() => format!(", then {} of watching", span(seconds)),
            seconds => format!(", then its traffic, and {} of watching", span(seconds)),
        };
        let gates = match wave.gates_s {
            0 => String::new(),
            seconds => format!(", its gates take {} at least", span(seconds)),
        };
        let last = if wave.last {
            ", after everybody else"
        } else {
            ""
        };
        let asked = if wave.pauses {
            ", then somebody is asked"
        } else {
            ""
        };
        let when = match (&wave.begins_at, &wave.ends_at) {
            (Some(from), Some(until)) => {
                format!(", {}", look.between_there(from, until, &group.timezone))
            }
            _ => String::new(),
        };
        let headline = format!(
            "wave {}{side}{canary}{when}{last}{soak}{gates}{asked}",
            number + 1
        );
        text.push_str(&look.columns(2, [vec![headline]]));
        text.push_str(&look.columns(4, wave.machines.iter().map(machine_row)));
    }
    text
}

fn machine_row(machine: &PlannedMachine) -> Vec<String> {
    let mut remarks = Vec::new();
    remarks.push(if machine.staged {
        "staged"
    } else {
        "not staged yet"
    });
    let why = machine.reboot_reasons.join(", ");
    let how = match (machine.reboot_by_hand, machine.soft_reboot) {
        (true, _) => "needs a reboot by hand",
        (false, true) => "soft-reboots",
        (false, false) => "reboots",
    };
    let reboots = match why.as_str() {
        "" => how.to_owned(),
        why => format!("{how} ({why})"),
    };
    if machine.needs_reboot {
        remarks.push(&reboots);
    }
    let window = format!("window {}", machine.window);
    if !machine.window.is_empty() {
        remarks.push(&window);
    }
    vec![
        machine.name.clone(),
        transition(&machine.running, &machine.target, &machine.name),
        remarks.join(", "),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::look;
    use lab_proto::{
        changes::{Changes, PackageChange},
        operator::{Excluded, PlannedChanges, PlannedWait, PlannedWave, WaitReason},
    };

    fn machine(name: &str) -> PlannedMachine {
        let path = |hash: char, version: &str| {
            let hash = hash.to_string().repeat(32);
            format!("/nix/store/{hash}-nixos-system-{name}-{version}")
        };
        PlannedMachine {
            name: name.into(),
            running: path('0', "26.05.1"),
            target: path('1', "26.05.2"),
            staged: true,
            needs_reboot: ["monitor-01", "dev-02"].contains(&name),
            soft_reboot: name == "dev-02",
            reboot_by_hand: name == "monitor-01",
            reboot_reasons: match name {
                "monitor-01" => vec!["kernel".to_owned(), "initrd".to_owned()],
                "dev-02" => vec!["inhibitor:dbus".to_owned()],
                _ => Vec::new(),
            },
            begins_at: None,
            ends_at: None,
            window: match name {
                "log-server" => "22:00-23:00 Europe/Berlin".to_owned(),
                _ => String::new(),
            },
        }
    }

    fn kind(machines: &[&str], packages: usize) -> PlannedChanges {
        let package = |number: usize| PackageChange {
            name: format!("package-{number}"),
            kind: "upgraded".into(),
            before: vec!["1.0".into()],
            after: vec!["1.1".into()],
            size_bytes: 4096,
        };
        PlannedChanges {
            machines: machines.iter().map(|name| (*name).to_owned()).collect(),
            changes: Some(Changes {
                from: String::new(),
                size_bytes: 35_000_000,
                packages: (0..packages).map(package).collect(),
                more: 0,
            }),
        }
    }

    #[test]
    fn a_plan_with_everything() {
        let wave = |names: &[&str]| PlannedWave {
            machines: names.iter().map(|name| machine(name)).collect(),
            ..PlannedWave::default()
        };
        let dev = PlannedGroup {
            name: "dev".into(),
            waves: vec![wave(&["dev-01", "dev-02"])],
            max_parallel: 3,
            max_failures: 1,
            policy: "aggressive".into(),
            window: "02:00-06:00 Europe/Oslo".into(),
            ..PlannedGroup::default()
        };
        let infrastructure = PlannedGroup {
            name: "infrastructure".into(),
            waves: vec![
                PlannedWave {
                    canary: true,
                    in_place_of: vec!["ntp-01".into()],
                    begins_at: Some("2026-11-23T02:00:00Z".into()),
                    ends_at: Some("2026-11-23T02:10:00Z".into()),
                    soak_s: 600,
                    gates_s: 780,
                    pauses: true,
                    ..wave(&["monitor-01"])
                },
                wave(&["log-server"]),
            ],
            max_parallel: 1,
            policy: "manual-approval".into(),
            timezone: "America/New_York".into(),
            needs_approval: true,
            after: vec!["dev".into(), "build".into()],
            stagger_s: 600,
            waits: [("dev", 1800), ("build", 0)]
                .map(|(group, stagger_s)| PlannedWait {
                    group: group.into(),
                    stagger_s,
                })
                .into(),
            window: "03:00-05:00 Europe/Oslo".into(),
            opens_at: Some("2026-11-23T02:00:00Z".into()),
            ..PlannedGroup::default()
        };
        let excluded = Excluded {
            machine: "backup-01".into(),
            reason: Some(WaitReason {
                kind: "up-to-date".into(),
                text: "runs its target already".into(),
                ..WaitReason::default()
            }),
        };
        let whole = PlanReply {
            id: "6f1c2a9d".into(),
            groups: vec![dev, infrastructure],
            excluded: vec![excluded],
            max_away: 3,
            max_failures: Some(2),
            ends_at: Some("2026-11-23T02:30:00Z".into()),
            never_ends: false,
            changes: vec![
                kind(&["dev-01", "dev-02"], 3),
                kind(&["a", "b", "c", "d"], 12),
                kind(&["e"], 1),
                kind(&["f", "g"], 1),
            ],
            other_changes: 4,
        };
        insta::assert_snapshot!("plan", plan(&whole, &look()));
    }

    #[test]
    fn an_empty_plan_says_so() {
        assert_eq!(plan(&PlanReply::default(), &look()), "nothing to do\n");
    }
}
