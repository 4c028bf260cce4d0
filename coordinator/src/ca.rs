//! The fleet's own certificate authority, made at the first start.
//!
//! A certificate request proves possession of a key and nothing else: every name in it is ignored,
//! the server decides. Certificates live in real time, whatever clock the fleet has, because every
//! TLS library checks them against the host's clock.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use common::token::EnrolmentToken;
use coordinator_core::identity::Holder;
use platform::identity::{Identity, IdentityError, SERVER_NAME, Subject, provider};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _,
    SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

/// Life of the CA.
const CA_LIFE: Duration = days(10 * 365);

/// How long certificates live, in real time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lives {
    /// Those of machines.
    pub machine: Duration,
    /// Those of operators.
    pub operator: Duration,
    /// The coordinator's own; renewed by itself.
    pub coordinator: Duration,
}

impl Default for Lives {
    fn default() -> Self {
        Self {
            // Long enough for a machine that is off over a holiday weekend.
            machine: days(7),
            operator: days(30),
            coordinator: days(30),
        }
    }
}

impl Lives {
    /// How long this holder's certificates live.
    pub fn of(&self, holder: &Holder) -> Duration {
        match holder {
            Holder::Machine(_) => self.machine,
            Holder::Operator { .. } => self.operator,
        }
    }
}

/// How far before now a certificate begins, for clocks that are a little slow.
const BACKDATED: Duration = Duration::from_secs(300);

const fn days(count: u64) -> Duration {
    Duration::from_secs(count * 24 * 3600)
}

/// Why a certificate cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file cannot be read or written.
    #[error("failed to {what} {path}", path = path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it did not work.
        #[source]
        source: io::Error,
    },
    /// Key and certificate of the CA are not there together.
    #[error(
        "{there} is there and {missing} is not: put both back from a backup, \
         or remove both to begin a new fleet",
        there = there.display(),
        missing = missing.display()
    )]
    Half {
        /// The file that is there.
        there: PathBuf,
        /// The one that is not.
        missing: PathBuf,
    },
    /// The CA's own files cannot be used.
    #[error("the CA in {path} cannot be used", path = path.display())]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: rcgen::Error,
    },
    /// The certificate request is not one, or its signature does not fit.
    #[error("this is not a certificate request that its own key has signed")]
    Request(#[source] rcgen::Error),
    /// The certificate could not be made.
    #[error("failed to sign a certificate")]
    Sign(#[source] rcgen::Error),
    /// What was made does not hold together.
    #[error("failed to put an identity together")]
    Identity(#[from] IdentityError),
    /// The system gave no random numbers.
    #[error("the system gives no random numbers")]
    Random,
}

/// The certificate authority. No `Debug`: it holds the key.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    pin: [u8; 32],
    lives: Lives,
}

impl Ca {
    /// The CA in this directory: `ca.key` and `ca.pem`, made when neither is there.
    pub fn open(directory: &Path) -> Result<Self, CaError> {
        let (key_file, certificate_file) = (directory.join("ca.key"), directory.join("ca.pem"));
        match (key_file.exists(), certificate_file.exists()) {
            (true, true) => {}
            (false, false) => create(&key_file, &certificate_file)?,
            (true, false) => {
                return Err(CaError::Half {
                    there: key_file,
                    missing: certificate_file,
                });
            }
            (false, true) => {
                return Err(CaError::Half {
                    there: certificate_file,
                    missing: key_file,
                });
            }
        }
        let unusable = |source| CaError::Unusable {
            path: directory.to_owned(),
            source,
        };
        let read = |path: &Path| fs::read_to_string(path).map_err(file("read", path));
        let key = KeyPair::from_pem(&read(&key_file)?).map_err(unusable)?;
        let pem = read(&certificate_file)?;
        let damaged = || unusable(rcgen::Error::CouldNotParseCertificate);
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| damaged())?;
        let pin = platform::enrol::key_hash(&der).ok_or_else(damaged)?;
        let issuer = Issuer::from_ca_cert_pem(&pem, key).map_err(unusable)?;
        let lives = Lives::default();
        Ok(Self {
            issuer,
            pem,
            pin,
            lives,
        })
    }

    /// The same, whose certificates live so long.
    #[must_use]
    pub fn with_lives(self, lives: Lives) -> Self {
        Self { lives, ..self }
    }

    /// How long its certificates live.
    pub fn lives(&self) -> Lives {
        self.lives
    }

    /// The CA's certificate, PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A new enrolment token for this fleet.
    pub fn token(&self) -> Result<EnrolmentToken, CaError> {
        Ok(EnrolmentToken {
            secret: random()?,
            ca_pin: self.pin,
        })
    }

    /// Signs a request for this holder: the chain, leaf first, CA last.
    pub fn sign(
        &self,
        request: &SigningRequest,
        holder: &Holder,
        serial: &Serial,
    ) -> Result<String, CaError> {
        self.sign_for(request, holder, serial, self.lives.of(holder))
    }

    /// As [`Ca::sign`], for so long.
    pub fn sign_for(
        &self,
        request: &SigningRequest,
        holder: &Holder,
        serial: &Serial,
        life: Duration,
    ) -> Result<String, CaError> {
        let subject = match holder {
            Holder::Machine(name) => Subject::Machine(name.clone()),
            Holder::Operator { name, .. } => Subject::Operator(name.clone()),
        };
        let params = leaf(&subject, serial, life)?;
        let request = CertificateSigningRequestParams {
            params,
            public_key: request.0.public_key.clone(),
        };
        let leaf = request.signed_by(&self.issuer).map_err(CaError::Sign)?;
        Ok(format!("{}{}", leaf.pem(), self.pem))
    }

    /// A key and a certificate for the coordinator itself.
    pub fn coordinator(&self) -> Result<Identity, CaError> {
        let key = new_key()?;
        let params = leaf(
            &Subject::Coordinator,
            &Serial::random()?,
            self.lives.coordinator,
        )?;
        let leaf = params
            .signed_by(&key, &self.issuer)
            .map_err(CaError::Sign)?;
        let chain = format!("{}{}", leaf.pem(), self.pem);
        Ok(Identity::from_parts(&key.serialize_pem(), &chain)?)
    }
}

/// A certificate request whose own signature was checked.
pub struct SigningRequest(CertificateSigningRequestParams);

impl SigningRequest {
    /// Reads PKCS #10, PEM.
    pub fn parse(pem: &str) -> Result<Self, CaError> {
        CertificateSigningRequestParams::from_pem(pem)
            .map(Self)
            .map_err(CaError::Request)
    }

    /// The public key that signed it: the subject public key info, DER.
    pub fn public_key(&self) -> Vec<u8> {
        self.0.public_key.subject_public_key_info()
    }
}

/// The serial number of a certificate: 126 random bits, positive and of constant length.
#[derive(Clone, Copy)]
pub struct Serial([u8; 16]);

impl Serial {
    /// A new one.
    pub fn random() -> Result<Self, CaError> {
        let mut bytes: [u8; 16] = random()?;
        bytes[0] = (bytes[0] & 0x3f) | 0x40;
        Ok(Self(bytes))
    }

    /// One that was chosen, by a test or a simulation.
    pub fn chosen(number: u64) -> Self {
        let mut bytes = [0; 16];
        bytes[0] = 0x40;
        bytes[8..].copy_from_slice(&number.to_be_bytes());
        Self(bytes)
    }

    /// One that the registry knows, from its hexadecimal digits.
    pub fn parse(hex: &str) -> Option<Self> {
        let mut bytes = [0; 16];
        if hex.len() != 2 * bytes.len() || !hex.is_ascii() {
            return None;
        }
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// Hexadecimal, as the registry knows it.
    pub fn hex(&self) -> String {
        common::text::hex(&self.0)
    }
}

/// Random bytes from the operating system.
fn random<const N: usize>() -> Result<[u8; N], CaError> {
    let mut bytes = [0; N];
    let filled = provider().secure_random.fill(&mut bytes);
    filled.map(|()| bytes).map_err(|_| CaError::Random)
}

fn new_key() -> Result<KeyPair, CaError> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(CaError::Sign)
}

/// What a leaf says: whose it is, and what it may be used for.
fn leaf(subject: &Subject, serial: &Serial, life: Duration) -> Result<CertificateParams, CaError> {
    let ia5 = |text: &str| text.try_into().map_err(CaError::Sign);
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(ia5(&subject.to_string())?)];
    params.extended_key_usages = match subject {
        Subject::Machine(_) | Subject::Operator(_) => vec![ExtendedKeyUsagePurpose::ClientAuth],
        Subject::Coordinator => {
            params
                .subject_alt_names
                .push(SanType::DnsName(ia5(SERVER_NAME)?));
            vec![ExtendedKeyUsagePurpose::ServerAuth]
        }
    };
    params.distinguished_name = DistinguishedName::new();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.serial_number = Some(SerialNumber::from_slice(&serial.0));
    params.use_authority_key_identifier_extension = true;
    valid(&mut params, life);
    Ok(params)
}

fn valid(params: &mut CertificateParams, life: Duration) {
    let now = SystemTime::now();
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + life).into();
}

fn create(key_file: &Path, certificate_file: &Path) -> Result<(), CaError> {
    let key = new_key()?;
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "lab-updater fleet CA");
    params.serial_number = Some(SerialNumber::from_slice(&Serial::random()?.0));
    valid(&mut params, CA_LIFE);
    let certificate = params.self_signed(&key).map_err(CaError::Sign)?;
    // The certificate last: a crash in between leaves a key alone, which is told apart from a CA.
    write_new(key_file, &key.serialize_pem(), 0o600)?;
    write_new(certificate_file, &certificate.pem(), 0o644)
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), CaError> {
    let mut options = fs::OpenOptions::new();
    let written = options
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
    written.map_err(file("write", path))?;
    let directory = path.parent().unwrap_or(Path::new("."));
    let synced = fs::File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(file("sync", directory))
}

fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CaError {
    let path = path.to_owned();
    move |source| CaError::File { what, path, source }
}
