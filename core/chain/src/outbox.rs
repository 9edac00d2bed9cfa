//! Outbox: publications on channels that all servers share, stored until they are published.
//!
//! The broker keeps the histories of such channels and gives the positions. The journal therefore
//! stores each publication as a row, in the transaction of the state that it follows from, publishes
//! it under a key, and removes the row. If the server is killed in between, the next owner of the chain
//! finds the row and publishes it under the same key: the broker knows the key of one that was
//! published already.
//!
//! A row names the term in which it was stored. Term and number are the key, so that no other
//! publication has it, even if the store loses its newest rows.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use tidewire_proto::v1::ErrorCode;
use tidewire_store::{Batch, Store, StoreError};
use tidewire_stream::{
    Backoff, ChannelName, DurablePublisher, Epoch, Event, Position, StreamError,
};
use tokio::time::sleep;

use crate::journal::{JOURNAL, JournalError, PAGE, decode, encode};

/// Pauses between attempts to publish.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// A stored publication.
#[derive(Debug)]
pub(crate) struct Row {
    channel: ChannelName,
    event: Event,
    key: String,
}

/// The rows of one engine. It is part of the journal's task.
pub(crate) struct Outbox {
    publisher: Arc<dyn DurablePublisher>,
    term: String,
    /// The number of the next row.
    next: u64,
    /// The number of the first row that may be in the store.
    oldest: u64,
    /// The number of the first row that may not be published yet.
    published: u64,
    /// Rows of the owner before, until the task runs.
    left: Vec<Row>,
}

impl Outbox {
    /// The outbox of an engine that this server owns. None if the engine is the server's own.
    pub(crate) fn new(publisher: &Arc<dyn DurablePublisher>) -> Option<Self> {
        Some(Self {
            term: publisher.term()?.to_owned(),
            publisher: publisher.clone(),
            next: 0,
            oldest: 0,
            published: 0,
            left: Vec::new(),
        })
    }

    /// Reads the rows that the owner before left.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(crate) async fn restore(&mut self, store: &dyn Store) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let page = store.scan(JOURNAL, Vec::new(), after, PAGE).await?;
            let is_last = page.len() < PAGE;
            after = page.last().map(|(key, _)| key.clone());
            for (key, value) in page {
                let Ok(number) = <[u8; 8]>::try_from(key.as_slice()).map(u64::from_be_bytes) else {
                    continue;
                };
                if self.next == 0 {
                    (self.oldest, self.published) = (number, number);
                }
                self.next = number + 1;
                let row = decode(&value).and_then(|(channel, term, publication)| {
                    Some(Row {
                        channel: ChannelName::parse(&channel).ok()?,
                        event: publication.event,
                        key: key_of(&term, number),
                    })
                });
                match row {
                    Some(row) => self.left.push(row),
                    None => tracing::warn!(number, "a stored publication is unreadable"),
                }
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// Publishes the rows that the owner before left. Call it before other rows are published.
    ///
    /// # Errors
    /// The term is over.
    pub(crate) async fn publish_left(&mut self, store: &dyn Store) -> Result<(), JournalError> {
        let left = std::mem::take(&mut self.left);
        if !left.is_empty() {
            tracing::info!(
                count = left.len(),
                "publishes what the owner before has stored"
            );
        }
        self.publish(left, store).await
    }

    /// Adds the writes that store publications and remove rows that are published.
    pub(crate) fn stage(
        &mut self,
        writes: &mut Batch,
        publications: Vec<(ChannelName, Event)>,
        now_ms: i64,
    ) -> Vec<Row> {
        self.stage_removal(writes);
        let rows = publications.into_iter().map(|(channel, event)| {
            let number = self.next;
            self.next += 1;
            let position = Position {
                epoch: Epoch::new(&self.term),
                seq: number,
            };
            let value = encode(&channel, &position, now_ms, &event);
            writes.put(JOURNAL, number.to_be_bytes(), value);
            Row {
                channel,
                event,
                key: key_of(&self.term, number),
            }
        });
        rows.collect()
    }

    /// Adds the writes that remove rows that are published.
    pub(crate) fn stage_removal(&mut self, writes: &mut Batch) {
        if self.oldest < self.published {
            let (from, to) = (self.oldest.to_be_bytes(), self.published.to_be_bytes());
            writes.delete_range(JOURNAL, from, to);
            self.oldest = self.published;
        }
    }

    /// Publishes stored rows, and tries again until all are published: those of a channel in their
    /// order.
    ///
    /// # Errors
    /// The term is over. The next owner publishes them.
    pub(crate) async fn publish(
        &mut self,
        mut rows: Vec<Row>,
        store: &dyn Store,
    ) -> Result<(), JournalError> {
        let mut backoff = Backoff::new(FIRST_PAUSE, LAST_PAUSE);
        loop {
            let outcomes = rows.iter().map(|row| {
                self.publisher
                    .publish_once(&row.channel, row.event.clone(), &row.key)
            });
            let outcomes = join_all(outcomes).await;
            let mut refused = Vec::new();
            for (row, outcome) in rows.into_iter().zip(outcomes) {
                match outcome {
                    Ok(()) => {}
                    Err(error) if may_pass(&error) => refused.push((row, error)),
                    Err(error) => self.skip(&row, &error).await,
                }
            }
            let Some((row, error)) = refused.first() else {
                self.published = self.next;
                return Ok(());
            };
            if store.has_ended() {
                return Err(JournalError);
            }
            tracing::warn!(channel = %row.channel, %error, count = refused.len(), "publications of a chain wait");
            rows = refused.into_iter().map(|(row, _)| row).collect();
            sleep(backoff.next_pause()).await;
        }
    }

    /// Goes on without a publication that is never accepted: its subscribers see a gap.
    async fn skip(&self, row: &Row, error: &StreamError) {
        let channel = &row.channel;
        tracing::error!(%channel, %error, "lost a publication of a chain");
        if let Err(error) = self.publisher.start_new_epoch(channel).await {
            tracing::error!(%channel, %error, "a channel's epoch is not renewed, so subscribers see no gap");
        }
    }
}

/// Whether a publication that was refused may be accepted later.
fn may_pass(error: &StreamError) -> bool {
    !matches!(
        error.code(),
        ErrorCode::ResourceExhausted | ErrorCode::FailedPrecondition | ErrorCode::InvalidArgument
    )
}

/// The key of a row. A key has 255 bytes at most, and a term about thirty.
fn key_of(term: &str, number: u64) -> String {
    format!("{term}:{number}")
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        sync::{
            Arc,
            atomic::{AtomicBool, AtomicU64, Ordering},
        },
        time::Duration,
    };

    use parking_lot::Mutex;
    use proptest::prelude::*;
    use tidewire_proto::v1::{Block, server_message::Data};
    use tidewire_store::{
        Batch, Key, MemoryStore, SharedStore, Store, StoreError, StoreFuture, Table, Value,
    };
    use tidewire_stream::{
        ManualClock, Publisher, StoredPublication,
        broker::{BrokerFuture, PublishFuture},
    };
    use tokio::time::{sleep, timeout};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{
        blocks_channel,
        interest::{InterestRegistry, WalletInterest},
        journal::{Journal, JournalEntry},
        notice::NoticeQueue,
    };

    /// The publications of a broker, and the keys that it knows.
    #[derive(Default)]
    struct SharedBroker {
        log: Mutex<Vec<(ChannelName, u64)>>,
        keys: Mutex<BTreeSet<String>>,
        /// Calls that fail from now on: each bit says whether the next one does, and each second one
        /// whether it published nevertheless.
        faults: AtomicU64,
        delay_ms: AtomicU64,
        /// Whether an engine said that it had caught up, and had not.
        was_early: AtomicBool,
    }

    impl SharedBroker {
        fn publish(&self, channel: &ChannelName, event: &Event, key: &str) {
            let Data::Block(block) = event else {
                panic!("only blocks are published");
            };
            if self.keys.lock().insert(key.to_owned()) {
                self.log.lock().push((channel.clone(), block.number));
            }
        }
    }

    /// The publisher of one term.
    struct TermPublisher {
        broker: Arc<SharedBroker>,
        term: String,
    }

    impl Publisher for TermPublisher {
        fn publish(&self, _: &ChannelName, _: Event) {
            panic!("stored publications have keys");
        }
    }

    impl DurablePublisher for TermPublisher {
        fn term(&self) -> Option<&str> {
            Some(&self.term)
        }

        fn publish_once(&self, channel: &ChannelName, event: Event, key: &str) -> PublishFuture {
            let broker = self.broker.clone();
            let (channel, key) = (channel.clone(), key.to_owned());
            let faults = broker.faults.load(Ordering::Relaxed);
            broker.faults.store(faults >> 2, Ordering::Relaxed);
            Box::pin(async move {
                sleep(Duration::from_millis(
                    broker.delay_ms.load(Ordering::Relaxed),
                ))
                .await;
                if faults & 1 == 0 || faults & 2 != 0 {
                    broker.publish(&channel, &event, &key);
                }
                match faults & 1 {
                    0 => Ok(()),
                    _ => Err(StreamError::new(ErrorCode::Unavailable, "no Redis")),
                }
            })
        }

        fn position<'a>(&'a self, _: &'a ChannelName) -> BrokerFuture<'a, Position> {
            panic!("the broker gives positions");
        }

        fn restore<'a>(
            &'a self,
            _: &'a ChannelName,
            _: Epoch,
            _: Vec<StoredPublication>,
        ) -> BrokerFuture<'a, ()> {
            panic!("the broker has the histories");
        }

        fn start_new_epoch<'a>(&'a self, _: &'a ChannelName) -> BrokerFuture<'a, ()> {
            Box::pin(std::future::ready(Ok(())))
        }

        fn forget<'a>(&'a self, _: &'a ChannelName) -> BrokerFuture<'a, ()> {
            Box::pin(std::future::ready(Ok(())))
        }
    }

    /// The store of a term, which takes a while and ends.
    struct TermStore {
        store: Arc<MemoryStore>,
        delay_ms: u64,
        has_ended: AtomicBool,
    }

    impl Store for TermStore {
        fn get(&self, table: Table, key: Key) -> StoreFuture<'_, Option<Value>> {
            self.store.get(table, key)
        }

        fn get_many(&self, keys: Vec<(Table, Key)>) -> StoreFuture<'_, Vec<Option<Value>>> {
            self.store.get_many(keys)
        }

        fn get_floor(
            &self,
            table: Table,
            keys: Vec<Key>,
        ) -> StoreFuture<'_, Vec<Option<(Key, Value)>>> {
            self.store.get_floor(table, keys)
        }

        fn scan(
            &self,
            table: Table,
            prefix: Key,
            after: Option<Key>,
            limit: usize,
        ) -> StoreFuture<'_, Vec<(Key, Value)>> {
            self.store.scan(table, prefix, after, limit)
        }

        fn commit(&self, batch: Batch) -> StoreFuture<'_, ()> {
            Box::pin(async move {
                sleep(Duration::from_millis(self.delay_ms)).await;
                if self.has_ended() {
                    return Err(StoreError::TakenOver);
                }
                self.store.commit(batch).await?;
                sleep(Duration::from_millis(self.delay_ms)).await;
                Ok(())
            })
        }

        fn has_ended(&self) -> bool {
            self.has_ended.load(Ordering::Relaxed)
        }

        fn failure(&self) -> Option<StoreError> {
            None
        }
    }

    /// A term of an engine: its journal, and the store that ends with it.
    async fn begin(
        broker: &Arc<SharedBroker>,
        store: &Arc<MemoryStore>,
        number: u64,
        delay_ms: u64,
    ) -> (Journal, Arc<TermStore>, tokio::task::JoinHandle<()>) {
        let term_store = Arc::new(TermStore {
            store: store.clone(),
            delay_ms,
            has_ended: AtomicBool::new(false),
        });
        let publisher = TermPublisher {
            broker: broker.clone(),
            term: format!("{number}-aaaa"),
        };
        let shared: SharedStore = term_store.clone();
        let interest = InterestRegistry::new(WalletInterest::new(Vec::new()));
        let (journal, mut task) = Journal::new(
            Some(shared),
            Arc::new(publisher),
            Arc::new(interest),
            ManualClock::at(0),
            NoticeQueue::default(),
        );
        task.restore().await.unwrap();
        let (left, mut caught_up) = (numbers(store).await, task.caught_up());
        let (broker, watched) = (broker.clone(), term_store.clone());
        tokio::spawn(async move {
            if caught_up
                .wait_for(|is_caught_up| *is_caught_up)
                .await
                .is_ok()
            {
                let log = broker.log.lock().clone();
                let is_there = |number| log.iter().any(|(_, published)| published == number);
                let is_early = !watched.has_ended() && !left.iter().all(is_there);
                broker.was_early.fetch_or(is_early, Ordering::Relaxed);
            }
        });
        let running = tokio::spawn(task.run(CancellationToken::new()));
        (journal, term_store, running)
    }

    fn entry(numbers: &[u64]) -> JournalEntry {
        let block = |number: &u64| Block {
            number: *number,
            ..Block::default()
        };
        JournalEntry {
            publications: numbers
                .iter()
                .map(|number| (blocks_channel(number % 2), Data::Block(block(number))))
                .collect(),
            ..JournalEntry::default()
        }
    }

    async fn rows(store: &MemoryStore) -> usize {
        numbers(store).await.len()
    }

    /// The numbers of the blocks that are stored and not removed.
    async fn numbers(store: &MemoryStore) -> Vec<u64> {
        let rows = store.scan(JOURNAL, Vec::new(), None, usize::MAX).await;
        let rows = rows.unwrap().into_iter();
        rows.map(|(_, value)| match decode(&value).unwrap().2.event {
            Data::Block(block) => block.number,
            other => panic!("{other:?} is no block"),
        })
        .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_published_is_removed() {
        let (broker, store) = (Arc::default(), Arc::new(MemoryStore::new()));
        let (journal, _, task) = begin(&broker, &store, 1, 0).await;
        journal.append(entry(&[1, 2])).await.unwrap();
        journal.append(entry(&[3])).await.unwrap();
        drop(journal);
        task.await.unwrap();
        let log: Vec<_> = broker
            .log
            .lock()
            .iter()
            .map(|(_, number)| *number)
            .collect();
        assert_eq!(log, [1, 2, 3]);
        assert_eq!(rows(&store).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_owner_publishes_what_was_stored() {
        let (broker, store) = (Arc::<SharedBroker>::default(), Arc::new(MemoryStore::new()));
        let (journal, term, task) = begin(&broker, &store, 1, 0).await;
        // The first is published, and the answer lost. The second is not published.
        broker.faults.store(0b0111, Ordering::Relaxed);
        let appended = timeout(Duration::from_millis(1), journal.append(entry(&[1, 2]))).await;
        assert!(appended.is_err());
        term.has_ended.store(true, Ordering::Relaxed);
        task.abort();
        assert_eq!(rows(&store).await, 2);
        let (journal, _, task) = begin(&broker, &store, 2, 0).await;
        journal.append(entry(&[3])).await.unwrap();
        drop(journal);
        task.await.unwrap();
        let log: Vec<_> = broker
            .log
            .lock()
            .iter()
            .map(|(_, number)| *number)
            .collect();
        assert_eq!(log, [1, 2, 3]);
        assert_eq!(rows(&store).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_journal_ends_with_the_term_of_its_store() {
        let (broker, store) = (Arc::default(), Arc::new(MemoryStore::new()));
        let (journal, term, task) = begin(&broker, &store, 1, 0).await;
        term.has_ended.store(true, Ordering::Relaxed);
        assert_eq!(journal.append(entry(&[1])).await, Err(JournalError));
        task.await.unwrap();
        assert!(broker.log.lock().is_empty());
        assert_eq!(rows(&store).await, 0);
    }

    /// One term: how long it lasts, how slow store and broker are, and which calls fail.
    type TermPlan = (u64, u64, u64, u64);

    async fn follow(plans: Vec<TermPlan>) {
        let (broker, store) = (Arc::<SharedBroker>::default(), Arc::new(MemoryStore::new()));
        let (mut next, mut acknowledged) = (0, BTreeSet::new());
        for (number, (lasts_ms, store_ms, broker_ms, faults)) in (1..).zip(plans) {
            broker.delay_ms.store(broker_ms, Ordering::Relaxed);
            broker.faults.store(faults, Ordering::Relaxed);
            let (journal, term, task) = begin(&broker, &store, number, store_ms).await;
            let appending = async {
                loop {
                    let numbers: Vec<_> = (next..next + 1 + next % 3).collect();
                    next += 1 + next % 3;
                    if journal.append(entry(&numbers)).await.is_ok() {
                        acknowledged.extend(numbers);
                    }
                    sleep(Duration::from_millis(1)).await;
                }
            };
            let _ = timeout(Duration::from_millis(lasts_ms), appending).await;
            term.has_ended.store(true, Ordering::Relaxed);
            task.abort();
            let _ = task.await;
        }
        broker.faults.store(0, Ordering::Relaxed);
        let (journal, _, task) = begin(&broker, &store, 1_000, 0).await;
        journal.append(entry(&[next])).await.unwrap();
        drop(journal);
        task.await.unwrap();
        assert_eq!(rows(&store).await, 0);
        let log = broker.log.lock().clone();
        let published: BTreeSet<_> = log.iter().map(|(_, number)| *number).collect();
        assert_eq!(
            published.len(),
            log.len(),
            "something is there twice: {log:?}"
        );
        assert!(
            acknowledged.is_subset(&published),
            "something is lost: {log:?}"
        );
        assert!(published.contains(&next));
        assert!(!broker.was_early.load(Ordering::Relaxed));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn each_publication_is_made_once_whatever_owner_fails(
            plans in prop::collection::vec((0_u64..60, 0_u64..4, 0_u64..4, any::<u64>()), 1..8)
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            runtime.block_on(follow(plans));
        }
    }
}
