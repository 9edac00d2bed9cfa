//! The desk of a chain: the one task that owns its trackers. Steps, what clients want, and
//! the time come in; what is published goes out through the journal, with what has to
//! outlive the process in the same transaction.
//!
//! What is asked about transactions is answered in `asked`. What a node is asked about them
//! runs beside the desk, so that a slow one holds up no block. What a block did to wallets is
//! asked before the block is told, within the time limits of calls.

mod status;

use std::{collections::HashMap, sync::Arc, time::Duration};

use alloy::{primitives::B256, rpc::types::Transaction};
use parking_lot::{Mutex, RwLock};
use serde_json::Value;
use tidewire_proto::v1::{Block, TransactionStatus, server_message::Data};
use tidewire_store::{Batch, SharedStore, StoreError, Table};
use tidewire_stream::{ChannelName, SharedClock};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use crate::{
    BlockData, ChainError, ChainUpdate, RpcClient as _, RpcError,
    block_store::BlockStore,
    endpoint::EndpointPool,
    events::{EventTracker, Filter},
    fork_choice::{Continuity, SequencedUpdate},
    interest::{FilterSpec, InsertOutcome, InterestRegistry, WalletIndex},
    journal::{Journal, JournalEntry, JournalError},
    mempool::PendingWatch,
    publish::{ChannelEvent, transaction_channel, wallet_channel},
    transaction::{Interest, NodeRequest, StoredWatch, TrackerOutput, TransactionTracker},
    wallet::{Activity, WalletTracker},
};

/// The watches that outlive connections, by chain and hash.
const WATCHES: Table = Table("chain.watches");

/// How many filters of events may be in use, on all chains together.
const MAX_FILTERS: usize = 100_000;

/// How often time passes for those who wait.
const TICK: Duration = Duration::from_secs(1);

/// How many rounds of questions may be under way before all else waits for one.
const ROUNDS: usize = 32;

/// What is wanted of a desk.
pub(crate) enum Command {
    /// Watch a transaction; told when a node was asked.
    Watch(B256, Interest, Vec<String>, oneshot::Sender<StatusResult>),
    /// Take an interest back.
    Unwatch(B256, Interest),
    /// The state of a transaction, watched or not.
    Status(B256, Vec<String>, oneshot::Sender<StatusResult>),
    /// Follow events.
    Events(
        Box<(Filter, FilterSpec)>,
        oneshot::Sender<Result<ChannelName, ChainError>>,
    ),
    /// Tell of a transaction that came into a pool.
    PendingTransaction(Box<Transaction>),
}

type StatusResult = Result<TransactionStatus, ChainError>;

/// What was asked of a node, and what it said.
type ResponseBatch = Vec<(NodeRequest, Vec<Result<Value, RpcError>>)>;

/// Who waits for the state of a transaction, and what becomes of the watch then.
struct StatusRequest {
    reply: oneshot::Sender<StatusResult>,
    keeps: bool,
}

/// What a desk works with.
pub(crate) struct Deps {
    pub(crate) chain: u64,
    pub(crate) blocks: ChannelName,
    pub(crate) reorg_limit: usize,
    pub(crate) pool: EndpointPool,
    pub(crate) block_store: BlockStore,
    pub(crate) journal: Journal,
    pub(crate) store: Option<SharedStore>,
    pub(crate) clock: SharedClock,
    pub(crate) newest: Arc<Mutex<Option<Block>>>,
    pub(crate) wallets: Arc<RwLock<WalletIndex>>,
    pub(crate) interest: Arc<InterestRegistry>,
}

/// The task that owns the trackers of a chain.
pub(crate) struct Processor {
    deps: Deps,
    transactions: TransactionTracker,
    events: EventTracker,
    wallets: WalletTracker,
    rounds: JoinSet<ResponseBatch>,
    /// Questions under way, by transaction.
    open: HashMap<B256, usize>,
    waiting: HashMap<B256, Vec<StatusRequest>>,
}

impl Processor {
    pub(crate) fn new(
        deps: Deps,
        transactions: TransactionTracker,
        wallets: WalletTracker,
    ) -> Self {
        Self {
            events: EventTracker::new(deps.chain),
            deps,
            transactions,
            wallets,
            rounds: JoinSet::new(),
            open: HashMap::new(),
            waiting: HashMap::new(),
        }
    }

    /// Takes over the watches that were stored.
    pub(crate) async fn restore(&mut self) -> Result<(), StoreError> {
        let Some(store) = &self.deps.store else {
            return Ok(());
        };
        for filter in self.deps.interest.filters_of(self.deps.chain) {
            let followed = Filter::parse(&filter).map(|filter| self.events.add(filter));
            if !matches!(followed, Ok(Ok(_))) {
                tracing::warn!(
                    chain = self.deps.chain,
                    "a stored filter of events is refused"
                );
            }
        }
        self.wallets.restore(&**store).await?;
        let prefix = self.deps.chain.to_be_bytes().to_vec();
        let stored = store.scan(WATCHES, prefix, None, usize::MAX).await?;
        let now = self.deps.clock.now_ms();
        for (_, value) in stored {
            match serde_json::from_slice::<StoredWatch>(&value) {
                Ok(watch) => self.transactions.import(watch, now),
                Err(error) => {
                    tracing::warn!(chain = self.deps.chain, %error, "a stored watch cannot be read");
                }
            }
        }
        Ok(())
    }

    /// Works until there are no more steps.
    pub(crate) async fn run(
        mut self,
        mut steps: mpsc::Receiver<SequencedUpdate>,
        mut commands: mpsc::Receiver<Command>,
    ) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let has_room = self.rounds.len() < ROUNDS;
            let done = tokio::select! {
                step = steps.recv(), if has_room => match step {
                    Some(step) => self.step(step).await,
                    None => return,
                },
                Some(command) = commands.recv(), if has_room => self.execute(command).await,
                Some(round) = self.rounds.join_next(), if !self.rounds.is_empty() => match round {
                    Ok(round) => self.answered(round).await,
                    Err(error) => {
                        tracing::error!(chain = self.deps.chain, %error, "a question was dropped");
                        Ok(())
                    }
                },
                _ = ticks.tick(), if has_room => {
                    for channel in self.deps.interest.take_gone(self.deps.chain) {
                        self.events.remove(&channel);
                    }
                    let output = self.transactions.tick(self.deps.clock.now_ms());
                    self.tell(output, JournalEntry::default()).await
                }
            };
            if done.is_err() {
                return;
            }
        }
    }

    async fn step(
        &mut self,
        SequencedUpdate {
            update: step,
            continuity,
        }: SequencedUpdate,
    ) -> Result<(), JournalError> {
        let newest = shown(self.deps.chain, &step.included);
        let mut entry = JournalEntry::default();
        let limit = self.deps.reorg_limit;
        self.deps.block_store.stage(&step, limit, &mut entry.writes);
        if continuity == Continuity::Resync {
            entry.renewed.push(self.deps.blocks.clone());
            // What was between is not known, nor what of it concerned whom.
            entry
                .renewed
                .extend(self.deps.interest.channels(self.deps.chain));
        }
        let linked = continuity == Continuity::Linked;
        // A channel that begins anew has nothing before this block to take back.
        let retracted = step.retracted.iter().filter(|_| linked);
        let block = Block {
            reorged: retracted.map(|data| data.block.hash.to_string()).collect(),
            ..newest.clone()
        };
        let blocks = self.deps.blocks.clone();
        entry.publications.push((blocks, Data::Block(block)));
        add(&mut entry, self.events.step(&step));
        if !linked {
            self.wallets.resync();
        }
        let news = self.wallets(&step).await;
        add(&mut entry, news);
        self.own_up(&mut entry);
        let now = self.deps.clock.now_ms();
        let output = self.transactions.step(&step, now);
        if continuity == Continuity::Resync {
            self.transactions.resync(now);
        }
        self.tell(output, entry).await?;
        *self.deps.newest.lock() = Some(newest);
        Ok(())
    }

    /// What a step has for wallets. Without any that is followed no node is asked.
    async fn wallets(&mut self, step: &ChainUpdate) -> Vec<ChannelEvent> {
        let index = self.deps.wallets.clone();
        let now = self.deps.clock.now_ms();
        let activity = {
            let index = index.read();
            if index.is_empty() {
                return self.wallets.pass(step, now);
            }
            Activity::of(&step.included, &index)
        };
        let is_watched = move |wallet: &_| index.read().contains(wallet);
        let pool = &self.deps.pool;
        let wallets = self.wallets.step(step, activity, is_watched, pool, now);
        Box::pin(wallets).await
    }

    /// Begins the channels of wallets anew of which no node told all: whoever follows one
    /// is told that something is lost.
    fn own_up(&mut self, entry: &mut JournalEntry) {
        if self.wallets.take_forgotten() {
            let chain = self.deps.chain;
            tracing::warn!(
                chain,
                "a reorg takes back what is not remembered, followers are told of a gap"
            );
            entry.renewed.extend(self.deps.interest.channels(chain));
        }
        let missed = self.wallets.take_missed();
        if missed.is_empty() {
            return;
        }
        let (chain, wallets) = (self.deps.chain, missed.len());
        metrics::counter!("tidewire_chain_balances_missed_total", "chain" => chain.to_string())
            .increment(wallets as u64);
        tracing::warn!(
            chain,
            wallets,
            "no node told balances, followers are told of a gap"
        );
        let channels = missed
            .iter()
            .filter_map(|wallet| wallet_channel(wallet).ok());
        entry.renewed.extend(channels);
    }

    async fn execute(&mut self, command: Command) -> Result<(), JournalError> {
        let now = self.deps.clock.now_ms();
        match command {
            Command::Watch(hash, interest, abi, reply) => {
                self.watch(hash, interest, &abi, StatusRequest { reply, keeps: true })
                    .await
            }
            Command::Status(hash, abi, reply) => self.status(hash, &abi, reply).await,
            Command::Unwatch(hash, interest) => {
                self.transactions.unwatch(&hash, &interest);
                self.tell(TrackerOutput::default(), JournalEntry::default())
                    .await
            }
            Command::Events(asked, reply) => {
                let (filter, kept) = *asked;
                // Who asked may have gone.
                let _ = reply.send(self.follow_events(filter, kept));
                Ok(())
            }
            Command::PendingTransaction(transaction) => {
                let index = self.deps.wallets.clone();
                let news = self.wallets.pending(&transaction, &index.read(), now);
                let mut entry = JournalEntry::default();
                add(&mut entry, news);
                self.tell(TrackerOutput::default(), entry).await
            }
        }
    }

    /// Follows a filter, once however many want it: the last one's going is looked for.
    fn follow_events(
        &mut self,
        filter: Filter,
        kept: FilterSpec,
    ) -> Result<ChannelName, ChainError> {
        let too_many = |error: &dyn std::fmt::Display| ChainError::TooMany(error.to_string());
        let channel = filter.channel(self.deps.chain);
        let channel = channel.map_err(|error| too_many(&error))?;
        let filters = &self.deps.interest.filters;
        match filters.insert(channel.clone(), kept, MAX_FILTERS, || {}) {
            InsertOutcome::Known => Ok(channel),
            InsertOutcome::New => self.events.add(filter).map_err(|error| {
                filters.remove(&channel);
                too_many(&error)
            }),
            InsertOutcome::Full => Err(too_many(&format_args!(
                "{MAX_FILTERS} filters of events are in use, which is the most that may be"
            ))),
        }
    }

    async fn answered(&mut self, round: ResponseBatch) -> Result<(), JournalError> {
        let now = self.deps.clock.now_ms();
        let mut all = TrackerOutput::default();
        let mut hashes = Vec::with_capacity(round.len());
        for (ask, answers) in round {
            let hash = ask.hash();
            if let Some(open) = self.open.get_mut(&hash) {
                *open -= 1;
                if *open == 0 {
                    self.open.remove(&hash);
                }
            }
            hashes.push(hash);
            let output = self.transactions.answered(ask, &answers, now);
            all.states.extend(output.states);
            all.requests.extend(output.requests);
        }
        self.tell(all, JournalEntry::default()).await?;
        for hash in hashes {
            self.reply(hash);
        }
        Ok(())
    }

    /// Publishes what came of a tracker, with what it changed in the store, and asks what it
    /// asks.
    async fn tell(
        &mut self,
        output: TrackerOutput,
        mut entry: JournalEntry,
    ) -> Result<(), JournalError> {
        for status in output.states {
            let news = self.wallets.became(&status);
            let channel = status.hash.parse();
            let channel = channel.map(|hash| transaction_channel(self.deps.chain, &hash));
            if let Ok(Ok(channel)) = channel {
                let event = Data::Transaction(status);
                entry.publications.push((channel, event));
            }
            add(&mut entry, news);
        }
        self.mind_pending();
        self.store_changes(&mut entry.writes);
        self.wallets.keep(&mut entry.writes);
        self.ask(output.requests);
        if entry.is_empty() {
            return Ok(());
        }
        self.deps.journal.enter(entry).await
    }

    /// Looks after what wallets were told as pending, and no longer after what has settled.
    fn mind_pending(&mut self) {
        let now = self.deps.clock.now_ms();
        for PendingWatch { hash, account } in self.wallets.take_waiting() {
            self.transactions.mind(hash, account, now);
        }
        for hash in self.wallets.take_settled() {
            self.transactions.unwatch(&hash, &Interest::Session);
        }
    }

    fn store_changes(&mut self, writes: &mut Batch) {
        for (hash, stored) in self.transactions.take_changes() {
            let mut key = self.deps.chain.to_be_bytes().to_vec();
            key.extend(hash);
            let value = stored.and_then(|watch| serde_json::to_vec(&watch).ok());
            match value {
                Some(value) => writes.put(WATCHES, key, value),
                None => writes.delete(WATCHES, key),
            }
        }
    }

    /// Asks beside the desk; the answers come back to it.
    fn ask(&mut self, requests: Vec<NodeRequest>) {
        if requests.is_empty() {
            return;
        }
        for ask in &requests {
            *self.open.entry(ask.hash()).or_default() += 1;
        }
        let pool = self.deps.pool.clone();
        self.rounds.spawn(async move {
            let calls: Vec<_> = requests.iter().map(NodeRequest::calls).collect();
            let counts: Vec<_> = calls.iter().map(Vec::len).collect();
            let answers = pool.call_all(calls.into_iter().flatten().collect()).await;
            let mut answers = answers.into_iter();
            let rounds = requests.into_iter().zip(counts);
            rounds
                .map(|(ask, count)| (ask, answers.by_ref().take(count).collect()))
                .collect()
        });
    }
}

fn add(entry: &mut JournalEntry, news: Vec<ChannelEvent>) {
    let news = news.into_iter().map(|news| (news.channel, news.event));
    entry.publications.extend(news);
}

/// A block as clients see it.
pub(crate) fn shown(chain: u64, data: &BlockData) -> Block {
    Block {
        chain,
        number: data.block.number,
        hash: data.block.hash.to_string(),
        parent_hash: data.block.parent.to_string(),
        timestamp: data.timestamp,
        transactions: u32::try_from(data.transactions.len()).unwrap_or(u32::MAX),
        base_fee_per_gas: data.base_fee.map(|fee| fee.to_string()),
        reorged: Vec::new(),
    }
}
