//! Endpoint address: parses the URL or path of a node, and prints it without secrets.
//!
//! The path and the query of a URL often hold an API key. Logs and metrics therefore show the
//! scheme and the host alone: `wss://node.example/v3/KEY` is printed as `wss://node.example`.

use std::{fmt, path::PathBuf, str::FromStr};

use reqwest::Url;

/// The address of a node.
#[derive(Clone, PartialEq, Eq)]
pub enum Address {
    /// `ws://…` or `wss://…`.
    WebSocket(Url),
    /// `http://…` or `https://…`.
    Http(Url),
    /// The path of a local IPC socket.
    Ipc(PathBuf),
}

/// The reason why a text is not an endpoint address. It does not contain the text, as that may
/// hold an API key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The text is not a URL.
    #[error("an endpoint is not a valid URL: {0}, expected wss://…, https://… or a path")]
    Malformed(String),
    /// The scheme is not supported.
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
    /// Writes the scheme and the host, as the rest may hold a key.
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
    fn an_address_is_printed_without_secrets() {
        for (text, expected) in [
            (
                "wss://user:secret@node.example/v3/secret",
                "wss://node.example",
            ),
            ("http://127.0.0.1:8545/?key=secret", "http://127.0.0.1:8545"),
            ("/run/node.ipc", "/run/node.ipc"),
            ("ipc:///run/node.ipc", "/run/node.ipc"),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(
                format!("{address} {address:?}"),
                format!("{expected} {expected}")
            );
        }
    }

    #[test]
    fn an_invalid_address_is_refused_and_not_quoted() {
        let error = |text: &str| text.parse::<Address>().unwrap_err().to_string();
        assert!(error("ftp://secret").contains("\"ftp\""));
        assert!(error("node.example").contains("expected wss://"));
        assert!(!error("ht!tp://secret").contains("secret"));
    }
}
