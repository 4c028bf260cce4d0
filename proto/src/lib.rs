//! The wire contract: generated messages, clients and servers, and the permission every RPC needs.
//!
//! Nothing else lives here but [`codec`], how they are encoded: conversions to the words of the
//! cores are the business of each daemon's own `convert` module. The `.proto` files carry the
//! documentation of the messages.
#![allow(
    missing_docs,
    clippy::all,
    clippy::restriction,
    clippy::pedantic,
    reason = "generated code"
)]

pub mod codec;

/// What agents say and hear: `lab.agent.v1`.
pub mod agent {
    tonic::include_proto!("lab.agent.v1");
}

/// How a machine or an operator gets its certificate: `lab.enrolment.v1`.
pub mod enrolment {
    tonic::include_proto!("lab.enrolment.v1");
}

/// What `lab` says and hears: `lab.operator.v1`.
pub mod operator {
    tonic::include_proto!("lab.operator.v1");
}

/// `(method path, permission)` of every RPC, from the `permission` option in the `.proto` files.
pub const PERMISSIONS: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/permissions.rs"));

/// Whether an optional field is absent, so that JSON leaves it out.
fn unset<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
