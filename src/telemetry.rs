//! Telemetry: logs on stderr, and metrics in the text format of Prometheus.

use std::{io::IsTerminal as _, sync::Arc};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tidewire_adapters::{Admission, DataCount, DataState, Probes};
use tidewire_chain::ChainEngine;
use tidewire_price::PriceEngine;
use tidewire_proto::v1::{ConnectionState::Live, Source};
use tidewire_service::{AlertRpc, NotifyRpc};
use tidewire_store::{SharedStore, StoreLease};
use tidewire_stream::{Disclosure, HealthFault, StreamCore};
use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter, filter::filter_fn, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use crate::{
    agreement::Agreement, chain_owner::ChainOwners, config::LogFormat, health::BROKER_PART,
    price_owner::PriceOwner,
};

/// The default log filter. Alloy's transports log errors that the chain engine handles and
/// logs itself.
const DEFAULT_FILTER: &str = "info,alloy_pubsub=off,alloy_transport_ws=off,alloy_transport_ipc=off,\
    alloy_transport_http=off,alloy_rpc_client=off";

/// The environment variable that filters the log.
pub(crate) const LOG_VARIABLE: &str = "TIDEWIRE_LOG";

/// Whether the log may have colours: on a terminal, unless `NO_COLOR` forbids it
/// (<https://no-color.org>).
fn has_colours() -> bool {
    let is_forbidden = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    std::io::stderr().is_terminal() && !is_forbidden
}

/// Sends logs to stderr, for people or for machines.
pub(crate) fn init_logs(format: LogFormat) {
    let filter =
        EnvFilter::try_from_env(LOG_VARIABLE).unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let layers = tracing_subscriber::registry()
        .with(filter)
        .with(filter_fn(is_without_urls));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Human => layers
            .with(lines.with_ansi(has_colours()).with_target(false))
            .init(),
        LogFormat::Json => layers.with(lines.json()).init(),
    }
}

/// Whether a log line cannot hold a URL. Below `info`, the crates of transports log requests with
/// their paths and queries, which may hold keys of endpoints and tokens of clients.
fn is_without_urls(metadata: &Metadata<'_>) -> bool {
    const TRANSPORTS: [&str; 9] = [
        "alloy",
        "h2",
        "hyper",
        "reqwest",
        "rustls",
        "tokio_tungstenite",
        "tower",
        "tungstenite",
        "axum",
    ];
    let of_crate = metadata.target().split("::").next().unwrap_or_default();
    let is_transport = TRANSPORTS.iter().any(|name| {
        of_crate
            .strip_prefix(name)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    });
    *metadata.level() <= Level::INFO || !is_transport
}

/// The bounds of round trips, in seconds: one machine, one city, one continent, the world, a
/// bad link.
const ROUND_TRIP_BUCKETS: [f64; 10] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

/// Installs the recorder of metrics. Called once, before any metric is registered.
pub(crate) fn init_metrics() -> anyhow::Result<PrometheusHandle> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(
            Matcher::Full("tidewire_round_trip_seconds".to_owned()),
            &ROUND_TRIP_BUCKETS,
        )?
        .install_recorder()?;
    metrics::describe_counter!(
        "tidewire_publications_total",
        "Publications on all channels."
    );
    metrics::describe_counter!("tidewire_deliveries_total", "Messages handed to clients.");
    metrics::describe_counter!("tidewire_connects_total", "Connections opened.");
    metrics::describe_counter!("tidewire_sent_bytes_total", "Bytes sent to clients.");
    metrics::describe_counter!(
        "tidewire_received_bytes_total",
        "Bytes received from clients."
    );
    metrics::describe_histogram!(
        "tidewire_round_trip_seconds",
        "Time from a ping to a WebSocket client to its pong."
    );
    metrics::describe_counter!(
        "tidewire_missed_beats_total",
        "Heartbeats that clients missed."
    );
    metrics::describe_counter!("tidewire_venue_frames_total", "Frames from venues.");
    metrics::describe_counter!(
        "tidewire_venue_bad_frames_total",
        "Frames from venues that could not be parsed."
    );
    metrics::describe_counter!(
        "tidewire_venue_unexpected_fields_total",
        "Fields of venues' frames that are not as documented, by name."
    );
    metrics::describe_counter!("tidewire_venue_trades_total", "Trades from venues.");
    metrics::describe_counter!(
        "tidewire_venue_reconnects_total",
        "Reconnections to venues."
    );
    metrics::describe_counter!(
        "tidewire_venue_refusals_total",
        "Subscriptions that venues refused."
    );
    metrics::describe_counter!(
        "tidewire_venue_gaps_total",
        "Gaps in the trades of a symbol at a venue."
    );
    metrics::describe_gauge!("tidewire_venue_connected", "Whether a venue is connected.");
    metrics::describe_counter!(
        "tidewire_candle_late_ticks_total",
        "Prices that came after their minute was closed, and count in no candle."
    );
    metrics::describe_counter!(
        "tidewire_candle_saves_total",
        "Times that candles were saved."
    );
    describe_chain_metrics();
    metrics::describe_counter!(
        "tidewire_notifications_total",
        "Requests to notify that were accepted, by kind of recipient and priority."
    );
    metrics::describe_counter!(
        "tidewire_notification_refusals_total",
        "Requests to notify that were refused or failed, by error code."
    );
    metrics::describe_counter!(
        "tidewire_delivery_results_total",
        "Attempts and ends of messages to webhooks, devices and mail addresses, by result."
    );
    metrics::describe_gauge!(
        "tidewire_delivery_queue",
        "Messages to webhooks, devices and mail addresses that wait in memory."
    );
    metrics::describe_gauge!(
        "tidewire_notification_cache_bytes",
        "Memory of the cached notification states of users."
    );
    metrics::describe_counter!(
        "tidewire_alerts_evaluated_total",
        "Values that alert rules were judged by."
    );
    metrics::describe_counter!(
        "tidewire_alerts_touched_total",
        "Alert rules that a value passed the threshold of."
    );
    metrics::describe_counter!(
        "tidewire_alerts_fired_total",
        "Fires of alert rules, and retractions."
    );
    metrics::describe_counter!(
        "tidewire_alerts_summarised_total",
        "Fires that share a notification with others of their minute."
    );
    metrics::describe_gauge!(
        "tidewire_store_owner",
        "Whether this node owns the shared store."
    );
    metrics::describe_gauge!(
        "tidewire_price_owner",
        "Whether this node publishes prices for all nodes."
    );
    metrics::describe_counter!(
        "tidewire_chain_handovers_total",
        "Chains that this node handed over to another one."
    );
    metrics::describe_gauge!(
        "tidewire_chain_reachable",
        "Whether this node can follow a shared chain, as far as it has found out."
    );
    metrics::describe_gauge!(
        "tidewire_chain_owner",
        "Whether this node follows a chain for all nodes."
    );
    metrics::describe_counter!(
        "tidewire_broker_fenced_publications_total",
        "Publications of an engine that another node owned by then. They were refused."
    );
    metrics::describe_counter!(
        "tidewire_store_lost_commits_total",
        "Acknowledged commits of the shared store that Redis lost."
    );
    metrics::describe_gauge!(
        "tidewire_alerts_delayed",
        "Notifications of alerts that wait for the notification hub, or for the end of their minute, up to 256."
    );
    metrics::describe_gauge!("tidewire_alerts_rules", "Alert rules.");
    metrics::describe_gauge!("tidewire_connections", "Open connections.");
    metrics::describe_gauge!(
        "tidewire_subscriptions",
        "Subscriptions of all connections."
    );
    metrics::describe_gauge!("tidewire_channels_followed", "Channels with a subscriber.");
    metrics::describe_gauge!(
        "tidewire_outbox_bytes",
        "Bytes that wait for clients: in outboxes, held back, in transports, and of responses."
    );
    metrics::describe_gauge!(
        "tidewire_outbox_bytes_max",
        "Bytes that wait for the client with the most of them."
    );
    metrics::describe_gauge!(
        "tidewire_history_bytes",
        "Memory of all histories, with the encodings of their publications."
    );
    metrics::describe_counter!(
        "tidewire_broker_history_reads_total",
        "Pages of histories that were read from Redis."
    );
    metrics::describe_counter!(
        "tidewire_broker_filled_publications_total",
        "Publications that pub/sub of Redis lost and the history had."
    );
    metrics::describe_counter!(
        "tidewire_broker_lost_publications_total",
        "Publications of engines that Redis did not take, and that subscribers miss."
    );
    metrics::describe_counter!(
        "tidewire_broker_superseded_values_total",
        "Values of engines that Redis did not take, and that a newer one replaces."
    );
    metrics::describe_gauge!(
        "tidewire_broker_waiting_bytes",
        "Bytes of publications that wait for Redis."
    );
    metrics::describe_gauge!(
        "tidewire_broker_node_protocol",
        "Version of the protocol between nodes that all nodes speak."
    );
    metrics::describe_gauge!(
        "tidewire_broker_differing_nodes",
        "Other nodes whose settings differ from those of this one."
    );
    metrics::describe_gauge!(
        "tidewire_part_degraded",
        "Whether a part of the server does not work."
    );
    metrics::describe_gauge!(
        "tidewire_shard_late",
        "Whether a shard has not finished a tick for a second."
    );
    metrics::describe_gauge!(
        "tidewire_price_age_seconds",
        "The age of each symbol's newest data."
    );
    Ok(handle)
}

fn describe_chain_metrics() {
    metrics::describe_counter!("tidewire_chain_calls_total", "Calls to endpoints.");
    metrics::describe_counter!(
        "tidewire_chain_call_failures_total",
        "Calls to endpoints that failed, and responses that failed a proof."
    );
    metrics::describe_counter!(
        "tidewire_chain_limits_total",
        "Responses by which an endpoint limited the rate of calls."
    );
    metrics::describe_counter!(
        "tidewire_chain_refusals_total",
        "Responses by which an endpoint refused a method."
    );
    metrics::describe_counter!(
        "tidewire_chain_blocks_untraced_total",
        "Blocks that no endpoint returned a trace of."
    );
    metrics::describe_counter!(
        "tidewire_chain_lies_total",
        "Responses that failed a proof."
    );
    metrics::describe_counter!(
        "tidewire_chain_connects_total",
        "Attempts to connect to endpoints."
    );
    metrics::describe_histogram!(
        "tidewire_chain_call_seconds",
        "Time from a call to its response."
    );
    metrics::describe_gauge!(
        "tidewire_chain_endpoint_score",
        "The share of recent calls that an endpoint answered."
    );
    metrics::describe_gauge!(
        "tidewire_chain_endpoint_head",
        "The height of the newest block that an endpoint reports."
    );
    metrics::describe_counter!("tidewire_chain_blocks_total", "Blocks that were read.");
    metrics::describe_counter!("tidewire_chain_reorgs_total", "Reorgs.");
    metrics::describe_counter!(
        "tidewire_chain_balances_missed_total",
        "Wallets of a block whose balance no node returned."
    );
    metrics::describe_counter!(
        "tidewire_chain_pool_passed_over_total",
        "Pending transactions that were skipped."
    );
    metrics::describe_histogram!("tidewire_chain_reorg_depth", "Blocks that a reorg removed.");
    metrics::describe_counter!(
        "tidewire_chain_resyncs_total",
        "Restarts of a chain whose new blocks did not link to the known ones."
    );
    metrics::describe_counter!(
        "tidewire_chain_load_failures_total",
        "Blocks that no endpoint returned in full."
    );
    metrics::describe_gauge!("tidewire_chain_head", "The height of the newest block.");
    metrics::describe_gauge!(
        "tidewire_chain_head_timestamp_seconds",
        "The time of the newest block, since the Unix epoch."
    );
}

/// The sources that trade a configured symbol. Another one is never connected.
fn venues(prices: &PriceEngine) -> Vec<Source> {
    let mut sources = prices.sources();
    sources.retain(|source| !source.symbols.is_empty());
    sources
}

/// Readiness and metrics of this server.
pub(crate) struct ServerProbes {
    pub(crate) handle: PrometheusHandle,
    pub(crate) stream: Arc<StreamCore>,
    pub(crate) admission: Arc<Admission>,
    /// None if this node does not run the price engine.
    pub(crate) prices: Option<PriceEngine>,
    /// The part of this node in the lease of the price engine.
    pub(crate) price_owner: Option<Arc<PriceOwner>>,
    /// The part of this node in the leases of chains.
    pub(crate) chain_owners: Option<Arc<ChainOwners>>,
    /// The comparison with the settings of other nodes.
    pub(crate) agreement: Option<Arc<Agreement>>,
    pub(crate) tried: Option<PriceEngine>,
    pub(crate) chains: ChainEngine,
    pub(crate) chain_ids: Vec<u64>,
    pub(crate) is_sample: bool,
    pub(crate) notify: NotifyRpc,
    pub(crate) alerts: AlertRpc,
    pub(crate) store: Option<SharedStore>,
    /// The part of this node in a shared store.
    pub(crate) lease: Option<Arc<StoreLease>>,
    pub(crate) stopping: tokio_util::sync::CancellationToken,
}

impl ServerProbes {
    /// The fault of the broker, if it keeps this server from sharing channels: clients do better
    /// on another one.
    fn broker_fault(&self) -> Option<HealthFault> {
        let link = self.stream.broker().link()?;
        let mut parts = self.stream.health().into_iter();
        let fault = match parts.find(|one| one.part == BROKER_PART) {
            Some(part) => part.fault.map(|fault| fault.text),
            // Nobody has looked at the parts yet.
            None => link.fault,
        };
        let fault = fault.filter(|_| !link.is_available)?;
        Some(HealthFault {
            text: format!("Redis cannot be used: {fault}"),
            disclosure: Disclosure::Summary("Redis cannot be used"),
        })
    }
}

impl Probes for ServerProbes {
    fn ready(&self) -> Result<(), HealthFault> {
        if self.stopping.is_cancelled() {
            return Err("the server is about to stop".to_owned().into());
        }
        if let Some(late) = self.stream.late_shards().first() {
            return Err(format!(
                "{} has not finished a tick for {} s: its connections wait",
                late.shard,
                late.late_for.as_secs()
            )
            .into());
        }
        if let Some(fault) = self.alerts.fault() {
            return Err(fault.into());
        }
        if let Some(fault) = self.broker_fault() {
            return Err(fault);
        }
        match self.store.as_ref().and_then(|store| store.failure()) {
            Some(error) => Err(format!("the store cannot be written: {error}").into()),
            None => Ok(()),
        }
    }

    fn data(&self) -> DataState {
        let sources = self.prices.as_ref().map(venues).unwrap_or_default();
        let is_live = |chain: &&u64| {
            self.chains.latest_block(**chain).is_ok() && !self.chains.has_outage(**chain)
        };
        DataState {
            venues: DataCount {
                live: sources.iter().filter(|one| one.state() == Live).count(),
                all: sources.len(),
            },
            chains: DataCount {
                live: match &self.chain_owners {
                    Some(owners) => owners.count_owned(),
                    None => self.chain_ids.iter().filter(is_live).count(),
                },
                all: self.chain_ids.len(),
            },
            sample: self.is_sample,
            tried: self.tried.as_ref().map(|tried| venues(tried).len()),
        }
    }

    fn metrics(&self) -> String {
        let stats = self.stream.stats();
        for one in &stats.transports {
            let transport = one.transport.name();
            metrics::gauge!("tidewire_connections", "transport" => transport)
                .set(one.connections as f64);
            // A counter never decreases. A connection that ends meanwhile is missed once.
            metrics::counter!("tidewire_sent_bytes_total", "transport" => transport)
                .absolute(one.bytes_sent);
            metrics::counter!("tidewire_received_bytes_total", "transport" => transport)
                .absolute(one.bytes_received);
        }
        metrics::gauge!("tidewire_subscriptions").set(stats.subscriptions as f64);
        metrics::gauge!("tidewire_channels_followed").set(stats.channels as f64);
        let unsent = stats.queued_bytes + self.admission.unsent_bytes();
        metrics::gauge!("tidewire_outbox_bytes").set(unsent as f64);
        metrics::gauge!("tidewire_outbox_bytes_max").set(stats.queued_bytes_max as f64);
        for part in self.stream.health() {
            let is_degraded = part.fault.is_some();
            metrics::gauge!("tidewire_part_degraded", "part" => part.part)
                .set(f64::from(u8::from(is_degraded)));
        }
        metrics::gauge!("tidewire_history_bytes").set(stats.history_bytes as f64);
        if let Some(link) = self.stream.broker().link() {
            metrics::gauge!("tidewire_broker_waiting_bytes").set(link.waiting_bytes as f64);
            if let Some(version) = link.node_protocol {
                metrics::gauge!("tidewire_broker_node_protocol").set(f64::from(version));
            }
        }
        if let Some(agreement) = &self.agreement {
            let differing = agreement.differing();
            metrics::gauge!("tidewire_broker_differing_nodes").set(differing as f64);
        }
        if let Some(dispatcher) = self.notify.delivery().dispatcher() {
            for (channel, result, count) in dispatcher.metrics().all() {
                metrics::counter!(
                    "tidewire_delivery_results_total",
                    "channel" => channel.name(),
                    "result" => result.name()
                )
                .absolute(count);
            }
            metrics::gauge!("tidewire_delivery_queue").set(dispatcher.jobs() as f64);
        }
        // Those of a store that another node owns now would count twice.
        let (rules, waiting) = self
            .alerts
            .stats()
            .map_or((0, 0), |alerts| (alerts.rules, alerts.waiting));
        metrics::gauge!("tidewire_alerts_rules").set(rules as f64);
        metrics::gauge!("tidewire_alerts_delayed").set(waiting as f64);
        if let Some(alerts) = self.alerts.stats() {
            metrics::counter!("tidewire_alerts_evaluated_total").absolute(alerts.evaluated);
            metrics::counter!("tidewire_alerts_touched_total").absolute(alerts.touched);
            metrics::counter!("tidewire_alerts_fired_total").absolute(alerts.fired);
            metrics::counter!("tidewire_alerts_summarised_total").absolute(alerts.summarised);
        }
        if let Some(lease) = &self.lease {
            metrics::gauge!("tidewire_store_owner").set(f64::from(u8::from(lease.is_owner())));
            metrics::counter!("tidewire_store_lost_commits_total").absolute(lease.lost_commits());
        }
        let cached = self.notify.cache_bytes();
        metrics::gauge!("tidewire_notification_cache_bytes").set(cached as f64);
        if let Some(owner) = &self.price_owner {
            metrics::gauge!("tidewire_price_owner").set(f64::from(u8::from(owner.is_owner())));
        }
        if let Some(handovers) = self
            .chain_owners
            .as_ref()
            .and_then(|owners| owners.handovers())
        {
            metrics::counter!("tidewire_chain_handovers_total").absolute(handovers);
        }
        for (chain, is_owner) in self.chain_owners.iter().flat_map(|owners| owners.owned()) {
            metrics::gauge!("tidewire_chain_owner", "chain" => chain.to_owned())
                .set(f64::from(u8::from(is_owner)));
        }
        for (chain, is_given) in self.chain_owners.iter().flat_map(|owners| owners.reached()) {
            metrics::gauge!("tidewire_chain_reachable", "chain" => chain.to_owned())
                .set(f64::from(u8::from(is_given)));
        }
        let ages = self.prices.as_ref().map(PriceEngine::ages_ms);
        for (symbol, age_ms) in ages.unwrap_or_default() {
            metrics::gauge!("tidewire_price_age_seconds", "symbol" => symbol)
                .set(age_ms as f64 / 1_000.0);
        }
        self.handle.render()
    }
}
