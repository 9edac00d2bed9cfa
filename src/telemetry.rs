//! Logs and metrics.

use std::{io::IsTerminal as _, sync::Arc};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tidewire_adapters::Probes;
use tidewire_price::PriceEngine;
use tidewire_stream::StreamCore;
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// What is logged unless it is said otherwise. Alloy's transports say as errors what the
/// chain engine handles and tells in its own words.
const LOGGED: &str = "info,alloy_pubsub=off,alloy_transport_ws=off,alloy_transport_ipc=off,\
    alloy_transport_http=off,alloy_rpc_client=off";

/// Sends logs to stderr, for people or for machines.
pub(crate) fn init_logs(format: LogFormat) {
    let filter = EnvFilter::try_from_env("TIDEWIRE_LOG").unwrap_or_else(|_| EnvFilter::new(LOGGED));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Human => builder
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false)
            .init(),
        LogFormat::Json => builder.json().init(),
    }
}

/// Where round trips are told apart, in seconds: one machine, one city, one continent,
/// the world, a bad link.
const ROUND_TRIP_BUCKETS: [f64; 10] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];

/// Gathers metrics. Called once, before anything counts.
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
        "From a ping to a WebSocket client to its answer."
    );
    metrics::describe_counter!(
        "tidewire_missed_beats_total",
        "How often a client gave no sign of life in time."
    );
    metrics::describe_counter!("tidewire_venue_frames_total", "Frames from venues.");
    metrics::describe_counter!(
        "tidewire_venue_bad_frames_total",
        "Frames from venues that could not be used."
    );
    metrics::describe_counter!("tidewire_venue_trades_total", "Trades from venues.");
    metrics::describe_counter!(
        "tidewire_venue_reconnects_total",
        "Connections to venues that had to be made again."
    );
    metrics::describe_counter!(
        "tidewire_venue_refusals_total",
        "Subscriptions that venues refused."
    );
    metrics::describe_counter!(
        "tidewire_venue_gaps_total",
        "How often trades of a symbol were missing between two that came."
    );
    metrics::describe_gauge!("tidewire_venue_connected", "Whether a venue is connected.");
    describe_chain_metrics();
    metrics::describe_gauge!("tidewire_connections", "Open connections.");
    metrics::describe_gauge!(
        "tidewire_subscriptions",
        "Subscriptions of all connections."
    );
    metrics::describe_gauge!(
        "tidewire_channels_followed",
        "Channels that somebody follows."
    );
    metrics::describe_gauge!("tidewire_outbox_bytes", "Bytes that wait for clients.");
    metrics::describe_gauge!(
        "tidewire_outbox_bytes_max",
        "The most bytes that wait for one client."
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
        "Calls to endpoints that failed, and answers that were not believed."
    );
    metrics::describe_counter!(
        "tidewire_chain_limits_total",
        "How often an endpoint wanted to be asked less."
    );
    metrics::describe_counter!(
        "tidewire_chain_lies_total",
        "Answers that were not believed."
    );
    metrics::describe_counter!(
        "tidewire_chain_connects_total",
        "Connections to endpoints that were tried."
    );
    metrics::describe_histogram!(
        "tidewire_chain_call_seconds",
        "How long an endpoint took to answer."
    );
    metrics::describe_gauge!(
        "tidewire_chain_endpoint_score",
        "The share of calls that an endpoint answered of late."
    );
    metrics::describe_gauge!(
        "tidewire_chain_endpoint_head",
        "The height of the newest block that an endpoint tells of."
    );
    metrics::describe_counter!("tidewire_chain_blocks_total", "Blocks that were read.");
    metrics::describe_counter!("tidewire_chain_reorgs_total", "Reorgs.");
    metrics::describe_counter!(
        "tidewire_chain_balances_missed_total",
        "Wallets of a block whose balance no node told."
    );
    metrics::describe_counter!(
        "tidewire_chain_pool_passed_over_total",
        "Transactions of a pool that were not looked at."
    );
    metrics::describe_histogram!(
        "tidewire_chain_reorg_depth",
        "How many blocks a reorg took back."
    );
    metrics::describe_counter!(
        "tidewire_chain_resyncs_total",
        "How often a chain began anew, as it did not link to what was read."
    );
    metrics::describe_counter!(
        "tidewire_chain_load_failures_total",
        "How often no endpoint could give all of a block."
    );
    metrics::describe_gauge!("tidewire_chain_head", "The height of the newest block.");
    metrics::describe_gauge!(
        "tidewire_chain_head_timestamp_seconds",
        "The time of the newest block, since the Unix epoch."
    );
}

/// What the server says of itself.
pub(crate) struct ServerProbes {
    pub(crate) handle: PrometheusHandle,
    pub(crate) stream: Arc<StreamCore>,
    pub(crate) prices: PriceEngine,
    pub(crate) stopping: tokio_util::sync::CancellationToken,
}

impl Probes for ServerProbes {
    fn ready(&self) -> Result<(), String> {
        if self.stopping.is_cancelled() {
            Err("the server is about to stop".to_owned())
        } else {
            Ok(())
        }
    }

    fn metrics(&self) -> String {
        let stats = self.stream.stats();
        for one in &stats.transports {
            let transport = one.transport.name();
            metrics::gauge!("tidewire_connections", "transport" => transport)
                .set(one.connections as f64);
            // Never lower than before: a connection that ends meanwhile may be missed once.
            metrics::counter!("tidewire_sent_bytes_total", "transport" => transport)
                .absolute(one.bytes_sent);
            metrics::counter!("tidewire_received_bytes_total", "transport" => transport)
                .absolute(one.bytes_received);
        }
        metrics::gauge!("tidewire_subscriptions").set(stats.subscriptions as f64);
        metrics::gauge!("tidewire_channels_followed").set(stats.channels as f64);
        metrics::gauge!("tidewire_outbox_bytes").set(stats.queued_bytes as f64);
        metrics::gauge!("tidewire_outbox_bytes_max").set(stats.queued_bytes_max as f64);
        for (symbol, age_ms) in self.prices.ages_ms() {
            metrics::gauge!("tidewire_price_age_seconds", "symbol" => symbol)
                .set(age_ms as f64 / 1_000.0);
        }
        self.handle.render()
    }
}
