//! Attempts on the machine that this runs on: real systemd, real D-Bus, real Nix.
//!
//! Changes the machine, so it does nothing unless `LAB_SYSTEM_TEST` holds the systems to go to, in
//! order, each with the outcome that is expected: `PATH=confirmed PATH=rolled-back …`. Meant for a
//! machine of the fleet (`cargo run --bin fleet`), with this test's program copied into it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is a test's report"
)]

#[allow(dead_code, reason = "the directory machine is for the other test")]
mod world;

use std::{path::Path, rc::Rc, time::Duration};

use agent::{
    config::Config, dead_man::DeadManProgram, driver::Driver, executor::Executor,
    state_file::StateFile, system::System,
};
use agent_core::Limits;
use platform::clock::Clock;
use tokio::task::LocalSet;
use world::Coordinator;

const CONFIG: &str = r#"
machine = "this"
coordinator = "127.0.0.1:1"
state_dir = "/var/lib/lab-system-test"
[limits]
settle = "3s"
stage_timeout = "2m"
switch_timeout = "1m"
store_reserve_bytes = 0
boot_reserve_bytes = 0
[hooks]
pre_update = "/bin/true"
[[checks]]
name = "web"
kind = "http"
url = "http://127.0.0.1:8080/health"
timeout = "3s"
[[checks]]
name = "shell"
kind = "command"
command = ["/bin/sh", "-c", "echo seen"]
"#;

#[tokio::test]
async fn this_machine_goes_where_it_is_told() {
    let Ok(plan) = std::env::var("LAB_SYSTEM_TEST") else {
        return;
    };
    let directory = Path::new("/var/lib/lab-system-test");
    std::fs::create_dir_all(directory).expect("a state directory");
    let file = directory.join("agent.toml");
    std::fs::write(&file, CONFIG).expect("written");
    let config = Config::load(&file).expect("good");
    let coordinator = Rc::new(Coordinator::default());
    let program = DeadManProgram {
        program: vec!["/usr/local/bin/lab-agent".to_owned()],
        config: file,
    };
    let host = System::new(&config, program);
    let state = StateFile::new(config.state_file());
    let known = state.load().expect("readable").unwrap_or_default();
    let clock = Clock::system();
    let limits = Limits {
        health_timeout: Duration::from_secs(20),
        poll_pause: Duration::from_secs(1),
        ..Limits::default()
    };
    let executor = Executor::new(host, config, clock.clone());
    let link = Rc::clone(&coordinator);
    let driver = Driver::new(limits, state, executor, link, clock).expect("a driver");
    let mut lease = known.lease.0;
    let script = async {
        for (count, step) in plan.split_whitespace().enumerate() {
            let (target, expected) = step.split_once('=').expect("PATH=outcome");
            lease += 1;
            // An attempt that a reboot interrupted goes on by itself.
            if target != "resume" {
                coordinator.wants(lease, &target.parse().expect("a store path"));
            }
            while coordinator.outcomes().len() <= count {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let outcome = coordinator.outcomes()[count].clone();
            println!("{target}: {} {}", outcome.kind, outcome.reason);
            assert_eq!(outcome.kind.word(), expected, "{outcome:?}");
        }
    };
    let run = async {
        tokio::select! {
            exit = driver.run(std::future::pending()) => panic!("{exit:?}"),
            () = script => {}
        }
    };
    LocalSet::new().run_until(run).await;
}
