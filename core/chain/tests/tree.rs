//! Model test of the header tree: every plan is checked against a graph of all blocks.
//!
//! The model is a stack of canonical blocks. A retraction must pop exactly the top of the
//! stack, and an included block must link to it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

use std::collections::HashMap;

use alloy::primitives::B256;
use proptest::prelude::*;
use tidewire_chain::{
    BlockRef,
    tree::{HeadPosition, HeaderTree, Plan},
};

fn hash(name: u64) -> B256 {
    B256::left_padding_from(&(name + 1).to_be_bytes())
}

/// All blocks of a scenario. The first has no parent.
struct Graph {
    blocks: Vec<BlockRef>,
    by_hash: HashMap<B256, BlockRef>,
}

impl Graph {
    /// A graph from parent indices: entry `i` is the index of the parent of block `i + 1`.
    fn of(parents: &[usize]) -> Self {
        let mut blocks = vec![BlockRef {
            number: 5,
            hash: hash(0),
            parent: B256::ZERO,
        }];
        for (index, parent) in parents.iter().enumerate() {
            let parent = blocks[*parent];
            blocks.push(BlockRef {
                number: parent.number + 1,
                hash: hash(index as u64 + 1),
                parent: parent.hash,
            });
        }
        let by_hash = blocks.iter().map(|block| (block.hash, *block)).collect();
        Self { blocks, by_hash }
    }

    /// The blocks from the first one up to this one.
    fn path(&self, mut block: BlockRef) -> Vec<BlockRef> {
        let mut path = vec![block];
        while let Some(parent) = self.by_hash.get(&block.parent) {
            path.push(*parent);
            block = *parent;
        }
        path.reverse();
        path
    }

    /// The ancestor of a block at this height.
    fn ancestor(&self, block: BlockRef, number: u64) -> BlockRef {
        let path = self.path(block);
        *path.iter().find(|block| block.number == number).unwrap()
    }
}

/// Drives the tree to a head and applies each plan to the stack too. Returns true if the head
/// is unlinked.
fn drive(tree: &mut HeaderTree, stack: &mut Vec<BlockRef>, graph: &Graph, head: BlockRef) -> bool {
    let mut target = head;
    loop {
        match tree.plan(&target) {
            Plan::Canonical if target == head => return false,
            Plan::Canonical => target = head,
            Plan::NeedHeader(hash, number) => {
                let header = graph.by_hash[&hash];
                assert_eq!(header.number, number);
                tree.insert(header);
            }
            Plan::TooFar(number) => {
                assert!(number < target.number);
                target = graph.ancestor(target, number);
            }
            Plan::Extend(block) => advance(tree, stack, 0, block),
            Plan::Reorg { depth, include } => {
                assert!(depth > 0);
                advance(tree, stack, depth, include);
            }
            Plan::Unlinked => return true,
            Plan::Invalid(block) => panic!("{block:?} is well-formed"),
        }
    }
}

/// Includes a block in the tree and in the stack, and checks that both agree.
fn advance(tree: &mut HeaderTree, stack: &mut Vec<BlockRef>, depth: usize, block: BlockRef) {
    let retracted = tree.advance(block).unwrap();
    assert_eq!(retracted.len(), depth);
    for block in retracted {
        assert_eq!(stack.pop(), Some(block));
    }
    if let Some(top) = stack.last() {
        assert_eq!((block.parent, block.number), (top.hash, top.number + 1));
    }
    stack.push(block);
}

/// Parents and heads. Most blocks have the newest block as parent, so that branches are long.
/// Heads come in any order.
fn scenario() -> impl Strategy<Value = (Vec<usize>, Vec<usize>)> {
    let back = prop_oneof![4 => Just(0_usize), 2 => 1_usize..4, 1 => 0_usize..60];
    (2_usize..120)
        .prop_flat_map(move |count| {
            (
                prop::collection::vec(back.clone(), count),
                prop::collection::vec(0..=count, 1..40),
            )
        })
        .prop_map(|(backs, heads)| {
            let parents = backs.iter().enumerate();
            let parents = parents.map(|(index, back)| index.saturating_sub(*back));
            (parents.collect(), heads)
        })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn plans_lead_to_every_head((parents, heads) in scenario()) {
        let graph = Graph::of(&parents);
        let mut tree = HeaderTree::new(1_000);
        let mut stack = Vec::new();
        let first = graph.blocks[0];
        assert!(!drive(&mut tree, &mut stack, &graph, first));
        for head in heads {
            let head = graph.blocks[head];
            let on_chain = stack.contains(&head);
            assert_eq!(tree.position(&head) == HeadPosition::Canonical, on_chain);
            let before = stack.clone();
            assert!(!drive(&mut tree, &mut stack, &graph, head));
            if on_chain {
                // The head of a lagging node causes no reorg.
                assert_eq!(stack, before);
            } else {
                assert_eq!(stack, graph.path(head));
            }
            assert!(tree.canonical().eq(stack.iter()));
        }
    }

    #[test]
    fn a_reorg_beyond_the_limit_is_unlinked_and_never_wrong(
        (parents, heads) in scenario(),
        limit in 1_usize..6,
    ) {
        let graph = Graph::of(&parents);
        let mut tree = HeaderTree::new(limit);
        let mut stack = Vec::new();
        for head in heads {
            let head = graph.blocks[head];
            // Fewer than the limit after a reorg, until the chain has grown again.
            let retractable: Vec<_> = tree.canonical().copied().collect();
            let is_known = retractable.contains(&head);
            let path = graph.path(head);
            let forks_within = retractable.iter().any(|block| path.contains(block));
            let is_unlinked = drive(&mut tree, &mut stack, &graph, head);
            assert_eq!(is_unlinked, !forks_within && !retractable.is_empty());
            if is_unlinked {
                tree.reset();
                stack.clear();
                assert!(!drive(&mut tree, &mut stack, &graph, head));
                assert_eq!(stack, [head]);
            } else if !is_known {
                assert_eq!(stack.last(), Some(&head));
            }
            assert!(tree.canonical().len() <= limit + 1);
            assert!(tree.canonical().rev().eq(stack.iter().rev().take(tree.canonical().len())));
        }
    }

    #[test]
    fn a_restart_resumes_from_the_canonical_blocks((parents, heads) in scenario(), stop in 0_usize..40) {
        let graph = Graph::of(&parents);
        let (mut tree, mut stack) = (HeaderTree::new(1_000), Vec::new());
        drive(&mut tree, &mut stack, &graph, graph.blocks[0]);
        for (index, head) in heads.iter().enumerate() {
            if index == stop {
                tree = HeaderTree::resume(1_000, stack.iter().copied());
            }
            drive(&mut tree, &mut stack, &graph, graph.blocks[*head]);
        }
        let resumed = HeaderTree::resume(1_000, stack.iter().copied());
        assert!(resumed.canonical().eq(tree.canonical()));
    }
}

/// A chain without forks: the first block and `count` blocks above it.
fn line(count: usize) -> Graph {
    Graph::of(&(0..count).collect::<Vec<_>>())
}

/// A tree and a stack whose tip is the block with this index.
fn at(graph: &Graph, limit: usize, head: usize) -> (HeaderTree, Vec<BlockRef>) {
    let (mut tree, mut stack) = (HeaderTree::new(limit), Vec::new());
    drive(&mut tree, &mut stack, graph, graph.blocks[0]);
    drive(&mut tree, &mut stack, graph, graph.blocks[head]);
    (tree, stack)
}

#[test]
fn a_reorg_of_exactly_the_limit_is_planned_and_a_deeper_one_is_unlinked() {
    // Blocks 0 to 6, and a branch of the same height on block 1: 7 to 12.
    let mut parents: Vec<usize> = (0..6).collect();
    parents.push(1);
    parents.extend(7..12);
    let graph = Graph::of(&parents);
    let head = graph.blocks[12];
    let (mut tree, mut stack) = at(&graph, 5, 6);
    assert!(!drive(&mut tree, &mut stack, &graph, head));
    assert_eq!(stack, graph.path(head));
    let (mut tree, mut stack) = at(&graph, 4, 6);
    assert!(drive(&mut tree, &mut stack, &graph, head));
}

#[test]
fn a_block_of_the_same_height_replaces_the_tip() {
    let graph = Graph::of(&[0, 1, 1]);
    let (mut tree, mut stack) = at(&graph, 10, 2);
    let other = graph.blocks[3];
    assert_eq!(tree.position(&other), HeadPosition::SameHeight);
    let reorg = Plan::Reorg {
        depth: 1,
        include: other,
    };
    assert_eq!(tree.plan(&other), reorg);
    drive(&mut tree, &mut stack, &graph, other);
    assert_eq!(tree.tip(), Some(other));
    // A second reorg brings the first block back.
    drive(&mut tree, &mut stack, &graph, graph.blocks[2]);
    assert_eq!(tree.tip(), Some(graph.blocks[2]));
}

#[test]
fn a_lower_branch_is_lower_and_a_lagging_head_is_canonical() {
    let graph = Graph::of(&[0, 1, 2, 1]);
    let (tree, _) = at(&graph, 10, 3);
    assert_eq!(tree.position(&graph.blocks[4]), HeadPosition::Lower);
    assert_eq!(tree.position(&graph.blocks[1]), HeadPosition::Canonical);
    assert_eq!(tree.plan(&graph.blocks[1]), Plan::Canonical);
}

#[test]
fn a_block_with_a_wrong_height_is_invalid() {
    let graph = line(3);
    let (mut tree, _) = at(&graph, 10, 3);
    let tip = graph.blocks[3];
    let wrong = BlockRef {
        number: tip.number + 2,
        hash: hash(70),
        parent: tip.hash,
    };
    assert_eq!(tree.plan(&wrong), Plan::Invalid(wrong));
    assert!(tree.advance(wrong).is_err());
    // The same holds for a parent on a side branch.
    let sibling = BlockRef {
        number: tip.number,
        hash: hash(71),
        parent: tip.parent,
    };
    tree.insert(sibling);
    let wrong = BlockRef {
        parent: sibling.hash,
        ..wrong
    };
    assert_eq!(tree.plan(&wrong), Plan::Invalid(wrong));
}

#[test]
fn the_number_of_headers_is_bounded() {
    let graph = line(300);
    let (mut tree, _) = at(&graph, 8, 300);
    assert_eq!(tree.canonical().len(), 9);
    for name in 1_000..2_000 {
        tree.insert(BlockRef {
            number: 300,
            hash: hash(name),
            parent: hash(name + 5_000),
        });
    }
    let tip = tree.tip().unwrap();
    assert_eq!(tree.plan(&tip), Plan::Canonical);
}

#[test]
fn the_oldest_header_is_evicted_first() {
    let graph = line(2);
    let mut tree = HeaderTree::resume(2, graph.blocks.iter().copied());
    assert_eq!(tree.limit(), 2);
    let header = |name| BlockRef {
        number: 8,
        hash: hash(name),
        parent: hash(name + 5_000),
    };
    let child = |name| BlockRef {
        number: 9,
        hash: hash(name + 9_000),
        parent: hash(name),
    };
    for name in 100..124 {
        tree.insert(header(name));
    }
    assert_eq!(tree.plan(&child(100)), Plan::NeedHeader(hash(5_100), 7));
    tree.insert(header(124));
    assert_eq!(tree.plan(&child(100)), Plan::NeedHeader(hash(100), 8));
    assert_eq!(tree.plan(&child(101)), Plan::NeedHeader(hash(5_101), 7));
}

#[test]
fn a_path_leads_from_the_chain_to_the_head() {
    // Blocks 0 to 3, and a branch on block 2: 4 to 6.
    let graph = Graph::of(&[0, 1, 2, 2, 4, 5]);
    let [.., fourth, fifth, head] = graph.blocks[..] else {
        panic!("there are seven blocks")
    };
    let mut tree = HeaderTree::resume(1, graph.blocks[..4].iter().copied());
    tree.insert(fifth);
    assert!(tree.path_to(&head, 10).is_empty(), "a header is missing");
    tree.insert(fourth);
    assert_eq!(tree.path_to(&head, 10), [fourth, fifth, head]);
    assert_eq!(tree.path_to(&head, 2), [fourth, fifth]);
    let wrong = BlockRef {
        number: head.number + 1,
        ..head
    };
    assert!(tree.path_to(&wrong, 10).is_empty());
    // Any block can be the first.
    assert_eq!(HeaderTree::new(1).path_to(&head, 10), [head]);
}
