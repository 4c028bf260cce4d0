//! Evaluates the NixOS modules and the flake, and looks at what comes out: settings, units, refusals.
//!
//! Against NixOS itself where it can be had, else against our own declarations of its options; the
//! test says which it was. Without Nix it is skipped, and fails where `LAB_REQUIRE_FLEET` is set.
//!
//! - `LAB_NIXPKGS=DIR`: a nixpkgs to evaluate against, instead of the flake's input.
//! - `LAB_NIXPKGS_LIB=DIR`: nixpkgs' `lib`, used with our own declarations.

#[cfg(test)]
mod evaluation;
#[cfg(test)]
mod flake;
#[cfg(test)]
mod options;

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        fs,
        num::NonZeroU32,
        path::{Path, PathBuf},
        process::Command,
    };

    use common::error_chain::Chain;
    use coordinator::limits::Rates;
    use coordinator_core::config::FleetConfig;
    use serde_json::{Value, json};

    use crate::evaluation::{self, evaluated, required, say};

    const AGENT: &str = "lab-updater";
    const DEAD_MAN: &str = "lab-updater-dead-man";
    const SOFT_REBOOT: &str = "lab-updater-soft-reboot";
    const COORDINATOR: &str = "lab-coordinator";
    const FLEET: &str = "lab-coordinator-fleet";

    fn unit<'a>(case: &'a Value, name: &str) -> &'a str {
        case["units"][name].as_str().expect("the unit's text")
    }

    fn has_line(unit: &str, line: &str) -> bool {
        unit.lines().any(|found| found == line)
    }

    #[test]
    fn the_documents_machine_evaluates_as_it_stands() {
        let Some(cases) = evaluated() else { return };
        let machine = &cases["machine"];
        assert_eq!(machine["failedAssertions"], json!([]));
        let settings = &machine["agentSettings"];
        assert_eq!(settings["machine"], "monitor-01");
        for hook in ["pre_update", "post_update", "rollback"] {
            let path = settings["hooks"][hook].as_str().expect("a path");
            assert!(path.starts_with("/nix/store/"), "{hook}: {path}");
        }
        assert_eq!(settings["hooks"]["backup_check"], Value::Null);
        assert_eq!(settings["hooks"]["traffic"], Value::Null);
    }

    /// What `pkgs.formats.toml` makes of settings.
    fn toml_file(settings: &Value) -> tempfile::NamedTempFile {
        let text = toml::to_string(settings).expect("TOML has it all");
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(&file, text).expect("written");
        file
    }

    #[test]
    fn the_agent_accepts_what_the_module_writes() {
        let Some(cases) = evaluated() else { return };
        for case in ["machine", "fullMachine"] {
            let file = toml_file(&cases[case]["agentSettings"]);
            let config = agent::config::Config::load(file.path())
                .unwrap_or_else(|error| panic!("{case}: {}", Chain(&error)));
            assert_eq!(
                config.state_dir,
                Path::new("/var/lib/lab-updater"),
                "{case}"
            );
        }
        let file = toml_file(&cases["fullMachine"]["agentSettings"]);
        let config = agent::config::Config::load(file.path()).expect("accepted");
        assert_eq!(config.machine.as_str(), "db-primary");
        assert_eq!(config.conditions[0].name, "backup");
        assert_eq!(config.enrol, "updates.example.org:7444");
        assert_eq!(config.hooks.timeout.as_secs(), 600);
        assert!(config.hooks.traffic.is_some());
        assert_eq!(config.limits.switch_timeout.as_secs(), 1200);
        assert_eq!(config.checks.len(), 3);
        assert_eq!(config.targets.flakes, ["git+https://git.example.org/fleet"]);
        assert_eq!(config.targets.channels, Vec::<String>::new());
    }

    #[test]
    fn the_coordinator_accepts_what_the_module_writes() {
        let Some(cases) = evaluated() else { return };
        let usual = Rates::default();
        let mut changed = Rates {
            machine: None,
            ..usual
        };
        if let Some(operator) = &mut changed.operator {
            operator.burst = NonZeroU32::new(7).expect("not zero");
        }
        for (case, listen, rates) in [
            ("coordinator", "[::]:7443", usual),
            ("bareCoordinator", "192.0.2.10:7443", changed),
        ] {
            let file = toml_file(&cases[case]["coordinatorSettings"]);
            let config = coordinator::Config::load(file.path())
                .unwrap_or_else(|error| panic!("{case}: {}", Chain(&error)));
            assert_eq!(config.listen.to_string(), listen);
            assert_eq!(config.rates, rates, "{case}");
        }
    }

    #[test]
    fn the_agent_is_not_stopped_by_its_own_switch() {
        let Some(cases) = evaluated() else { return };
        let unit = unit(&cases["machine"], AGENT);
        for line in [
            "X-RestartIfChanged=false",
            "X-StopOnRemoval=false",
            "Type=notify",
            "Restart=always",
            "StartLimitIntervalSec=0",
            "Wants=network-online.target",
            "MemoryMax=256M",
            "TasksMax=128",
        ] {
            assert!(has_line(unit, line), "no {line} in:\n{unit}");
        }
    }

    #[test]
    fn the_agent_looks_for_room_where_the_boot_loader_looks_for_kernels() {
        let Some(cases) = evaluated() else { return };
        let kernels = &cases["kernelsIn"];
        assert_eq!(kernels["grub"], "/boot");
        assert_eq!(kernels["systemdBoot"], "/efi");
        assert_eq!(kernels["extended"], "/boot");
    }

    #[test]
    fn a_boot_without_an_agent_has_a_way_back() {
        let Some(cases) = evaluated() else { return };
        let machine = &cases["machine"];
        assert_eq!(machine["timers"][DEAD_MAN]["OnStartupSec"], "15m");
        assert_eq!(machine["agentSettings"]["limits"]["boot_timeout"], "15m");
        let unit = unit(machine, DEAD_MAN);
        for line in [
            "X-RestartIfChanged=false",
            "X-StopOnRemoval=false",
            "Restart=on-failure",
            "RestartSec=60",
            "RestartPreventExitStatus=3",
        ] {
            assert!(has_line(unit, line), "no {line} in:\n{unit}");
        }
        assert_eq!(
            cases["fullMachine"]["timers"][DEAD_MAN]["OnStartupSec"],
            600
        );
    }

    #[test]
    fn a_soft_reboot_takes_up_the_target_when_all_else_is_stopped() {
        let Some(cases) = evaluated() else { return };
        let unit = unit(&cases["machine"], SOFT_REBOOT);
        for line in [
            "After=local-fs.target",
            "Before=sysinit.target shutdown.target",
            "Conflicts=shutdown.target",
            "DefaultDependencies=false",
            "WantedBy=multi-user.target",
            "X-RestartIfChanged=false",
            "X-StopOnRemoval=false",
            "RemainAfterExit=true",
        ] {
            assert!(has_line(unit, line), "no {line} in:\n{unit}");
        }
        let stop = unit.lines().find(|line| line.starts_with("ExecStop="));
        assert!(stop.is_some_and(|line| line.contains("lab-agent soft-reboot --config")));
    }

    #[test]
    fn a_token_comes_as_a_credential_and_may_be_gone() {
        let Some(cases) = evaluated() else { return };
        let machine = &cases["fullMachine"];
        assert_eq!(machine["failedAssertions"], json!([]));
        let unit = unit(machine, AGENT);
        let load = "LoadCredential=token:/run/secrets/lab-updater-token";
        assert!(has_line(unit, load), "{unit}");
        assert!(has_line(unit, "SetCredential=token:\\n"), "{unit}");
        assert_eq!(
            machine["agentSettings"]["token_file"],
            "/run/credentials/lab-updater.service/token"
        );
    }

    #[test]
    fn the_coordinator_takes_the_documents_fleet_as_it_stands() {
        let Some(cases) = evaluated() else { return };
        let coordinator = &cases["coordinator"];
        assert_eq!(coordinator["failedAssertions"], json!([]));
        let shipped = fs::read(evaluation::root().join("docs/examples/update-config.json"))
            .expect("the example");
        let shipped: Value = serde_json::from_slice(&shipped).expect("JSON");
        assert_eq!(coordinator["fleet"], shipped);
        assert_eq!(coordinator["openPorts"], json!([7443, 7444]));
        let fleet = unit(coordinator, FLEET);
        let own = "Environment=\"LAB_COORDINATOR=localhost:7443\"";
        assert!(has_line(fleet, own), "{fleet}");
        assert!(has_line(unit(coordinator, COORDINATOR), "WatchdogSec=30"));
    }

    #[test]
    fn without_a_fleet_there_is_no_unit_for_it() {
        let Some(cases) = evaluated() else { return };
        let bare = &cases["bareCoordinator"];
        assert_eq!(bare["failedAssertions"], json!([]));
        assert_eq!(bare["units"][FLEET], Value::Null);
        assert_eq!(bare["openPorts"], json!([]));
        assert_eq!(cases["nothing"]["units"], json!({}));
    }

    #[test]
    fn contradictions_are_refused_and_say_what_to_do() {
        let Some(cases) = evaluated() else { return };
        for (case, word) in [
            ("autoUpgrade", "system.autoUpgrade.enable = false"),
            ("withoutNix", "nix.enable must be true"),
            ("closedDaemon", "\"lab-updater-fetch\" to nix.settings"),
            ("strangeGroup", "lost-01 says it is in group dev"),
            ("strangeGroup", "web-01 says it is in group databases"),
        ] {
            let failed = &cases[case]["failedAssertions"];
            let said = failed[0].as_str().unwrap_or_default();
            assert!(said.contains(word), "{case}: {failed}");
            assert_eq!(failed.as_array().map(Vec::len), Some(1), "{case}: {failed}");
        }
    }

    #[test]
    fn whole_systems_evaluate_where_there_is_nixos() {
        let Some(cases) = evaluated() else { return };
        let systems = cases["systems"].as_object().expect("systems");
        let expected = if cases["source"] == "NixOS" { 2 } else { 0 };
        assert_eq!(systems.len(), expected, "{systems:?}");
    }

    #[test]
    fn mistakes_are_refused_by_their_type() {
        let Some(cases) = evaluated() else { return };
        let refused = cases["refused"].as_object().expect("cases");
        assert_eq!(refused.len(), 4);
        for (case, was_refused) in refused {
            assert_eq!(was_refused, &json!(true), "{case}");
        }
    }

    #[test]
    fn the_examples_are_the_same_in_nix_and_in_json() {
        if evaluated().is_none() {
            return;
        }
        for name in ["update-config", "four-groups", "schedules"] {
            let file = evaluation::root().join("docs/examples").join(name);
            let nix = evaluation::evaluate(&format!(
                "import (/. + {:?})",
                file.with_extension("nix").display().to_string()
            ));
            let json = fs::read(file.with_extension("json")).expect("the example");
            let json: Value = serde_json::from_slice(&json).expect("JSON");
            assert_eq!(nix.expect("evaluates"), json, "{name}");
        }
    }

    #[test]
    fn the_examples_are_fleets_without_a_fault() {
        for (name, groups) in [("update-config", 3), ("four-groups", 4), ("schedules", 4)] {
            let file = evaluation::root().join(format!("docs/examples/{name}.json"));
            coordinator::fleet_file::check(&file).expect("no fault");
            let document = fs::read(file).expect("the example");
            let document = serde_json::from_slice(&document).expect("JSON");
            let fleet = FleetConfig::parse(&document).expect("no fault");
            assert_eq!(fleet.groups.len(), groups, "{name}");
            let crons = fleet
                .schedules
                .values()
                .map(|schedule| schedule.when.cron.as_str());
            let crons: BTreeSet<&str> = crons.collect();
            // The document's three lines.
            let three = BTreeSet::from(["0 1 * * *", "0 2 * * 0", "0 3 * * *"]);
            assert!(crons.is_empty() || crons == three, "{name}");
        }
    }

    #[test]
    fn the_rollback_hook_does_not_roll_back_twice() {
        let script = evaluation::root().join("nixos-modules/nixos-rebuild-in-rollback.sh");
        let run = |arguments: &[&str]| {
            Command::new("bash")
                .arg(&script)
                .args(arguments)
                .output()
                .expect("bash runs")
        };
        let rollback = run(&["switch", "--rollback"]);
        assert!(rollback.status.success());
        assert!(String::from_utf8_lossy(&rollback.stderr).contains("nothing to do"));
        // Anything else is handed on; outside of NixOS there is nobody to hand it to.
        if !Path::new("/run/current-system/sw/bin/nixos-rebuild").exists() {
            assert!(!run(&["list-generations"]).status.success());
        }
    }

    /// The units of a case as files, each runnable in the eyes of systemd-analyze.
    fn unit_files(case: &Value, dir: &Path) -> Vec<PathBuf> {
        let units = case["units"].as_object().expect("units");
        let mut files = Vec::new();
        for (name, text) in units {
            let text = text.as_str().expect("the unit's text");
            // The programs are not built here: something executable stands in their place.
            let text: String = text
                .lines()
                .map(|line| match line.split_once('=') {
                    Some((key @ ("ExecStart" | "ExecStop"), _)) => format!("{key}=/bin/true\n"),
                    Some(_) | None => format!("{line}\n"),
                })
                .collect();
            let file = dir.join(format!("{name}.service"));
            fs::write(&file, text).expect("written");
            files.push(file);
        }
        files
    }

    fn systemd_analyze(dir: &Path, arguments: &[&str], file: &Path) -> Option<(bool, String)> {
        let output = match Command::new("systemd-analyze")
            .args(arguments)
            .arg(file)
            .env("SYSTEMD_UNIT_PATH", format!("{}:", dir.display()))
            .output()
        {
            Ok(output) => output,
            Err(error) => {
                assert!(!required(), "systemd-analyze: {error}");
                say(&format!(
                    "skipped: the units are not judged, systemd-analyze: {error}"
                ));
                return None;
            }
        };
        let said = [output.stdout, output.stderr].concat();
        Some((
            output.status.success(),
            String::from_utf8_lossy(&said).into_owned(),
        ))
    }

    #[test]
    fn systemd_accepts_the_units_and_finds_them_confined() {
        let Some(cases) = evaluated() else { return };
        // In tenths: 1.8 for the agent, which is root; 1.2 for the coordinator, which is nobody.
        for (case, threshold) in [("machine", 18), ("fullMachine", 18), ("coordinator", 12)] {
            let dir = tempfile::tempdir().expect("a directory");
            for file in unit_files(&cases[case], dir.path()) {
                let verify = ["verify", "--man=no", "--recursive-errors=no"];
                let Some((accepted, said)) = systemd_analyze(dir.path(), &verify, &file) else {
                    return;
                };
                // What it says about other units of this host is not about ours.
                let about_ours = said.lines().any(|line| line.contains("lab-"));
                assert!(accepted && !about_ours, "{}: {said}", file.display());
                // These two change the system themselves, where nobody else can do it for them.
                if [DEAD_MAN, SOFT_REBOOT]
                    .map(|name| dir.path().join(format!("{name}.service")))
                    .contains(&file)
                {
                    continue;
                }
                let threshold = format!("--threshold={threshold}");
                let security = ["security", "--offline=true", "--no-pager", &threshold];
                let Some((confined, said)) = systemd_analyze(dir.path(), &security, &file) else {
                    return;
                };
                assert!(confined, "{}: {said}", file.display());
            }
        }
    }
}
