//! What every TLS connection of the system has in common: one provider, version 1.3, HTTP/2, and a
//! CA of the fleet's own instead of the world's.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore, client::Resumption, crypto::CryptoProvider};
use rustls_pki_types::{CertificateDer, ServerName};

/// The DNS name in every coordinator's certificate. Clients verify this name whatever address they
/// dial: the CA is the fleet's own and gives the name to nobody else.
pub const SERVER_NAME: &str = "coordinator.lab-updater.internal";

/// The only application protocol: HTTP/2.
pub const ALPN: &[u8] = b"h2";

/// The one provider of cryptography. Given explicitly everywhere: rustls would otherwise guess, and
/// panic when a dependency brings a second one.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The beginning of every client configuration: TLS 1.3 only.
pub(crate) fn client_tls()
-> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, rustls::Error> {
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
}

/// The end of every client configuration: HTTP/2, and no resumption, because a resumed session
/// would not show the server that a certificate was revoked or renewed meanwhile.
pub(crate) fn finish(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config
}

/// A store that trusts this CA alone.
pub(crate) fn roots_of(ca: &CertificateDer<'static>) -> Result<Arc<RootCertStore>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone())?;
    Ok(Arc::new(roots))
}

/// [`SERVER_NAME`] as rustls wants it.
pub(crate) fn server_name() -> ServerName<'static> {
    ServerName::try_from(SERVER_NAME).expect("the constant is a DNS name")
}
