//! How a machine or an operator gets its first certificate, and a machine whose certificate has ended
//! another one.
//!
//! Served on a listener of its own, without client certificates. A token is 160 random bits, so
//! guessing is hopeless; the limit on wrong tokens keeps guessers from costing anything.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use common::{error_chain::Chain, token::EnrolmentToken};
use lab_proto::enrolment::{
    AskToReturnReply, AskToReturnRequest, EnrolReply, EnrolRequest, enrolment_server::Enrolment,
};
use tonic::{Code, Request, Response, Status};

use super::convert;
use crate::issue::{Issuance, IssueError};

/// Wrong tokens from one address within [`SPAN`] before it is refused without a look.
const WRONG_MAX: u32 = 10;

/// How long wrong tokens count.
const SPAN: Duration = Duration::from_secs(60);

/// Addresses remembered; when there are more, everybody begins anew.
const ADDRESSES_MAX: usize = 10_000;

/// Trades tokens for certificates.
pub struct EnrolmentService {
    issuance: Issuance,
    service_port: u16,
    wrong: Mutex<HashMap<IpAddr, Wrong>>,
}

/// Wrong tokens of one address.
#[derive(Clone, Copy)]
struct Wrong {
    since: Instant,
    count: u32,
}

impl EnrolmentService {
    /// Signs with this CA; tells the port of the service for agents and operators.
    pub fn new(issuance: Issuance, service_port: u16) -> Self {
        Self {
            issuance,
            service_port,
            wrong: Mutex::default(),
        }
    }

    fn is_barred(&self, address: IpAddr) -> bool {
        let wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        let of_it = wrong.get(&address);
        of_it.is_some_and(|wrong| wrong.count >= WRONG_MAX && wrong.since.elapsed() < SPAN)
    }

    fn count_wrong(&self, address: IpAddr) {
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        if wrong.len() >= ADDRESSES_MAX {
            wrong.clear();
        }
        let fresh = Wrong {
            since: Instant::now(),
            count: 0,
        };
        let of_it = wrong.entry(address).or_insert(fresh);
        if of_it.since.elapsed() >= SPAN {
            *of_it = fresh;
        }
        of_it.count += 1;
    }

    /// Where it comes from, unless that had too many refusals lately.
    fn admit<T>(&self, request: &Request<T>) -> Result<IpAddr, Status> {
        let address: IpAddr = *request
            .extensions()
            .get()
            .ok_or_else(|| Status::internal("the caller's address is not known"))?;
        if self.is_barred(address) {
            return Err(Status::resource_exhausted(
                "too many wrong tokens from this address; try again in a minute",
            ));
        }
        Ok(address)
    }

    /// Counts and tells a refusal that a guesser would get.
    fn refused(&self, address: IpAddr, status: &Status, why: &str) {
        if matches!(
            status.code(),
            Code::PermissionDenied | Code::InvalidArgument
        ) {
            tracing::warn!(%address, "enrolment refused: {why}");
            self.count_wrong(address);
        }
    }
}

#[tonic::async_trait]
impl Enrolment for EnrolmentService {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<EnrolReply>, Status> {
        let address = self.admit(&request)?;
        let message = request.into_inner();
        let issued = match EnrolmentToken::parse(&message.token) {
            Ok(token) => {
                let asked = self
                    .issuance
                    .enrol(&token, &message.certificate_request_pem, address);
                asked.await.map_err(convert::not_issued)
            }
            Err(error) => Err(Status::invalid_argument(error.to_string())),
        };
        let issued =
            issued.inspect_err(|status| self.refused(address, status, status.message()))?;
        tracing::info!(%address, name = issued.holder.name(), "enrolled");
        Ok(Response::new(EnrolReply {
            certificate_chain_pem: issued.chain_pem,
            ca_pem: self.issuance.ca().pem().to_owned(),
            name: issued.holder.name().to_owned(),
            service_port: u32::from(self.service_port),
        }))
    }

    async fn ask_to_return(
        &self,
        request: Request<AskToReturnRequest>,
    ) -> Result<Response<AskToReturnReply>, Status> {
        let address = self.admit(&request)?;
        let AskToReturnRequest {
            certificate_pem,
            certificate_request_pem,
        } = request.into_inner();
        let asked =
            self.issuance
                .ask_to_return(&certificate_pem, &certificate_request_pem, address);
        let issued = asked.await.map_err(|error: IssueError| {
            let why = Chain(&error).to_string();
            let status = convert::not_issued(error);
            self.refused(address, &status, &why);
            status
        })?;
        if let Some(issued) = &issued {
            tracing::info!(%address, name = issued.holder.name(), "returned");
        }
        Ok(Response::new(AskToReturnReply {
            pending: issued.is_none(),
            certificate_chain_pem: issued.map_or_else(String::new, |issued| issued.chain_pem),
        }))
    }
}
