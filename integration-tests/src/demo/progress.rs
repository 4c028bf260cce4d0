//! What a person sees meanwhile: a table that changes in place on a terminal, calm lines
//! otherwise.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal as _, Write as _},
};

use common::Timestamp;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use lab_proto::operator::{Rollout, RolloutGroup, RolloutMachine, Status};

use super::{fleet_file::Fleet, witness::clock};

/// Shows a demo.
pub(super) struct Progress {
    kind: Kind,
    /// What was last said about each machine and group, so that lines tell news only.
    said: BTreeMap<String, String>,
}

enum Kind {
    Lines,
    Table(Table),
}

struct Table {
    all: MultiProgress,
    head: ProgressBar,
    groups: BTreeMap<String, ProgressBar>,
    machines: BTreeMap<String, ProgressBar>,
}

/// What there is to show at one moment.
pub(super) struct Moment<'a> {
    /// The fleet's time.
    pub(super) time: Timestamp,
    /// The coordinator's word.
    pub(super) status: &'a Status,
    /// The rollout that is watched.
    pub(super) rollout: &'a Rollout,
    /// Machines that are away, as the witness sees it.
    pub(super) away: usize,
}

impl Progress {
    /// For this fleet: a table when standard output is a terminal.
    pub(super) fn new(fleet: &Fleet) -> Self {
        let kind = if io::stdout().is_terminal() {
            Kind::Table(Table::new(fleet))
        } else {
            Kind::Lines
        };
        Self {
            kind,
            said: BTreeMap::new(),
        }
    }

    /// Tells something that happened once.
    pub(super) fn say(&self, text: &str) {
        match &self.kind {
            Kind::Lines => line(text),
            // Only a terminal that went away makes this fail.
            Kind::Table(table) => table.all.println(text).unwrap_or(()),
        }
    }

    /// Shows where things stand.
    pub(super) fn show(&mut self, moment: &Moment<'_>) {
        match &self.kind {
            Kind::Lines => self.tell_news(moment),
            Kind::Table(table) => table.draw(moment),
        }
    }

    /// Leaves the last table on the screen.
    pub(super) fn end(&self) {
        if let Kind::Table(table) = &self.kind {
            table.end();
        }
    }

    fn tell_news(&mut self, moment: &Moment<'_>) {
        let mut news = Vec::new();
        for group in &moment.rollout.groups {
            let text = group_text(group);
            // The numbers in a reason change all the time; its kind is the news.
            let reason = group.wait_reason.as_ref().map_or("", |r| r.kind.as_str());
            let key = format!("{} {reason}", group.state);
            if self
                .said
                .insert(format!("group {}", group.name), key.clone())
                .as_deref()
                != Some(&key)
            {
                news.push(format!("group {}: {text}", group.name));
            }
            for machine in group.waves.iter().flat_map(|wave| &wave.machines) {
                let state = &machine.state;
                let before = self.said.insert(machine.name.clone(), state.clone());
                if before.as_ref() != Some(state) {
                    news.push(format!("{:<16} {}", machine.name, machine_text(machine)));
                }
            }
        }
        for text in news {
            line(&format!("{}  {text}", clock(moment.time)));
        }
    }
}

impl Table {
    fn new(fleet: &Fleet) -> Self {
        let all = MultiProgress::new();
        let add = |prefix: String| {
            let bar = all.add(ProgressBar::new_spinner());
            // The template is a constant and has no mistake that `with_template` could find.
            if let Ok(style) = ProgressStyle::with_template("{prefix}{wide_msg}") {
                bar.set_style(style);
            }
            bar.set_prefix(prefix);
            bar
        };
        let head = add(String::new());
        let (mut groups, mut machines) = (BTreeMap::new(), BTreeMap::new());
        for (name, group) in fleet.groups() {
            let bar = add(format!("{name:<18}"));
            groups.insert(name.to_string(), bar);
            for machine in &group.machines {
                let bar = add(format!("  {machine:<16}"));
                machines.insert(machine.to_string(), bar);
            }
        }
        Self {
            all,
            head,
            groups,
            machines,
        }
    }

    fn draw(&self, moment: &Moment<'_>) {
        self.head.set_message(format!(
            "{} UTC   rollout {} {}   away {} of {}",
            clock(moment.time),
            moment.rollout.id,
            moment.rollout.state,
            moment.away,
            moment.status.away_allowed,
        ));
        for group in &moment.rollout.groups {
            if let Some(bar) = self.groups.get(&group.name) {
                bar.set_message(group_text(group));
            }
            for machine in group.waves.iter().flat_map(|wave| &wave.machines) {
                if let Some(bar) = self.machines.get(&machine.name) {
                    bar.set_message(machine_text(machine));
                }
            }
        }
    }

    fn end(&self) {
        for bar in self.groups.values().chain(self.machines.values()) {
            bar.abandon();
        }
        self.head.abandon();
    }
}

fn group_text(group: &RolloutGroup) -> String {
    match &group.wait_reason {
        Some(reason) if group.state != "finished" => format!("{}: {}", group.state, reason.text),
        Some(_) | None => group.state.clone(),
    }
}

fn machine_text(machine: &RolloutMachine) -> String {
    let state = machine.state.as_str();
    let mark = match state {
        "leased" => "▶",
        "updated" => "✔",
        "rolled-back" => "↩",
        "failed" | "refused" => "✖",
        "overdue" => "⚠",
        _ => "○",
    };
    let detail = match state {
        "leased" => machine.step.as_str(),
        "rolled-back" | "failed" | "refused" | "reboot-required" => machine.reason.as_str(),
        _ => "",
    };
    if detail.is_empty() {
        format!("{mark} {state}")
    } else {
        format!("{mark} {state}: {detail}")
    }
}

/// One line on standard output. A reader that went away is no error.
pub(super) fn line(text: &str) {
    writeln!(io::stdout(), "{text}").ok();
}
