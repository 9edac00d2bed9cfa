//! Trusted proxies: the client address behind a proxy.
//!
//! The forwarding header counts only when the connection comes from a trusted proxy. Only
//! one header counts: a proxy extends the header that it knows, and passes the other one on
//! as the client wrote it.
//!
//! Example: with `10.0.0.0/8` trusted, a connection from 10.0.0.1 sends
//! `X-Forwarded-For: 8.8.8.8, 9.9.9.9, 10.0.0.2`. Read from the end, 10.0.0.2 is trusted
//! and 9.9.9.9 is not. So 9.9.9.9 is the client, and it may have written 8.8.8.8 itself.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, header};
use ipnet::IpNet;

/// The header in which proxies write the addresses of their clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyHeader {
    /// `X-Forwarded-For: client, proxy`.
    #[default]
    XForwardedFor,
    /// `Forwarded: for=client, for=proxy` (RFC 7239).
    Forwarded,
}

/// The networks of trusted proxies, and the header that they write.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies {
    trusted: Vec<IpNet>,
    header: ProxyHeader,
}

impl TrustedProxies {
    /// Trusts `header` on connections from `networks`. Each is an address, or a network
    /// such as `10.0.0.0/8` or `2001:db8::/32`.
    ///
    /// # Errors
    /// A network is malformed. The error names it and the expected form.
    pub fn parse<T: AsRef<str>>(
        networks: &[T],
        header: ProxyHeader,
    ) -> Result<Self, ParseNetworkError> {
        let networks = networks.iter();
        let trusted = networks.map(|network| parse_network(network.as_ref()));
        Ok(Self {
            trusted: trusted.collect::<Result<_, _>>()?,
            header,
        })
    }

    /// Whether `address` is a trusted proxy. IPv4 addresses mapped into IPv6 count as IPv4.
    #[must_use]
    pub fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted
            .iter()
            .any(|network| network.contains(&address))
    }

    /// The client behind a connection from `peer`: the last address in the header that is
    /// not a trusted proxy. Without a readable one, the last trusted address.
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
            // An unreadable address ends the part that trusted proxies wrote.
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

fn parse_network(text: &str) -> Result<IpNet, ParseNetworkError> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let address: IpAddr = address
        .trim()
        .parse()
        .map_err(|_| ParseNetworkError::Address(text.to_owned()))?;
    let Some(prefix) = prefix else {
        return Ok(IpNet::from(address));
    };
    let network = prefix.trim().parse().map(|bits| IpNet::new(address, bits));
    match network {
        Ok(Ok(network)) => Ok(network),
        _ => Err(ParseNetworkError::PrefixLength {
            text: text.to_owned(),
            max: IpNet::from(address).max_prefix_len(),
        }),
    }
}

/// The reason why a text is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseNetworkError {
    /// The text does not begin with an IP address.
    #[error("{0:?} is not a network, expected an address or for example \"10.0.0.0/8\"")]
    Address(String),
    /// The prefix length is no number, or longer than an address.
    #[error("{text:?} has a wrong prefix length, expected 0 to {max} after the slash")]
    PrefixLength {
        /// The text.
        text: String,
        /// The longest prefix of its address family, in bits.
        max: u8,
    },
}

/// The `for` parameter of one element of `Forwarded`.
fn forwarded_for(element: &str) -> Option<&str> {
    element.split(';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        let is_for = name.trim().eq_ignore_ascii_case("for");
        is_for.then(|| value.trim().trim_matches('"'))
    })
}

/// Parses an address with an optional port and optional brackets.
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
        let mut headers = HeaderMap::new();
        for (name, value) in values {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, value.parse().unwrap());
        }
        let proxies = TrustedProxies::parse(&["10.0.0.0/8", "::1"], header).unwrap();
        proxies.client(ip(peer), &headers).to_string()
    }

    #[test]
    fn only_headers_of_trusted_proxies_count() {
        let by_list = |peer, values: &[_]| client(ProxyHeader::XForwardedFor, peer, values);
        let xff = |value| [("x-forwarded-for", value)];
        assert_eq!(by_list("1.1.1.1", &xff("9.9.9.9")), "1.1.1.1");
        assert_eq!(by_list("10.0.0.1", &xff("9.9.9.9")), "9.9.9.9");
        assert_eq!(by_list("::1", &xff("9.9.9.9")), "9.9.9.9");
        assert_eq!(by_list("10.0.0.1", &[]), "10.0.0.1");
        // Addresses before the last untrusted one may come from the client.
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
        // The other header may come from the client.
        assert_eq!(
            by_list("10.0.0.1", &[("forwarded", "for=9.9.9.9")]),
            "10.0.0.1"
        );
    }

    #[test]
    fn the_forwarded_header_is_parsed() {
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

    #[test]
    fn networks_contain_their_addresses() {
        let contains = |network: &str, address: &str| {
            let proxies = TrustedProxies::parse(&[network], ProxyHeader::default());
            proxies.unwrap().trusts(ip(address))
        };
        assert!(contains("10.0.0.0/8", "10.255.0.1"));
        assert!(!contains("10.0.0.0/8", "11.0.0.1"));
        assert!(contains("10.0.0.0/8", "::ffff:10.0.0.1"));
        assert!(contains("10.1.2.3/8", "10.255.0.1"));
        assert!(contains(" 10.0.0.0 / 8 ", "10.255.0.1"));
        assert!(contains("127.0.0.1", "127.0.0.1"));
        assert!(!contains("127.0.0.1", "127.0.0.2"));
        assert!(contains("0.0.0.0/0", "1.2.3.4"));
        assert!(!contains("0.0.0.0/0", "::1"));
        assert!(contains("2001:db8::/32", "2001:db8:ffff::1"));
        assert!(!contains("2001:db8::/32", "2001:db9::1"));
    }

    #[test]
    fn the_error_names_what_is_wrong_with_a_network() {
        for text in ["", "10.0.0/8", "host", "/8"] {
            let expected = ParseNetworkError::Address(text.to_owned());
            assert_eq!(parse_network(text), Err(expected), "{text}");
        }
        for (text, max) in [
            ("10.0.0.0/33", 32),
            ("10.0.0.0/-1", 32),
            ("10.0.0.0/", 32),
            ("::1/129", 128),
        ] {
            let text = text.to_owned();
            let error = parse_network(&text).unwrap_err();
            assert_eq!(error, ParseNetworkError::PrefixLength { text, max });
        }
        assert_eq!(
            parse_network("10.0.0.0/33").unwrap_err().to_string(),
            "\"10.0.0.0/33\" has a wrong prefix length, expected 0 to 32 after the slash"
        );
    }
}
