//! Identity files: what is accepted, what is refused, and how one is written.

mod common;

use std::{fs, os::unix::fs::PermissionsExt as _};

use ::common::Timestamp;
use common::{COORDINATOR, Ca, WEB, leaf, valid};
use platform::identity::{
    CertificateFault, Identity, IdentityError, KeyAndRequest, SERVER_NAME, Subject,
};
use rcgen::{BasicConstraints, IsCa};

fn refused(parts: &(String, String)) -> IdentityError {
    match Identity::from_parts(&parts.0, &parts.1) {
        Ok(identity) => panic!("{} was accepted", identity.subject()),
        Err(error) => error,
    }
}

#[test]
fn an_identity_survives_the_way_to_disk() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("identity.pem");
    let identity = Ca::new().identity(&leaf(&[WEB], &[]));
    identity.save(&path).expect("saved");
    // A second save replaces the file, also over the left-over of a crash.
    fs::write(directory.path().join("identity.pem.new"), "left over").expect("written");
    identity.save(&path).expect("saved again");
    let read = Identity::load(&path).expect("loaded");
    assert_eq!(read.to_pem(), identity.to_pem());
    assert_eq!(read.subject().to_string(), WEB);
    assert_eq!(read.chain().len(), 2);
    let mode = fs::metadata(&path).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let names = fs::read_dir(directory.path()).expect("listed").count();
    assert_eq!(names, 1, "the temporary file is gone");
}

#[test]
fn a_key_that_everybody_can_read_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("identity.pem");
    let identity = Ca::new().identity(&leaf(&[WEB], &[]));
    identity.save(&path).expect("saved");
    for (mode, good) in [(0o600, true), (0o440, true), (0o644, false), (0o601, false)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("changed");
        match Identity::load(&path) {
            Ok(_) => assert!(good, "{mode:o}"),
            Err(IdentityError::Exposed { mode: said, .. }) => {
                assert!(!good && said == mode, "{mode:o}");
            }
            Err(error) => panic!("{mode:o}: {error}"),
        }
    }
}

#[test]
fn files_that_are_no_identity_say_so() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("identity.pem");
    let load = |content: &[u8]| {
        fs::write(&path, content).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("changed");
        Identity::load(&path).err().expect("refused").to_string()
    };
    assert!(
        Identity::load(&path)
            .err()
            .expect("refused")
            .to_string()
            .contains("identity.pem")
    );
    assert!(Identity::load(directory.path()).is_err(), "a directory");
    says(&load(b""), "the private key cannot be read");
    says(&load(b"\0\0\0"), "the private key cannot be read");
    says(&load(b"\xff\xfe"), "failed to read");
    says(&load(&vec![b'x'; 70_000]), "more than 65536 bytes");
    let whole = Ca::new().identity(&leaf(&[WEB], &[])).to_pem();
    says(&load(&whole.as_bytes()[..whole.len() - 200]), "certificate");
    let ends_early = &whole[..whole.rfind("-----BEGIN").expect("the CA")];
    says(&load(ends_early.as_bytes()), "there are 1 certificates");
}

fn says(text: &str, part: &str) {
    assert!(text.contains(part), "{text:?} does not say {part:?}");
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let (ours, other) = (Ca::new(), Ca::new());
    let (key, chain) = ours.sign(&leaf(&[WEB], &[]));
    let (other_key, _) = ours.sign(&leaf(&[WEB], &[]));
    let foreign_ca = chain.replace(&ours.pem(), &other.pem());
    let mut authority = leaf(&[WEB], &[]);
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    for bad in [
        (other_key, chain),
        (key, foreign_ca),
        ours.sign(&authority),
        // A coordinator without the coordinator's host name.
        ours.sign(&leaf(&[COORDINATOR], &["web-01"])),
    ] {
        assert!(matches!(refused(&bad), IdentityError::Mismatch(_)));
    }
}

#[test]
fn exactly_one_known_name_is_needed() {
    let ca = Ca::new();
    let fault = |uris: &[&str], dns: &[&str]| {
        let error = refused(&ca.sign(&leaf(uris, dns)));
        let IdentityError::Certificate(fault) = error else {
            panic!("{error}");
        };
        fault
    };
    assert_eq!(fault(&[], &["web-01"]), CertificateFault::Names(0));
    assert_eq!(fault(&[WEB, COORDINATOR], &[]), CertificateFault::Names(2));
    for uri in [
        "spiffe://lab-updater/machine/Web",
        "spiffe://lab-updater/machine/../coordinator",
        "spiffe://lab-updater/machine",
        "spiffe://lab-updater/coordinator/x",
        "spiffe://elsewhere/machine/web-01",
        "spiffe://lab-updater/root/geir",
    ] {
        assert_eq!(fault(&[uri], &[]), CertificateFault::Name(uri.into()));
    }
}

#[test]
fn subjects_are_read_as_they_are_written() {
    let ca = Ca::new();
    for (uri, subject) in [
        (WEB, Subject::Machine("web-01".parse().expect("a name"))),
        (
            "spiffe://lab-updater/operator/geir",
            Subject::Operator("geir".parse().expect("a name")),
        ),
        (COORDINATOR, Subject::Coordinator),
    ] {
        let identity = ca.identity(&leaf(&[uri], &[SERVER_NAME]));
        assert_eq!(identity.subject(), &subject);
        assert_eq!(subject.to_string(), uri);
    }
}

#[test]
fn renewal_is_wanted_from_half_of_the_life_on() {
    let identity = Ca::new().identity(&valid(leaf(&[WEB], &[]), 2020, 2022));
    let (begin, end) = (identity.not_before().0, identity.not_after().0);
    let half = begin + (end - begin) / 2;
    assert!(!identity.wants_renewal(Timestamp(begin)));
    assert!(!identity.wants_renewal(Timestamp(half - 1)));
    assert!(identity.wants_renewal(Timestamp(half)));
    assert!(
        identity.wants_renewal(Timestamp(end + 1)),
        "also after its end"
    );
}

#[test]
fn a_request_names_nobody_and_every_key_is_new() {
    let one = KeyAndRequest::generate().expect("a key");
    let two = KeyAndRequest::generate().expect("a key");
    assert_ne!(one.key_pem, two.key_pem);
    let read = rcgen::CertificateSigningRequestParams::from_pem(&one.request_pem).expect("a CSR");
    assert!(read.params.subject_alt_names.is_empty());
    assert_eq!(read.params.distinguished_name.iter().count(), 0);
}
