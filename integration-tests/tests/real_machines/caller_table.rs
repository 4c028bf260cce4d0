//! What happens to the agent, and to the switch that it has begun, when the switch changes or removes the
//! agent's own unit: with NixOS' `switch-to-configuration` itself, which this project does not contain.
//! `LAB_STC` names the program; without it these tests say so and pass.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use common::MachineName;
use integration_tests::fleet::{AGENT_UNIT, Finished, Fleet, SystemSpec};

use super::{
    bed::bed,
    stage::{Stage, ok, stage},
};

/// Names the program.
const STC: &str = "LAB_STC";

/// Where it is put on the machine.
const SWITCHER: &str = "/usr/local/lib/lab-fleet/switch-to-configuration";

/// Units besides the agent's: what each must be after the switch, and what its text says.
const OTHERS: &[(&str, bool, &str)] = &[
    ("changed.service", true, ""),
    ("restarted.service", true, "X-StopIfChanged=false\n"),
    ("left.service", false, "X-RestartIfChanged=false\n"),
];

/// A row of the table: what the agent's unit says to a switch, and whether the target has it.
struct Row {
    /// In `[Service]`.
    service: &'static str,
    /// In `[Unit]`.
    unit: &'static str,
    /// The target has no agent.
    removed: bool,
}

/// How long a caller may take to be stopped.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks.
const GLANCE: Duration = Duration::from_millis(100);

/// NixOS' program; none when nobody has named it.
fn program() -> Option<PathBuf> {
    let program = env::var_os(STC).map(PathBuf::from);
    if program.is_none() {
        eprintln!("skipped: {STC} does not name NixOS' switch-to-configuration");
    }
    program
}

/// The stage and the program; nothing when one of them is not there.
fn stage_and_program() -> Option<(Stage, PathBuf)> {
    let program = program()?;
    Some((stage()?, program))
}

fn node(stage: &Stage) -> &'static MachineName {
    &stage.nodes()[2]
}

impl Row {
    /// The system of this row, switched to by NixOS' program; `number` tells one from the next.
    fn system(&self, stage: &Stage, number: u32) -> SystemSpec {
        let soon = "limits.attempt_timeout = \"30s\"";
        let mut system = stage.system_with(node(stage), soon);
        SWITCHER.clone_into(&mut system.switcher);
        let agent = system.units.get_mut(AGENT_UNIT).expect("an agent");
        *agent = agent
            .replace("X-RestartIfChanged=false\n", self.service)
            .replace("X-StopOnRemoval=false\n", self.unit)
            .replace(
                "Type=notify\n",
                &format!("Type=notify\nEnvironment=N={number}\n"),
            );
        for (name, _, says) in OTHERS {
            let text = format!(
                "[Service]\nExecStart=/bin/sleep infinity\n{says}Environment=N={number}\n\
                 [Install]\nWantedBy=multi-user.target\n"
            );
            system = system.unit(name, &text);
        }
        let same =
            "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n";
        system.unit("same.service", same)
    }

    /// Brings the machine to the first system, rolls the second out, and looks at what the switch has
    /// done. Returns the paths of both.
    #[track_caller]
    fn switched(&self, stage: &Stage, program: &Path) -> [String; 2] {
        let (fleet, node) = (stage.fleet(), node(stage));
        put_switcher(fleet, node, program);
        // A switch starts what the targets of the running system want: those are in the first one.
        ok(fleet.deploy(&[self.system(stage, 0)]));
        stage.install(&self.system(stage, 1));
        let before = stage.settled(node);
        let invocations = others(fleet, node);
        let mut target = self.system(stage, 2);
        if self.removed {
            let ours = |name: &str| name.starts_with("lab-updater");
            target.units.retain(|name, _| !ours(name));
            target.files.remove("lab-agent.toml");
        }
        let paths = stage.prepare(&[target]);
        let path = paths[0].to_string();
        stage.execute_detached(&[node]);
        stage.eventually("the switch is complete", || {
            let at_work = ["systemctl", "list-units", "--state=activating,running"];
            let at_work = [
                &at_work[..],
                &["--no-legend", "lab-updater-activate-*.service"],
            ]
            .concat();
            let ended = |units: Finished| units.stdout.trim().is_empty();
            stage.running(node) == path && fleet.exec(node, &at_work).is_ok_and(ended)
        });
        let journal = fleet.journal(node, "lab-updater-activate-*");
        let theirs = "restarting sysinit-reactivation.target";
        assert!(journal.contains(theirs), "not by NixOS' program: {journal}");
        assert_eq!(lists(fleet, node), "", "what is still to be done");
        let after = others(fleet, node);
        for ((unit, old), (_, new)) in invocations.iter().zip(&after) {
            let other = OTHERS.iter().find(|(name, _, _)| name == unit);
            let restarted = other.is_some_and(|(_, restarted, _)| *restarted);
            assert_eq!(
                old != new,
                restarted,
                "{unit} was started anew: {}",
                stage.scene()
            );
        }
        [before, path]
    }

    /// The same, and the update must be confirmed.
    #[track_caller]
    fn is_confirmed(&self) {
        let Some((stage, program)) = stage_and_program() else {
            return;
        };
        let [_, target] = self.switched(&stage, &program);
        assert_eq!(stage.await_end(), "finished", "{}", stage.scene());
        assert_eq!(stage.settled(node(&stage)), target);
        let part = stage.in_rollout(node(&stage));
        assert_eq!(part["verdict"], "confirmed", "{part:#}\n{}", stage.scene());
    }
}

/// What switches have left to be done by the next one.
fn lists(fleet: &Fleet, node: &MachineName) -> String {
    let script = "cd /run/nixos && for list in start restart reload; do
                  [ ! -e $list-list ] || echo $list: $(cat $list-list); done";
    ok(fleet.run(node, &["sh", "-ec", script]))
        .trim()
        .to_owned()
}

/// Puts NixOS' program onto the machine.
fn put_switcher(fleet: &Fleet, node: &MachineName, program: &Path) {
    let to = fleet.path(node, SWITCHER);
    let beside = to.with_extension("new");
    fs::create_dir_all(to.parent().expect("a directory")).expect("a directory");
    fs::copy(program, &beside)
        .unwrap_or_else(|error| panic!("{STC}, {}: {error}", program.display()));
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o755)).expect("a program");
    fs::rename(&beside, &to).expect("in its place");
}

/// The units besides the agent's, and their present runs; all of them run.
#[track_caller]
fn others(fleet: &Fleet, node: &MachineName) -> Vec<(&'static str, String)> {
    let names = OTHERS.iter().map(|(name, _, _)| *name);
    let show = |name| {
        let words = [
            "systemctl",
            "show",
            "--property=InvocationID,ActiveState",
            name,
        ];
        let shown = ok(fleet.run(node, &words));
        assert!(shown.contains("ActiveState=active"), "{name}: {shown}");
        (name, shown)
    };
    names.chain(["same.service"]).map(show).collect()
}

/// What the agent does not do, and what the looks of the other tests would show if it did.
#[test]
fn a_switch_that_is_a_child_of_what_it_stops_dies_half_way() {
    let Some(program) = program() else { return };
    let Some(bed) = bed() else { return };
    let machine = bed.borrow();
    put_switcher(&bed.fleet, &machine, &program);
    let system = |number: u32| {
        let caller = format!(
            "[Service]\nEnvironment=N={number}\nExecStart=/bin/sh -c 'until [ -e /run/go ]; do sleep 0.1; \
             done; $(cat /run/go)/bin/switch-to-configuration switch; sleep infinity'\n\
             [Install]\nWantedBy=multi-user.target\n"
        );
        let mut system = SystemSpec::new(&machine, &number.to_string());
        SWITCHER.clone_into(&mut system.switcher);
        system.unit("caller.service", &caller)
    };
    for number in [0, 1] {
        let path = machine.stage(system(number));
        let (code, printed) = machine.switch(&path, "switch");
        assert_eq!(code, 0, "{printed}");
    }
    let before = machine.current();
    let path = machine.stage(system(2));
    machine.run(&["sh", "-ec", &format!("echo {path} >/run/go")]);
    let since = Instant::now();
    while machine.property("caller.service", "ActiveState") == "active" {
        assert!(since.elapsed() < PATIENCE, "the caller is not stopped");
        thread::sleep(GLANCE);
    }
    assert_eq!(machine.current(), before, "nothing was activated");
    let left = lists(&bed.fleet, &machine);
    assert!(
        left.contains("web.service"),
        "nobody goes on with what is left: {left}"
    );
    machine.run(&["sh", "-ec", "rm /run/go /run/nixos/*-list"]);
}

#[test]
fn with_default_flags_the_agent_is_stopped_and_started_and_learns_how_it_ended() {
    Row {
        service: "",
        unit: "",
        removed: false,
    }
    .is_confirmed();
}

#[test]
fn without_a_stop_phase_the_agent_is_restarted_and_learns_how_it_ended() {
    Row {
        service: "X-StopIfChanged=false\n",
        unit: "",
        removed: false,
    }
    .is_confirmed();
}

#[test]
fn as_the_module_has_it_the_agent_stays_and_starts_anew_afterwards() {
    Row {
        service: "X-RestartIfChanged=false\n",
        unit: "X-StopOnRemoval=false\n",
        removed: false,
    }
    .is_confirmed();
}

#[test]
fn removed_as_the_module_has_it_the_agent_judges_and_reports_its_last_update() {
    Row {
        service: "X-RestartIfChanged=false\n",
        unit: "X-StopOnRemoval=false\n",
        removed: true,
    }
    .is_confirmed();
}

#[test]
fn removed_with_default_flags_the_switch_is_complete_and_is_then_gone_back_from() {
    let Some((stage, program)) = stage_and_program() else {
        return;
    };
    let row = Row {
        service: "",
        unit: "",
        removed: true,
    };
    let [before, _] = row.switched(&stage, &program);
    // Nobody is left who could confirm it: the timer that PID 1 has takes the machine back.
    assert_ne!(stage.await_end(), "finished", "{}", stage.scene());
    assert_eq!(stage.settled(node(&stage)), before);
    let part = stage.in_rollout(node(&stage));
    assert_eq!(
        part["verdict"],
        "rolled-back",
        "{part:#}\n{}",
        stage.scene()
    );
}
