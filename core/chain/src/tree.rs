//! Header tree: the canonical chain, its side branches, and the step that a new head demands.
//!
//! The tree is a state machine without I/O: headers go in, a [`Plan`] comes out. The caller
//! fetches missing headers and loads the blocks to include. Which head to plan for is the
//! decision of the fork choice; how far a reorg reaches is decided here.
//!
//! # Worked example: a reorg
//! The canonical chain is `a1 b2 c3`. A node reports the head `y4`:
//!
//! ```text
//! a1 ── b2 ── c3          canonical, tip c3
//!   └── x2 ── y3 ── y4    the branch of the reported head
//! ```
//!
//! | call | result | why |
//! |---|---|---|
//! | `plan(y4)` | `NeedHeader(y3, 3)` | the parent of `y4` is not known |
//! | `insert(y3)`, `plan(y4)` | `NeedHeader(x2, 2)` | the parent of `y3` is not known |
//! | `insert(x2)`, `plan(y4)` | `Reorg { depth: 2, include: x2 }` | `x2` links to `a1`; `b2` and `c3` are above it |
//! | `advance(x2)` | retracts `c3`, then `b2` | the tip is `x2` now |
//! | `plan(y4)` | `Extend(y3)` | `y3` links to the tip |
//! | `advance(y3)`, `plan(y4)` | `Extend(y4)` | likewise |
//! | `advance(y4)`, `plan(y4)` | `Canonical` | the tip is `y4` |
//!
//! `b2` and `c3` stay in the tree as a side branch, in case that the node changes back.

use std::collections::{HashMap, VecDeque};

use alloy::primitives::B256;

use crate::BlockRef;

/// The canonical blocks that a reorg can still retract, and the headers of side branches.
#[derive(Debug, Clone)]
pub struct HeaderTree {
    /// The deepest reorg, in blocks. A head may be this far above the tip.
    limit: usize,
    /// Oldest first. Each block links to the one before; at most `limit + 1` blocks.
    canonical: VecDeque<BlockRef>,
    /// Headers of side branches, by hash.
    branches: HashMap<B256, BlockRef>,
    /// The hashes of `branches`, oldest insertion first, for eviction.
    insertion_order: VecDeque<B256>,
}

/// The next step towards a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Nothing to do: the head is the tip or a canonical block below it.
    Canonical,
    /// [Insert](HeaderTree::insert) the header with this hash and height, then plan again.
    NeedHeader(B256, u64),
    /// The head is more than `limit` blocks above the tip. Plan for the header at this height
    /// first.
    TooFar(u64),
    /// Include this block: its parent is the tip.
    Extend(BlockRef),
    /// Retract `depth` blocks, then include a block of the other branch.
    Reorg {
        /// The number of canonical blocks above the common ancestor.
        depth: usize,
        /// The first block of the new branch.
        include: BlockRef,
    },
    /// The branch forks below the oldest block that a reorg can retract.
    Unlinked,
    /// The height of this block is not its parent's height plus one.
    Invalid(BlockRef),
}

/// The position of a head relative to the tip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadPosition {
    /// The head is a canonical block.
    Canonical,
    /// The head is higher than the tip. Its branch may be the canonical one.
    Higher,
    /// The head is on another branch, at the height of the tip.
    SameHeight,
    /// The head is on another branch, below the height of the tip.
    Lower,
}

/// The reason why a block cannot be included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// The parent of the block is not canonical.
    #[error("block {} does not link to the canonical chain", .0.number)]
    Unlinked(BlockRef),
}

impl HeaderTree {
    /// An empty tree; the first included block becomes its tip. `limit` is the deepest reorg,
    /// in blocks, and counts as 1 if it is 0.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            canonical: VecDeque::new(),
            branches: HashMap::new(),
            insertion_order: VecDeque::new(),
        }
    }

    /// A tree with these canonical blocks, oldest first. After a gap in the links the older
    /// blocks are dropped.
    #[must_use]
    pub fn resume(limit: usize, blocks: impl IntoIterator<Item = BlockRef>) -> Self {
        let mut tree = Self::new(limit);
        for block in blocks {
            if tree.tip().is_some_and(|tip| !is_child(&block, &tip)) {
                tree.canonical.clear();
            }
            tree.push(block);
        }
        tree
    }

    /// The deepest reorg, in blocks.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// The newest canonical block.
    #[must_use]
    pub fn tip(&self) -> Option<BlockRef> {
        self.canonical.back().copied()
    }

    /// The canonical blocks that a reorg can retract and the block below them, oldest first.
    pub fn canonical(&self) -> impl DoubleEndedIterator<Item = &BlockRef> + ExactSizeIterator {
        self.canonical.iter()
    }

    /// The position of a head relative to the tip. Without a tip every head is higher.
    #[must_use]
    pub fn position(&self, head: &BlockRef) -> HeadPosition {
        let Some(tip) = self.tip() else {
            return HeadPosition::Higher;
        };
        if self.canonical_index(head).is_some() {
            return HeadPosition::Canonical;
        }
        match head.number.cmp(&tip.number) {
            std::cmp::Ordering::Greater => HeadPosition::Higher,
            std::cmp::Ordering::Equal => HeadPosition::SameHeight,
            std::cmp::Ordering::Less => HeadPosition::Lower,
        }
    }

    /// Adds the header of a side branch. Beyond a bound the oldest header is evicted.
    pub fn insert(&mut self, header: BlockRef) {
        if self.branches.insert(header.hash, header).is_none() {
            self.insertion_order.push_back(header.hash);
        }
        // Two branches of the full length fit, as a reorg may be followed by another one.
        while self.insertion_order.len() > 4 * self.limit + 16 {
            if let Some(oldest) = self.insertion_order.pop_front() {
                self.branches.remove(&oldest);
            }
        }
    }

    /// Decides the next step towards a head: extend the chain, reorg, or fetch a header first.
    ///
    /// Walks from the head down its branch until a parent is canonical. The blocks above that
    /// common ancestor are the ones to retract.
    #[must_use]
    pub fn plan(&self, head: &BlockRef) -> Plan {
        let Some(tip) = self.tip() else {
            return Plan::Extend(*head);
        };
        if self.canonical_index(head).is_some() {
            return Plan::Canonical;
        }
        let reach = self.limit as u64;
        let farthest = tip.number.saturating_add(reach);
        if head.number > farthest {
            return Plan::TooFar(farthest);
        }
        let oldest = self.canonical.front().map_or(0, |block| block.number);
        let mut block = *head;
        loop {
            if block.number <= oldest {
                return Plan::Unlinked;
            }
            if let Some(ancestor) = self.parent_index(&block) {
                let Some(parent) = self.canonical.get(ancestor) else {
                    return Plan::Unlinked;
                };
                if !is_child(&block, parent) {
                    return Plan::Invalid(block);
                }
                return match self.canonical.len() - 1 - ancestor {
                    0 => Plan::Extend(block),
                    depth => Plan::Reorg {
                        depth,
                        include: block,
                    },
                };
            }
            let Some(parent) = self.branches.get(&block.parent) else {
                return Plan::NeedHeader(block.parent, block.number - 1);
            };
            if !is_child(&block, parent) {
                return Plan::Invalid(block);
            }
            block = *parent;
        }
    }

    /// The path from the canonical chain up to a head, oldest block first, at most `max`
    /// blocks. Empty if a header of the path is missing.
    #[must_use]
    pub fn path_to(&self, head: &BlockRef, max: usize) -> Vec<BlockRef> {
        let mut path = Vec::new();
        let mut block = *head;
        // No path in the tree is longer than this.
        while path.len() <= self.limit + self.insertion_order.len() {
            path.push(block);
            if self.canonical.is_empty() || self.parent_index(&block).is_some() {
                path.reverse();
                path.truncate(max);
                return path;
            }
            match self.branches.get(&block.parent) {
                Some(parent) if is_child(&block, parent) => block = *parent,
                _ => break,
            }
        }
        Vec::new()
    }

    /// Makes a block the tip, and returns the blocks that this retracts, newest first.
    ///
    /// # Errors
    /// The parent of the block is not canonical, or its height does not fit.
    pub fn advance(&mut self, block: BlockRef) -> Result<Vec<BlockRef>, TreeError> {
        if self.canonical.is_empty() {
            self.push(block);
            return Ok(Vec::new());
        }
        let ancestor = self
            .parent_index(&block)
            .filter(|index| {
                let parent = self.canonical.get(*index);
                parent.is_some_and(|parent| is_child(&block, parent))
            })
            .ok_or(TreeError::Unlinked(block))?;
        let mut retracted = Vec::new();
        while self.canonical.len() > ancestor + 1 {
            if let Some(block) = self.canonical.pop_back() {
                // A later reorg may bring it back.
                self.insert(block);
                retracted.push(block);
            }
        }
        self.push(block);
        Ok(retracted)
    }

    /// Empties the tree, and returns the blocks that were canonical, newest first.
    pub fn reset(&mut self) -> Vec<BlockRef> {
        self.branches.clear();
        self.insertion_order.clear();
        self.canonical.drain(..).rev().collect()
    }

    fn push(&mut self, block: BlockRef) {
        self.canonical.push_back(block);
        while self.canonical.len() > self.limit + 1 {
            self.canonical.pop_front();
        }
    }

    /// The index of a block in `canonical`.
    fn canonical_index(&self, block: &BlockRef) -> Option<usize> {
        self.index_of(block.number, block.hash)
    }

    /// The index of a block's parent in `canonical`. The parent is searched by height first,
    /// then by hash alone, so that a block with a wrong height is recognised.
    fn parent_index(&self, block: &BlockRef) -> Option<usize> {
        block
            .number
            .checked_sub(1)
            .and_then(|number| self.index_of(number, block.parent))
            .or_else(|| {
                let is_parent = |canonical: &BlockRef| canonical.hash == block.parent;
                self.canonical.iter().rposition(is_parent)
            })
    }

    fn index_of(&self, number: u64, hash: B256) -> Option<usize> {
        let first = self.canonical.front()?.number;
        let index = usize::try_from(number.checked_sub(first)?).ok()?;
        let block = self.canonical.get(index)?;
        (block.hash == hash).then_some(index)
    }
}

/// Whether a block names `parent` as its parent and is one higher.
fn is_child(block: &BlockRef, parent: &BlockRef) -> bool {
    block.parent == parent.hash && parent.number.checked_add(1) == Some(block.number)
}
