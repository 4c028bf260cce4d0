//! The daemons as services: one that hangs, and one whose disk is full.

use std::{thread, time::Duration};

use common::MachineName;
use integration_tests::fleet::{AGENT_UNIT, COORDINATOR_UNIT, Fleet};
use serde_json::json;

use super::stage::{PARALLEL, ok, stage};

/// A drop-in that makes systemd impatient.
const IMPATIENT: &str = "/etc/systemd/system/lab-coordinator.service.d/watchdog.conf";

fn restart_coordinator(fleet: &Fleet) {
    let control = fleet.control();
    ok(fleet.run(&control, &["systemctl", "daemon-reload"]));
    ok(fleet.run(&control, &["systemctl", "restart", COORDINATOR_UNIT]));
}

#[test]
fn a_coordinator_that_hangs_is_restarted_by_systemd_and_goes_on_with_the_rollout() {
    let Some(stage) = stage() else { return };
    let (fleet, nodes) = (stage.fleet(), stage.nodes());
    let control = fleet.control();
    ok(fleet.write_file(&control, IMPATIENT, "[Service]\nWatchdogSec=5\n"));
    restart_coordinator(fleet);
    let systems: Vec<_> = nodes.iter().map(|node| stage.system(node)).collect();
    let paths = stage.prepare(&systems);
    stage.execute_detached(&nodes.iter().collect::<Vec<_>>());
    stage.eventually("somebody is away", || stage.status()["away"] != json!(0));

    let pid = || {
        let show = ["systemctl", "show", "-P", "MainPID", COORDINATOR_UNIT];
        ok(fleet.run(&control, &show)).trim().to_owned()
    };
    let hung = pid();
    let stop = ["systemctl", "kill", "--signal=STOP", COORDINATOR_UNIT];
    ok(fleet.run(&control, &stop));
    stage.eventually("another coordinator is there", || {
        let now = pid();
        now != hung && now != "0"
    });
    let journal = fleet.journal(&control, COORDINATOR_UNIT);
    assert!(journal.contains("Watchdog timeout"), "{journal}");
    stage.eventually("it answers", || {
        stage.lab(&["update", "status"]).code() == 0
    });
    let away = stage.status()["away"].as_u64().expect("a number");
    assert!(away <= PARALLEL as u64, "{away} machines are away");
    assert_eq!(stage.await_end(), "finished", "{}", stage.scene());
    for (node, path) in nodes.iter().zip(&paths) {
        assert_eq!(stage.settled(node), path.as_str(), "{node}");
    }
    ok(fleet.run(&control, &["rm", IMPATIENT]));
    restart_coordinator(fleet);
}

/// The agent's state directory on a small disk of its own, until it is dropped.
struct SmallDisk<'a> {
    fleet: &'a Fleet,
    node: &'a MachineName,
}

impl<'a> SmallDisk<'a> {
    fn new(fleet: &'a Fleet, node: &'a MachineName) -> Self {
        let disk = Self { fleet, node };
        disk.shell(&format!(
            "systemctl stop {AGENT_UNIT}
             mkdir -p /mnt/small && mount -t tmpfs -o size=4m,mode=700 small /mnt/small
             cp -a /var/lib/lab-updater/. /mnt/small/
             mount --bind /mnt/small /var/lib/lab-updater
             systemctl start {AGENT_UNIT}"
        ));
        disk
    }

    fn fill(&self) {
        // It ends with \"no space left\".
        self.shell("rm -f /mnt/small/ballast; dd if=/dev/zero of=/mnt/small/filler bs=1k || true");
    }

    fn empty(&self) {
        self.shell("rm /mnt/small/filler");
    }

    fn shell(&self, text: &str) {
        ok(self.fleet.run(self.node, &["sh", "-ec", text]));
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        self.shell(&format!(
            "systemctl stop {AGENT_UNIT}
             umount /var/lib/lab-updater
             rm -f /mnt/small/filler
             cp -a /mnt/small/. /var/lib/lab-updater/
             umount /mnt/small
             systemctl start {AGENT_UNIT}"
        ));
    }
}

#[test]
fn an_agent_whose_disk_is_full_stands_still_and_says_so() {
    let Some(stage) = stage() else { return };
    let (fleet, node) = (stage.fleet(), &stage.nodes()[2]);
    let before = stage.settled(node);
    let paths = stage.prepare(&[stage.system(node)]);
    let disk = SmallDisk::new(fleet, node);
    disk.fill();
    stage.execute_detached(&[node]);
    stage.eventually("it says so", || {
        let journal = fleet.journal(node, AGENT_UNIT);
        journal.contains("No space left on device")
    });
    // It is started again and again; nothing that it cannot write down is begun.
    thread::sleep(Duration::from_secs(5));
    assert_eq!(stage.settled(node), before);
    assert_eq!(stage.rollout()["state"], "active", "{}", stage.scene());

    disk.empty();
    assert_eq!(stage.await_end(), "finished", "{}", stage.scene());
    assert_eq!(stage.settled(node), paths[0].as_str());
}
