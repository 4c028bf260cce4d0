//! The two doors of a coordinator, whatever brings the streams: one for members, who show a
//! certificate, and one for those who have none yet.

use std::sync::Arc;

use platform::clock::Clock;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::{
    connections::{Caps, Connections, Lasting, Listener},
    driver::Handle,
    grpc::{
        self, agent::AgentService, auth::Gate, enrolment::EnrolmentService,
        operator::OperatorService,
    },
    issue::Issuance,
    limits::{Limits, Rates},
    store::Archive,
    tls::{self, OwnCertificate, TlsError},
};

/// What stands behind the doors.
pub struct Rooms {
    /// The way to the driver.
    pub handle: Handle,
    /// The past.
    pub archive: Arc<dyn Archive>,
    /// Who gets certificates.
    pub issuance: Issuance,
    /// What the coordinator shows of itself.
    pub certificate: Arc<OwnCertificate>,
    /// The fleet's time.
    pub clock: Clock,
    /// How often one identity may ask.
    pub rates: Rates,
    /// How many agents and operators may be connected.
    pub caps: Caps,
    /// Port of the members' door, which those who enrol are told.
    pub service_port: u16,
    /// Becomes true when the coordinator stops.
    pub stopping: watch::Receiver<bool>,
}

/// The doors, to be served over streams.
pub struct Doors {
    /// For agents and operators.
    pub members: Listener<Gate>,
    /// For those who enrol.
    pub strangers: Listener<Gate>,
}

/// Puts the doors together.
pub fn open(rooms: Rooms) -> Result<Doors, TlsError> {
    let Rooms {
        handle,
        archive,
        issuance,
        certificate,
        clock,
        rates,
        caps,
        service_port,
        stopping,
    } = rooms;
    let limits = Arc::new(Limits::new(rates));
    let acceptor = |config| TlsAcceptor::from(Arc::new(config));
    let members = tls::for_members(certificate.clone(), issuance.ca().pem())?;
    let strangers = tls::for_strangers(certificate)?;
    let routes = grpc::member_routes(
        AgentService::new(handle.clone(), issuance.clone(), clock.clone()),
        OperatorService::new(handle.clone(), archive, issuance.clone(), clock.clone()),
    );
    let members = Listener {
        tls: acceptor(members),
        answers: Gate::new(routes, handle.clone(), clock.clone(), limits.clone()),
        connections: Connections::new(caps),
        lasting: Lasting::USUAL,
        stopping: stopping.clone(),
    };
    let routes = grpc::stranger_routes(EnrolmentService::new(issuance, service_port));
    let strangers = Listener {
        tls: acceptor(strangers),
        answers: Gate::new(routes, handle, clock, limits),
        connections: Connections::new(Caps::STRANGERS),
        lasting: Lasting::USUAL,
        stopping,
    };
    Ok(Doors { members, strangers })
}
