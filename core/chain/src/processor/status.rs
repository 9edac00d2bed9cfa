//! Status requests: the processor's commands to watch a transaction and to reply with its status.
//!
//! A reply waits until no request about the transaction is in flight, so that it is as fresh as
//! the nodes. A transaction that is not watched is watched for the time of the request.

use alloy::primitives::B256;
use tidewire_proto::v1::TransactionStatus;
use tokio::sync::oneshot;

use super::{Processor, StatusResult};
use crate::{
    ChainError,
    journal::{JournalEntry, JournalError},
    transaction::{Interest, TrackerOutput, WatchSlot},
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
                // The client may have gone.
                let _ = request
                    .reply
                    .send(Err(ChainError::LimitReached(error.to_string())));
                return Ok(());
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

    /// Watches a transaction for the subscribers of its channel.
    pub(super) async fn follow(&mut self, hash: B256, slot: WatchSlot) -> Result<(), JournalError> {
        let now = self.deps.clock.now_ms();
        let watched = self.transactions.watch(hash, Interest::Session, now);
        // The watch has a slot of its own now.
        drop(slot);
        let output = TrackerOutput {
            // The reserved place cannot be taken by another transaction.
            requests: watched.unwrap_or_default(),
            ..TrackerOutput::default()
        };
        self.publish(output, JournalEntry::default()).await
    }

    /// Replies to the clients that wait for a transaction whose watch ended with this status.
    pub(super) fn reply_ended(&mut self, hash: &B256, status: &TransactionStatus) {
        for request in self.status_requests.remove(hash).unwrap_or_default() {
            let _ = request.reply.send(Ok(status.clone()));
        }
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
