//! SSRF guard: decides to which URLs and addresses this server sends requests.
//!
//! URLs of webhooks and push endpoints come from outside. Without a check, they could make this
//! server send requests to itself, to its neighbours, or to a cloud's metadata service.
//!
//! A URL is checked before each request. A host name is checked where it counts: the HTTP
//! client's resolver drops each refused address, and the client connects to the others only.
//! A name that turns private after an earlier check is therefore refused at the connect.
//! Redirects are not followed. [`Networks::Any`] permits private networks, plain HTTP and every
//! port.
//!
//! Sources of the tables: the IANA registries of special-purpose IPv4 and IPv6 addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use reqwest::Url;

/// Longest URL, in bytes.
pub const MAX_URL_BYTES: usize = 2_048;

/// First port that is not a well-known one. Of those below, 443 alone serves HTTPS.
const FIRST_FREE_PORT: u16 = 1_024;

/// The networks that an endpoint may be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Networks {
    /// The public internet, over HTTPS.
    #[default]
    Public,
    /// Private networks and this machine too (`allow_private`), also over plain HTTP.
    Any,
}

/// The reason why a URL or an address is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GuardError {
    /// The text is no URL.
    #[error("it is no URL: {0}")]
    Malformed(String),
    /// The URL is too long.
    #[error("it has {0} bytes, expected at most {MAX_URL_BYTES}")]
    TooLong(usize),
    /// The scheme is not permitted.
    #[error("its scheme is `{found}`, expected {expected}")]
    Scheme {
        /// The scheme that was found.
        found: String,
        /// The permitted schemes.
        expected: &'static str,
    },
    /// The URL has a user name or a password.
    #[error("it has a user name or a password, expected none")]
    Credentials,
    /// The port is not permitted.
    #[error("its port is {0}, expected 443 or one from {FIRST_FREE_PORT} on")]
    Port(u16),
    /// The address is not permitted.
    #[error("its address is {0}, expected a public one")]
    Address(&'static str),
}

impl GuardError {
    /// Whether `allow_private` would permit the URL.
    pub(crate) fn is_private(&self) -> bool {
        matches!(self, Self::Scheme { .. } | Self::Port(_) | Self::Address(_))
    }
}

/// Checks a URL before a request, and an address before a connection.
#[derive(Debug, Clone, Copy)]
pub struct Guard {
    networks: Networks,
}

impl Guard {
    /// A guard that permits these networks.
    #[must_use]
    pub fn new(networks: Networks) -> Self {
        Self { networks }
    }

    /// Reads and checks a URL. The addresses of a host name are checked later, at the connect.
    ///
    /// # Errors
    /// The text is no URL, or the URL is not permitted.
    pub fn check_url(self, text: &str) -> Result<Url, GuardError> {
        if text.len() > MAX_URL_BYTES {
            return Err(GuardError::TooLong(text.len()));
        }
        let url = Url::parse(text).map_err(|error| GuardError::Malformed(error.to_string()))?;
        self.check(&url)?;
        Ok(url)
    }

    /// Checks a URL, as [`check_url`](Self::check_url).
    ///
    /// # Errors
    /// The URL is not permitted.
    pub fn check(self, url: &Url) -> Result<(), GuardError> {
        let is_public_only = self.networks == Networks::Public;
        match (url.scheme(), is_public_only) {
            ("https", _) | ("http", false) => {}
            (found, _) => {
                return Err(GuardError::Scheme {
                    found: found.to_owned(),
                    expected: match is_public_only {
                        true => "`https`",
                        false => "`https` or `http`",
                    },
                });
            }
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(GuardError::Credentials);
        }
        match url.port_or_known_default() {
            Some(443) => {}
            Some(port) if port >= FIRST_FREE_PORT => {}
            Some(port) if port > 0 && !is_public_only => {}
            port => return Err(GuardError::Port(port.unwrap_or_default())),
        }
        // The URL parser writes every form of an IPv4 address, such as `0x7f.1`, as four numbers.
        match literal_address(url) {
            Some(address) => self.check_address(address),
            None if is_public_only && is_local_name(url.host_str().unwrap_or_default()) => {
                Err(GuardError::Address("loopback"))
            }
            None => Ok(()),
        }
    }

    /// Checks an address before a connection.
    ///
    /// # Errors
    /// The address is not permitted.
    pub fn check_address(self, address: IpAddr) -> Result<(), GuardError> {
        match (AddressClass::of(address), self.networks) {
            (AddressClass::Public, _) | (AddressClass::Private(_), Networks::Any) => Ok(()),
            (AddressClass::Private(reason) | AddressClass::Unusable(reason), _) => {
                Err(GuardError::Address(reason))
            }
        }
    }
}

/// The kind of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressClass {
    /// An address of the public internet.
    Public,
    /// An address of this machine or of a network of its own; the text names the kind.
    Private(&'static str),
    /// An address that no single host has; refused with `allow_private` too.
    Unusable(&'static str),
}

impl AddressClass {
    /// The class of an address. An IPv6 address that contains an IPv4 address has its class.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => class_v4(address),
            IpAddr::V6(address) => class_v6(address),
        }
    }
}

/// Networks of IPv4 that are not public.
const SPECIAL_V4: [(Ipv4Net, AddressClass); 15] = {
    use AddressClass::{Private, Unusable};
    [
        (v4([0, 0, 0, 0], 8), Unusable("unspecified")),
        (v4([10, 0, 0, 0], 8), Private("private")),
        (v4([100, 64, 0, 0], 10), Private("that of a carrier's NAT")),
        (v4([127, 0, 0, 0], 8), Private("loopback")),
        (v4([169, 254, 0, 0], 16), Private("link-local")),
        (v4([172, 16, 0, 0], 12), Private("private")),
        (v4([192, 0, 0, 0], 24), Private("reserved")),
        (v4([192, 0, 2, 0], 24), Private("for documentation")),
        (v4([192, 88, 99, 0], 24), Private("reserved")),
        (v4([192, 168, 0, 0], 16), Private("private")),
        (v4([198, 18, 0, 0], 15), Private("for benchmarks")),
        (v4([198, 51, 100, 0], 24), Private("for documentation")),
        (v4([203, 0, 113, 0], 24), Private("for documentation")),
        (v4([224, 0, 0, 0], 4), Unusable("multicast")),
        (v4([240, 0, 0, 0], 4), Unusable("reserved")),
    ]
};

/// Networks of IPv6 that are not public. Addresses outside of 2000::/3 are not public either.
const SPECIAL_V6: [(Ipv6Net, AddressClass); 10] = {
    use AddressClass::{Private, Unusable};
    [
        (v6([0, 0, 0, 0, 0, 0, 0, 0], 128), Unusable("unspecified")),
        (v6([0, 0, 0, 0, 0, 0, 0, 1], 128), Private("loopback")),
        (
            v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48),
            Private("that of a local NAT64"),
        ),
        // Teredo (2001::/32) is in it.
        (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), Private("reserved")),
        (
            v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32),
            Private("for documentation"),
        ),
        (
            v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20),
            Private("for documentation"),
        ),
        (v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), Private("private")),
        (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), Private("link-local")),
        (v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10), Private("private")),
        (v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), Unusable("multicast")),
    ]
};

/// The addresses that the internet's registries assign to hosts.
const GLOBAL_UNICAST: Ipv6Net = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);

const fn v4([a, b, c, d]: [u8; 4], prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6([a, b, c, d, e, f, g, h]: [u16; 8], prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix)
}

fn class_v4(address: Ipv4Addr) -> AddressClass {
    let mut special = SPECIAL_V4.iter();
    let found = special.find(|(network, _)| network.contains(&address));
    found.map_or(AddressClass::Public, |(_, class)| *class)
}

fn class_v6(address: Ipv6Addr) -> AddressClass {
    let mut special = SPECIAL_V6.iter();
    if let Some((_, class)) = special.find(|(network, _)| network.contains(&address)) {
        return *class;
    }
    if let Some(inner) = embedded_v4(address) {
        return class_v4(inner);
    }
    match GLOBAL_UNICAST.contains(&address) {
        true => AddressClass::Public,
        false => AddressClass::Private("reserved"),
    }
}

/// The IPv4 address that packets to an IPv6 address may end at: IPv4-mapped, IPv4-compatible,
/// NAT64 (RFC 6052) and 6to4 (RFC 3056).
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let join = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            Some(join(high, low))
        }
        [0x2002, high, low, ..] => Some(join(high, low)),
        _ => None,
    }
}

/// Whether a name is this machine's by RFC 6761.
fn is_local_name(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

/// The address that a URL names in place of a host name.
fn literal_address(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?;
    let inner = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    inner.unwrap_or(host).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(url: &str) -> String {
        let guard = Guard::new(Networks::Public);
        guard.check_url(url).unwrap_err().to_string()
    }

    #[test]
    fn urls_of_the_public_internet_are_permitted() {
        let guard = Guard::new(Networks::Public);
        for url in [
            "https://example.com/hook?key=1",
            "https://example.com:8443/",
            "https://example.com:443/",
            "https://1.1.1.1/",
            "https://[2606:4700:4700::1111]/",
            "https://[64:ff9b::101:101]/",
            "https://localhost.example.com/",
        ] {
            assert!(guard.check_url(url).is_ok(), "{url}");
        }
    }

    #[test]
    fn every_form_of_a_private_address_is_refused() {
        for (url, kind) in [
            ("https://127.0.0.1/", "loopback"),
            ("https://127.1/", "loopback"),
            ("https://2130706433/", "loopback"),
            ("https://0x7f.0.0.1/", "loopback"),
            ("https://0177.0.0.1/", "loopback"),
            ("https://localhost/", "loopback"),
            ("https://LOCALHOST./", "loopback"),
            ("https://a.localhost/", "loopback"),
            ("https://[::1]/", "loopback"),
            ("https://[::ffff:127.0.0.1]/", "loopback"),
            ("https://[::ffff:7f00:1]/", "loopback"),
            ("https://[::127.0.0.1]/", "loopback"),
            ("https://[64:ff9b::127.0.0.1]/", "loopback"),
            ("https://[2002:7f00:1::]/", "loopback"),
            ("https://[2002:a00:1::]/", "private"),
            ("https://[64:ff9b::a9fe:a9fe]/", "link-local"),
            ("https://[64:ff9b:1::1]/", "that of a local NAT64"),
            (
                "https://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/",
                "reserved",
            ),
            ("https://10.0.0.1/", "private"),
            ("https://172.16.0.1/", "private"),
            ("https://172.31.255.255/", "private"),
            ("https://192.168.1.1/", "private"),
            ("https://169.254.169.254/", "link-local"),
            ("https://100.64.0.1/", "that of a carrier's NAT"),
            ("https://0.0.0.0/", "unspecified"),
            ("https://0.1.2.3/", "unspecified"),
            ("https://[::]/", "unspecified"),
            ("https://224.0.0.1/", "multicast"),
            ("https://255.255.255.255/", "reserved"),
            ("https://[fe80::1]/", "link-local"),
            ("https://[fd00::1]/", "private"),
            ("https://[fec0::1]/", "private"),
            ("https://[ff02::1]/", "multicast"),
            ("https://[4000::1]/", "reserved"),
            ("https://[2001:db8::1]/", "for documentation"),
            ("https://①②⑦.⓪.⓪.①/", "loopback"),
        ] {
            let expected = format!("its address is {kind}, expected a public one");
            assert_eq!(refusal(url), expected, "{url}");
        }
    }

    #[test]
    fn neighbours_of_private_networks_are_public() {
        for address in [
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.255.255",
            "192.169.0.0",
            "169.253.255.255",
            "223.255.255.255",
            "2003::1",
            "2a00::1",
            "2002:101:101::",
        ] {
            let class = AddressClass::of(address.parse().unwrap());
            assert_eq!(class, AddressClass::Public, "{address}");
        }
    }

    #[test]
    fn other_faults_of_a_url_are_named() {
        assert_eq!(
            refusal("http://example.com/"),
            "its scheme is `http`, expected `https`"
        );
        assert!(refusal("file:///etc/passwd").contains("`file`"));
        assert!(refusal("gopher://example.com").contains("`gopher`"));
        assert_eq!(
            refusal("https://a:b@example.com/"),
            "it has a user name or a password, expected none"
        );
        assert!(refusal("https://a@example.com/").contains("a user name"));
        assert_eq!(
            refusal("https://example.com:25/"),
            "its port is 25, expected 443 or one from 1024 on"
        );
        assert!(refusal("https://example.com:0/").contains("its port is 0"));
        assert!(refusal("example.com").starts_with("it is no URL: "));
        assert!(refusal("https://").starts_with("it is no URL: "));
        let long = format!("https://example.com/{}", "a".repeat(MAX_URL_BYTES));
        assert!(refusal(&long).contains("expected at most 2048"));
    }

    #[test]
    fn private_networks_can_be_permitted_and_unusable_addresses_cannot() {
        let guard = Guard::new(Networks::Any);
        for url in [
            "http://127.0.0.1:8080/",
            "http://localhost:81/",
            "https://10.1.2.3/",
            "http://[::1]/",
        ] {
            assert!(guard.check_url(url).is_ok(), "{url}");
        }
        for url in [
            "http://0.0.0.0/",
            "http://224.0.0.1/",
            "http://[ff02::1]/",
            "http://[::ffff:0.0.0.0]/",
            "http://a@localhost/",
            "ftp://localhost/",
        ] {
            assert!(guard.check_url(url).is_err(), "{url}");
        }
    }
}
