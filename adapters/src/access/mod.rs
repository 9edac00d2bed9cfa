//! Access policy: which clients may connect, from which pages and addresses, how many and
//! how fast.

mod admission;
mod origin;
mod proxy;

use std::sync::Arc;

pub(crate) use admission::RequestGuard;
pub use admission::{Admission, AdmissionOptions, ConnectionGuard};
pub use origin::OriginPolicy;
pub use proxy::{ParseNetworkError, ProxyHeader, TrustedProxies};

/// The rules for clients that connect.
#[derive(Debug, Clone)]
pub struct AccessPolicy {
    /// The browser pages that may connect.
    pub origins: OriginPolicy,
    /// The limits on connections and sessions.
    pub admission: Arc<Admission>,
}
