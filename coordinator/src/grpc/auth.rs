//! Who asks, and whether they may: the only place where that is decided.
//!
//! A certificate says a name. What that name may do is in the registry, which is asked for every
//! request, so that a revocation or another role holds from the next request on. Which permission
//! a request needs is written in the `.proto` files; which role has it, in [`allows`].

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
    time::Duration,
};

use common::{MachineName, text::tame_line};
use coordinator_core::identity::{Actor, Holder, Registry, Role};
use http::{Request, Response};
use hyper::body::Incoming;
use lab_proto::PERMISSIONS;
use platform::{clock::Clock, identity::Subject};
use tonic::{Code, Status, body::Body, service::Routes};
use tower::ServiceExt as _;

use super::convert;
use crate::{
    connections::{Answers, Peer},
    driver::Handle,
    limits::Limits,
};

/// How long a request may take, its body included. Held polls and streams are meant to last.
const DEADLINE: Duration = Duration::from_secs(30);

/// Longest a held poll may last, in real time: its hold and some more.
const POLL_DEADLINE: Duration = Duration::from_secs(600);

const POLL: &str = "/lab.agent.v1.Agent/Poll";

const EMERGENCY_STOP: &str = "/lab.operator.v1.Operator/EmergencyStop";

/// The permission that an emergency stop takes.
const STOP: &str = "rollout.stop";

/// Longest part of a path that is not ours in the log, in bytes.
const PATH_SHOWN: usize = 100;

/// Who asks, as far as the gate has found out. Services take it from the request's extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A machine, with the serial number of its certificate.
    Machine {
        /// Its name.
        name: MachineName,
        /// Serial number of its certificate.
        serial: String,
    },
    /// An operator.
    Operator(Actor),
    /// Somebody without a certificate.
    Stranger,
}

/// Whether this role has this permission. `None`: the permission is not known here.
pub fn allows(role: Role, permission: &str) -> Option<bool> {
    use Role::{Admin, Approver, Operator, Viewer};
    let roles: &[Role] = match permission {
        "fleet.read" | "rollout.plan" | "self.renew" => &[Viewer, Operator, Approver, Admin],
        // Stopping is the safe direction: nobody who may act is kept from it.
        "rollout.stop" | "machine.check" | "notify.send" | "identity.read" => {
            &[Operator, Approver, Admin]
        }
        "rollout.prepare" | "rollout.start" | "machine.release" | "machine.quarantine"
        | "traffic.move" => &[Operator, Admin],
        // Whoever starts rollouts does not approve them, nor lift a stop alone.
        "rollout.approve" | "stop.lift" => &[Approver, Admin],
        // Past windows in the middle of the day: not for everybody who may begin an update.
        "config.write" | "identity.write" | "audit.read" | "rollout.emergency" => &[Admin],
        // Not for operators at all.
        "agent.self" | "enrol" => &[],
        _ => return None,
    };
    Some(roles.contains(&role))
}

/// Whether this caller has this permission.
pub fn may(caller: &Caller, permission: &str) -> bool {
    match caller {
        Caller::Machine { .. } => permission == "agent.self",
        Caller::Operator(actor) => allows(actor.role, permission).unwrap_or(false),
        Caller::Stranger => permission == "enrol",
    }
}

/// Who holds this certificate, by the registry. The certificate's name must be the registry's.
pub fn identify(
    registry: &Registry,
    subject: &Subject,
    serial: &str,
    now: common::Timestamp,
) -> Result<Caller, Status> {
    let holder = registry.holder(serial, now);
    match (subject, holder) {
        (Subject::Machine(said), Some(Holder::Machine(name))) if said == name => {
            Ok(Caller::Machine {
                name: name.clone(),
                serial: serial.to_owned(),
            })
        }
        (Subject::Operator(said), Some(Holder::Operator { name, role })) if said == name => {
            Ok(Caller::Operator(Actor {
                name: name.clone(),
                role: *role,
                serial: serial.to_owned(),
            }))
        }
        _ => Err(Status::unauthenticated(
            "this certificate is revoked, expired, or not one of this coordinator's: \
             a new one takes a token (lab token create)",
        )),
    }
}

/// The permission of every method.
static PERMISSION_OF: LazyLock<HashMap<&str, &str>> =
    LazyLock::new(|| PERMISSIONS.iter().copied().collect());

/// Lets a request through to the services, or answers it.
#[derive(Clone)]
pub struct Gate {
    routes: Routes,
    handle: Handle,
    clock: Clock,
    limits: Arc<Limits>,
}

impl Gate {
    /// In front of these services.
    pub fn new(routes: Routes, handle: Handle, clock: Clock, limits: Arc<Limits>) -> Self {
        Self {
            routes: routes.prepare(),
            handle,
            clock,
            limits,
        }
    }

    /// Refuses who asks too often, with when to come back.
    fn slow_down(&self, caller: &Caller, peer: &Peer, path: &str) -> Result<(), Status> {
        // Nobody who may is kept from stopping everything, whatever else runs in the same name.
        if path == EMERGENCY_STOP && may(caller, STOP) {
            return Ok(());
        }
        self.limits.take(caller, peer.address).map_err(|wait| {
            tracing::debug!(address = %peer.address, method = path, "refused: too many requests");
            convert::too_many(wait)
        })
    }

    /// Who asks, if they may.
    fn judge(&self, peer: &Peer, path: &str) -> Result<Caller, Status> {
        let caller = self.admit(peer, path).inspect_err(|refused| {
            self.count_refusal(peer, path, refused);
            if refused.code() == Code::Unauthenticated {
                // It never gets better.
                peer.hang_up();
            }
        })?;
        self.slow_down(&caller, peer, path)?;
        Ok(caller)
    }

    /// A refusal costs the log a line and everybody a look at the registry: an address that has had
    /// many lately gets no more lines, and has to connect anew for each.
    fn count_refusal(&self, peer: &Peer, path: &str, refused: &Status) {
        if !self.limits.refuse(peer.address) {
            peer.hang_up();
            return;
        }
        let who = match &peer.identity {
            Some((subject, serial)) => format!("{subject}, certificate {serial}"),
            None => "somebody without a certificate".to_owned(),
        };
        tracing::warn!(
            address = %peer.address,
            method = tame_line(path, PATH_SHOWN),
            "refused: {who}: {}",
            refused.message()
        );
    }

    fn admit(&self, peer: &Peer, path: &str) -> Result<Caller, Status> {
        let caller = match &peer.identity {
            None => Caller::Stranger,
            Some((subject, serial)) => {
                identify(&self.handle.registry(), subject, serial, self.clock.now())?
            }
        };
        let Some(permission) = PERMISSION_OF.get(path) else {
            return Err(Status::unimplemented(
                "this coordinator does not know that request",
            ));
        };
        if may(&caller, permission) {
            return Ok(caller);
        }
        let text = match &caller {
            Caller::Operator(actor) => format!(
                "{} has the role {}, which does not include {permission}",
                actor.name,
                actor.role.word()
            ),
            Caller::Machine { .. } => format!("a machine does not have {permission}"),
            Caller::Stranger => "this takes a certificate; only enrolment does not".to_owned(),
        };
        Err(Status::permission_denied(text))
    }

    async fn pass(
        &self,
        peer: &Peer,
        mut request: Request<Incoming>,
    ) -> Result<Response<Body>, Status> {
        let caller = self.judge(peer, request.uri().path())?;
        let deadline = if request.uri().path() == POLL {
            POLL_DEADLINE
        } else {
            DEADLINE
        };
        request.extensions_mut().insert(caller);
        request.extensions_mut().insert(peer.address);
        let answered = tokio::time::timeout(deadline, self.routes.clone().oneshot(request)).await;
        match answered {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(never)) => match never {},
            Err(_) => Err(Status::deadline_exceeded("the request took too long")),
        }
    }
}

impl Answers for Gate {
    async fn answer(&self, peer: Arc<Peer>, request: Request<Incoming>) -> Response<Body> {
        match self.pass(&peer, request).await {
            Ok(response) => response,
            Err(status) => status.into_http(),
        }
    }
}

/// The machine that asks.
pub(super) fn machine<T>(request: &tonic::Request<T>) -> Result<(MachineName, String), Status> {
    match request.extensions().get() {
        Some(Caller::Machine { name, serial }) => Ok((name.clone(), serial.clone())),
        Some(Caller::Operator(_) | Caller::Stranger) | None => Err(not_gated()),
    }
}

/// The operator who asks.
pub(super) fn operator<T>(request: &tonic::Request<T>) -> Result<Actor, Status> {
    match request.extensions().get() {
        Some(Caller::Operator(actor)) => Ok(actor.clone()),
        Some(Caller::Machine { .. } | Caller::Stranger) | None => Err(not_gated()),
    }
}

/// A request that came past the gate: a mistake in the wiring, refused.
fn not_gated() -> Status {
    Status::internal("the caller is not known")
}
