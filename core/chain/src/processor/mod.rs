//! Processor: the one task that owns a chain's trackers.
//!
//! Chain updates, commands of clients, pending transactions and ticks come in. Publications go
//! out through the journal, in one transaction with the state that must survive a restart.
//!
//! Requests about watched transactions run beside the processor, so that a slow node delays no
//! block. Those of clients wait in a fair order: see `request_queue`. Receipts are proved as blocks
//! are: see `inclusion`. The wallet updates of a block are read before the block is published,
//! within the time limits of calls. Commands about transactions are in `status`.

mod inclusion;
mod request_queue;
mod status;

use std::{collections::HashMap, sync::Arc, time::Duration};

use alloy::{primitives::B256, rpc::types::Transaction};
use parking_lot::RwLock;
use serde_json::Value;
use tidewire_proto::v1::{Block, TransactionStatus, server_message::Data};
use tidewire_store::{Batch, SharedStore, StoreError, Table};
use tidewire_stream::{ChannelName, ClientKey, SharedClock, limit::semaphore::KeyedPermit};
use tokio::{
    sync::{mpsc, oneshot},
    task::{self, JoinSet},
    time::{MissedTickBehavior, interval},
};

pub(crate) use self::inclusion::InclusionProver;
use self::{request_queue::RequestQueue, status::StatusRequest};
use crate::{
    BlockData, ChainError, ChainUpdate, ChannelEvent, Provenance, RpcError, WalletIndex,
    block_store::BlockStore,
    channel::{blocks_channel, transaction_channel, wallet_channel},
    endpoint::EndpointPool,
    events::{EventTracker, Filter},
    fork_choice::{Continuity, RetractedContent, SequencedUpdate},
    interest::{FilterSpec, InsertOutcome, InterestRegistry},
    journal::{Journal, JournalEntry, JournalError, NewestBlock},
    mempool::PendingWatch,
    notice::{Notice, NoticeContext, NoticeTracker},
    transaction::{
        Concern, Interest, NodeRequest, RequestOwner, StoredWatch, TrackerOutput,
        TransactionTracker, WatchSlot,
    },
    wallet::{Activity, WalletTracker},
};

/// Watches of back ends, by chain and hash.
const WATCHES: Table = Table("chain.watches");

/// How often checks, time-outs and expired filters are handled.
const TICK: Duration = Duration::from_secs(1);

/// Groups of the processor's own requests in flight at most, which blocks and checks cause.
/// Beyond, blocks and checks wait.
const MAX_REQUESTS: usize = 32;

/// Command of a client to a processor.
pub(crate) enum Command {
    /// Watch a transaction, and reply with its status after a node responded.
    Watch(
        B256,
        Interest,
        Vec<String>,
        Requester,
        oneshot::Sender<StatusResult>,
    ),
    /// Watch a transaction for the subscribers of its channel, in the place that is reserved
    /// for it. Its status is published.
    Follow(B256, WatchSlot, Requester),
    /// Remove an interest in a transaction.
    Unwatch(B256, Interest),
    /// Reply with the status of a transaction, watched or not.
    Status(B256, Vec<String>, Requester, oneshot::Sender<StatusResult>),
    /// Match the logs of blocks against a filter, and reply with its channel.
    Events(
        Box<(Filter, FilterSpec)>,
        Requester,
        oneshot::Sender<Result<ChannelName, ChainError>>,
    ),
}

/// The owner of a command, and its place in the queue of commands.
pub(crate) struct Requester {
    owner: RequestOwner,
    /// Never read: dropping it gives the place back. None for a back end.
    _place: Option<KeyedPermit<ClientKey>>,
}

impl Requester {
    pub(crate) fn new(owner: RequestOwner, place: Option<KeyedPermit<ClientKey>>) -> Self {
        Self {
            owner,
            _place: place,
        }
    }
}

/// The reply to a command about a transaction.
pub(crate) type StatusResult = Result<TransactionStatus, ChainError>;

/// Inputs of a processor: chain updates, commands and pending transactions.
pub(crate) struct Inputs {
    pub(crate) updates: mpsc::Receiver<SequencedUpdate>,
    pub(crate) commands: mpsc::Receiver<Command>,
    /// Transactions from mempools that concern a watched wallet.
    pub(crate) pending: mpsc::Receiver<Box<Transaction>>,
}

/// Dependencies of a processor: endpoints, stores, journal, clock and shared state.
pub(crate) struct Deps {
    pub(crate) chain: u64,
    pub(crate) provenance: Provenance,
    /// Blocks that a reorg can take back at most.
    pub(crate) reorg_limit: usize,
    pub(crate) pool: EndpointPool,
    pub(crate) prover: InclusionProver,
    pub(crate) block_store: BlockStore,
    pub(crate) journal: Journal,
    pub(crate) store: Option<SharedStore>,
    pub(crate) clock: SharedClock,
    pub(crate) newest: NewestBlock,
    pub(crate) wallet_index: Arc<RwLock<WalletIndex>>,
    pub(crate) interest: Arc<InterestRegistry>,
}

/// Requests that were sent together, each with the responses to its calls.
type ResponseBatch = Vec<(NodeRequest, Vec<Result<Value, RpcError>>)>;

/// Cause of requests to a node.
#[derive(Debug, Clone)]
enum Origin {
    /// A block or a check.
    Processor,
    /// A client, or a back end.
    Client(RequestOwner),
}

/// The task that owns a chain's trackers.
pub(crate) struct Processor {
    deps: Deps,
    events: EventTracker,
    transactions: TransactionTracker,
    wallets: WalletTracker,
    /// None if nobody is notified.
    notices: Option<NoticeTracker>,
    in_flight: JoinSet<ResponseBatch>,
    /// The origins of the requests in flight.
    origins: HashMap<task::Id, Origin>,
    /// How many of them are the processor's own.
    own_in_flight: usize,
    /// The requests of clients that are not in flight yet.
    queue: RequestQueue,
    /// The number of requests that wait or are in flight, by transaction.
    open_requests: HashMap<B256, usize>,
    /// Clients that wait for the status of a transaction.
    status_requests: HashMap<B256, Vec<StatusRequest>>,
}

impl Processor {
    pub(crate) fn new(
        deps: Deps,
        transactions: TransactionTracker,
        wallets: WalletTracker,
        notices: Option<NoticeTracker>,
    ) -> Self {
        Self {
            events: EventTracker::new(deps.chain),
            deps,
            transactions,
            wallets,
            notices,
            in_flight: JoinSet::new(),
            origins: HashMap::new(),
            own_in_flight: 0,
            queue: RequestQueue::default(),
            open_requests: HashMap::new(),
            status_requests: HashMap::new(),
        }
    }

    /// Reads the stored state of the trackers back.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(crate) async fn restore(&mut self) -> Result<(), StoreError> {
        let Some(store) = &self.deps.store else {
            return Ok(());
        };
        let chain = self.deps.chain;
        for filter in self.deps.interest.filters_of(chain) {
            let added = Filter::parse(&filter).map(|filter| self.events.add(filter));
            if !matches!(added, Ok(Ok(_))) {
                tracing::warn!(chain, "a stored event filter is refused");
            }
        }
        self.wallets.restore(&**store).await?;
        if let Some(notices) = &mut self.notices {
            notices.restore(&**store).await?;
        }
        let prefix = chain.to_be_bytes().to_vec();
        let watches = store.scan(WATCHES, prefix, None, usize::MAX).await?;
        let now = self.deps.clock.now_ms();
        for (_, value) in watches {
            match serde_json::from_slice::<StoredWatch>(&value) {
                Ok(watch) => self.transactions.import(watch, now),
                Err(error) => tracing::warn!(chain, %error, "a stored watch is unreadable"),
            }
        }
        // The first block may hold them already, or what replaced them.
        self.update_pending_watches();
        Ok(())
    }

    /// Runs until there are no more updates, or the journal stops.
    pub(crate) async fn run(mut self, mut inputs: Inputs) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            self.send_next_requests();
            let has_room = self.own_in_flight < MAX_REQUESTS;
            let result = tokio::select! {
                update = inputs.updates.recv(), if has_room => match update {
                    Some(update) => self.apply_update(update).await,
                    None => return,
                },
                Some(command) = inputs.commands.recv() => self.execute(command).await,
                Some(transaction) = inputs.pending.recv() => {
                    self.apply_pending(&transaction).await
                }
                Some(ended) = self.in_flight.join_next_with_id() => {
                    match ended {
                        Ok((id, batch)) => {
                            let origin = self.finish(id);
                            self.apply_responses(batch, origin).await
                        }
                        Err(error) => {
                            self.finish(error.id());
                            let chain = self.deps.chain;
                            tracing::error!(chain, %error, "a request to a node was lost");
                            Ok(())
                        }
                    }
                }
                _ = ticks.tick(), if has_room => self.tick().await,
            };
            if result.is_err() {
                return;
            }
        }
    }

    /// Publishes a block, and its effects on events, wallets and transactions.
    async fn apply_update(
        &mut self,
        SequencedUpdate {
            update,
            continuity,
            retracted_content,
        }: SequencedUpdate,
    ) -> Result<(), JournalError> {
        let chain = self.deps.chain;
        let newest = block_message(chain, &update.included);
        let mut entry = JournalEntry::default();
        let limit = self.deps.reorg_limit;
        self.deps
            .block_store
            .stage(&update, limit, &mut entry.writes);
        let is_resync = continuity == Continuity::Resync;
        if is_resync {
            // The blocks between are unknown, and so is whom they concerned.
            entry.renewed.push(blocks_channel(chain));
            entry.renewed.extend(self.deps.interest.channels(chain));
        }
        if retracted_content == RetractedContent::Unknown && !is_resync {
            tracing::warn!(
                chain,
                "a reorg retracts logs that no node has any more; followers of events see a gap"
            );
            let events = self.deps.interest.event_channels(chain);
            entry.renewed.extend(events);
        }
        // In a new epoch no block precedes this one, so none is named as retracted.
        let retracted = update.retracted.iter().filter(|_| !is_resync);
        let block = Block {
            reorged: retracted.map(|data| data.block.hash.to_string()).collect(),
            ..newest.clone()
        };
        entry
            .publications
            .push((blocks_channel(chain), Data::Block(block)));
        append(&mut entry, self.events.apply(&update));
        if is_resync {
            self.wallets.resync();
        }
        let wallet_events = self.apply_to_wallets(&update).await;
        entry.notices = self.apply_to_notices(&update, &wallet_events, is_resync);
        append(&mut entry, wallet_events);
        self.renew_incomplete_channels(&mut entry);
        let now = self.deps.clock.now_ms();
        let output = self.transactions.apply(&update, now);
        if is_resync {
            self.transactions.resync(now);
        }
        entry.newest = Some((self.deps.newest.clone(), newest));
        self.publish(output, entry).await
    }

    /// The wallet events of an update. While no wallet is watched, no node is called.
    async fn apply_to_wallets(&mut self, update: &ChainUpdate) -> Vec<ChannelEvent> {
        let index = self.deps.wallet_index.clone();
        let now = self.deps.clock.now_ms();
        let activity = {
            let index = index.read();
            if index.is_empty() {
                return self.wallets.apply_unwatched(update, now);
            }
            Activity::of(&update.included, &index)
        };
        let is_watched = move |wallet: &_| index.read().contains(wallet);
        let pool = &self.deps.pool;
        let events = self.wallets.apply(update, activity, is_watched, pool, now);
        Box::pin(events).await
    }

    /// The notices that an update causes, apart from those about watched transactions.
    fn apply_to_notices(
        &mut self,
        update: &ChainUpdate,
        wallet_events: &[ChannelEvent],
        is_resync: bool,
    ) -> Vec<Notice> {
        let payments = self.wallets.take_payments();
        let now_ms = self.deps.clock.now_ms();
        let Some(notices) = &mut self.notices else {
            return Vec::new();
        };
        if is_resync {
            notices.resync();
        }
        let links = &self.deps.interest.wallets.links;
        let context = NoticeContext { links, now_ms };
        let caused = notices.apply(update, wallet_events, payments, context);
        notices.prune(|hash| self.transactions.is_watched(hash), now_ms);
        caused
    }

    /// The notices that the status of a watched transaction causes.
    fn notices_of_status(&mut self, status: &TransactionStatus, concern: &Concern) -> Vec<Notice> {
        let now_ms = self.deps.clock.now_ms();
        let links = &self.deps.interest.wallets.links;
        let Some(notices) = &mut self.notices else {
            return Vec::new();
        };
        notices.apply_status(status, concern, NoticeContext { links, now_ms })
    }

    /// Renews the epochs of the wallet channels that lack publications, so that subscribers see
    /// a gap.
    fn renew_incomplete_channels(&mut self, entry: &mut JournalEntry) {
        let chain = self.deps.chain;
        if self.wallets.take_incomplete_retraction() {
            tracing::warn!(
                chain,
                "a reorg retracts updates that are no longer remembered; followers see a gap"
            );
            entry.renewed.extend(self.deps.interest.channels(chain));
        }
        let unread = self.wallets.take_unread();
        if unread.is_empty() {
            return;
        }
        metrics::counter!("tidewire_chain_balances_missed_total", "chain" => chain.to_string())
            .increment(unread.len() as u64);
        tracing::warn!(
            chain,
            wallets = unread.len(),
            "no node returned the balances of wallets; followers see a gap"
        );
        entry.renewed.extend(unread.iter().map(wallet_channel));
    }

    async fn execute(&mut self, command: Command) -> Result<(), JournalError> {
        match command {
            Command::Watch(hash, interest, abi, Requester { owner, .. }, reply) => {
                let request = StatusRequest::keeping_watch(reply);
                self.watch(hash, interest, &abi, owner, request).await
            }
            Command::Follow(hash, slot, Requester { owner, .. }) => {
                self.follow(hash, slot, owner).await
            }
            Command::Status(hash, abi, Requester { owner, .. }, reply) => {
                self.status(hash, &abi, owner, reply).await
            }
            Command::Unwatch(hash, interest) => {
                self.transactions.unwatch(&hash, &interest);
                if let (Some(notices), Interest::Durable(_)) = (&mut self.notices, &interest) {
                    notices.unwatch(&hash);
                }
                self.publish(TrackerOutput::default(), JournalEntry::default())
                    .await
            }
            Command::Events(filter, requester, reply) => {
                let (filter, spec) = *filter;
                // The client may have gone.
                let _ = reply.send(self.add_filter(filter, spec, &requester.owner));
                drop(requester);
                Ok(())
            }
        }
    }

    /// Adds a filter to the tracker, unless a client added an equal one. The registry removes it
    /// after the last follower left.
    fn add_filter(
        &mut self,
        filter: Filter,
        spec: FilterSpec,
        owner: &RequestOwner,
    ) -> Result<ChannelName, ChainError> {
        let channel = filter.channel(self.deps.chain);
        let filters = &self.deps.interest.filters;
        match filters.insert(channel.clone(), spec, owner, || {})? {
            InsertOutcome::Known => Ok(channel),
            InsertOutcome::New => self.events.add(filter).map_err(|error| {
                filters.remove(&channel);
                ChainError::LimitReached(error.to_string())
            }),
        }
    }

    async fn apply_pending(&mut self, transaction: &Transaction) -> Result<(), JournalError> {
        let now = self.deps.clock.now_ms();
        let mut entry = JournalEntry::default();
        {
            let index = self.deps.wallet_index.read();
            let events = self.wallets.apply_pending(transaction, &index, now);
            append(&mut entry, events);
        }
        self.publish(TrackerOutput::default(), entry).await
    }

    async fn tick(&mut self) -> Result<(), JournalError> {
        for channel in self.deps.interest.take_expired_filters(self.deps.chain) {
            self.events.remove(&channel);
        }
        let output = self.transactions.tick(self.deps.clock.now_ms());
        self.publish(output, JournalEntry::default()).await
    }

    async fn apply_responses(
        &mut self,
        batch: ResponseBatch,
        origin: Origin,
    ) -> Result<(), JournalError> {
        let now = self.deps.clock.now_ms();
        let mut output = TrackerOutput::default();
        let mut hashes = Vec::with_capacity(batch.len());
        for (request, responses) in batch {
            let hash = request.hash();
            if let Some(open) = self.open_requests.get_mut(&hash) {
                *open -= 1;
                if *open == 0 {
                    self.open_requests.remove(&hash);
                }
            }
            hashes.push(hash);
            let result = self.transactions.apply_responses(request, &responses, now);
            output.statuses.extend(result.statuses);
            output.requests.extend(result.requests);
            output.ended.extend(result.ended);
            output.concerns.extend(result.concerns);
        }
        self.publish_for(origin, output, JournalEntry::default())
            .await?;
        for hash in hashes {
            self.reply(hash);
        }
        Ok(())
    }

    /// Publishes what a block or a check caused: see [`publish_for`](Self::publish_for).
    async fn publish(
        &mut self,
        output: TrackerOutput,
        entry: JournalEntry,
    ) -> Result<(), JournalError> {
        self.publish_for(Origin::Processor, output, entry).await
    }

    /// Appends an entry to the journal, with the statuses of `output` and all state that changed.
    /// Sends the requests of `output`, or queues them if a client caused them.
    async fn publish_for(
        &mut self,
        origin: Origin,
        output: TrackerOutput,
        mut entry: JournalEntry,
    ) -> Result<(), JournalError> {
        for hash in &output.ended {
            let key = (self.deps.chain, *hash);
            self.deps.interest.transactions.remove(&key);
            let last = output.statuses.iter().rev();
            let mut last = last.filter(|status| status.hash == hash.to_string());
            if let Some(status) = last.next() {
                self.reply_ended(hash, status);
            }
        }
        for status in output.statuses {
            let wallet_events = self.wallets.apply_status(&status);
            if let Ok(hash) = status.hash.parse() {
                if let Some(concern) = output.concerns.get(&hash) {
                    let notices = self.notices_of_status(&status, concern);
                    entry.notices.extend(notices);
                }
                let channel = transaction_channel(self.deps.chain, &hash);
                entry
                    .publications
                    .push((channel, Data::Transaction(status)));
            }
            append(&mut entry, wallet_events);
        }
        self.update_pending_watches();
        self.stage_watches(&mut entry.writes);
        self.wallets.stage(&mut entry.writes);
        if let Some(notices) = &mut self.notices {
            notices.stage(&mut entry.writes);
        }
        match origin {
            Origin::Processor => self.send(output.requests),
            Origin::Client(owner) => self.enqueue(&owner, output.requests),
        }
        if entry.is_empty() {
            return Ok(());
        }
        for (_, event) in &mut entry.publications {
            self.deps.provenance.mark(event);
        }
        self.deps.journal.append(entry).await
    }

    /// Watches the transactions that wallets received as pending, until they are settled.
    fn update_pending_watches(&mut self) {
        let now = self.deps.clock.now_ms();
        for PendingWatch { hash, account } in self.wallets.take_new_pending() {
            self.transactions.watch_pending(hash, account, now);
        }
        for hash in self.wallets.take_settled_pending() {
            self.transactions.unwatch(&hash, &Interest::Session);
        }
    }

    fn stage_watches(&mut self, writes: &mut Batch) {
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

    /// Queues requests in the line of a client.
    fn enqueue(&mut self, owner: &RequestOwner, requests: Vec<NodeRequest>) {
        for request in requests {
            *self.open_requests.entry(request.hash()).or_default() += 1;
            self.queue.push(owner, request);
        }
    }

    /// Sends requests of clients, as many as may be in flight.
    fn send_next_requests(&mut self) {
        while let Some(batch) = self.queue.next_batch() {
            self.spawn(Origin::Client(batch.owner), batch.requests);
        }
    }

    /// Sends the processor's own requests.
    fn send(&mut self, requests: Vec<NodeRequest>) {
        if requests.is_empty() {
            return;
        }
        for request in &requests {
            *self.open_requests.entry(request.hash()).or_default() += 1;
        }
        self.own_in_flight += 1;
        self.spawn(Origin::Processor, requests);
    }

    /// Notes that requests are no longer in flight, and returns their origin.
    fn finish(&mut self, id: task::Id) -> Origin {
        let origin = self.origins.remove(&id).unwrap_or(Origin::Processor);
        match &origin {
            Origin::Processor => self.own_in_flight = self.own_in_flight.saturating_sub(1),
            Origin::Client(owner) => self.queue.finish(owner),
        }
        origin
    }

    /// Sends requests in a task of their own. The responses come back to the processor.
    fn spawn(&mut self, origin: Origin, requests: Vec<NodeRequest>) {
        let prover = self.deps.prover.clone();
        let respond = async move { prover.respond(requests).await };
        let sent = self.in_flight.spawn(respond);
        self.origins.insert(sent.id(), origin);
    }
}

fn append(entry: &mut JournalEntry, events: Vec<ChannelEvent>) {
    let events = events.into_iter().map(|event| (event.channel, event.event));
    entry.publications.extend(events);
}

/// A block as clients receive it.
pub(crate) fn block_message(chain: u64, data: &BlockData) -> Block {
    Block {
        chain,
        number: data.block.number,
        hash: data.block.hash.to_string(),
        parent_hash: data.block.parent.to_string(),
        timestamp: data.timestamp,
        transactions: u32::try_from(data.transactions.len()).unwrap_or(u32::MAX),
        base_fee_per_gas: data.base_fee.map(|fee| fee.to_string()),
        reorged: Vec::new(),
        sample: false,
    }
}
