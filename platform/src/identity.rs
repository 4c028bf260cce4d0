//! Who a program is: its private key, its certificate and the fleet's CA, kept in one PEM file.
//!
//! An [`Identity`] is checked as a whole when it is read: the key fits the certificate, the CA
//! signed it, and its one URI name says whose it is. So whoever holds one can dial with it.

use std::{
    fmt, fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use common::{MachineName, OperatorName, Timestamp};
use rustls::{
    ClientConfig, RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    server::WebPkiClientVerifier,
};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, UnixTime,
    pem::{self, PemObject as _},
};
use x509_parser::{extensions::GeneralName, prelude::FromDer as _};

pub use crate::tls::{ALPN, SERVER_NAME, provider};
use crate::tls::{client_tls, finish, roots_of, server_name};

/// What every name in a certificate begins with.
const SPIFFE: &str = "spiffe://lab-updater/";

/// Longest identity file, in bytes. A real one has about 2,000.
const FILE_MAX: u64 = 64 * 1024;

/// Whose certificate it is: the one URI among its subject alternative names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A machine's agent.
    Machine(MachineName),
    /// A person or program that uses `lab`.
    Operator(OperatorName),
    /// The coordinator.
    Coordinator,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine(name) => write!(f, "{SPIFFE}machine/{name}"),
            Self::Operator(name) => write!(f, "{SPIFFE}operator/{name}"),
            Self::Coordinator => write!(f, "{SPIFFE}coordinator"),
        }
    }
}

impl FromStr for Subject {
    type Err = CertificateFault;

    fn from_str(uri: &str) -> Result<Self, CertificateFault> {
        let unknown = || CertificateFault::Name(uri.chars().take(200).collect());
        match uri
            .strip_prefix(SPIFFE)
            .ok_or_else(unknown)?
            .split_once('/')
        {
            None if uri.ends_with("/coordinator") => Ok(Self::Coordinator),
            Some(("machine", name)) => name.parse().map(Self::Machine).map_err(|_| unknown()),
            Some(("operator", name)) => name.parse().map(Self::Operator).map_err(|_| unknown()),
            None | Some(_) => Err(unknown()),
        }
    }
}

impl Subject {
    /// Reads the subject out of a certificate, as the server does with the one a client shows.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, CertificateFault> {
        Facts::read(certificate).map(|facts| facts.subject)
    }
}

/// What is wrong with a certificate, apart from who signed it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateFault {
    /// Not a certificate.
    #[error("it is not an X.509 certificate")]
    Encoding,
    /// Zero URI names, or more than one.
    #[error("it carries {0} URI names where exactly one says whose it is")]
    Names(usize),
    /// A URI that names nobody of ours.
    #[error("its name {0:?} is none of this system")]
    Name(String),
}

/// Why an identity cannot be had, read or written.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file cannot be read or written.
    #[error("failed to {what} {path}", path = path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// The file or its directory.
        path: PathBuf,
        /// Why it did not work.
        #[source]
        source: io::Error,
    },
    /// Everybody on this machine can read the private key.
    #[error(
        "{path} can be read by every user of this machine (mode {mode:03o}); \
         it holds a private key: chmod 600 it",
        path = path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Larger than any identity is.
    #[error("{path} has more than {FILE_MAX} bytes: it is not an identity file", path = .0.display())]
    TooLarge(PathBuf),
    /// A part is missing or is not PEM.
    #[error("the {part} cannot be read: {source}")]
    Pem {
        /// Which part.
        part: &'static str,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// Fewer certificates than a leaf and a CA.
    #[error("there are {0} certificates where the certificate and its CA are needed")]
    Incomplete(usize),
    /// The certificate does not say whose it is.
    #[error("the certificate cannot be used: {0}")]
    Certificate(#[from] CertificateFault),
    /// The parts do not belong together.
    #[error("the private key, the certificate and the CA do not belong together")]
    Mismatch(#[source] rustls::Error),
    /// No key could be made.
    #[error("failed to make a key")]
    Key(#[source] rcgen::Error),
}

/// A private key, the certificate for it, and the CA that signed it.
///
/// No `Debug`: a private key is not printed by accident.
#[derive(Clone)]
pub struct Identity {
    key_pem: String,
    /// One section for each certificate, in the order of `chain`.
    chain_pem: Vec<String>,
    /// Leaf first, CA last.
    chain: Vec<CertificateDer<'static>>,
    facts: Facts,
    client: ClientConfig,
}

impl Identity {
    /// Reads the identity file: private key, certificate, CA. Refuses one that every user of the
    /// machine can read.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let failed = |source| IdentityError::File {
            what: "read",
            path: path.to_owned(),
            source,
        };
        let file = fs::File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
        // Group bits stay allowed: systemd hands credentials over with an ACL, which shows there.
        if mode & 0o007 != 0 {
            let path = path.to_owned();
            return Err(IdentityError::Exposed { path, mode });
        }
        let mut text = String::new();
        let read = file.take(FILE_MAX + 1).read_to_string(&mut text);
        if read.map_err(failed)? as u64 > FILE_MAX {
            return Err(IdentityError::TooLarge(path.to_owned()));
        }
        Self::from_parts(&text, &text)
    }

    /// Puts a private key (PKCS #8, PEM) and a chain (PEM, leaf first, CA last) together.
    pub fn from_parts(key_pem: &str, chain_pem: &str) -> Result<Self, IdentityError> {
        let in_key = |source| IdentityError::Pem {
            part: "private key",
            source,
        };
        let in_chain = |source| IdentityError::Pem {
            part: "certificate chain",
            source,
        };
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(in_key)?;
        let chain = CertificateDer::pem_slice_iter(chain_pem.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(in_chain)?;
        let [leaf, .., ca] = chain.as_slice() else {
            return Err(IdentityError::Incomplete(chain.len()));
        };
        let facts = Facts::read(leaf)?;
        let roots = roots_of(ca).map_err(IdentityError::Mismatch)?;
        check_chain(&facts, &chain, &roots).map_err(IdentityError::Mismatch)?;
        let client = client_tls()
            .map_err(IdentityError::Mismatch)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain.clone(), key)
            .map_err(IdentityError::Mismatch)?;
        Ok(Self {
            key_pem: pem_sections(key_pem, "PRIVATE KEY").take(1).collect(),
            chain_pem: pem_sections(chain_pem, "CERTIFICATE").collect(),
            chain,
            facts,
            client: finish(client),
        })
    }

    /// Writes the identity file so that a crash leaves either the old one or the new one: a
    /// temporary file beside it (mode 600), synced, renamed, the directory synced.
    pub fn save(&self, path: &Path) -> Result<(), IdentityError> {
        let directory = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            Some(_) | None => Path::new("."),
        };
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let temporary = directory.join(name);
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |source| IdentityError::File { what, path, source }
        };
        // A left-over of a crash may have other permissions: begin with a file of our own.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &temporary)(error));
            }
            Ok(()) | Err(_) => {}
        }
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(failed("create", &temporary))?;
        file.write_all(self.to_pem().as_bytes())
            .and_then(|()| file.sync_all())
            .map_err(failed("write", &temporary))?;
        fs::rename(&temporary, path).map_err(failed("put in place", path))?;
        fs::File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(failed("sync", directory))
    }

    /// The whole identity as PEM: key, certificate, CA. A secret.
    pub fn to_pem(&self) -> String {
        format!("{}{}", self.key_pem, self.chain_pem.concat())
    }

    /// Whose identity it is.
    pub fn subject(&self) -> &Subject {
        &self.facts.subject
    }

    /// When the certificate begins to be valid.
    pub fn not_before(&self) -> Timestamp {
        self.facts.not_before
    }

    /// When the certificate ends.
    pub fn not_after(&self) -> Timestamp {
        self.facts.not_after
    }

    /// Whether half of the certificate's life has passed at `now`.
    pub fn wants_renewal(&self, now: Timestamp) -> bool {
        let life = self.not_after().since(self.not_before());
        now >= self.not_before() + life / 2
    }

    /// Serial number of the certificate, hexadecimal without separators.
    pub fn serial(&self) -> &str {
        &self.facts.serial
    }

    /// The certificate chain, leaf first, CA last.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The fleet's CA, PEM.
    pub fn ca_pem(&self) -> &str {
        self.chain_pem.last().map_or("", String::as_str)
    }

    /// The certificate alone, PEM.
    pub fn certificate_pem(&self) -> &str {
        self.chain_pem.first().map_or("", String::as_str)
    }

    /// The private key, PEM. A secret.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// TLS for dialling the coordinator: version 1.3 only, HTTP/2, this identity shown, the fleet's
    /// CA trusted and nothing else.
    pub fn client_config(&self) -> ClientConfig {
        self.client.clone()
    }
}

/// A certificate that somebody shows outside of a connection, without proof that its key is theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownCertificate {
    /// Whose it is.
    pub subject: Subject,
    /// Its serial number, hexadecimal without separators.
    pub serial: String,
    /// Its public key: the subject public key info, DER.
    pub public_key: Vec<u8>,
}

impl ShownCertificate {
    /// Reads one certificate (PEM) that this CA (PEM) has signed, for the use that its subject has.
    /// Its end is not looked at: the certificate is judged at the moment at which it began.
    pub fn read(certificate_pem: &str, ca_pem: &str) -> Result<Self, IdentityError> {
        let one = |part, text: &str| {
            CertificateDer::from_pem_slice(text.as_bytes())
                .map_err(|source| IdentityError::Pem { part, source })
        };
        let leaf = one("certificate", certificate_pem)?;
        let roots = roots_of(&one("CA", ca_pem)?).map_err(IdentityError::Mismatch)?;
        let facts = Facts::read(&leaf)?;
        check_chain(&facts, std::slice::from_ref(&leaf), &roots)
            .map_err(IdentityError::Mismatch)?;
        let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(&leaf)
            .map_err(|_| CertificateFault::Encoding)?;
        Ok(Self {
            public_key: parsed.public_key().raw.to_vec(),
            subject: facts.subject,
            serial: facts.serial,
        })
    }
}

/// A private key, and the request for a certificate for it.
///
/// The request names nobody: the server decides about names.
#[derive(Clone)]
pub struct KeyAndRequest {
    /// ECDSA P-256, PKCS #8, PEM. A secret; it never leaves this machine.
    pub key_pem: String,
    /// PKCS #10, PEM, signed by the key.
    pub request_pem: String,
}

impl KeyAndRequest {
    /// Makes a key.
    pub fn generate() -> Result<Self, IdentityError> {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
            .map_err(IdentityError::Key)?;
        Self::of(&key)
    }

    /// The request for another certificate for a key (PKCS #8, PEM) that is there already.
    pub fn again(key_pem: &str) -> Result<Self, IdentityError> {
        let key = rcgen::KeyPair::from_pem(key_pem).map_err(IdentityError::Key)?;
        Self::of(&key)
    }

    fn of(key: &rcgen::KeyPair) -> Result<Self, IdentityError> {
        let mut nameless = rcgen::CertificateParams::default();
        nameless.distinguished_name = rcgen::DistinguishedName::new();
        let request = nameless
            .serialize_request(key)
            .and_then(|request| request.pem())
            .map_err(IdentityError::Key)?;
        Ok(Self {
            key_pem: key.serialize_pem(),
            request_pem: request,
        })
    }
}

/// What we read out of a certificate.
#[derive(Clone, Debug)]
struct Facts {
    subject: Subject,
    not_before: Timestamp,
    not_after: Timestamp,
    serial: String,
}

impl Facts {
    fn read(certificate: &CertificateDer<'_>) -> Result<Self, CertificateFault> {
        let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(certificate)
            .map_err(|_| CertificateFault::Encoding)?;
        let names = parsed
            .subject_alternative_name()
            .map_err(|_| CertificateFault::Encoding)?
            .map(|extension| extension.value.general_names.as_slice())
            .unwrap_or_default();
        let uris: Vec<&str> = names.iter().filter_map(uri).collect();
        let [uri] = uris.as_slice() else {
            return Err(CertificateFault::Names(uris.len()));
        };
        Ok(Self {
            subject: uri.parse()?,
            not_before: Timestamp::from_secs(parsed.validity().not_before.timestamp()),
            not_after: Timestamp::from_secs(parsed.validity().not_after.timestamp()),
            serial: common::text::hex(parsed.raw_serial()),
        })
    }
}

fn uri<'a>(name: &GeneralName<'a>) -> Option<&'a str> {
    if let GeneralName::URI(uri) = name {
        Some(uri)
    } else {
        None
    }
}

/// Whether the CA signed the leaf for the use that its subject has. Checked for the moment at which
/// the certificate began: whether it is still valid is for the two ends of a connection to say.
fn check_chain(
    facts: &Facts,
    chain: &[CertificateDer<'static>],
    roots: &Arc<RootCertStore>,
) -> Result<(), rustls::Error> {
    let Some((leaf, between)) = chain.split_first() else {
        return Err(rustls::Error::NoCertificatesPresented);
    };
    let begin = u64::try_from(facts.not_before.as_millis()).unwrap_or(0);
    let begin = UnixTime::since_unix_epoch(Duration::from_millis(begin));
    let unusable =
        |error: rustls::server::VerifierBuilderError| rustls::Error::General(error.to_string());
    match &facts.subject {
        Subject::Machine(_) | Subject::Operator(_) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider());
            let verifier = verifier.build().map_err(unusable)?;
            verifier.verify_client_cert(leaf, between, begin)?;
        }
        Subject::Coordinator => {
            let verifier = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider());
            let verifier = verifier.build().map_err(unusable)?;
            verifier.verify_server_cert(leaf, between, &server_name(), &[], begin)?;
        }
    }
    Ok(())
}

/// The PEM sections of `text` whose label ends with `label`, each with its line feed.
fn pem_sections(text: &str, label: &str) -> impl Iterator<Item = String> {
    let begin = format!("{label}-----");
    text.split_inclusive("-----END ")
        .zip(text.split("-----END ").skip(1))
        .filter_map(move |(head, tail)| {
            let body = head.rsplit_once("-----BEGIN ")?.1;
            let end = tail.split_once("-----")?.0;
            body.split_once('\n')?
                .0
                .trim_end()
                .ends_with(&begin)
                .then(|| format!("-----BEGIN {body}{end}-----\n").replace('\r', ""))
        })
}
