//! Stories: a fleet, what happens to it, what an operator types, and what `lab` prints.
//!
//! A story is a text. It begins with what it shows, in words, and the fleet's configuration as
//! JSON. Each line after that which begins with `* ` happens, and each that begins with `$ lab` is
//! typed; what `lab` prints follows it, indented by four columns. Before an approval `LAB_IDENTITY=ada`
//! says that somebody else gives it.
//!
//! ```text
//! * system 2 is unhealthy on web-01     any flaw of the simulator; "everywhere" for all machines
//! * system 2 needs a reboot             or: a soft-reboot; on web-01
//! * system 2 is prepared                everybody is to run it
//! * system 2 is released                 what the source of schedules names from now on
//! * 20 min pass                         also h
//! * web-01 loses its power              it comes back by itself
//! * web-01 is cut off                   and: can be reached again
//! * web-01 falls ill                    and: is well again
//! * gate site finds fail                and: pass, inconclusive, error; until then, all pass
//! * the balancer of web is gone         and: is there again
//! * the coordinator dies                it comes back by itself
//! * the configuration has updateSettings.maxParallel 2     any key by its path, and JSON
//! * calendar holidays says 2026-03-02   somebody writes that day into it
//! * the coordinator is away for 8 h
//! ```

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "a story that meets with anything else is wrong, and says so"
)]

mod typed;
mod views;

use common::MachineName;
use coordinator_core::{
    Reply,
    view::{Query, View},
};
use serde_json::Value;

use super::{
    chance::Chance,
    event::{At, BootInto, Command, Event, Flaw, MachineIndex, Nature},
    operator::OPERATOR,
    rng::Rng,
    run::Run,
    setup::{HOUR, MINUTE, Rates, Setup, system},
};

/// Monday, 2 March 2026, 08:00 UTC.
const BEGIN_MS: i64 = 1_772_438_400_000;

/// How long the fleet is given to answer before the next line.
const MOMENT: At = 2_000;

/// What a story cannot mean.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {text}")]
pub struct Nonsense {
    line: usize,
    text: String,
}

/// Plays a story. It comes back with what `lab` really printed.
pub fn play(story: &str) -> Result<String, Nonsense> {
    let (title, body) = story.split_once("\n{").ok_or_else(|| Nonsense {
        line: 1,
        text: "a title, and the configuration on lines of its own".to_owned(),
    })?;
    let (document, lines) = body.split_once("\n}\n").ok_or_else(|| Nonsense {
        line: 1,
        text: "the configuration does not end".to_owned(),
    })?;
    let document = format!("{{{document}\n}}");
    let before = title.lines().count() + document.lines().count();
    let mut told = format!("{title}\n{document}\n");
    let wrong = |line, text| Nonsense { line, text };
    let parsed =
        serde_json::from_str(&document).map_err(|error| wrong(before, error.to_string()))?;
    let mut stage = Stage::new(parsed);
    for (number, line) in lines.lines().enumerate() {
        let at = |text| wrong(before + number + 1, text);
        if let Some(happens) = line.strip_prefix("* ") {
            told.push_str(&format!("{line}\n"));
            stage.happens(happens).map_err(at)?;
        } else if let Some(typed) = line.strip_prefix("$ ") {
            told.push_str(&format!("{line}\n"));
            let printed = stage.typed(typed).map_err(at)?;
            for line in printed.trim_end().lines() {
                told.push_str(format!("    {line}").trim_end());
                told.push('\n');
            }
        }
    }
    if let Some(violation) = stage.run.world.violations.first() {
        return Err(wrong(0, violation.text.clone()));
    }
    Ok(told)
}

struct Stage {
    run: Run,
    /// Who approves and rejects.
    operator: String,
}

impl Stage {
    /// The fleet of this configuration, up, enrolled and idle.
    fn new(document: Value) -> Self {
        let groups = document["updateGroups"].as_object();
        let members = groups
            .into_iter()
            .flatten()
            .map(|(_, group)| &group["machines"]);
        let names = members.filter_map(Value::as_array).flatten();
        let machines = names.filter_map(Value::as_str).map(str::to_owned).collect();
        let coordinators = document["updateSettings"]["coordinators"].clone();
        let setup = Setup {
            seed: 1,
            start: BEGIN_MS,
            document,
            machines,
            drifts: Vec::new(),
            poll_hold_s: 600,
            poll_pause_s: 30,
            health_every_s: 3600,
            duration: At::MAX,
        };
        let chance = Chance::new(Rng::new(1), Rates::default(), setup.machines.len());
        let mut run = Run::new(setup, chance, None);
        // The coordinator runs elsewhere, unless the story is about where it runs.
        let listed = |own: &MachineName| {
            let mut listed = coordinators.as_array().into_iter().flatten();
            listed.any(|one| one.as_str() == Some(own.as_str()))
        };
        let own = &mut run.world.coordinator.own;
        *own = own.take().filter(listed);
        run.begin();
        let operator = OPERATOR.to_owned();
        let mut stage = Self { run, operator };
        stage.passes(5 * MINUTE);
        stage
    }

    fn passes(&mut self, time: At) {
        let end = self.run.world.now + time;
        self.run.until(end);
        self.run.world.now = end;
    }

    fn event(&mut self, event: Event) {
        let now = self.run.world.now;
        self.run.chance.event(now, event);
        self.passes(1);
    }

    fn happens(&mut self, line: &str) -> Result<(), String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [number, unit @ ("min" | "h"), "pass" | "passes"] => {
                let number: At = number.parse().map_err(|_| format!("{number} {unit}?"))?;
                self.passes(number * if *unit == "h" { HOUR } else { MINUTE });
            }
            ["gate", gate, "finds", finding] => {
                let finding = serde_json::from_value(Value::from(*finding));
                let finding = finding.map_err(|error| error.to_string())?;
                let gate = (*gate).to_owned();
                self.event(Event::Gate { gate, finding });
            }
            ["the", "balancer", "of", group, rest @ ..] => {
                let works = match rest {
                    ["is", "gone"] => false,
                    ["is", "there", "again"] => true,
                    _ => return Err(format!("{line}?")),
                };
                let group = (*group).to_owned();
                self.event(Event::Balancer { group, works });
            }
            ["the", "coordinator", "dies"] => self.event(Event::CoordinatorDies),
            ["the", "configuration", "has", path, ..] => {
                let value = line.split_once(path).map_or("", |(_, value)| value);
                self.configure(path, value)?;
            }
            ["calendar", name, "says", days] => self.calendar(name, days)?,
            ["the", "coordinator", "is", "away", "for", hours, "h"] => {
                let hours: At = hours.parse().map_err(|_| format!("{hours} h?"))?;
                self.run.chance.away = hours * HOUR;
                self.event(Event::CoordinatorDies);
                self.run.chance.away = 0;
                self.passes(hours * HOUR + 5 * MINUTE);
            }
            ["system", number, "is", "prepared"] => self.prepare(number)?,
            ["system", number, "is", "released"] => {
                self.run.chance.systems =
                    number.parse().map_err(|_| format!("system {number}?"))?;
            }
            [
                "system",
                number,
                "needs",
                "a",
                kind @ ("reboot" | "soft-reboot"),
                rest @ ..,
            ] => {
                let on = match rest {
                    [] => None,
                    ["on", machine] => Some(self.machine(machine)?),
                    _ => return Err("on MACHINE, or nothing more?".to_owned()),
                };
                self.nature(number, on, |nature| {
                    nature.needs_reboot = true;
                    nature.user_space = *kind == "soft-reboot";
                })?;
            }
            ["system", number, "is", flaw, rest @ ..] => {
                let flaw: Flaw = serde_json::from_value(Value::from(*flaw))
                    .map_err(|error| error.to_string())?;
                let on = match rest {
                    ["everywhere"] => None,
                    ["on", machine] => Some(self.machine(machine)?),
                    _ => return Err("on MACHINE, or everywhere?".to_owned()),
                };
                self.nature(number, on, |nature| nature.flaw = Some(flaw))?;
            }
            [machine, rest @ ..] => {
                let machine = self.machine(machine)?;
                let event = match rest {
                    ["loses", "its", "power"] => Event::PowerOff {
                        machine,
                        ordered: false,
                    },
                    ["boots"] => Event::Boot {
                        machine,
                        into: BootInto::Default,
                    },
                    ["is", "cut", "off"] => link(machine, false),
                    ["can", "be", "reached", "again"] => link(machine, true),
                    ["falls", "ill"] => Event::Ill { machine, ill: true },
                    ["is", "well", "again"] => Event::Ill {
                        machine,
                        ill: false,
                    },
                    _ => return Err(format!("{line}?")),
                };
                self.event(event);
            }
            [] => return Err("nothing happens".to_owned()),
        }
        Ok(())
    }

    /// Another value for this key of the document.
    fn configure(&mut self, path: &str, value: &str) -> Result<(), String> {
        let mut document = self.document()?;
        let key = path.split('.').fold(&mut document, |at, key| &mut at[key]);
        *key = serde_json::from_str(value).map_err(|error| error.to_string())?;
        self.set(document)
    }

    /// Somebody adds days to a calendar of the configuration in force.
    fn calendar(&mut self, name: &str, days: &str) -> Result<(), String> {
        let mut document = self.document()?;
        let dates = &mut document["updateSettings"]["calendars"][name]["dates"];
        match dates.as_array_mut() {
            Some(dates) => dates.push(Value::from(days)),
            None => *dates = Value::from(vec![days]),
        }
        self.set(document)
    }

    fn document(&self) -> Result<Value, String> {
        match self.view(&Query::Config)? {
            View::Config(_, document) => Ok(document),
            _ => Err("there is no configuration".to_owned()),
        }
    }

    fn set(&mut self, document: Value) -> Result<(), String> {
        match self.ask(Command::Configure { document })? {
            Reply::Refused(refusal) => Err(refusal.to_string()),
            _ => Ok(()),
        }
    }

    fn machine(&self, name: &str) -> Result<MachineIndex, String> {
        let mut known = self.run.world.index_of.iter();
        let found = known.find(|(known, _)| known.as_str() == name);
        found
            .map(|(_, index)| *index)
            .ok_or_else(|| format!("no machine {name}"))
    }

    fn nature(
        &mut self,
        number: &str,
        on: Option<MachineIndex>,
        change: impl Fn(&mut Nature),
    ) -> Result<(), String> {
        let path = system(number.parse().map_err(|_| format!("system {number}?"))?);
        for machine in 0..self.run.world.machines.len() {
            if on.is_none_or(|on| on == machine) {
                let mut nature = self.run.world.machines[machine].nature(&path);
                change(&mut nature);
                let system = path.clone();
                self.event(Event::Nature {
                    machine,
                    system,
                    nature,
                });
            }
        }
        Ok(())
    }

    fn prepare(&mut self, number: &str) -> Result<(), String> {
        let path = system(number.parse().map_err(|_| format!("system {number}?"))?);
        let machines = 0..self.run.world.machines.len();
        let targets = machines.map(|machine| (machine, path.clone())).collect();
        let reply = self.ask(Command::Prepare { targets })?;
        self.passes(20 * MINUTE);
        match reply {
            Reply::Refused(refusal) => Err(refusal.to_string()),
            _ => Ok(()),
        }
    }

    /// Asks as an operator, and gives the fleet a moment to begin what follows.
    fn ask(&mut self, command: Command) -> Result<Reply, String> {
        let now = self.run.world.now;
        let command = Box::new(command);
        self.run.chance.event(now, Event::Operator { command });
        let mut reply = None;
        while reply.is_none() && self.run.world.now < now + MOMENT {
            let end = self.run.world.now + 1;
            self.run.until(end);
            self.run.world.now = end;
            reply = self.run.world.answers.drain(..).next();
        }
        self.passes(MOMENT);
        reply.ok_or_else(|| "the coordinator does not answer".to_owned())
    }
}

fn link(machine: MachineIndex, works: bool) -> Event {
    Event::Link {
        machine,
        to_coordinator: works,
        from_coordinator: works,
    }
}
