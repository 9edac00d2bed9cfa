//! The configuration: one TOML file, overridden by the environment.
//!
//! Every key of the documented configuration is accepted. Those whose part of the
//! server is not built yet are refused or reported by name, never passed over.

use std::{net::SocketAddr, num::NonZero, path::PathBuf, time::Duration};

use anyhow::bail;
use figment::{
    Figment,
    error::Kind,
    providers::{Env, Format as _, Toml},
};
use serde::{Deserialize, Deserializer, de::Error as _};
use tidewire_adapters::ProxyHeader;
use tidewire_chain::ChainConfig;
use tidewire_price::PriceConfig;
use tidewire_stream::{
    Access, BatchInterval, Class, Namespace, PublishRight, StreamOptions, auth::MIN_SECRET_BYTES,
};

use crate::security;

/// All of it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) server: ServerConfig,
    pub(crate) auth: AuthConfig,
    pub(crate) broker: BrokerConfig,
    pub(crate) store: StoreConfig,
    pub(crate) stream: StreamConfig,
    pub(crate) limits: LimitsConfig,
    pub(crate) namespace: Vec<NamespaceConfig>,
    pub(crate) prices: PriceConfig,
    pub(crate) chain: Vec<ChainConfig>,
    pub(crate) log: LogConfig,
    /// The file that it was read from.
    #[serde(skip)]
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ServerConfig {
    pub(crate) listen: SocketAddr,
    pub(crate) admin_listen: Option<SocketAddr>,
    pub(crate) allowed_origins: Vec<String>,
    #[serde(deserialize_with = "duration")]
    pub(crate) drain: Duration,
    pub(crate) tls_cert: Option<PathBuf>,
    pub(crate) tls_key: Option<PathBuf>,
    pub(crate) threads: usize,
    pub(crate) compression: bool,
    pub(crate) tls_client_ca: Option<PathBuf>,
    pub(crate) trusted_proxies: Vec<String>,
    pub(crate) proxy_header: ProxyHeader,
}

impl ServerConfig {
    /// One shard for each core that this process may use, or as many as configured.
    fn shards(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, NonZero::get),
            threads => threads,
        }
    }
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            admin_listen: None,
            allowed_origins: Vec::new(),
            drain: Duration::from_secs(10),
            tls_cert: None,
            tls_key: None,
            threads: 0,
            compression: true,
            tls_client_ca: None,
            trusted_proxies: Vec::new(),
            proxy_header: ProxyHeader::default(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AuthConfig {
    pub(crate) anonymous: bool,
    pub(crate) hmac_secret: Option<String>,
    pub(crate) jwks_url: Option<String>,
    pub(crate) jwks_ca: Option<PathBuf>,
    pub(crate) public_key_file: Option<PathBuf>,
    #[serde(deserialize_with = "one_or_many")]
    pub(crate) audience: Vec<String>,
    #[serde(deserialize_with = "one_or_many")]
    pub(crate) issuer: Vec<String>,
    #[serde(deserialize_with = "duration")]
    pub(crate) leeway: Duration,
}

impl AuthConfig {
    /// Whether tokens can be proved without a secret.
    pub(crate) fn has_public_keys(&self) -> bool {
        self.jwks_url.is_some() || self.public_key_file.is_some()
    }
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            anonymous: true,
            hmac_secret: None,
            jwks_url: None,
            jwks_ca: None,
            public_key_file: None,
            audience: Vec::new(),
            issuer: Vec::new(),
            leeway: Duration::ZERO,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct BrokerConfig {
    pub(crate) kind: BrokerKind,
    pub(crate) url: Option<String>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BrokerKind {
    #[default]
    Memory,
    Redis,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct StoreConfig {
    pub(crate) kind: StoreKind,
    pub(crate) path: PathBuf,
    pub(crate) url: Option<String>,
    pub(crate) inbox_items: u32,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            kind: StoreKind::Embedded,
            path: "tidewire-data".into(),
            url: None,
            inbox_items: 10_000,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StoreKind {
    Embedded,
    Redis,
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct StreamConfig {
    pub(crate) batch_interval_ms: u64,
    pub(crate) busy_batch_interval_ms: u64,
    pub(crate) gather_ms: u64,
    #[serde(deserialize_with = "duration")]
    pub(crate) idempotency_window: Duration,
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self {
            batch_interval_ms: 50,
            busy_batch_interval_ms: 80,
            gather_ms: 15,
            idempotency_window: Duration::from_secs(5 * 60),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LimitsConfig {
    pub(crate) connections_per_ip: u32,
    pub(crate) connections_per_user: u32,
    pub(crate) channels_per_connection: usize,
    pub(crate) messages_per_second: u32,
    pub(crate) bytes_per_second: u32,
    pub(crate) handshakes_per_second: u32,
    pub(crate) concurrent_handshakes: usize,
    #[serde(deserialize_with = "duration")]
    pub(crate) handshake_timeout: Duration,
    #[serde(deserialize_with = "duration")]
    pub(crate) idle_timeout: Duration,
    pub(crate) frame_bytes: usize,
    pub(crate) outbox_bytes: usize,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            connections_per_ip: 1_000,
            connections_per_user: 0,
            channels_per_connection: 1_000,
            messages_per_second: 1_000,
            bytes_per_second: 16 << 20,
            handshakes_per_second: 0,
            concurrent_handshakes: 4_096,
            handshake_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            frame_bytes: 64 << 10,
            outbox_bytes: 256 << 10,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NamespaceConfig {
    name: String,
    class: Option<Class>,
    history_size: Option<usize>,
    #[serde(default, deserialize_with = "some_duration")]
    history_ttl: Option<Duration>,
    access: Option<Access>,
    publish: Option<PublishRight>,
}

impl NamespaceConfig {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Who may read it, if that is all that is said of it.
    pub(crate) fn access_alone(&self) -> Option<Access> {
        let says_more = self.class.is_some()
            || self.history_size.is_some()
            || self.history_ttl.is_some()
            || self.publish.is_some();
        self.access.filter(|_| !says_more)
    }

    pub(crate) fn namespace(&self) -> Namespace {
        let default = Namespace::history(&self.name);
        Namespace {
            class: self.class.unwrap_or(default.class),
            history_size: self.history_size.unwrap_or(default.history_size),
            history_ttl: self.history_ttl.unwrap_or(default.history_ttl),
            access: self.access.unwrap_or(default.access),
            publish: self.publish.unwrap_or(default.publish),
            opening: default.opening,
            name: default.name,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LogConfig {
    pub(crate) format: LogFormat,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LogFormat {
    #[default]
    Human,
    Json,
}

impl Config {
    /// Reads the file, if there is one, and the environment.
    pub(crate) fn load(file: Option<&PathBuf>) -> anyhow::Result<Self> {
        let mut figment = Figment::new();
        if let Some(file) = file {
            if !file.is_file() {
                bail!("there is no configuration file {}", file.display());
            }
            figment = figment.merge(Toml::file_exact(file));
        }
        // Every key is in a table, so its variable has `__`. Others of the prefix, such
        // as `TIDEWIRE_LOG`, are not about the configuration.
        let variables = Env::prefixed("TIDEWIRE_").filter(|name| name.as_str().contains("__"));
        figment = figment.merge(variables.split("__"));
        let mut config: Self = figment.extract().map_err(|errors| {
            let texts: Vec<_> = errors.into_iter().map(|error| explain(&error)).collect();
            anyhow::anyhow!(texts.join("\n"))
        })?;
        config.file = file.cloned();
        config.check()?;
        Ok(config)
    }

    /// What can be known to be wrong without starting.
    fn check(&self) -> anyhow::Result<()> {
        if self.broker.kind == BrokerKind::Redis || self.broker.url.is_some() {
            bail!("broker.kind = \"redis\" is not built yet, expected \"memory\"");
        }
        if self.store.kind == StoreKind::Redis || self.store.url.is_some() {
            bail!("store.kind = \"redis\" is not built yet, expected \"embedded\"");
        }
        security::tls_files(&self.server)?;
        security::trusted_proxies(&self.server)?;
        if self.server.admin_listen.is_some() {
            bail!("server.admin_listen is not built yet");
        }
        let has_keys = self.auth.hmac_secret.is_some() || self.auth.has_public_keys();
        if !has_keys && !self.server.listen.ip().is_loopback() {
            bail!(
                "auth.hmac_secret is missing, expected a secret of 32 bytes at least, or auth.public_key_file or auth.jwks_url, on a server that is not on loopback"
            );
        }
        if let Some(secret) = &self.auth.hmac_secret
            && secret.len() < MIN_SECRET_BYTES
        {
            bail!(
                "auth.hmac_secret is {} bytes long, expected {MIN_SECRET_BYTES} at least",
                secret.len()
            );
        }
        for (key, value) in [
            ("limits.handshake_timeout", self.limits.handshake_timeout),
            ("limits.idle_timeout", self.limits.idle_timeout),
        ] {
            if value < Duration::from_millis(100) {
                bail!("{key} is {value:?}, expected 100ms at least");
            }
        }
        if self.limits.frame_bytes < 1_024 {
            bail!(
                "limits.frame_bytes is {}, expected 1024 at least",
                self.limits.frame_bytes
            );
        }
        if self.limits.outbox_bytes < 4_096 {
            bail!(
                "limits.outbox_bytes is {}, expected 4096 at least",
                self.limits.outbox_bytes
            );
        }
        self.prices.check()?;
        ChainConfig::check_all(&self.chain)?;
        Ok(())
    }

    /// What is set and does nothing yet.
    pub(crate) fn not_built(&self) -> Vec<&'static str> {
        let set = [(
            self.store.inbox_items != StoreConfig::default().inbox_items,
            "store.inbox_items",
        )];
        set.into_iter()
            .filter(|(is_set, _)| *is_set)
            .map(|(_, key)| key)
            .collect()
    }

    pub(crate) fn stream_options(&self) -> StreamOptions {
        StreamOptions {
            outbox_bytes: self.limits.outbox_bytes,
            channels_per_connection: self.limits.channels_per_connection,
            batch_interval: BatchInterval {
                usual: Duration::from_millis(self.stream.batch_interval_ms),
                busy: Duration::from_millis(self.stream.busy_batch_interval_ms),
            },
            publication_bytes: self.limits.frame_bytes,
            idempotency_window: self.stream.idempotency_window,
            shards: self.server.shards(),
            max_write_pause: Duration::from_millis(self.stream.gather_ms),
            transports: &tidewire_adapters::TRANSPORTS,
            ..StreamOptions::default()
        }
    }
}

/// An error with the key, and for an unknown key the nearest known one.
fn explain(error: &figment::Error) -> String {
    let path = error.path.join(".");
    let place = error
        .metadata
        .as_ref()
        .map(|metadata| format!(" ({})", metadata.name))
        .unwrap_or_default();
    match &error.kind {
        Kind::UnknownField(name, known) => {
            let key = if path.is_empty() || path.ends_with(name.as_str()) {
                path
            } else {
                format!("{path}.{name}")
            };
            let key = if key.is_empty() { name.clone() } else { key };
            let near = known
                .iter()
                .map(|known| (strsim::jaro_winkler(name, known), known))
                .filter(|(score, _)| *score > 0.7)
                .max_by(|a, b| a.0.total_cmp(&b.0));
            let hint = match near {
                Some((_, near)) => format!("did you mean `{near}`?"),
                None => format!("expected one of {}", known.join(", ")),
            };
            format!("unknown key `{key}`{place}: {hint}")
        }
        kind if path.is_empty() => format!("{kind}{place}"),
        kind => format!("`{path}`: {kind}{place}"),
    }
}

/// A duration such as `500ms`, `10s`, `5m` or `24h`.
fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => 0,
    };
    match number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(milliseconds))
    {
        Some(total) if milliseconds > 0 => Ok(Duration::from_millis(total)),
        _ => Err(D::Error::custom(format!(
            "{text:?} is not a duration, expected a number and ms, s, m or h, for example \"10s\""
        ))),
    }
}

/// A text, or a list of texts.
fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a text or a list of texts")]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(text) => vec![text],
        OneOrMany::Many(texts) => texts,
    })
}

fn some_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    duration(deserializer).map(Some)
}
