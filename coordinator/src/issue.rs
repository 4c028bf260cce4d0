//! Certificates, from the request to the signature: the fact is durable before the CA signs.

use std::{net::IpAddr, path::Path, sync::Arc, time::Duration};

use common::{Timestamp, token::EnrolmentToken};
use coordinator_core::{
    Reply, Request,
    identity::{Holder, Role},
    request::{AskToReturn, Refusal},
};
use platform::{
    clock::Clock,
    identity::{Identity, IdentityError, KeyAndRequest, ShownCertificate, Subject},
};
use sha2::{Digest as _, Sha256};

use crate::{
    ca::{Ca, CaError, Serial, SigningRequest},
    driver::{Handle, Stopped},
};

/// Name of the first administrator.
const FIRST_ADMIN: &str = "admin";

/// Hands out certificates.
#[derive(Clone)]
pub struct Issuance {
    ca: Arc<Ca>,
    handle: Handle,
    clock: Clock,
}

/// A certificate, just issued.
#[derive(Clone, Debug)]
pub struct Issued {
    /// Whose.
    pub holder: Holder,
    /// Leaf first, CA last; PEM.
    pub chain_pem: String,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The core says no.
    #[error(transparent)]
    Refused(Refusal),
    /// The request cannot be used, or signing failed.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// What was shown is no certificate of this fleet's CA.
    #[error("what is shown is no certificate of this fleet")]
    NotOurs(#[source] IdentityError),
    /// The certificate that was shown is no machine's, or the request is not signed by its key.
    #[error("the certificate of {subject} with the serial {serial} {why}")]
    NoWayBack {
        /// Whom it names.
        subject: Subject,
        /// Its serial number.
        serial: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The process is about to end.
    #[error(transparent)]
    Stopped(#[from] Stopped),
    /// The core answered something else; a bug.
    #[error("the fleet answered a certificate request with something else")]
    Unexpected,
}

impl Issuance {
    /// Signs with this CA what the driver behind the handle allows.
    pub fn new(ca: Arc<Ca>, handle: Handle, clock: Clock) -> Self {
        Self { ca, handle, clock }
    }

    /// The CA.
    pub fn ca(&self) -> &Ca {
        &self.ca
    }

    /// Trades a token, shown from this address, for a certificate.
    pub async fn enrol(
        &self,
        token: &EnrolmentToken,
        request_pem: &str,
        from: IpAddr,
    ) -> Result<Issued, IssueError> {
        // Before the token is spent: a request that cannot be signed costs nobody a token.
        let request = SigningRequest::parse(request_pem)?;
        let secret_hash = token.secret_hash();
        let life = self.life_for(&secret_hash);
        let serial = Serial::random()?;
        let asked = Request::Enrol {
            secret_hash,
            from: from.to_string(),
            serial: serial.hex(),
            expires_at: self.end_of(life),
        };
        self.certify(asked, &request, &serial).await
    }

    /// How long the certificate for this token will live.
    fn life_for(&self, secret_hash: &str) -> Duration {
        let registry = self.handle.registry();
        let found = registry.open_token(secret_hash, self.clock.now());
        // Nobody's token: the core will refuse it, in its own words.
        found.map_or(Duration::ZERO, |(_, token)| {
            self.ca.lives().of(&token.holder)
        })
    }

    /// Gives the holder of the certificate with this serial number a fresh one.
    pub async fn renew(
        &self,
        old: &str,
        holder: &Holder,
        request_pem: &str,
    ) -> Result<Issued, IssueError> {
        let request = SigningRequest::parse(request_pem)?;
        let serial = Serial::random()?;
        let asked = Request::RenewCertificate {
            serial: old.to_owned(),
            new_serial: serial.hex(),
            expires_at: self.end_of(self.ca.lives().of(holder)),
        };
        self.certify(asked, &request, &serial).await
    }

    /// Another certificate for the key of a machine whose certificate has ended, shown from this
    /// address; `None` while nobody has approved that. The request must be signed by that key, so
    /// what comes of it is of no use to anybody who does not have it.
    pub async fn ask_to_return(
        &self,
        certificate_pem: &str,
        request_pem: &str,
        from: IpAddr,
    ) -> Result<Option<Issued>, IssueError> {
        let request = SigningRequest::parse(request_pem)?;
        let shown = ShownCertificate::read(certificate_pem, self.ca.pem());
        let ShownCertificate {
            subject,
            serial,
            public_key,
        } = shown.map_err(IssueError::NotOurs)?;
        let no = |why| IssueError::NoWayBack {
            subject: subject.clone(),
            serial: serial.clone(),
            why,
        };
        let Subject::Machine(machine) = &subject else {
            return Err(no("is no machine's"));
        };
        if public_key != request.public_key() {
            return Err(no("is not of the key that signed the request"));
        }
        let fresh = Serial::random()?;
        let asked = AskToReturn {
            machine: machine.clone(),
            serial,
            key: common::text::hex(&Sha256::digest(&public_key)),
            from: from.to_string(),
            new_serial: fresh.hex(),
            expires_at: self.end_of(self.ca.lives().machine),
        };
        let reply = self.handle.ask(Request::AskToReturn(asked)).await?.reply;
        if reply == Reply::ReturnPending {
            return Ok(None);
        }
        let Reply::Returns {
            holder,
            serial,
            expires_at,
        } = reply
        else {
            let refused = reply.refusal().cloned();
            return Err(refused.map_or(IssueError::Unexpected, IssueError::Refused));
        };
        let serial = Serial::parse(&serial).ok_or(IssueError::Unexpected)?;
        // An answer that may have been lost is given again: as long as it was, and no longer.
        let life = self.clock.real(expires_at.since(self.clock.now()));
        let chain_pem = self.ca.sign_for(&request, &holder, &serial, life)?;
        Ok(Some(Issued { holder, chain_pem }))
    }

    /// Makes the identity file of the first administrator, unless an administrator exists who can
    /// still get in. So this is also the way back when every administrator's certificate ended.
    pub async fn bootstrap(&self, file: &Path) -> Result<bool, IssueError> {
        // Says that an identity was promised and maybe never written; removed once it is.
        let marker = file.with_extension("pending");
        if self.has_admin() && !marker.exists() {
            return Ok(false);
        }
        let noted = std::fs::write(&marker, "");
        noted.map_err(|source| CaError::File {
            what: "write",
            path: marker.clone(),
            source,
        })?;
        let own = KeyAndRequest::generate().map_err(CaError::Identity)?;
        let request = SigningRequest::parse(&own.request_pem)?;
        let serial = Serial::random()?;
        // The constant is a name.
        let name = FIRST_ADMIN.parse().map_err(|_| IssueError::Unexpected)?;
        let holder = Holder::Operator {
            name,
            role: Role::Admin,
        };
        let asked = Request::Bootstrap {
            expires_at: self.end_of(self.ca.lives().of(&holder)),
            serial: serial.hex(),
            holder,
        };
        let issued = self.certify(asked, &request, &serial).await?;
        let identity = Identity::from_parts(&own.key_pem, &issued.chain_pem);
        let identity = identity.map_err(CaError::Identity)?;
        identity.save(file).map_err(CaError::Identity)?;
        std::fs::remove_file(&marker).map_err(|source| CaError::File {
            what: "remove",
            path: marker,
            source,
        })?;
        Ok(true)
    }

    fn has_admin(&self) -> bool {
        let now = self.clock.now();
        self.handle
            .registry()
            .certificates
            .values()
            .any(|certificate| {
                let admin = matches!(
                    certificate.holder,
                    Holder::Operator {
                        role: Role::Admin,
                        ..
                    }
                );
                admin && !certificate.revoked && now < certificate.expires_at
            })
    }

    async fn certify(
        &self,
        asked: Request,
        request: &SigningRequest,
        serial: &Serial,
    ) -> Result<Issued, IssueError> {
        let reply = self.handle.ask(asked).await?.reply;
        let Reply::Certify(holder) = reply else {
            let refused = reply.refusal().cloned();
            return Err(refused.map_or(IssueError::Unexpected, IssueError::Refused));
        };
        let chain_pem = self.ca.sign(request, &holder, serial)?;
        Ok(Issued { holder, chain_pem })
    }

    /// The end of a life that begins now, in fleet time. Lives are of real time, as the
    /// certificates are; only a clock that runs fast tells the two apart.
    fn end_of(&self, life: Duration) -> Timestamp {
        const SECOND: Duration = Duration::from_secs(1);
        let speed = SECOND.as_secs_f64() / self.clock.real(SECOND).as_secs_f64();
        self.clock.now() + life.mul_f64(speed)
    }
}
