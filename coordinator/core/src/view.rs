//! What people and programs are shown: read-only answers, computed from the state.

mod why;

use common::{
    AttemptStatus, CheckResult, Generation, GroupName, HealthState, LeaseId, MachineName,
    StorePath, Target, Timestamp,
};

use crate::{
    alarm::Alarm,
    fleet::{Fleet, Stop},
    quarantine::Quarantine,
    request::{Refusal, Selection},
    rollout::{PlaceState, Rollout},
    schedule::ScheduleView,
    traffic::TrafficView,
    wait::WaitReason,
};

pub use self::why::WhyView;

/// A question that changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// Rollouts, for `lab update status`.
    Status {
        /// Of which machines.
        selection: Selection,
        /// Ended rollouts too, not only each group's last.
        all: bool,
    },
    /// Machines, for `lab machines`.
    Machines(Selection),
    /// One machine, for `lab why`.
    Why(MachineName),
    /// The configuration in force.
    Config,
    /// Answers to a health check request; 0: the newest answers of everybody.
    Health {
        /// Number of the request.
        request: u64,
        /// Of which machines.
        selection: Selection,
    },
    /// Who has heard of the emergency stop.
    StopProgress,
    /// Schedules, for `lab schedule list`.
    Schedules,
    /// Targets that were put aside, for `lab targets list`.
    Targets,
    /// Groups with two sides, for `lab traffic`.
    Traffic,
}

/// An answer to a [`Query`].
#[derive(Clone, Debug, PartialEq)]
pub enum View {
    /// To `Status`.
    Status(StatusView),
    /// To `Machines`.
    Machines(Vec<MachineView>),
    /// To `Why`.
    Why(WhyView),
    /// To `Config`: revision and document.
    Config(u64, serde_json::Value),
    /// To `Health`.
    Health(Vec<HealthView>),
    /// To `StopProgress`.
    StopProgress(Vec<StopView>),
    /// To `Schedules`.
    Schedules(Vec<ScheduleView>),
    /// To `Targets`: what each is in quarantine for.
    Targets(Vec<(String, Quarantine)>),
    /// To `Traffic`.
    Traffic(Vec<TrafficView>),
    /// No such thing.
    Refused(Refusal),
}

/// The fleet's rollouts.
#[derive(Clone, Debug, PartialEq)]
pub struct StatusView {
    /// The fencing number.
    pub epoch: common::Epoch,
    /// The emergency stop that holds.
    pub stop: Option<Stop>,
    /// Revision of the configuration.
    pub revision: u64,
    /// Machines away now.
    pub away: usize,
    /// Most that may be.
    pub away_allowed: u32,
    /// Newest first.
    pub rollouts: Vec<RolloutView>,
}

/// One rollout, with what it waits for.
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutView {
    /// The rollout.
    pub rollout: Rollout,
    /// What each group waits for.
    pub group_waits: Vec<Option<WaitReason>>,
    /// What is known of each machine in it, in the order of the places.
    pub machines: Vec<PlaceView>,
    /// Whether only machines that are offline keep it open.
    pub only_late_left: bool,
}

/// One machine's part in a rollout.
#[derive(Clone, Debug, PartialEq)]
pub struct PlaceView {
    /// Which machine.
    pub machine: MachineName,
    /// `pending`, `staging`, `ready`, … one word.
    pub state: &'static str,
    /// Number of its current generation.
    pub generation: u64,
    /// What it runs.
    pub running: Option<StorePath>,
    /// Why it does not go.
    pub wait: Option<WaitReason>,
    /// Its lease, and when that runs out.
    pub lease: Option<(LeaseId, Timestamp)>,
    /// Step of its running attempt.
    pub step: String,
}

/// One machine.
#[derive(Clone, Debug, PartialEq)]
pub struct MachineView {
    /// Which.
    pub name: MachineName,
    /// Its group.
    pub group: Option<GroupName>,
    /// `healthy`, `unhealthy`, `unknown`, `offline`, `never-seen`.
    pub state: &'static str,
    /// Why it takes a slot; empty when it does not.
    pub away: String,
    /// Its newest report.
    pub report: Option<common::MachineReport>,
    /// What it is to run.
    pub target: Option<Target>,
    /// Whether that is staged.
    pub staged: bool,
    /// The unfinished rollout to another target that it takes part in, and only then stages its own.
    pub engaged: Option<common::RolloutId>,
    /// When it was last heard of.
    pub last_seen: Option<Timestamp>,
    /// Its newest check results.
    pub checks: Vec<CheckResult>,
    /// Highest epoch it has acknowledged.
    pub epoch: common::Epoch,
    /// Its running attempt.
    pub attempt: Option<AttemptStatus>,
    /// Its lease, and when that runs out.
    pub lease: Option<(LeaseId, Timestamp)>,
    /// Newest generations.
    pub generations: Vec<Generation>,
    /// Whether it holds a good certificate.
    pub enrolled: bool,
    /// Why it takes part in no rollout.
    pub quarantine: Option<Quarantine>,
    /// What has held of it for too long, and since when.
    pub alarms: Vec<(Alarm, Timestamp)>,
}

/// How a machine is.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthView {
    /// Which machine.
    pub machine: MachineName,
    /// Its group.
    pub group: Option<GroupName>,
    /// `healthy`, `unhealthy`, `waiting`, `offline`, `never-seen`.
    pub state: &'static str,
    /// Its checks.
    pub checks: Vec<CheckResult>,
}

/// Where a machine stands with the emergency stop.
#[derive(Clone, Debug, PartialEq)]
pub struct StopView {
    /// Which machine.
    pub machine: MachineName,
    /// `acknowledged`, `finishing`, `undoing`, `silent`.
    pub state: &'static str,
    /// Step of its running attempt.
    pub step: String,
}

impl Fleet {
    /// Answers a question that changes nothing.
    pub fn view(&self, query: &Query, now: Timestamp) -> View {
        let now = now.max(self.hearsay().now);
        let result = match query {
            Query::Status { selection, all } => self.status(selection, *all, now).map(View::Status),
            Query::Machines(selection) => self.machines(selection, now).map(View::Machines),
            Query::Why(machine) => self.why(machine, now).map(View::Why),
            Query::Config => {
                let config = self.facts().config.as_ref();
                let document = config.map_or(serde_json::Value::Null, |c| c.document.clone());
                Ok(View::Config(self.facts().revision, document))
            }
            Query::Health { request, selection } => {
                self.health(*request, selection, now).map(View::Health)
            }
            Query::StopProgress => Ok(View::StopProgress(self.stop_progress(now))),
            Query::Schedules => Ok(View::Schedules(self.schedules())),
            Query::Targets => {
                let aside = self.facts().targets_aside.clone();
                Ok(View::Targets(aside.into_iter().collect()))
            }
            Query::Traffic => Ok(View::Traffic(self.traffic_view())),
        };
        result.unwrap_or_else(View::Refused)
    }

    fn status(
        &self,
        selection: &Selection,
        all: bool,
        now: Timestamp,
    ) -> Result<StatusView, Refusal> {
        let everything = selection.groups.is_empty() && selection.machines.is_empty();
        let chosen = if everything {
            Vec::new()
        } else {
            self.select(selection)?
        };
        let shown = |rollout: &Rollout| {
            everything
                || rollout
                    .places()
                    .any(|place| chosen.contains(&place.machine))
        };
        let mut seen: Vec<&GroupName> = Vec::new();
        let mut rollouts = Vec::new();
        for (number, rollout) in self.facts().rollouts.iter().rev() {
            let news = rollout
                .groups
                .iter()
                .any(|group| !seen.contains(&&group.name));
            seen.extend(rollout.groups.iter().map(|group| &group.name));
            if shown(rollout) && (all || !rollout.is_final() || news) {
                rollouts.push(self.rollout_view(*number, rollout, now));
            }
        }
        Ok(StatusView {
            epoch: self.facts().epoch,
            stop: self.facts().stop.clone(),
            revision: self.facts().revision,
            away: self.index().away_total,
            away_allowed: self.fleet_limit(),
            rollouts,
        })
    }

    fn rollout_view(&self, number: u64, rollout: &Rollout, now: Timestamp) -> RolloutView {
        let groups = 0..rollout.groups.len();
        let machines = rollout.places().map(|place| {
            let machine = self.facts().machines.get(&place.machine);
            let wait = (place.state == PlaceState::Pending && !rollout.is_final())
                .then(|| self.permission(&place.machine, now).err())
                .flatten();
            let staged = machine.is_some_and(|m| m.staged(&place.target).is_some());
            let here = place.state == PlaceState::Pending && !self.is_offline(&place.machine, now);
            let state = match (here, staged) {
                (true, true) => "ready",
                (true, false) => "staging",
                (false, _) => place.state.word(),
            };
            let attempt = machine.and_then(|machine| machine.heard.attempt.as_ref());
            PlaceView {
                machine: place.machine.clone(),
                state,
                generation: machine
                    .and_then(|m| m.report.as_ref())
                    .map_or(0, |r| r.generation),
                running: machine.and_then(|machine| machine.running().cloned()),
                wait,
                lease: place
                    .state
                    .lease()
                    .map(|lease| (lease, self.runs_out(lease, now))),
                step: attempt.map_or_else(String::new, |attempt| attempt.step.clone()),
            }
        });
        RolloutView {
            group_waits: groups
                .map(|group| self.group_wait(number, group, now))
                .collect(),
            machines: machines.collect(),
            only_late_left: !rollout.is_final() && self.only_late_since(number).is_some(),
            rollout: rollout.clone(),
        }
    }

    fn runs_out(&self, lease: LeaseId, now: Timestamp) -> Timestamp {
        self.hearsay()
            .lease_until
            .get(&lease)
            .copied()
            .unwrap_or(now)
    }

    fn machines(&self, selection: &Selection, now: Timestamp) -> Result<Vec<MachineView>, Refusal> {
        let registry = &self.facts().registry;
        let good = registry
            .certificates
            .values()
            .filter(|c| !c.revoked && now < c.expires_at);
        let enrolled: std::collections::BTreeSet<&str> =
            good.map(|certificate| certificate.holder.name()).collect();
        let machines = self.select(selection)?.into_iter().map(|name| {
            let machine = self.facts().machines.get(&name);
            let failed = machine.and_then(|machine| machine.failed.as_ref());
            let lease = self.lease_of(&name);
            let away = match (lease, failed) {
                (Some(lease), _) if lease.overdue_since.is_some() => "overdue".to_owned(),
                (Some(_), _) => "leased".to_owned(),
                (None, Some(failed)) => format!("failed: {}", failed.reason),
                (None, None) => String::new(),
            };
            let target = machine
                .and_then(|m| m.pin.as_ref())
                .map(|pin| pin.target.clone());
            let staged = target.as_ref().is_some_and(|target| {
                machine.is_some_and(|m| m.staged(target).is_some() || m.runs(target))
            });
            let engaged = self.engagement(&name);
            let engaged = engaged.filter(|(_, place)| Some(&place.target) != target.as_ref());
            let engaged = engaged.map(|(rollout, _)| rollout.id.clone());
            MachineView {
                engaged,
                group: self.group_of(&name).cloned(),
                state: self.word_of(&name, now),
                away,
                report: machine.and_then(|machine| machine.report.clone()),
                target,
                staged,
                last_seen: machine.and_then(|machine| machine.heard.at),
                checks: machine
                    .map(|machine| machine.heard.checks.clone())
                    .unwrap_or_default(),
                epoch: machine
                    .map(|machine| machine.heard.epoch)
                    .unwrap_or_default(),
                attempt: machine.and_then(|machine| machine.heard.attempt.clone()),
                lease: lease.map(|lease| (lease.id, self.runs_out(lease.id, now))),
                generations: machine
                    .and_then(|machine| machine.report.as_ref())
                    .map(|report| report.generations.clone())
                    .unwrap_or_default(),
                enrolled: enrolled.contains(name.as_str()),
                quarantine: self.quarantine_of(&name).cloned(),
                alarms: self.alarms_of(&name, now),
                name,
            }
        });
        Ok(machines.collect())
    }

    /// How the machine is, in one word.
    fn word_of(&self, name: &MachineName, now: Timestamp) -> &'static str {
        let Some(machine) = self.facts().machines.get(name) else {
            return "never-seen";
        };
        if machine.report.is_none() {
            return "never-seen";
        }
        if self.is_offline(name, now) {
            return "offline";
        }
        match machine.health() {
            HealthState::Healthy => "healthy",
            HealthState::Unhealthy => "unhealthy",
            HealthState::Unknown => "unknown",
        }
    }

    fn health(
        &self,
        request: u64,
        selection: &Selection,
        now: Timestamp,
    ) -> Result<Vec<HealthView>, Refusal> {
        let machines = self.select(selection)?.into_iter().map(|name| {
            let machine = self.facts().machines.get(&name);
            let answered = machine.is_some_and(|machine| machine.heard.health_request >= request);
            let state = match self.word_of(&name, now) {
                word @ ("never-seen" | "offline") => word,
                word if answered => word,
                _ => "waiting",
            };
            let checks = machine
                .map(|machine| machine.heard.checks.clone())
                .unwrap_or_default();
            HealthView {
                group: self.group_of(&name).cloned(),
                state,
                checks,
                machine: name,
            }
        });
        Ok(machines.collect())
    }

    fn stop_progress(&self, now: Timestamp) -> Vec<StopView> {
        let Some(config) = &self.facts().config else {
            return Vec::new();
        };
        let covered = config.group_of.iter().filter(|(_, group)| {
            self.facts()
                .stop
                .as_ref()
                .is_none_or(|stop| stop.covers(group))
        });
        covered
            .map(|(name, _)| {
                let heard = self
                    .facts()
                    .machines
                    .get(name)
                    .map(|machine| &machine.heard);
                let attempt = heard.and_then(|heard| heard.attempt.as_ref());
                let knows = heard.is_some_and(|heard| heard.epoch >= self.facts().epoch);
                let state = match attempt {
                    _ if !knows || self.is_offline(name, now) => "silent",
                    None => "acknowledged",
                    Some(attempt) if attempt.past_no_return => "finishing",
                    Some(_) => "undoing",
                };
                let step = attempt.map_or_else(String::new, |attempt| attempt.step.clone());
                StopView {
                    machine: name.clone(),
                    state,
                    step,
                }
            })
            .collect()
    }
}
