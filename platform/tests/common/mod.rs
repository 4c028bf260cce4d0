//! A CA for tests, and a server that speaks TLS with what it signed.
#![allow(dead_code, reason = "each test program uses its part")]

use std::{sync::Arc, time::Duration};

use common::token::EnrolmentToken;
use lab_proto::enrolment::{
    AskToReturnReply, AskToReturnRequest, EnrolReply, EnrolRequest,
    enrolment_server::{Enrolment, EnrolmentServer},
};
use platform::identity::{ALPN, Identity, SERVER_NAME, provider};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DnType,
    IsCa, KeyPair, SanType,
};
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject as _};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, service::Routes};

pub(crate) const WEB: &str = "spiffe://lab-updater/machine/web-01";
pub(crate) const COORDINATOR: &str = "spiffe://lab-updater/coordinator";

/// Makes certificates of every kind, good and bad.
pub(crate) struct Ca(CertifiedIssuer<'static, KeyPair>);

/// What a certificate is to say; valid around now unless changed.
pub(crate) fn leaf(uris: &[&str], dns: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    let ia5 = |text: &&str| (*text).try_into().expect("ASCII");
    params.subject_alt_names = uris
        .iter()
        .map(|uri| SanType::URI(ia5(uri)))
        .chain(dns.iter().map(|name| SanType::DnsName(ia5(name))))
        .collect();
    valid(params, 2020, 4000)
}

/// From the first day of one year to the first day of another.
pub(crate) fn valid(mut params: CertificateParams, from: i32, until: i32) -> CertificateParams {
    params.not_before = rcgen::date_time_ymd(from, 1, 1);
    params.not_after = rcgen::date_time_ymd(until, 1, 1);
    params
}

impl Ca {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params
            .distinguished_name
            .push(DnType::CommonName, "the fleet's CA");
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("a CA"))
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(crate) fn pin(&self) -> [u8; 32] {
        platform::enrol::key_hash(self.0.der()).expect("a certificate")
    }

    pub(crate) fn token(&self) -> EnrolmentToken {
        EnrolmentToken {
            secret: [7; 20],
            ca_pin: self.pin(),
        }
    }

    /// `(key, chain)`, both PEM.
    pub(crate) fn sign(&self, params: &CertificateParams) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        let chain = format!("{}{}", certificate.pem(), self.pem());
        (key.serialize_pem(), chain)
    }

    pub(crate) fn identity(&self, params: &CertificateParams) -> Identity {
        let (key, chain) = self.sign(params);
        Identity::from_parts(&key, &chain).expect("a good identity")
    }

    pub(crate) fn coordinator(&self) -> (String, String) {
        self.sign(&leaf(&[COORDINATOR], &[SERVER_NAME]))
    }

    fn sign_request(&self, request: &str, uri: &str) -> Option<String> {
        let mut request = CertificateSigningRequestParams::from_pem(request).ok()?;
        request.params = leaf(&[uri], &[]);
        Some(request.signed_by(&self.0).ok()?.pem())
    }
}

/// Answers enrolments, and whoever asks to return: one token, one name, certificates from `ca`.
struct Service {
    ca: Ca,
    with_ca_in_chain: bool,
}

#[tonic::async_trait]
impl Enrolment for Service {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<EnrolReply>, Status> {
        let asked = request.into_inner();
        if asked.token.len() < 20 {
            return Err(Status::permission_denied("the token was used already"));
        }
        let leaf = self.ca.sign_request(&asked.certificate_request_pem, WEB);
        let leaf = leaf.ok_or_else(|| Status::invalid_argument("not a request"))?;
        let ca = self.ca.pem();
        Ok(Response::new(EnrolReply {
            certificate_chain_pem: if self.with_ca_in_chain {
                format!("{leaf}{ca}")
            } else {
                leaf
            },
            ca_pem: ca,
            name: "web-01".into(),
            service_port: 7443,
        }))
    }

    async fn ask_to_return(
        &self,
        request: Request<AskToReturnRequest>,
    ) -> Result<Response<AskToReturnReply>, Status> {
        let asked = request.into_inner();
        let leaf = self.ca.sign_request(&asked.certificate_request_pem, WEB);
        let leaf = leaf.ok_or_else(|| Status::invalid_argument("not a request"))?;
        Ok(Response::new(AskToReturnReply {
            pending: false,
            certificate_chain_pem: format!("{leaf}{}", self.ca.pem()),
        }))
    }
}

/// How the test server behaves.
pub(crate) struct Server {
    /// `(key, chain)` it shows.
    pub(crate) own: (String, String),
    /// CA whose clients it lets in; `None`: anybody.
    pub(crate) clients: Option<String>,
    /// CA that signs what it hands out.
    pub(crate) signs: Ca,
    pub(crate) with_ca_in_chain: bool,
}

impl Server {
    pub(crate) fn of(ca: Ca) -> Self {
        Self {
            own: ca.coordinator(),
            clients: None,
            signs: ca,
            with_ca_in_chain: true,
        }
    }

    /// Serves enrolment on loopback and gives the address; ends with the test's runtime.
    pub(crate) async fn start(self) -> String {
        let config = tls(&self.own, self.clients.as_deref());
        let service = EnrolmentServer::new(Service {
            ca: self.signs,
            with_ca_in_chain: self.with_ca_in_chain,
        });
        serve(config, Routes::new(service)).await
    }
}

/// Serves anything over TLS on loopback and gives the address; ends with the test's runtime.
pub(crate) async fn serve(config: ServerConfig, routes: Routes) -> String {
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("an address").to_string();
    let (accepted, incoming) = mpsc::channel(8);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, accepted) = (acceptor.clone(), accepted.clone());
            tokio::spawn(async move {
                let Ok(mut tls) = acceptor.accept(stream).await else {
                    return;
                };
                let (plain, mut bridge) = tokio::io::duplex(64 * 1024);
                accepted.send(Ok::<_, std::io::Error>(plain)).await.ok();
                tokio::io::copy_bidirectional(&mut tls, &mut bridge)
                    .await
                    .ok();
            });
        }
    });
    let incoming = ReceiverStream::new(incoming);
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_routes(routes)
            .serve_with_incoming(incoming),
    );
    address
}

/// TLS 1.3 with a key and chain; only for clients of the CA `clients`, or for anybody.
pub(crate) fn tls((key, chain): &(String, String), clients: Option<&str>) -> ServerConfig {
    let certificates = |pem: &str| {
        rustls_pki_types::CertificateDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .expect("certificates")
    };
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3");
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certificates(ca));
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider());
            builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
        }
    };
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
    let mut config = builder
        .with_single_cert(certificates(chain), key)
        .expect("a key that fits");
    config.alpn_protocols = vec![ALPN.to_vec()];
    config
}

/// Long enough for a busy machine, short enough for a test.
pub(crate) const SHORT: Duration = Duration::from_millis(300);
