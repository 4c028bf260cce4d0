//! The coordinator: one driver around the pure core, a durable store, and gRPC for agents,
//! operators and those who enrol.
//!
//! A request crosses four rooms and comes back the way it went in: `connections` (TLS says who it
//! is), `grpc` (may they; convert), `driver` (one order, one durable batch), the core. Nothing but
//! the driver can change the fleet or write to the store.

pub mod analysis;
pub mod audit;
pub mod ca;
pub mod config;
pub mod connections;
pub mod doors;
pub mod driver;
pub mod fleet_file;
pub mod grpc;
pub mod issue;
pub mod limits;
pub mod notify;
pub mod offline;
pub mod run;
mod schedules;
pub mod server;
pub mod store;
pub mod systemd;
pub mod tls;
pub mod traffic;

pub use config::Config;
pub use server::{Server, ServerError};
