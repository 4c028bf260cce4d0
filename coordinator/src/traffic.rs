//! Moves the traffic of groups with two sides, by the adapters that the configuration names. Nothing is
//! decided here: a move says where the traffic has to be, and doing it twice does it once.

pub mod haproxy;
