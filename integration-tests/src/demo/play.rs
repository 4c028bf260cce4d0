//! The play itself: begin the rollout, do what goes wrong, answer approvals, watch until the end,
//! and say what came of it.

use std::{collections::BTreeSet, time::Duration};

use common::{MachineName, Timestamp, error_chain::Chain};
use lab_proto::operator::{Rollout, Status};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep},
};

use super::{
    ending::{Ending, Expected, Found, silent},
    error::DemoError,
    fleet_file::Fleet,
    options::{Approve, Kind, Options},
    progress::{Moment, Progress, line},
    schedule::Schedule,
    stage::{Running, Stage},
    summary,
};

/// How often things are looked at.
const LOOK: Duration = Duration::from_millis(50);

/// How long the demo waits before it approves: long enough to be read.
const APPROVE_AFTER: Duration = Duration::from_secs(1);

/// A demo that has not ended by then says why, and gives up.
const GIVE_UP: Duration = Duration::from_secs(180);

/// What has come about so far, so that it can be ended in order whatever happens.
#[derive(Default)]
struct Progressed {
    running: Option<Running>,
    /// Whether the rollout ended as it should; `None` before its end.
    good: Option<bool>,
}

/// Plays the demo. Whether everything ended as it should.
pub async fn run(options: &Options) -> Result<bool, DemoError> {
    let fleet = Fleet::load(options.config.as_deref(), &options.fail)?;
    let now = platform::clock::Clock::system().now();
    let schedule = Schedule::plan(&fleet.config, now, options.speed)?;
    summary::opening(&fleet, &schedule);
    let mut stage = Stage::build(fleet)?;
    let mut progressed = Progressed::default();
    let played = tokio::select! {
        played = play(options, &schedule, &mut stage, &mut progressed) => played,
        () = interrupted() => Err(DemoError::Interrupted),
    };
    if let Some(running) = progressed.running {
        running.end().await;
    }
    if let Some(directory) = stage.end(options.keep) {
        line(&format!("Kept: {}", directory.display()));
    }
    match (played, progressed.good) {
        // The way in which a kept demo is meant to end.
        (Err(DemoError::Interrupted), Some(good)) => Ok(good),
        (Err(error), _) => Err(error),
        (Ok(()), good) => Ok(good.unwrap_or(true)),
    }
}

async fn play(
    options: &Options,
    schedule: &Schedule,
    stage: &mut Stage,
    progressed: &mut Progressed,
) -> Result<(), DemoError> {
    let running = stage.start(schedule, &mut progressed.running).await?;
    let mut director = Director::new(options.approve);
    if options.no_rollout {
        progressed.good = Some(true);
        summary::look_further(running, stage, options.keep);
        return director.keep_going(stage, running).await;
    }
    let expected = Expected::of(stage.fleet(), options.approve);
    running.operator.pin_targets(&stage.targets()).await?;
    let id = running.operator.execute().await?;
    let limit = GIVE_UP.max(schedule.expected * 2);
    let ended = director
        .watch(stage, running, &id, &expected, limit)
        .await?;
    let ending = ending(stage, running, ended, &expected);
    progressed.good = Some(ending.is_good());
    if let Some(file) = &options.report {
        ending.report().write(file)?;
    }
    summary::ending(&ending);
    if options.keep {
        stage.publish("3")?;
    }
    summary::look_further(running, stage, options.keep);
    if options.keep {
        director.keep_going(stage, running).await?;
    }
    Ok(())
}

/// What happens besides, whoever began the rollout.
struct Director {
    approve: Approve,
    /// Groups that wait for approval, and since when; `None` once they were approved.
    asked: Vec<((String, String), Option<Instant>)>,
    /// Machines whose agents were killed already.
    killed: BTreeSet<MachineName>,
}

impl Director {
    fn new(approve: Approve) -> Self {
        Self {
            approve,
            asked: Vec::new(),
            killed: BTreeSet::new(),
        }
    }

    /// Watches a rollout until it is where it should be, or gets no further. The rollout, and the one that
    /// takes it back, if there is one.
    async fn watch(
        &mut self,
        stage: &Stage,
        running: &mut Running,
        id: &str,
        expected: &Expected,
        limit: Duration,
    ) -> Result<(Rollout, Option<Rollout>), DemoError> {
        let began = Instant::now();
        let mut progress = Progress::new(stage.fleet());
        loop {
            let status = running.operator.status().await?;
            self.direct(stage, running, &status, &|text| progress.say(text))
                .await?;
            if let Some(rollout) = status.rollouts.iter().find(|rollout| rollout.id == id) {
                let away = stage.testimony().away();
                progress.show(&Moment {
                    time: running.clock.now(),
                    status: &status,
                    rollout,
                    away,
                });
                let mut others = status.rollouts.iter();
                let rollback = others.find(|other| other.undoes == id);
                if expected.is_reached(rollout, rollback) {
                    progress.end();
                    return Ok((rollout.clone(), rollback.cloned()));
                }
                if began.elapsed() > limit {
                    progress.end();
                    return Err(DemoError::Deadline {
                        what: format!("rollout {id} has ended"),
                        limit,
                        hint: waits(rollout),
                    });
                }
            }
            sleep(LOOK).await;
        }
    }

    /// Leaves everything running; `lab` does the rest.
    async fn keep_going(&mut self, stage: &Stage, running: &mut Running) -> Result<(), DemoError> {
        loop {
            let status = running.operator.status().await?;
            self.direct(stage, running, &status, &line).await?;
            sleep(LOOK).await;
        }
    }

    async fn direct(
        &mut self,
        stage: &Stage,
        running: &mut Running,
        status: &Status,
        say: &(dyn Fn(&str) + Sync),
    ) -> Result<(), DemoError> {
        running.check()?;
        self.kill_agents(stage, running, say);
        if self.approve == Approve::Auto {
            self.answer_approvals(running, status, say).await;
        }
        Ok(())
    }

    /// Kills the agents that are to be killed, in the middle of their switch.
    fn kill_agents(&mut self, stage: &Stage, running: &Running, say: &dyn Fn(&str)) {
        for (machine, kind) in &stage.fleet().failures {
            if !kind.kills_agent() || self.killed.contains(machine) {
                continue;
            }
            let directory = stage.machines().iter().find(|m| m.name == *machine);
            if !directory.is_some_and(super::machine::Machine::is_switching) {
                continue;
            }
            if let Some(agent) = running.agents.get(machine) {
                if *kind == Kind::Silent {
                    say(&format!(
                        "The agent of {machine} is killed in mid-switch, for good."
                    ));
                    agent.silence();
                } else {
                    say(&format!("The agent of {machine} is killed in mid-switch."));
                    agent.crash();
                }
                self.killed.insert(machine.clone());
            }
        }
    }

    async fn answer_approvals(
        &mut self,
        running: &mut Running,
        status: &Status,
        say: &(dyn Fn(&str) + Sync),
    ) {
        for rollout in status.rollouts.iter().filter(|r| r.state == "active") {
            for group in &rollout.groups {
                if group.state != "awaiting-approval" {
                    continue;
                }
                let key = (rollout.id.clone(), group.name.clone());
                let asked = self.asked.iter_mut().find(|(known, _)| *known == key);
                match asked {
                    None => {
                        say(&format!(
                            "Group {} waits for approval; the demo gives it in a moment.",
                            group.name
                        ));
                        self.asked.push((key, Some(Instant::now())));
                    }
                    Some((_, since)) if since.is_some_and(|s| s.elapsed() >= APPROVE_AFTER) => {
                        *since = None;
                        match running.operator.approve(&rollout.id, &group.name).await {
                            Ok(()) => {
                                say(&format!("Group {} is approved, by the demo.", group.name));
                            }
                            // Somebody else may have answered meanwhile.
                            Err(error) => say(&Chain(&error).to_string()),
                        }
                    }
                    Some(_) => {}
                }
            }
        }
    }
}

/// Puts together what came of it: the coordinator's word, and what the machines show.
fn ending(
    stage: &Stage,
    running: &Running,
    (rollout, rollback): (Rollout, Option<Rollout>),
    expected: &Expected,
) -> Ending {
    let testimony = stage.testimony();
    let config = &stage.fleet().config;
    let machines = stage.machines().iter().filter_map(|machine| {
        let place = |rollout: &Rollout| {
            let mut machines = super::ending::machines_of(rollout);
            machines.find(|m| m.name == machine.name.as_str()).cloned()
        };
        let said = place(&rollout);
        Some(Found {
            name: machine.name.clone(),
            group: machine.group.clone(),
            before: stage.before(&machine.name)?.clone(),
            target: stage.target(&machine.name)?.clone(),
            running: machine.running(),
            booted: machine.booted(),
            takes_boot: stage.fleet().gets_kernel(&machine.name),
            generation: machine.generation().unwrap_or(0),
            said,
            failure: stage.fleet().failure_of(&machine.name),
            taken_back: rollback.as_ref().and_then(place).is_some(),
        })
    });
    let fleet_time = |uptime: Duration| -> Timestamp { running.fleet_time(uptime) };
    let mut ending = Ending {
        machines: machines.collect(),
        max_away: testimony.max_away(),
        max_away_allowed: config.max_parallel,
        violations: testimony.violations(config, fleet_time, &silent(stage.fleet())),
        differences: Vec::new(),
        seconds: running.began.elapsed().as_secs_f64(),
        rollout: Some(rollout),
        rollback,
    };
    ending.judge(expected);
    ending
}

/// What each group of a rollout waits for.
fn waits(rollout: &Rollout) -> String {
    let pause = rollout.pause.iter().map(|pause| pause.text.clone());
    let groups = rollout.groups.iter().filter_map(|group| {
        let reason = group.wait_reason.as_ref()?;
        Some(format!("group {}: {}", group.name, reason.text))
    });
    let machines = super::ending::machines_of(rollout)
        .filter(|machine| matches!(machine.state.as_str(), "leased" | "overdue"))
        .map(|machine| format!("{} is {} ({})", machine.name, machine.state, machine.step));
    let all: Vec<String> = pause.chain(groups).chain(machines).collect();
    format!("; it is {}: {}", rollout.state, all.join("; "))
}

/// Ctrl-C, or being asked to end.
async fn interrupted() {
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        }
        Err(error) => {
            line(&format!("Signals cannot be listened to: {}", Chain(&error)));
            std::future::pending::<()>().await;
        }
    }
}
