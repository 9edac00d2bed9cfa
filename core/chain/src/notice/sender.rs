//! Notice sender: passes queued notices to the sink, and removes those that it has stored.
//!
//! A notice is removed after the sink's write. A crash in between passes it on again, with the
//! same key. While the sink is unavailable the queue grows, and chains go on.

use std::{sync::Arc, time::Duration};

use tidewire_store::{SharedStore, StoreError};
use tidewire_stream::Backoff;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{NoticeQueue, NoticeSink, NoticeTopic, SinkUnavailable, StoredNotice};
use crate::interest::InterestRegistry;

/// Notices in one call of the sink.
const GROUP: usize = 256;

/// Pauses between attempts while the sink or the store fails.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// Why notices stay in the queue.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error(transparent)]
    Sink(#[from] SinkUnavailable),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The task that empties the queue.
pub(crate) struct NoticeSender {
    pub(crate) store: SharedStore,
    pub(crate) queue: NoticeQueue,
    pub(crate) sink: Arc<dyn NoticeSink>,
    pub(crate) interest: Arc<InterestRegistry>,
}

impl NoticeSender {
    /// Runs until cancelled. The rest is sent after the next start.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        let _ = cancel.run_until_cancelled(self.send_all()).await;
    }

    async fn send_all(&self) {
        let mut backoff = Backoff::new(FIRST_PAUSE, LAST_PAUSE);
        let mut is_failing = false;
        loop {
            match self.send_next().await {
                Ok(0) => {
                    self.queue.added().await;
                    continue;
                }
                Ok(_) => {
                    if std::mem::take(&mut is_failing) {
                        tracing::info!("notifications of chains are sent again");
                    }
                    backoff = Backoff::new(FIRST_PAUSE, LAST_PAUSE);
                    continue;
                }
                Err(error) if !is_failing => {
                    is_failing = true;
                    tracing::warn!(%error, "notifications of chains wait in the store");
                }
                Err(_) => {}
            }
            sleep(backoff.next_pause()).await;
        }
    }

    /// Sends the oldest notices. Returns how many rows are done.
    pub(super) async fn send_next(&self) -> Result<usize, SendError> {
        let (mut notices, keys) = self.queue.read(&*self.store, GROUP).await?;
        if keys.is_empty() {
            return Ok(0);
        }
        notices.retain(|stored| self.is_wanted(stored));
        if !notices.is_empty() {
            self.sink.store(notices).await?;
        }
        let done = keys.len();
        self.queue.remove(&*self.store, keys).await?;
        Ok(done)
    }

    /// Whether the wallet of a payment is still linked to the user. A watched transaction may
    /// concern the user without a link.
    fn is_wanted(&self, stored: &StoredNotice) -> bool {
        let notice = &stored.notice;
        match (notice.topic, notice.wallet) {
            (NoticeTopic::Payment, Some(wallet)) => {
                let user = tidewire_stream::UserId::new(&notice.user);
                self.interest.wallets.links.is_linked(&wallet, &user)
            }
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use alloy::primitives::B256;
    use parking_lot::Mutex;
    use proptest::prelude::*;
    use tidewire_store::{Batch, MemoryStore};

    use super::*;
    use crate::{
        interest::WalletInterest,
        notice::{Grouping, Notice, NoticeFacts, NoticeState, SinkFuture},
    };

    /// A sink like the hub: it ignores what it knows by its key, and fails as often as the test says.
    #[derive(Debug, Default)]
    struct TestSink {
        /// Calls that fail from now on.
        failures: Mutex<u8>,
        /// Received notices, in order.
        inbox: Mutex<Vec<B256>>,
        keys: Mutex<BTreeMap<String, Notice>>,
    }

    impl NoticeSink for TestSink {
        fn store(&self, notices: Vec<StoredNotice>) -> SinkFuture<'_> {
            Box::pin(async move {
                let mut failures = self.failures.lock();
                let part = match *failures {
                    0 => notices.len(),
                    // A hub writes several parts, and may fail between them.
                    _ => notices.len() / 2,
                };
                for stored in notices.iter().take(part) {
                    let mut keys = self.keys.lock();
                    match keys.get(&stored.key()) {
                        Some(known) => assert_eq!(known, &stored.notice),
                        None => {
                            keys.insert(stored.key(), stored.notice.clone());
                            self.inbox.lock().push(stored.notice.hash);
                        }
                    }
                }
                if *failures > 0 {
                    *failures -= 1;
                    return Err(SinkUnavailable("a full disk".to_owned()));
                }
                Ok(())
            })
        }
    }

    fn notice(number: u64) -> Notice {
        Notice {
            chain: 1,
            user: "ada".to_owned(),
            topic: NoticeTopic::Transaction,
            state: NoticeState::Confirmed,
            grouping: Grouping::Single,
            hash: B256::left_padding_from(&number.to_be_bytes()),
            wallet: None,
            block: None,
            facts: NoticeFacts::default(),
        }
    }

    /// Something that happens to the queue.
    #[derive(Debug, Clone)]
    enum Step {
        /// The journal writes this many notices.
        Write(u8),
        /// The sender sends a group.
        Send,
        /// The sink fails at its next calls.
        Fail(u8),
        /// The server is killed between the sink's write and the removal, and starts again.
        KillAfterSink,
        /// The server is killed and starts again.
        Kill,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..20_u8).prop_map(Step::Write),
            Just(Step::Send),
            (1..3_u8).prop_map(Step::Fail),
            Just(Step::KillAfterSink),
            Just(Step::Kill),
        ]
    }

    async fn sender(store: &SharedStore, sink: &Arc<TestSink>) -> NoticeSender {
        let queue = NoticeQueue::default();
        queue.restore(&**store).await.unwrap();
        NoticeSender {
            store: store.clone(),
            queue,
            sink: sink.clone(),
            interest: Arc::new(InterestRegistry::new(WalletInterest::new(Vec::new()))),
        }
    }

    async fn check(steps: Vec<Step>) {
        let store: SharedStore = Arc::new(MemoryStore::default());
        let sink = Arc::new(TestSink::default());
        let mut running = sender(&store, &sink).await;
        let mut written = 0;
        for step in steps {
            match step {
                Step::Write(count) => {
                    let from = written;
                    written += u64::from(count);
                    let notices: Vec<_> = (from..written).map(notice).collect();
                    let mut batch = Batch::new();
                    running.queue.stage(&mut batch, &notices);
                    store.commit(batch).await.unwrap();
                }
                Step::Send => drop(running.send_next().await),
                Step::Fail(count) => *sink.failures.lock() = count,
                Step::KillAfterSink => {
                    let (notices, _) = running.queue.read(&*store, GROUP).await.unwrap();
                    let _ = sink.store(notices).await;
                    running = sender(&store, &sink).await;
                }
                Step::Kill => running = sender(&store, &sink).await,
            }
        }
        *sink.failures.lock() = 0;
        while running.send_next().await.unwrap() > 0 {}
        // Each once, in order.
        let expected: Vec<_> = (0..written).map(|number| notice(number).hash).collect();
        assert_eq!(*sink.inbox.lock(), expected);
        let keys: BTreeSet<_> = sink.keys.lock().keys().cloned().collect();
        assert_eq!(keys.len() as u64, written);
    }

    proptest! {
        #[test]
        fn every_notice_reaches_the_sink_once_and_in_order(
            steps in prop::collection::vec(step(), 0..60)
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(check(steps));
        }
    }

    #[tokio::test]
    async fn a_payment_of_a_wallet_that_is_no_longer_linked_is_not_sent() {
        let store: SharedStore = Arc::new(MemoryStore::default());
        let sink = Arc::new(TestSink::default());
        let running = sender(&store, &sink).await;
        let payment = Notice {
            topic: NoticeTopic::Payment,
            wallet: Some(alloy::primitives::Address::with_last_byte(1)),
            ..notice(1)
        };
        let mut batch = Batch::new();
        running.queue.stage(&mut batch, &[payment, notice(2)]);
        store.commit(batch).await.unwrap();
        assert_eq!(running.send_next().await.unwrap(), 2);
        assert_eq!(*sink.inbox.lock(), [notice(2).hash]);
    }
}
