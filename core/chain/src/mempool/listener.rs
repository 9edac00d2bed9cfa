//! Hears what comes into the pool of a node, while there are wallets to follow.
//!
//! One endpoint is heard at a time: one that pushes, or else one that is asked. A pool is no
//! history, and what is missed is told once it is in a block. What concerns no wallet that
//! is followed goes no further.

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
    rpc_types,
};

/// The pause before endpoints are tried again.
const PAUSE: Duration = Duration::from_secs(2);

/// How often it is looked whether there still are wallets.
const LOOK: Duration = Duration::from_secs(5);

/// After how many questions it is tried again whether another endpoint pushes.
const QUESTIONS: u32 = 60;

/// How many transactions are taken together.
const TOGETHER: usize = 50;

/// Hears the pool of a chain.
pub(crate) struct MempoolListener {
    pub(crate) chain: u64,
    pub(crate) pool: EndpointPool,
    pub(crate) wallets: Arc<RwLock<WalletIndex>>,
    pub(crate) has_wallets: Arc<Notify>,
    pub(crate) out: mpsc::Sender<Box<Transaction>>,
}

/// Nobody takes what is heard any more.
struct Over;

impl MempoolListener {
    /// Hears until cancelled.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        cancel.run_until_cancelled(self.hear()).await;
    }

    async fn hear(&self) {
        loop {
            if self.wallets.read().is_empty() {
                self.has_wallets.notified().await;
                continue;
            }
            if self.hear_one().await.is_err() {
                return;
            }
            if !self.wallets.read().is_empty() {
                sleep(PAUSE).await;
            }
        }
    }

    /// Hears the first endpoint that can be heard.
    async fn hear_one(&self) -> Result<(), Over> {
        let endpoints = self.pool.by_health(0);
        for endpoint in &endpoints {
            if let Ok(pooled) = endpoint.subscribe_mempool().await {
                return self.follow(endpoint, pooled).await;
            }
        }
        for endpoint in endpoints.iter().filter(|other| other.backoff().is_zero()) {
            if let Ok(asked) = MempoolPoller::start(endpoint).await {
                return self.ask(endpoint, asked).await;
            }
        }
        Ok(())
    }

    /// Asks one endpoint, until it does not answer or there is no wallet left.
    async fn ask(&self, endpoint: &Endpoint, mut asked: MempoolPoller<'_>) -> Result<(), Over> {
        tracing::info!(chain = self.chain, endpoint = %endpoint.address(), "a pool is heard by asking");
        let mut others = self.pool.endpoints().iter();
        let may_push = others.any(|other| !matches!(other.address(), Address::Http(_)));
        let mut left = if may_push { QUESTIONS } else { u32::MAX };
        while left > 0 && !self.wallets.read().is_empty() {
            left -= 1;
            sleep(endpoint.backoff().max(asked.pause())).await;
            let Ok(came) = asked.poll().await else {
                return Ok(());
            };
            self.pass_over(came.skipped);
            let mut items = came.items.into_iter();
            loop {
                let part: Vec<_> = items.by_ref().take(TOGETHER).collect();
                if part.is_empty() {
                    break;
                }
                self.tell(endpoint, part).await?;
            }
        }
        asked.stop().await;
        Ok(())
    }

    fn pass_over(&self, count: u64) {
        let id = self.chain.to_string();
        metrics::counter!("tidewire_chain_pool_passed_over_total", "chain" => id).increment(count);
    }

    /// Hears one endpoint, until it ends or there is no wallet left.
    async fn follow(&self, endpoint: &Endpoint, mut pooled: Subscription) -> Result<(), Over> {
        tracing::info!(chain = self.chain, endpoint = %endpoint.address(), "a pool is heard");
        let mut look = Instant::now() + LOOK;
        loop {
            let first = tokio::select! {
                pushed = pooled.next() => pushed,
                () = sleep_until(look) => {
                    if self.wallets.read().is_empty() {
                        return Ok(());
                    }
                    look = Instant::now() + LOOK;
                    continue;
                }
            };
            let mut items = Vec::new();
            let mut has_ended = false;
            let mut next = Some(first);
            while let Some(pushed) = next {
                match pushed {
                    SubscriptionEvent::Item(item) => items.push(item),
                    SubscriptionEvent::Lagged(count) => self.pass_over(count),
                    SubscriptionEvent::Closed(_) => has_ended = true,
                }
                if has_ended || items.len() >= TOGETHER {
                    break;
                }
                next = pooled.next().now_or_never();
            }
            self.tell(endpoint, items).await?;
            if has_ended {
                return Ok(());
            }
        }
    }

    async fn tell(&self, endpoint: &Endpoint, items: Vec<Box<RawValue>>) -> Result<(), Over> {
        let is_hash = |item: &RawValue| item.get().starts_with('"');
        let (hashes, whole): (Vec<_>, Vec<_>) = items.into_iter().partition(|item| is_hash(item));
        let calls: Vec<_> = hashes
            .iter()
            .filter_map(|item| serde_json::from_str::<B256>(item.get()).ok())
            .map(|hash| Call {
                method: "eth_getTransactionByHash",
                params: json!([hash]),
            })
            .collect();
        let answers = if calls.is_empty() {
            Vec::new()
        } else {
            endpoint.call_all(&calls).await
        };
        let fetched = answers.into_iter().filter_map(Result::<_, Failure>::ok);
        for raw in whole.into_iter().chain(fetched) {
            // One that is gone again is null.
            let Ok((transaction, _)) = rpc_types::parse_transaction(&raw) else {
                continue;
            };
            if self.concerns_a_wallet(&transaction) {
                self.out
                    .send(Box::new(transaction))
                    .await
                    .map_err(|_| Over)?;
            }
        }
        Ok(())
    }

    fn concerns_a_wallet(&self, transaction: &Transaction) -> bool {
        let wallets = self.wallets.read();
        wallets.watched_parties(transaction).next().is_some()
    }
}
