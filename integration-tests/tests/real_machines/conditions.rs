//! What must hold before an update: a service of another machine, and a backup that is not old.

use super::stage::{ok, stage};

/// A port that systemd itself answers on the machine that the other one depends on.
const PARTNER: &str = "
    printf '[Socket]\\nListenStream=0.0.0.0:7099\\nAccept=yes\\n' >/run/systemd/system/partner.socket
    printf '[Service]\\nExecStart=/bin/true\\n' >/run/systemd/system/partner@.service
    systemctl daemon-reload && systemctl start partner.socket";

#[test]
fn an_update_waits_for_another_machine_and_a_backup_and_going_back_does_not() {
    let Some(stage) = stage() else { return };
    let (fleet, partner, node) = (stage.fleet(), &stage.nodes()[0], &stage.nodes()[1]);
    let conditions = format!(
        r#"
[[conditions]]
name = "partner"
kind = "tcp"
address = "{}:7099"
timeout = "2s"
[[conditions]]
name = "backup"
kind = "file"
path = "/var/lib/backups"
age_max = "1h"
"#,
        ok(fleet.status_of(partner)).address
    );
    let run = |machine, script: &str| ok(fleet.run(machine, &["sh", "-ec", script]));
    run(partner, PARTNER);
    run(
        node,
        "mkdir -p /var/lib/backups; rm -f /var/lib/backups/*; touch -d -2hours /var/lib/backups/old",
    );
    stage.install(&stage.system_with(node, &conditions));
    let before = stage.settled(node);

    let systems = [stage.system_with(node, &conditions)];
    let target = ok(fleet.publish(&systems));
    let old = stage.try_prepare(&systems, &target);
    assert_eq!(old.code(), 1, "{old:?}");
    assert!(old.stdout.contains("backup: written 2 h ago"), "{old:?}");
    run(node, "touch /var/lib/backups/new");
    let ready = stage.try_prepare(&systems, &target);
    assert_eq!(ready.code(), 0, "{ready:?}\n{}", stage.scene());

    // Ready when it was staged, and not any more when it has its turn.
    run(partner, "systemctl stop partner.socket");
    let executed = stage.execute(&[node], &[]);
    assert_ne!(executed.code(), 0, "{executed:?}");
    let seen = stage.in_rollout(node).to_string();
    assert!(seen.contains("partner: "), "{seen}\n{}", stage.scene());
    assert_eq!(stage.settled(node), before);

    run(partner, "systemctl start partner.socket");
    let executed = stage.execute(&[node], &["--retry-failed"]);
    assert_eq!(executed.code(), 0, "{executed:?}\n{}", stage.scene());
    assert_eq!(stage.settled(node), target[0].as_str());

    run(partner, "systemctl stop partner.socket");
    let back = format!("--machine={node}");
    let back = stage.lab(&["update", "rollback", "--yes", "--timeout=100", &back]);
    assert_eq!(back.code(), 0, "{back:?}\n{}", stage.scene());
    assert_eq!(stage.settled(node), before);
}
