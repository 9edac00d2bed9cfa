//! The configuration of the server under test.

use std::{fmt::Write as _, net::SocketAddr, time::Duration};

/// The namespace that is published to.
pub(crate) const NAMESPACE: &str = "bench";

/// What differs from run to run.
#[derive(Debug, Clone)]
pub(crate) struct ServerConfig {
    /// The venue and the symbols of the prices, if there are any.
    pub(crate) prices: Option<(SocketAddr, Vec<String>)>,
    pub(crate) drain: Duration,
    /// Publications that a channel keeps.
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
    /// The file. No limits on connections and rates; a venue that is silent between
    /// windows, or while the machine stands still, is not given up; everything else
    /// as it is by default.
    pub(crate) fn toml(&self) -> String {
        let Self {
            prices,
            drain,
            history,
        } = self;
        let symbols: Vec<_> = prices.iter().flat_map(|(_, symbols)| symbols).collect();
        let mut text = format!(
            r#"[server]
listen = "127.0.0.1:0"
drain = "{}ms"
[auth]
anonymous = true
hmac_secret = "a secret of the load tool, which is not secret"
[limits]
connections_per_ip = 0
connections_per_user = 0
messages_per_second = 0
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
