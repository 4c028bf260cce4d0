//! What needs neither a coordinator nor an identity: completions and manual pages.

use super::*;

/// Runs `lab` where nobody ever set it up.
async fn run_alone(coordinator: &Coordinator, words: &[&str]) -> String {
    let mut command = lab(coordinator, words);
    command
        .env_remove("LAB_COORDINATOR")
        .env_remove("LAB_IDENTITY");
    let (code, out, err) = ended(command.output().await.expect("started"));
    assert_eq!((code, err.as_str()), (0, ""), "{words:?}");
    out
}

#[tokio::test]
async fn completions_are_made_for_every_shell_and_bash_takes_them() {
    let coordinator = Coordinator::start(Script::default()).await;
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = run_alone(&coordinator, &["completions", shell]).await;
        for word in ["emergency-stop", "update-config", "to-generation"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
        let as_json = run_alone(&coordinator, &["completions", shell, "-o", "json"]).await;
        assert_eq!(as_json, script, "a script is no result of the fleet");
    }
    let file = coordinator.home().join("lab.bash");
    let script = run_alone(&coordinator, &["completions", "bash"]).await;
    std::fs::write(&file, script).expect("written");
    let complete = r#"source "$1" && COMP_WORDS=(lab update ver) COMP_CWORD=2 && _lab lab ver update
        && echo "${COMPREPLY[*]}""#;
    let bash = Command::new("bash")
        .args(["-c", &complete.replace('\n', " "), "bash"])
        .arg(&file)
        .output();
    let (code, out, err) = ended(bash.await.expect("bash runs"));
    assert_eq!((code, out.as_str()), (0, "verify\n"), "{err}");
    assert!(coordinator.calls().is_empty());
}

#[tokio::test]
async fn the_manual_is_one_page_or_one_for_every_command() {
    let coordinator = Coordinator::start(Script::default()).await;
    let page = run_alone(&coordinator, &["man"]).await;
    assert!(page.contains(".TH lab 1"), "{page}");
    assert!(page.contains("Exit statuses of lab"), "{page}");

    let directory = coordinator.home().join("man/man1");
    let place = format!("--directory={}", directory.display());
    assert_eq!(run_alone(&coordinator, &["man", &place]).await, "");
    for name in ["lab.1", "lab-update-execute.1", "lab-audit-verify.1"] {
        let page = std::fs::read_to_string(directory.join(name)).expect(name);
        assert!(page.contains(".TH "), "{name}: {page}");
    }

    let place = format!("--directory={}/page", coordinator.identity.display());
    let (code, out, err) = run(&coordinator, &["man", &place]).await;
    assert_eq!((code, out.as_str()), (2, ""), "a file is no directory");
    assert!(
        err.contains("where: ") && err.contains("identity.pem"),
        "{err}"
    );
}
