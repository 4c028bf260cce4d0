//! Getting the first certificate, with a token and no identity yet; and another one, with an identity
//! whose certificate has ended.
//!
//! The token carries the hash of the CA's public key. The server must show a chain that ends in
//! exactly that CA, so a machine knows whom it enrols with before it says anything.

use std::{future::Future, io, sync::Arc, time::Duration};

use common::token::EnrolmentToken;
use lab_proto::enrolment::{
    AskToReturnRequest, EnrolReply, EnrolRequest, enrolment_client::EnrolmentClient,
};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tonic::{Code, Response, Status, transport::Channel};
use x509_parser::prelude::FromDer as _;

use crate::{
    channel::{ConnectError, Timeouts, TlsFault, connect_tls, dial_tcp},
    identity::{Identity, IdentityError, KeyAndRequest},
    tls::{client_tls, finish, provider, roots_of},
};

/// How long the server may take to answer.
const ANSWER: Duration = Duration::from_secs(15);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// No key could be made, or TLS could not be set up.
    #[error("failed to prepare the enrolment")]
    Prepare(#[source] IdentityError),
    /// The server cannot be reached, or is not the one the token names.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The server said no: the token is unknown, used, expired, revoked, or not for this.
    #[error("the coordinator refuses the enrolment: {0}")]
    Refused(String),
    /// The server could not answer; the token may still be good.
    #[error("the coordinator did not answer the enrolment: {0}")]
    NoAnswer(String),
    /// What came back is not a certificate for our key from the CA that the token names.
    #[error("the coordinator's answer cannot be used")]
    Reply(#[source] IdentityError),
    /// The certificate that came back is from another CA than the token names.
    #[error("the coordinator's answer is from another CA than the token names")]
    OtherCa,
    /// The certificate that came back names somebody else, or is from another CA than the old one.
    #[error("the coordinator's answer is not for this machine, or from another CA")]
    NotOurs,
}

/// Trades `token` for an identity at `address` (`host:port` of the enrolment service).
///
/// The key is made here and never leaves this machine. A token works once: save the identity
/// before anything else.
pub async fn enrol(address: &str, token: &EnrolmentToken) -> Result<Identity, EnrolError> {
    enrol_with(dial_tcp, address, token).await
}

/// As [`enrol`], over streams that `dial` makes from an address.
pub async fn enrol_with<D, F, S>(
    dial: D,
    address: &str,
    token: &EnrolmentToken,
) -> Result<Identity, EnrolError>
where
    D: Fn(String) -> F + Clone + Send + 'static,
    F: Future<Output = io::Result<S>> + Send + 'static,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let own = KeyAndRequest::generate().map_err(EnrolError::Prepare)?;
    let tls = pinned_tls(token.ca_pin)
        .map_err(|error| EnrolError::Prepare(IdentityError::Mismatch(error)))?;
    let channel = connect_tls(dial, address, tls, Timeouts::default()).await?;
    let asked = EnrolRequest {
        token: token.reveal(),
        certificate_request_pem: own.request_pem,
    };
    let mut client = EnrolmentClient::new(channel);
    let reply = answered(client.enrol(asked)).await?;
    let identity = assemble(&own.key_pem, &reply)?;
    if identity.chain().last().and_then(key_hash) != Some(token.ca_pin) {
        return Err(EnrolError::OtherCa);
    }
    Ok(identity)
}

/// Asks, over a channel to the enrolment service, for another certificate for the key of `old`, whose
/// certificate has ended. `None`: nobody has approved yet.
///
/// Asking again does no harm, also when an answer was lost: the same is answered.
pub async fn ask_to_return(
    channel: Channel,
    old: &Identity,
) -> Result<Option<Identity>, EnrolError> {
    let own = KeyAndRequest::again(old.key_pem()).map_err(EnrolError::Prepare)?;
    let asked = AskToReturnRequest {
        certificate_pem: old.certificate_pem().to_owned(),
        certificate_request_pem: own.request_pem,
    };
    let mut client = EnrolmentClient::new(channel);
    let reply = answered(client.ask_to_return(asked)).await?;
    if reply.pending {
        return Ok(None);
    }
    let chain = &reply.certificate_chain_pem;
    let new = Identity::from_parts(old.key_pem(), chain).map_err(EnrolError::Reply)?;
    if new.subject() != old.subject() || new.chain().last() != old.chain().last() {
        return Err(EnrolError::NotOurs);
    }
    Ok(Some(new))
}

/// What the enrolment service answers, if it does so in time.
async fn answered<T>(
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, EnrolError> {
    let Ok(answer) = timeout(ANSWER, call).await else {
        let text = format!("nothing within {} s", ANSWER.as_secs());
        return Err(EnrolError::NoAnswer(text));
    };
    Ok(answer.map_err(refusal)?.into_inner())
}

fn refusal(status: Status) -> EnrolError {
    let text = common::text::tame_line(status.message(), common::text::REASON_MAX);
    let no_answer = [
        Code::Unavailable,
        Code::DeadlineExceeded,
        Code::Cancelled,
        Code::ResourceExhausted,
    ];
    if no_answer.contains(&status.code()) {
        EnrolError::NoAnswer(text)
    } else {
        EnrolError::Refused(text)
    }
}

/// Key, chain and CA of the reply as one identity. The chain may or may not end in the CA already.
fn assemble(key_pem: &str, reply: &EnrolReply) -> Result<Identity, EnrolError> {
    let chain = &reply.certificate_chain_pem;
    match Identity::from_parts(key_pem, chain) {
        Err(IdentityError::Incomplete(1)) => {
            let whole = format!("{}\n{}", chain.trim_end(), reply.ca_pem);
            Identity::from_parts(key_pem, &whole).map_err(EnrolError::Reply)
        }
        other => other.map_err(EnrolError::Reply),
    }
}

/// TLS that trusts exactly the CA whose public key has the hash `pin`, and shows no certificate.
fn pinned_tls(pin: [u8; 32]) -> Result<ClientConfig, rustls::Error> {
    let verifier = Arc::new(PinnedCa { pin });
    let config = client_tls()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(finish(config))
}

/// SHA-256 of a certificate's subject public key info: what a token pins, and what tells a machine's
/// key to people.
pub fn key_hash(certificate: &CertificateDer<'_>) -> Option<[u8; 32]> {
    let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(certificate).ok()?;
    Some(Sha256::digest(parsed.public_key().raw).into())
}

/// Takes the CA out of the chain that the server shows, if it is the pinned one, and leaves the
/// rest to the usual verification with that CA as the only root.
#[derive(Debug)]
struct PinnedCa {
    pin: [u8; 32],
}

impl ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let wrong_pin = || {
            let fault = OtherError(Arc::new(TlsFault::WrongPin));
            rustls::Error::InvalidCertificate(CertificateError::Other(fault))
        };
        let pinned = |ca: &&CertificateDer<'_>| key_hash(ca) == Some(self.pin);
        let ca = chain.iter().find(pinned).ok_or_else(wrong_pin)?;
        let roots = roots_of(&ca.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(roots, provider())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .verify_server_cert(leaf, chain, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // Only TLS 1.3 is offered.
        Err(rustls::Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
