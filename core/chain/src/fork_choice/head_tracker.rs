//! Head tracker: moves one chain to the chosen head, and sends a chain update for each block.
//!
//! One round chooses a head, fetches missing headers, loads up to [`MAX_PATH`] blocks and sends
//! their updates. Then the heads are looked at again, as the chain may have changed meanwhile.
//! Failures never stop the tracker: it ignores the head for a while and chooses again.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use alloy::primitives::Bloom;
use futures::{StreamExt as _, stream, stream::FuturesUnordered};
use tidewire_stream::Backoff;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    Heads,
    block_loader::load,
    choice::{ForkChoice, HeadChoice, POLL_LIMIT},
    headers::{HeaderFetcher, fetch_header},
    metrics::ChainMetrics,
};
use crate::{
    BlockData, BlockRef, ChainConfig, ChainUpdate, Finality,
    block_store::BlockStore,
    endpoint::{Endpoint, EndpointPool, Failure},
    proof::ProofPolicy,
    rpc_types::header_by_tag,
    tree::{HeaderTree, Plan},
};

/// Blocks that are loaded before the heads are looked at again.
const MAX_PATH: usize = 16;

/// Blocks that are loaded at the same time.
const CONCURRENT_LOADS: usize = 4;

/// Blocks in memory for a reorg. Older ones are in the block store.
const RECENT: usize = 16;

/// The pauses after a block could not be loaded: the first one, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(2);

/// The pauses after every endpoint refused the tag of final blocks.
const FIRST_TAG_PAUSE: Duration = Duration::from_secs(1);
const LAST_TAG_PAUSE: Duration = Duration::from_secs(3_600);

/// The time for which blocks cannot be loaded before the first warning, and between two.
const FIRST_WARNING: Duration = Duration::from_secs(2);
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// The longest wait for the final blocks that endpoints report: where one endpoint is enough, and
/// where several must agree, so that one of them may be slow.
const FINAL_READ_LIMIT: Duration = Duration::from_secs(10);
const AGREED_FINAL_READ_LIMIT: Duration = Duration::from_secs(2);

/// The time for which a head that does not link is ignored.
const IGNORE_UNLINKED: Duration = Duration::from_secs(5);

/// A chain update, and its relation to the one before.
#[derive(Debug)]
pub(crate) struct SequencedUpdate {
    pub(crate) update: ChainUpdate,
    pub(crate) continuity: Continuity,
    pub(crate) retracted_content: RetractedContent,
}

/// Whether the content of the retracted blocks is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RetractedContent {
    /// Every retracted block has its transactions and logs.
    Known,
    /// The content of a retracted block is lost, so its logs cannot be retracted one by one.
    Unknown,
}

/// The relation of a chain update to the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Continuity {
    /// The block links to a canonical block, or is the first one ever.
    Linked,
    /// The chain resynced: the blocks between are not known.
    Resync,
}

/// Tracks the head of one chain.
pub(crate) struct HeadTracker {
    chain: u64,
    pool: EndpointPool,
    fork_choice: ForkChoice,
    headers: HeaderFetcher,
    tree: HeaderTree,
    proofs: ProofPolicy,
    finality: Finality,
    /// The number of endpoints that must have a block, and call it final.
    agreement: usize,
    block_store: BlockStore,
    /// The newest blocks, oldest first.
    recent: VecDeque<Arc<BlockData>>,
    /// The height of the newest final block that a node reported.
    finalized: Option<u64>,
    /// When nodes that refused the tag of final blocks are asked again, and the pauses until then.
    next_tag_read: Option<Instant>,
    tag_backoff: Backoff,
    /// The pauses after loads that failed in a row, and their number.
    backoff: Backoff,
    failures: u32,
    /// When the next warning about them is due. None after a block was loaded.
    warning_due: Option<Instant>,
    updates: mpsc::Sender<SequencedUpdate>,
    metrics: ChainMetrics,
}

/// The fate of the canonical blocks at a resync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OldBlocks {
    /// They are still canonical as far as is known. The blocks above them are skipped.
    Canonical,
    /// They are on an abandoned branch, and retracted.
    Abandoned,
}

/// A retracted block whose content is lost.
fn without_content(block: BlockRef) -> BlockData {
    BlockData {
        block,
        timestamp: 0,
        base_fee: None,
        bloom: Bloom::ZERO,
        transactions: Vec::new(),
        logs: Vec::new(),
        receipts: Vec::new(),
        withdrawals: Vec::new(),
    }
}

/// The relation of a head to the chain.
enum Link {
    /// It is a block of the chain.
    Canonical,
    /// The headers up to this block are in the tree. It is the head, or below it.
    Path(BlockRef),
    /// A header between is missing.
    Missing(String),
    /// The headers between were not read in time, and others have heads to follow.
    Late,
    /// More blocks are between than are read.
    TooFar,
    /// Its branch forks below the oldest block that a reorg can retract.
    Unlinked,
    /// The height of this block does not fit its parent's.
    Invalid(BlockRef),
}

/// Reads the headers between the chain and a head into the tree.
async fn read_links(
    headers: &HeaderFetcher,
    tree: &mut HeaderTree,
    fork_choice: &ForkChoice,
    reporter: usize,
    head: BlockRef,
) -> Link {
    let mut target = head;
    // Each iteration fetches a header or lowers the target. The bound ends the loop where an
    // endpoint makes up headers without end.
    for _ in 0..2 * tree.limit() + 64 {
        match tree.plan(&target) {
            Plan::Canonical => return Link::Canonical,
            Plan::Extend(_) | Plan::Reorg { .. } => return Link::Path(target),
            Plan::NeedHeader(hash, number) => {
                let fetched = headers.fetch_into(tree, reporter, hash, number).await;
                if let Err(failure) = fetched {
                    return Link::Missing(format!("header {number} is missing: {failure}"));
                }
            }
            Plan::TooFar(_) if fork_choice.exceeds_catch_up(&head, tree) => return Link::TooFar,
            Plan::TooFar(number) => match headers.header_at(reporter, number).await {
                Ok(header) => target = header,
                Err(failure) => {
                    return Link::Missing(format!("header {number} is missing: {failure}"));
                }
            },
            Plan::Unlinked => return Link::Unlinked,
            Plan::Invalid(block) => return Link::Invalid(block),
        }
    }
    Link::Missing("too many headers are missing".to_owned())
}

/// The result of one round.
enum Progress {
    /// Start the next round at once.
    Continue,
    /// Start the next round at a new head, or after this time.
    Wait(Duration),
    /// Start the next round at a new head.
    Idle,
    /// The receiver of updates is gone.
    Stopped,
}

impl HeadTracker {
    pub(crate) fn new(
        config: &ChainConfig,
        pool: EndpointPool,
        heads: Arc<Heads>,
        tree: HeaderTree,
        block_store: BlockStore,
        updates: mpsc::Sender<SequencedUpdate>,
    ) -> Self {
        let proofs = ProofPolicy::of(config);
        Self {
            chain: config.id,
            fork_choice: ForkChoice::new(config, pool.clone(), heads),
            headers: HeaderFetcher {
                pool: pool.clone(),
                proofs,
            },
            pool,
            tree,
            proofs,
            finality: config.finality(),
            agreement: config.agreement,
            block_store,
            recent: VecDeque::new(),
            finalized: None,
            next_tag_read: None,
            tag_backoff: Backoff::new(FIRST_TAG_PAUSE, LAST_TAG_PAUSE),
            backoff: Backoff::new(FIRST_PAUSE, LAST_PAUSE),
            failures: 0,
            warning_due: None,
            updates,
            metrics: ChainMetrics::new(config.id),
        }
    }

    /// Tracks the chain until cancelled, or until the receiver of updates is gone.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        cancel.run_until_cancelled(self.track()).await;
    }

    async fn track(&mut self) {
        loop {
            match self.advance().await {
                Progress::Continue => {}
                Progress::Idle => self.fork_choice.changed().await,
                Progress::Wait(pause) => {
                    tokio::select! {
                        () = self.fork_choice.changed() => {}
                        () = sleep(pause) => {}
                    }
                }
                Progress::Stopped => return,
            }
        }
    }

    /// Plays one round: chooses a head, and moves towards it as far as blocks can be loaded.
    async fn advance(&mut self) -> Progress {
        let (reporter, head) = match self.fork_choice.choose(&self.tree).await {
            HeadChoice::Follow(reporter, head) => (reporter, head),
            HeadChoice::Wait(pause) => return Progress::Wait(pause),
            HeadChoice::Idle => return Progress::Idle,
        };
        match self.link(reporter, head).await {
            Link::Canonical => Progress::Continue,
            Link::Path(target) => self.include_path(reporter, target, &head).await,
            Link::Missing(reason) => {
                self.strike(reporter, &head, &reason);
                self.ignore(reporter, &head, &reason)
            }
            Link::Late => {
                let reason = "its ancestors take too long to read";
                self.strike(reporter, &head, reason);
                self.ignore(reporter, &head, reason)
            }
            Link::TooFar => {
                let may_resync = self.serves_chain(reporter).await
                    && !self.fork_choice.others_may_link(reporter, &self.tree);
                match may_resync {
                    true => self.resync(reporter, head, OldBlocks::Canonical).await,
                    false => self.ignore(reporter, &head, "it is too far ahead of the chain"),
                }
            }
            Link::Unlinked => self.handle_unlinked(reporter, head).await,
            Link::Invalid(block) => {
                let number = block.number;
                let reason = format!("the height of block {number} is not its parent's plus one");
                self.report_invalid(reporter, &reason);
                self.ignore(reporter, &head, &reason)
            }
        }
    }

    /// Reads the headers between the chain and a head. Gives up once another endpoint has a head to
    /// follow, and the reporter had its time: an endpoint that answers slowly, and always with new
    /// heads, must not stop a chain whose other endpoints go on.
    async fn link(&mut self, reporter: usize, head: BlockRef) -> Link {
        let height = self.tree.tip().map_or(0, |tip| tip.number);
        let others = self.fork_choice.others_are_ahead(reporter, head, height);
        let Self {
            headers,
            tree,
            fork_choice,
            ..
        } = self;
        tokio::select! {
            biased;
            link = read_links(headers, tree, fork_choice, reporter, head) => link,
            () = others => Link::Late,
        }
    }

    /// Prefers the heads of others for a while, if there are some: an endpoint reports a head whose
    /// ancestors it does not return, or not in time.
    fn strike(&mut self, reporter: usize, head: &BlockRef, reason: &str) {
        let Some(endpoint) = self.pool.endpoints().get(reporter) else {
            return;
        };
        if !self.fork_choice.others_may_link(reporter, &self.tree) {
            return;
        }
        let pause = self.fork_choice.hold(reporter);
        tracing::warn!(chain = self.chain, endpoint = %endpoint.address(), number = head.number, reason, ?pause, "the head of an endpoint cannot be linked: the heads of others are followed meanwhile");
    }

    fn report_invalid(&self, reporter: usize, reason: &str) {
        if let Some(endpoint) = self.pool.endpoints().get(reporter) {
            endpoint.report_invalid(reason);
        }
    }

    /// Ignores a head for a while.
    fn ignore(&mut self, reporter: usize, head: &BlockRef, reason: &str) -> Progress {
        tracing::debug!(
            chain = self.chain,
            endpoint = reporter,
            number = head.number,
            reason,
            "a head is ignored for a while"
        );
        let reason = format!("its head {} cannot be followed: {reason}", head.number);
        self.fork_choice.report_unusable(reporter, &reason);
        self.fork_choice.ignore(head, IGNORE_UNLINKED);
        Progress::Continue
    }

    /// Includes the blocks up to a target, as far as they can be loaded.
    async fn include_path(
        &mut self,
        reporter: usize,
        target: BlockRef,
        head: &BlockRef,
    ) -> Progress {
        let path = self.tree.path_to(&target, MAX_PATH);
        let reaches_target = path.last() == Some(&target);
        let (pool, proofs) = (self.pool.clone(), self.proofs);
        self.correct_finalized(&path);
        if reaches_target {
            self.update_finalized(&path).await;
        }
        let loads = stream::iter(path).map(|block| load(&pool, block, proofs));
        let mut loads = loads.buffered(CONCURRENT_LOADS);
        while let Some(loaded) = loads.next().await {
            let data = match loaded {
                Ok(data) => data,
                Err(failure) => return self.back_off(&failure, reporter, head),
            };
            self.reset_backoff();
            let Ok(retracted) = self.tree.advance(data.block) else {
                return Progress::Continue;
            };
            self.fork_choice.record_progress();
            let sent = self.send(data, retracted, Continuity::Linked).await;
            if sent.is_err() {
                return Progress::Stopped;
            }
        }
        if reaches_target && target == *head {
            self.fork_choice.record_advance(reporter);
        }
        Progress::Continue
    }

    /// Ignores a head whose blocks cannot be loaded, longer with each failure. Nodes often
    /// report a block shortly before they can return all of it.
    fn back_off(&mut self, failure: &Failure, reporter: usize, head: &BlockRef) -> Progress {
        let reason = format!(
            "blocks up to its head {} cannot be loaded: {failure}",
            head.number
        );
        self.fork_choice.report_unusable(reporter, &reason);
        self.metrics.failures.increment(1);
        let pause = self.backoff.next_pause();
        self.failures = self.failures.saturating_add(1);
        let now = Instant::now();
        let due = *self.warning_due.get_or_insert(now + FIRST_WARNING);
        if due <= now {
            tracing::warn!(chain = self.chain, head = head.number, %failure, tries = self.failures, "blocks cannot be loaded: retrying");
            self.warning_due = Some(now + WARNING_INTERVAL);
        }
        self.fork_choice.ignore(head, pause);
        Progress::Continue
    }

    fn reset_backoff(&mut self) {
        self.backoff.reset();
        self.failures = 0;
        self.warning_due = None;
    }

    /// Whether an endpoint still serves this chain.
    async fn serves_chain(&self, reporter: usize) -> bool {
        match self.pool.endpoints().get(reporter) {
            Some(endpoint) => {
                let recheck = timeout(POLL_LIMIT, endpoint.recheck_chain_id());
                matches!(recheck.await, Ok(Ok(())))
            }
            None => false,
        }
    }

    /// Handles a head whose branch forks below the oldest block that a reorg can retract.
    ///
    /// If another endpoint's head links to the chain, this head is invalid. Otherwise the chain
    /// resyncs, once that has lasted for the grace period.
    async fn handle_unlinked(&mut self, reporter: usize, head: BlockRef) -> Progress {
        if !self.serves_chain(reporter).await {
            let reason = "the endpoint does not confirm its chain id";
            self.strike(reporter, &head, reason);
            return self.ignore(reporter, &head, reason);
        }
        self.fork_choice.poll_others(reporter).await;
        if self.fork_choice.others_link(reporter, &self.tree) {
            let reason = "its head does not link to the chain, while others' heads do";
            self.report_invalid(reporter, reason);
            return self.ignore(reporter, &head, reason);
        }
        if self.fork_choice.others_may_link(reporter, &self.tree) {
            return self.ignore(reporter, &head, "it does not link to the chain");
        }
        let remaining = self.fork_choice.resync_due_in(&head, &self.tree);
        if !remaining.is_zero() {
            return Progress::Wait(remaining);
        }
        self.resync(reporter, head, OldBlocks::Abandoned).await
    }

    /// Restarts the chain at a head. Clients receive `gap`, as the blocks between are missing.
    async fn resync(&mut self, reporter: usize, head: BlockRef, old_blocks: OldBlocks) -> Progress {
        let data = match load(&self.pool, head, self.proofs).await {
            Ok(data) => data,
            Err(failure) => return self.back_off(&failure, reporter, &head),
        };
        self.reset_backoff();
        self.fork_choice.record_resync();
        self.fork_choice.record_progress();
        tracing::warn!(
            chain = self.chain,
            from = self.tree.tip().map(|tip| tip.number),
            to = head.number,
            "resync: the new head does not link to the known blocks"
        );
        self.metrics.resyncs.increment(1);
        self.finalized = None;
        let mut retracted = self.tree.reset();
        if old_blocks == OldBlocks::Canonical {
            retracted.clear();
        }
        if self.tree.advance(head).is_err() {
            return Progress::Idle;
        }
        match self.send(data, retracted, Continuity::Resync).await {
            Ok(()) => Progress::Continue,
            Err(_) => Progress::Stopped,
        }
    }

    /// Sends an update. Waits while the receiver is busy with earlier ones.
    async fn send(
        &mut self,
        data: BlockData,
        retracted: Vec<BlockRef>,
        continuity: Continuity,
    ) -> Result<(), mpsc::error::SendError<SequencedUpdate>> {
        let mut retracted_data = Vec::with_capacity(retracted.len());
        let mut retracted_content = RetractedContent::Known;
        for block in retracted {
            let loaded = self.load_retracted(block).await;
            retracted_data.push(loaded.unwrap_or_else(|| {
                retracted_content = RetractedContent::Unknown;
                Arc::new(without_content(block))
            }));
        }
        let included = Arc::new(data);
        self.recent.push_back(included.clone());
        while self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        self.metrics.record(&included, retracted_data.len());
        if !retracted_data.is_empty() {
            tracing::info!(
                chain = self.chain,
                depth = retracted_data.len(),
                number = included.block.number,
                "reorg"
            );
        }
        let finalized = match self.finality {
            Finality::Depth(depth) => included.block.number.checked_sub(depth),
            Finality::Tag(_) | Finality::Unsaid => self.finalized,
        };
        let update = ChainUpdate {
            chain: self.chain,
            retracted: retracted_data,
            finalized: finalized.map(|number| number.min(included.block.number)),
            included,
        };
        let update = SequencedUpdate {
            update,
            continuity,
            retracted_content,
        };
        self.updates.send(update).await
    }

    /// The content of a retracted block: from memory, from the block store, or from a node.
    /// Nodes soon forget the blocks of an abandoned branch. None if it is lost.
    async fn load_retracted(&mut self, block: BlockRef) -> Option<Arc<BlockData>> {
        let index = self.recent.iter().position(|data| data.block == block);
        if let Some(data) = index.and_then(|index| self.recent.remove(index)) {
            return Some(data);
        }
        if let Some(data) = self.block_store.block(block).await {
            return Some(Arc::new(data));
        }
        let loaded = load(&self.pool, block, self.proofs).await;
        let loaded = loaded.inspect_err(|failure| {
            tracing::warn!(chain = self.chain, number = block.number, %failure, "a retracted block cannot be loaded");
        });
        loaded.ok().map(Arc::new)
    }

    /// Forgets the newest final height if a path reorganises blocks up to it: endpoints called them
    /// final too early.
    fn correct_finalized(&mut self, path: &[BlockRef]) {
        let (Some(first), Some(tip)) = (path.first(), self.tree.tip()) else {
            return;
        };
        let finalized = match self.finality {
            Finality::Depth(depth) => tip.number.checked_sub(depth),
            Finality::Tag(_) | Finality::Unsaid => self.finalized,
        };
        if let Some(finalized) = finalized.filter(|height| *height >= first.number)
            && first.number <= tip.number
        {
            tracing::warn!(
                chain = self.chain,
                finalized,
                from = first.number,
                "a reorg removes blocks that were final: an endpoint called them so too early, or `finality` is too low"
            );
            self.finalized = None;
        }
    }

    /// Requests the newest final block from the nodes. It counts once `agreement` of them call it or
    /// a higher one final.
    async fn update_finalized(&mut self, path: &[BlockRef]) {
        let Some(tag) = self.finality.tag() else {
            return;
        };
        if self.next_tag_read.is_some_and(|at| at > Instant::now()) {
            return;
        }
        let FinalReports {
            blocks,
            refusal,
            has_other_failure,
        } = self.read_final_blocks(tag).await;
        if let Some(failure) = refusal.filter(|_| blocks.is_empty() && !has_other_failure) {
            if self.next_tag_read.is_none() {
                tracing::warn!(chain = self.chain, tag, %failure, "no endpoint knows this tag: no block becomes final until one does; set `finality` to a number of blocks");
            }
            self.next_tag_read = Some(Instant::now() + self.tag_backoff.next_pause());
            return;
        }
        if !blocks.is_empty() {
            self.next_tag_read = None;
            self.tag_backoff.reset();
        }
        let known = blocks.iter().filter(|block| self.is_known(block, path));
        let mut heights: Vec<_> = known.map(|block| block.number).collect();
        heights.sort_unstable_by(|a, b| b.cmp(a));
        let agreed = heights.get(self.agreement.saturating_sub(1)).copied();
        self.finalized = self.finalized.max(agreed);
    }

    /// Whether a reported block is on the chain, or below all blocks that a reorg can retract.
    fn is_known(&self, reported: &BlockRef, path: &[BlockRef]) -> bool {
        let mut newest_first = path.iter().rev().chain(self.tree.canonical().rev());
        let known = newest_first.find(|block| block.number <= reported.number);
        let is_on_chain = known.is_none_or(|block| block == reported);
        if !is_on_chain {
            tracing::debug!(
                chain = self.chain,
                number = reported.number,
                "a final block is not on the chain"
            );
        }
        is_on_chain
    }

    /// The final blocks that `agreement` endpoints report, or those that did in time.
    async fn read_final_blocks(&self, tag: &'static str) -> FinalReports {
        let limit = match self.agreement {
            0 | 1 => FINAL_READ_LIMIT,
            _ => AGREED_FINAL_READ_LIMIT,
        };
        let deadline = Instant::now() + limit;
        let endpoints = self.pool.by_health(0).into_iter();
        let mut endpoints = endpoints.filter(|endpoint| endpoint.backoff().is_zero());
        let read = |endpoint: Arc<Endpoint>| async move {
            fetch_header(&endpoint, header_by_tag(tag), self.proofs).await
        };
        let mut reports = FinalReports::default();
        // As many as must agree at first, and one more for each that fails. Where more than one must
        // agree, all are asked: those that are read first may lag.
        let first = if self.agreement > 1 { usize::MAX } else { 1 };
        let mut reads: FuturesUnordered<_> = endpoints.by_ref().take(first).map(read).collect();
        while let Ok(Some(response)) = timeout_at(deadline, reads.next()).await {
            match response {
                Ok(Some(block)) => reports.blocks.push(block),
                Ok(None) => reports.has_other_failure = true,
                Err(
                    failure @ (Failure::Unsupported(_)
                    | Failure::Refused { .. }
                    | Failure::Unavailable { .. }),
                ) => reports.refusal = Some(failure),
                Err(failure) => {
                    reports.has_other_failure = true;
                    tracing::debug!(chain = self.chain, %failure, "the newest final block is not known");
                }
            }
            if reports.blocks.is_empty() {
                reads.extend(endpoints.next().map(read));
            }
        }
        reports
    }
}

/// The responses of endpoints to a call for their newest final block.
#[derive(Debug, Default)]
struct FinalReports {
    blocks: Vec<BlockRef>,
    /// A refusal of the tag.
    refusal: Option<Failure>,
    /// Whether another call failed, or returned nothing.
    has_other_failure: bool,
}
