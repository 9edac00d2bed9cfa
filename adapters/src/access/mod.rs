//! Access policy: which clients may connect, from which pages and addresses, how many and
//! how fast.

mod admission;
mod locality;
mod origin;
mod proxy;
pub(crate) mod refusal;

use std::{net::IpAddr, sync::Arc};

pub(crate) use admission::RequestGuard;
pub use admission::{Admission, AdmissionOptions, ConnectionGuard};
pub use locality::LocalityPolicy;
pub(crate) use locality::set_host;
pub use origin::OriginPolicy;
pub(crate) use origin::check_origin;
pub use proxy::{ParseNetworkError, ProxyHeader, TrustedProxies};

/// The rules for clients that connect.
#[derive(Debug, Clone)]
pub struct AccessPolicy {
    /// The browser pages that may connect.
    pub origins: OriginPolicy,
    /// The requests that come from the user of the server's own machine.
    pub locality: LocalityPolicy,
    /// The limits on connections and sessions.
    pub admission: Arc<Admission>,
}

/// Where the server listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BindScope {
    /// On loopback only.
    Loopback,
    /// On an address that other machines reach.
    Network,
}

impl BindScope {
    fn of(listen: IpAddr) -> Self {
        match listen.to_canonical().is_loopback() {
            true => Self::Loopback,
            false => Self::Network,
        }
    }
}

/// Whether a host is a loopback address, `localhost`, or a name below it, which resolves to
/// loopback too (RFC 6761, section 6.3).
fn names_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = host.parse::<IpAddr>() {
        return address.to_canonical().is_loopback();
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    let last = name.rsplit('.').next().unwrap_or_default();
    last.eq_ignore_ascii_case("localhost")
}
