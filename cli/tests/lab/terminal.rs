//! What is different on a terminal: questions and colours.

use tokio::io::AsyncWriteExt as _;

use super::*;

/// Runs `lab` on a terminal of its own and types `answer`; `None` where `script` is not installed.
async fn on_a_terminal(
    coordinator: &Coordinator,
    variables: &[(&str, &str)],
    words: &str,
    answer: &str,
) -> Option<(i32, String)> {
    let mut command = lab(coordinator, &[]);
    let program = env!("CARGO_BIN_EXE_lab");
    let line = format!("stty cols 80 rows 24; {program} {words}");
    let mut on_terminal = Command::new("script");
    on_terminal.args(["-qec", &line, "/dev/null"]).env_clear();
    for (name, value) in command.as_std_mut().get_envs() {
        on_terminal.env(name, value.unwrap_or_default());
    }
    on_terminal.env("TERM", "xterm").kill_on_drop(true);
    on_terminal.envs(variables.iter().copied());
    on_terminal
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = on_terminal.spawn().ok()?;
    let mut typed = child.stdin.take().expect("piped");
    typed.write_all(answer.as_bytes()).await.expect("typed");
    // Kept open until the end: `script` would end with it.
    let ended_with = child.wait_with_output().await.expect("ended");
    drop(typed);
    let (code, out, _) = ended(ended_with);
    Some((code, out))
}

#[tokio::test]
async fn on_a_terminal_the_plan_is_shown_and_confirmed() {
    let script = || {
        let end = status("finished", &[("web-01", "updated")]);
        let on_the_way = status("active", &[("web-01", "leased")]);
        begun().says("plan", plan()).streams(&[on_the_way, end])
    };
    let coordinator = Coordinator::start(script()).await;
    let Some((code, out)) = on_a_terminal(&coordinator, &[], "update execute", "n\n").await else {
        eprintln!("skipped: `script` (util-linux) is not installed");
        return;
    };
    assert_eq!(code, 1, "{out}");
    assert!(
        out.contains("26.05.1 → 26.05.2") && out.contains("Begin? [y/N]"),
        "{out}"
    );
    assert_eq!(coordinator.calls(), ["plan"]);

    let coordinator = Coordinator::start(script()).await;
    let answered = on_a_terminal(&coordinator, &[], "update execute", "y\n").await;
    let (code, out) = answered.expect("`script` was there before");
    assert_eq!(code, 0, "{out}");
    assert_eq!(
        coordinator.said("execute")["if_plan"],
        "6f1c",
        "what was shown is what runs"
    );
    assert!(out.contains("\u{1b}[32m✔ update"), "colours: {out:?}");

    // Plain words then, drawn again all the same.
    let coordinator = Coordinator::start(script()).await;
    let plain = [("NO_COLOR", "1")];
    let answered = on_a_terminal(&coordinator, &plain, "update execute", "y\n").await;
    let (code, out) = answered.expect("`script` was there before");
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("✔ update") && !coloured(&out), "{out:?}");
}

#[tokio::test]
async fn on_a_terminal_nobody_is_asked_about_another_plan_than_the_one_named() {
    let commands = ["update execute", "update rollback"];
    let again = ["lab update plan", "lab update rollback --dry-run"];
    for (command, again) in commands.into_iter().zip(again) {
        let moves = begun().says("plan", plan());
        let coordinator = Coordinator::start(moves).await;
        let line = format!("{command} --if-plan=p0 --detach");
        let Some((code, out)) = on_a_terminal(&coordinator, &[], &line, "y\n").await else {
            eprintln!("skipped: `script` (util-linux) is not installed");
            return;
        };
        assert_eq!(code, 6, "{command}: {out}");
        assert!(out.contains("it is 6f1c now, not p0"), "{command}: {out}");
        assert!(out.contains(again), "{command}: {out}");
        assert!(!out.contains("[y/N]"), "{command}: {out}");
        assert_eq!(coordinator.calls(), ["plan"], "{command}");

        // Nor does one that moves nobody pass for the one named.
        let coordinator = Coordinator::start(Script::default()).await;
        let answered = on_a_terminal(&coordinator, &[], &line, "y\n").await;
        let (code, out) = answered.expect("`script` was there before");
        assert_eq!(code, 6, "{command}: {out}");

        let coordinator = Coordinator::start(begun().says("plan", plan())).await;
        let line = format!("{command} --if-plan=6f1c --detach");
        let answered = on_a_terminal(&coordinator, &[], &line, "y\n").await;
        let (code, out) = answered.expect("`script` was there before");
        assert_eq!(code, 0, "{command}: {out}");
        assert!(out.contains("[y/N]"), "{command}: {out}");
        assert_eq!(coordinator.said("execute")["if_plan"], "6f1c", "{command}");
    }
}

/// Whether it holds what turns colours or weights on.
fn coloured(text: &str) -> bool {
    text.split("\u{1b}[").skip(1).any(|rest| {
        let end = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
        end.starts_with('m')
    })
}

#[tokio::test]
async fn no_color_wins_over_whatever_wants_colours() {
    let end = status("finished", &[("web-01", "updated")]);
    let script = Script::default()
        .streams(&[end])
        .refuses("why", tonic::Status::not_found("no machine web-01"));
    let coordinator = Coordinator::start(script).await;
    let (forced, none, empty) = (("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1"), ("NO_COLOR", ""));
    for (variables, colours) in [
        ([].as_slice(), false),
        (&[forced], true),
        (&[none], false),
        (&[forced, none], false),
        // Set to nothing is not set.
        (&[forced, empty], true),
    ] {
        let run = async |words: &[&str]| {
            let mut command = lab(&coordinator, words);
            command.envs(variables.iter().copied());
            ended(command.output().await.expect("started"))
        };
        let (_, result, news) = run(&["update", "watch", "r-7"]).await;
        let (_, _, error) = run(&["why", "web-01"]).await;
        let (_, _, usage) = run(&["update", "explode"]).await;
        assert!(result.contains("r-7 finished: 1 of 1"), "{result}");
        assert!(error.contains("no machine web-01"), "{error}");
        for text in [result, news, error, usage] {
            assert_eq!(coloured(&text), colours, "{variables:?}: {text:?}");
        }
        let (_, document, _) = run(&["update", "watch", "r-7", "-o", "json"]).await;
        assert_eq!(json_of(&document)["result"], "finished");
    }
}
