//! The connection to the coordinator: which identity, which address, and one way to ask.

use std::{
    env, fs,
    future::Future,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use common::Timestamp;
use lab_proto::operator::{RenewOwnCertificateRequest, operator_client::OperatorClient};
use platform::{
    channel::{Timeouts, connect},
    identity::{Identity, IdentityError, KeyAndRequest},
};
use tokio::time::timeout;
use tonic::{Response, Status, transport::Channel};

use crate::{
    args::Global,
    error::{Exit, LabError},
    output::Output,
};

/// Port of the service for agents and operators.
const SERVICE_PORT: u16 = 7443;

/// Port of the enrolment service.
const ENROL_PORT: u16 = 7444;

/// How long the coordinator may take to answer a question. It answers in milliseconds; a dry run
/// over a large fleet takes longer.
const ANSWER: Duration = Duration::from_secs(30);

/// Largest answer, in bytes: the status of 10,000 machines has about 5 MB.
const ANSWER_MAX: usize = 64 * 1024 * 1024;

/// A client of the operator service.
pub type Client = OperatorClient<Channel>;

/// Where `lab` finds the coordinator and its own identity.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `host:port`, once somebody said it.
    pub coordinator: Option<String>,
    /// The identity file.
    pub identity: PathBuf,
    /// Where `enrol` notes the coordinator's address.
    pub noted_coordinator: PathBuf,
}

impl Settings {
    /// From the command line and the environment, with the configuration directory behind them.
    pub fn of(global: &Global) -> Result<Self, LabError> {
        let home = configuration_directory(|name| env::var_os(name).map(PathBuf::from));
        let directory = match (home, &global.identity) {
            (Some(directory), _) => directory,
            (None, Some(identity)) => identity.parent().unwrap_or(Path::new("")).to_owned(),
            (None, None) => {
                return Err(
                    LabError::usage("there is no home directory to find the identity in")
                        .hint("name the identity file: --identity=FILE or LAB_IDENTITY"),
                );
            }
        };
        let noted_coordinator = directory.join("coordinator");
        let noted = || fs::read_to_string(&noted_coordinator).ok();
        let coordinator = global.coordinator.clone().or_else(noted);
        Ok(Self {
            coordinator: coordinator.map(|address| with_port(address.trim(), SERVICE_PORT)),
            identity: global
                .identity
                .clone()
                .unwrap_or_else(|| directory.join("identity.pem")),
            noted_coordinator,
        })
    }

    /// The coordinator's address, or what to do without one.
    pub fn address(&self) -> Result<&str, LabError> {
        self.coordinator.as_deref().ok_or_else(|| {
            LabError::usage("no coordinator is named")
                .hint("--coordinator=HOST or LAB_COORDINATOR; `lab identity enrol` notes it")
        })
    }

    /// The address of the enrolment service on the coordinator's host.
    pub fn enrol_address(&self) -> Result<String, LabError> {
        let address = self.address()?;
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        Ok(with_port(host, ENROL_PORT))
    }
}

/// `$XDG_CONFIG_HOME/lab`, or `~/.config/lab`.
fn configuration_directory(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let set = |name| variable(name).filter(|path| path.is_absolute());
    set("XDG_CONFIG_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".config")))
        .map(|directory| directory.join("lab"))
}

/// The address with `port` where it has none.
pub fn with_port(address: &str, port: u16) -> String {
    let bare_v6 = address.matches(':').count() > 1 && !address.starts_with('[');
    let has_port = address
        .rsplit_once(':')
        .is_some_and(|(_, end)| end.bytes().all(|b| b.is_ascii_digit()) && !end.is_empty());
    if bare_v6 {
        format!("[{address}]:{port}")
    } else if has_port {
        address.to_owned()
    } else {
        format!("{address}:{port}")
    }
}

/// Connects as the operator of the identity file.
pub async fn open(settings: &Settings, output: &Output) -> Result<Client, LabError> {
    let identity = Identity::load(&settings.identity).map_err(|error| {
        let missing = matches!(&error, IdentityError::File { source, .. }
            if source.kind() == std::io::ErrorKind::NotFound);
        let error = LabError::from(error);
        if missing {
            error.hint("get one: lab identity enrol --token-file=FILE; or name it: --identity=FILE")
        } else {
            error
        }
    })?;
    let channel = connect(settings.address()?, &identity, Timeouts::default()).await?;
    let mut client = OperatorClient::new(channel).max_decoding_message_size(ANSWER_MAX);
    if identity.wants_renewal(now()) {
        renew(&mut client, &identity, settings, output).await;
    }
    Ok(client)
}

/// Waits for an answer, within the deadline of a question.
pub async fn ask<T>(
    question: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, LabError> {
    match timeout(ANSWER, question).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(LabError::from_status(&status)),
        Err(_) => Err(LabError::new(
            Exit::Unreachable,
            format!(
                "the coordinator did not answer within {} s",
                ANSWER.as_secs()
            ),
        )),
    }
}

/// Gets a fresh certificate in passing. A failure is worth a note only when time runs out: the old
/// one still works.
async fn renew(client: &mut Client, old: &Identity, settings: &Settings, output: &Output) {
    let life = old.not_after().since(old.not_before());
    let urgent = now() >= old.not_before() + life * 3 / 4;
    match renewed(client).await {
        Ok(identity) if identity.save(&settings.identity).is_ok() => {}
        Ok(_) if urgent => output.note(&format!(
            "note: your certificate could be renewed, but {} cannot be written",
            settings.identity.display()
        )),
        Err(error) if urgent => output.note(&format!(
            "note: your certificate ends soon and could not be renewed: {}",
            error.what
        )),
        Ok(_) | Err(_) => {}
    }
}

async fn renewed(client: &mut Client) -> Result<Identity, LabError> {
    let own = KeyAndRequest::generate()?;
    let request = RenewOwnCertificateRequest {
        certificate_request_pem: own.request_pem,
    };
    let reply = ask(client.renew_own_certificate(request)).await?;
    Ok(Identity::from_parts(
        &own.key_pem,
        &reply.certificate_chain_pem,
    )?)
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Timestamp::default() + since.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_port_gets_ours() {
        for (given, full) in [
            ("ctl", "ctl:7443"),
            ("ctl:1", "ctl:1"),
            ("ctl.example.org", "ctl.example.org:7443"),
            ("10.0.0.1", "10.0.0.1:7443"),
            ("::1", "[::1]:7443"),
            ("fe80::1:2", "[fe80::1:2]:7443"),
            ("[::1]", "[::1]:7443"),
            ("[::1]:9", "[::1]:9"),
        ] {
            assert_eq!(with_port(given, SERVICE_PORT), full);
        }
    }

    #[test]
    fn enrolment_is_on_the_same_host() {
        let settings = |address: &str| Settings {
            coordinator: Some(with_port(address, SERVICE_PORT)),
            identity: PathBuf::new(),
            noted_coordinator: PathBuf::new(),
        };
        let enrol = |address| settings(address).enrol_address().expect("an address");
        assert_eq!(enrol("ctl:9000"), "ctl:7444");
        assert_eq!(enrol("[::1]:9"), "[::1]:7444");
    }

    #[test]
    fn the_configuration_directory_follows_xdg() {
        let directory = |pairs: Vec<(&'static str, &'static str)>| {
            configuration_directory(|name| {
                let found = pairs.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| PathBuf::from(value))
            })
        };
        let home = ("HOME", "/home/geir");
        assert_eq!(directory(vec![home]), Some("/home/geir/.config/lab".into()));
        assert_eq!(
            directory(vec![home, ("XDG_CONFIG_HOME", "/cfg")]),
            Some("/cfg/lab".into())
        );
        assert_eq!(
            directory(vec![home, ("XDG_CONFIG_HOME", "relative")]),
            Some("/home/geir/.config/lab".into())
        );
        assert_eq!(directory(vec![]), None);
    }
}
