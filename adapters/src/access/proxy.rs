//! Trusted proxies: the client address behind a proxy.
//!
//! The forwarding header counts only when the connection comes from a trusted proxy. Only
//! one header counts: a proxy extends the header that it knows, and passes the other one on
//! as the client wrote it.
//!
//! Example: with `10.0.0.0/8` trusted, a connection from 10.0.0.1 sends
//! `X-Forwarded-For: 8.8.8.8, 9.9.9.9, 10.0.0.2`. Read from the end, 10.0.0.2 is trusted
//! and 9.9.9.9 is not. So 9.9.9.9 is the client, and it may have written 8.8.8.8 itself.
//!
//! An address that cannot be read ends the search, and the last trusted address counts. So a
//! client cannot hide what its proxy wrote, and never chooses its address.

mod forwarded;

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use ipnet::IpNet;

/// Bits before the IPv4 address in an address mapped into IPv6: `::ffff:0:0/96`.
const MAPPED_BITS: u8 = 96;

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
    /// such as `10.0.0.0/8` or `2001:db8::/32`. A network of mapped IPv4 addresses, such as
    /// `::ffff:10.0.0.0/104`, is the IPv4 network.
    ///
    /// # Errors
    /// A network is malformed, or mixes mapped IPv4 addresses with others. The error names it
    /// and the expected form.
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
        let peer = peer.to_canonical();
        if !self.trusts(peer) {
            return peer;
        }
        let lines = headers.get_all(self.header_name()).iter().rev();
        let lines = lines.map(HeaderValue::as_bytes);
        match self.header {
            ProxyHeader::XForwardedFor => self.first_untrusted(
                peer,
                lines.flat_map(|line| line.rsplit(|byte| *byte == b',').map(address)),
            ),
            ProxyHeader::Forwarded => self.first_untrusted(
                peer,
                lines.flat_map(|line| {
                    let hops = forwarded::hops(line);
                    hops.into_iter().rev().map(|hop| address(&hop?))
                }),
            ),
        }
    }

    /// The first of `hops` that is not a trusted proxy. A hop that is not readable ends the part
    /// that trusted proxies wrote: the trusted address before it counts.
    fn first_untrusted(&self, peer: IpAddr, hops: impl Iterator<Item = Option<IpAddr>>) -> IpAddr {
        let mut client = peer;
        for hop in hops {
            let Some(address) = hop else {
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
    let network = match prefix.map(|prefix| prefix.trim().parse::<u8>()) {
        None => Ok(IpNet::from(address)),
        Some(bits) => bits
            .ok()
            .and_then(|bits| IpNet::new(address, bits).ok())
            .ok_or_else(|| ParseNetworkError::PrefixLength {
                text: text.to_owned(),
                max: IpNet::from(address).max_prefix_len(),
            }),
    };
    canonical(network?).ok_or_else(|| ParseNetworkError::Mapped(text.to_owned()))
}

/// The form in which addresses are compared: a network of mapped IPv4 addresses is an IPv4
/// network. None for one that begins with a mapped address and is larger than all of them.
fn canonical(network: IpNet) -> Option<IpNet> {
    let IpAddr::V6(address) = network.addr() else {
        return Some(network);
    };
    let Some(mapped) = address.to_ipv4_mapped() else {
        return Some(network);
    };
    let bits = network.prefix_len().checked_sub(MAPPED_BITS)?;
    IpNet::new(mapped.into(), bits).ok()
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
    /// The network holds mapped IPv4 addresses and others.
    #[error(
        "{0:?} is larger than all mapped IPv4 addresses, expected the IPv4 network, for example \"10.0.0.0/8\""
    )]
    Mapped(String),
}

/// Parses an address with an optional port and optional brackets.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(text).ok()?.trim();
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let address: Option<IpAddr> = bare.unwrap_or(text).parse().ok();
    let with_port = || text.parse::<SocketAddr>().map(|address| address.ip()).ok();
    let address = address.or_else(with_port)?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn client(header: ProxyHeader, peer: &str, values: &[(&str, &str)]) -> String {
        let values = values.iter().map(|(name, value)| (*name, value.as_bytes()));
        client_of_bytes(header, peer, &values.collect::<Vec<_>>())
    }

    fn client_of_bytes(header: ProxyHeader, peer: &str, values: &[(&str, &[u8])]) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in values {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, HeaderValue::from_bytes(value).unwrap());
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
    fn the_part_that_a_client_wrote_hides_nothing() {
        let list = |values: &[&[u8]]| {
            let values = values.iter().map(|value| ("x-forwarded-for", *value));
            let values: Vec<_> = values.collect();
            client_of_bytes(ProxyHeader::XForwardedFor, "10.0.0.1", &values)
        };
        assert_eq!(list(&[b"\xff, 9.9.9.9"]), "9.9.9.9");
        assert_eq!(list(&[b"1.2.3.4", b"\xff, 9.9.9.9"]), "9.9.9.9");
        assert_eq!(list(&[b"1.2.3.4", b"9.9.9.9\xff"]), "10.0.0.1");
        assert_eq!(list(&[b"1.2.3.4, \xff, 10.0.0.2"]), "10.0.0.2");
        assert_eq!(list(&[b"1.2.3.4", b""]), "10.0.0.1");
        assert_eq!(list(&[b"1.2.3.4, [9.9.9.9]"]), "9.9.9.9");
        assert_eq!(list(&[b"1.2.3.4, [::1"]), "10.0.0.1");

        let standard = |values: &[&[u8]]| {
            let values = values.iter().map(|value| ("forwarded", *value));
            let values: Vec<_> = values.collect();
            client_of_bytes(ProxyHeader::Forwarded, "10.0.0.1", &values)
        };
        assert_eq!(standard(&[b"for=1.2.3.4", b"for=\xff"]), "10.0.0.1");
        assert_eq!(standard(&[b"for=\xff", b"for=9.9.9.9"]), "9.9.9.9");
        assert_eq!(standard(&[b"for=\xff, for=9.9.9.9"]), "9.9.9.9");
        // `Host` of a client, as a proxy passes it on.
        let host: &[u8] = b"for=9.9.9.9;host=\"\xff, for=6.6.6.6\"";
        assert_eq!(standard(&[host]), "9.9.9.9");
        let host: &[u8] = b"host=\"a;for=6.6.6.6\";for=9.9.9.9";
        assert_eq!(standard(&[host]), "9.9.9.9");
        // A quote that the client left open.
        assert_eq!(standard(&[b"for=6.6.6.6;a=\", for=9.9.9.9"]), "10.0.0.1");
    }

    #[test]
    fn mapped_addresses_are_ipv4_addresses() {
        let list = |peer, value| {
            client(
                ProxyHeader::XForwardedFor,
                peer,
                &[("x-forwarded-for", value)],
            )
        };
        assert_eq!(list("::ffff:10.0.0.1", "9.9.9.9"), "9.9.9.9");
        assert_eq!(
            list("10.0.0.1", "::ffff:9.9.9.9, ::ffff:10.0.0.2"),
            "9.9.9.9"
        );
        assert_eq!(list("10.0.0.1", "[::ffff:9.9.9.9]:80"), "9.9.9.9");
        assert_eq!(list("::ffff:1.1.1.1", "9.9.9.9"), "1.1.1.1");
    }

    /// Pieces of header values, among them everything that separates or quotes.
    const PIECES: [&[u8]; 15] = [
        b",",
        b";",
        b"=",
        b"\"",
        b"\\",
        b" ",
        b"\t",
        b"for",
        b"host",
        b"6.6.6.6",
        b"10.0.0.9",
        b"[::6]",
        b":80",
        b"\xff",
        b"for=6.6.6.6",
    ];

    proptest! {
        /// A client writes anything, and its trusted proxy adds the address of the client, to
        /// the last line or in a line of its own.
        #[test]
        fn a_client_never_chooses_its_address(
            lines in prop::collection::vec(prop::collection::vec(prop::sample::select(&PIECES[..]), 0..8), 0..3),
            is_standard: bool,
            has_own_line: bool,
            quotes: bool,
        ) {
            let (header, name) = match is_standard {
                true => (ProxyHeader::Forwarded, "forwarded"),
                false => (ProxyHeader::XForwardedFor, "x-forwarded-for"),
            };
            let added: &[u8] = match (is_standard, quotes) {
                (true, true) => b"host=\"b\";for=\"9.9.9.9:80\"",
                (true, false) => b"for=9.9.9.9",
                (false, _) => b"9.9.9.9",
            };
            let mut lines: Vec<Vec<u8>> = lines.iter().map(|line| line.concat()).collect();
            match lines.last_mut() {
                Some(last) if !has_own_line => last.extend([b", ", added].concat()),
                _ => lines.push(added.to_vec()),
            }
            let values: Vec<_> = lines.iter().map(|line| (name, &line[..])).collect();
            let found = client_of_bytes(header, "10.0.0.1", &values);
            let is_alone = has_own_line || !is_standard;
            prop_assert!(found == "9.9.9.9" || (!is_alone && found == "10.0.0.1"), "{}", found);
        }
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
        assert!(contains("::ffff:10.0.0.0/104", "10.255.0.1"));
        assert!(contains("::ffff:10.0.0.0/104", "::ffff:10.255.0.1"));
        assert!(!contains("::ffff:10.0.0.0/104", "11.0.0.1"));
        assert!(contains("::ffff:127.0.0.1", "127.0.0.1"));
        assert!(contains("::ffff:0:0/96", "1.2.3.4"));
        assert!(!contains("::ffff:0:0/96", "::1"));
        assert!(!contains("::/0", "1.2.3.4"));
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
        for text in ["::ffff:10.0.0.0/95", "::ffff:10.0.0.0/0", "::ffff:0:0/64"] {
            let expected = ParseNetworkError::Mapped(text.to_owned());
            assert_eq!(parse_network(text), Err(expected), "{text}");
        }
        assert_eq!(
            parse_network("10.0.0.0/33").unwrap_err().to_string(),
            "\"10.0.0.0/33\" has a wrong prefix length, expected 0 to 32 after the slash"
        );
    }
}
