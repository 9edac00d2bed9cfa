//! Control: requests of operators that concern all servers.

use crate::{Target, auth::Revocation};

/// A request that concerns all servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlRequest<'a> {
    /// Closes connections.
    Disconnect(Target<'a>),
    /// Refuses tokens until the last of them expires, in milliseconds since the Unix epoch.
    Revoke(&'a Revocation, i64),
}

/// Carries out the requests of other servers.
pub trait ControlHandler: Send + Sync + 'static {
    /// Carries out a request.
    fn apply(&self, request: ControlRequest<'_>);

    /// The revocations in force here, with their expiry in milliseconds since the Unix epoch.
    fn revocations(&self) -> Vec<(Revocation, i64)>;

    /// The time in milliseconds since the Unix epoch.
    fn now_ms(&self) -> i64;
}
