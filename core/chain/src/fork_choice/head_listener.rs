//! A watcher: hears the heads of one endpoint, by subscription where it has any, by
//! asking where not.

use std::{sync::Arc, time::Duration};

use serde_json::value::RawValue;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{
    HeadSource, Heads, PollIntervals,
    headers::{ask_header, read_header},
};
use crate::{
    BlockRef,
    endpoint::{Endpoint, Failure, Subscription, SubscriptionEvent},
    proof::ProofPolicy,
    rpc_types::header_by_tag,
};

/// The pause before a failed endpoint is tried again, at least.
const PAUSE: Duration = Duration::from_millis(100);

/// Hears the heads of one endpoint.
pub(crate) struct HeadListener {
    pub(crate) chain: u64,
    pub(crate) index: usize,
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) heads: Arc<Heads>,
    pub(crate) pace: PollIntervals,
    pub(crate) proofs: ProofPolicy,
}

/// Why hearing heads has ended.
enum Ended {
    Broken,
    /// The endpoint does not push.
    Silent,
}

impl HeadListener {
    /// Watches until cancelled.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        cancel.run_until_cancelled(self.watch()).await;
    }

    async fn watch(&self) {
        loop {
            sleep(self.endpoint.rest()).await;
            let ended = match self.endpoint.heads().await {
                Ok(heads) => self.follow(heads).await,
                Err(Failure::Unsupported(_)) => Ended::Silent,
                Err(failure) => {
                    tracing::debug!(chain = self.chain, endpoint = %self.endpoint.address(), %failure, "no heads");
                    Ended::Broken
                }
            };
            match ended {
                Ended::Broken => sleep(self.endpoint.rest().max(PAUSE)).await,
                Ended::Silent => self.poll().await,
            }
        }
    }

    /// Asks over and over.
    async fn poll(&self) {
        loop {
            // A failure is noted by the endpoint, and its rest kept.
            let _ = self.ask().await;
            self.heads.until_due(self.pace).await;
            sleep(self.endpoint.rest()).await;
        }
    }

    /// Hears what is pushed, until the connection ends or does not push any more.
    async fn follow(&self, mut heads: Subscription) -> Ended {
        // What came before the subscription is not pushed.
        if self.ask().await.is_err() {
            return Ended::Broken;
        }
        let mut newest_pushed = self.endpoint.head();
        loop {
            tokio::select! {
                pushed = heads.next() => match pushed {
                    SubscriptionEvent::Item(head) => match self.note(&head) {
                        Ok(head) => newest_pushed = head.number,
                        Err(_) => return Ended::Broken,
                    },
                    SubscriptionEvent::Lagged(passed_over) => {
                        // The follower fills what is missing.
                        tracing::debug!(chain = self.chain, passed_over, "heads came too fast");
                        if self.ask().await.is_err() {
                            return Ended::Broken;
                        }
                    }
                    SubscriptionEvent::Closed(failure) => {
                        self.endpoint.ended(&failure);
                        return Ended::Broken;
                    }
                },
                () = sleep(self.pace.silence) => match self.ask().await {
                    Ok(head) if head.number > newest_pushed + 1 => {
                        tracing::info!(chain = self.chain, endpoint = %self.endpoint.address(), "the subscription is silent and made anew");
                        self.endpoint.is_mute();
                        return Ended::Broken;
                    }
                    Ok(_) => {}
                    Err(_) => return Ended::Broken,
                },
            }
        }
    }

    async fn ask(&self) -> Result<BlockRef, Failure> {
        let asked = ask_header(&self.endpoint, header_by_tag("latest"), self.proofs);
        let none = || Failure::Missing("a head".to_owned());
        Ok(self.put(asked.await?.ok_or_else(none)?, HeadSource::Polled))
    }

    fn note(&self, head: &RawValue) -> Result<BlockRef, Failure> {
        let head = read_header(&self.endpoint, head, self.proofs)?;
        Ok(self.put(head, HeadSource::Pushed))
    }

    fn put(&self, head: BlockRef, told: HeadSource) -> BlockRef {
        self.endpoint.note_head(head.number);
        self.heads.put(self.index, head, told);
        head
    }
}
