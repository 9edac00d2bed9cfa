//! Status requests: the processor's commands to watch a transaction and to reply with its status.
//!
//! A reply waits until no request about the transaction waits or is in flight, so that it is as fresh as
//! the nodes. A transaction that is not watched is watched for the time of the request.

use alloy::primitives::B256;
use tidewire_proto::v1::TransactionStatus;
use tokio::sync::oneshot;

use super::{Origin, Processor, StatusResult};
use crate::{
    ChainError,
    journal::{JournalEntry, JournalError},
    transaction::{Interest, RequestOwner, TrackerOutput, WatchSlot},
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

/// Refuses to look for a transaction, because very many of the same client wait already.
fn refuse(reply: oneshot::Sender<StatusResult>) {
    let text = "too many transactions of this client wait for a node, try again";
    // The client may have gone.
    let _ = reply.send(Err(ChainError::ShareReached(text.to_owned())));
}

impl Processor {
    /// Replies with the status of a transaction.
    pub(super) async fn status(
        &mut self,
        hash: B256,
        abi: &[String],
        owner: RequestOwner,
        reply: oneshot::Sender<StatusResult>,
    ) -> Result<(), JournalError> {
        self.add_error_signatures(hash, abi, owner.clone()).await?;
        if self.open_requests.contains_key(&hash) {
            if self.queue.is_full(&owner) {
                refuse(reply);
                return Ok(());
            }
            self.queue.join(&owner, hash);
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
                self.watch(hash, Interest::Session, &[], owner, request)
                    .await
            }
        }
    }

    async fn add_error_signatures(
        &mut self,
        hash: B256,
        abi: &[String],
        owner: RequestOwner,
    ) -> Result<(), JournalError> {
        let output = TrackerOutput {
            requests: self.transactions.add_error_signatures(hash, abi),
            ..TrackerOutput::default()
        };
        let origin = Origin::Client(owner);
        self.publish_for(origin, output, JournalEntry::default())
            .await
    }

    /// Watches a transaction, and replies with its status.
    pub(super) async fn watch(
        &mut self,
        hash: B256,
        interest: Interest,
        abi: &[String],
        owner: RequestOwner,
        request: StatusRequest,
    ) -> Result<(), JournalError> {
        if self.queue.is_full(&owner) {
            refuse(request.reply);
            return Ok(());
        }
        let now = self.deps.clock.now_ms();
        let slot = self.transactions.reserve(hash, &owner);
        let watched = slot.and_then(|slot| {
            let requests = self.transactions.watch(hash, interest.clone(), now);
            // The watch has a slot of its own now.
            drop(slot);
            requests
        });
        let mut requests = match watched {
            Ok(requests) => requests,
            Err(error) => {
                // The client may have gone.
                let _ = request.reply.send(Err(error.into()));
                return Ok(());
            }
        };
        self.queue.join(&owner, hash);
        requests.extend(self.transactions.add_error_signatures(hash, abi));
        self.status_requests.entry(hash).or_default().push(request);
        let output = TrackerOutput {
            requests,
            ..TrackerOutput::default()
        };
        let mut entry = JournalEntry::default();
        // A transaction that was watched already may have no further status.
        if let Interest::Durable(_) = &interest
            && let Some(status) = self.transactions.status(&hash, now)
            && let Some(concern) = self.transactions.concern(&hash)
        {
            entry.notices = self.notices_of_status(&status, &concern);
        }
        let origin = Origin::Client(owner);
        self.publish_for(origin, output, entry).await?;
        self.reply(hash);
        Ok(())
    }

    /// Watches a transaction for the subscribers of its channel. If the client's line is full,
    /// the node is called at the transaction's first check.
    pub(super) async fn follow(
        &mut self,
        hash: B256,
        slot: WatchSlot,
        owner: RequestOwner,
    ) -> Result<(), JournalError> {
        let now = self.deps.clock.now_ms();
        let watched = self.transactions.watch(hash, Interest::Session, now);
        // The watch has a slot of its own now.
        drop(slot);
        // The reserved place cannot be taken by another transaction.
        let mut requests = watched.unwrap_or_default();
        if self.queue.is_full(&owner) {
            requests.clear();
        }
        let output = TrackerOutput {
            requests,
            ..TrackerOutput::default()
        };
        let origin = Origin::Client(owner);
        self.publish_for(origin, output, JournalEntry::default())
            .await
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
