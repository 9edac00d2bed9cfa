//! Chooses the head to follow among those that endpoints tell.

use std::{collections::HashMap, time::Duration};

use alloy::primitives::B256;
use futures::future::join_all;
use tokio::time::Instant;

use super::{HeadSource, HeadTracker, headers::ask_header};
use crate::{
    BlockRef,
    rpc_types::{header_by_number, header_by_tag},
    tree::{HeadPosition, Plan},
};

/// How many such heads are remembered.
const DISTRUSTED: usize = 64;

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// Follow this head, which this endpoint tells.
    Follow(usize, BlockRef),
    /// Nothing, until an endpoint says something, or this much time has passed.
    Wait(Duration),
    /// Nothing, until an endpoint says something.
    Idle,
}

/// Heads that could not be followed, for a while.
#[derive(Debug, Default)]
pub(super) struct Distrusted(HashMap<B256, Instant>);

impl Distrusted {
    /// Passes a head over for so long.
    pub(super) fn add(&mut self, head: &BlockRef, pause: Duration) {
        let now = Instant::now();
        self.0.retain(|_, until| *until > now);
        if self.0.len() < DISTRUSTED {
            self.0.insert(head.hash, now + pause);
        }
    }

    /// For how long a head is passed over yet.
    pub(super) fn left(&self, head: &BlockRef) -> Duration {
        self.0.get(&head.hash).map_or(Duration::ZERO, |until| {
            until.saturating_duration_since(Instant::now())
        })
    }
}

/// Something that counts only once it has lasted.
#[derive(Debug, Default)]
pub(super) struct Doubt(Option<(B256, Instant)>);

impl Doubt {
    /// How much longer to wait; nothing if it has lasted. Another tip is another doubt.
    pub(super) fn left(&mut self, tip: B256, grace: Duration) -> Duration {
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

    pub(super) fn end(&mut self) {
        self.0 = None;
    }
}

impl HeadTracker {
    /// Chooses by the rules of the [module](super).
    pub(super) async fn choose(&mut self) -> Choice {
        let heads = self.heads.heads();
        let mut candidates: Vec<(usize, BlockRef)> = heads
            .iter()
            .enumerate()
            .filter_map(|(index, head)| Some((index, (*head)?)))
            .collect();
        let passed_over = candidates
            .iter()
            .map(|(_, head)| self.distrusted.left(head))
            .filter(|left| !left.is_zero())
            .min();
        candidates.retain(|(_, head)| self.distrusted.left(head).is_zero());
        candidates.sort_by_key(|(_, head)| std::cmp::Reverse(head.number));
        let tip = self.tree.tip();
        let is_supported =
            tip.is_some_and(|tip| heads.iter().flatten().any(|head| head.hash == tip.hash));
        let mut choice = passed_over.map_or(Choice::Idle, Choice::Wait);
        let mut is_doubted = false;
        for (index, head) in candidates {
            let standing = self.tree.standing(&head);
            if matches!(standing, HeadPosition::SameHeight | HeadPosition::Lower) {
                self.heads.doubt();
            }
            match standing {
                HeadPosition::Higher => {}
                HeadPosition::SameHeight if !is_supported => {}
                HeadPosition::Lower if !is_supported => {
                    is_doubted = true;
                    let tip = tip.map_or(head.hash, |tip| tip.hash);
                    let left = self.lower.left(tip, self.rules.grace);
                    if !left.is_zero() {
                        choice = match choice {
                            Choice::Wait(other) => Choice::Wait(other.min(left)),
                            _ => Choice::Wait(left),
                        };
                        continue;
                    }
                    if !self.still_says_otherwise(index).await {
                        self.lower.end();
                        continue;
                    }
                }
                HeadPosition::Canonical | HeadPosition::SameHeight | HeadPosition::Lower => {
                    continue;
                }
            }
            if self.is_agreed(index, &head, &heads).await {
                return Choice::Follow(index, head);
            }
            self.heads.doubt();
        }
        if !is_doubted {
            self.lower.end();
        }
        choice
    }

    /// Asks an endpoint once more for its head. Behind one address there may be many
    /// nodes.
    async fn still_says_otherwise(&self, index: usize) -> bool {
        let Some(endpoint) = self.pool.endpoints().get(index) else {
            return false;
        };
        let asked = ask_header(endpoint, header_by_tag("latest"), self.rules.proofs);
        let Ok(Some(head)) = asked.await else {
            return false;
        };
        self.heads.put(index, head, HeadSource::Polled);
        self.tree.standing(&head) != HeadPosition::Canonical
    }

    /// Asks all but one endpoint for their heads, as what they said last may be old.
    pub(super) async fn hear_others(&self, teller: usize) {
        self.heads.doubt();
        let (pool, proofs) = (self.pool.endpoints(), self.rules.proofs);
        let others = pool.iter().enumerate().filter(|(index, endpoint)| {
            let is_other = *index != teller;
            is_other && endpoint.rest().is_zero()
        });
        let asked = others.map(async |(index, endpoint)| {
            let head = ask_header(endpoint, header_by_tag("latest"), proofs).await;
            if let Ok(Some(head)) = head {
                self.heads.put(index, head, HeadSource::Polled);
            }
        });
        join_all(asked).await;
    }

    /// Whether the head of another endpoint is on the chain, or links to it for all that
    /// is known.
    pub(super) fn others_stand_by(&self, teller: usize) -> bool {
        let heads = self.heads.heads();
        heads.iter().enumerate().any(|(other, told)| {
            other != teller
                && told.is_some_and(|told| match self.tree.plan(&told) {
                    Plan::Stay => true,
                    Plan::Advance(..) | Plan::Need(..) => self.distrusted.left(&told).is_zero(),
                    Plan::Far(_) => !self.misses_too_many(&told),
                    Plan::Lost | Plan::Nonsense(_) => false,
                })
        })
    }

    /// Whether the head of another endpoint is on the chain, or links to it.
    pub(super) fn others_link(&self, teller: usize) -> bool {
        let heads = self.heads.heads();
        let mut others = heads.iter().enumerate();
        others.any(|(other, told)| {
            let plan = told.map(|told| self.tree.plan(&told));
            other != teller && matches!(plan, Some(Plan::Stay | Plan::Advance(..)))
        })
    }

    /// Whether enough endpoints have this block. Whoever is behind says so later, and
    /// is asked again then.
    async fn is_agreed(
        &mut self,
        index: usize,
        head: &BlockRef,
        heads: &[Option<BlockRef>],
    ) -> bool {
        let needed = self.rules.agreement;
        if needed <= 1 || self.agreed == Some(head.hash) {
            return true;
        }
        let says_so = |head: &BlockRef, other: &Option<BlockRef>| {
            other.is_some_and(|other| other.hash == head.hash)
        };
        let mut count = heads.iter().filter(|other| says_so(head, other)).count();
        let others = self.pool.endpoints().iter().enumerate();
        let asked = others.filter(|(other, endpoint)| {
            *other != index
                && endpoint.rest().is_zero()
                && !heads.get(*other).is_some_and(|told| says_so(head, told))
        });
        let proofs = self.rules.proofs;
        let answers =
            asked.map(|(_, endpoint)| ask_header(endpoint, header_by_number(head.number), proofs));
        if count < needed {
            let answers = join_all(answers).await;
            let has_it =
                |answer: &&Result<_, _>| matches!(answer, Ok(Some(header)) if header == head);
            count += answers.iter().filter(has_it).count();
        }
        if count >= needed {
            self.agreed = Some(head.hash);
            return true;
        }
        false
    }
}
