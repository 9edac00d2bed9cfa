//! Status requests: the processor's commands to watch a transaction and to reply with its status.
//!
//! A reply waits until no request about the transaction is in flight, so that it is as fresh as
//! the nodes. A transaction that is not watched is watched for the time of the request.

use alloy::primitives::B256;
use tokio::sync::oneshot;

use super::{Processor, StatusResult};
use crate::{
    ChainError,
    channel::transaction_channel,
    journal::{JournalEntry, JournalError},
    transaction::{Interest, TrackerOutput, WatchError},
};

/// A client that waits for the status of a transaction.
pub(super) struct StatusRequest {
    reply: oneshot::Sender<StatusResult>,
    after_reply: AfterReply,
}

/// Effect of the reply on the watch: the watch stays or ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AfterReply {
    KeepWatch,
    EndWatch,
}

impl StatusRequest {
    /// A request whose watch stays after the reply.
    pub(super) fn keeping_watch(reply: oneshot::Sender<StatusResult>) -> Self {
        Self {
            reply,
            after_reply: AfterReply::KeepWatch,
        }
    }

    /// A request whose watch ends with the reply.
    fn ending_watch(reply: oneshot::Sender<StatusResult>) -> Self {
        Self {
            reply,
            after_reply: AfterReply::EndWatch,
        }
    }
}

impl Processor {
    /// Replies with the status of a transaction.
    pub(super) async fn status(
        &mut self,
        hash: B256,
        abi: &[String],
        reply: oneshot::Sender<StatusResult>,
    ) -> Result<(), JournalError> {
        self.add_error_signatures(hash, abi).await?;
        if self.open_requests.contains_key(&hash) {
            let requests = self.status_requests.entry(hash).or_default();
            requests.push(StatusRequest::keeping_watch(reply));
            return Ok(());
        }
        match self.transactions.status(&hash, self.deps.clock.now_ms()) {
            Some(status) => {
                // The client may have gone.
                let _ = reply.send(Ok(status));
                Ok(())
            }
            None => {
                let request = StatusRequest::ending_watch(reply);
                self.watch(hash, Interest::Session, &[], request).await
            }
        }
    }

    async fn add_error_signatures(
        &mut self,
        hash: B256,
        abi: &[String],
    ) -> Result<(), JournalError> {
        let output = TrackerOutput {
            requests: self.transactions.add_error_signatures(hash, abi),
            ..TrackerOutput::default()
        };
        self.publish(output, JournalEntry::default()).await
    }

    /// Watches a transaction, and replies with its status.
    pub(super) async fn watch(
        &mut self,
        hash: B256,
        interest: Interest,
        abi: &[String],
        request: StatusRequest,
    ) -> Result<(), JournalError> {
        let now = self.deps.clock.now_ms();
        let mut requests = match self.transactions.watch(hash, interest, now) {
            Ok(requests) => requests,
            Err(error) => {
                let refused = Err(ChainError::LimitReached(error.to_string()));
                return match request.reply.send(refused) {
                    Ok(()) => Ok(()),
                    Err(_) => self.refuse_subscriber(hash, &error).await,
                };
            }
        };
        requests.extend(self.transactions.add_error_signatures(hash, abi));
        self.status_requests.entry(hash).or_default().push(request);
        let output = TrackerOutput {
            requests,
            ..TrackerOutput::default()
        };
        self.publish(output, JournalEntry::default()).await?;
        self.reply(hash);
        Ok(())
    }

    /// Renews the channel of a transaction that cannot be watched. No client waits for a reply,
    /// but one may have subscribed: it sees a gap, and the next subscription tries again.
    async fn refuse_subscriber(
        &mut self,
        hash: B256,
        error: &WatchError,
    ) -> Result<(), JournalError> {
        let chain = self.deps.chain;
        tracing::warn!(chain, %hash, %error, "a transaction is not watched; followers see a gap");
        self.deps.interest.transactions.remove(&(chain, hash));
        let entry = JournalEntry {
            renewed: vec![transaction_channel(chain, &hash)],
            ..JournalEntry::default()
        };
        self.deps.journal.append(entry).await
    }

    /// Replies to the clients that wait for a transaction, unless a request about it is in
    /// flight.
    pub(super) fn reply(&mut self, hash: B256) {
        if self.open_requests.contains_key(&hash) {
            return;
        }
        let now = self.deps.clock.now_ms();
        let requests = self.status_requests.remove(&hash).unwrap_or_default();
        for StatusRequest { reply, after_reply } in requests {
            let status = self.transactions.status(&hash, now);
            let _ = reply.send(status.ok_or(ChainError::NotRunning));
            if after_reply == AfterReply::EndWatch {
                self.transactions.unwatch(&hash, &Interest::Session);
            }
        }
    }
}
