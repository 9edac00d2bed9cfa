//! Network key: the unit in which client addresses are counted.

use std::{fmt, net::IpAddr};

use ipnet::Ipv6Net;

/// The network bits of an IPv6 address that count. A host usually owns all
/// addresses below them.
const IPV6_PREFIX: u8 = 64;

/// An IPv4 address, or an IPv6 network of 64 bits. Limits count each as one client
/// address. IPv4 addresses mapped into IPv6 count as IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NetworkKey(IpAddr);

impl NetworkKey {
    /// The address, or the first one of the network. Its key is this key again.
    #[must_use]
    pub fn address(self) -> IpAddr {
        self.0
    }
}

impl From<IpAddr> for NetworkKey {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => IpAddr::V4(address),
            IpAddr::V6(address) => {
                let network = Ipv6Net::new_assert(address, IPV6_PREFIX);
                IpAddr::V6(network.network())
            }
        })
    }
}

impl fmt::Display for NetworkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => write!(f, "{address}"),
            IpAddr::V6(address) => write!(f, "{address}/{IPV6_PREFIX}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_network_of_64_bits_is_one_key() {
        let key = |text: &str| NetworkKey::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(key("2001:db8:1:2::1"), key("2001:db8:1:2:ffff::9"));
        assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
        assert_ne!(key("10.0.0.1"), key("10.0.0.2"));
        assert_eq!(key("::ffff:10.0.0.1"), key("10.0.0.1"));
        assert_eq!(key("2001:db8:1:2::1").to_string(), "2001:db8:1:2::/64");
        let network = key("2001:db8:1:2::1");
        assert_eq!(NetworkKey::from(network.address()), network);
    }
}
