//! Server series task: takes a sample of the whole server each ten seconds.

use std::sync::Arc;

use tidewire_price::PriceEngine;
use tidewire_proto::v1::{ConnectionState, ServerSample, Source};
use tidewire_service::{AlertRpc, ServerSeries};
use tidewire_stream::StreamCore;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// Beginning of the names of chains among the parts of the server.
const CHAIN_PART: &str = "chain ";

/// The parts that a sample describes.
pub(crate) struct SeriesSampler {
    pub(crate) stream: Arc<StreamCore>,
    /// None if this node does not run the price engine.
    pub(crate) prices: Option<PriceEngine>,
    pub(crate) alerts: AlertRpc,
    pub(crate) series: ServerSeries,
}

/// Counters at the sample before.
#[derive(Default)]
struct Counters {
    deliveries: u64,
    fired: u64,
}

impl SeriesSampler {
    /// Takes samples until cancelled.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        let mut ticks = interval(ServerSeries::STEP);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        // The first is at once: nothing was counted yet.
        ticks.tick().await;
        let mut before = self.counters();
        while cancel.run_until_cancelled(ticks.tick()).await.is_some() {
            let now = self.counters();
            self.series.push(self.sample(&before, &now));
            before = now;
        }
    }

    fn counters(&self) -> Counters {
        let transports = self.stream.stats().transports;
        Counters {
            deliveries: transports.iter().map(|one| one.deliveries).sum(),
            fired: self.alerts.stats().map_or(0, |alerts| alerts.fired),
        }
    }

    fn sample(&self, before: &Counters, now: &Counters) -> ServerSample {
        let prices = self.prices.as_ref();
        let mut sources = prices.map(PriceEngine::sources).unwrap_or_default();
        // A source that trades none of the symbols is never connected.
        sources.retain(|one| !one.symbols.is_empty());
        let is_up = |one: &&Source| one.state() == ConnectionState::Live;
        let venues_up = sources.iter().filter(is_up).count();
        let mut chains = self.stream.health();
        chains.retain(|one| one.part.starts_with(CHAIN_PART));
        let at_head = chains.iter().filter(|one| one.fault.is_none()).count();
        let deliveries = now.deliveries.saturating_sub(before.deliveries);
        let times = self.stream.hub().take_delivery_times();
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        ServerSample {
            timestamp: self.stream.clock().now_ms(),
            venues: count(sources.len()),
            venues_up: count(venues_up),
            chains: count(chains.len()),
            chains_at_head: count(at_head),
            clients: count(self.stream.stats().connections()),
            messages_per_second: deliveries as f64 / ServerSeries::STEP.as_secs_f64(),
            delivery_p99_ms: times.quantile(0.99).map(|time| time.as_secs_f64() * 1e3),
            alerts_fired: now.fired.saturating_sub(before.fired),
        }
    }
}
