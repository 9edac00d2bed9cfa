//! Outage monitor: reports a chain that stands still because none of its endpoints responds.
//!
//! The first report comes within five seconds, and further ones every minute. Each names the
//! endpoints by scheme and host, with the newest reason of each.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::endpoint::EndpointPool;

/// The time without any result after which a chain has an outage.
const FIRST_REPORT: Duration = Duration::from_secs(3);

/// The time between two reports of one outage.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// How often the endpoints are looked at.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Watches the endpoints of one chain.
pub(super) struct OutageMonitor {
    pub(super) chain: u64,
    /// The configured name of the chain.
    pub(super) name: String,
    pub(super) pool: EndpointPool,
    /// Whether the chain has an outage, as requests read it.
    pub(super) has_outage: Arc<AtomicBool>,
}

impl OutageMonitor {
    /// Watches until cancelled.
    pub(super) async fn run(self, cancel: CancellationToken) {
        cancel.run_until_cancelled(self.watch()).await;
    }

    async fn watch(&self) {
        let mut reported_at: Option<Instant> = None;
        loop {
            sleep(CHECK_INTERVAL).await;
            let outage = self.pool.outage().filter(|(age, _)| *age >= FIRST_REPORT);
            self.has_outage.store(outage.is_some(), Ordering::Relaxed);
            let (chain, name) = (self.chain, &self.name);
            let is_due = reported_at.is_none_or(|at| at.elapsed() >= REPORT_INTERVAL);
            match outage {
                Some((age, reason)) if is_due => {
                    let seconds = age.as_secs();
                    tracing::warn!(
                        chain,
                        name,
                        seconds,
                        reason,
                        "the chain stands still: none of its endpoints responds"
                    );
                    reported_at = Some(Instant::now());
                }
                Some(_) => {}
                None if reported_at.take().is_some() => {
                    tracing::info!(chain, name, "an endpoint of the chain responds again");
                }
                None => {}
            }
        }
    }
}
