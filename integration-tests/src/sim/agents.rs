//! The agents' side of the world: the agent's driver (save, then act, and a cut between any two of
//! it), its units, its dead-man timer.

use agent_core::{
    Agent, CallId, Effect, Hook, Input, Job, Mode, Work, invariants, invariants::output_violations,
};
use common::LeaseId;
use coordinator_core::request::{AgentRequest, Directive, Renewal, Reply};

use super::{
    event::{AgentCut, Consequence, MachineIndex, UnitEnd},
    machine::kind_of,
    world::{Body, Message, World},
};

impl World {
    /// Hands the agent an input and carries out what it says: first the disk, then the effects.
    pub(crate) fn feed(&mut self, machine: MachineIndex, input: Input, cut: Option<AgentCut>) {
        let now = self.now;
        let m = &mut self.machines[machine];
        let moment = m.moment(now);
        let Some(agent) = &mut m.agent else {
            return;
        };
        if let Some(missed) = &mut m.frozen {
            missed.push(input);
            return;
        }
        let output = agent.handle(moment, input);
        self.carry_out(machine, output, cut);
    }

    /// An agent that stood still goes on, with all that it has missed.
    pub(crate) fn thaw(&mut self, machine: MachineIndex) {
        let missed = self.machines[machine].frozen.take();
        for input in missed.into_iter().flatten() {
            self.feed(machine, input, None);
        }
    }

    pub(crate) fn agent_starts(&mut self, machine: MachineIndex, cut: Option<AgentCut>) {
        let now = self.now;
        let bug = self.bug;
        let m = &mut self.machines[machine];
        if !m.up || m.agent.is_some() {
            return;
        }
        m.life += 1;
        let durable = match m.disk.clone().checked() {
            Ok(durable) => durable,
            Err(error) => {
                let text = format!("{} cannot read its state: {error}", m.name);
                return self.violate(text);
            }
        };
        let mut agent = Agent::restore(m.limits.clone(), durable);
        if let Some(bug) = bug.and_then(super::bugs::SeededBug::of_agent) {
            agent = agent.with_bug(bug);
        }
        let output = agent.start(m.moment(now), m.found());
        m.agent = Some(agent);
        self.carry_out(machine, output, cut);
    }

    fn carry_out(
        &mut self,
        machine: MachineIndex,
        output: agent_core::Output,
        cut: Option<AgentCut>,
    ) {
        let now = self.now;
        let m = &self.machines[machine];
        let Some(agent) = &m.agent else {
            return;
        };
        if output.effects.is_empty() && !output.persist {
            return;
        }
        let wrong = output_violations(m.moment(now), &m.limits, agent.durable(), &output);
        let name = m.name.clone();
        for violation in wrong {
            self.violate(format!("{name}: {violation}"));
        }
        if let Some(AgentCut {
            after_effects: None,
            power,
        }) = cut
        {
            return self.cut_short(machine, power);
        }
        if output.persist && self.machines[machine].disk_full {
            return self.agent_dies(machine);
        }
        if output.persist {
            self.save(machine);
        }
        let limit = cut.and_then(|cut| cut.after_effects);
        for effect in output.effects.into_iter().take(limit.unwrap_or(usize::MAX)) {
            self.perform(machine, effect);
        }
        if let Some(cut) = cut {
            self.cut_short(machine, cut.power);
        }
    }

    fn save(&mut self, machine: MachineIndex) {
        let m = &mut self.machines[machine];
        let Some(agent) = &m.agent else {
            return;
        };
        let before = std::mem::replace(&mut m.disk, agent.durable().clone());
        let wrong = invariants::violations(&m.disk);
        let name = m.name.clone();
        for violation in wrong {
            self.violate(format!("{name}: {violation}"));
        }
        self.note_begin(machine);
        self.check_end(machine, &before);
    }

    fn cut_short(&mut self, machine: MachineIndex, power: bool) {
        self.agent_dies(machine);
        if power {
            self.power_off(machine, false);
        }
    }

    pub(crate) fn agent_dies(&mut self, machine: MachineIndex) {
        let m = &mut self.machines[machine];
        if m.agent.take().is_none() {
            return;
        }
        m.frozen = None;
        if let Some(attempt) = &m.disk.attempt {
            m.truth.cut = Some(attempt.lease);
        }
        self.tell(|w| format!("{}: the agent dies", w.machines[machine].name));
        self.follows.push(Consequence::AgentGone { machine });
    }

    fn perform(&mut self, machine: MachineIndex, effect: Effect) {
        match effect {
            Effect::Poll { call, hold, report } => {
                let hold = u64::try_from(hold.as_millis()).unwrap_or(u64::MAX);
                self.ask(machine, call, hold, AgentRequest::Poll { report });
            }
            Effect::Renew {
                call,
                lease,
                epoch,
                status,
                silence,
            } => {
                let attempt = Some(status);
                let request = AgentRequest::Renew {
                    lease,
                    epoch,
                    attempt,
                    silence,
                };
                self.ask(machine, call, 0, request);
            }
            Effect::Report {
                call,
                result,
                report,
            } => {
                self.check_verdict(machine, &result);
                let request = AgentRequest::Result {
                    rollout: result.rollout,
                    lease: result.lease,
                    outcome: result.outcome,
                    took: std::time::Duration::from_secs(1),
                    report,
                };
                self.ask(machine, call, 0, request);
            }
            Effect::Begin(job) => self.begin(machine, job),
            Effect::Attach(job) if matches!(job.work, Work::CleanUp { .. }) => {
                // One that has ended is swept away when an agent starts, and done over.
                let units = &mut self.machines[machine].units;
                let at_work = units.get(&job.step).is_some_and(|u| u.ended.is_none());
                if !at_work {
                    units.remove(&job.step);
                    self.begin(machine, job);
                }
            }
            Effect::Attach(job) if matches!(job.work, Work::MoveTraffic { .. }) => {
                // One that has ended is told at once; one that is gone, with the boot it ran in, is lost.
                let answer = match self.machines[machine].units.get(&job.step) {
                    Some(unit) => unit.ended.clone(),
                    None => Some(agent_core::Answer {
                        result: Err(agent_core::Failure::Lost),
                        output: String::new(),
                    }),
                };
                if let Some(answer) = answer {
                    let step = job.step;
                    self.feed(machine, Input::StepDone { step, answer }, None);
                }
            }
            Effect::Attach(job) => {
                // Its end comes as that of any other unit; one that ended in between is told again.
                let ended = self.machines[machine].units.get(&job.step);
                if ended.is_none_or(|unit| unit.ended.is_some()) {
                    let name = self.machines[machine].name.clone();
                    self.violate(format!("{name}: waits for a unit that is not at work"));
                }
            }
            Effect::KeepRoots { .. } => {}
            Effect::Measure => self.follows.push(Consequence::Measure { machine }),
            Effect::Note(note) => {
                self.tell(|w| format!("{}: {note}", w.machines[machine].name));
            }
        }
    }

    fn ask(&mut self, machine: MachineIndex, call: CallId, hold: u64, request: AgentRequest) {
        let m = &self.machines[machine];
        let body = Body::Ask {
            call,
            sent: m.moment(self.now),
            hold,
            to: self.coordinator_life(),
            request,
            truth: m.running.clone(),
        };
        let message = Message {
            machine,
            life: m.life,
            sent_at: self.now,
            body,
        };
        self.send(message);
    }

    fn begin(&mut self, machine: MachineIndex, job: Job) {
        let now = self.now;
        self.check_work(machine, &job.work);
        let m = &mut self.machines[machine];
        if m.units.contains_key(&job.step) {
            let text = format!("{}: unit {} is begun a second time", m.name, job.step);
            self.violate(text);
            return;
        }
        m.seen_at = now;
        if matches!(job.work, Work::MoveTraffic { .. }) {
            // One that was taken back is ended first.
            let taken_back = |unit: &super::machine::Unit| {
                matches!(unit.work, Work::MoveTraffic { .. }) && unit.ended.is_none()
            };
            m.units.retain(|_, unit| !taken_back(unit));
        }
        m.begin(job.step, &job.work);
        let (kind, flaw) = kind_of(m, &job.work);
        self.tell(|w| {
            let m = &w.machines[machine];
            let step = m.disk.attempt.as_ref().map_or("-", |a| a.step.word());
            format!("{}: begins {} ({step})", m.name, word_of(&job.work))
        });
        self.follows.push(Consequence::UnitRuns {
            machine,
            step: job.step,
            within: job.within,
            kind,
            flaw,
        });
    }

    pub(crate) fn unit_ends(
        &mut self,
        machine: MachineIndex,
        step: agent_core::StepId,
        how: UnitEnd,
        cut: Option<AgentCut>,
    ) {
        let now = self.now;
        let m = &mut self.machines[machine];
        let work = m.units.get(&step).map(|unit| unit.work.clone());
        m.seen_at = now;
        let before = m.generations.clone();
        let Some(answer) = m.end(step, how) else {
            return;
        };
        match work {
            Some(Work::CleanUp { .. }) => self.check_cleanup(machine, &before),
            Some(Work::CheckHealth { .. }) => m.truth.checked_at = Some(now),
            Some(Work::MoveTraffic { call }) => self.traffic_script(machine, &call, how),
            Some(Work::ArmDeadMan { lease, after, .. }) if answer.result.is_ok() => {
                let at = now + u64::try_from(after.as_millis()).unwrap_or(u64::MAX / 2);
                let boot = m.boot;
                self.follows.push(Consequence::Armed {
                    machine,
                    boot,
                    lease,
                    at,
                });
            }
            Some(Work::Reboot { .. }) if answer.result.is_ok() => {
                self.follows.push(Consequence::GoingDown { machine });
            }
            Some(_) | None => {}
        }
        self.feed(machine, Input::StepDone { step, answer }, cut);
        self.recovered(machine);
    }

    /// The dead-man program: asks the state on disk what to do, leaves its mark, and does it.
    pub(crate) fn dead_man(&mut self, machine: MachineIndex, boot: u32, lease: LeaseId) {
        let m = &mut self.machines[machine];
        if !m.up || m.boot != boot || m.dead_man != Some(lease) {
            return;
        }
        m.dead_man = None;
        let Some(order) = m.disk.dead_man_order(lease) else {
            return;
        };
        m.dead_man_acted = Some(lease);
        m.truth.cut = Some(lease);
        self.check_way_back(machine, lease, &order.previous);
        let m = &mut self.machines[machine];
        m.units.retain(|_, unit| unit.ended.is_some());
        if order.reboot {
            m.restore(&order.previous, Mode::Boot);
            if m.running != order.previous.running {
                m.going_down = true;
                self.follows.push(Consequence::GoingDown { machine });
            }
        } else {
            m.restore(&order.previous, Mode::Switch);
        }
        self.tell(|w| format!("{}: the dead-man timer acts", w.machines[machine].name));
        self.feed(machine, Input::DeadManFired { lease }, None);
    }

    pub(crate) fn call_fails(&mut self, machine: MachineIndex, life: u32, call: CallId) {
        if self.machines[machine].life == life {
            let reason = "connection refused".to_owned();
            self.feed(machine, Input::CallFailed { call, reason }, None);
        }
    }

    /// Something from the coordinator reaches the agent.
    pub(crate) fn receive(&mut self, message: &Message, cut: Option<AgentCut>) {
        let machine = message.machine;
        let m = &self.machines[machine];
        if m.agent.is_none() || m.life != message.life {
            return;
        }
        let (epoch, input) = match &message.body {
            Body::Ask { .. } => return,
            Body::Push { epoch, stand_down } => {
                let epoch = *epoch;
                let signal = match stand_down {
                    Some((mode, reason)) => agent_core::Signal::StandDown(agent_core::StandDown {
                        epoch,
                        mode: *mode,
                        reason: reason.clone(),
                    }),
                    None => agent_core::Signal::Epoch,
                };
                (epoch, Input::Signal { epoch, signal })
            }
            Body::Answer {
                question,
                epoch,
                reply,
            } => match to_input(&question.body, *epoch, reply) {
                Some(input) => (*epoch, input),
                None => return,
            },
        };
        self.feed(machine, input, cut);
        if self.machines[machine].frozen.is_some() {
            return;
        }
        if cut.is_none_or(|cut| cut.after_effects.is_some()) {
            let truth = &mut self.machines[machine].truth;
            truth.heard = truth.heard.max(epoch);
        }
    }
}

/// The answer in the agent's words.
fn to_input(question: &Body, epoch: common::Epoch, reply: &Reply) -> Option<Input> {
    let Body::Ask {
        call,
        sent,
        request,
        ..
    } = question
    else {
        return None;
    };
    let (call, sent) = (*call, *sent);
    let stand_down = |stop: &coordinator_core::request::StandDown| agent_core::StandDown {
        epoch,
        mode: stop.mode,
        reason: stop.reason.clone(),
    };
    match (request, reply) {
        (AgentRequest::Poll { .. }, Reply::Directive(directive)) => {
            let directive = match directive {
                Directive::Wait(reason) => agent_core::Directive::Wait {
                    kind: reason.kind().to_owned(),
                    text: reason.to_string(),
                    ask_again: std::time::Duration::ZERO,
                },
                Directive::Stage {
                    rollout,
                    target,
                    action,
                    force,
                    wish,
                } => agent_core::Directive::Stage {
                    rollout: rollout.clone(),
                    target: target.clone(),
                    action: *action,
                    force: *force,
                    wish: *wish,
                },
                Directive::Proceed(grant) => agent_core::Directive::Proceed(agent_core::Proceed {
                    rollout: grant.rollout.clone(),
                    lease: grant.lease,
                    epoch: grant.epoch,
                    valid_for: grant.valid_for,
                    action: grant.action,
                    target: Some(grant.target.clone()),
                    allow_reboot: grant.allow_reboot,
                    allow_soft_reboot: grant.allow_soft_reboot,
                    rollback_on_failure: grant.rollback_on_failure,
                    health_timeout: grant.health_timeout,
                    force: grant.force,
                }),
                Directive::Check { request, timeout } => agent_core::Directive::Check {
                    request: *request,
                    timeout: *timeout,
                },
                Directive::CleanUp { request, cleanup } => agent_core::Directive::CleanUp {
                    request: *request,
                    cleanup: *cleanup,
                },
                Directive::MoveTraffic(call) => agent_core::Directive::MoveTraffic(call.clone()),
                Directive::StandDown(stop) => agent_core::Directive::StandDown(stand_down(stop)),
            };
            Some(Input::Directive {
                call,
                sent,
                epoch,
                directive,
            })
        }
        (AgentRequest::Renew { lease, .. }, Reply::Renewal(renewal)) => {
            let renewal = match renewal {
                Renewal::Valid(valid_for) => agent_core::Renewal::Valid {
                    valid_for: *valid_for,
                },
                Renewal::StandDown(stop) => agent_core::Renewal::StandDown(stand_down(stop)),
                Renewal::NotHeld(reason) => agent_core::Renewal::NotHeld {
                    reason: reason.clone(),
                },
            };
            Some(Input::Renewed {
                call,
                sent,
                lease: *lease,
                epoch,
                renewal,
            })
        }
        (AgentRequest::Result { rollout, lease, .. }, Reply::Acknowledged) => {
            Some(Input::ReportAcknowledged {
                call,
                rollout: rollout.clone(),
                lease: *lease,
                epoch,
            })
        }
        (
            AgentRequest::Poll { .. } | AgentRequest::Renew { .. } | AgentRequest::Result { .. },
            _,
        ) => None,
    }
}

fn word_of(work: &Work) -> &'static str {
    match work {
        Work::Stage { .. } => "staging",
        Work::Snapshot { .. } => "the snapshot",
        Work::ArmDeadMan { .. } => "arming",
        Work::DisarmDeadMan { .. } => "disarming",
        Work::RunHook {
            hook: Hook::Pre, ..
        } => "the pre-update hook",
        Work::RunHook {
            hook: Hook::Post, ..
        } => "the post-update hook",
        Work::RunHook {
            hook: Hook::Rollback,
            ..
        } => "the rollback hook",
        Work::Activate { .. } => "the activation",
        Work::Reboot { .. } => "a reboot",
        Work::Judge { .. } => "the judgement",
        Work::Restore { .. } => "the way back",
        Work::CheckHealth { .. } => "a health check",
        Work::CleanUp { .. } => "a cleanup",
        Work::MoveTraffic { .. } => "the traffic script",
    }
}
