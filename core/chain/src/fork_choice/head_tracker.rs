//! The follower: leads the tree to the head that counts, and hands on each step.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use alloy::primitives::{B256, Bloom};
use futures::{StreamExt as _, stream};
use metrics::{Counter, Gauge, Histogram};
use tokio::{sync::mpsc, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{
    Heads,
    choice::{Choice, Distrusted, Doubt},
    load::load,
};
use crate::{
    BlockData, BlockRef, ChainConfig, ChainUpdate, Finality,
    block_store::BlockStore,
    endpoint::{EndpointPool, Failure},
    proof::ProofPolicy,
    rpc_types::{HeaderJson, header_by_tag},
    tree::{HeaderTree, Plan},
};

/// How many blocks are loaded before the heads are looked at again, and how many of
/// them at once.
const STRETCH: usize = 16;
const AT_ONCE: usize = 4;

/// How many blocks are kept whole for a reorg. Older ones are in the block_store.
const RECENT: usize = 16;

/// The pause after a block could not be loaded, doubled with each further time.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(2);

/// So many failures in a row are worth a word.
const WARN_EVERY: u32 = 10;

/// For how long a head that does not link is passed over.
const DISTRUST: Duration = Duration::from_secs(5);

/// A step, and how it follows the last one.
#[derive(Debug)]
pub(crate) struct SequencedUpdate {
    pub(crate) update: ChainUpdate,
    pub(crate) continuity: Continuity,
}

/// How a step follows the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Continuity {
    /// Its block is linked to what is canonical, or is the first at all.
    Linked,
    /// The chain begins anew: what was between is not known.
    Resync,
}

/// What decides which heads count.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) agreement: usize,
    pub(super) finality: Finality,
    pub(super) catch_up: u64,
    pub(super) proofs: ProofPolicy,
    /// For how long a doubtful head must stay.
    pub(super) grace: Duration,
}

/// Follows one chain.
pub(crate) struct HeadTracker {
    pub(super) chain: u64,
    pub(super) pool: EndpointPool,
    pub(super) heads: Arc<Heads>,
    pub(super) tree: HeaderTree,
    pub(super) rules: Rules,
    pub(super) distrusted: Distrusted,
    pub(super) lower: Doubt,
    /// The newest head that enough endpoints have.
    pub(super) agreed: Option<B256>,
    lost: Doubt,
    block_store: BlockStore,
    recent: VecDeque<Arc<BlockData>>,
    finalized: Option<u64>,
    failures: u32,
    out: mpsc::Sender<SequencedUpdate>,
    meters: Meters,
}

struct Meters {
    blocks: Counter,
    reorgs: Counter,
    reorg_depth: Histogram,
    resyncs: Counter,
    failures: Counter,
    head: Gauge,
    head_time: Gauge,
}

impl Meters {
    fn new(chain: u64) -> Self {
        let labels = [("chain", chain.to_string())];
        Self {
            blocks: metrics::counter!("tidewire_chain_blocks_total", &labels),
            reorgs: metrics::counter!("tidewire_chain_reorgs_total", &labels),
            reorg_depth: metrics::histogram!("tidewire_chain_reorg_depth", &labels),
            resyncs: metrics::counter!("tidewire_chain_resyncs_total", &labels),
            failures: metrics::counter!("tidewire_chain_load_failures_total", &labels),
            head: metrics::gauge!("tidewire_chain_head", &labels),
            head_time: metrics::gauge!("tidewire_chain_head_timestamp_seconds", &labels),
        }
    }
}

/// What becomes of the blocks before a new beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    /// They are on the chain for all that is known; what came after them is not read.
    Kept,
    /// They are not on the chain any more.
    Lost,
}

/// What a turn came to.
enum Turn {
    /// Something moved: look again.
    Moved,
    /// Look again when an endpoint says something, or after this time.
    Wait(Duration),
    /// Look again when an endpoint says something.
    Idle,
    /// Nobody takes steps any more.
    Over,
}

impl HeadTracker {
    pub(crate) fn new(
        config: &ChainConfig,
        pool: EndpointPool,
        heads: Arc<Heads>,
        tree: HeaderTree,
        block_store: BlockStore,
        out: mpsc::Sender<SequencedUpdate>,
    ) -> Self {
        let block_time = config.block_time();
        Self {
            chain: config.id,
            pool,
            heads,
            tree,
            rules: Rules {
                agreement: config.agreement,
                finality: config.finality,
                catch_up: config.catch_up,
                proofs: ProofPolicy::of(config),
                grace: block_time.clamp(Duration::from_millis(500), Duration::from_secs(15)),
            },
            distrusted: Distrusted::default(),
            lower: Doubt::default(),
            agreed: None,
            lost: Doubt::default(),
            block_store,
            recent: VecDeque::new(),
            finalized: None,
            failures: 0,
            out,
            meters: Meters::new(config.id),
        }
    }

    /// Follows until cancelled, or until nobody takes steps any more.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        cancel.run_until_cancelled(self.follow()).await;
    }

    async fn follow(&mut self) {
        loop {
            match self.turn().await {
                Turn::Moved => {}
                Turn::Idle => self.heads.changed().await,
                Turn::Wait(pause) => {
                    tokio::select! {
                        () = self.heads.changed() => {}
                        () = sleep(pause) => {}
                    }
                }
                Turn::Over => return,
            }
        }
    }

    async fn turn(&mut self) -> Turn {
        let (teller, head) = match self.choose().await {
            Choice::Follow(teller, head) => (teller, head),
            Choice::Wait(pause) => return Turn::Wait(pause),
            Choice::Idle => return Turn::Idle,
        };
        let mut target = head;
        // Each round fetches a header, or comes nearer: the way is bounded, and so is
        // what a liar can make of it.
        for _ in 0..2 * self.tree.limit() + 64 {
            match self.tree.plan(&target) {
                Plan::Stay => return Turn::Moved,
                Plan::Advance(..) => return self.include(teller, target, &head).await,
                Plan::Need(hash, number) => {
                    if let Err(failure) = self.fetch(teller, hash, number).await {
                        tracing::debug!(chain = self.chain, number, %failure, "a header is missing");
                        return self.distrust(teller, &head);
                    }
                }
                Plan::Far(_) if self.misses_too_many(&head) => {
                    return if !self.is_of_the_chain(teller).await || self.others_stand_by(teller) {
                        self.distrust(teller, &head)
                    } else {
                        self.begin_anew(head, Before::Kept).await
                    };
                }
                Plan::Far(number) => match self.header_at(teller, number).await {
                    Ok(header) => target = header,
                    Err(_) => return self.distrust(teller, &head),
                },
                Plan::Lost => return self.lose(teller, head).await,
                Plan::Nonsense(block) => {
                    self.caught(
                        teller,
                        &format!(
                            "block {} has not the height after its parent's",
                            block.number
                        ),
                    );
                    return self.distrust(teller, &head);
                }
            }
        }
        self.distrust(teller, &head)
    }

    fn caught(&self, teller: usize, what: &str) {
        if let Some(endpoint) = self.pool.endpoints().get(teller) {
            endpoint.caught_lying(what);
        }
    }

    /// Passes a head over for a while.
    fn distrust(&mut self, teller: usize, head: &BlockRef) -> Turn {
        tracing::debug!(
            chain = self.chain,
            teller,
            number = head.number,
            "a head is passed over"
        );
        self.distrusted.add(head, DISTRUST);
        Turn::Moved
    }

    pub(super) fn misses_too_many(&self, head: &BlockRef) -> bool {
        let tip = self.tree.tip().map_or(head.number, |tip| tip.number);
        head.number.saturating_sub(tip) > self.rules.catch_up
    }

    /// Includes what lies on the way to a block, as far as it can be loaded.
    async fn include(&mut self, teller: usize, target: BlockRef, head: &BlockRef) -> Turn {
        let way = self.tree.way(&target, STRETCH);
        let reaches = way.last() == Some(&target);
        let (pool, proofs) = (self.pool.clone(), self.rules.proofs);
        if reaches {
            self.look_at_finality(&way).await;
        }
        let loading = stream::iter(way).map(|block| load(&pool, block, proofs));
        let mut loading = loading.buffered(AT_ONCE);
        while let Some(loaded) = loading.next().await {
            let data = match loaded {
                Ok(data) => data,
                Err(failure) => return self.wait_after(&failure, head),
            };
            self.failures = 0;
            let Ok(retracted) = self.tree.advance(data.block) else {
                return Turn::Moved;
            };
            if self
                .hand_on(data, retracted, Continuity::Linked)
                .await
                .is_err()
            {
                return Turn::Over;
            }
        }
        if reaches && target == *head {
            self.heads.went_on(teller);
        }
        Turn::Moved
    }

    /// Passes a head over that cannot be loaded: for a moment, as a node often tells of a
    /// block before it can give all of it, and longer each time.
    fn wait_after(&mut self, failure: &Failure, head: &BlockRef) -> Turn {
        self.meters.failures.increment(1);
        let pause = FIRST_PAUSE
            .saturating_mul(1 << self.failures.min(8))
            .min(LAST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        if self.failures.is_multiple_of(WARN_EVERY) {
            tracing::warn!(chain = self.chain, head = head.number, %failure, tries = self.failures, "blocks cannot be loaded, and are tried again");
        }
        self.distrusted.add(head, pause);
        Turn::Moved
    }

    /// Whether an endpoint still serves this chain.
    async fn is_of_the_chain(&self, teller: usize) -> bool {
        match self.pool.endpoints().get(teller) {
            Some(endpoint) => endpoint.verify_chain().await.is_ok(),
            None => false,
        }
    }

    /// The branch of a head leaves the chain before all that is known of it.
    async fn lose(&mut self, teller: usize, head: BlockRef) -> Turn {
        if !self.is_of_the_chain(teller).await {
            return self.distrust(teller, &head);
        }
        self.hear_others(teller).await;
        if self.others_link(teller) {
            self.caught(
                teller,
                "its head does not link to the chain, and others' do",
            );
            return self.distrust(teller, &head);
        }
        if self.others_stand_by(teller) {
            return self.distrust(teller, &head);
        }
        let tip = self.tree.tip().map_or(head.hash, |tip| tip.hash);
        let left = self.lost.left(tip, self.rules.grace);
        if !left.is_zero() {
            return Turn::Wait(left);
        }
        self.begin_anew(head, Before::Lost).await
    }

    /// Begins anew at a head, and says so.
    async fn begin_anew(&mut self, head: BlockRef, before: Before) -> Turn {
        let data = match load(&self.pool, head, self.rules.proofs).await {
            Ok(data) => data,
            Err(failure) => return self.wait_after(&failure, &head),
        };
        self.failures = 0;
        self.lost.end();
        tracing::warn!(
            chain = self.chain,
            from = self.tree.tip().map(|tip| tip.number),
            to = head.number,
            "the chain does not link to what was read before: it begins anew"
        );
        self.meters.resyncs.increment(1);
        self.finalized = None;
        let mut retracted = self.tree.reset();
        if before == Before::Kept {
            retracted.clear();
        }
        if self.tree.advance(head).is_err() {
            return Turn::Idle;
        }
        match self.hand_on(data, retracted, Continuity::Resync).await {
            Ok(()) => Turn::Moved,
            Err(_) => Turn::Over,
        }
    }

    /// Hands a step on; waits while those before it are not done.
    async fn hand_on(
        &mut self,
        data: BlockData,
        retracted: Vec<BlockRef>,
        continuity: Continuity,
    ) -> Result<(), mpsc::error::SendError<SequencedUpdate>> {
        let mut whole = Vec::with_capacity(retracted.len());
        for block in retracted {
            whole.push(self.recall(block).await);
        }
        let included = Arc::new(data);
        self.recent.push_back(included.clone());
        while self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        self.note(&included, whole.len());
        let finalized = match self.rules.finality {
            Finality::Depth(depth) => included.block.number.checked_sub(depth),
            Finality::Tag(_) | Finality::Unsaid => self.finalized,
        };
        let update = ChainUpdate {
            chain: self.chain,
            retracted: whole,
            finalized: finalized.map(|number| number.min(included.block.number)),
            included,
        };
        self.out.send(SequencedUpdate { update, continuity }).await
    }

    fn note(&self, included: &BlockData, retracted: usize) {
        self.meters.blocks.increment(1);
        self.meters.head.set(included.block.number as f64);
        self.meters
            .head_time
            .set(included.timestamp as f64 / 1_000.0);
        if retracted > 0 {
            tracing::info!(
                chain = self.chain,
                depth = retracted,
                number = included.block.number,
                "a reorg"
            );
            self.meters.reorgs.increment(1);
            self.meters.reorg_depth.record(retracted as f64);
        }
    }

    /// A block that is taken back, with what it holds: nodes forget it soon.
    async fn recall(&mut self, block: BlockRef) -> Arc<BlockData> {
        let place = self.recent.iter().position(|data| data.block == block);
        if let Some(data) = place.and_then(|place| self.recent.remove(place)) {
            return data;
        }
        if let Some(data) = self.block_store.block(block).await {
            return Arc::new(data);
        }
        match load(&self.pool, block, self.rules.proofs).await {
            Ok(data) => Arc::new(data),
            Err(failure) => {
                tracing::warn!(chain = self.chain, number = block.number, %failure, "what a retracted block held is not known any more");
                Arc::new(BlockData {
                    block,
                    timestamp: 0,
                    base_fee: None,
                    bloom: Bloom::ZERO,
                    transactions: Vec::new(),
                    logs: Vec::new(),
                    receipts: Vec::new(),
                })
            }
        }
    }

    /// Asks for the newest block that cannot be taken back. One that is not on the chain, as
    /// far as that is known, is none.
    async fn look_at_finality(&mut self, way: &[BlockRef]) {
        let Some(tag) = self.rules.finality.tag() else {
            return;
        };
        let asked = self.pool.ask::<Option<HeaderJson>>(header_by_tag(tag), 0);
        match asked.await {
            Ok(Some(header)) => {
                let told = header.block();
                let mut newer = way.iter().rev().chain(self.tree.canonical().rev());
                let known = newer.find(|block| block.number <= told.number);
                let is_ahead = way.last().is_some_and(|head| head.number < told.number);
                let is_other =
                    known.is_some_and(|block| block.number == told.number && *block != told);
                if is_ahead || is_other {
                    tracing::debug!(
                        chain = self.chain,
                        number = told.number,
                        "a final block is not on the chain"
                    );
                    return;
                }
                let number = told.number;
                self.finalized = Some(self.finalized.map_or(number, |known| known.max(number)));
            }
            Ok(None) => {}
            Err(Failure::Unsupported(_) | Failure::Refused { .. }) => {
                tracing::warn!(
                    chain = self.chain,
                    tag,
                    "no endpoint knows this tag: nothing is ever final; `finality` can be a number of blocks"
                );
                // Never reached by any block, so nothing is asked any more.
                self.rules.finality = Finality::Depth(u64::MAX);
            }
            Err(failure) => {
                tracing::debug!(chain = self.chain, %failure, "finality is not known now");
            }
        }
    }
}
