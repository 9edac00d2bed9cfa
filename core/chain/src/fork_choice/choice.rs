//! Head choice: applies the rules of the fork choice to the reported heads.
//!
//! [`ForkChoice::choose`] decides which head the chain follows, and so whether a reorg
//! happens. The rules are listed in the [module](super).

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use alloy::primitives::B256;
use futures::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use tidewire_stream::Backoff;
use tokio::time::{Instant, sleep, timeout};

use super::{HeadSource, Heads, headers::fetch_header};
use crate::{
    BlockRef, ChainConfig,
    endpoint::EndpointPool,
    proof::ProofPolicy,
    rpc_types::{header_by_number, header_by_tag},
    tree::{HeadPosition, HeaderTree, Plan},
};

/// The pauses in which the heads of an endpoint are not followed, because they took too long to link:
/// the first one, and the longest.
const FIRST_HOLD: Duration = Duration::from_secs(2);
const LAST_HOLD: Duration = Duration::from_secs(30);

/// The time after a pause after which pauses begin with the first one again.
const HOLD_MEMORY: Duration = Duration::from_secs(300);

/// The longest time that an endpoint has to link its head while others have heads to follow.
const MAX_LINK_TIME: Duration = Duration::from_secs(2);

/// The longest wait for the responses of other endpoints.
pub(super) const POLL_LIMIT: Duration = Duration::from_secs(2);

/// Heads that are ignored at the same time. Endpoints that invent heads cost no more memory.
const MAX_IGNORED: usize = 64;

/// The decision about the reported heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeadChoice {
    /// Follow this head, which the endpoint with this index reported.
    Follow(usize, BlockRef),
    /// Choose again at the next report, or after this time.
    Wait(Duration),
    /// Choose again at the next report.
    Idle,
}

/// The time for which a doubtful state must last before it counts.
pub(crate) fn fork_choice_grace(block_time: Duration) -> Duration {
    block_time.clamp(Duration::from_millis(500), Duration::from_secs(15))
}

/// The configured bounds of the fork choice.
#[derive(Debug)]
struct Rules {
    /// The number of endpoints that must have a head.
    agreement: usize,
    /// The most blocks to read after an outage; beyond them the chain resyncs.
    catch_up: u64,
    proofs: ProofPolicy,
    /// The time for which a doubtful state must last before it counts.
    grace: Duration,
}

/// Chooses the head that the chain follows.
pub(super) struct ForkChoice {
    pool: EndpointPool,
    heads: Arc<Heads>,
    rules: Rules,
    ignored: IgnoredHeads,
    /// The endpoints whose heads are not followed for a while.
    held: HashMap<usize, Hold>,
    /// Since when only lower heads of other branches are reported.
    lower: GracePeriod,
    /// Since when the reported heads do not link to the chain.
    unlinked: GracePeriod,
    /// The newest head that enough endpoints have.
    agreed: Option<B256>,
}

impl ForkChoice {
    pub(super) fn new(config: &ChainConfig, pool: EndpointPool, heads: Arc<Heads>) -> Self {
        let block_time = config.block_time();
        Self {
            pool,
            heads,
            rules: Rules {
                agreement: config.agreement,
                catch_up: config.catch_up,
                proofs: ProofPolicy::of(config),
                grace: fork_choice_grace(block_time),
            },
            ignored: IgnoredHeads::default(),
            held: HashMap::new(),
            lower: GracePeriod::default(),
            unlinked: GracePeriod::default(),
            agreed: None,
        }
    }

    /// Chooses a head by the rules of the [module](super). A head on another branch than the
    /// tip causes a reorg.
    pub(super) async fn choose(&mut self, tree: &HeaderTree) -> HeadChoice {
        let heads = self.heads.all();
        let mut candidates: Vec<(usize, BlockRef)> = heads
            .iter()
            .enumerate()
            .filter_map(|(index, head)| Some((index, (*head)?)))
            .collect();
        // With heads of held endpoints alone, those are better than none.
        let has_other = candidates
            .iter()
            .any(|(index, _)| self.held_for(*index).is_zero());
        let pause = |(index, head): &(usize, BlockRef)| {
            let held = self.held_for(*index);
            let held = if has_other { held } else { Duration::ZERO };
            self.ignored.remaining(head).max(held)
        };
        let ignored_for = candidates
            .iter()
            .map(pause)
            .filter(|remaining| !remaining.is_zero())
            .min();
        candidates.retain(|candidate| pause(candidate).is_zero());
        candidates.sort_by_key(|(_, head)| std::cmp::Reverse(head.number));
        let tip = tree.tip();
        let is_supported =
            tip.is_some_and(|tip| heads.iter().flatten().any(|head| head.hash == tip.hash));
        let mut choice = ignored_for.map_or(HeadChoice::Idle, HeadChoice::Wait);
        let mut has_lower = false;
        for (index, head) in candidates {
            let position = tree.position(&head);
            if position == HeadPosition::Canonical {
                self.heads.report_usable(index);
            }
            if matches!(position, HeadPosition::SameHeight | HeadPosition::Lower) {
                self.heads.poll_at_full_speed();
            }
            match position {
                HeadPosition::Higher => {}
                HeadPosition::SameHeight if !is_supported => {}
                HeadPosition::Lower if !is_supported => {
                    has_lower = true;
                    let tip = tip.map_or(head.hash, |tip| tip.hash);
                    let remaining = self.lower.remaining(tip, self.rules.grace);
                    if !remaining.is_zero() {
                        choice = match choice {
                            HeadChoice::Wait(other) => HeadChoice::Wait(other.min(remaining)),
                            _ => HeadChoice::Wait(remaining),
                        };
                        continue;
                    }
                    if !self.is_still_off_chain(index, tree).await {
                        self.lower.clear();
                        continue;
                    }
                }
                HeadPosition::Canonical | HeadPosition::SameHeight | HeadPosition::Lower => {
                    continue;
                }
            }
            if self.has_agreement(index, &head, &heads).await {
                return HeadChoice::Follow(index, head);
            }
            self.heads.poll_at_full_speed();
        }
        if !has_lower {
            self.lower.clear();
        }
        choice
    }

    /// Polls an endpoint once more. Behind one address there may be many nodes, of which only
    /// one is on another branch.
    async fn is_still_off_chain(&self, index: usize, tree: &HeaderTree) -> bool {
        let Some(endpoint) = self.pool.endpoints().get(index) else {
            return false;
        };
        let response = fetch_header(endpoint, header_by_tag("latest"), self.rules.proofs);
        // A slow endpoint must not hold the choice between the others' heads.
        let Ok(Ok(Some(head))) = timeout(POLL_LIMIT, response).await else {
            return false;
        };
        self.heads.report(index, head, HeadSource::Poll);
        tree.position(&head) != HeadPosition::Canonical
    }

    /// Whether enough endpoints have this block. An endpoint that lags reports a head later,
    /// and is counted then.
    async fn has_agreement(
        &mut self,
        index: usize,
        head: &BlockRef,
        heads: &[Option<BlockRef>],
    ) -> bool {
        let required = self.rules.agreement;
        if required <= 1 || self.agreed == Some(head.hash) {
            return true;
        }
        let is_same = |other: &Option<BlockRef>| other.is_some_and(|other| other.hash == head.hash);
        let mut count = heads.iter().filter(|other| is_same(other)).count();
        if count < required {
            let others = self.pool.endpoints().iter().enumerate();
            let others = others.filter(|(other, endpoint)| {
                *other != index
                    && endpoint.backoff().is_zero()
                    && !heads.get(*other).is_some_and(is_same)
            });
            let proofs = self.rules.proofs;
            let mut responses: FuturesUnordered<_> = others
                .map(|(_, endpoint)| fetch_header(endpoint, header_by_number(head.number), proofs))
                .collect();
            // A slow endpoint delays nothing once enough others have the block.
            while count < required
                && let Some(response) = responses.next().await
            {
                count += usize::from(matches!(response, Ok(Some(header)) if header == *head));
            }
        }
        if count >= required {
            self.agreed = Some(head.hash);
            return true;
        }
        false
    }

    /// Polls all endpoints but one, as their last heads may be old.
    pub(super) async fn poll_others(&self, reporter: usize) {
        self.heads.poll_at_full_speed();
        let proofs = self.rules.proofs;
        let endpoints = self.pool.endpoints().iter().enumerate();
        let others = endpoints
            .filter(|(index, endpoint)| *index != reporter && endpoint.backoff().is_zero());
        let polls = others.map(async |(index, endpoint)| {
            let head = fetch_header(endpoint, header_by_tag("latest"), proofs).await;
            if let Ok(Some(head)) = head {
                self.heads.report(index, head, HeadSource::Poll);
            }
        });
        // A slow endpoint reports its head later.
        let _ = timeout(POLL_LIMIT, join_all(polls)).await;
    }

    /// Whether another endpoint's head is on the chain, or may still turn out to link to it.
    pub(super) fn others_may_link(&self, reporter: usize, tree: &HeaderTree) -> bool {
        self.other_heads(reporter)
            .any(|head| match tree.plan(&head) {
                Plan::Canonical => true,
                Plan::Extend(_) | Plan::Reorg { .. } | Plan::NeedHeader(..) => {
                    self.ignored.remaining(&head).is_zero()
                }
                Plan::TooFar(_) => !self.exceeds_catch_up(&head, tree),
                Plan::Unlinked | Plan::Invalid(_) => false,
            })
    }

    /// Whether another endpoint's head is on the chain, or links to it.
    pub(super) fn others_link(&self, reporter: usize, tree: &HeaderTree) -> bool {
        self.other_heads(reporter).any(|head| {
            let plan = tree.plan(&head);
            matches!(plan, Plan::Canonical | Plan::Extend(_) | Plan::Reorg { .. })
        })
    }

    fn other_heads(&self, reporter: usize) -> impl Iterator<Item = BlockRef> {
        let heads = self.heads.all().into_iter().enumerate();
        heads.filter_map(move |(index, head)| head.filter(|_| index != reporter))
    }

    /// Whether a head is more blocks above the tip than `catch_up` allows.
    pub(super) fn exceeds_catch_up(&self, head: &BlockRef, tree: &HeaderTree) -> bool {
        let tip = tree.tip().map_or(head.number, |tip| tip.number);
        head.number.saturating_sub(tip) > self.rules.catch_up
    }

    /// Does not follow the heads of an endpoint for a while, which is returned, as long as others
    /// have heads.
    pub(super) fn hold(&mut self, endpoint: usize) -> Duration {
        let now = Instant::now();
        let hold = self.held.entry(endpoint).or_insert_with(|| Hold {
            backoff: Backoff::new(FIRST_HOLD, LAST_HOLD),
            until: now,
        });
        if now.saturating_duration_since(hold.until) > HOLD_MEMORY {
            hold.backoff.reset();
        }
        let pause = hold.backoff.next_pause();
        hold.until = now + pause;
        pause
    }

    fn held_for(&self, endpoint: usize) -> Duration {
        let until = self.held.get(&endpoint).map(|hold| hold.until);
        until.map_or(Duration::ZERO, |until| {
            until.saturating_duration_since(Instant::now())
        })
    }

    /// Waits until an endpoint had its time to link its head, and then until another endpoint has
    /// another head above this height.
    pub(super) fn others_are_ahead(
        &self,
        reporter: usize,
        head: BlockRef,
        height: u64,
    ) -> impl Future<Output = ()> + use<> {
        let (heads, time) = (self.heads.clone(), self.rules.grace.min(MAX_LINK_TIME));
        let is_ignored: HashSet<B256> = self.ignored.0.keys().copied().collect();
        async move {
            sleep(time).await;
            loop {
                let all = heads.all().into_iter().enumerate();
                let others = all.filter(|(index, _)| *index != reporter);
                let mut others = others.filter_map(|(_, other)| other);
                if others.any(|other| {
                    other.number > height
                        && other.hash != head.hash
                        && !is_ignored.contains(&other.hash)
                }) {
                    return;
                }
                heads.changed().await;
            }
        }
    }

    /// Records that a head of an endpoint cannot be followed.
    pub(super) fn report_unusable(&self, reporter: usize, reason: &str) {
        self.heads.report_unusable(reporter, reason);
    }

    /// Records that the chain has a new block.
    pub(super) fn record_progress(&self) {
        self.heads.record_progress();
    }

    /// Ignores a head for this time.
    pub(super) fn ignore(&mut self, head: &BlockRef, time: Duration) {
        self.ignored.insert(head, time);
    }

    /// The time for which heads must go on not to link before the chain resyncs. Zero: it has
    /// passed.
    pub(super) fn resync_due_in(&mut self, head: &BlockRef, tree: &HeaderTree) -> Duration {
        let tip = tree.tip().map_or(head.hash, |tip| tip.hash);
        self.unlinked.remaining(tip, self.rules.grace)
    }

    /// Records that the chain resynced.
    pub(super) fn record_resync(&mut self) {
        self.unlinked.clear();
    }

    /// Records that the chain advanced to the head of this endpoint.
    pub(super) fn record_advance(&self, reporter: usize) {
        self.heads.record_advance(reporter);
    }

    /// Waits for the next report.
    pub(super) async fn changed(&self) {
        self.heads.changed().await;
    }
}

/// The time in which the heads of an endpoint are not followed.
#[derive(Debug)]
struct Hold {
    backoff: Backoff,
    until: Instant,
}

/// Heads that cannot be followed, each until some time.
#[derive(Debug, Default)]
struct IgnoredHeads(HashMap<B256, Instant>);

impl IgnoredHeads {
    fn insert(&mut self, head: &BlockRef, time: Duration) {
        let now = Instant::now();
        self.0.retain(|_, until| *until > now);
        if self.0.len() < MAX_IGNORED {
            self.0.insert(head.hash, now + time);
        }
    }

    /// The time for which a head is still ignored.
    fn remaining(&self, head: &BlockRef) -> Duration {
        self.0.get(&head.hash).map_or(Duration::ZERO, |until| {
            until.saturating_duration_since(Instant::now())
        })
    }
}

/// A doubtful state that counts only once it has lasted for some time.
#[derive(Debug, Default)]
struct GracePeriod(Option<(B256, Instant)>);

impl GracePeriod {
    /// The time that is left; zero once it has passed. Another tip restarts it.
    fn remaining(&mut self, tip: B256, grace: Duration) -> Duration {
        let since = match self.0 {
            Some((doubted, since)) if doubted == tip => since,
            _ => {
                let now = Instant::now();
                self.0 = Some((tip, now));
                now
            }
        };
        (since + grace).saturating_duration_since(Instant::now())
    }

    fn clear(&mut self) {
        self.0 = None;
    }
}
