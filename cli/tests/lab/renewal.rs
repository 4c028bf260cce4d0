//! The operator's certificate, renewed in passing.

use std::{fs, time::SystemTime};

use platform::identity::Identity;
use rcgen::CertificateParams;

use super::{coordinator::OPERATOR, tls::leaf, *};

const DAY: Duration = Duration::from_secs(86_400);

/// A certificate of ten days' life, some of them over.
fn after_days(days: u32) -> CertificateParams {
    let begin = SystemTime::now() - DAY * days;
    let mut params = leaf(&[OPERATOR], &[]);
    params.not_before = begin.into();
    params.not_after = (begin + DAY * 10).into();
    params
}

/// Runs a command that needs a connection, and gives what standard error says beside it.
async fn noted(coordinator: &Coordinator) -> String {
    let (code, out, err) = run(coordinator, &["update", "status"]).await;
    assert_eq!(code, 0, "it works all the same: {err}");
    assert!(out.contains("no rollouts yet"), "{out}");
    err
}

fn asked_for_one(coordinator: &Coordinator) -> bool {
    let renewal = "renew_own_certificate".to_owned();
    coordinator.calls().contains(&renewal)
}

#[tokio::test]
async fn a_certificate_is_renewed_after_half_its_life() {
    let coordinator = Coordinator::start_for(&after_days(4), Script::default()).await;
    let before = fs::read(&coordinator.identity).expect("there");
    assert_eq!(noted(&coordinator).await, "");
    assert!(!asked_for_one(&coordinator));
    assert_eq!(fs::read(&coordinator.identity).expect("there"), before);

    let coordinator = Coordinator::start_for(&after_days(6), Script::default()).await;
    let file = &coordinator.identity;
    // A second name of the old file: it shows that the new one took its place and was not written
    // over it.
    let old = coordinator.home().join("old.pem");
    fs::hard_link(file, &old).expect("linked");
    let before = Identity::load(file).expect("an identity");
    assert_eq!(noted(&coordinator).await, "");
    let said = coordinator.said("renew_own_certificate")["certificate_request_pem"].to_string();
    assert!(said.contains("CERTIFICATE REQUEST") && !said.contains("PRIVATE KEY"));
    let after = Identity::load(file).expect("an identity");
    assert_eq!(after.subject().to_string(), OPERATOR);
    assert!(after.not_after() > before.not_after());
    assert_ne!(after.key_pem(), before.key_pem(), "the key is a new one");
    let mode = fs::metadata(file).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(fs::read_to_string(old).expect("there"), before.to_pem());
    let left = fs::read_dir(coordinator.home()).expect("listed").count();
    assert_eq!(left, 2, "nothing is left beside the two");
}

#[tokio::test]
async fn a_renewal_that_fails_is_noted_once_time_runs_out() {
    let refused = "note: your certificate ends soon and could not be renewed: not now\n";
    let unwritable = "cannot be written\n";
    for (days, writable, note) in [
        (6, true, ""),
        (6, false, ""),
        (9, true, refused),
        (9, false, unwritable),
    ] {
        let script = if writable {
            let status = tonic::Status::failed_precondition("not now");
            Script::default().refuses("renew_own_certificate", status)
        } else {
            Script::default()
        };
        let coordinator = Coordinator::start_for(&after_days(days), script).await;
        let file = &coordinator.identity;
        if !writable {
            // Also root cannot put a file in the place of a directory.
            fs::create_dir(file.with_extension("pem.new")).expect("made");
        }
        let before = fs::read(file).expect("there");
        let err = noted(&coordinator).await;
        assert!(asked_for_one(&coordinator));
        if note.is_empty() {
            assert_eq!(err, "", "{days} days");
        } else {
            assert!(err.starts_with("note: your certificate"), "{err}");
            assert!(err.ends_with(note), "{err}");
            assert_eq!(err.lines().count(), 1, "{err}");
        }
        assert_eq!(fs::read(file).expect("there"), before, "the old one stays");
    }
}
