//! `updateSettings`: what holds for the fleet, and what groups have unless they say otherwise.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use common::MachineName;
use serde_json::Value;

use super::{
    analysis::{self, Analyses},
    calendars,
    read::{SOME, number, rollback, timezone},
    section::{Faults, Section, Share, fault},
    terms::terms,
};
use crate::{calendar::Calendar, policy, terms::Terms};

/// Longer than the lease and the grace that machines have unless something else is said, so that the more exact
/// reasons come first.
const NO_PROGRESS: Duration = Duration::from_secs(3 * 3600);

/// Defaults that groups take from `updateSettings`.
pub(super) struct Settings {
    pub(super) max_parallel: u32,
    pub(super) timezone: String,
    pub(super) health_timeout: Duration,
    pub(super) rollback: (bool, bool),
    pub(super) stagger: Duration,
    pub(super) approval_expiry: Duration,
    pub(super) expected_duration: Duration,
    pub(super) terms: Terms,
    pub(super) no_progress: Duration,
    pub(super) max_failures: Option<policy::Share>,
    pub(super) quarantine_target_after: Option<u32>,
    pub(super) coordinators: Vec<MachineName>,
    pub(super) four_eyes: bool,
    pub(super) apart: BTreeMap<MachineName, BTreeSet<MachineName>>,
    pub(super) calendars: BTreeMap<String, Calendar>,
    pub(super) avoid: Vec<String>,
    pub(super) channels: Vec<String>,
    pub(super) webhooks: BTreeMap<String, String>,
    pub(super) prometheus: Option<String>,
    pub(super) analyses: Analyses,
}

/// Reads them, for a fleet of so many machines.
pub(super) fn settings_of(mut s: Section<'_>, fleet: usize, faults: &mut Faults) -> Settings {
    let terms = terms(&mut s, Terms::default(), faults);
    let minutes = |n: u64| Duration::from_secs(n * 60);
    let calendars = calendars::read(&mut s, faults);
    let settings = Settings {
        max_parallel: s
            .machines("maxParallel", 1, Share::AtMost(fleet), faults)
            .unwrap_or(1),
        timezone: timezone(&mut s, faults).unwrap_or_else(|| "UTC".to_owned()),
        health_timeout: s
            .duration_from("healthCheckTimeout", SOME, faults)
            .unwrap_or(minutes(5)),
        rollback: rollback(&mut s, faults).unwrap_or((true, true)),
        stagger: s.duration("staggerDelay", faults).unwrap_or(minutes(30)),
        approval_expiry: s
            .duration_from("approvalExpiry", SOME, faults)
            .unwrap_or(minutes(7 * 24 * 60)),
        expected_duration: s
            .duration("expectedDuration", faults)
            .unwrap_or(minutes(10)),
        terms,
        no_progress: s
            .duration_from("noProgressAfter", SOME, faults)
            .unwrap_or(NO_PROGRESS),
        max_failures: s.share("maxFailures", faults),
        // 0, or nothing: any number.
        quarantine_target_after: number(&mut s, "quarantineTargetAfter", faults)
            .filter(|times| *times > 0),
        coordinators: s.names("coordinators", faults).unwrap_or_default(),
        four_eyes: s.bool("fourEyes", faults).unwrap_or(false),
        apart: apart(&mut s, faults),
        avoid: calendars::avoid(&mut s, &calendars, faults).unwrap_or_default(),
        calendars,
        channels: s
            .names::<String>("notificationChannels", faults)
            .unwrap_or_default(),
        webhooks: webhooks(&mut s, faults),
        prometheus: analysis::url(&mut s, "prometheus", faults),
        analyses: Analyses::new(),
    };
    if let Some(value) = s.get("source") {
        source(value, &s.path_of("source"), faults);
    }
    s.finish(faults);
    settings
}

/// `apart = [ [ "db-01" "db-02" ] ]`: each list names machines of which one may be away at a time.
fn apart(
    settings: &mut Section<'_>,
    faults: &mut Faults,
) -> BTreeMap<MachineName, BTreeSet<MachineName>> {
    let mut apart: BTreeMap<MachineName, BTreeSet<MachineName>> = BTreeMap::new();
    let Some(value) = settings.get("apart") else {
        return apart;
    };
    let path = settings.path_of("apart");
    let Some(sets) = value.as_array() else {
        let hint = "write a list of lists, such as [ [ \"db-01\" \"db-02\" ] ]";
        fault(faults, &path, "a list is expected here", hint);
        return apart;
    };
    for (index, set) in sets.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let names = set.as_array().map(|names| {
            let names = names.iter().map(|name| name.as_str()?.parse().ok());
            names.collect::<Option<Vec<MachineName>>>()
        });
        let Some(Some(names)) = names else {
            let message = format!("{set} is no list of machines");
            fault(
                faults,
                &path,
                message,
                "write names in quotes, in a list of their own",
            );
            continue;
        };
        let all: BTreeSet<MachineName> = names.iter().cloned().collect();
        if all.len() < 2 || all.len() < names.len() {
            let message = "two or more different machines are kept apart";
            fault(faults, &path, message, "name each of them once");
        }
        for machine in &all {
            let others = all.iter().filter(|other| *other != machine).cloned();
            apart.entry(machine.clone()).or_default().extend(others);
        }
    }
    apart
}

/// `channels = { ops.webhook = "https://…"; }`
fn webhooks(settings: &mut Section<'_>, faults: &mut Faults) -> BTreeMap<String, String> {
    let mut webhooks = BTreeMap::new();
    let Some(value) = settings.get("channels") else {
        return webhooks;
    };
    let Some(channels) = Section::new(value, &settings.path_of("channels"), faults) else {
        return webhooks;
    };
    for (name, value) in channels.entries() {
        let Some(mut channel) = Section::new(value, &channels.path_of(name), faults) else {
            continue;
        };
        if let Some(url) = channel.text("webhook", faults) {
            if url.starts_with("https://") || url.starts_with("http://") {
                webhooks.insert(name.clone(), url);
            } else {
                let path = channel.path_of("webhook");
                fault(
                    faults,
                    &path,
                    format!("{url:?} is not an http or https address"),
                    "write all of it, https:// included",
                );
            }
        }
        channel.finish(faults);
    }
    webhooks
}

/// Where `lab update prepare` and schedules find the targets. Here only its shape is checked.
pub(super) fn source(value: &Value, path: &str, faults: &mut Faults) {
    let Some(mut source) = Section::new(value, path, faults) else {
        return;
    };
    let given = ["targets", "flake", "channel"]
        .into_iter()
        .filter(|key| source.text(key, faults).is_some())
        .count();
    if given != 1 {
        let message = "exactly one of targets, flake and channel must be given";
        let hint = "keep the one that `lab update prepare` is to use";
        fault(faults, &source.path.clone(), message, hint);
    }
    source.text("signKey", faults);
    source.text("pushTo", faults);
    source.bool("buildOnMachine", faults);
    source.finish(faults);
}
