//! Locality policy: recognises requests of the user of the server's own machine.
//!
//! A server that listens on loopback lets this user operate it without a token. The address of
//! the peer proves little: a page in the user's browser reaches the server by a name that
//! resolves to loopback (DNS rebinding), and everyone reaches it through a reverse proxy on the
//! machine. A request is local if all of this holds:
//!
//! - the server listens on loopback;
//! - `Host` names loopback, and so does `Origin` where it is present;
//! - the peer is no trusted proxy, and no header of a proxy is present;
//! - the request is not in HTTP/1.0, in which nginx forwards by default.
//!
//! Example: `curl localhost:8080/metrics` is local. The same request with
//! `X-Forwarded-For: 203.0.113.9` is not, and needs a token.

use std::net::IpAddr;

use http::{HeaderMap, Request, Uri, Version, header, uri::Authority};
use tidewire_stream::Locality;

use super::{BindScope, TrustedProxies, names_loopback};

/// Headers that only proxies write, beside those that begin with a prefix below.
const PROXY_HEADERS: [&str; 10] = [
    "forwarded",
    "via",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "client-ip",
    "fastly-client-ip",
    "fly-client-ip",
];

/// Prefixes of headers that only proxies write.
const PROXY_PREFIXES: [&str; 3] = ["x-forwarded", "x-original-", "x-envoy-"];

/// The rule for requests of the machine's own user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalityPolicy(BindScope);

impl LocalityPolicy {
    /// The policy of a server that listens on `listen`.
    #[must_use]
    pub fn new(listen: IpAddr) -> Self {
        Self(BindScope::of(listen))
    }

    /// The locality of a request from `peer`. `Host` must be the name that the request is for:
    /// see [`set_host`].
    #[must_use]
    pub fn of<B>(self, request: &Request<B>, peer: IpAddr, proxies: &TrustedProxies) -> Locality {
        let headers = request.headers();
        let is_local = self.0 == BindScope::Loopback
            && !proxies.trusts(peer)
            && request.version() != Version::HTTP_10
            && host_is_loopback(headers)
            && origin_is_loopback(headers)
            && !was_forwarded(headers);
        match is_local {
            true => Locality::Local,
            false => Locality::Remote,
        }
    }
}

/// Sets `Host` to the authority of the request's URI, if it has one: over HTTP/2, and in the
/// absolute form, `Host` may be missing or another (RFC 9112, section 3.2.2).
pub(crate) fn set_host<B>(request: &mut Request<B>) {
    let authority = request.uri().authority().map(Authority::as_str);
    // An authority consists of characters that a header may have.
    if let Some(host) = authority.and_then(|host| host.parse().ok()) {
        request.headers_mut().insert(header::HOST, host);
    }
}

fn host_is_loopback(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return false;
    };
    let authority = host.to_str().ok().map(str::parse::<Authority>);
    authority.is_some_and(|host| host.is_ok_and(|host| names_loopback(host.host())))
}

fn origin_is_loopback(headers: &HeaderMap) -> bool {
    headers.get_all(header::ORIGIN).iter().all(|origin| {
        let uri = origin.to_str().ok().map(str::parse::<Uri>);
        uri.is_some_and(|uri| uri.is_ok_and(|uri| uri.host().is_some_and(names_loopback)))
    })
}

fn was_forwarded(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| {
        let name = name.as_str();
        PROXY_HEADERS.contains(&name)
            || PROXY_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ProxyHeader;

    const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn request(headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder();
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    fn is_local(headers: &[(&str, &str)]) -> bool {
        let proxies = TrustedProxies::default();
        let policy = LocalityPolicy::new(LOOPBACK);
        policy.of(&request(headers), LOOPBACK, &proxies) == Locality::Local
    }

    #[test]
    fn a_request_for_a_loopback_name_is_local() {
        for host in [
            "localhost",
            "LocalHost:8080",
            "localhost.:8080",
            "app.localhost:8080",
            "127.0.0.1:8080",
            "127.1.2.3",
            "[::1]:8080",
            "[::ffff:127.0.0.1]:8080",
        ] {
            assert!(is_local(&[("host", host)]), "{host}");
        }
        for host in [
            "evil.example:8080",
            "localhost.evil.example",
            "notlocalhost",
            "127.0.0.1.evil.example",
            "[::2]:8080",
            "0.0.0.0:8080",
            "192.168.0.1",
            "",
            "a b",
        ] {
            assert!(!is_local(&[("host", host)]), "{host}");
        }
        assert!(!is_local(&[]));
        assert!(!is_local(&[
            ("host", "localhost"),
            ("host", "evil.example")
        ]));
    }

    #[test]
    fn a_request_of_a_page_is_local_if_the_page_is() {
        let of_page = |origin| is_local(&[("host", "localhost:8080"), ("origin", origin)]);
        assert!(of_page("http://localhost:3000"));
        assert!(of_page("https://127.0.0.1"));
        for origin in [
            "https://evil.example",
            "http://localhost.evil.example",
            "null",
            "",
        ] {
            assert!(!of_page(origin), "{origin}");
        }
    }

    #[test]
    fn a_forwarded_request_is_not_local() {
        for name in [
            "X-Forwarded-For",
            "x-forwarded-proto",
            "X-Forwarded-Host",
            "x-forwarded",
            "Forwarded",
            "Via",
            "X-Real-IP",
            "X-Original-Forwarded-For",
            "CF-Connecting-IP",
            "Client-IP",
            "Fly-Client-IP",
            "X-Envoy-External-Address",
        ] {
            assert!(!is_local(&[("host", "localhost"), (name, "")]), "{name}");
        }
        let mut old = request(&[("host", "localhost")]);
        *old.version_mut() = Version::HTTP_10;
        let policy = LocalityPolicy::new(LOOPBACK);
        let none = TrustedProxies::default();
        assert_eq!(policy.of(&old, LOOPBACK, &none), Locality::Remote);
        let trusted = TrustedProxies::parse(&["127.0.0.0/8"], ProxyHeader::default()).unwrap();
        let new = request(&[("host", "localhost")]);
        assert_eq!(policy.of(&new, LOOPBACK, &trusted), Locality::Remote);
    }

    #[test]
    fn a_server_on_the_network_has_no_local_requests() {
        let request = request(&[("host", "localhost")]);
        let none = TrustedProxies::default();
        for listen in ["0.0.0.0", "::", "10.0.0.1"] {
            let policy = LocalityPolicy::new(listen.parse().unwrap());
            assert_eq!(policy.of(&request, LOOPBACK, &none), Locality::Remote);
        }
    }

    #[test]
    fn the_authority_of_a_request_is_its_host() {
        let mut request = request(&[("host", "localhost")]);
        *request.uri_mut() = "http://evil.example:80/metrics".parse().unwrap();
        set_host(&mut request);
        assert_eq!(request.headers()[header::HOST], "evil.example:80");
        *request.uri_mut() = "/metrics".parse().unwrap();
        set_host(&mut request);
        assert_eq!(request.headers()[header::HOST], "evil.example:80");
    }
}
