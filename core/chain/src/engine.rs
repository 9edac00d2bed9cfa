//! Chain engine: the configured chains, and the methods that services call.
//!
//! Each [`Chain`] has a processor task. A method sends it a command, and waits at most 20 seconds
//! for the reply, and half a second while all endpoints are known to fail. Methods about wallets, event filters and users are in `interest`.

mod chain;
mod interest;
mod outage;

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use alloy::primitives::B256;
use parking_lot::Mutex;
use tidewire_proto::v1::{Block, EventFilter, TransactionStatus};
use tidewire_store::{SharedStore, StoreError};
use tidewire_stream::{Caller, ChannelName, ClientKey, DurablePublisher, SharedClock, UserId};
use tokio::sync::{oneshot, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::chain::Chain;
use crate::{
    ChainConfig, ChainError, ChainOutage, ConfigError,
    abi::ErrorAbi,
    error::MAX_SIGNATURES,
    events::Filter,
    interest::{InterestRegistry, WalletInterest, WalletLookup},
    journal::{Journal, JournalTask},
    notice::{self, NoticeQueue, NoticeSender, NoticeSink, PaymentLimits},
    outbox::LeftChannels,
    processor::Command,
    transaction::{Excess, Interest, RequestOwner},
};

/// The time to wait for a processor or the journal. With a full disk or a hanging node they stand
/// still, and clients must not.
const REPLY_TIMEOUT: Duration = Duration::from_secs(20);

/// The engine of all configured chains. Cheap to clone.
#[derive(Clone)]
pub struct ChainEngine(
    Arc<Inner>,
    /// The owner of the requests.
    RequestOwner,
);

struct Inner {
    chains: BTreeMap<u64, Chain>,
    journal: Journal,
    /// Whether what the owner before has stored is published, but for channels that are late.
    caught_up: watch::Receiver<bool>,
    /// The late ones.
    left: Arc<LeftChannels>,
    interest: Arc<InterestRegistry>,
    clock: SharedClock,
    store: Option<SharedStore>,
    /// Notices that wait for the sink.
    notices: NoticeQueue,
    /// Where notices go. Without it nobody is notified.
    sink: OnceLock<Arc<dyn NoticeSink>>,
    /// The journal's task, until the engine is started.
    journal_task: Mutex<Option<JournalTask>>,
}

impl std::fmt::Debug for ChainEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChainEngine")
            .field("chains", &self.0.chains.keys())
            .finish_non_exhaustive()
    }
}

impl ChainEngine {
    /// An engine that publishes through `publisher`. [`start`](Self::start) starts it. With a
    /// store it continues after a restart where it was.
    ///
    /// # Errors
    /// Names the chain, the key and what was expected.
    pub fn new(
        configs: &[ChainConfig],
        publisher: Arc<dyn DurablePublisher>,
        clock: SharedClock,
        store: Option<SharedStore>,
    ) -> Result<Self, ConfigError> {
        ChainConfig::check_all(configs)?;
        let lookups: Vec<_> = configs.iter().map(|_| WalletLookup::default()).collect();
        let interest = Arc::new(InterestRegistry::new(WalletInterest::new(lookups.clone())));
        let mut chains = BTreeMap::new();
        for (config, wallets) in configs.iter().zip(lookups) {
            let chain = Chain::new(
                config.clone(),
                wallets,
                interest.clone(),
                clock.clone(),
                store.clone(),
            );
            chains.insert(config.id, chain?);
        }
        let notices = NoticeQueue::default();
        let (journal, task) = Journal::new(
            store.clone(),
            publisher,
            interest.clone(),
            clock.clone(),
            notices.clone(),
        );
        let inner = Arc::new(Inner {
            chains,
            journal,
            caught_up: task.caught_up(),
            left: task.left(),
            interest,
            clock,
            store,
            notices,
            sink: OnceLock::new(),
            journal_task: Mutex::new(Some(task)),
        });
        Ok(Self(inner, RequestOwner::default()))
    }

    /// The same engine, whose requests and interest count towards the shares of `caller`.
    /// A back end has as much room as it needs.
    #[must_use]
    pub fn on_behalf_of(&self, caller: &Caller) -> Self {
        Self(self.0.clone(), caller.into())
    }

    /// The same engine, whose requests about transactions count towards the shares of a user.
    #[must_use]
    pub fn for_user(&self, user: &UserId) -> Self {
        let owner = RequestOwner {
            client: Some(ClientKey::User(user.clone())),
            connection: None,
        };
        Self(self.0.clone(), owner)
    }

    /// Notifies users of the transactions of their wallets through `sink`. Call it before
    /// [`start`](Self::start). Without a store nobody is notified. The first sink stays.
    pub fn notify_users(&self, sink: Arc<dyn NoticeSink>) {
        let _ = self.0.sink.set(sink);
    }

    /// Restores the histories of the channels, and runs all chains in `tasks` until cancelled.
    /// Call it before clients connect. A second call changes nothing.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn start(
        &self,
        tasks: &TaskTracker,
        cancel: &CancellationToken,
    ) -> Result<(), StoreError> {
        let Some(mut journal) = self.0.journal_task.lock().take() else {
            return Ok(());
        };
        let sink = self.0.sink.get().cloned();
        if let (None, Some(store)) = (&sink, &self.0.store) {
            notice::clear(&**store).await?;
        }
        journal.restore().await?;
        tasks.spawn(journal.run(cancel.clone()));
        let limits = match (sink, &self.0.store) {
            (Some(sink), Some(store)) => {
                let sender = NoticeSender {
                    store: store.clone(),
                    queue: self.0.notices.clone(),
                    sink,
                    interest: self.0.interest.clone(),
                };
                tasks.spawn(sender.run(cancel.clone()));
                Some(PaymentLimits::default())
            }
            _ => None,
        };
        for chain in self.0.chains.values() {
            let journal = self.0.journal.clone();
            chain.start(journal, limits.clone(), tasks, cancel).await?;
        }
        Ok(())
    }

    /// Waits until what another owner has stored, and has not published, is published. Until then the
    /// newest publication of a channel does not tell the state that the owner left. It waits two seconds
    /// at most for channels that the broker does not take: [`is_behind`](Self::is_behind) knows them.
    ///
    /// # Errors
    /// The engine has stopped.
    pub async fn caught_up(&self) -> Result<(), ChainError> {
        let mut caught_up = self.0.caught_up.clone();
        let waited = caught_up.wait_for(|is_caught_up| *is_caught_up).await;
        waited.map(|_| ()).map_err(|_| ChainError::NotRunning)
    }

    /// Whether something that another owner has stored for a channel is not published yet.
    #[must_use]
    pub fn is_behind(&self, channel: &ChannelName) -> bool {
        self.0.left.contains(channel)
    }

    /// The ids of the configured chains, in their order.
    #[must_use]
    pub fn ids(&self) -> Vec<u64> {
        self.0.chains.keys().copied().collect()
    }

    /// The newest block of a chain.
    ///
    /// # Errors
    /// The chain is not configured, or no block of it was read yet.
    pub fn latest_block(&self, chain: u64) -> Result<Block, ChainError> {
        let followed = self.chain(chain)?;
        let missing = || match followed.outage() {
            Some(outage) => ChainError::Outage(chain, outage),
            None => ChainError::NoBlock(chain),
        };
        followed.newest_block().ok_or_else(missing)
    }

    /// Why a chain stands still: too few of its endpoints return usable results. None while enough
    /// do.
    #[must_use]
    pub fn outage(&self, chain: u64) -> Option<ChainOutage> {
        self.0.chains.get(&chain)?.outage()
    }

    /// Whether a chain stands still because too few of its endpoints return usable results.
    #[must_use]
    pub fn has_outage(&self, chain: u64) -> bool {
        self.outage(chain).is_some()
    }

    /// Checks the part of a `blocks:` channel after the colon: a chain's id.
    ///
    /// # Errors
    /// Names the configured chains.
    pub fn check_blocks_channel(&self, rest: &str) -> Result<(), ChainError> {
        let id = rest.parse().ok().filter(|id: &u64| id.to_string() == rest);
        id.filter(|id| self.0.chains.contains_key(id))
            .map(|_| ())
            .ok_or_else(|| self.unknown_chain(rest))
    }

    /// Watches a transaction, and returns its status after a node responded. The error signatures
    /// in `abi` help to explain a failure.
    ///
    /// # Errors
    /// The chain is not configured or does not answer in time, the hash or a signature is
    /// refused, or the chain has its maximum of watches.
    pub async fn watch(
        &self,
        chain: u64,
        hash: &str,
        interest: Interest,
        abi: Vec<String>,
    ) -> Result<TransactionStatus, ChainError> {
        let (reply, status) = oneshot::channel();
        let hash = parse_hash(hash)?;
        check_signatures(&abi)?;
        let watched = self.chain(chain)?;
        let requester = watched.requester(&self.1)?;
        let command = Command::Watch(hash, interest.clone(), abi, requester, reply);
        let result = watched.request(command, status).await;
        // A back end tries again, but a session may be gone by then.
        let is_late = matches!(
            result,
            Err(ChainError::Timeout(_) | ChainError::Unreachable(..))
        );
        if is_late && interest == Interest::Session {
            watched.cancel_watch(hash);
        }
        Ok(watched.provenance().marked(result?))
    }

    /// Removes an interest in a transaction.
    ///
    /// # Errors
    /// The chain is not configured or does not answer in time, or the hash is refused.
    pub async fn unwatch(
        &self,
        chain: u64,
        hash: &str,
        interest: Interest,
    ) -> Result<(), ChainError> {
        let command = Command::Unwatch(parse_hash(hash)?, interest);
        self.chain(chain)?.send(command).await
    }

    /// Has the watch of a transaction count for another user from now on, if it counts for the user
    /// of this handle ([`for_user`](Self::for_user)).
    ///
    /// # Errors
    /// The chain is not configured, the hash is refused, or the share of the other user is used.
    pub fn hand_over(
        &self,
        chain: u64,
        hash: &str,
        to: &UserId,
        excess: Excess,
    ) -> Result<(), ChainError> {
        let Some(from) = &self.1.client else {
            return Ok(());
        };
        let (hash, to) = (parse_hash(hash)?, ClientKey::User(to.clone()));
        let slots = self.chain(chain)?.slots();
        Ok(slots.hand_over(hash, from, &to, excess)?)
    }

    /// The status of a transaction, watched or not, after a node responded. If it is watched, the
    /// error signatures in `abi` help to explain a failure.
    ///
    /// # Errors
    /// As for [`watch`](Self::watch).
    pub async fn status(
        &self,
        chain: u64,
        hash: &str,
        abi: Vec<String>,
    ) -> Result<TransactionStatus, ChainError> {
        let (reply, status) = oneshot::channel();
        check_signatures(&abi)?;
        let (hash, asked) = (parse_hash(hash)?, self.chain(chain)?);
        let requester = asked.requester(&self.1)?;
        let command = Command::Status(hash, abi, requester, reply);
        let status = asked.request(command, status).await?;
        Ok(asked.provenance().marked(status))
    }

    /// The channel of a filter's events.
    ///
    /// # Errors
    /// The chain is not configured, or the filter is refused.
    pub fn events_channel(
        &self,
        chain: u64,
        filter: &EventFilter,
    ) -> Result<ChannelName, ChainError> {
        self.chain(chain)?;
        Ok(Filter::parse(filter)?.channel(chain))
    }

    fn chain(&self, id: u64) -> Result<&Chain, ChainError> {
        let chain = self.0.chains.get(&id);
        chain.ok_or_else(|| self.unknown_chain(&id.to_string()))
    }

    fn unknown_chain(&self, given: &str) -> ChainError {
        ChainError::UnknownChain {
            given: given.to_owned(),
            known: self.0.chains.keys().copied().collect(),
        }
    }
}

fn check_signatures(abi: &[String]) -> Result<(), ChainError> {
    if abi.len() > MAX_SIGNATURES {
        return Err(ChainError::Signatures(abi.len()));
    }
    for signature in abi {
        ErrorAbi::parse(signature)?;
    }
    Ok(())
}

fn parse_hash(text: &str) -> Result<B256, ChainError> {
    if text.is_empty() {
        return Err(ChainError::NoHash);
    }
    let hash = text.starts_with("0x").then(|| text.parse().ok()).flatten();
    hash.ok_or_else(|| ChainError::Hash(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use alloy::{primitives::Address, rpc::types::Transaction};
    use serde_json::json;
    use tidewire_proto::v1::TransactionState;
    use tidewire_store::{Batch, MemoryStore};
    use tidewire_stream::{
        AnonymousPolicy, Authenticator, ManualClock, Namespaces, StreamCore, StreamOptions,
    };
    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        BlockData, BlockRef, ChainUpdate,
        fork_choice::{Continuity, RetractedContent, SequencedUpdate},
        mempool::PendingTransactions,
        processor::Processor,
        transaction::TransactionOptions,
    };

    fn config() -> ChainConfig {
        let config = serde_json::json!({"id": 1, "endpoints": ["http://127.0.0.1:1"]});
        serde_json::from_value(config).unwrap()
    }

    /// An engine of one chain that cannot be reached, and the core that it publishes to.
    fn engine() -> (ChainEngine, Arc<StreamCore>) {
        engine_with(None)
    }

    fn engine_with(store: Option<SharedStore>) -> (ChainEngine, Arc<StreamCore>) {
        let clock = ManualClock::at(0);
        let policy = AnonymousPolicy::Read;
        let authenticator = Authenticator::hs256(&[7; 32], policy, clock.clone()).unwrap();
        let options = StreamOptions::default();
        let namespaces = Namespaces::built_in();
        let stream = StreamCore::in_memory(namespaces, authenticator, clock.clone(), options);
        let engine = ChainEngine::new(&[config()], stream.clone(), clock, store).unwrap();
        (engine, stream)
    }

    /// Runs the processor of the engine's chain. Returns where its updates go in.
    async fn run(engine: &ChainEngine) -> mpsc::Sender<SequencedUpdate> {
        let journal = engine.0.journal_task.lock().take().unwrap();
        tokio::spawn(journal.run(CancellationToken::new()));
        let chain = &engine.0.chains[&1];
        let (transactions, wallets) = chain.trackers();
        let deps = chain.deps(engine.0.journal.clone());
        let mut processor = Processor::new(deps, transactions, wallets, None);
        processor.restore().await.unwrap();
        let (sender, updates) = mpsc::channel(1);
        let (inputs, _) = chain.connect(updates);
        tokio::spawn(processor.run(inputs));
        sender
    }

    /// The update of a first block.
    fn first_block(number: u64) -> SequencedUpdate {
        let block = BlockRef {
            number,
            hash: B256::repeat_byte(1),
            parent: B256::ZERO,
        };
        SequencedUpdate {
            update: ChainUpdate {
                chain: 1,
                retracted: Vec::new(),
                included: Arc::new(BlockData {
                    block,
                    timestamp: 0,
                    base_fee: None,
                    bloom: Default::default(),
                    transactions: Vec::new(),
                    logs: Vec::new(),
                    receipts: Vec::new(),
                    withdrawals: Vec::new(),
                }),
                finalized: None,
            },
            continuity: Continuity::Linked,
            retracted_content: RetractedContent::Known,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_subscription_to_a_transaction_beyond_the_maximum_is_refused() {
        let (engine, _stream) = engine();
        let _updates = run(&engine).await;
        let slots = engine.0.chains[&1].slots().clone();
        let max = TransactionOptions::new(1).max_watches as u64;
        let hash = |number: u64| B256::left_padding_from(&number.to_be_bytes());
        let mut taken: Vec<_> = (0..max).map(|n| slots.reserve(hash(n)).unwrap()).collect();
        let rest = |number: u64| format!("1:{}", hash(number));
        for _ in 0..2 {
            let refused = engine.follow_transaction(&rest(max));
            assert!(
                matches!(&refused, Err(ChainError::LimitReached(text)) if text.contains("100000 transactions are watched")),
                "{refused:?}"
            );
        }
        // One that has a place already is followed, and so is another one once a place is free.
        engine.follow_transaction(&rest(5)).unwrap();
        taken.pop();
        engine.follow_transaction(&rest(max)).unwrap();
        let refused = engine.follow_transaction(&rest(max + 1));
        assert!(
            matches!(refused, Err(ChainError::LimitReached(_))),
            "{refused:?}"
        );
        // The subscription's own place lasts as long as its watch.
        let key = hash(max).to_string();
        let status = engine.status(1, &key, Vec::new()).await.unwrap();
        assert_eq!(status.state(), TransactionState::Unknown);
        engine.unwatch(1, &key, Interest::Session).await.unwrap();
        engine.status(1, &key, Vec::new()).await.unwrap();
        assert!(slots.reserve(hash(max + 1)).is_ok());
    }

    /// Waits until a block is published.
    async fn published(stream: &StreamCore) {
        let channel = ChannelName::parse("blocks:1").unwrap();
        while stream.position(&channel).await.unwrap().seq == 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_published_block_is_the_newest_one_already() {
        let (engine, stream) = engine();
        let updates = run(&engine).await;
        assert_eq!(engine.latest_block(1), Err(ChainError::NoBlock(1)));
        updates.send(first_block(7)).await.unwrap();
        published(&stream).await;
        assert_eq!(engine.latest_block(1).unwrap().number, 7);
    }

    #[tokio::test(start_paused = true)]
    async fn events_have_a_gap_if_the_content_of_a_retracted_block_is_lost() {
        for (content, has_gap) in [
            (RetractedContent::Known, false),
            (RetractedContent::Unknown, true),
        ] {
            let (engine, stream) = engine();
            let updates = run(&engine).await;
            let filter = EventFilter {
                addresses: vec![format!("{:?}", Address::with_last_byte(9))],
                ..EventFilter::default()
            };
            let channel = engine.watch_events(1, filter).await.unwrap();
            let before = engine.events_epoch(channel.rest()).unwrap();
            let mut reorg = first_block(7);
            reorg.retracted_content = content;
            updates.send(reorg).await.unwrap();
            published(&stream).await;
            let after = engine.events_epoch(channel.rest()).unwrap();
            assert_eq!(after != before, has_gap);
        }
    }

    /// A transaction of the first nonce of an account.
    fn transaction(value: u8) -> Transaction {
        let transaction = json!({
            "type": "0x2", "chainId": "0x1", "nonce": "0x0", "gas": "0x5208", "input": "0x",
            "maxFeePerGas": "0x2", "maxPriorityFeePerGas": "0x1", "accessList": [],
            "r": "0x1", "s": "0x1", "yParity": "0x0", "v": "0x0", "value": format!("{value:#x}"),
            "hash": B256::with_last_byte(value), "from": Address::with_last_byte(1),
            "to": Address::with_last_byte(2),
            "blockHash": null, "blockNumber": null, "transactionIndex": null,
        });
        serde_json::from_value(transaction).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn pending_transactions_are_watched_before_the_first_block_after_a_restart() {
        let (replaced, by) = (B256::with_last_byte(1), B256::with_last_byte(2));
        // The processor takes waiting inputs in any order.
        for _ in 0..16 {
            let store: SharedStore = Arc::new(MemoryStore::default());
            let mut pending = PendingTransactions::default();
            pending.insert(&transaction(1), vec![Address::with_last_byte(2)]);
            let mut writes = Batch::new();
            pending.stage(1, &mut writes);
            store.commit(writes).await.unwrap();
            let (engine, stream) = engine_with(Some(store));
            let updates = run(&engine).await;
            let mut update = first_block(7);
            let block = Arc::get_mut(&mut update.update.included).unwrap();
            block.transactions.push(transaction(2));
            updates.send(update).await.unwrap();
            published(&stream).await;
            let key = replaced.to_string();
            let status = engine.status(1, &key, Vec::new()).await.unwrap();
            assert_eq!(status.state(), TransactionState::Replaced);
            assert_eq!(status.replaced_by, Some(by.to_string()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_does_not_wait_for_endpoints_that_are_known_to_fail() {
        let (engine, _stream) = engine();
        let hash = B256::repeat_byte(7).to_string();
        // A processor that waits for an endpoint.
        let (sender, mut commands) = mpsc::channel(8);
        let chain = &engine.0.chains[&1];
        chain.set_commands(sender);
        let outage = |responding| {
            let required = 2;
            Some(ChainOutage {
                responding,
                required,
            })
        };
        // One that began before the outage was known ends with it.
        let waiting = engine.status(1, &hash, Vec::new());
        let noticed = async {
            tokio::task::yield_now().await;
            chain.set_outage(outage(0));
        };
        let before = tokio::time::Instant::now();
        let (refused, ()) = tokio::join!(waiting, noticed);
        let error = refused.unwrap_err();
        assert_eq!(
            error.to_string(),
            "chain 1 is unavailable: none of its endpoints returns usable results, see the server's log"
        );
        let refused = engine.watch(1, &hash, Interest::Session, Vec::new()).await;
        assert_eq!(refused, Err(error));
        assert!(before.elapsed() < REPLY_TIMEOUT, "time is paused");
        assert!(matches!(commands.try_recv(), Ok(Command::Status(..))));
        assert!(matches!(commands.try_recv(), Ok(Command::Watch(..))));
        assert!(matches!(commands.try_recv(), Ok(Command::Unwatch(..))));
        // One of two that must agree may answer, and so may those that respond again.
        for outage in [outage(1), None] {
            chain.set_outage(outage);
            let late = engine.status(1, &hash, Vec::new()).await;
            assert_eq!(late, Err(ChainError::Timeout(1)));
        }
        // What the processor knows is returned.
        chain.set_outage(outage(0));
        let _updates = run(&engine).await;
        let filter = EventFilter {
            addresses: vec![format!("{:?}", Address::with_last_byte(9))],
            ..EventFilter::default()
        };
        engine.watch_events(1, filter).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_to_a_stuck_processor_times_out() {
        let (engine, _stream) = engine();
        let hash = B256::repeat_byte(7).to_string();
        let watch = || engine.watch(1, &hash, Interest::Session, Vec::new());
        assert_eq!(watch().await, Err(ChainError::NotRunning));
        // A processor that never takes a command from its queue of two.
        let (sender, mut commands) = mpsc::channel(2);
        engine.0.chains[&1].set_commands(sender);
        assert_eq!(watch().await, Err(ChainError::Timeout(1)));
        assert!(matches!(commands.try_recv(), Ok(Command::Watch(..))));
        assert!(matches!(commands.try_recv(), Ok(Command::Unwatch(..))));
        // With a full queue the command itself times out.
        for _ in 0..2 {
            assert_eq!(watch().await, Err(ChainError::Timeout(1)));
        }
    }
}
