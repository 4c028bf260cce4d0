//! The toy system on a directory machine: built by hand, switched with `LAB_ROOT`. No root, no Nix.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const ASSETS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets");

/// A directory that plays a machine.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn real(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.0.path().join(path.strip_prefix("/").unwrap_or(path))
    }

    fn link(&self, path: &str) -> PathBuf {
        fs::read_link(self.real(path)).expect(path)
    }

    /// Builds a system with one unit into the machine's store; returns its store path.
    fn build(&self, name: &str, failure: &str, unit: &str) -> PathBuf {
        let path = PathBuf::from(format!("/nix/store/{name:a>32}-nixos-system-m-{name}"));
        let unit_file = self.real("unit");
        fs::write(&unit_file, unit).expect("a unit");
        fs::create_dir_all(self.real("/nix/store")).expect("a store");
        let script = |name: &str| format!("{ASSETS}/{name}.sh");
        let status = Command::new("sh")
            .arg(script("build-toplevel"))
            .env_clear()
            .env("out", self.real(&path))
            .env("version", name)
            .env("kernel_path", "/nix/store/kernel")
            .env("initrd_path", "/nix/store/initrd")
            .env("modules_path", "/nix/store/modules")
            .env("kernel_params", "quiet")
            .env("failure", failure)
            .env("inhibitors", "{}")
            .env("unit_files", format!("web.service={}", unit_file.display()))
            .env("stc_script", script("switch-to-configuration"))
            .env("activate_script", script("activate"))
            .env("init_script", script("init"))
            .status()
            .expect("sh");
        assert!(status.success());
        path
    }

    fn switch(&self, system: &Path, action: &str) -> Option<i32> {
        self.call(&system.join("bin/switch-to-configuration"), &[action])
    }

    fn call(&self, program: &Path, args: &[&str]) -> Option<i32> {
        let mut command = Command::new(self.real(program));
        let status = command.args(args).env("LAB_ROOT", self.0.path()).status();
        status.expect("the script runs").code()
    }
}

#[test]
fn a_switch_moves_the_links_and_only_records_what_systemd_would_do() {
    let machine = Machine::new();
    let first = machine.build("1", "none", "[Service]\nExecStart=/bin/one\n");
    let second = machine.build("2", "none", "[Service]\nExecStart=/bin/two\n");
    assert_eq!(machine.switch(&first, "switch"), Some(0));
    assert_eq!(machine.switch(&second, "switch"), Some(0));
    assert_eq!(machine.link("/run/current-system"), second);
    assert_eq!(machine.link("/boot/default"), second);
    let log = fs::read_to_string(machine.real("/run/nixos/toy.log")).expect("a log");
    assert!(log.contains("systemctl stop web.service"), "{log}");
    assert!(log.contains("systemctl start web.service"), "{log}");
    let unit = machine.link("/etc/systemd/system/web.service");
    assert_eq!(unit, second.join("etc/systemd/system/web.service"));
}

#[test]
fn a_boot_changes_only_the_boot_default_until_the_next_boot() {
    let machine = Machine::new();
    let first = machine.build("1", "none", "[Service]\n");
    let second = machine.build("2", "none", "[Service]\n");
    assert_eq!(machine.switch(&first, "switch"), Some(0));
    assert_eq!(machine.switch(&second, "boot"), Some(0));
    assert_eq!(machine.link("/run/current-system"), first);
    let default = machine.link("/boot/default");
    assert_eq!(default, second);

    assert_eq!(machine.call(&default.join("init"), &[]), Some(0));
    assert_eq!(machine.link("/run/booted-system"), second);
    assert_eq!(machine.link("/run/current-system"), second);
}

#[test]
fn each_failure_has_its_exit_status_and_leaves_what_nixos_leaves() {
    let machine = Machine::new();
    let first = machine.build("0", "none", "[Service]\n");
    for (failure, code, active, default) in [
        ("precheck", 1, false, false),
        ("bootloader", 1, false, false),
        ("init", 100, false, true),
        ("activate", 2, true, true),
        ("units", 4, true, true),
        ("health", 0, true, true),
    ] {
        assert_eq!(
            machine.switch(&first, "switch"),
            Some(0),
            "before {failure}"
        );
        let system = machine.build(failure, failure, "[Service]\n");
        assert_eq!(machine.switch(&system, "switch"), Some(code), "{failure}");
        assert_eq!(
            machine.link("/run/current-system") == system,
            active,
            "{failure}"
        );
        assert_eq!(
            machine.link("/boot/default") == system,
            default,
            "{failure}"
        );
        let healthy = machine.real("/run/toy/www/health").exists();
        assert_eq!(healthy, failure != "health", "{failure}");
    }
    assert_eq!(machine.switch(&first, "frobnicate"), Some(1));
}
