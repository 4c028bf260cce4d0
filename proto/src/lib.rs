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

/// The packages as they lie in the `.proto` files: their code finds one another by these places.
mod lab {
    pub mod agent {
        pub mod v1 {
            tonic::include_proto!("lab.agent.v1");
        }
    }
    pub mod changes {
        pub mod v1 {
            tonic::include_proto!("lab.changes.v1");
        }
    }
    pub mod enrolment {
        pub mod v1 {
            tonic::include_proto!("lab.enrolment.v1");
        }
    }
    pub mod operator {
        pub mod v1 {
            tonic::include_proto!("lab.operator.v1");
        }
    }
}

/// What agents say and hear: `lab.agent.v1`.
pub use lab::agent::v1 as agent;
/// What going to another system changes: `lab.changes.v1`.
pub use lab::changes::v1 as changes;
/// How a machine or an operator gets its certificate: `lab.enrolment.v1`.
pub use lab::enrolment::v1 as enrolment;
/// What `lab` says and hears: `lab.operator.v1`.
pub use lab::operator::v1 as operator;

/// `(method path, permission)` of every RPC, from the `permission` option in the `.proto` files.
pub const PERMISSIONS: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/permissions.rs"));

/// Whether an optional field is absent, so that JSON leaves it out.
fn unset<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
