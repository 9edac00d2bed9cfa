//! Proxies before the server: which are trusted, and what they say of their clients.
//!
//! A header counts only when the connection itself comes from a trusted proxy, and
//! only one header does: a proxy replaces or extends the one it knows and passes on
//! the others as the client wrote them.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, header};
use tidewire_stream::limit::Network;

/// Where proxies write the addresses they forward for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyHeader {
    /// `X-Forwarded-For: client, proxy`.
    #[default]
    XForwardedFor,
    /// `Forwarded: for=client, for=proxy` (RFC 7239).
    Forwarded,
}

/// The proxies that are trusted.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    trusted: Vec<Network>,
    header: ProxyHeader,
}

impl Proxies {
    /// Trusts what these say in this header.
    #[must_use]
    pub fn new(trusted: Vec<Network>, header: ProxyHeader) -> Self {
        Self { trusted, header }
    }

    /// Whether connections from there are a proxy's.
    #[must_use]
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(address))
    }

    /// The client behind a connection of `peer`: the last address that is not a
    /// trusted proxy's own, or the peer's where nothing better can be known.
    #[must_use]
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer;
        if !self.trusts(peer) {
            return client;
        }
        let values = headers.get_all(self.header_name()).iter();
        let texts: Vec<&str> = values.filter_map(|value| value.to_str().ok()).collect();
        let hops = texts.iter().flat_map(|text| text.split(','));
        let hops: Vec<&str> = hops.collect();
        for hop in hops.into_iter().rev() {
            let address = match self.header {
                ProxyHeader::XForwardedFor => address(hop),
                ProxyHeader::Forwarded => forwarded_for(hop).and_then(address),
            };
            // What cannot be read was written before the last proxy that is trusted.
            let Some(address) = address else {
                return client;
            };
            client = address;
            if !self.trusts(address) {
                return client;
            }
        }
        client
    }

    fn header_name(&self) -> HeaderName {
        match self.header {
            ProxyHeader::XForwardedFor => HeaderName::from_static("x-forwarded-for"),
            ProxyHeader::Forwarded => header::FORWARDED,
        }
    }
}

/// The `for` of one element of `Forwarded`.
fn forwarded_for(element: &str) -> Option<&str> {
    element.split(';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        let is_for = name.trim().eq_ignore_ascii_case("for");
        is_for.then(|| value.trim().trim_matches('"'))
    })
}

/// An address, perhaps with a port or in brackets.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    bare.unwrap_or(text)
        .parse()
        .ok()
        .or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn client(header: ProxyHeader, peer: &str, values: &[(&str, &str)]) -> String {
        let trusted = ["10.0.0.0/8", "::1"].map(|text| text.parse().unwrap());
        let mut headers = HeaderMap::new();
        for (name, value) in values {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, value.parse().unwrap());
        }
        let proxies = Proxies::new(trusted.to_vec(), header);
        proxies.client(ip(peer), &headers).to_string()
    }

    #[test]
    fn only_trusted_proxies_are_heard() {
        let by_list = |peer, values: &[_]| client(ProxyHeader::XForwardedFor, peer, values);
        let xff = |value| [("x-forwarded-for", value)];
        assert_eq!(by_list("1.1.1.1", &xff("9.9.9.9")), "1.1.1.1");
        assert_eq!(by_list("10.0.0.1", &xff("9.9.9.9")), "9.9.9.9");
        assert_eq!(by_list("::1", &xff("9.9.9.9")), "9.9.9.9");
        assert_eq!(by_list("10.0.0.1", &[]), "10.0.0.1");
        // What the client wrote itself stands before what the proxies wrote.
        assert_eq!(
            by_list("10.0.0.1", &xff("8.8.8.8, 9.9.9.9, 10.0.0.2")),
            "9.9.9.9"
        );
        let lines = [
            ("x-forwarded-for", "8.8.8.8"),
            ("x-forwarded-for", "9.9.9.9"),
        ];
        assert_eq!(by_list("10.0.0.1", &lines), "9.9.9.9");
        assert_eq!(
            by_list("10.0.0.1", &xff("9.9.9.9, nonsense, 10.0.0.2")),
            "10.0.0.2"
        );
        assert_eq!(
            by_list("10.0.0.1", &xff("[2001:db8::1]:443")),
            "2001:db8::1"
        );
        // The header that the proxies do not write is the client's own.
        assert_eq!(
            by_list("10.0.0.1", &[("forwarded", "for=9.9.9.9")]),
            "10.0.0.1"
        );
    }

    #[test]
    fn the_standard_header_is_read() {
        let standard = |value| client(ProxyHeader::Forwarded, "10.0.0.1", &[("forwarded", value)]);
        assert_eq!(standard("for=9.9.9.9"), "9.9.9.9");
        assert_eq!(
            standard("proto=https; For=\"[2001:db8::1]:4711\""),
            "2001:db8::1"
        );
        assert_eq!(
            standard("for=8.8.8.8, for=9.9.9.9:80;by=10.0.0.2"),
            "9.9.9.9"
        );
        assert_eq!(standard("for=8.8.8.8, for=unknown"), "10.0.0.1");
    }
}
