use tokio::io::duplex;

use super::*;

const PATH: &str = "/nix/store/0c5y5y5y5y5y5y5y5y5y5y5y5y5y5y5y-system";

/// Asks a daemon that says this, whatever it hears; and what it heard.
async fn ask(says: Words) -> (Result<Missing, DaemonError>, Vec<u8>) {
    let (ours, mut daemons) = duplex(1 << 16);
    daemons.write_all(&says.0).await.expect("said");
    let path: StorePath = PATH.parse().expect("a path");
    let answer = missing(ours, &[path], &[("connect-timeout", "10")]).await;
    daemons.shutdown().await.expect("shut");
    let mut heard = Vec::new();
    daemons.read_to_end(&mut heard).await.expect("heard");
    (answer, heard)
}

fn greeting(version: u64) -> Words {
    let mut words = Words::default();
    words.number(HELLO_BACK).number(version);
    words
}

#[tokio::test]
async fn a_daemon_says_what_is_missing_whatever_it_tells_on_the_way() {
    // Nix 2.34 says 1.38 or more.
    let mut says = greeting((1 << 8) | 38);
    says.number(LAST).number(LAST);
    says.number(NEXT).text("querying info about missing paths");
    says.number(START_ACTIVITY)
        .number(7)
        .number(3)
        .number(109)
        .text("asking");
    says.number(2)
        .number(0)
        .number(5)
        .number(1)
        .text("https://cache.example.org")
        .number(0);
    says.number(RESULT)
        .number(7)
        .number(105)
        .number(1)
        .number(0)
        .number(1);
    says.number(STOP_ACTIVITY).number(7);
    says.number(LAST);
    says.number(0).number(1).text(PATH).number(0);
    says.number(1000).number(5000);
    let (answer, heard) = ask(says).await;
    let expected = Missing {
        download_bytes: 1000,
        store_bytes: 5000,
    };
    assert_eq!(answer.expect("an answer"), expected);
    let mut expected = Words::default();
    expected.number(HELLO).number(VERSION).number(0).number(0);
    expected.number(SET_OPTIONS);
    for number in [0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 1] {
        expected.number(number);
    }
    expected.number(1).text("connect-timeout").text("10");
    expected.number(QUERY_MISSING).number(1).text(PATH);
    assert_eq!(heard, expected.0);
}

#[tokio::test]
async fn what_a_daemon_refuses_is_said_in_its_words() {
    let mut says = greeting(VERSION);
    says.number(LAST).number(LAST);
    says.number(ERROR)
        .text("Error")
        .number(0)
        .text("Error")
        .text("you are\nnot privileged");
    let (answer, _) = ask(says).await;
    let error = answer.expect_err("refused").to_string();
    assert_eq!(error, "the Nix daemon says: you are not privileged");
}

#[tokio::test]
async fn what_is_no_daemon_is_not_believed() {
    let mut stranger = Words::default();
    stranger.text("HTTP/1.1 400 Bad Request");
    let mut absurd = greeting(VERSION);
    absurd
        .number(LAST)
        .number(LAST)
        .number(LAST)
        .number(u64::MAX);
    let mut cut_off = greeting(VERSION);
    cut_off.number(LAST);
    let mut unknown = greeting(VERSION);
    unknown.number(5);
    for (says, expected) in [
        (stranger, "something unknown"),
        (absurd, "something unknown: 0xffffffffffffffff"),
        (unknown, "something unknown: 0x5"),
        (greeting((1 << 8) | 31), "version 1.31"),
        (greeting(2 << 8), "version 2.0"),
    ] {
        let (answer, _) = ask(says).await;
        let error = answer.expect_err("refused").to_string();
        assert!(error.contains(expected), "{error}");
    }
    let (ours, mut daemons) = duplex(1 << 16);
    daemons.write_all(&cut_off.0).await.expect("said");
    daemons.shutdown().await.expect("shut");
    assert!(matches!(
        missing(ours, &[], &[]).await,
        Err(DaemonError::Io(_))
    ));
}
