//! The rules, one by one, on small fleets with machines that do as they are told.
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "in a test, any other answer is the failure"
)]

mod alarms;
mod apart;
mod approvals;
mod bad_targets;
mod budget;
mod cleanups;
mod coordinators;
mod fleet;
mod gates;
mod gates_machines;
mod gates_resumed;
mod identities;
mod leases;
mod machines;
mod members;
mod model;
mod order;
mod outlooks;
mod outlooks_played;
mod quarantine;
mod reach;
mod reasons;
mod reconfigured;
mod retries;
mod retry;
mod returns;
mod schedule_times;
mod schedules;
mod schedules_meet;
mod schedules_refused;
mod sequence;
mod staging;
mod stop;
mod takes;
mod terms;
mod traffic;
mod traffic_hooks;
mod undo;
mod waves;
mod when;
mod why;
