//! Endpoint address: parses the URL or path of a node, and prints it without secrets.
//!
//! The path and the query of a URL often hold an API key. Logs and metrics therefore show the
//! scheme and the host alone: `wss://node.example/v3/KEY` is printed as `wss://node.example`. A
//! node may quote its URL, so these parts are removed from its texts too.

use std::{fmt, path::PathBuf, str::FromStr};

use reqwest::Url;
use tidewire_stream::{quotable_url, redact_url};

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

/// The reason why a text is not an endpoint address. It quotes the scheme and the host alone, as the
/// rest may hold an API key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The text is not a URL.
    #[error("{text:?} is not a URL: {reason}, expected wss://…, https://… or a path")]
    Malformed {
        /// The part of the text that may be shown.
        text: String,
        /// The reason.
        reason: String,
    },
    /// The scheme is not supported.
    #[error("{text:?} has the scheme {scheme:?}, expected ws, wss, http, https, or a path")]
    Scheme {
        /// The part of the text that may be shown.
        text: String,
        /// The scheme.
        scheme: String,
    },
}

impl Address {
    /// A text of the node without the parts of the URL that may hold a key.
    pub(crate) fn redact(&self, text: &str) -> String {
        match self {
            Self::WebSocket(url) | Self::Http(url) => redact_url(text, url.as_str()),
            Self::Ipc(_) => text.to_owned(),
        }
    }
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
        let url = Url::parse(text).map_err(|error| AddressError::Malformed {
            text: quotable_url(text),
            reason: error.to_string(),
        })?;
        match url.scheme() {
            "ws" | "wss" => Ok(Self::WebSocket(url)),
            "http" | "https" => Ok(Self::Http(url)),
            // `node.example:8545` has the host in the place of a scheme.
            _ if !text.contains("://") => Err(AddressError::Malformed {
                text: quotable_url(text),
                reason: "it has no scheme".to_owned(),
            }),
            other => Err(AddressError::Scheme {
                text: quotable_url(text),
                scheme: other.to_owned(),
            }),
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
    fn an_invalid_address_is_refused_and_quoted_without_secrets() {
        let error = |text: &str| text.parse::<Address>().unwrap_err().to_string();
        for (text, expected) in [
            (
                "ftp://user:secret@node.example/secret",
                "\"ftp://node.example\" has the scheme \"ftp\", expected",
            ),
            ("node.example/secret", "\"node.example\" is not a URL: "),
            (
                "user:secret@node.example/secret",
                "\"node.example\" is not a URL: it has no scheme, expected wss://",
            ),
            (
                "node.example:8545?key=secret",
                "\"node.example:8545\" is not a URL: ",
            ),
            ("ht!tp://node.example/secret", "\"ht!tp:\" is not a URL: "),
        ] {
            let error = error(text);
            assert!(error.starts_with(expected), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
