//! Where an endpoint is, and how it is named without its secrets.

use std::{fmt, path::PathBuf, str::FromStr};

use reqwest::Url;

/// Where an endpoint is.
#[derive(Clone, PartialEq, Eq)]
pub enum Address {
    /// `ws://…` or `wss://…`.
    WebSocket(Url),
    /// `http://…` or `https://…`.
    Http(Url),
    /// The path of a socket on this machine.
    Ipc(PathBuf),
}

/// Why a text is no address of an endpoint. It does not hold the text: keys are part
/// of many addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It cannot be read as a URL.
    #[error("an endpoint cannot be read as a URL: {0}, expected wss://…, https://… or a path")]
    Malformed(String),
    /// Its scheme is another.
    #[error("an endpoint has the scheme {0:?}, expected ws, wss, http, https, or a path")]
    Scheme(String),
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix("ipc://") {
            return Ok(Self::Ipc(path.into()));
        }
        if text.starts_with(['/', '.']) {
            return Ok(Self::Ipc(text.into()));
        }
        let url = Url::parse(text).map_err(|error| AddressError::Malformed(error.to_string()))?;
        match url.scheme() {
            "ws" | "wss" => Ok(Self::WebSocket(url)),
            "http" | "https" => Ok(Self::Http(url)),
            other => Err(AddressError::Scheme(other.to_owned())),
        }
    }
}

impl fmt::Display for Address {
    /// The scheme and the host: the rest may be a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = match self {
            Self::Ipc(path) => return write!(f, "{}", path.display()),
            Self::WebSocket(url) | Self::Http(url) => url,
        };
        write!(f, "{}://{}", url.scheme(), url.host_str().unwrap_or("?"))?;
        url.port().map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_secrets() {
        for (text, shown) in [
            (
                "wss://user:secret@node.example/v3/secret",
                "wss://node.example",
            ),
            ("http://127.0.0.1:8545/?key=secret", "http://127.0.0.1:8545"),
            ("/run/node.ipc", "/run/node.ipc"),
            ("ipc:///run/node.ipc", "/run/node.ipc"),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(format!("{address} {address:?}"), format!("{shown} {shown}"));
        }
    }

    #[test]
    fn what_is_no_address_is_refused_without_being_told() {
        let error = |text: &str| text.parse::<Address>().unwrap_err().to_string();
        assert!(error("ftp://secret").contains("\"ftp\""));
        assert!(error("node.example").contains("expected wss://"));
        assert!(!error("ht!tp://secret").contains("secret"));
    }
}
