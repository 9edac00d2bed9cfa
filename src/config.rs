//! Configuration: one TOML file, overridden by the environment.
//!
//! Every key of `tidewire.example.toml` is declared here, in `tidewire_price::config` or in
//! `tidewire_chain::config`. A key whose part of the server is not built yet is refused by name.
//! Durations have one form, `"15ms"` or `"5m"`; `millisecond_keys` accepts
//! the earlier integers.

mod bounds;
mod entries;
mod environment;
mod explain;
mod lines;
mod millisecond_keys;
mod reading;
mod stand_ins;
mod tables;
mod toml_texts;
mod twins;
mod values;

use std::{fmt, net::SocketAddr, num::NonZero, path::PathBuf, time::Duration};

use serde::Deserialize;
use tidewire_adapters::ProxyHeader;
use tidewire_alert::AlertConfig;
use tidewire_chain::ChainConfig;
use tidewire_delivery::{DeliveryConfig, DeliveryError};
use tidewire_notification::NotificationConfig;
use tidewire_price::PriceConfig;
use tidewire_stream::{
    Access, BatchInterval, Class, Namespace, Namespaces, PublishRight, StreamOptions,
    auth::MIN_SECRET_BYTES, hub::Hub, quotable_url, redacted_url,
};

use crate::{
    broker, chain_owner, notifications,
    roles::{self, Role},
    security,
};
use explain::explain_all;

pub(crate) use environment::{check_log_filter, unknown_variables};
pub(crate) use reading::{Overrides, Reading};

/// The whole configuration.
#[derive(Debug, Clone, Default, Deserialize)]
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
    pub(crate) notifications: NotificationsConfig,
    pub(crate) delivery: DeliveryConfig,
    pub(crate) alerts: AlertsConfig,
    pub(crate) log: LogConfig,
    /// The file that the configuration was read from.
    #[serde(skip)]
    pub(crate) file: Option<PathBuf>,
    /// The settings of the command line.
    #[serde(skip)]
    pub(crate) overrides: Overrides,
    /// Whether anything but the address and the form of the log is configured.
    #[serde(skip)]
    pub(crate) is_configured: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ServerConfig {
    #[serde(deserialize_with = "values::socket_address")]
    pub(crate) listen: SocketAddr,
    #[serde(deserialize_with = "values::optional_socket_address")]
    pub(crate) admin_listen: Option<SocketAddr>,
    pub(crate) allowed_origins: Vec<String>,
    #[serde(with = "humantime_serde")]
    pub(crate) drain: Duration,
    #[serde(with = "humantime_serde")]
    pub(crate) keepalive: Duration,
    pub(crate) tls_cert: Option<PathBuf>,
    pub(crate) tls_key: Option<PathBuf>,
    pub(crate) threads: usize,
    pub(crate) compression: bool,
    pub(crate) tls_client_ca: Option<PathBuf>,
    pub(crate) trusted_proxies: Vec<String>,
    pub(crate) proxy_header: ProxyHeader,
    pub(crate) roles: Vec<String>,
}

impl ServerConfig {
    /// The number of shards: as configured, or one for each core that this process may use.
    fn shards(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, NonZero::get);
        match self.threads {
            0 => cores().min(Hub::MAX_SHARDS),
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
            keepalive: Duration::from_secs(25),
            tls_cert: None,
            tls_key: None,
            threads: 0,
            compression: true,
            tls_client_ca: None,
            trusted_proxies: Vec::new(),
            proxy_header: ProxyHeader::default(),
            roles: vec![Role::All.name().to_owned()],
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AuthConfig {
    pub(crate) anonymous: bool,
    pub(crate) hmac_secret: Option<String>,
    #[serde(deserialize_with = "values::text_if_any")]
    pub(crate) hmac_secret_previous: Option<String>,
    pub(crate) jwks_url: Option<String>,
    pub(crate) jwks_ca: Option<PathBuf>,
    pub(crate) public_key_file: Option<PathBuf>,
    #[serde(deserialize_with = "values::one_or_many")]
    pub(crate) audience: Vec<String>,
    #[serde(deserialize_with = "values::one_or_many")]
    pub(crate) issuer: Vec<String>,
    #[serde(with = "humantime_serde")]
    pub(crate) leeway: Duration,
}

impl AuthConfig {
    /// Whether public keys for tokens are configured.
    pub(crate) fn has_public_keys(&self) -> bool {
        self.jwks_url.is_some() || self.public_key_file.is_some()
    }

    /// The reason why the previous secret is none.
    fn previous_fault(&self) -> Option<String> {
        let previous = self.hmac_secret_previous.as_ref()?;
        // A secret that is none at all has a fault of its own.
        if previous.len() < MIN_SECRET_BYTES {
            return None;
        }
        let problem = match &self.hmac_secret {
            None => {
                "is set, and auth.hmac_secret is not, expected the new secret in auth.hmac_secret"
            }
            Some(secret) if secret == previous => {
                "is the same as auth.hmac_secret, expected the secret before it, or none"
            }
            Some(_) => return None,
        };
        Some(format!("auth.hmac_secret_previous {problem}"))
    }
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            anonymous: true,
            hmac_secret: None,
            hmac_secret_previous: None,
            jwks_url: None,
            jwks_ca: None,
            public_key_file: None,
            audience: Vec::new(),
            issuer: Vec::new(),
            leeway: Duration::ZERO,
        }
    }
}

#[derive(Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct BrokerConfig {
    pub(crate) kind: BrokerKind,
    pub(crate) url: Option<String>,
    pub(crate) sentinels: Vec<String>,
    pub(crate) cluster: Vec<String>,
    pub(crate) prefix: String,
    #[serde(with = "humantime_serde")]
    pub(crate) timeout: Duration,
    pub(crate) buffer_bytes: usize,
    /// Whether one node publishes prices for all.
    pub(crate) share_prices: bool,
    /// Whether one node follows each chain for all.
    pub(crate) share_chains: bool,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) tls_cert: Option<PathBuf>,
    pub(crate) tls_key: Option<PathBuf>,
}

impl fmt::Debug for BrokerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may hold a password.
        f.debug_struct("BrokerConfig")
            .field("kind", &self.kind)
            .field("url", &self.url.as_deref().map(redacted_url))
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            kind: BrokerKind::Memory,
            url: None,
            sentinels: Vec::new(),
            cluster: Vec::new(),
            prefix: "tidewire".to_owned(),
            timeout: Duration::from_secs(5),
            buffer_bytes: 64 << 20,
            share_prices: false,
            share_chains: false,
            ca_file: None,
            tls_cert: None,
            tls_key: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BrokerKind {
    Memory,
    Redis,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct StoreConfig {
    pub(crate) kind: StoreKind,
    pub(crate) path: PathBuf,
    pub(crate) url: Option<String>,
    pub(crate) inbox_items: u32,
    pub(crate) replicas: u32,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            kind: StoreKind::Embedded,
            path: "tidewire-data".into(),
            url: None,
            inbox_items: 10_000,
            replicas: 0,
        }
    }
}

/// Longest name of a file, in bytes, as the usual file systems have it.
const MAX_NAME_BYTES: usize = 255;

impl StoreConfig {
    /// The reason why no folder can have this path.
    fn path_fault(&self) -> Option<String> {
        let path = self.path.as_os_str().as_encoded_bytes();
        if path.is_empty() {
            return Some("store.path is empty, expected a folder".to_owned());
        }
        if path.contains(&0) {
            return Some("store.path has a NUL character, expected a folder".to_owned());
        }
        let names = self.path.iter().map(|name| name.len());
        let longest = names.max().filter(|length| *length > MAX_NAME_BYTES)?;
        Some(format!(
            "store.path has a name of {longest} bytes, expected names of {MAX_NAME_BYTES} bytes at most"
        ))
    }

    fn check(&self, broker: BrokerKind, problems: &mut Vec<String>) {
        let is_redis = self.kind == StoreKind::Redis;
        if is_redis && broker != BrokerKind::Redis {
            problems.push(
                "store.kind is \"redis\", and broker.kind is \"memory\", expected broker.kind = \"redis\": the store is in the Redis of [broker]"
                    .to_owned(),
            );
        }
        problems.extend(self.path_fault());
        if let Some(url) = &self.url {
            problems.push(format!(
                "store.url is {:?}, expected no URL: the store is in the Redis of broker.url",
                quotable_url(url)
            ));
        }
        if self.replicas > 0 && !is_redis {
            problems.push(format!(
                "store.replicas is {}, and store.kind is \"embedded\", expected store.kind = \"redis\" or no replicas",
                self.replicas
            ));
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StoreKind {
    Embedded,
    Redis,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct StreamConfig {
    #[serde(with = "humantime_serde")]
    pub(crate) batch_interval: Duration,
    #[serde(with = "humantime_serde")]
    pub(crate) busy_batch_interval: Duration,
    #[serde(with = "humantime_serde")]
    pub(crate) gather: Duration,
    #[serde(with = "humantime_serde")]
    pub(crate) idempotency_window: Duration,
    pub(crate) idempotency_bytes: usize,
}

impl Default for StreamConfig {
    fn default() -> Self {
        Self {
            batch_interval: Duration::from_millis(50),
            busy_batch_interval: Duration::from_millis(80),
            gather: Duration::from_millis(15),
            idempotency_window: Duration::from_secs(5 * 60),
            idempotency_bytes: 64 << 20,
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LimitsConfig {
    pub(crate) connections_per_ip: u32,
    pub(crate) connections_per_user: u32,
    pub(crate) channels_per_connection: usize,
    pub(crate) channels_per_client: usize,
    pub(crate) messages_per_second: u32,
    pub(crate) bytes_per_second: u32,
    pub(crate) handshakes_per_second: u32,
    pub(crate) concurrent_handshakes: usize,
    #[serde(with = "humantime_serde")]
    pub(crate) handshake_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub(crate) idle_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub(crate) body_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub(crate) response_timeout: Duration,
    pub(crate) response_bytes: usize,
    pub(crate) frame_bytes: usize,
    pub(crate) outbox_bytes: usize,
    pub(crate) history_bytes: usize,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            connections_per_ip: 1_000,
            connections_per_user: 0,
            channels_per_connection: 1_000,
            channels_per_client: 10_000,
            messages_per_second: 1_000,
            bytes_per_second: 16 << 20,
            handshakes_per_second: 0,
            concurrent_handshakes: 4_096,
            handshake_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(10),
            response_timeout: Duration::from_secs(30),
            response_bytes: 1 << 20,
            frame_bytes: 64 << 10,
            outbox_bytes: 256 << 10,
            history_bytes: 512 << 20,
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NamespaceConfig {
    name: String,
    class: Option<Class>,
    history_size: Option<usize>,
    #[serde(default, with = "humantime_serde")]
    history_ttl: Option<Duration>,
    max_channels: Option<usize>,
    access: Option<Access>,
    publish: Option<PublishRight>,
}

impl NamespaceConfig {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The configured access, if no other key is set.
    pub(crate) fn access_alone(&self) -> Option<Access> {
        let has_other_keys = self.class.is_some()
            || self.history_size.is_some()
            || self.history_ttl.is_some()
            || self.max_channels.is_some()
            || self.publish.is_some();
        self.access.filter(|_| !has_other_keys)
    }

    pub(crate) fn namespace(&self) -> Namespace {
        let default = Namespace::history(&self.name);
        Namespace {
            class: self.class.unwrap_or(default.class),
            history_size: self.history_size.unwrap_or(default.history_size),
            history_ttl: self.history_ttl.unwrap_or(default.history_ttl),
            max_channels: self.max_channels.unwrap_or(default.max_channels),
            access: self.access.unwrap_or(default.access),
            publish: self.publish.unwrap_or(default.publish),
            ..default
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct NotificationsConfig {
    pub(crate) types: Vec<String>,
    #[serde(with = "humantime_serde")]
    pub(crate) max_age: Duration,
    #[serde(with = "humantime_serde")]
    pub(crate) broadcast_max_age: Duration,
    pub(crate) max_broadcasts: usize,
    pub(crate) cache_bytes: usize,
    /// Whether users are notified of the transactions of their wallets.
    pub(crate) on_chain: bool,
}

impl Default for NotificationsConfig {
    fn default() -> Self {
        let hub = NotificationConfig::default();
        let duration = |ms: i64| Duration::from_millis(ms.unsigned_abs());
        Self {
            max_age: duration(hub.max_age_ms),
            broadcast_max_age: duration(hub.broadcast_max_age_ms),
            types: hub.types,
            max_broadcasts: hub.max_broadcasts,
            cache_bytes: hub.cache_bytes,
            on_chain: true,
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AlertsConfig {
    pub(crate) enabled: bool,
    pub(crate) rules_per_user: u32,
    pub(crate) fires_per_minute: u32,
    #[serde(with = "humantime_serde")]
    pub(crate) catch_up: Duration,
    pub(crate) log_items: u32,
    #[serde(with = "humantime_serde")]
    pub(crate) log_max_age: Duration,
}

impl Default for AlertsConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            rules_per_user: 1_000,
            fires_per_minute: 60,
            catch_up: Duration::from_secs(5 * 60),
            log_items: 1_000,
            log_max_age: Duration::from_secs(90 * 24 * 60 * 60),
        }
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
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
    /// Whether the server may play the built-in sample while no venue answers: nobody configured
    /// it, and only this machine sees it.
    pub(crate) fn may_play_sample(&self) -> bool {
        !self.is_configured && self.server.listen.ip().is_loopback()
    }

    /// All that is wrong, as far as that can be found out without starting the server.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        broker::check(&self.broker, &mut problems);
        self.store.check(self.broker.kind, &mut problems);
        roles::check(self, &mut problems);
        chain_owner::check(self, &mut problems);
        if self.server.admin_listen.is_some() {
            problems.push("server.admin_listen is not built yet".to_owned());
        }
        let has_keys = self.auth.hmac_secret.is_some() || self.auth.has_public_keys();
        if !has_keys && !self.server.listen.ip().is_loopback() {
            problems.push(format!(
                "auth.hmac_secret is missing, expected a secret of {MIN_SECRET_BYTES} bytes at least, or auth.public_key_file or auth.jwks_url, on a server that is not on loopback (server.listen is {})",
                self.server.listen
            ));
        }
        problems.extend(self.auth.previous_fault());
        bounds::check(self, &mut problems);
        let of_delivery = self.delivery.problems().into_iter();
        problems.extend(
            of_delivery.map(|DeliveryError { field, problem }| format!("{field} is {problem}")),
        );
        let tls = security::tls_files(&self.server).err();
        problems.extend(tls.map(|error| format!("{error:#}")));
        problems.extend(security::proxy_problems(&self.server));
        problems.extend(notifications::type_problems(&self.notification_config()));
        self.check_webhook_types(&mut problems);
        problems.extend(self.prices.problems().iter().map(ToString::to_string));
        let of_chains = ChainConfig::problems(&self.chain);
        problems.extend(of_chains.iter().map(ToString::to_string));
        problems
    }

    /// The first thing that is wrong.
    #[cfg(test)]
    fn check(&self) -> anyhow::Result<()> {
        match self.problems().into_iter().next() {
            Some(problem) => anyhow::bail!("{problem}"),
            None => Ok(()),
        }
    }

    /// Checks that webhooks name types that exist: another would never be sent.
    fn check_webhook_types(&self, problems: &mut Vec<String>) {
        let config = self.notification_config();
        for webhook in &self.delivery.webhook {
            let field = format!("delivery.webhook {:?} types", webhook.name);
            let wrong = config.check_types(&field, &webhook.types).err();
            let wrong = wrong.into_iter().flatten();
            problems.extend(wrong.map(|error| error.to_string()));
        }
    }

    /// Values that contradict each other, or that are there twice. The server runs with them, but
    /// hardly as it was meant.
    pub(crate) fn contradictions(&self) -> Vec<String> {
        let mut all = Vec::new();
        let LimitsConfig {
            outbox_bytes,
            frame_bytes,
            history_bytes,
            ..
        } = self.limits;
        if outbox_bytes < frame_bytes {
            all.push(format!(
                "limits.outbox_bytes is {outbox_bytes} and limits.frame_bytes {frame_bytes}: expected an outbox that holds the largest publication, which otherwise waits until it is empty"
            ));
        }
        all.extend(self.uncounted_channels());
        all.extend(self.prices.unused_symbols());
        let symbols = &self.prices.symbols;
        let is_again = |(index, name): &(usize, &String)| symbols[..*index].contains(*name);
        let again = symbols.iter().enumerate().filter(is_again);
        all.extend(again.map(|(_, name)| format!("prices.symbols has {name:?} twice")));
        for namespace in self.namespace.iter().map(NamespaceConfig::namespace) {
            let largest = namespace.history_size.saturating_mul(frame_bytes);
            if largest > history_bytes {
                all.push(format!(
                    "namespace.history_size of {:?} is {}: with the largest publications one channel has {largest} bytes, expected limits.history_bytes ({history_bytes}) at most, which all channels share",
                    namespace.name, namespace.history_size
                ));
            }
        }
        all
    }

    /// The namespaces whose bound on channels has no effect: Redis does not count channels, it
    /// forgets them some time after their last use.
    fn uncounted_channels(&self) -> impl Iterator<Item = String> {
        let is_shared = self.broker.kind == BrokerKind::Redis;
        let bounded = self.namespace.iter().filter(move |one| {
            is_shared && one.max_channels.is_some() && !Namespaces::is_built_in(&one.name)
        });
        bounded.map(|one| {
            format!(
                "namespace.max_channels of {:?} has no effect with broker.kind = \"redis\", expected `maxmemory` of Redis as the bound",
                one.name
            )
        })
    }

    /// The configuration of the alert engine.
    pub(crate) fn alert_config(&self) -> AlertConfig {
        let alerts = &self.alerts;
        AlertConfig {
            rules_per_user: alerts.rules_per_user as usize,
            fires_per_minute: alerts.fires_per_minute,
            catch_up_ms: u64::try_from(alerts.catch_up.as_millis()).unwrap_or(u64::MAX),
            log_items: alerts.log_items as usize,
            log_max_age_ms: i64::try_from(alerts.log_max_age.as_millis()).unwrap_or(i64::MAX),
            ..AlertConfig::default()
        }
    }

    /// The configuration of the notification hub.
    pub(crate) fn notification_config(&self) -> NotificationConfig {
        let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        NotificationConfig {
            types: self.notifications.types.clone(),
            inbox_items: self.store.inbox_items as usize,
            max_age_ms: ms(self.notifications.max_age),
            broadcast_max_age_ms: ms(self.notifications.broadcast_max_age),
            max_broadcasts: self.notifications.max_broadcasts,
            cache_bytes: self.notifications.cache_bytes,
            has_delivery: self.delivery.has_channels(),
            ..NotificationConfig::default()
        }
    }

    pub(crate) fn stream_options(&self) -> StreamOptions {
        StreamOptions {
            outbox_bytes: self.limits.outbox_bytes,
            channels_per_connection: self.limits.channels_per_connection,
            channels_per_client: self.limits.channels_per_client,
            batch_interval: BatchInterval {
                usual: self.stream.batch_interval,
                busy: self.stream.busy_batch_interval,
            },
            keepalive: self.server.keepalive,
            publication_bytes: self.limits.frame_bytes,
            idempotency_window: self.stream.idempotency_window,
            idempotency_bytes: self.stream.idempotency_bytes,
            history_bytes: self.limits.history_bytes,
            shards: self.server.shards(),
            max_write_pause: self.stream.gather,
            transports: &tidewire_adapters::TRANSPORTS,
            ..StreamOptions::default()
        }
    }
}

#[cfg(test)]
mod tests;
