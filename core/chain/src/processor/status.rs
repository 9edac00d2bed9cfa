//! The desk's part that answers those who ask about transactions.

use alloy::primitives::B256;
use tokio::sync::oneshot;

use super::{Processor, StatusRequest, StatusResult};
use crate::{
    ChainError,
    journal::{JournalEntry, JournalError},
    publish::transaction_channel,
    transaction::{Interest, TrackerOutput, WatchError},
};

impl Processor {
    /// Says how a transaction stands, once nothing more is asked about it.
    pub(super) async fn status(
        &mut self,
        hash: B256,
        abi: &[String],
        reply: oneshot::Sender<StatusResult>,
    ) -> Result<(), JournalError> {
        let requests = self.transactions.explain_by(hash, abi);
        let states = Vec::new();
        self.tell(TrackerOutput { states, requests }, JournalEntry::default())
            .await?;
        if self.open.contains_key(&hash) {
            let keeps = true;
            let waiting = self.waiting.entry(hash).or_default();
            waiting.push(StatusRequest { reply, keeps });
            return Ok(());
        }
        match self.transactions.status(&hash, self.deps.clock.now_ms()) {
            Some(status) => {
                // Who asked may have gone.
                let _ = reply.send(Ok(status));
                Ok(())
            }
            None => {
                let keeps = false;
                let waiting = StatusRequest { reply, keeps };
                self.watch(hash, Interest::Session, &[], waiting).await
            }
        }
    }

    /// Watches a transaction, and says how it stands.
    pub(super) async fn watch(
        &mut self,
        hash: B256,
        interest: Interest,
        abi: &[String],
        waiting: StatusRequest,
    ) -> Result<(), JournalError> {
        let now = self.deps.clock.now_ms();
        let mut requests = match self.transactions.watch(hash, interest, now) {
            Ok(requests) => requests,
            Err(error) => {
                let refused = Err(ChainError::TooMany(error.to_string()));
                return match waiting.reply.send(refused) {
                    Ok(()) => Ok(()),
                    Err(_) => self.refuse_follower(hash, &error).await,
                };
            }
        };
        requests.extend(self.transactions.explain_by(hash, abi));
        self.waiting.entry(hash).or_default().push(waiting);
        let states = Vec::new();
        self.tell(TrackerOutput { states, requests }, JournalEntry::default())
            .await?;
        self.reply(hash);
        Ok(())
    }

    /// Nobody waits to hear that a transaction cannot be watched, but somebody may follow its
    /// channel: they are told of a gap, and whoever subscribes next has it tried again.
    async fn refuse_follower(
        &mut self,
        hash: B256,
        error: &WatchError,
    ) -> Result<(), JournalError> {
        let chain = self.deps.chain;
        tracing::warn!(chain, %hash, %error, "a transaction is not watched, followers are told of a gap");
        self.deps.interest.transactions.remove(&(chain, hash));
        let renewed = transaction_channel(chain, &hash).into_iter().collect();
        let entry = JournalEntry {
            renewed,
            ..JournalEntry::default()
        };
        self.deps.journal.enter(entry).await
    }

    /// Tells whoever waits for a transaction, once nothing more is asked about it.
    pub(super) fn reply(&mut self, hash: B256) {
        if self.open.contains_key(&hash) {
            return;
        }
        let now = self.deps.clock.now_ms();
        for StatusRequest { reply, keeps } in self.waiting.remove(&hash).unwrap_or_default() {
            let status = self.transactions.status(&hash, now);
            let _ = reply.send(status.ok_or(ChainError::Ended));
            if !keeps {
                self.transactions.unwatch(&hash, &Interest::Session);
            }
        }
    }
}
