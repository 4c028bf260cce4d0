//! The toy systems behave as NixOS systems do: units, exit statuses, the signed cache.

use integration_tests::fleet::{Failure, SystemSpec};

use super::bed::bed;

/// A unit that runs for ever; `more` goes into its [Service] section.
fn unit(more: &str) -> String {
    format!(
        "[Service]\nExecStart=/bin/sleep infinity\n{more}\n[Install]\nWantedBy=multi-user.target\n"
    )
}

fn described(text: &str) -> String {
    format!("[Unit]\nDescription={text}\n{}", unit(""))
}

#[test]
fn a_switch_treats_units_as_nixos_does() {
    let Some(bed) = bed() else { return };
    let machine = bed.borrow();
    let before = SystemSpec::new(&machine, "1")
        .unit("same.service", &described("one"))
        .unit("changed.service", &unit(""))
        .unit("restarted.service", &unit("X-StopIfChanged=false"))
        .unit("left.service", &unit("X-RestartIfChanged=false"))
        .unit("removed.service", &unit(""))
        .unit(
            "stays.service",
            &format!("[Unit]\nX-StopOnRemoval=false\n{}", unit("")),
        );
    let after = SystemSpec::new(&machine, "1")
        .unit("same.service", &described("another"))
        .unit("changed.service", &unit("Environment=A=1"))
        .unit(
            "restarted.service",
            &unit("X-StopIfChanged=false\nEnvironment=A=1"),
        )
        .unit(
            "left.service",
            &unit("X-RestartIfChanged=false\nEnvironment=A=1"),
        )
        .unit("new.service", &unit(""));
    let before = machine.stage(before);
    let switched = machine.switch(&before, "switch");
    assert_eq!(switched.0, 0, "{}", switched.1);
    let invocation = |unit: &str| machine.property(unit, "InvocationID");
    let units = [
        "same.service",
        "changed.service",
        "restarted.service",
        "left.service",
        "stays.service",
    ];
    let invocations = units.map(invocation);

    let after = machine.stage(after);
    let (code, printed) = machine.switch(&after, "switch");
    assert_eq!(code, 0, "{printed}");
    let restarted = [0, 1, 2, 3, 4].map(|i| invocations[i] != invocation(units[i]));
    assert_eq!(restarted, [false, true, true, false, false], "{printed}");
    let active = |unit: &str| machine.property(unit, "ActiveState");
    assert_eq!(active("removed.service"), "inactive");
    assert_eq!(active("stays.service"), "active");
    assert_eq!(active("new.service"), "active");
    assert_eq!(machine.current(), after.as_str());
}

#[test]
fn failures_give_the_exit_statuses_of_nixos() {
    let Some(bed) = bed() else { return };
    let machine = bed.borrow();
    let first = machine.current();
    for (failure, code, active, default) in [
        (Failure::Precheck, 1, false, false),
        (Failure::Bootloader, 1, false, false),
        (Failure::Init, 100, false, true),
        (Failure::Activate, 2, true, true),
        (Failure::Units, 4, true, true),
    ] {
        let path = machine.stage(SystemSpec::new(&machine, "2").failing(failure));
        let switched = machine.switch(&path, "switch");
        assert_eq!(switched.0, code, "{failure:?}: {}", switched.1);
        assert_eq!(
            machine.current() == path.as_str(),
            active,
            "{failure:?}: active"
        );
        let boot = machine.run(&["readlink", "/boot/default"]);
        assert_eq!(boot == path.as_str(), default, "{failure:?}: boot default");
        let back = machine.exec(&[&format!("{first}/bin/switch-to-configuration"), "switch"]);
        assert_eq!(back.0, 0, "{failure:?}: back: {}", back.1);
    }
}

#[test]
fn inhibitors_refuse_a_switch_and_not_a_boot() {
    let Some(bed) = bed() else { return };
    let machine = bed.borrow();
    let other = machine.stage(SystemSpec::new(&machine, "2").dbus("dbus"));
    assert_eq!(machine.switch(&other, "check").0, 0);
    assert_eq!(machine.switch(&other, "switch").0, 1);
    assert_eq!(machine.switch(&other, "boot").0, 0);
}

#[test]
fn one_switch_at_a_time_and_a_cut_one_is_taken_up() {
    let Some(bed) = bed() else { return };
    let machine = bed.borrow();
    let hang = machine.stage(SystemSpec::new(&machine, "2").failing(Failure::Hang));
    let good = machine.stage(SystemSpec::new(&machine, "3"));
    let program = format!("{hang}/bin/switch-to-configuration");
    machine.run(&["systemd-run", "--unit=toy-switch", &program, "switch"]);
    let stopped = || machine.property("web.service", "ActiveState") == "inactive";
    let since = std::time::Instant::now();
    while !stopped() {
        assert!(
            since.elapsed().as_secs() < 10,
            "the hanging switch stops the changed unit"
        );
    }
    assert_eq!(machine.switch(&good, "switch").0, 11, "the lock is taken");

    machine.run(&["systemctl", "kill", "--signal=KILL", "toy-switch.service"]);
    let switched = machine.switch(&good, "switch");
    assert_eq!(
        machine.property("web.service", "ActiveState"),
        "active",
        "{}",
        switched.1
    );
    assert_eq!(machine.current(), good.as_str());
}

#[test]
fn only_signed_systems_are_substituted() {
    let Some(bed) = bed() else { return };
    let machine = bed.borrow();
    let signed = bed
        .fleet
        .publish(&[SystemSpec::new(&machine, "signed")])
        .expect("published");
    machine.run(&["nix-store", "--realise", signed[0].as_str()]);

    let unsigned = bed
        .fleet
        .build(&[SystemSpec::new(&machine, "unsigned")])
        .expect("built");
    bed.fleet
        .publish_unsigned(&unsigned)
        .expect("copied without a signature");
    let (code, printed) = machine.exec(&["nix-store", "--realise", unsigned[0].as_str()]);
    assert_ne!(code, 0);
    assert!(
        printed.contains("not signed by any of the keys"),
        "{printed}"
    );
}
