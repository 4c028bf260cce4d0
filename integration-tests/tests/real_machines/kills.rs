//! The coordinator and the agents are killed at random, again and again, while rollouts go on.

use std::{fs, thread, time::Duration};

use common::MachineName;
use integration_tests::fleet::{AGENT_UNIT, COORDINATOR_UNIT};
use serde_json::{Value, json};

use super::stage::{PARALLEL, Stage, ok, stage, text};

/// How many times something is killed: kills that met a process.
const ROUNDS: u32 = 50;

/// The journal of an agent.
const AGENT_STATE: &str = "/var/lib/lab-updater/agent.json";

/// Numbers that look random (xorshift64); the first one decides all.
struct Dice(u64);

impl Dice {
    /// A number below `sides`.
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

#[test]
fn killed_daemons_lose_nothing_and_every_rollout_ends() {
    let Some(stage) = stage() else { return };
    let nodes = stage.nodes();
    let mut dice = Dice(0x5eed_1ab5);
    let mut killed = 0;
    let mut rollouts = 0;
    let mut most = 0;
    while killed < ROUNDS {
        let systems: Vec<_> = nodes.iter().map(|node| stage.system(node)).collect();
        let paths = stage.prepare(&systems);
        stage.execute_detached(&nodes.iter().collect::<Vec<_>>());
        rollouts += 1;
        let id = stage.rollout()["id"].clone();
        while stage.rollout()["state"] == json!("active") {
            if killed < ROUNDS && kill(&stage, &mut dice) {
                killed += 1;
            }
            thread::sleep(Duration::from_millis(200 + dice.roll(800)));
            let attempts = attempts(&stage);
            most = most.max(attempts);
            assert!(
                attempts <= PARALLEL,
                "{attempts} machines are at it by their own account after {killed} kills\n{}",
                stage.scene()
            );
            stage.eventually("the coordinator answers", || {
                stage.lab(&["update", "status"]).code() == 0
            });
            let away = stage.status()["away"].as_u64().expect("a number");
            assert!(
                away <= PARALLEL as u64,
                "{away} machines are away after {killed} kills"
            );
            assert_eq!(
                stage.rollout()["id"],
                id,
                "a rollout that was acknowledged is still there"
            );
        }
        assert_eq!(
            stage.rollout()["state"],
            "finished",
            "rollout {rollouts}, {killed} kills\n{}",
            stage.scene()
        );
        for (node, path) in nodes.iter().zip(&paths) {
            assert_eq!(stage.settled(node), path.as_str(), "{node}");
            ended(&stage, node);
            assert_eq!(
                results(&stage, node, text(&id)),
                [json!("confirmed")],
                "one result of {node}, and no second one"
            );
        }
    }
    assert!(most > 0, "no attempt was ever seen");
}

/// Kills the coordinator or one of the agents; whether there was one to kill.
fn kill(stage: &Stage, dice: &mut Dice) -> bool {
    let (fleet, nodes) = (stage.fleet(), stage.nodes());
    let victim = dice.roll(1 + nodes.len() as u64);
    let node = usize::try_from(victim).ok().and_then(|at| nodes.get(at));
    let (machine, unit) = match node {
        Some(node) => (node, AGENT_UNIT),
        None => (&fleet.control(), COORDINATOR_UNIT),
    };
    // One that is just being started again has no process, and says 0.
    let kill = format!(
        "pid=$(systemctl show --property=MainPID --value {unit})
         [ $pid -gt 0 ] && kill -KILL $pid"
    );
    let hit = ok(fleet.exec(machine, &["sh", "-ec", &kill]));
    hit.code() == 0
}

/// What an agent has on disk.
fn journal(stage: &Stage, node: &MachineName) -> Value {
    let file = stage.fleet().path(node, AGENT_STATE);
    let text = fs::read_to_string(&file).expect("an agent that has run has a journal");
    serde_json::from_str(&text).expect("replaced as a whole")
}

/// How many machines were in an attempt at one moment, by what they themselves have on disk.
fn attempts(stage: &Stage) -> usize {
    let look = || -> Vec<Value> {
        let nodes = stage.nodes().iter();
        nodes
            .map(|node| journal(stage, node)["attempt"]["lease"].clone())
            .collect()
    };
    // Four files are not read in one moment. What is in both looks was there in between.
    let (first, second) = (look(), look());
    let both = first.iter().zip(&second);
    both.filter(|(first, second)| !first.is_null() && first == second)
        .count()
}

/// Waits until the machine's agent knows that its result has arrived.
#[track_caller]
fn ended(stage: &Stage, node: &MachineName) {
    stage.eventually(&format!("{node} knows that it is done"), || {
        let journal = journal(stage, node);
        journal["attempt"].is_null() && journal["unreported"].is_null()
    });
    let journal = journal(stage, node);
    assert_eq!(
        journal["last_lease"], journal["lease"],
        "the newest lease was carried out: {journal:#}"
    );
}

/// The verdicts in the history of one rollout for one machine.
fn results(stage: &Stage, node: &MachineName, rollout: &str) -> Vec<Value> {
    let history = stage.lab_json(&["update-history", "--days=1"]);
    let entries = history["entries"].as_array().into_iter().flatten();
    entries
        .filter(|entry| entry["machine"] == json!(node) && entry["rollout"] == rollout)
        .filter(|entry| entry["kind"] == "attempt")
        .map(|entry| entry["verdict"].clone())
        .collect()
}
