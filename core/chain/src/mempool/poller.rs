//! Mempool poller: reads the mempool of a node that has no subscriptions.
//!
//! The node's filter of pending transactions is used if there is one
//! (`eth_newPendingTransactionFilter`). Otherwise the whole mempool is read (`txpool_content`),
//! and transactions of the previous read are left out.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use alloy::primitives::B256;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use crate::{
    Call,
    endpoint::{Endpoint, Failure},
};

/// The pause between two polls of a filter.
const FILTER_PAUSE: Duration = Duration::from_secs(1);

/// The pause between two reads of the whole mempool, which may have a hundred megabytes.
const CONTENT_PAUSE: Duration = Duration::from_secs(5);

/// Transactions of one poll that are returned. More would delay other work of the node.
const MAX_ITEMS: usize = 2_048;

/// Hashes of the whole mempool that are remembered until the next read.
const MAX_KNOWN: usize = 100_000;

/// Filters in a row that may be lost before their first poll. Behind one address there may be
/// nodes that do not share filters; then the whole mempool is read.
const MAX_LOST_FILTERS: u32 = 3;

/// Polls the mempool of one endpoint.
#[derive(Debug)]
pub(super) struct MempoolPoller<'a> {
    endpoint: &'a Endpoint,
    method: PollMethod,
}

/// The way in which a mempool is polled.
#[derive(Debug)]
enum PollMethod {
    /// By a filter.
    Filter {
        id: Value,
        /// Filters in a row that were lost before their first poll.
        lost: u32,
    },
    /// By reading the whole mempool. These hashes were in the previous read.
    Content(HashSet<B256>),
}

/// New transactions of a mempool, as hashes or whole.
#[derive(Debug, Default)]
pub(super) struct NewTransactions {
    pub(super) items: Vec<Box<RawValue>>,
    /// The number of further ones, which are left out.
    pub(super) skipped: u64,
}

/// The response to `txpool_content`: transactions by sender and nonce.
#[derive(Deserialize)]
struct MempoolContent {
    #[serde(default)]
    pending: BTreeMap<String, BTreeMap<String, Box<RawValue>>>,
}

#[derive(Deserialize)]
struct HashField {
    hash: B256,
}

impl<'a> MempoolPoller<'a> {
    /// Starts polling. Transactions that are in the mempool now are not returned.
    ///
    /// # Errors
    /// The endpoint supports neither method, or the call fails.
    pub(super) async fn start(endpoint: &'a Endpoint) -> Result<Self, Failure> {
        let method = match new_filter(endpoint).await {
            Ok(id) => PollMethod::Filter { id, lost: 0 },
            Err(failure) if is_refusal(&failure) => content_method(endpoint).await?,
            Err(failure) => return Err(failure),
        };
        Ok(Self { endpoint, method })
    }

    /// The pause before the next poll.
    pub(super) fn pause(&self) -> Duration {
        match self.method {
            PollMethod::Filter { .. } => FILTER_PAUSE,
            PollMethod::Content(_) => CONTENT_PAUSE,
        }
    }

    /// The transactions that entered the mempool since the last poll. If the node lost the
    /// filter, a new one is made, and the transactions between are missed.
    ///
    /// # Errors
    /// The call fails.
    pub(super) async fn poll(&mut self) -> Result<NewTransactions, Failure> {
        match &mut self.method {
            PollMethod::Filter { id, lost } => {
                let changes = call("eth_getFilterChanges", json!([id]));
                match self.endpoint.call::<Vec<Box<RawValue>>>(changes).await {
                    Ok(items) => {
                        *lost = 0;
                        Ok(truncate(items))
                    }
                    Err(failure) if !is_refusal(&failure) => Err(failure),
                    Err(_) if *lost >= MAX_LOST_FILTERS => {
                        self.method = content_method(self.endpoint).await?;
                        Ok(NewTransactions::default())
                    }
                    Err(_) => {
                        *id = new_filter(self.endpoint).await?;
                        *lost += 1;
                        Ok(NewTransactions::default())
                    }
                }
            }
            PollMethod::Content(known) => {
                let mut content = read_content(self.endpoint).await?;
                let now = content.iter().take(MAX_KNOWN).map(|(hash, _)| *hash);
                let now = now.collect();
                content.retain(|(hash, _)| !known.contains(hash));
                *known = now;
                Ok(truncate(
                    content.into_iter().map(|(_, item)| item).collect(),
                ))
            }
        }
    }

    /// Removes the filter from the node.
    pub(super) async fn stop(self) {
        if let PollMethod::Filter { id, .. } = self.method {
            // Without this call the node drops the filter after some minutes.
            let uninstall = call("eth_uninstallFilter", json!([id]));
            let _: Result<Value, _> = self.endpoint.call(uninstall).await;
        }
    }
}

/// Whether the node responded, and does not support the call or does not know the filter.
fn is_refusal(failure: &Failure) -> bool {
    matches!(
        failure,
        Failure::Refused { .. }
            | Failure::Unsupported(_)
            | Failure::Unavailable { .. }
            | Failure::NotFound(_)
    )
}

fn call(method: &'static str, params: Value) -> Call {
    Call::new(method, params)
}

async fn new_filter(endpoint: &Endpoint) -> Result<Value, Failure> {
    let new_filter = call("eth_newPendingTransactionFilter", json!([]));
    endpoint.call(new_filter).await
}

async fn content_method(endpoint: &Endpoint) -> Result<PollMethod, Failure> {
    let content = read_content(endpoint).await?;
    let known = content.into_iter().take(MAX_KNOWN).map(|(hash, _)| hash);
    Ok(PollMethod::Content(known.collect()))
}

async fn read_content(endpoint: &Endpoint) -> Result<Vec<(B256, Box<RawValue>)>, Failure> {
    let content: MempoolContent = endpoint.call(call("txpool_content", json!([]))).await?;
    let items = content
        .pending
        .into_values()
        .flat_map(|by_nonce| by_nonce.into_values());
    let with_hashes = items.filter_map(|item| {
        let field: HashField = serde_json::from_str(item.get()).ok()?;
        Some((field.hash, item))
    });
    Ok(with_hashes.collect())
}

fn truncate(mut items: Vec<Box<RawValue>>) -> NewTransactions {
    let skipped = items.len().saturating_sub(MAX_ITEMS) as u64;
    items.truncate(MAX_ITEMS);
    NewTransactions { items, skipped }
}
