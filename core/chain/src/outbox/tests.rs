//! Tests of the outbox.

use std::{
    collections::{BTreeSet, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use proptest::prelude::*;
use tidewire_proto::v1::{Block, ErrorCode, server_message::Data};
use tidewire_store::{
    Batch, Key, MemoryStore, SharedStore, Store, StoreError, StoreFuture, Table, Value,
};
use tidewire_stream::{
    ManualClock, Publisher, StoredPublication, StreamError,
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
    /// Channels whose server is lost: calls wait for it.
    lost: Mutex<HashSet<ChannelName>>,
    /// Calls that wait for a lost server now, at most so far, and bytes of their events.
    waiting: AtomicU64,
    most_waiting: AtomicU64,
    /// Whether an engine said that it had caught up, and had not.
    was_early: AtomicBool,
}

/// Stands for a new epoch in the log.
const RENEWED: u64 = u64::MAX;

impl SharedBroker {
    /// Waits until the server of a channel is there.
    async fn reached(&self, channel: &ChannelName, bytes: usize) {
        struct Held<'a>(&'a SharedBroker, u64);
        impl Drop for Held<'_> {
            fn drop(&mut self) {
                self.0.waiting.fetch_sub(self.1, Ordering::Relaxed);
            }
        }
        let bytes = bytes as u64;
        let waiting = self.waiting.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.most_waiting.fetch_max(waiting, Ordering::Relaxed);
        let _held = Held(self, bytes);
        while self.lost.lock().contains(channel) {
            sleep(Duration::from_millis(100)).await;
        }
    }

    fn lose(&self, channels: impl IntoIterator<Item = ChannelName>) {
        *self.lost.lock() = channels.into_iter().collect();
    }

    /// The numbers that were published on a channel.
    fn on(&self, channel: &ChannelName) -> Vec<u64> {
        let log = self.log.lock();
        let on = log.iter().filter(|(one, _)| one == channel);
        on.map(|(_, number)| *number).collect()
    }

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
            let Data::Block(block) = &event else {
                panic!("only blocks are published");
            };
            broker.reached(&channel, block.hash.len()).await;
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

    fn start_new_epoch<'a>(&'a self, channel: &'a ChannelName) -> BrokerFuture<'a, ()> {
        Box::pin(async move {
            self.broker.reached(channel, 0).await;
            self.broker.log.lock().push((channel.clone(), RENEWED));
            Ok(())
        })
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
    let late = task.left();
    let (broker, watched) = (broker.clone(), term_store.clone());
    tokio::spawn(async move {
        if caught_up
            .wait_for(|is_caught_up| *is_caught_up)
            .await
            .is_ok()
        {
            let log = broker.log.lock().clone();
            let is_there = |number: &u64| log.iter().any(|(_, published)| published == number);
            let is_told =
                |number: &u64| is_there(number) || late.contains(&blocks_channel(number % 2));
            let is_early = !watched.has_ended() && !left.iter().all(is_told);
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
    rows.map(
        |(_, value)| match StoredRow::decode(&value).unwrap().event {
            Some(Data::Block(block)) => block.number,
            None => RENEWED,
            Some(other) => panic!("{other:?} is no block"),
        },
    )
    .collect()
}

#[tokio::test(start_paused = true)]
async fn what_is_published_is_removed() {
    let (broker, store) = (Arc::<SharedBroker>::default(), Arc::new(MemoryStore::new()));
    let (journal, _, task) = begin(&broker, &store, 1, 0).await;
    journal.append(entry(&[1, 2])).await.unwrap();
    journal.append(entry(&[3])).await.unwrap();
    drop(journal);
    task.await.unwrap();
    assert_eq!(broker.on(&blocks_channel(0)), [2]);
    assert_eq!(broker.on(&blocks_channel(1)), [1, 3]);
    assert_eq!(rows(&store).await, 0);
}

#[tokio::test(start_paused = true)]
async fn the_next_owner_publishes_what_was_stored() {
    let (broker, store) = (Arc::<SharedBroker>::default(), Arc::new(MemoryStore::new()));
    let (journal, term, task) = begin(&broker, &store, 1, 0).await;
    // The first is published, and the answer lost. The second is not published.
    broker.faults.store(0b0111, Ordering::Relaxed);
    journal.append(entry(&[1, 2])).await.unwrap();
    sleep(Duration::from_millis(1)).await;
    term.has_ended.store(true, Ordering::Relaxed);
    task.abort();
    assert_eq!(rows(&store).await, 2);
    let (journal, _, task) = begin(&broker, &store, 2, 0).await;
    journal.append(entry(&[3])).await.unwrap();
    drop(journal);
    task.await.unwrap();
    assert_eq!(broker.on(&blocks_channel(0)), [2]);
    assert_eq!(broker.on(&blocks_channel(1)), [1, 3]);
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

#[tokio::test(start_paused = true)]
async fn a_channel_whose_server_is_lost_holds_up_no_other() {
    let (broker, store) = (Arc::<SharedBroker>::default(), Arc::new(MemoryStore::new()));
    let (lost, well) = (blocks_channel(1), blocks_channel(0));
    broker.lose([lost.clone()]);
    let (journal, term, task) = begin(&broker, &store, 1, 0).await;
    for number in 1..=10 {
        journal.append(entry(&[number])).await.unwrap();
    }
    sleep(Duration::from_secs(30)).await;
    assert_eq!(broker.on(&well), [2, 4, 6, 8, 10]);
    // Only what is not published is still there.
    assert_eq!(numbers(&store).await, [1, 3, 5, 7, 9]);
    // Nor does it hold up the next owner.
    term.has_ended.store(true, Ordering::Relaxed);
    task.abort();
    let (journal_of_next, _, task) = begin(&broker, &store, 2, 0).await;
    drop(journal);
    let renewal = JournalEntry {
        renewed: vec![lost.clone(), well.clone()],
        ..entry(&[11, 12])
    };
    journal_of_next.append(renewal).await.unwrap();
    sleep(Duration::from_secs(30)).await;
    assert_eq!(broker.on(&well), [2, 4, 6, 8, 10, RENEWED, 12]);
    assert!(broker.on(&lost).is_empty());
    broker.lose([]);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(broker.on(&lost), [1, 3, 5, 7, 9, RENEWED, 11]);
    assert_eq!(rows(&store).await, 0);
    drop(journal_of_next);
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_lost_server_is_not_all_in_memory() {
    const BYTES: usize = 100_000;
    let (broker, store) = (Arc::<SharedBroker>::default(), Arc::new(MemoryStore::new()));
    let lost: Vec<_> = (1..=200).map(blocks_channel).collect();
    broker.lose(lost.clone());
    let (journal, _, task) = begin(&broker, &store, 1, 0).await;
    let publications = |number: u64| {
        let block = Block {
            number,
            hash: "x".repeat(BYTES),
            ..Block::default()
        };
        let all = [blocks_channel(0)].into_iter().chain(lost.clone());
        all.map(|channel| (channel, Data::Block(block.clone())))
            .collect()
    };
    broker.keys.lock().clear();
    for number in 0..3 {
        let entry = JournalEntry {
            publications: publications(number),
            ..JournalEntry::default()
        };
        journal.append(entry).await.unwrap();
        sleep(Duration::from_secs(10)).await;
        assert_eq!(broker.on(&blocks_channel(0)).last(), Some(&number));
    }
    let most = broker.most_waiting.load(Ordering::Relaxed);
    assert!(most <= 9 << 20, "{most} bytes");
    broker.lose([]);
    sleep(Duration::from_secs(10)).await;
    for channel in &lost {
        assert_eq!(broker.on(channel), [0, 1, 2]);
    }
    assert_eq!(rows(&store).await, 0);
    drop(journal);
    task.await.unwrap();
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
    // The end of a task waits a moment only, and a slow broker may have left much.
    while rows(&store).await > 0 {
        sleep(Duration::from_millis(100)).await;
    }
    drop(journal);
    task.await.unwrap();
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
    for channel in [0, 1].map(blocks_channel) {
        assert!(broker.on(&channel).is_sorted(), "out of order: {log:?}");
    }
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
