//! An independent witness: judges the fleet by what the machines' own hooks and links say, never
//! by the coordinator's word.
//!
//! Every hook appends one line to the same file, so the order of its lines is the order of what
//! happened. A machine is away from its pre-update hook to the last hook of the same lease.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use common::{GroupName, LeaseId, MachineName, Timestamp};
use coordinator_core::{
    config::FleetConfig,
    opening::{Openings, State},
};

/// Which hook left a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hook {
    Pre,
    Post,
    PostFailed,
    Rollback,
}

/// One line of the marks.
#[derive(Clone, Debug, PartialEq)]
struct Mark {
    /// The kernel's uptime.
    uptime: Duration,
    machine: MachineName,
    hook: Hook,
    lease: LeaseId,
}

impl Mark {
    fn read(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let mark = Self {
            uptime: Duration::try_from_secs_f64(words.next()?.parse().ok()?).ok()?,
            machine: words.next()?.parse().ok()?,
            hook: match words.next()? {
                "pre" => Hook::Pre,
                "post" => Hook::Post,
                "post-failed" => Hook::PostFailed,
                "rollback" => Hook::Rollback,
                _ => return None,
            },
            lease: LeaseId(words.next()?.parse().ok()?),
        };
        words.next().is_none().then_some(mark)
    }
}

/// Something that must not happen, and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Violation {
    /// More machines of the fleet were away than may be.
    FleetLimit {
        /// Who was.
        away: Vec<MachineName>,
        /// How many may be.
        allowed: u32,
    },
    /// More machines of a group were away than may be.
    GroupLimit {
        /// Which group.
        group: GroupName,
        /// Who was.
        away: Vec<MachineName>,
        /// How many may be.
        allowed: u32,
    },
    /// A machine went away outside its window.
    Window {
        /// Which.
        machine: MachineName,
        /// When, in the fleet's time.
        at: Timestamp,
    },
    /// A group began before one that it depends on was done, or before the stagger had passed.
    Order {
        /// The group.
        group: GroupName,
        /// The one it depends on.
        before: GroupName,
    },
    /// Hooks did not run in pairs: before, and then after or back.
    Hooks {
        /// On which machine.
        machine: MachineName,
        /// What is wrong.
        what: String,
    },
    /// What a machine runs is not what its verdict says.
    Verdict {
        /// Which machine.
        machine: MachineName,
        /// What is wrong.
        what: String,
    },
    /// A line of the marks cannot be read.
    Mark(String),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |machines: &[MachineName]| {
            let names: Vec<&str> = machines.iter().map(MachineName::as_str).collect();
            names.join(", ")
        };
        match self {
            Self::FleetLimit { away, allowed } => {
                write!(f, "{} away at once, {allowed} may be", names(away))
            }
            Self::GroupLimit {
                group,
                away,
                allowed,
            } => write!(
                f,
                "{} of group {group} away at once, {allowed} may be",
                names(away)
            ),
            Self::Window { machine, at } => {
                write!(
                    f,
                    "{machine} went away outside its window, at {}",
                    clock(*at)
                )
            }
            Self::Order { group, before } => {
                write!(f, "group {group} began too early after group {before}")
            }
            Self::Hooks { machine, what } | Self::Verdict { machine, what } => {
                write!(f, "{machine}: {what}")
            }
            Self::Mark(line) => write!(f, "a hook left a mark that cannot be read: {line:?}"),
        }
    }
}

/// `02:14:05`, in UTC.
pub(super) fn clock(at: Timestamp) -> String {
    let time = jiff::Timestamp::from_millisecond(at.as_millis());
    time.map_or_else(
        |_| "??:??:??".to_owned(),
        |time| time.strftime("%H:%M:%S").to_string(),
    )
}

/// One attempt, as the hooks saw it.
#[derive(Clone, Debug, Default)]
struct Attempt {
    pre: Vec<usize>,
    post: Vec<usize>,
    post_failed: Vec<usize>,
    rollback: Vec<usize>,
}

impl Attempt {
    /// Index of the last mark.
    fn end(&self) -> usize {
        let all = self.pre.iter().chain(&self.post).chain(&self.post_failed);
        all.chain(&self.rollback).copied().max().unwrap_or(0)
    }

    fn is_over(&self) -> bool {
        !self.post.is_empty() || !self.rollback.is_empty()
    }
}

/// What the hooks said, put together.
#[derive(Clone, Debug, Default)]
pub(super) struct Testimony {
    marks: Vec<Mark>,
    unreadable: Vec<String>,
    attempts: BTreeMap<(MachineName, LeaseId), Attempt>,
}

impl Testimony {
    /// Reads the marks. A last line without an end is still being written and is left out.
    pub(super) fn read(text: &str) -> Self {
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut testimony = Self::default();
        for line in whole.lines() {
            let Some(mark) = Mark::read(line) else {
                testimony.unreadable.push(line.chars().take(200).collect());
                continue;
            };
            let index = testimony.marks.len();
            let key = (mark.machine.clone(), mark.lease);
            let attempt = testimony.attempts.entry(key).or_default();
            match mark.hook {
                Hook::Pre => attempt.pre.push(index),
                Hook::Post => attempt.post.push(index),
                Hook::PostFailed => attempt.post_failed.push(index),
                Hook::Rollback => attempt.rollback.push(index),
            }
            testimony.marks.push(mark);
        }
        testimony
    }

    /// Who was away after each mark: a machine is, from its first mark of a lease until its last;
    /// one whose attempt has not ended still is.
    fn away_over_time(&self) -> Vec<BTreeSet<&MachineName>> {
        let mut away: BTreeMap<&MachineName, LeaseId> = BTreeMap::new();
        let mut over_time = Vec::with_capacity(self.marks.len());
        for (index, mark) in self.marks.iter().enumerate() {
            let attempt = &self.attempts[&(mark.machine.clone(), mark.lease)];
            if attempt.is_over() && attempt.end() == index {
                away.remove(&mark.machine);
            } else {
                away.insert(&mark.machine, mark.lease);
            }
            over_time.push(away.keys().copied().collect());
        }
        over_time
    }

    /// The most machines that were ever away at once.
    pub(super) fn max_away(&self) -> usize {
        let over_time = self.away_over_time();
        over_time.iter().map(BTreeSet::len).max().unwrap_or(0)
    }

    /// How many are away now.
    pub(super) fn away(&self) -> usize {
        self.away_over_time().last().map_or(0, BTreeSet::len)
    }

    /// Everything that must not have happened. `fleet_time` tells the fleet's time at an uptime of
    /// the kernel; machines in `silent` may leave an attempt without an end.
    pub(super) fn violations(
        &self,
        config: &FleetConfig,
        fleet_time: impl Fn(Duration) -> Timestamp,
        silent: &BTreeSet<MachineName>,
    ) -> Vec<Violation> {
        let mut violations: Vec<Violation> = self
            .unreadable
            .iter()
            .cloned()
            .map(Violation::Mark)
            .collect();
        self.check_limits(config, &mut violations);
        self.check_hooks(silent, &mut violations);
        for mark in self.marks.iter().filter(|mark| mark.hook == Hook::Pre) {
            let at = fleet_time(mark.uptime);
            if !window_open(config, &mark.machine, at) {
                let machine = mark.machine.clone();
                violations.push(Violation::Window { machine, at });
            }
        }
        self.check_order(config, &fleet_time, &mut violations);
        violations
    }

    fn check_limits(&self, config: &FleetConfig, violations: &mut Vec<Violation>) {
        let over = |away: usize, allowed: u32| u32::try_from(away).is_ok_and(|n| n > allowed);
        for away in self.away_over_time() {
            let names = |of: &dyn Fn(&MachineName) -> bool| -> Vec<MachineName> {
                away.iter()
                    .filter(|name| of(name))
                    .map(|name| (*name).clone())
                    .collect()
            };
            let mut found = Vec::new();
            if over(away.len(), config.max_parallel) {
                found.push(Violation::FleetLimit {
                    away: names(&|_| true),
                    allowed: config.max_parallel,
                });
            }
            for (group, settings) in &config.groups {
                let members = names(&|name| config.group_of.get(name) == Some(group));
                if over(members.len(), settings.policy.max_parallel) {
                    found.push(Violation::GroupLimit {
                        group: group.clone(),
                        away: members,
                        allowed: settings.policy.max_parallel,
                    });
                }
            }
            for violation in found {
                if !violations.contains(&violation) {
                    violations.push(violation);
                }
            }
        }
    }

    fn check_hooks(&self, silent: &BTreeSet<MachineName>, violations: &mut Vec<Violation>) {
        for ((machine, lease), attempt) in &self.attempts {
            let mut say = |what: String| {
                let machine = machine.clone();
                let what = format!("{what} (lease {lease})");
                violations.push(Violation::Hooks { machine, what });
            };
            let ran = [
                ("pre-update", attempt.pre.len()),
                (
                    "post-update",
                    attempt.post.len() + attempt.post_failed.len(),
                ),
                ("rollback", attempt.rollback.len()),
            ];
            for (hook, times) in ran {
                if times > 1 {
                    say(format!("the {hook} hook ran {times} times"));
                }
            }
            match attempt.pre.first() {
                None => say("a later hook ran without the pre-update hook".to_owned()),
                Some(pre) => {
                    let others = attempt.post.iter().chain(&attempt.rollback);
                    if others.chain(&attempt.post_failed).any(|other| other < pre) {
                        say("a hook ran before the pre-update hook".to_owned());
                    }
                }
            }
            if !attempt.is_over() && !silent.contains(machine) {
                say("the pre-update hook ran, and none after it".to_owned());
            }
        }
    }

    /// The first of a group after the last of each group it depends on, and the stagger between.
    fn check_order(
        &self,
        config: &FleetConfig,
        fleet_time: &impl Fn(Duration) -> Timestamp,
        violations: &mut Vec<Violation>,
    ) {
        let of = |group: &GroupName, hook: &dyn Fn(Hook) -> bool| -> Vec<Timestamp> {
            let marks = self.marks.iter().filter(|mark| hook(mark.hook));
            marks
                .filter(|mark| config.group_of.get(&mark.machine) == Some(group))
                .map(|mark| fleet_time(mark.uptime))
                .collect()
        };
        for (group, settings) in &config.groups {
            let Some(begin) = of(group, &|hook| hook == Hook::Pre).into_iter().min() else {
                continue;
            };
            for before in &settings.policy.dependencies {
                let end = of(before, &|hook| hook != Hook::Pre).into_iter().max();
                if end.is_some_and(|end| begin < end + config.stagger_of(before)) {
                    violations.push(Violation::Order {
                        group: group.clone(),
                        before: before.clone(),
                    });
                }
            }
        }
    }
}

fn window_open(config: &FleetConfig, machine: &MachineName, at: Timestamp) -> bool {
    let Some((_, group)) = config.home_of(machine) else {
        return false;
    };
    let openings = Openings::of(&group.policy, &config.calendars);
    matches!(openings.at(at), State::Open { .. })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config() -> FleetConfig {
        FleetConfig::parse(&json!({
            "updateGroups": {
                "first": { "machines": ["a", "b"], "updatePolicy": "aggressive", "maxParallel": 1,
                    "maintenanceWindow": "02:00-03:00", "staggerDelay": "10m" },
                "second": { "machines": ["c"], "updatePolicy": "aggressive",
                    "dependencies": ["first"] }
            },
            "updateSettings": { "maxParallel": 2 }
        }))
        .expect("valid")
    }

    /// One second of uptime is a minute after two o'clock.
    fn fleet_time(uptime: Duration) -> Timestamp {
        let start: jiff::Timestamp = "2026-11-15T02:00:00Z".parse().expect("a time");
        Timestamp(start.as_millisecond()) + uptime * 60
    }

    #[track_caller]
    fn found(marks: &str) -> Vec<String> {
        let testimony = Testimony::read(marks);
        let violations = testimony.violations(&config(), fleet_time, &BTreeSet::new());
        violations.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_night_as_it_should_be() {
        let marks = "1.00 a pre 1\n2.00 a post 1\n3.00 b pre 2\n4.00 b post-failed 2\n\
                     5.00 b rollback 2\n16.00 c pre 3\n17.00 c post 3\n18.00 c pr";
        assert!(found(marks).is_empty(), "{:?}", found(marks));
        let testimony = Testimony::read(marks);
        assert_eq!((testimony.max_away(), testimony.away()), (1, 0));
    }

    #[test]
    fn two_at_once_are_seen() {
        let marks = "1.00 a pre 1\n1.50 b pre 2\n2.00 a post 1\n2.50 b post 2\n";
        assert_eq!(Testimony::read(marks).max_away(), 2);
        assert_eq!(found(marks), ["a, b of group first away at once, 1 may be"]);
    }

    #[test]
    fn a_machine_that_rolls_back_is_away_until_it_is_back() {
        // The post-update hook alone does not end it: the health check came after it.
        let marks = "1.00 a pre 1\n1.20 a post 1\n1.30 b pre 2\n1.40 a rollback 1\n1.60 b post 2\n";
        assert_eq!(Testimony::read(marks).max_away(), 2);
    }

    #[test]
    fn hooks_out_of_step_are_seen() {
        assert_eq!(
            found("1.00 a pre 1\n1.10 a pre 1\n1.20 a post 1\n"),
            ["a: the pre-update hook ran 2 times (lease 1)"]
        );
        assert_eq!(
            found("1.00 a post 1\n"),
            ["a: a later hook ran without the pre-update hook (lease 1)"]
        );
        assert_eq!(
            found("1.00 a pre 1\n"),
            ["a: the pre-update hook ran, and none after it (lease 1)"]
        );
        assert_eq!(
            found("nonsense\n"),
            ["a hook left a mark that cannot be read: \"nonsense\""]
        );
    }

    #[test]
    fn too_early_is_seen() {
        assert_eq!(
            found("61.00 a pre 1\n62.00 a post 1\n"),
            ["a went away outside its window, at 03:01:00"]
        );
        assert_eq!(
            found("1.00 a pre 1\n2.00 a post 1\n9.00 c pre 2\n9.50 c post 2\n"),
            ["group second began too early after group first"]
        );
    }
}
