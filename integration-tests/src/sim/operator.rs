//! What operators ask, in the coordinator's words.

use common::{MachineName, StorePath, Target};
use coordinator_core::{
    FleetConfig, Request,
    fleet::rollout_id,
    identity::{Actor, Role},
    request::{Back, OperatorRequest, Promotion, Selection, Wish},
};

use super::{
    event::{Command, Consequence, MachineIndex},
    world::World,
};

/// Who does everything.
pub(crate) const OPERATOR: &str = "geir";

impl World {
    /// An operator's command reaches the coordinator, if that listens.
    pub(crate) fn command(&mut self, command: &Command) {
        if self.coordinator.fleet.is_none() {
            return;
        }
        self.tell(|_| format!("operator: {}", shown(command)));
        if let Command::Forget { machine } = command {
            self.machines[*machine].truth.forgotten = true;
        }
        if let Command::Execute {
            if_plan: Some(plan),
            shown,
            ..
        } = command
            && !shown.is_empty()
        {
            let name = |machine: MachineIndex| self.machines[machine].name.clone();
            let steps = shown
                .iter()
                .map(|(machine, to)| (name(*machine), to.clone()));
            self.truth.promises.show(plan.clone(), steps.collect());
        }
        match self.request_of(command) {
            Ok(request) => {
                let answers = if let Command::Approve { by, .. } = command {
                    Some(by.as_str())
                } else {
                    None
                };
                let by = answers.unwrap_or(OPERATOR);
                let actor = Actor {
                    name: by
                        .parse()
                        .unwrap_or_else(|_| unreachable!("{by} is a name")),
                    role: Role::Admin,
                    serial: "01".to_owned(),
                };
                let request = Request::Operator { actor, request };
                self.coordinator.take_in_command(request);
                self.follows.push(Consequence::Waiting);
            }
            Err(error) => self.violate(format!("the simulator asks nonsense: {error}")),
        }
    }

    /// What somebody outside found out for a run of a schedule reaches the coordinator, if it is the
    /// process that wanted it.
    pub(crate) fn resolved(
        &mut self,
        schedule: &str,
        run: u64,
        life: u32,
        system: Option<&StorePath>,
    ) {
        let Some(fleet) = &self.coordinator.fleet else {
            return;
        };
        let waits = fleet.unresolved().into_iter();
        let Some(waits) = waits
            .filter(|_| life == self.coordinator.life)
            .find(|waits| waits.run == run && waits.schedule.as_str() == schedule)
        else {
            return;
        };
        let targets = system.map(|system| {
            let machines = waits.machines.into_iter();
            machines
                .map(|machine| (machine, Target::Closure(system.clone())))
                .collect()
        });
        self.tell(|_| format!("the source of {schedule} has answered"));
        self.coordinator.take_in_command(Request::ScheduleResolved {
            schedule: waits.schedule,
            run,
            targets: targets.ok_or_else(|| "the source cannot be read".to_owned()),
        });
        self.follows.push(Consequence::Waiting);
    }

    pub(crate) fn request_of(&self, command: &Command) -> Result<OperatorRequest, String> {
        let reason = self.reason.clone();
        let name = |machine: &MachineIndex| self.machines[*machine].name.clone();
        let groups = |names: &[String]| {
            let parsed = names.iter().map(|name| name.parse());
            parsed
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error: common::id::NameError| error.to_string())
        };
        Ok(match command {
            Command::Configure { document } => OperatorRequest::SetConfig {
                config: Box::new(FleetConfig::parse(document).map_err(|faults| {
                    let faults = faults.0.iter().map(ToString::to_string);
                    faults.collect::<Vec<_>>().join("; ")
                })?),
                if_revision: None,
                reason,
            },
            Command::Prepare { targets } => OperatorRequest::PinTargets {
                targets: targets
                    .iter()
                    .map(|(machine, path)| (name(machine), Target::Closure(path.clone())))
                    .collect(),
                reason,
            },
            Command::Execute {
                groups: names,
                machines,
                action,
                parallel,
                immediate,
                retry_failed,
                to_generation,
                before,
                if_plan,
                ..
            } => OperatorRequest::Execute {
                wish: Wish {
                    selection: Selection {
                        groups: groups(names)?,
                        machines: machines.iter().map(name).collect::<Vec<MachineName>>(),
                    },
                    action: *action,
                    parallel: *parallel,
                    back: match (to_generation, before) {
                        (Some(number), _) => Back::Generation(*number),
                        (None, Some(number)) => Back::Before(rollout_id(*number)),
                        (None, None) => Back::Previous,
                    },
                    immediate: *immediate,
                    retry_failed: *retry_failed,
                    reason,
                },
                if_plan: if_plan.clone(),
            },
            Command::Approve {
                rollout,
                group,
                reject,
                ..
            } => OperatorRequest::Approve {
                rollout: rollout.map(rollout_id),
                group: group.clone(),
                reject: *reject,
                comment: reason,
            },
            Command::Promote { rollout, full } => OperatorRequest::Promote {
                promotion: Promotion {
                    rollout: rollout.map(rollout_id),
                    group: None,
                    full: *full,
                },
                reason,
            },
            Command::Pause { rollout } => OperatorRequest::Pause {
                rollout: rollout.map(rollout_id),
                reason,
            },
            Command::ResumeRollout { rollout } => OperatorRequest::ResumeRollout {
                rollout: rollout.map(rollout_id),
                reason,
            },
            Command::MeasureAgain { rollout } => OperatorRequest::MeasureAgain {
                rollout: rollout.map(rollout_id),
                reason,
            },
            Command::Abort { rollout } => OperatorRequest::Abort {
                rollout: rollout.map(rollout_id),
                reason,
            },
            Command::Stop {
                groups: names,
                mode,
            } => OperatorRequest::EmergencyStop {
                groups: groups(names)?,
                mode: *mode,
                reason,
            },
            Command::Lift => OperatorRequest::Resume { reason },
            Command::CheckHealth { groups: names } => OperatorRequest::RequestHealthCheck {
                selection: Selection {
                    groups: groups(names)?,
                    machines: Vec::new(),
                },
                timeout: None,
            },
            Command::RunSchedule { schedule } => OperatorRequest::RunSchedule {
                schedule: schedule.parse().map_err(|_| schedule.clone())?,
                reason,
            },
            Command::SkipSchedule { schedule } => OperatorRequest::SkipSchedule {
                schedule: schedule.parse().map_err(|_| schedule.clone())?,
                reason,
            },
            Command::Quarantine { machines } => OperatorRequest::Quarantine {
                machines: machines.iter().map(name).collect(),
                reason,
            },
            Command::Release { machines } => OperatorRequest::Release {
                machines: machines.iter().map(name).collect(),
                reason,
            },
            Command::QuarantineTarget { target } => OperatorRequest::QuarantineTarget {
                target: target.clone(),
                reason,
            },
            Command::ReleaseTarget { target } => OperatorRequest::ReleaseTarget {
                target: target.clone(),
                reason,
            },
            Command::MoveTraffic { group, to } => OperatorRequest::MoveTraffic {
                group: group.parse().map_err(|_| group.clone())?,
                to: match to {
                    Some(to) => Some(to.parse().map_err(|_| to.clone())?),
                    None => None,
                },
                reason,
            },
            Command::Forget { machine } => OperatorRequest::ForgetMachine {
                machine: name(machine),
                reason,
            },
        })
    }
}

fn shown(command: &Command) -> String {
    if let Command::Configure { .. } = command {
        return "configures the fleet".to_owned();
    }
    serde_json::to_string(command).unwrap_or_else(|error| error.to_string())
}
