//! Maintenance tasks: work of a server at intervals, and on SIGHUP.

use std::{path::PathBuf, sync::Arc, time::Duration};

use metrics_exporter_prometheus::PrometheusHandle;
use tidewire_price::PriceEngine;
use tidewire_service::{RevocationStore, WatchRpc};
use tidewire_stream::StreamCore;
use tokio::signal::unix::Signal;
use tokio_util::sync::CancellationToken;

use crate::config::{Overrides, Reading};

/// The time between two sweeps of histories, and between two writes of followed items.
const SWEEP: Duration = Duration::from_secs(1);

/// The time between two sweeps for unfollowed items. A sweep visits every wallet and filter.
const RETENTION_SWEEP: Duration = Duration::from_secs(10);

/// Removes expired publications, and lets the exporter aggregate its histograms: until then
/// it stores each sample.
pub(crate) async fn sweep_histories(
    stream: Arc<StreamCore>,
    metrics: PrometheusHandle,
    cancel: CancellationToken,
) {
    let mut ticks = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                stream.sweep();
                metrics.run_upkeep();
            }
            () = stream.over_budget() => stream.sweep(),
            () = cancel.cancelled() => return,
        }
    }
}

/// Watches over the shards' threads.
pub(crate) async fn watch_shards(stream: Arc<StreamCore>, cancel: CancellationToken) {
    cancel.run_until_cancelled(stream.watch_shards()).await;
}

/// Stores the followed items of chains, and ends the unfollowed ones. A task of its own: it
/// waits for chains, which may stand still.
pub(crate) async fn sweep_watches(watches: WatchRpc, cancel: CancellationToken) {
    let mut ticks = tokio::time::interval(SWEEP);
    let mut retention_ticks = tokio::time::interval(RETENTION_SWEEP);
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                if cancel.run_until_cancelled(watches.store_interest()).await.is_none() {
                    return;
                }
            }
            _ = retention_ticks.tick() => {
                if cancel.run_until_cancelled(watches.expire_interest()).await.is_none() {
                    return;
                }
            }
            () = cancel.cancelled() => return,
        }
    }
}

/// Stores revocations that could not be stored as they were made.
pub(crate) async fn save_revocations(revocations: RevocationStore, cancel: CancellationToken) {
    let mut ticks = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            _ = ticks.tick() => revocations.save_unsaved().await,
            () = cancel.cancelled() => return revocations.save_unsaved().await,
        }
    }
}

/// Reads the configuration again on each SIGHUP, and applies its sources of prices.
pub(crate) async fn reload_sources(
    (file, overrides): (Option<PathBuf>, Overrides),
    prices: Option<PriceEngine>,
    mut hang_ups: Signal,
    cancel: CancellationToken,
) {
    while let Some(Some(())) = cancel.run_until_cancelled(hang_ups.recv()).await {
        let reloaded = Reading::of(file.as_deref(), &overrides)
            .into_config()
            .and_then(|config| match &prices {
                Some(prices) => Ok(prices.reload_sources(&config.prices)?),
                None => Ok(()),
            });
        match reloaded {
            Ok(()) => tracing::info!("the configuration was read again: its sources are in use"),
            Err(error) => tracing::error!(%error, "the configuration is not taken"),
        }
    }
}
