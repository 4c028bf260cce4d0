//! TLS as we speak it: version 1.3, HTTP/2, one provider of cryptography, no resumption, and a
//! certificate of our own that is replaced without a restart.

use std::sync::Arc;

use arc_swap::ArcSwap;
use platform::identity::{ALPN, Identity, provider};
use rustls::{
    RootCertStore, ServerConfig,
    server::{
        ClientHello, NoServerSessionStorage, ResolvesServerCert, VerifierBuilderError,
        WebPkiClientVerifier,
    },
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A key or certificate is not PEM.
    #[error("a key or certificate cannot be read")]
    Pem(#[source] rustls_pki_types::pem::Error),
    /// The parts do not fit, or the provider lacks something.
    #[error("TLS cannot be set up")]
    Setup(#[from] rustls::Error),
    /// The CA cannot be used to check clients.
    #[error("clients' certificates cannot be checked")]
    Clients(#[from] VerifierBuilderError),
}

/// The certificate that the server shows, replaceable at any time.
#[derive(Debug)]
pub struct OwnCertificate(ArcSwap<CertifiedKey>);

impl OwnCertificate {
    /// Shows this identity's certificate.
    pub fn new(identity: &Identity) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Self(ArcSwap::from_pointee(certified(identity)?))))
    }

    /// From the next handshake on, shows this one.
    pub fn replace(&self, identity: &Identity) -> Result<(), TlsError> {
        self.0.store(Arc::new(certified(identity)?));
        Ok(())
    }
}

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

fn certified(identity: &Identity) -> Result<CertifiedKey, TlsError> {
    let key =
        PrivateKeyDer::from_pem_slice(identity.key_pem().as_bytes()).map_err(TlsError::Pem)?;
    // The CA goes along: a client that enrols knows it by its hash only.
    let chain = identity.chain().to_vec();
    Ok(CertifiedKey::from_der(chain, key, &provider())?)
}

/// TLS for agents and operators: a certificate of the fleet's CA is required.
pub fn for_members(own: Arc<OwnCertificate>, ca_pem: &str) -> Result<ServerConfig, TlsError> {
    let ca = CertificateDer::from_pem_slice(ca_pem.as_bytes()).map_err(TlsError::Pem)?;
    let mut roots = RootCertStore::empty();
    roots.add(ca)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider()).build()?;
    let config = version()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(own);
    Ok(finish(config))
}

/// TLS for enrolment: the caller has no certificate yet.
pub fn for_strangers(own: Arc<OwnCertificate>) -> Result<ServerConfig, TlsError> {
    Ok(finish(
        version()?.with_no_client_auth().with_cert_resolver(own),
    ))
}

fn version() -> Result<rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier>, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider());
    Ok(builder.with_protocol_versions(&[&rustls::version::TLS13])?)
}

fn finish(mut config: ServerConfig) -> ServerConfig {
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session would show a certificate of the past.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config
}
