use std::os::unix::fs::symlink;

use super::*;

const HASH: &str = "0c5y5y5y5y5y5y5y5y5y5y5y5y5y5y5y";

/// A machine in a directory.
struct Machine {
    dir: tempfile::TempDir,
    links: Links,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let links = Links::new(dir.path());
        fs::create_dir_all(links.at(PROFILES)).expect("profiles");
        fs::create_dir_all(links.at("/run")).expect("run");
        Self { dir, links }
    }

    fn store(&self, name: &str) -> StorePath {
        let path: StorePath = format!("/nix/store/{HASH}-{name}").parse().expect("a path");
        fs::create_dir_all(self.links.at(path.as_str())).expect("made");
        path
    }

    fn system(&self, name: &str, kernel: &str, inhibitors: &str) -> StorePath {
        let path = self.store(name);
        let kernel = self.store(kernel);
        let put = |part: &str, text: &str| {
            let file = self.links.at(below(&path, part));
            fs::create_dir_all(file.parent().expect("a parent")).expect("made");
            fs::write(file, text).expect("written");
        };
        fs::write(self.links.at(kernel.as_str()).join("bzImage"), "kernel").expect("written");
        put("nixos-version", "26.05");
        put("bin/switch-to-configuration", "");
        put("kernel-params", "quiet");
        put("init-interface-version", "1");
        put("switch-inhibitors", inhibitors);
        symlink(
            format!("{kernel}/bzImage"),
            self.links.at(below(&path, "kernel")),
        )
        .expect("linked");
        path
    }

    fn link(&self, link: &str, to: &str) {
        let link = self.links.at(link);
        fs::remove_file(&link).ok();
        symlink(to, link).expect("linked");
    }

    fn runs(&self, path: &StorePath) {
        self.link(CURRENT, path.as_str());
        self.link(BOOTED, path.as_str());
    }
}

#[test]
fn the_profile_is_read_with_its_generations() {
    let machine = Machine::new();
    let (one, two) = (machine.store("one"), machine.store("two"));
    machine.link("/nix/var/nix/profiles/system-1-link", one.as_str());
    machine.link("/nix/var/nix/profiles/system-12-link", two.as_str());
    machine.link("/nix/var/nix/profiles/system-x-link", two.as_str());
    machine.link(PROFILE, "system-12-link");
    machine.link(CURRENT, one.as_str());
    let facts = machine.links.facts("boot".parse().expect("a name"));
    assert_eq!(facts.profile, Some(two.clone()));
    assert_eq!(facts.generation, 12);
    assert_eq!(facts.running, Some(one.clone()));
    assert_eq!(facts.booted, None);
    let numbers: Vec<u64> = facts.generations.iter().map(|g| g.number).collect();
    assert_eq!(numbers, [12, 1]);
    assert!(facts.store_free_bytes > 0);
}

#[test]
fn a_link_that_leads_nowhere_is_no_system_and_no_loop_is_endless() {
    let machine = Machine::new();
    assert_eq!(machine.links.resolve(CURRENT), None);
    machine.link(CURRENT, "current-system");
    assert_eq!(machine.links.resolve(CURRENT), None);
    assert_eq!(machine.links.follow(CURRENT), None);
    machine.link(CURRENT, "/etc/passwd");
    assert_eq!(machine.links.resolve(CURRENT), None);
    assert!(machine.dir.path().exists());
}

#[test]
fn the_same_kernel_takes_no_reboot_even_through_another_link() {
    let machine = Machine::new();
    let old = machine.system("old", "linux-6.12", r#"{"dbus":"broker","new":"1"}"#);
    let new = machine.system("new", "linux-6.12", r#"{"dbus":"broker","other":"2"}"#);
    machine.runs(&old);
    assert_eq!(machine.links.reboot_reasons(&new), Vec::<String>::new());
    assert_eq!(machine.links.boot_bytes_needed(&new), 0);
}

#[test]
fn every_reason_for_a_reboot_is_named() {
    let machine = Machine::new();
    let old = machine.system("old", "linux-6.12.8", r#"{"dbus":"dbus","systemd":"257"}"#);
    let new = machine.system(
        "new",
        "linux-6.12.9",
        r#"{"dbus":"broker","systemd":"257"}"#,
    );
    fs::write(
        machine.links.at(below(&new, "kernel-params")),
        "quiet debug",
    )
    .expect("written");
    fs::write(machine.links.at(below(&new, "init-interface-version")), "2").expect("written");
    let firmware = machine.store("firmware-2");
    symlink(firmware.as_str(), machine.links.at(below(&new, "firmware"))).expect("linked");
    machine.runs(&old);
    assert_eq!(
        machine.links.reboot_reasons(&new),
        [
            "kernel",
            "firmware",
            "kernel-params",
            "init-interface",
            "inhibitor:dbus"
        ]
    );
    assert_eq!(machine.links.boot_bytes_needed(&new), 6);
    // The next boot starts it already: its kernel is where the boot loader finds it.
    machine.link(PROFILE, new.as_str());
    assert_eq!(machine.links.boot_bytes_needed(&new), 0);
}

#[test]
fn the_booted_system_counts_for_the_kernel_not_the_running_one() {
    let machine = Machine::new();
    let old = machine.system("old", "linux-6.12.8", "{}");
    let new = machine.system("new", "linux-6.12.9", "{}");
    machine.link(BOOTED, old.as_str());
    machine.link(CURRENT, new.as_str());
    assert_eq!(machine.links.reboot_reasons(&new), ["kernel"]);
}

#[test]
fn what_is_no_system_is_refused() {
    let machine = Machine::new();
    let good = machine.system("good", "linux", "{}");
    assert_eq!(machine.links.check_system(&good), Ok(()));
    let hello = machine.store("hello");
    assert_eq!(
        machine.links.check_system(&hello),
        Err(NoSystem::Part {
            path: hello.clone(),
            part: "nixos-version"
        })
    );
}
