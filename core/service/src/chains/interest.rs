//! Interest of this node in one chain: the [book](super::book), and the task that sends its updates to
//! the owner.

use std::time::Duration;

use parking_lot::Mutex;
use prost::Message as _;
use tidewire_proto::v1::ErrorCode;
use tidewire_stream::{
    CallClass, Caller, ChannelName, Identity, StreamError, UserId, identity::UserIdentity,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout_at},
};

use super::{
    INTEREST, OpenChain, SharedChains,
    book::{InterestBook, NextStep, Verdict},
    follow,
    wire::{ChainCall, Follower, InterestAnswer, InterestUpdate},
};
use crate::{
    engine_slot::EngineSlot,
    forwarding::{CHAINS, Call, RETRY_AFTER_MS, Reached},
};

/// Longest wait of a subscription for the answer of an owner that is known. An owner that has been silent
/// for so long is not waited for.
const ANSWER: Duration = Duration::from_secs(10);

/// Longest time of an update on its way. Another one follows it.
const UPDATE: Duration = Duration::from_secs(5);

/// Pause after an update that was not answered.
const PAUSE: Duration = Duration::from_millis(100);

/// The caller of updates.
const NODE: &str = "a node that follows chains";

/// Channels that are checked before other tasks run.
const CHUNK: usize = 1_024;

/// The interest of this node in one chain.
#[derive(Debug)]
pub(super) struct ChainInterest {
    chain: u64,
    book: Mutex<InterestBook>,
    changed: Notify,
    /// Since when the owner has not answered updates.
    silent_since: Mutex<Option<Instant>>,
}

impl ChainInterest {
    pub(super) fn new(chain: u64) -> Self {
        Self {
            chain,
            book: Mutex::default(),
            changed: Notify::new(),
            silent_since: Mutex::default(),
        }
    }

    /// Has the owner follow a channel for a client, as long as the channel has subscribers here.
    ///
    /// # Errors
    /// The owner refuses it, or has not answered in time, or there has been none for some seconds.
    pub(super) async fn follow(
        &self,
        slot: &EngineSlot<OpenChain>,
        channel: &ChannelName,
        caller: &Caller,
    ) -> Result<(), StreamError> {
        let follower = Follower::new(channel.as_str().to_owned(), caller, None);
        let (is_known, verdict) = {
            let mut book = self.book.lock();
            (book.contains(channel), book.add(channel, follower)?)
        };
        let Some(verdict) = verdict else {
            return Ok(());
        };
        self.changed.notify_one();
        match self.verdict(slot, verdict).await {
            Err(error) if is_known && error.code() == ErrorCode::Unavailable => {
                // The next owner hears of it in any case.
                tracing::debug!(%channel, %error, "a transaction is not read again");
                Ok(())
            }
            verdict => verdict,
        }
    }

    /// Waits for the answer of the owner. An owner that does not answer, or a chain without one, holds up
    /// many subscriptions once, and not each of them in turn.
    async fn verdict(
        &self,
        slot: &EngineSlot<OpenChain>,
        verdict: Verdict,
    ) -> Result<(), StreamError> {
        let silent_since = *self.silent_since.lock();
        let until = silent_since.unwrap_or_else(Instant::now) + ANSWER;
        let absence = tokio::select! {
            biased;
            answered = timeout_at(until, verdict) => match answered {
                Ok(Ok(verdict)) => return verdict,
                Ok(Err(_)) | Err(_) => {
                    slot.absence(&format!("the owner of chain {} does not answer", self.chain))
                }
            },
            absence = slot.given_up() => absence,
        };
        Err(absence.with_retry_after_ms(RETRY_AFTER_MS))
    }

    /// The same once there is an owner.
    pub(super) fn follow_later(&self, channel: &ChannelName, caller: &Caller) {
        let follower = Follower::new(channel.as_str().to_owned(), caller, None);
        self.book.lock().add_later(channel, follower);
        self.changed.notify_one();
    }

    /// Has the task look at the owner again.
    pub(super) fn look(&self) {
        *self.silent_since.lock() = None;
        self.book.lock().hasten();
        self.changed.notify_one();
    }

    /// Removes channels that have had no subscriber for a time.
    pub(super) async fn sweep(&self, has_subscriber: impl Fn(&ChannelName) -> bool, now: Instant) {
        let channels: Vec<_> = self.book.lock().channels().cloned().collect();
        for (index, channel) in channels.iter().enumerate() {
            if index % CHUNK == CHUNK - 1 {
                tokio::task::yield_now().await;
            }
            let is_used = has_subscriber(channel);
            self.book.lock().check(channel, is_used, now);
        }
        self.changed.notify_one();
    }

    /// Sends updates to the owner, for good.
    pub(super) async fn run(&self, shared: &SharedChains, slot: &EngineSlot<OpenChain>) {
        let node = shared.stream.broker().node_tag();
        let node = node.map_or(String::new(), |tag| tag.as_str().to_owned());
        loop {
            let step = self.book.lock().next_step(&node, Instant::now());
            let update = match step {
                NextStep::Send(update) => update,
                NextStep::Wait(until) => {
                    tokio::select! {
                        () = self.changed.notified() => {}
                        () = tokio::time::sleep_until(until) => {}
                    }
                    continue;
                }
            };
            match self.send(shared, slot, update).await {
                Ok(answer) => {
                    *self.silent_since.lock() = None;
                    let lost = self.book.lock().take_answer(answer, Instant::now());
                    for (channel, error) in lost {
                        tracing::warn!(%channel, %error, "the owner of a chain does not follow a channel any more that has subscribers here");
                    }
                }
                Err(error) => {
                    self.silent_since.lock().get_or_insert_with(Instant::now);
                    tracing::debug!(chain = self.chain, %error, "the owner of a chain is not told what is followed here");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    async fn send(
        &self,
        shared: &SharedChains,
        slot: &EngineSlot<OpenChain>,
        update: InterestUpdate,
    ) -> Result<InterestAnswer, StreamError> {
        let caller = Identity::from(UserIdentity::new(UserId::new(NODE), i64::MAX)).into();
        let request = ChainCall {
            chain: self.chain,
            request: update.encode_to_vec().into(),
        };
        // It is applied once, however often it comes. Its places are not those of clients.
        let call = Call::read((CHAINS, INTEREST), &caller, &request)
            .in_class(CallClass::Node)
            .within(UPDATE);
        match shared.relay.reach(slot, call).await? {
            Reached::Here(open) => follow::apply(&open, &shared.stream, update).await,
            Reached::Answered(answer) => Ok(answer),
        }
    }
}
