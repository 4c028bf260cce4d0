//! The document's own script.

use super::*;

/// Runs the document's script (its array renamed) with a `sleep` that does not.
async fn staggered_update(coordinator: &Coordinator) -> (i32, String) {
    let example = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../docs/examples/staggered-update.sh"
    );
    let logs = coordinator.home().join("logs");
    let programs = coordinator.home().join("bin");
    std::fs::create_dir_all(&logs).expect("made");
    std::fs::create_dir_all(&programs).expect("made");
    let script = std::fs::read_to_string(example).expect("the example");
    let here = script.replace("/var/log/lab-updates", &logs.display().to_string());
    assert_ne!(here, script, "the script logs where the document says");
    let file = coordinator.home().join("staggered-update.sh");
    std::fs::write(&file, here).expect("written");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_lab"), programs.join("lab")).expect("linked");
    let sleep = programs.join("sleep");
    // A shell's script: no other program has the same place everywhere.
    std::fs::write(&sleep, "#!/bin/sh\n").expect("written");
    std::fs::set_permissions(&sleep, std::fs::Permissions::from_mode(0o755)).expect("executable");
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new("bash")
        .arg(&file)
        .env("PATH", format!("{}:{path}", programs.display()))
        .env("LAB_COORDINATOR", &coordinator.address)
        .env("LAB_IDENTITY", &coordinator.identity)
        .stdin(Stdio::null())
        .output()
        .await
        .expect("bash runs");
    let (code, out, err) = ended(output);
    (code, out + &err)
}

/// A fleet of one machine per group, as far as the script can see.
fn for_the_script(end: &str, health: &[&str]) -> Script {
    let config = ConfigReply {
        revision: 1,
        document: json!({ "updateSettings": { "source": { "channel": "https://x" } } }).to_string(),
        ..ConfigReply::default()
    };
    let pinned = PinTargetsReply {
        machines: vec!["web-01".into()],
    };
    let script = begun()
        .says("get_config", config)
        .says("pin_targets", pinned)
        .says("list_machines", machine(NEW, true))
        .says("plan", plan())
        .streams(&[status("finished", &[("web-01", end)])]);
    health.iter().fold(script, |script, state| {
        script.says("get_health", answers(state))
    })
}

#[tokio::test]
async fn the_documents_script_goes_through_all_groups() {
    let coordinator = Coordinator::start(for_the_script("updated", &["healthy"])).await;
    let (code, said) = staggered_update(&coordinator).await;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("All groups updated successfully"), "{said}");
    let executed = coordinator
        .calls()
        .iter()
        .filter(|call| *call == "execute")
        .count();
    assert_eq!(executed, 4);
    assert_eq!(
        coordinator.said("execute")["selection"]["groups"],
        json!(["management"])
    );
    assert_eq!(coordinator.said("notify")["level"], "info");
}

#[tokio::test]
async fn the_documents_script_rolls_back_what_does_not_verify() {
    let script = for_the_script("rolled-back", &["healthy", "unhealthy"]);
    let coordinator = Coordinator::start(script).await;
    let (code, said) = staggered_update(&coordinator).await;
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("Verification failed for dev, initiating rollback"),
        "{said}"
    );
    assert_eq!(coordinator.said("execute")["kind"], "rollback");
    let notice = coordinator.said("notify");
    assert_eq!(notice["level"], "error");
    assert_eq!(notice["message"], "Update failed for dev, rolled back");
}
