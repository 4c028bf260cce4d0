//! The doors: what agents, operators and those who enrol can ask over gRPC.
//!
//! Every request passes [`auth::Gate`] before any service sees it: who is it, and may they. The
//! services convert, ask the driver, and convert back.

pub mod agent;
pub mod auth;
mod convert;
pub mod enrolment;
pub mod operator;

/// How the fleet's views are shown: as the messages that `lab` prints.
pub use convert::{
    in_force::in_force as shown_in_force, plan as shown_plan, schedules as shown_schedules,
    status as shown, traffic as shown_traffic,
};

use lab_proto::{
    agent::agent_server::AgentServer, enrolment::enrolment_server::EnrolmentServer,
    operator::operator_server::OperatorServer,
};
use tonic::service::Routes;

/// Largest message of an agent, in bytes.
const AGENT_MESSAGE: usize = 64 * 1024;

/// Largest message of an operator: a configuration, or the targets of ten thousand machines.
const OPERATOR_MESSAGE: usize = 2 * 1024 * 1024;

/// Largest message of somebody without a certificate.
const ENROL_MESSAGE: usize = 8 * 1024;

/// What is served to agents and operators.
pub fn member_routes(agent: agent::AgentService, operator: operator::OperatorService) -> Routes {
    Routes::new(AgentServer::new(agent).max_decoding_message_size(AGENT_MESSAGE))
        .add_service(OperatorServer::new(operator).max_decoding_message_size(OPERATOR_MESSAGE))
}

/// What is served to those who have no certificate yet.
pub fn stranger_routes(enrolment: enrolment::EnrolmentService) -> Routes {
    Routes::new(EnrolmentServer::new(enrolment).max_decoding_message_size(ENROL_MESSAGE))
}
