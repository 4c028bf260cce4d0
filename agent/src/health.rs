//! Health checks.
/// Bytes of a body that are looked at.
pub const BODY_MAX: usize = 64 * 1024;
