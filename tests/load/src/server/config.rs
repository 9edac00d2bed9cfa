//! Configuration of the server under test.

use std::{fmt::Write as _, net::SocketAddr, time::Duration};

use super::certificate::{CERTIFICATE_FILE, KEY_FILE};

/// Namespace of the published messages.
pub(crate) const NAMESPACE: &str = "bench";

/// Settings that differ between runs.
#[derive(Debug, Clone)]
pub(crate) struct ServerConfig {
    /// Venue address and price symbols, if any.
    pub(crate) prices: Option<(SocketAddr, Vec<String>)>,
    pub(crate) drain: Duration,
    /// History size of a channel, in publications.
    pub(crate) history: usize,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            prices: None,
            drain: Duration::from_secs(10),
            history: 1_000,
        }
    }
}

impl ServerConfig {
    /// Returns the configuration file. It removes limits on connections and rates, and
    /// tolerates a venue that is silent between windows. Other settings keep their defaults. With
    /// TLS, it names the certificate in the server's folder.
    pub(crate) fn toml(&self, has_tls: bool) -> String {
        let Self {
            prices,
            drain,
            history,
        } = self;
        let symbols: Vec<_> = prices.iter().flat_map(|(_, symbols)| symbols).collect();
        let tls = match has_tls {
            true => format!("tls_cert = {CERTIFICATE_FILE:?}\ntls_key = {KEY_FILE:?}\n"),
            false => String::new(),
        };
        let mut text = format!(
            r#"[server]
listen = "127.0.0.1:0"
drain = "{}ms"
{tls}[auth]
anonymous = true
hmac_secret = "a secret of the load tool, which is not secret"
[limits]
connections_per_ip = 0
connections_per_user = 0
messages_per_second = 0
channels_per_client = 0
bytes_per_second = 0
handshakes_per_second = 0
[[namespace]]
name = "{NAMESPACE}"
class = "history"
history_size = {history}
history_ttl = "10m"
access = "public"
publish = "public"
[prices]
symbols = {symbols:?}
watchdog_ms = 600000
"#,
            drain.as_millis()
        );
        if let Some((venue, _)) = prices {
            // Writing to a string does not fail.
            let _ = write!(
                text,
                "[[prices.source]]\nkind = \"binance\"\nurl = \"ws://{venue}/stream\"\nclock = \"arrival\"\n"
            );
        }
        text
    }
}
