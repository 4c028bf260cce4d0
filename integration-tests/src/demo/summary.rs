//! What the demo says at its beginning and at its end.

use super::{
    ending::{Ending, Found},
    fleet_file::Fleet,
    options::Kind,
    progress::line,
    schedule::Schedule,
    stage::{Running, Stage},
    witness::clock,
};

/// What is going to be seen.
pub(super) fn opening(fleet: &Fleet, schedule: &Schedule) {
    let (machines, groups) = (fleet.machines().count(), fleet.config.groups.len());
    line(&format!(
        "A fleet of {machines} machines in {groups} groups: {}.",
        fleet.origin
    ));
    line(&format!(
        "One coordinator and {machines} agents, processes of their own, speaking mTLS gRPC over \
         loopback; each machine is a directory."
    ));
    line(&format!(
        "The night begins at {} UTC and passes {} times as fast; it should be over in about {} s.",
        clock(schedule.start),
        schedule.speed,
        schedule.expected.as_secs()
    ));
    for (machine, kind) in &fleet.failures {
        let what = match kind {
            Kind::Health => "will fail its health check after the switch",
            Kind::Switch => "will not be able to install its boot loader",
            Kind::Hook => "will fail in its post-update hook",
            Kind::Crash => "will lose its agent in the middle of the switch, and get it back",
            Kind::Hang => "will hang in its switch",
            Kind::Silent => "will lose its agent in the middle of the switch, for good",
        };
        line(&format!("To be watched: {machine} {what}."));
    }
    line("");
}

/// What came of it.
pub(super) fn ending(ending: &Ending) {
    let running = |found: &Found| {
        let name = found.running.as_ref().map_or("?", |path| path.name());
        name.to_owned()
    };
    let width =
        |text: &dyn Fn(&Found) -> usize| ending.machines.iter().map(text).max().unwrap_or(0);
    let name = width(&|found| found.name.as_str().len()).max(7);
    let group = width(&|found| found.group.as_str().len()).max(5);
    let runs = width(&|found| running(found).len()).max(7);
    line("");
    line(&format!(
        "{:<name$}  {:<group$}  {:<15}  {:<11}  {:<runs$}  generation",
        "machine", "group", "state", "verdict", "runs"
    ));
    for found in &ending.machines {
        line(&format!(
            "{:<name$}  {:<group$}  {:<15}  {:<11}  {:<runs$}  {}",
            found.name.as_str(),
            found.group.as_str(),
            found.state(),
            found.verdict(),
            running(found),
            found.generation,
        ));
    }
    line("");
    for found in &ending.machines {
        let reason = found.said.as_ref().map_or("", |said| said.reason.as_str());
        if found.verdict() != "confirmed" && !reason.is_empty() {
            line(&format!("{}: {reason}", found.name));
        }
    }
    if let Some(rollout) = &ending.rollout {
        line(&format!("Rollout {} is {}.", rollout.id, rollout.state));
        if let Some(pause) = &rollout.pause {
            line(&format!("It says: {}.", pause.text));
            if !pause.way_out.is_empty() {
                line(&format!("The way out: {}.", pause.way_out));
            }
        }
    }
    if let Some(rollback) = &ending.rollback {
        let back = ending.machines.iter().filter(|found| found.taken_back);
        let back: Vec<&str> = back.map(|found| found.name.as_str()).collect();
        line(&format!(
            "Rollback {} of {} is {}.",
            rollback.id,
            back.join(", "),
            rollback.state
        ));
    }
    line(&format!(
        "By the machines' own hooks, {} were away at once at most; {} may be.",
        ending.max_away, ending.max_away_allowed
    ));
    for violation in &ending.violations {
        line(&format!("VIOLATION: {violation}"));
    }
    for difference in &ending.differences {
        line(&format!("NOT AS EXPECTED: {difference}"));
    }
    if ending.is_good() {
        line(&format!(
            "Everything ended as it should, in {:.1} s.",
            ending.seconds
        ));
    }
}

/// How to look further.
pub(super) fn look_further(running: &Running, stage: &Stage, keeps: bool) {
    line("");
    if !keeps {
        line("To look further, leave it running with --keep; then, in another terminal:");
        line("  export LAB_COORDINATOR=HOST:PORT LAB_IDENTITY=FILE   (printed there)");
        line("  cargo run --release --bin lab -- update-history");
        return;
    }
    line("Everything is still running; Ctrl-C ends it. In another terminal:");
    line("");
    line(&format!("export LAB_COORDINATOR={}", running.address));
    line(&format!(
        "export LAB_IDENTITY={}",
        running.identity.display()
    ));
    line("");
    line(&format!(
        "  cargo run --release --bin lab -- --coordinator {} update-history",
        running.address
    ));
    line("  cargo run --release --bin lab -- update status");
    line("  cargo run --release --bin lab -- machines");
    line(&format!(
        "Each machine's next system is ready for `lab update prepare` and `lab update execute`; \
         logs and machines lie in {}.",
        stage.directory().display()
    ));
}
