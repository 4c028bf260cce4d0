//! What an operator types, as the commands of the simulated fleet.

use clap::Parser as _;
use cli::{
    args::{
        self, Lab,
        config::{Set, UpdateConfig},
        machines::{Machines, Verb},
        targets::Targets,
        update::Update,
    },
    config_edit, view,
};
use common::{Action, StopMode};
use coordinator::grpc::{shown_in_force, shown_plan};
use coordinator_core::{
    Reply,
    fleet::number_of,
    request::{Back, Selection, Wish},
};

use super::{
    super::{
        event::{Command, MachineIndex},
        operator::OPERATOR,
    },
    Stage,
};

impl Stage {
    /// What `lab` prints.
    pub(super) fn typed(&mut self, line: &str) -> Result<String, String> {
        let other = line
            .strip_prefix("LAB_IDENTITY=")
            .and_then(|line| line.split_once(' '));
        let (operator, line) = other.unwrap_or((OPERATOR, line));
        operator.clone_into(&mut self.operator);
        let lab = Lab::try_parse_from(shell_words(line)).map_err(|error| error.to_string())?;
        let command = match lab.command {
            args::Command::Why(why) => return self.why(why),
            args::Command::Update(Update::Status(status)) => return self.status(&status),
            args::Command::Update(Update::Plan(plan)) => return self.plan(&planned(&plan)),
            args::Command::Update(Update::Execute(execute)) if execute.dry_run => {
                return self.plan(&executed(&execute));
            }
            args::Command::Update(Update::Rollback(back)) if back.dry_run => {
                return self.plan(&taken_back(&back));
            }
            args::Command::Machines(Machines {
                verb: None, select, ..
            }) => return self.list(&select),
            args::Command::Machines(Machines {
                verb: Some(Verb::Show(which)),
                ..
            }) => return self.show(which),
            args::Command::UpdateConfig(UpdateConfig::Set(set)) => return self.set_key(set),
            args::Command::Schedule(args::schedule::Schedule::List) => return self.schedules(),
            args::Command::Schedule(args::schedule::Schedule::Run(which)) => {
                self.run.world.reason = which.reason;
                Command::RunSchedule {
                    schedule: which.schedule.into(),
                }
            }
            args::Command::Schedule(args::schedule::Schedule::Skip(which)) => {
                self.run.world.reason = which.reason;
                Command::SkipSchedule {
                    schedule: which.schedule.into(),
                }
            }
            args::Command::Targets(Targets::List) => return self.targets(),
            args::Command::Targets(Targets::Quarantine(which)) => {
                self.gives(which.reason);
                Command::QuarantineTarget {
                    target: which.target,
                }
            }
            args::Command::Targets(Targets::Release(which)) => {
                self.gives(which.reason);
                Command::ReleaseTarget {
                    target: which.target,
                }
            }
            args::Command::Traffic(args::traffic::Traffic { verb: None }) => {
                return self.traffic();
            }
            args::Command::Traffic(args::traffic::Traffic {
                verb: Some(args::traffic::Verb::Move(which)),
            }) => {
                self.gives(which.common.reason);
                Command::MoveTraffic {
                    group: which.group.into(),
                    to: Some(which.to.into()),
                }
            }
            args::Command::Traffic(args::traffic::Traffic {
                verb: Some(args::traffic::Verb::Back(which)),
            }) => {
                self.gives(which.common.reason);
                Command::MoveTraffic {
                    group: which.group.into(),
                    to: None,
                }
            }
            args::Command::EmergencyStop(stop) => {
                self.gives(stop.reason);
                Command::Stop {
                    groups: names(&stop.group),
                    mode: match stop.mode {
                        args::StopMode::Finish => StopMode::Finish,
                        args::StopMode::Rollback => StopMode::Rollback,
                    },
                }
            }
            args::Command::Resume(resume) => {
                self.gives(resume.reason);
                Command::Lift
            }
            args::Command::Update(Update::Execute(execute)) => {
                let machines = self.machines(&execute.select)?;
                self.gives(execute.reason);
                Command::Execute {
                    groups: names(&execute.select.group),
                    machines,
                    action: Action::Update,
                    parallel: execute.parallel.parallel,
                    immediate: execute.emergency,
                    retry_failed: execute.retry_failed,
                    to_generation: None,
                    before: None,
                    if_plan: execute.if_plan,
                    shown: Vec::new(),
                }
            }
            args::Command::Update(Update::Rollback(back)) => Command::Execute {
                groups: names(&back.select.group),
                machines: self.machines(&back.select)?,
                action: Action::Rollback,
                parallel: back.parallel.parallel,
                immediate: back.immediate,
                retry_failed: false,
                to_generation: back.to_generation,
                before: back.rollout.as_ref().and_then(number_of),
                if_plan: back.if_plan,
                shown: Vec::new(),
            },
            args::Command::Update(Update::Approve(approve)) => self.answer(approve, false),
            args::Command::Update(Update::Reject(reject)) => self.answer(reject, true),
            args::Command::Update(Update::Promote(promote)) => {
                self.gives(promote.reason);
                Command::Promote {
                    rollout: promote.rollout.as_ref().and_then(number_of),
                    full: promote.full,
                }
            }
            args::Command::Update(Update::Pause(which)) => {
                let rollout = number(&which);
                self.gives(which.reason);
                Command::Pause { rollout }
            }
            args::Command::Update(Update::Resume(which)) => {
                let rollout = number(&which.which);
                self.gives(which.which.reason);
                if which.measure_again {
                    Command::MeasureAgain { rollout }
                } else {
                    Command::ResumeRollout { rollout }
                }
            }
            args::Command::Update(Update::Abort(which)) => {
                let rollout = number(&which);
                self.gives(which.reason);
                Command::Abort { rollout }
            }
            args::Command::Machines(Machines {
                verb: Some(Verb::Quarantine(which)),
                ..
            }) => {
                let machines = self.named(&which.machines)?;
                self.gives(which.reason);
                Command::Quarantine { machines }
            }
            args::Command::Machines(Machines {
                verb: Some(Verb::Release(which)),
                ..
            }) => {
                let machines = self.named(&which.machines)?;
                self.gives(which.reason);
                Command::Release { machines }
            }
            _ => return Err("stories do not know this command".to_owned()),
        };
        Ok(match self.ask(command)? {
            Reply::Done(text) | Reply::Moves { text, .. } => format!("{text}\n"),
            Reply::Executed {
                rollout: Some(id), ..
            } => format!("rollout {id} goes on\n"),
            Reply::Executed {
                rollout: None,
                plan,
            } => {
                let now = self.run.world.coordinator_time();
                let kind = match plan.action {
                    Action::Update => "update",
                    Action::Rollback => "rollback",
                    Action::Reboot => "reboot",
                };
                view::plan::nobody(&shown_plan::plan(&plan, None, now), kind, &self.look())
            }
            Reply::Stopped(epoch) => format!("the fleet is stopped, epoch {epoch}\n"),
            Reply::Refused(refusal) => format!("lab: {refusal}\n"),
            other => format!("{other:?}\n"),
        })
    }

    /// Another value for a key of the configuration, as an operator sets it.
    fn set_key(&mut self, set: Set) -> Result<String, String> {
        let before = self.document()?;
        let mut document = before.clone();
        let value = config_edit::value(&set.value);
        config_edit::set(&mut document, set.whose.place(), &set.key, value)
            .map_err(|error| error.to_string())?;
        let changes = config_edit::changes(&before, &document);
        self.gives(set.reason);
        Ok(match self.ask(Command::Configure { document })? {
            Reply::Config {
                revision,
                as_before,
                warnings,
            } => {
                let shown = shown_in_force(revision, as_before, warnings);
                view::config::written(&changes, &shown)
            }
            Reply::Refused(refusal) => format!("lab: {refusal}\n"),
            other => format!("{other:?}\n"),
        })
    }

    fn answer(&mut self, approve: args::update::Approve, reject: bool) -> Command {
        let rollout = approve.rollout.as_ref().and_then(number_of);
        self.gives(approve.comment);
        let by = self.operator.clone();
        Command::Approve {
            rollout,
            group: approve.group,
            reject,
            by,
        }
    }

    /// The reason that the operator gives.
    fn gives(&mut self, reason: String) {
        self.run.world.reason = reason;
    }

    fn machines(&self, select: &args::Select) -> Result<Vec<MachineIndex>, String> {
        self.named(&select.machine)
    }

    fn named(&self, machines: &[common::MachineName]) -> Result<Vec<MachineIndex>, String> {
        let names = machines.iter();
        names.map(|name| self.machine(name.as_str())).collect()
    }
}

pub(super) fn selection(select: &args::Select) -> Selection {
    Selection {
        groups: select.group.clone(),
        machines: select.machine.clone(),
    }
}

/// What `lab update plan` plans.
fn planned(plan: &args::update::Plan) -> Wish {
    Wish {
        selection: selection(&plan.select),
        action: match plan.kind {
            args::update::Kind::Update => Action::Update,
            args::update::Kind::Rollback => Action::Rollback,
            args::update::Kind::Reboot => Action::Reboot,
        },
        parallel: plan.parallel.parallel,
        back: Back::Previous,
        immediate: plan.emergency,
        retry_failed: plan.retry_failed,
        reason: String::new(),
    }
}

/// What `lab update execute` does.
fn executed(execute: &args::update::Execute) -> Wish {
    Wish {
        selection: selection(&execute.select),
        action: Action::Update,
        parallel: execute.parallel.parallel,
        back: Back::Previous,
        immediate: execute.emergency,
        retry_failed: execute.retry_failed,
        reason: execute.reason.clone(),
    }
}

/// What `lab update rollback` does.
fn taken_back(back: &args::update::Rollback) -> Wish {
    let earlier = back.rollout.clone().map(Back::Before);
    let earlier = earlier.or(back.to_generation.map(Back::Generation));
    Wish {
        selection: selection(&back.select),
        action: Action::Rollback,
        parallel: back.parallel.parallel,
        back: earlier.unwrap_or(Back::Previous),
        immediate: back.immediate,
        retry_failed: false,
        reason: back.reason.clone(),
    }
}

fn names(groups: &[common::GroupName]) -> Vec<String> {
    groups.iter().map(ToString::to_string).collect()
}

fn number(which: &args::update::Rollout) -> Option<u64> {
    which.rollout.as_ref().and_then(number_of)
}

/// Words as a shell makes them, as far as stories need it: `'…'` keeps spaces.
fn shell_words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for character in line.chars() {
        match character {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            other => words
                .last_mut()
                .into_iter()
                .for_each(|word| word.push(other)),
        }
    }
    words
}
