//! The header tree: which blocks are canonical, and what a new head means.
//!
//! It knows headers and nothing of nodes: headers come in, the way to a head comes
//! out. Whoever drives it fetches what is missing and loads what is included.
//!
//! # A reorg, by example
//! The canonical chain is `a1 b2 c3`, and a node says that its head is `y4`:
//!
//! ```text
//! a1 ── b2 ── c3
//!   └── x2 ── y3 ── y4
//! ```
//!
//! [`HeaderTree::plan`] asks for the parent of `y4`, then for the one of `y3`; when `x2` is
//! known, it links to `a1`, and the plan is to take back `c3` and `b2`, and to include
//! `x2`. After [`HeaderTree::advance`] the next plan is to include `y3`, then `y4`.

use std::collections::{HashMap, VecDeque};

use alloy::primitives::B256;

use crate::BlockRef;

/// The canonical chain as far as it can still change, and headers that may become it.
#[derive(Debug, Clone)]
pub struct HeaderTree {
    /// How many blocks can be taken back, and how far a head may be from the tip.
    limit: usize,
    /// Oldest first, linked, never more than `limit + 1`.
    canonical: VecDeque<BlockRef>,
    /// Headers of other branches, in the order in which they came.
    branches: HashMap<B256, BlockRef>,
    order: VecDeque<B256>,
}

/// What to do about a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// It is canonical: the tip, or a block before it, which a node that lags says.
    Stay,
    /// The header with this hash and height has to be [inserted](HeaderTree::insert) first.
    Need(B256, u64),
    /// The head is too far above the tip to be linked in one go: go to this height first.
    Far(u64),
    /// Take back so many blocks, then include this one.
    Advance(usize, BlockRef),
    /// Its branch leaves the canonical chain before the oldest block that can be taken
    /// back.
    Lost,
    /// It, or a block before it, has not the height after its parent's.
    Nonsense(BlockRef),
}

/// How a head stands to the tip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadPosition {
    /// It is canonical.
    Canonical,
    /// It is on another branch, or not linked yet, and higher than the tip.
    Higher,
    /// It is on another branch and as high as the tip.
    Level,
    /// It is on another branch and lower than the tip.
    Lower,
}

/// Why a block cannot come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// The branch leaves the canonical chain before the oldest block that is known.
    #[error("block {} does not link to the canonical chain", .0.number)]
    Unlinked(BlockRef),
}

impl HeaderTree {
    /// A tree that begins with the first block it is given.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            canonical: VecDeque::new(),
            branches: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    /// A tree that goes on from these blocks, oldest first. Only the newest that are
    /// linked to each other count.
    #[must_use]
    pub fn resume(limit: usize, blocks: impl IntoIterator<Item = BlockRef>) -> Self {
        let mut tree = Self::new(limit);
        for block in blocks {
            if tree.tip().is_some_and(|tip| !follows(&block, &tip)) {
                tree.canonical.clear();
            }
            tree.push(block);
        }
        tree
    }

    /// How many blocks can be taken back.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// The newest canonical block.
    #[must_use]
    pub fn tip(&self) -> Option<BlockRef> {
        self.canonical.back().copied()
    }

    /// The canonical blocks that can be taken back and the one before, oldest first.
    pub fn canonical(&self) -> impl DoubleEndedIterator<Item = &BlockRef> + ExactSizeIterator {
        self.canonical.iter()
    }

    /// How a head stands to the tip. Without a tip every head is higher.
    #[must_use]
    pub fn standing(&self, head: &BlockRef) -> HeadPosition {
        let Some(tip) = self.tip() else {
            return HeadPosition::Higher;
        };
        if self.place(head).is_some() {
            return HeadPosition::Canonical;
        }
        match head.number.cmp(&tip.number) {
            std::cmp::Ordering::Greater => HeadPosition::Higher,
            std::cmp::Ordering::Equal => HeadPosition::SameHeight,
            std::cmp::Ordering::Less => HeadPosition::Lower,
        }
    }

    /// Notes a header that may become canonical.
    pub fn insert(&mut self, header: BlockRef) {
        if self.branches.insert(header.hash, header).is_none() {
            self.order.push_back(header.hash);
        }
        // Room for a branch as long as can be, one that replaces it, and some more.
        while self.order.len() > 4 * self.limit + 16 {
            if let Some(oldest) = self.order.pop_front() {
                self.branches.remove(&oldest);
            }
        }
    }

    /// What to do next about a head.
    #[must_use]
    pub fn plan(&self, head: &BlockRef) -> Plan {
        let Some(tip) = self.tip() else {
            return Plan::Advance(0, *head);
        };
        if self.place(head).is_some() {
            return Plan::Stay;
        }
        let reach = self.limit as u64;
        if head.number > tip.number + reach {
            return Plan::Far(tip.number + reach);
        }
        let oldest = self.canonical.front().map_or(0, |block| block.number);
        let mut block = *head;
        loop {
            if block.number <= oldest {
                return Plan::Lost;
            }
            if let Some(place) = self.parent_place(&block) {
                let Some(parent) = self.canonical.get(place) else {
                    return Plan::Lost;
                };
                if !follows(&block, parent) {
                    return Plan::Nonsense(block);
                }
                return Plan::Advance(self.canonical.len() - 1 - place, block);
            }
            let Some(parent) = self.branches.get(&block.parent) else {
                return Plan::Need(block.parent, block.number - 1);
            };
            if !follows(&block, parent) {
                return Plan::Nonsense(block);
            }
            block = *parent;
        }
    }

    /// The blocks from the canonical chain to a head that [`plan`](Self::plan) would
    /// advance to, oldest first, at most `most`. Empty if there is no way yet.
    #[must_use]
    pub fn way(&self, head: &BlockRef, most: usize) -> Vec<BlockRef> {
        let mut way = Vec::new();
        let mut block = *head;
        // The tree holds no longer way than this.
        while way.len() <= self.limit + self.order.len() {
            way.push(block);
            if self.canonical.is_empty() || self.parent_place(&block).is_some() {
                way.reverse();
                way.truncate(most);
                return way;
            }
            match self.branches.get(&block.parent) {
                Some(parent) if follows(&block, parent) => block = *parent,
                _ => break,
            }
        }
        Vec::new()
    }

    /// Includes a block, and gives what it takes back, newest first.
    ///
    /// # Errors
    /// Its parent is not canonical.
    pub fn advance(&mut self, block: BlockRef) -> Result<Vec<BlockRef>, TreeError> {
        if self.canonical.is_empty() {
            self.push(block);
            return Ok(Vec::new());
        }
        let place = self
            .parent_place(&block)
            .filter(|place| {
                let parent = self.canonical.get(*place);
                parent.is_some_and(|parent| follows(&block, parent))
            })
            .ok_or(TreeError::Unlinked(block))?;
        let mut retracted = Vec::new();
        while self.canonical.len() > place + 1 {
            if let Some(block) = self.canonical.pop_back() {
                // The node may change its mind again.
                self.insert(block);
                retracted.push(block);
            }
        }
        self.push(block);
        Ok(retracted)
    }

    /// Forgets all, and gives what was canonical, newest first.
    pub fn reset(&mut self) -> Vec<BlockRef> {
        self.branches.clear();
        self.order.clear();
        self.canonical.drain(..).rev().collect()
    }

    fn push(&mut self, block: BlockRef) {
        self.canonical.push_back(block);
        while self.canonical.len() > self.limit + 1 {
            self.canonical.pop_front();
        }
    }

    /// Where a block is in the canonical chain.
    fn place(&self, block: &BlockRef) -> Option<usize> {
        self.place_of(block.number, block.hash)
    }

    /// Where the parent of a block is. By its height, or wherever its hash is, so that
    /// a wrong height is seen.
    fn parent_place(&self, block: &BlockRef) -> Option<usize> {
        block
            .number
            .checked_sub(1)
            .and_then(|number| self.place_of(number, block.parent))
            .or_else(|| {
                let is_parent = |canonical: &BlockRef| canonical.hash == block.parent;
                self.canonical.iter().rposition(is_parent)
            })
    }

    fn place_of(&self, number: u64, hash: B256) -> Option<usize> {
        let first = self.canonical.front()?.number;
        let place = usize::try_from(number.checked_sub(first)?).ok()?;
        let block = self.canonical.get(place)?;
        (block.hash == hash).then_some(place)
    }
}

/// Whether a block comes right after another.
fn follows(block: &BlockRef, parent: &BlockRef) -> bool {
    block.parent == parent.hash && parent.number.checked_add(1) == Some(block.number)
}
