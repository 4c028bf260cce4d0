//! The coordinator and the agents are killed at random, again and again, while rollouts go on.

use std::{thread, time::Duration};

use integration_tests::fleet::{AGENT_UNIT, COORDINATOR_UNIT};
use serde_json::json;

use super::stage::{PARALLEL, ok, stage};

/// How many times something is killed.
const ROUNDS: u32 = 50;

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
    let fleet = stage.fleet();
    let nodes = stage.nodes();
    let mut dice = Dice(0x5eed_1ab5);
    let mut killed = 0;
    let mut rollouts = 0;
    while killed < ROUNDS {
        let systems: Vec<_> = nodes.iter().map(|node| stage.system(node)).collect();
        let paths = stage.prepare(&systems);
        stage.execute_detached(&nodes.iter().collect::<Vec<_>>());
        rollouts += 1;
        let id = stage.rollout()["id"].clone();
        while stage.rollout()["state"] == json!("active") {
            if killed < ROUNDS {
                killed += 1;
                let victim = dice.roll(1 + nodes.len() as u64);
                let kill = |unit| ["systemctl", "kill", "--signal=KILL", unit];
                // One that is just being started again cannot be killed: that round is lost.
                match usize::try_from(victim)
                    .ok()
                    .and_then(|index| nodes.get(index))
                {
                    Some(node) => drop(ok(fleet.exec(node, &kill(AGENT_UNIT)))),
                    None => drop(ok(fleet.exec(&fleet.control(), &kill(COORDINATOR_UNIT)))),
                }
            }
            thread::sleep(Duration::from_millis(200 + dice.roll(800)));
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
        }
    }
}
