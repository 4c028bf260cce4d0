//! How long the certificate that a TLS server shows has to live.

use std::sync::{Arc, Mutex, PoisonError};

use common::Timestamp;
use platform::identity::provider;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{Found, address};

const DAY: i64 = 24 * 3600;

/// Shakes hands, and looks at the certificate.
pub(super) async fn look(address: &str, days_left: u32, now: Timestamp) -> Found {
    let Some((host, port)) = address::split(address) else {
        return Found::error(format!("{address} is not host:port"));
    };
    let Ok(name) = ServerName::try_from(host.to_owned()) else {
        return Found::error(format!("{host} is not a host"));
    };
    let seen = Arc::new(Looker::new());
    let builder =
        ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let config = match builder {
        Ok(builder) => builder
            .dangerous()
            .with_custom_certificate_verifier(seen.clone())
            .with_no_client_auth(),
        Err(error) => return Found::error(error.to_string()),
    };
    let stream = match TcpStream::connect((host, port)).await {
        Ok(stream) => stream,
        Err(error) => return Found::error(format!("{address}: {error}")),
    };
    let shaken = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await;
    // A server that wants a certificate of ours as well has shown its own by then.
    let Some(certificate) = seen.taken() else {
        let why = shaken
            .err()
            .map_or_else(String::new, |error| error.to_string());
        return Found::error(format!("{address} shows no certificate: {why}"));
    };
    let ends = match X509Certificate::from_der(&certificate) {
        Ok((_, certificate)) => certificate.validity().not_after,
        Err(error) => return Found::error(format!("its certificate cannot be read: {error}")),
    };
    let left = ends.timestamp() - now.as_millis() / 1000;
    let until = jiff::Timestamp::from_second(ends.timestamp());
    let until = until.map_or_else(|_| ends.to_string(), |until| until.to_string());
    if left < 0 {
        Found::fail(format!("its certificate ended at {until}"))
    } else if left < i64::from(days_left) * DAY {
        let days = left / DAY;
        Found::fail(format!("its certificate ends at {until}, in {days} days"))
    } else {
        Found::pass(format!("its certificate lasts until {until}"))
    }
}

/// Keeps the certificate that is shown and takes whatever it is: how long it lives is all that is
/// asked, and nothing is told to whoever has it. That the server has the key is checked.
#[derive(Debug)]
struct Looker {
    provider: Arc<CryptoProvider>,
    seen: Mutex<Option<CertificateDer<'static>>>,
}

impl Looker {
    fn new() -> Self {
        Self {
            provider: provider(),
            seen: Mutex::default(),
        }
    }

    fn taken(&self) -> Option<CertificateDer<'static>> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.take()
    }
}

impl ServerCertVerifier for Looker {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = Some(end_entity.clone().into_owned());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
