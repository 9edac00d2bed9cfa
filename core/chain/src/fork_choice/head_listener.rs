//! Head listener: reports the heads of one endpoint, by subscription or by polling.

use std::{sync::Arc, time::Duration};

use serde_json::value::RawValue;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{
    HeadSource, Heads, PollIntervals,
    headers::{fetch_header, parse_pushed_header},
};
use crate::{
    BlockRef,
    endpoint::{Endpoint, Failure, Subscription, SubscriptionEvent},
    proof::ProofPolicy,
    rpc_types::header_by_tag,
};

/// The shortest pause before a failed endpoint is tried again.
const MIN_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause before an endpoint is polled again that returned no head.
const FAILED_POLL_PAUSE: Duration = Duration::from_secs(1);

/// Listens to the heads of one endpoint.
pub(crate) struct HeadListener {
    pub(crate) chain: u64,
    /// The index of the endpoint in [`Heads`].
    pub(crate) index: usize,
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) heads: Arc<Heads>,
    pub(crate) intervals: PollIntervals,
    pub(crate) proofs: ProofPolicy,
}

/// The reason why listening by subscription ended.
enum ListenError {
    /// The connection failed; another one may work.
    Disconnected,
    /// The endpoint offers no subscriptions.
    Unsupported,
}

impl HeadListener {
    /// Listens until cancelled.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        cancel.run_until_cancelled(self.listen()).await;
    }

    async fn listen(&self) {
        loop {
            sleep(self.endpoint.backoff()).await;
            let error = match self.endpoint.subscribe_heads().await {
                Ok(subscription) => self.listen_to(subscription).await,
                Err(Failure::Unsupported(_)) => ListenError::Unsupported,
                Err(failure) => {
                    self.report_silence(&failure);
                    tracing::debug!(chain = self.chain, endpoint = %self.endpoint.address(), %failure, "the subscription to heads failed");
                    ListenError::Disconnected
                }
            };
            match error {
                ListenError::Disconnected => sleep(self.endpoint.backoff().max(MIN_PAUSE)).await,
                ListenError::Unsupported => self.poll_forever().await,
            }
        }
    }

    async fn poll_forever(&self) {
        loop {
            // The endpoint records a failed call itself, and backs off.
            match self.poll().await {
                Ok(_) => self.heads.poll_due(self.intervals).await,
                Err(_) => sleep(self.intervals.full.min(FAILED_POLL_PAUSE)).await,
            }
            sleep(self.endpoint.backoff()).await;
        }
    }

    /// Reports pushed heads until the connection ends or the subscription falls silent.
    async fn listen_to(&self, mut subscription: Subscription) -> ListenError {
        // A subscription does not push the current head.
        if self.poll().await.is_err() {
            return ListenError::Disconnected;
        }
        let mut newest_pushed = self.endpoint.head();
        loop {
            tokio::select! {
                event = subscription.next() => match event {
                    SubscriptionEvent::Item(head) => match self.report_pushed(&head).await {
                        Ok(head) => newest_pushed = head.number,
                        Err(_) => return ListenError::Disconnected,
                    },
                    SubscriptionEvent::Lagged(skipped) => {
                        // The head tracker fetches the headers between.
                        tracing::debug!(chain = self.chain, skipped, "heads were skipped, as they came too fast");
                        if self.poll().await.is_err() {
                            return ListenError::Disconnected;
                        }
                    }
                    SubscriptionEvent::Closed(failure) => {
                        self.report_silence(&failure);
                        self.endpoint.disconnect(&failure);
                        return ListenError::Disconnected;
                    }
                },
                () = sleep(self.intervals.push_silence) => match self.poll().await {
                    Ok(head) if head.number > newest_pushed + 1 => {
                        tracing::info!(chain = self.chain, endpoint = %self.endpoint.address(), "the subscription to heads is silent: reconnecting");
                        self.endpoint.disconnect_silent();
                        return ListenError::Disconnected;
                    }
                    Ok(_) => {}
                    Err(_) => return ListenError::Disconnected,
                },
            }
        }
    }

    async fn poll(&self) -> Result<BlockRef, Failure> {
        let response = fetch_header(&self.endpoint, header_by_tag("latest"), self.proofs);
        let missing = || Failure::NotFound("a head".to_owned());
        let head = response.await.and_then(|head| head.ok_or_else(missing));
        let head = head.inspect_err(|failure| self.report_silence(failure))?;
        Ok(self.report(head, HeadSource::Poll))
    }

    async fn report_pushed(&self, head: &RawValue) -> Result<BlockRef, Failure> {
        let head = parse_pushed_header(&self.endpoint, head, self.proofs).await;
        let head = head.inspect_err(|failure| self.report_silence(failure))?;
        Ok(self.report(head, HeadSource::Subscription))
    }

    fn report_silence(&self, failure: &Failure) {
        let reason = self.endpoint.redact(&failure.to_string());
        self.heads.report_silence(self.index, &reason);
    }

    fn report(&self, head: BlockRef, source: HeadSource) -> BlockRef {
        self.endpoint.record_head(head.number);
        self.heads.report(self.index, head, source);
        head
    }
}
