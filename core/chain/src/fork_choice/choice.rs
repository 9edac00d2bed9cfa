//! Head choice: applies the rules of the fork choice to the reported heads.
//!
//! [`ForkChoice::choose`] decides which head the chain follows, and so whether a reorg
//! happens. The rules are listed in the [module](super).

use std::{collections::HashMap, sync::Arc, time::Duration};

use alloy::primitives::B256;
use futures::future::join_all;
use tokio::time::Instant;

use super::{HeadSource, Heads, headers::fetch_header};
use crate::{
    BlockRef, ChainConfig,
    endpoint::EndpointPool,
    proof::ProofPolicy,
    rpc_types::{header_by_number, header_by_tag},
    tree::{HeadPosition, HeaderTree, Plan},
};

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
                grace: block_time.clamp(Duration::from_millis(500), Duration::from_secs(15)),
            },
            ignored: IgnoredHeads::default(),
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
        let ignored_for = candidates
            .iter()
            .map(|(_, head)| self.ignored.remaining(head))
            .filter(|remaining| !remaining.is_zero())
            .min();
        candidates.retain(|(_, head)| self.ignored.remaining(head).is_zero());
        candidates.sort_by_key(|(_, head)| std::cmp::Reverse(head.number));
        let tip = tree.tip();
        let is_supported =
            tip.is_some_and(|tip| heads.iter().flatten().any(|head| head.hash == tip.hash));
        let mut choice = ignored_for.map_or(HeadChoice::Idle, HeadChoice::Wait);
        let mut has_lower = false;
        for (index, head) in candidates {
            let position = tree.position(&head);
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
        let Ok(Some(head)) = response.await else {
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
            let responses = others
                .map(|(_, endpoint)| fetch_header(endpoint, header_by_number(head.number), proofs));
            let responses = join_all(responses).await;
            let has_block =
                |response: &&Result<_, _>| matches!(response, Ok(Some(header)) if header == head);
            count += responses.iter().filter(has_block).count();
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
        join_all(polls).await;
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
