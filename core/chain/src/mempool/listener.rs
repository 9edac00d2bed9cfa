//! Mempool listener: passes on the pending transactions that concern a followed wallet.
//!
//! It listens to one endpoint at a time, and only while wallets are followed. An endpoint with
//! subscriptions is preferred; otherwise one is polled. A mempool has no history: a transaction
//! that is missed here is published once it is in a block.

use std::{sync::Arc, time::Duration};

use alloy::{primitives::B256, rpc::types::Transaction};
use futures::FutureExt as _;
use parking_lot::RwLock;
use serde_json::{json, value::RawValue};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::poller::MempoolPoller;
use crate::{
    Call, WalletIndex,
    endpoint::{Address, Endpoint, EndpointPool, Failure, Subscription, SubscriptionEvent},
    rpc_types::parse_transaction,
};

/// The pause before an endpoint is chosen again.
const PAUSE: Duration = Duration::from_secs(2);

/// The interval at which the listener checks that wallets are still followed.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Polls after which endpoints with subscriptions are tried again.
const MAX_POLLS: u32 = 60;

/// Transactions that are fetched in one request.
const BATCH: usize = 50;

/// Listens to the mempool of a chain.
pub(crate) struct MempoolListener {
    pub(crate) chain: u64,
    pub(crate) pool: EndpointPool,
    pub(crate) wallets: Arc<RwLock<WalletIndex>>,
    /// Notified when the first wallet is followed.
    pub(crate) has_wallets: Arc<Notify>,
    pub(crate) out: mpsc::Sender<Box<Transaction>>,
}

/// The receiver of transactions is gone.
struct ReceiverGone;

impl MempoolListener {
    /// Listens until cancelled.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        cancel.run_until_cancelled(self.listen()).await;
    }

    async fn listen(&self) {
        loop {
            if self.wallets.read().is_empty() {
                self.has_wallets.notified().await;
                continue;
            }
            if self.listen_to_one().await.is_err() {
                return;
            }
            if !self.wallets.read().is_empty() {
                sleep(PAUSE).await;
            }
        }
    }

    /// Listens to the first endpoint that offers a subscription, or else to one by polling.
    async fn listen_to_one(&self) -> Result<(), ReceiverGone> {
        let endpoints = self.pool.by_health(0);
        for endpoint in &endpoints {
            if let Ok(subscription) = endpoint.subscribe_mempool().await {
                return self.read_subscription(endpoint, subscription).await;
            }
        }
        for endpoint in endpoints.iter().filter(|other| other.backoff().is_zero()) {
            if let Ok(poller) = MempoolPoller::start(endpoint).await {
                return self.poll(endpoint, poller).await;
            }
        }
        Ok(())
    }

    /// Polls one endpoint until a call fails or no wallet is followed. If another endpoint may
    /// offer a subscription, polling stops after [`MAX_POLLS`].
    async fn poll(
        &self,
        endpoint: &Endpoint,
        mut poller: MempoolPoller<'_>,
    ) -> Result<(), ReceiverGone> {
        tracing::info!(chain = self.chain, endpoint = %endpoint.address(), "the mempool is read by polling");
        let mut others = self.pool.endpoints().iter();
        let may_subscribe = others.any(|other| !matches!(other.address(), Address::Http(_)));
        let mut polls_left = if may_subscribe { MAX_POLLS } else { u32::MAX };
        while polls_left > 0 && !self.wallets.read().is_empty() {
            polls_left -= 1;
            sleep(endpoint.backoff().max(poller.pause())).await;
            let Ok(new) = poller.poll().await else {
                return Ok(());
            };
            self.record_skipped(new.skipped);
            let mut items = new.items.into_iter();
            loop {
                let batch: Vec<_> = items.by_ref().take(BATCH).collect();
                if batch.is_empty() {
                    break;
                }
                self.send(endpoint, batch).await?;
            }
        }
        poller.stop().await;
        Ok(())
    }

    fn record_skipped(&self, count: u64) {
        let id = self.chain.to_string();
        metrics::counter!("tidewire_chain_pool_passed_over_total", "chain" => id).increment(count);
    }

    /// Reads a subscription until it ends or no wallet is followed.
    async fn read_subscription(
        &self,
        endpoint: &Endpoint,
        mut subscription: Subscription,
    ) -> Result<(), ReceiverGone> {
        tracing::info!(chain = self.chain, endpoint = %endpoint.address(), "the mempool is read by subscription");
        let mut next_check = Instant::now() + CHECK_INTERVAL;
        loop {
            let first = tokio::select! {
                event = subscription.next() => event,
                () = sleep_until(next_check) => {
                    if self.wallets.read().is_empty() {
                        return Ok(());
                    }
                    next_check = Instant::now() + CHECK_INTERVAL;
                    continue;
                }
            };
            let mut items = Vec::new();
            let mut is_closed = false;
            let mut next = Some(first);
            while let Some(event) = next {
                match event {
                    SubscriptionEvent::Item(item) => items.push(item),
                    SubscriptionEvent::Lagged(count) => self.record_skipped(count),
                    SubscriptionEvent::Closed(_) => is_closed = true,
                }
                if is_closed || items.len() >= BATCH {
                    break;
                }
                next = subscription.next().now_or_never();
            }
            self.send(endpoint, items).await?;
            if is_closed {
                return Ok(());
            }
        }
    }

    /// Sends those transactions that concern a followed wallet. Items that are hashes are
    /// fetched first.
    async fn send(
        &self,
        endpoint: &Endpoint,
        items: Vec<Box<RawValue>>,
    ) -> Result<(), ReceiverGone> {
        let is_hash = |item: &RawValue| item.get().starts_with('"');
        let (hashes, whole): (Vec<_>, Vec<_>) = items.into_iter().partition(|item| is_hash(item));
        let calls: Vec<_> = hashes
            .iter()
            .filter_map(|item| serde_json::from_str::<B256>(item.get()).ok())
            .map(|hash| Call::new("eth_getTransactionByHash", json!([hash])))
            .collect();
        let responses = if calls.is_empty() {
            Vec::new()
        } else {
            endpoint.call_all(&calls).await
        };
        let fetched = responses.into_iter().filter_map(Result::<_, Failure>::ok);
        let mut is_reported = false;
        for raw in whole.into_iter().chain(fetched) {
            // A transaction that left the mempool meanwhile is null, and skipped.
            let Ok((transaction, _)) = parse_transaction(&raw) else {
                continue;
            };
            if self.concerns_wallet(&transaction) {
                if let Err(error) = self.pool.check_transaction(&raw) {
                    if !is_reported {
                        endpoint.report_invalid(&format!("its mempool: {error}"));
                    }
                    is_reported = true;
                    continue;
                }
                self.out
                    .send(Box::new(transaction))
                    .await
                    .map_err(|_| ReceiverGone)?;
            }
        }
        Ok(())
    }

    fn concerns_wallet(&self, transaction: &Transaction) -> bool {
        let wallets = self.wallets.read();
        wallets.watched_parties(transaction).next().is_some()
    }
}
