//! Configuration, refusals, identities.

use super::*;

#[tokio::test]
async fn configuration_is_changed_key_by_key_and_refused_as_a_whole() {
    let config = ConfigReply {
        revision: 3,
        document: json!({ "updateGroups": { "dev": { "machines": ["a"] } } }).to_string(),
        ..ConfigReply::default()
    };
    let done = CheckConfigReply {
        revision: 4,
        as_before: vec![RolloutAsBefore {
            rollout: "r7".into(),
            groups: vec!["dev".into(), "web".into()],
            paused: false,
        }],
        ..CheckConfigReply::default()
    };
    let script = || Script::default().says("get_config", &config);
    let coordinator = Coordinator::start(script().says("set_config", &done)).await;
    let line = [
        "update-config",
        "set",
        "--group=dev",
        "--key=allowReboot",
        "--value=true",
    ];
    let (code, out, err) = run(&coordinator, &line).await;
    assert_eq!(code, 0, "{err}");
    assert_eq!(
        out,
        "+ updateGroups.dev.allowReboot: true\nrevision 4 is in force\nrollout r7 goes on under the rules that dev, web had when it began; `lab update pause r7` holds it, `lab update abort r7` ends it\n"
    );
    let said = coordinator.said("set_config");
    assert_eq!(said["if_revision"], 3);
    let document = json_of(said["document"].as_str().expect("text"));
    assert_eq!(document["updateGroups"]["dev"]["allowReboot"], true);

    let fault = |path: &str| ConfigFault {
        path: path.into(),
        message: "not a window".into(),
        hint: "like 02:00-06:00".into(),
    };
    let faulty = CheckConfigReply {
        revision: 3,
        faults: vec![
            fault("updateGroups.dev.maintenanceWindow"),
            fault("updateGroups.x"),
        ],
        ..CheckConfigReply::default()
    };
    let coordinator = Coordinator::start(script().says("check_config", faulty)).await;
    let file = coordinator.home().join("update-config.json");
    std::fs::write(&file, "{}").expect("written");
    let file = file.display().to_string();
    let (code, _, err) = run(&coordinator, &["update-config", "import", &file]).await;
    assert_eq!(code, 2, "{err}");
    assert!(
        err.contains("2 faults; nothing was changed") && err.contains(&file),
        "{err}"
    );
    assert!(
        err.contains("updateGroups.dev.maintenanceWindow: not a window"),
        "{err}"
    );
    assert!(!coordinator.calls().contains(&"set_config".to_owned()));

    let (code, _, err) = run(&coordinator, &["update-config", "show", "--group=prod"]).await;
    assert_eq!(code, 5);
    assert!(err.contains("the groups are: dev"), "{err}");
    let (code, _, err) = run(&coordinator, &["update-config", "show", "--machine=a"]).await;
    assert_eq!(code, 5);
    assert!(err.contains("no keys of its own"), "{err}");
}

#[tokio::test]
async fn refusals_keep_their_exit_status() {
    let refusals = [
        (
            tonic::Status::permission_denied("role viewer may not do that"),
            4,
        ),
        (
            tonic::Status::failed_precondition("the fleet is stopped"),
            4,
        ),
        (tonic::Status::not_found("no group prod"), 5),
        (tonic::Status::aborted("the plan no longer holds"), 6),
        (tonic::Status::internal("broken"), 70),
        (tonic::Status::unavailable("stopping"), 3),
    ];
    for (status, code) in refusals {
        let said = status.message().to_owned();
        let coordinator = Coordinator::start(Script::default().refuses("execute", status)).await;
        let (exit, out, err) = run(&coordinator, &["update", "execute"]).await;
        assert_eq!(exit, code, "{err}");
        assert!(out.is_empty() && err.contains(&said), "{err}");
    }
}

#[tokio::test]
async fn without_coordinator_or_identity_the_next_step_is_named() {
    let mut coordinator = Coordinator::start(Script::default()).await;
    std::fs::set_permissions(
        &coordinator.identity,
        std::fs::Permissions::from_mode(0o644),
    )
    .expect("changed");
    let (code, _, err) = run(&coordinator, &["why", "web-01"]).await;
    assert_eq!(code, 2);
    assert!(err.contains("chmod 600"), "{err}");
    coordinator.identity = coordinator.home().join("none.pem");
    let (code, _, err) = run(&coordinator, &["why", "web-01"]).await;
    assert_eq!(code, 2);
    assert!(err.contains("lab identity enrol"), "{err}");

    let mut coordinator = Coordinator::start(Script::default()).await;
    coordinator.address = "127.0.0.1:1".to_owned();
    let (code, _, err) = run(&coordinator, &["update", "status"]).await;
    assert_eq!(code, 3);
    assert!(err.contains("no connection to 127.0.0.1:1"), "{err}");
}

#[tokio::test]
async fn enrolment_writes_an_identity_once() {
    let ca = tls::Ca::new();
    let token = ca.token().reveal();
    let enrolment = tls::Server::of(ca).start().await;
    let mut coordinator = Coordinator::start(Script::default()).await;
    coordinator.identity = coordinator.home().join(".config/lab/identity.pem");
    let file = coordinator.home().join("token");
    std::fs::write(&file, format!("{token}\n")).expect("written");
    let file = format!("--token-file={}", file.display());
    let address = format!("--enrol-address={enrolment}");
    let line = ["identity", "enrol", &file, &address];
    let (code, out, err) = run(&coordinator, &line).await;
    assert_eq!(code, 0, "{err}");
    assert!(
        out.contains("✔ enrolled as spiffe://lab-updater/machine/web-01"),
        "{out}"
    );
    let mode = std::fs::metadata(&coordinator.identity)
        .expect("there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let noted = coordinator.home().join(".config/lab/coordinator");
    assert_eq!(
        std::fs::read_to_string(noted).expect("noted").trim(),
        coordinator.address
    );
    let (code, _, err) = run(&coordinator, &line).await;
    assert_eq!(code, 2);
    assert!(err.contains("--replace"), "{err}");
    let line = [
        "identity",
        "enrol",
        "--token=labenr1_nonsense",
        &address,
        "--replace",
    ];
    let (code, _, err) = run(&coordinator, &line).await;
    assert_eq!(code, 2, "{err}");
    assert!(
        !err.contains("nonsense"),
        "a token is never repeated: {err}"
    );
}
