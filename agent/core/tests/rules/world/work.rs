//! What each kind of work does to the machine, by its script.

use agent_core::{
    ActivationEnd, Answer, Baseline, Done, Failure, Hook, Job, Judgement, Mode, NextBoot, Work,
};
use common::{Health, Staged, StorePath};

use super::{World, answer, path};

impl World {
    /// What the work does to the machine, and what it answers.
    pub(crate) fn perform(&mut self, job: &Job) -> Answer {
        let failed = |failure: &Failure| Err(failure.clone());
        if self.script.others.is_some_and(|at_work| at_work(&job.work)) {
            self.running = path("theirs");
            self.profile = path("theirs");
        }
        let result = match &job.work {
            Work::Stage { target, .. } => match &self.script.stage {
                Ok(()) => Ok(Done::Staged(Staged {
                    target: target.clone(),
                    path: target.closure().cloned().expect("tests stage closures"),
                    needs_reboot: self.script.needs_reboot,
                    reboot_reasons: Vec::new(),
                    soft_reboot: false,
                    changes: None,
                })),
                Err(failure) => failed(failure),
            },
            Work::Snapshot { .. } => match &self.script.snapshot {
                Ok(()) => Ok(Done::Snapshot {
                    facts: self.facts(),
                    baseline: Baseline::default(),
                    needs_reboot: self.script.reboot(),
                }),
                Err(failure) => failed(failure),
            },
            Work::ArmDeadMan { .. } => match &self.script.arming {
                Ok(()) => Ok(Done::Armed),
                Err(failure) => failed(failure),
            },
            Work::DisarmDeadMan { .. } => Ok(Done::Disarmed {
                fired: self.dead_man_fired,
            }),
            Work::RunHook { hook, .. } => match hook {
                Hook::Pre => self.script.pre.clone().map(Done::Hook),
                Hook::Post => self.script.post.clone().map(Done::Hook),
                Hook::Rollback => self.script.rollback.clone().map(Done::Hook),
            },
            Work::Activate {
                path,
                over: Some(over),
                ..
            } if ![path, &over.running].contains(&&self.running) => {
                Err(Failure::Elsewhere(self.running.clone()))
            }
            Work::Activate { path, mode, .. } => {
                let end = self.script.activation.clone();
                if end != Ok(ActivationEnd::Busy) {
                    self.install(path);
                }
                let live = matches!(end, Ok(ActivationEnd::Done | ActivationEnd::Degraded));
                if live && *mode == Mode::Switch {
                    self.running = path.clone();
                }
                let facts = self.facts();
                end.map(|end| Done::Activated { end, facts })
            }
            Work::Reboot { .. } => Ok(Done::RebootAsked),
            Work::Judge { .. } => {
                let healthy = if self.script.healthy.is_empty() {
                    true
                } else {
                    self.script.healthy.remove(0)
                };
                let cut_off = !self.script.cut_off.is_empty() && self.script.cut_off.remove(0);
                Ok(Done::Judged(Judgement {
                    healthy,
                    cut_off,
                    findings: vec!["unit web.service failed".to_owned()],
                    no_better: self.script.no_better.clone(),
                    health: Health::default(),
                    facts: self.facts(),
                }))
            }
            Work::Restore {
                previous,
                over: Some(over),
                ..
            } if ![over, &previous.running].contains(&&self.running) => {
                Err(Failure::Elsewhere(self.running.clone()))
            }
            Work::Restore { previous, mode, .. } => {
                let end = self.script.restore.clone();
                if matches!(end, Ok(ActivationEnd::Done | ActivationEnd::Degraded)) {
                    self.install(&previous.boot_default);
                    if *mode == Mode::Switch {
                        self.running = previous.running.clone();
                    }
                }
                let facts = self.facts();
                end.map(|end| Done::Restored { end, facts })
            }
            Work::CleanUp { .. } => self.script.cleanup.clone().map(|removed| Done::CleanedUp {
                removed,
                freed_bytes: 1024,
                failure: None,
                facts: self.facts(),
            }),
            // Whoever took it away, nobody starts it again.
            Work::MoveTraffic { .. } if !self.traffic_units.contains(&job.step) => {
                Err(Failure::Lost)
            }
            Work::MoveTraffic { .. } => self.script.traffic.clone().map(|()| Done::TrafficMoved),
            Work::CheckHealth { .. } => Ok(Done::Checked {
                health: Health::of(Vec::new()),
                facts: self.facts(),
            }),
        };
        answer(result)
    }

    fn install(&mut self, path: &StorePath) {
        self.profile = path.clone();
        if matches!(self.next_boot, NextBoot::System(_)) && !self.stubborn {
            self.next_boot = NextBoot::System(path.clone());
        }
    }
}
