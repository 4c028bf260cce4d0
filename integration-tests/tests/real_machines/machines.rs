//! The fleet itself: machines boot, reboot, lose power and network, and leave nothing behind.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use integration_tests::fleet::{Damage, Fleet, FleetError, FleetOptions, Power, SystemSpec};

use super::bed::{self, Bed, Borrowed, bed};

fn reaches_control(bed: &Bed, machine: &Borrowed) -> bool {
    bed.fleet
        .reaches_control(machine)
        .expect("the machine is on")
}

#[test]
fn machines_are_up_with_systemd_and_their_first_system() {
    let Some(bed) = bed() else { return };
    let status = bed.fleet.status().expect("a status");
    assert_eq!(status[0].name.as_str(), "control");
    assert_eq!(status.len(), bed.fleet.machines().len() + 1);
    let machine = bed.borrow();
    assert_eq!(machine.run(&["hostname"]), machine.as_str());
    assert_eq!(machine.run(&["systemctl", "is-system-running"]), "running");
    assert_eq!(
        machine.run(&["curl", "-sf", "http://localhost:8080/health"]),
        "ok"
    );
    assert_eq!(
        machine.current(),
        machine.run(&["readlink", "-f", "/nix/var/nix/profiles/system"])
    );
}

#[test]
fn a_command_gives_its_exit_status_and_output() {
    let Some(bed) = bed() else { return };
    let machine = bed.borrow();
    let (code, printed) = machine.exec(&["sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((code, printed.as_str()), (7, "out\nerr\n"));
}

#[test]
fn a_reboot_is_a_new_boot_into_the_boot_default() {
    let Some(bed) = bed() else { return };
    let machine = bed.borrow();
    let first = machine.current();
    let second = machine.stage(SystemSpec::new(&machine, "2").kernel("6.12.2"));
    let boot = bed.fleet.boot_id(&machine).expect("a boot id");

    assert_eq!(machine.switch(&second, "boot"), (0, String::new()));
    assert_eq!(machine.current(), first, "boot does not activate");
    bed.fleet.reboot(&machine).expect("a reboot");

    assert_ne!(bed.fleet.boot_id(&machine).expect("a boot id"), boot);
    assert_eq!(machine.current(), second.as_str());
    assert_eq!(
        machine.run(&["readlink", "/run/booted-system"]),
        second.as_str()
    );
    assert_eq!(machine.property("web.service", "Environment"), "VERSION=2");
    assert_eq!(machine.property("web.service", "ActiveState"), "active");
}

#[test]
fn a_power_cut_ends_the_machine_and_it_comes_back() {
    let Some(bed) = bed() else { return };
    let machine = bed.borrow();
    let boot = bed.fleet.boot_id(&machine).expect("a boot id");
    machine.run(&["sh", "-c", "echo kept >/var/lib/note"]);

    bed.fleet.power_cut(&machine).expect("a power cut");
    assert_eq!(
        bed.fleet.status_of(&machine).expect("a status").power,
        Power::Off
    );
    let error = bed
        .fleet
        .exec(&machine, &["true"])
        .expect_err("the machine is off");
    assert!(matches!(error, FleetError::Off(_)), "{error}");

    bed.fleet.power_on(&machine).expect("power");
    assert_ne!(bed.fleet.boot_id(&machine).expect("a boot id"), boot);
    assert_eq!(machine.run(&["cat", "/var/lib/note"]), "kept");
    assert_eq!(machine.run(&["systemctl", "is-system-running"]), "running");
}

#[test]
fn a_partitioned_machine_reaches_nobody_until_it_is_healed() {
    let Some(bed) = bed() else { return };
    let machine = bed.borrow();
    assert!(reaches_control(bed, &machine));
    bed.fleet.partition(&machine).expect("a partition");
    assert!(!reaches_control(bed, &machine));
    bed.fleet.heal(&machine).expect("healed");
    assert!(reaches_control(bed, &machine));
}

#[test]
fn what_was_broken_is_healed() {
    let Some(bed) = bed() else { return };
    let machine = bed.borrow();
    let healthy = || {
        machine
            .exec(&[
                "curl",
                "-sf",
                "--max-time",
                "2",
                "http://localhost:8080/health",
            ])
            .0
            == 0
    };
    for damage in [Damage::Health, Damage::Network] {
        bed.fleet.damage(&machine, damage).expect("damage");
        assert!(
            !(healthy() && reaches_control(bed, &machine)),
            "{damage:?} shows"
        );
        bed.fleet.heal(&machine).expect("healed");
        assert!(
            healthy() && reaches_control(bed, &machine),
            "{damage:?} is healed"
        );
    }
    bed.fleet.damage(&machine, Damage::Freeze).expect("damage");
    assert!(bed.fleet.status_of(&machine).expect("a status").frozen);
    bed.fleet.heal(&machine).expect("healed");
    assert!(healthy());
}

#[test]
fn a_killed_fleet_leaves_nothing_and_its_name_is_free() {
    let Some(_bed) = bed() else { return };
    let options = FleetOptions {
        name: format!("killed-{}", std::process::id()),
        machines: Vec::new(),
        program: bed::PROGRAM.into(),
        ends_with_us: true,
        disk: None,
        files: None,
        memory: None,
    };
    let first = Fleet::up(&options, &|_| ()).expect("a fleet of control alone");
    let refused = Fleet::up(&options, &|_| ()).expect_err("the name is taken");
    assert!(matches!(refused, FleetError::AlreadyUp(_)), "{refused}");

    let run = Path::new("/run/lab-fleet").join(&options.name);
    let record = fs::read_to_string(run.join("run.json")).expect("a record");
    let record: serde_json::Value = serde_json::from_str(&record).expect("JSON");
    let supervisor =
        i32::try_from(record["supervisor"]["pid"].as_i64().expect("a pid")).expect("a pid");
    let (pid, signal) = (
        nix::unistd::Pid::from_raw(supervisor),
        nix::sys::signal::Signal::SIGKILL,
    );
    nix::sys::signal::kill(pid, signal).expect("the supervisor runs");
    drop(first);
    // The kernel takes the machines' processes down before their supervisor is gone.
    let gone = Instant::now() + Duration::from_secs(30);
    while Path::new("/proc").join(supervisor.to_string()).exists() {
        assert!(Instant::now() < gone, "the supervisor does not end");
        thread::sleep(Duration::from_millis(20));
    }

    let second = Fleet::up(&options, &|_| ()).expect("the name is free again");
    second.down().expect("down");
    assert!(!run.exists());
}
