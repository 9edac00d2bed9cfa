//! What comes into the pool of a node that does not push: by a filter of its pending
//! transactions, or else by looking through its whole pool.

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

/// How often a filter is asked.
const FILTER_PAUSE: Duration = Duration::from_secs(1);

/// How often a whole pool is: it may be a hundred megabytes.
const CONTENT_PAUSE: Duration = Duration::from_secs(5);

/// How many transactions of one answer are looked at.
const MOST: usize = 2_048;

/// How many transactions of a whole pool are known again in the next answer.
const KNOWN: usize = 100_000;

/// How many filters in a row may be gone at the first question. Behind one address there may
/// be nodes that do not share them.
const FILTERS: u32 = 3;

/// A pool that is asked about.
#[derive(Debug)]
pub(super) struct MempoolPoller<'a> {
    endpoint: &'a Endpoint,
    way: Way,
}

/// How it is asked about.
#[derive(Debug)]
enum Way {
    /// By a filter with this id. So many in a row were gone.
    Filter(Value, u32),
    /// As a whole, of which this was there before.
    Content(HashSet<B256>),
}

/// What came into a pool, as hashes or whole.
#[derive(Debug, Default)]
pub(super) struct Came {
    pub(super) items: Vec<Box<RawValue>>,
    /// How many more came.
    pub(super) passed_over: u64,
}

/// A pool as nodes tell it: by sender, and then by nonce.
#[derive(Deserialize)]
struct Content {
    #[serde(default)]
    pending: BTreeMap<String, BTreeMap<String, Box<RawValue>>>,
}

#[derive(Deserialize)]
struct Named {
    hash: B256,
}

impl<'a> MempoolPoller<'a> {
    /// Begins with what comes from now on.
    ///
    /// # Errors
    /// It can be asked in neither way.
    pub(super) async fn begin(endpoint: &'a Endpoint) -> Result<Self, Failure> {
        let way = match new_filter(endpoint).await {
            Ok(id) => Way::Filter(id, 0),
            Err(failure) if is_refusal(&failure) => whole(endpoint).await?,
            Err(failure) => return Err(failure),
        };
        Ok(Self { endpoint, way })
    }

    /// How long to wait before the next question.
    pub(super) fn pause(&self) -> Duration {
        match self.way {
            Way::Filter(..) => FILTER_PAUSE,
            Way::Content(_) => CONTENT_PAUSE,
        }
    }

    /// What came since the last question. A filter that is gone is made anew: what came
    /// meanwhile is not told.
    ///
    /// # Errors
    /// It does not answer any more.
    pub(super) async fn next(&mut self) -> Result<Came, Failure> {
        match &mut self.way {
            Way::Filter(id, gone) => {
                let asked = call("eth_getFilterChanges", json!([id]));
                match self.endpoint.ask::<Vec<Box<RawValue>>>(asked).await {
                    Ok(items) => {
                        *gone = 0;
                        Ok(bounded(items))
                    }
                    Err(failure) if !is_refusal(&failure) => Err(failure),
                    Err(_) if *gone >= FILTERS => {
                        self.way = whole(self.endpoint).await?;
                        Ok(Came::default())
                    }
                    Err(_) => {
                        *id = new_filter(self.endpoint).await?;
                        *gone += 1;
                        Ok(Came::default())
                    }
                }
            }
            Way::Content(known) => {
                let mut content = pending(self.endpoint).await?;
                let now = content.iter().take(KNOWN).map(|(hash, _)| *hash).collect();
                content.retain(|(hash, _)| !known.contains(hash));
                *known = now;
                Ok(bounded(content.into_iter().map(|(_, item)| item).collect()))
            }
        }
    }

    /// Has the node forget it.
    pub(super) async fn end(self) {
        if let Way::Filter(id, _) = self.way {
            // It forgets it anyway.
            let asked = call("eth_uninstallFilter", json!([id]));
            let _: Result<Value, _> = self.endpoint.ask(asked).await;
        }
    }
}

/// Whether the node answered, and will not do it.
fn is_refusal(failure: &Failure) -> bool {
    matches!(
        failure,
        Failure::Refused { .. } | Failure::Unsupported(_) | Failure::Missing(_)
    )
}

fn call(method: &'static str, params: Value) -> Call {
    Call { method, params }
}

async fn new_filter(endpoint: &Endpoint) -> Result<Value, Failure> {
    let asked = call("eth_newPendingTransactionFilter", json!([]));
    endpoint.ask(asked).await
}

async fn whole(endpoint: &Endpoint) -> Result<Way, Failure> {
    let content = pending(endpoint).await?;
    let known = content.into_iter().take(KNOWN).map(|(hash, _)| hash);
    Ok(Way::Content(known.collect()))
}

async fn pending(endpoint: &Endpoint) -> Result<Vec<(B256, Box<RawValue>)>, Failure> {
    let content: Content = endpoint.ask(call("txpool_content", json!([]))).await?;
    let items = content
        .pending
        .into_values()
        .flat_map(|of| of.into_values());
    let named = items.filter_map(|item| {
        let named: Named = serde_json::from_str(item.get()).ok()?;
        Some((named.hash, item))
    });
    Ok(named.collect())
}

fn bounded(mut items: Vec<Box<RawValue>>) -> Came {
    let passed_over = items.len().saturating_sub(MOST) as u64;
    items.truncate(MOST);
    Came { items, passed_over }
}
