//! Address of a Redis server: the parts of `broker.url`.

use std::{fmt, time::Duration};

use crate::{cluster::Cluster, sentinels::Sentinels, tls::RedisTls};

/// The usual port of Redis.
const PORT: u16 = 6_379;

/// The server of a URL such as `redis://user:password@host:6379/0`, and how to sign in there.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisAddress {
    /// The host.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The user. None for the default one.
    pub user: Option<String>,
    /// The password.
    pub password: Option<String>,
    /// The number of the database.
    pub database: u32,
    /// Whether connections are encrypted.
    pub is_tls: bool,
}

impl RedisAddress {
    /// Reads a URL.
    ///
    /// # Errors
    /// The part that is wrong, and what was expected. The password is not in it.
    pub fn parse(url: &str) -> Result<Self, String> {
        Self::parse_with(url, PORT)
    }

    /// Reads a URL of a server with another usual port.
    ///
    /// # Errors
    /// As those of [`parse`](Self::parse).
    pub fn parse_with(url: &str, usual_port: u16) -> Result<Self, String> {
        let expected = "expected redis://HOST:PORT, redis://:PASSWORD@HOST:PORT or redis://USER:PASSWORD@HOST:PORT/DATABASE, or rediss:// for TLS";
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(format!("has no scheme, {expected}"));
        };
        let is_tls = match scheme {
            "redis" => false,
            "rediss" => true,
            "redis+sentinel" | "redis-sentinel" => {
                return Err(format!(
                    "has the scheme {scheme:?}, expected redis://MASTER, where MASTER is the name that the sentinels of broker.sentinels watch it under"
                ));
            }
            "redis+cluster" | "redis-cluster" => {
                return Err(format!(
                    "has the scheme {scheme:?}, expected redis://USER:PASSWORD@cluster, and some servers of the cluster in broker.cluster"
                ));
            }
            _ => return Err(format!("has the scheme {scheme:?}, {expected}")),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if path.contains('@') {
            return Err("has a `/` before the host, expected %2F in a password".to_owned());
        }
        if path.contains(['?', '#', '/']) {
            return Err(format!(
                "has more than a database after the host, {expected}"
            ));
        }
        let database = match path {
            "" => 0,
            path => path
                .parse()
                .map_err(|_| format!("names the database {path:?}, expected a number"))?,
        };
        let (sign_in, address) = match authority.rsplit_once('@') {
            Some((sign_in, address)) => (Some(sign_in), address),
            None => (None, authority),
        };
        let (user, password) = match sign_in.map(|text| text.split_once(':').unwrap_or(("", text)))
        {
            None => (None, None),
            Some((user, password)) => {
                let user = unescape(user).filter(|user| !user.is_empty());
                let password = unescape(password).ok_or(
                    "has a password with a wrong escape, expected %XX for special characters",
                )?;
                (user, Some(password))
            }
        };
        // Without a host, what stands here may be a password.
        let (host, port) = host_and_port(address, usual_port)
            .ok_or_else(|| format!("has no host, or a wrong port after it, {expected}"))?;
        Ok(Self {
            host,
            port,
            user,
            password,
            database,
            is_tls,
        })
    }
}

impl RedisAddress {
    /// Whether connections are encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.is_tls
    }
}

/// The host and the port. An IPv6 address is in brackets.
fn host_and_port(address: &str, usual_port: u16) -> Option<(String, u16)> {
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            (host, port.strip_prefix(':'))
        }
        None => match address.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        },
    };
    let port = match port {
        Some(port) => port.parse().ok().filter(|port| *port > 0)?,
        None => usual_port,
    };
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

/// Replaces `%XX`. None if an escape is wrong.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, others)) = rest.split_first() {
        rest = others;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, others) = rest.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = others;
    }
    String::from_utf8(bytes).ok()
}

impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "rediss" } else { "redis" };
        match self.host.contains(':') {
            true => write!(f, "{scheme}://[{}]:{}", self.host, self.port),
            false => write!(f, "{scheme}://{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Debug for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Options of a Redis broker, which the operator sets.
#[derive(Debug, Clone)]
pub struct RedisOptions {
    /// The server. With sentinels, its host is the name that they watch the master under. With a
    /// cluster, only how to sign in.
    pub address: RedisAddress,
    /// The servers of a cluster.
    pub cluster: Cluster,
    /// The sentinels of a Redis that fails over.
    pub sentinels: Sentinels,
    /// Certificates of connections to an address with `rediss://`.
    pub tls: RedisTls,
    /// Beginning of all keys and channels, so that several clusters can share a server.
    pub prefix: String,
    /// Longest wait for an answer. A publication or a subscription fails after it.
    pub timeout: Duration,
    /// Bytes of publications that wait for Redis. Beyond, a publication is refused.
    pub buffer_bytes: usize,
    /// Time between two comparisons of all channels, and of the revocations, with Redis.
    pub comparison: Duration,
    /// Versions of the protocol between nodes that this one speaks.
    pub protocol: NodeProtocol,
}

/// Versions of the protocol between nodes that a node speaks: it joins nodes with which it has one in
/// common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeProtocol {
    /// The oldest one.
    pub oldest: u32,
    /// The newest one.
    pub newest: u32,
}

impl NodeProtocol {
    /// Those of this release.
    pub const CURRENT: Self = Self {
        oldest: 1,
        newest: 1,
    };
}

impl RedisOptions {
    /// The usual time between two comparisons: a message that pub/sub lost on a channel that is
    /// quiet since is missing for so long at most.
    pub const COMPARISON: Duration = Duration::from_secs(30);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_a_host_and_may_have_more() {
        let plain = RedisAddress::parse("redis://cache").unwrap();
        assert_eq!(
            (&*plain.host, plain.port, plain.database),
            ("cache", PORT, 0)
        );
        assert_eq!((plain.user, plain.password), (None, None));
        let full = RedisAddress::parse("redis://me:p%40s:s@[::1]:7000/3").unwrap();
        assert_eq!((&*full.host, full.port, full.database), ("::1", 7_000, 3));
        assert_eq!(full.user.as_deref(), Some("me"));
        assert_eq!(full.password.as_deref(), Some("p@s:s"));
        assert_eq!(format!("{full:?}"), "redis://[::1]:7000");
        let secure = RedisAddress::parse("rediss://cache").unwrap();
        assert_eq!(secure.to_string(), "rediss://cache:6379");
        let alone = RedisAddress::parse("redis://:secret@cache").unwrap();
        assert_eq!(
            (alone.user, alone.password.as_deref()),
            (None, Some("secret"))
        );
    }

    #[test]
    fn a_wrong_url_is_explained_without_its_password() {
        for (url, part) in [
            ("cache:6379", "no scheme"),
            ("http://cache", "\"http\""),
            ("redis+sentinel://cache", "broker.sentinels"),
            ("redis+cluster://cache", "broker.cluster"),
            ("redis://", "no host"),
            ("redis://cache:0", "wrong port"),
            ("redis://cache/x", "database"),
            ("redis://:secret@cache:port", "wrong port"),
            ("redis://me:secret", "no host"),
            ("redis://:secret%2@cache", "escape"),
            ("redis://:se/secret@cache", "%2F"),
        ] {
            let error = RedisAddress::parse(url).unwrap_err();
            assert!(
                error.contains(part) && error.contains("expected"),
                "{url}: {error}"
            );
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
