//! What agents ask and tell: what is taken in of a report, and what a poll is answered with.

mod turns;

use common::{Action, HealthState, MachineName, MachineReport, Timestamp};

use super::Draft;
use crate::{
    change::Change,
    fleet::Fleet,
    machine::Machine,
    request::{AgentRequest, Directive, Refusal, Reply, StandDown},
    rollout::PlaceState,
    wait::WaitReason,
};

impl Fleet {
    pub(super) fn agent(
        &mut self,
        now: Timestamp,
        machine: &MachineName,
        request: AgentRequest,
        draft: &mut Draft,
    ) -> Reply {
        self.overtaken(now, machine, &request, draft);
        match request {
            AgentRequest::Poll { report } => match self.poll(now, machine, *report, draft) {
                Ok(directive) => Reply::Directive(directive),
                Err(refusal) => Reply::Refused(refusal),
            },
            AgentRequest::Renew {
                lease,
                epoch,
                attempt,
                silence,
            } => Reply::Renewal(self.renew(now, machine, lease, epoch, attempt, silence, draft)),
            AgentRequest::Result {
                rollout,
                lease,
                outcome,
                took,
                report,
            } => {
                self.result(
                    now, machine, &rollout, lease, &outcome, took, *report, draft,
                );
                Reply::Acknowledged
            }
        }
    }

    /// Takes a report in: what is new becomes a fact, the rest is remembered as heard. False when
    /// it was overtaken by a newer one and says nothing.
    fn learn(
        &mut self,
        now: Timestamp,
        name: &MachineName,
        report: &MachineReport,
        draft: &mut Draft,
    ) -> bool {
        #[cfg(feature = "seeded-bugs")]
        let gullible = self.has(crate::bug::Bug::StaleReportWins);
        self.hear(name, now);
        if let Some(machine) = self.machine_mut(name) {
            let stale = machine.is_stale(report);
            #[cfg(feature = "seeded-bugs")]
            let stale = stale && !gullible;
            if stale {
                return false;
            }
            let known = machine.report.as_ref();
            if known.is_some_and(|known| known.boot_id != report.boot_id) {
                machine.heard.granted = 0;
            }
        }
        if self
            .facts()
            .machines
            .get(name)
            .is_none_or(|machine| machine.is_news(report))
        {
            let report = Box::new(Machine::facts(report));
            self.commit(
                draft,
                Change::Reported {
                    machine: name.clone(),
                    report,
                    at: Some(now),
                },
            );
        }
        self.hear(name, now);
        // A number that was not given out yet is of an earlier life, whose clock was ahead.
        let given_out = report.health_request <= self.hearsay.last_check;
        let answers = if given_out { report.health_request } else { 0 };
        let (mut told, mut answered) = (false, false);
        if let Some(machine) = self.machine_mut(name) {
            let heard = &mut machine.heard;
            heard.sequence = report.sequence;
            heard.attempt.clone_from(&report.attempt);
            if heard.checks != report.health.checks {
                heard.checks.clone_from(&report.health.checks);
            }
            answered = heard.health_request < answers;
            heard.health_request = heard.health_request.max(answers);
            heard.store_free_bytes = report.store_free_bytes;
            heard.epoch = report.epoch;
            heard.declined.clone_from(&report.declined);
            heard.cleaned_up.clone_from(&report.cleaned_up);
            told = heard.traffic != report.traffic;
            heard.traffic.clone_from(&report.traffic);
        }
        if told {
            self.has_moved_traffic(name, now, draft);
        }
        if self
            .hearsay
            .checks
            .get(name)
            .is_some_and(|c| c.request <= answers)
        {
            self.hearsay.checks.remove(name);
            self.has_answered(name, now, draft);
        }
        if answered {
            self.gates_hear(name, now, draft);
        }
        if let Some(done) = &report.cleaned_up {
            self.has_cleaned_up(name, done, now, draft);
        }
        let recovered = self.facts().machines.get(name).is_some_and(|machine| {
            machine
                .failed
                .as_ref()
                .is_some_and(|failed| report.last_lease >= failed.lease)
                && machine.health() == HealthState::Healthy
                && machine.running().is_some()
                && report.attempt.is_none()
        });
        if recovered {
            self.commit(
                draft,
                Change::Recovered {
                    machine: name.clone(),
                },
            );
        }
        true
    }

    fn poll(
        &mut self,
        now: Timestamp,
        name: &MachineName,
        report: MachineReport,
        draft: &mut Draft,
    ) -> Result<Directive, Refusal> {
        if self.group_of(name).is_none() {
            return Ok(Directive::Wait(WaitReason::UnknownMachine));
        }
        if !self.learn(now, name, &report, draft) {
            let text = format!("a newer poll of {name} has come before this one");
            return Err(Refusal::Changed(text));
        }
        self.has_polled(name);
        Ok(self.directive(now, name, &report, draft))
    }

    /// What a machine that has just said how it is, is to do.
    fn directive(
        &mut self,
        now: Timestamp,
        name: &MachineName,
        report: &MachineReport,
        draft: &mut Draft,
    ) -> Directive {
        if let Some(lease) = self.lease_of(name).cloned()
            && let Some(directive) = self.held(now, &lease, report, draft)
        {
            return directive;
        }
        let stand_down = self.stand_down(name);
        if let Some(check) = self.hearsay.checks.get(name)
            && stand_down.is_none()
        {
            return Directive::Check {
                request: check.request,
                timeout: check.timeout,
            };
        }
        if let Some(call) = self.traffic_call(name) {
            return Directive::MoveTraffic(call);
        }
        if let Some(stand_down) = stand_down {
            return Directive::StandDown(stand_down);
        }
        if let Some((request, cleanup)) = self.cleanup_wanted(name, now) {
            return Directive::CleanUp { request, cleanup };
        }
        if let Some(aside) = self.leave_out_of_bad(name, draft) {
            return Directive::Wait(aside);
        }
        if let Some(stage) = self.next_to_stage(name, draft) {
            return stage;
        }
        match self.permission(name, now) {
            Ok(_) => self.grant(now, name, draft),
            Err(reason) => Directive::Wait(reason),
        }
    }

    /// The stop that holds for this machine.
    fn stand_down(&self, machine: &MachineName) -> Option<StandDown> {
        let stop = self.facts().stop.as_ref()?;
        let covered = match self.group_of(machine) {
            Some(group) => stop.covers(group),
            None => stop.groups.is_empty(),
        };
        #[cfg(feature = "seeded-bugs")]
        let covered = covered && !self.has(crate::bug::Bug::StopNotCheckedInGrant);
        covered.then(|| StandDown {
            mode: stop.mode,
            reason: stop.reason.clone(),
        })
    }

    /// What the machine should obtain before its turn comes, or what it turned out to have. Whoever
    /// has its part of a rollout behind it obtains what the next one will want.
    fn next_to_stage(&mut self, name: &MachineName, draft: &mut Draft) -> Option<Directive> {
        if let Some((rollout, place)) = self.engagement(name) {
            if place.state != PlaceState::Pending || rollout.action == Action::Reboot {
                return None;
            }
            let machine = self.facts().machines.get(name)?;
            let (id, target) = (rollout.id.clone(), place.target.clone());
            let (action, force, wish) = (rollout.action, rollout.forces(place), place.tries.into());
            if machine.is_there(action, &target) && machine.health() != HealthState::Unhealthy {
                self.commit(
                    draft,
                    Change::Arrived {
                        rollout: id,
                        machine: name.clone(),
                    },
                );
                return Some(Directive::Wait(WaitReason::UpToDate));
            }
            if machine.staged(&target).is_none() {
                return Some(Directive::Stage {
                    rollout: Some(id),
                    target,
                    action,
                    force,
                    wish,
                });
            }
            return None;
        }
        let machine = self.facts().machines.get(name)?;
        let pin = machine.pin.as_ref()?;
        let needed = !machine.runs(&pin.target) && machine.staged(&pin.target).is_none();
        needed.then(|| Directive::Stage {
            rollout: None,
            target: pin.target.clone(),
            action: Action::Update,
            force: false,
            wish: pin.wish(),
        })
    }
}
