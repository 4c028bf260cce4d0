use super::*;

fn written(text: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("agent.toml"), text).expect("written");
    dir
}

fn load(text: &str) -> Result<Config, ConfigError> {
    Config::load(&written(text).path().join("agent.toml"))
}

#[test]
fn a_small_file_is_enough() {
    let config = load("machine = \"web-01\"\ncoordinator = \"hub:7443\"").expect("good");
    assert_eq!(config.machine.as_str(), "web-01");
    assert_eq!(config.enrol, "hub:7444");
    assert_eq!(config.executor, ExecutorConfig::System);
    assert_eq!(config.poll_hold, MINUTE);
    assert!(config.clock.is_none());
}

#[test]
fn everything_is_read() {
    let config = load(
        r#"
        machine = "web-01"
        coordinator = "[::1]:7443"
        state_dir = "/srv/a"
        poll_hold = 30
        [executor]
        kind = "directory"
        root = "/srv/m"
        cache = "/srv/c"
        [hooks]
        pre_update = "/srv/pre"
        traffic = "/srv/traffic"
        timeout = "1h30m"
        [limits]
        settle = "500ms"
        [[conditions]]
        name = "backup"
        kind = "file"
        path = "/var/backups"
        age_max = "26h"
        [[checks]]
        name = "web"
        kind = "http"
        url = "http://localhost:80/health"
        timeout = "3s"
        [[checks]]
        name = "log"
        kind = "journal"
        [clock]
        speed = 60.0
        "#,
    )
    .expect("good");
    assert_eq!(config.enrol, "[::1]:7444");
    assert_eq!(config.hooks.timeout, Duration::from_secs(5400));
    assert_eq!(config.hooks.traffic, Some("/srv/traffic".into()));
    assert_eq!(config.limits.settle, Duration::from_millis(500));
    assert_eq!(config.checks[0].timeout, Duration::from_secs(3));
    assert_eq!(
        config.checks[1].probe,
        Probe::Journal {
            priority: 2,
            entries_max: 0
        }
    );
    let backup = Probe::File {
        path: "/var/backups".into(),
        age_max: Duration::from_secs(26 * 3600),
    };
    assert_eq!(config.conditions[0].probe, backup);
    assert!(config.clock.is_some());
}

#[test]
fn every_fault_is_listed_at_once() {
    let error = load(
        r#"
        machine = "../../etc"
        coordinator = "hub"
        state_dir = "relative"
        poll_hold = "-5m"
        [executor]
        kind = "directory"
        [hooks]
        pre_update = "x"
        traffic = "bin/traffic"
        [limits]
        memory_max = 5
        [[conditions]]
        name = "late"
        kind = "file"
        path = "backups"
        age_max = "0s"
        timeout = "10m"
        [[checks]]
        name = "a"
        kind = "load"
        per_cpu_max = -1.0
        [[checks]]
        name = "a"
        kind = "network"
        addresses = []
        [clock]
        speed = 0.0
        "#,
    )
    .expect_err("many faults");
    let ConfigError::Faults { faults, .. } = error else {
        panic!("{error}");
    };
    let keys: Vec<&str> = faults
        .0
        .iter()
        .filter_map(|fault| fault.split_once(": ").map(|(key, _)| key))
        .collect();
    assert_eq!(
        keys,
        [
            "machine",
            "coordinator",
            "state_dir",
            "poll_hold",
            "executor.root",
            "executor.cache",
            "hooks.pre_update",
            "hooks.traffic",
            "limits.memory_max",
            "conditions[0]",
            "conditions[0].age_max",
            "conditions[0].timeout",
            "checks[0]",
            "checks[1]",
            "checks[1]",
            "clock"
        ]
    );
}

#[test]
fn unknown_keys_are_refused_with_their_line() {
    for text in [
        "coordinator = \"hub:7443\"\npoll_hodl = 3",
        "coordinator = \"hub:7443\"\n[[checks]]\nname = \"a\"\nkind = \"tcp\"\naddress = \"h:1\"\nx = 1",
        "coordinator = \"hub:7443\"\n[[checks]]\nname = \"a\"\nkind = \"telnet\"",
        "",
        "coordinator = 3",
    ] {
        let error = load(text).expect_err(text);
        assert!(matches!(error, ConfigError::Syntax { .. }), "{error}");
    }
}

#[test]
fn a_place_for_targets_says_more_than_a_scheme() {
    let with = |targets: &str| {
        load(&format!(
            "machine = \"a\"\ncoordinator = \"hub:7443\"\n[targets]\n{targets}"
        ))
    };
    let good = "flakes = [\"github:acme/\", \"git+https://git.example.org\"]
        channels = [\"https://channels.nixos.org/\", \"file:///srv/channel\"]";
    assert_eq!(with(good).expect("good").targets.flakes.len(), 2);
    for bad in [
        "flakes = [\"\"]",
        "flakes = [\"github:\"]",
        "flakes = [\"https://\"]",
        "flakes = [\"nixpkgs\"]",
        "channels = [\"http://channels.nixos.org/\"]",
        "channels = [\"https:///\"]",
        "channels = [\"file:///\"]",
    ] {
        let error = with(bad).expect_err(bad);
        assert!(
            matches!(error, ConfigError::Faults { .. }),
            "{bad}: {error}"
        );
    }
}

/// The file that the handbook shows.
const EXAMPLE: &str = include_str!("../../../docs/examples/agent.toml");

/// The keys that a table of the file may have, as the reader itself names them.
fn keys_of(table: &str) -> Vec<String> {
    let needed = match table {
        "" => "coordinator = \"hub:7443\"\n",
        _ => "machine = \"a\"\ncoordinator = \"hub:7443\"\n",
    };
    let header = if table.is_empty() {
        String::new()
    } else {
        format!("[{table}]\n")
    };
    let error = load(&format!("{needed}{header}no_such_key = 1\n")).expect_err("unknown");
    let text = error.to_string();
    let (_, listed) = text.split_once("expected ").expect("a list of keys");
    let words = listed.split('`').skip(1).step_by(2);
    words.map(str::to_owned).collect()
}

#[test]
fn the_example_has_every_key_and_shows_the_defaults() {
    let example = load(EXAMPLE).expect("without a fault");
    for table in ["", "executor", "targets", "hooks", "limits", "clock"] {
        let keys = keys_of(table);
        assert!(keys.len() >= 2, "{table}: {keys:?}");
        for key in keys {
            let said = EXAMPLE.lines().any(|line| {
                let line = line.trim_start_matches("# ");
                line.starts_with(&format!("{key} ="))
                    || [format!("[{key}]"), format!("[[{key}]]")].contains(&line.to_owned())
            });
            assert!(said, "{table}.{key} is not in the example");
        }
    }
    let small =
        load("machine = \"web-01\"\ncoordinator = \"coordinator.example.org:7443\"").expect("good");
    assert_eq!(example.checks.len(), 9, "one of each kind");
    assert_eq!(example.conditions.len(), 2, "and a file that is not old");
    let shown = Config {
        token_file: None,
        targets: Allowed::default(),
        hooks: Hooks {
            timeout: example.hooks.timeout,
            ..small.hooks.clone()
        },
        limits: Limits {
            attempt_timeout: None,
            memory_max: None,
            ..example.limits
        },
        conditions: Vec::new(),
        checks: Vec::new(),
        ..example
    };
    assert_eq!(format!("{shown:?}"), format!("{small:?}"));
}
