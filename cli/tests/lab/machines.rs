//! Preparing machines, and asking them how they are.

use super::*;

#[tokio::test]
async fn prepare_pins_and_waits_until_it_is_staged() {
    let pinned = PinTargetsReply {
        machines: vec!["web-01".into()],
    };
    let script = Script::default()
        .says("pin_targets", pinned)
        .says("list_machines", machine(OLD, false))
        .says("list_machines", machine(OLD, false))
        .says("list_machines", machine(OLD, true));
    let coordinator = Coordinator::start(script).await;
    let directory = tempfile::tempdir().expect("a directory");
    let targets = directory.path().join("targets.json");
    std::fs::write(&targets, json!({ "web-01": NEW }).to_string()).expect("written");
    let source = json!({ "updateSettings": { "source": { "targets": targets } } });
    // From the command line, and the same from the configuration.
    let flag = format!("--targets={}", targets.display());
    let line = [
        "update",
        "prepare",
        "--group=critical",
        &flag,
        "--output=json",
    ];
    let (code, out, err) = run(&coordinator, &line).await;
    assert_eq!(code, 0, "{err}");
    assert_eq!(json_of(&out)["staged"], json!(["web-01"]));
    let said = coordinator.said("pin_targets");
    assert_eq!(said["targets"]["web-01"]["kind"]["Closure"], NEW, "{said}");

    let config = ConfigReply {
        revision: 3,
        document: source.to_string(),
        ..ConfigReply::default()
    };
    let script = Script::default()
        .says("get_config", config)
        .says("list_machines", machine(NEW, false))
        .says(
            "pin_targets",
            PinTargetsReply {
                machines: vec!["web-01".into()],
            },
        );
    let coordinator = Coordinator::start(script).await;
    let (code, _, err) = run(&coordinator, &["update", "prepare"]).await;
    assert_eq!(code, 0, "{err}");

    let coordinator = Coordinator::start(Script::default()).await;
    let (code, _, err) = run(&coordinator, &["update", "prepare"]).await;
    assert_eq!(code, 2);
    assert!(err.contains("hint: name a source: --flake=REF"), "{err}");
}

#[tokio::test]
async fn prepare_says_which_machine_cannot_stage_its_target_and_what_to_try() {
    let pinned = PinTargetsReply {
        machines: vec!["web-01".into()],
    };
    let why = WhyReply {
        machine: "web-01".into(),
        wait_reason: Some(WaitReason {
            kind: "staging-failed".into(),
            text: "could not obtain its target: no space left".into(),
            hint: "lab update prepare".into(),
            ..WaitReason::default()
        }),
        ..WhyReply::default()
    };
    let script = Script::default()
        .says("list_machines", machine(OLD, false))
        .says("pin_targets", pinned)
        .says("why", WhyReply::default())
        .says("why", why);
    let coordinator = Coordinator::start(script).await;
    let targets = coordinator.home().join("targets.json");
    std::fs::write(&targets, json!({ "web-01": NEW }).to_string()).expect("written");
    let flag = format!("--targets={}", targets.display());
    let (code, out, err) = run(&coordinator, &["update", "prepare", &flag]).await;
    assert_eq!(code, 1, "{err}");
    assert_eq!(
        out,
        "web-01  ✖ failed  could not obtain its target: no space left\n\
         0 of 1 machine staged\n\
         try: lab update prepare\n"
    );
}

#[tokio::test]
async fn health_and_verification_say_yes_or_no_or_that_they_do_not_know() {
    let started = HealthCheckStarted {
        request: 4,
        machines: vec!["web-01".into(), "web-02".into()],
    };
    let script = |states: &[[&str; 2]], running| {
        let both = machines(running, &[("web-01", true), ("web-02", true)]);
        let script = Script::default().says("request_health_check", &started);
        let script = script.says("list_machines", both);
        states.iter().fold(script, |script, states| {
            script.says("get_health", answers_of(states))
        })
    };
    let soon = [["waiting", "healthy"], ["healthy", "healthy"]];
    for (states, running, health, verify) in [
        (soon.as_slice(), NEW, 0, 0),
        (&soon, OLD, 0, 1),
        (&[["unhealthy", "healthy"]], NEW, 1, 1),
        (&[["offline", "healthy"]], NEW, 1, 1),
        // Not known when the time is up, unless one no is known: then nothing more can change it.
        (&[["waiting", "healthy"]], NEW, 124, 124),
        (&[["waiting", "waiting"]], OLD, 124, 1),
        (&[["waiting", "unhealthy"]], NEW, 1, 1),
        (&[["waiting", "offline"]], NEW, 1, 1),
    ] {
        let coordinator = Coordinator::start(script(states, running)).await;
        let line = ["health-check", "--group=critical", "--timeout=1"];
        let (code, out, err) = run(&coordinator, &line).await;
        assert_eq!(code, health, "{states:?}: {out}");
        assert_eq!(coordinator.said("get_health")["request"], 4);
        let late = states.last().is_some_and(|last| last.contains(&"waiting"));
        assert_eq!(err.contains("the time to wait is up"), late, "{err}");
        let coordinator = Coordinator::start(script(states, running)).await;
        let line = [
            "update",
            "verify",
            "--group=critical",
            "--timeout=1",
            "-o",
            "json",
        ];
        let (code, out, _) = run(&coordinator, &line).await;
        assert_eq!(code, verify, "{states:?} {running}: {out}");
        assert_eq!(json_of(&out)["ok"], verify == 0);
    }
}

/// Nothing is asked of the world's cache, and the build, which needs nothing but a shell, runs as it
/// is: neither as a user made for it, nor in a sandbox without one.
const NIX_CONFIG: &str = "substituters =\nbuild-users-group =\nsandbox = false";

/// The whole way through real Nix: lock, build, sign, copy to a cache, pin what came out.
#[tokio::test]
async fn a_flake_is_built_signed_pushed_and_pinned() {
    if Command::new("nix").arg("--version").output().await.is_err() {
        eprintln!("skipped: Nix is not installed");
        return;
    }
    let mut fleet = machine("", true);
    let absent = Machine {
        name: "absent".into(),
        ..fleet.machines[0].clone()
    };
    let script = Script::default().says("list_machines", &fleet).says(
        "pin_targets",
        PinTargetsReply {
            machines: vec!["web-01".into()],
        },
    );
    let coordinator = Coordinator::start(script).await;
    let home = coordinator.home();
    std::fs::write(
        home.join("flake.nix"),
        r#"{ outputs = _: { nixosConfigurations.web-01.config.system.build.toplevel = derivation {
            name = "nixos-system-web-01-26.05"; system = "x86_64-linux";
            builder = "/bin/sh"; args = [ "-c" "echo 26.05 > $out" ]; }; }; }"#,
    )
    .expect("written");
    let key = home.join("key");
    let words = ["key", "generate-secret", "--key-name", "test-1"];
    let made = Command::new("nix")
        .args(["--extra-experimental-features", "nix-command"])
        .args(words)
        .output()
        .await
        .expect("nix runs");
    std::fs::write(&key, made.stdout).expect("written");
    let flake = format!("--flake=path:{}", home.display());
    let sign = format!("--sign-key={}", key.display());
    let push = format!("--push-to=file://{}/cache", home.display());
    let mut command = lab(&coordinator, &["update", "prepare", &flake, &sign, &push]);
    command.env("NIX_CONFIG", NIX_CONFIG);
    let (code, out, err) = ended(command.output().await.expect("started"));
    assert_eq!(code, 0, "{out}{err}");
    let said = coordinator.said("pin_targets");
    let path = said["targets"]["web-01"]["kind"]["Closure"]
        .as_str()
        .expect("a path");
    assert!(path.ends_with("-nixos-system-web-01-26.05"), "{path}");
    let hash = path
        .trim_start_matches("/nix/store/")
        .split('-')
        .next()
        .expect("a hash");
    let info = std::fs::read_to_string(home.join(format!("cache/{hash}.narinfo")));
    assert!(info.expect("in the cache").contains("Sig: test-1:"));

    // A machine that the flake does not configure is named before anything is built.
    fleet.machines.push(absent);
    let coordinator = Coordinator::start(Script::default().says("list_machines", fleet)).await;
    let mut command = lab(&coordinator, &["update", "prepare", &flake]);
    command.env("NIX_CONFIG", NIX_CONFIG);
    let (code, _, err) = ended(command.output().await.expect("started"));
    assert_eq!(code, 2, "{err}");
    assert!(
        err.contains("where: absent") && !err.contains("building"),
        "{err}"
    );
}
