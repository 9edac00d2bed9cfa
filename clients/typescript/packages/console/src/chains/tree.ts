/**
 * Block tree: the newest blocks of a chain by height, with the blocks that reorgs have undone beside
 * those that replaced them.
 *
 * The chain itself is in lane 0. The blocks that one reorg has undone form a branch, which leaves the
 * chain above their common parent. A branch is in the lowest lane that is free at all of its heights.
 *
 * Example: the messages `a1 b2 c3`, then `x2` with `reorged: [c3, b2]`, then `y3`:
 *
 *     3  y  c      lane 0: a x y
 *     2  x  b      lane 1: b c, with a as the parent of b
 *     1  a
 */
import type { Block } from "@tidewire/client";

/** A block in the tree. */
export interface TreeBlock {
  readonly block: Block;
  readonly lane: number;
  /** The lane of its parent, if the tree has it. */
  readonly parentLane: number | undefined;
  /** The block of the chain whose reorg has undone it. */
  readonly undoneBy: Block | undefined;
}

/** The blocks of one height: the chain's first, then the undone ones by lane. */
export interface TreeRow {
  readonly number: number;
  readonly blocks: readonly TreeBlock[];
  /** Lanes whose blocks are parents of blocks in the row above. */
  readonly fromAbove: readonly number[];
}

/** A tree, newest row first. */
export interface BlockTree {
  readonly rows: readonly TreeRow[];
  /** The number of lanes, at least 1. */
  readonly lanes: number;
  /** Reorgs among the blocks, and the depth of the deepest. */
  readonly reorgs: number;
  readonly deepest: number;
  /** The newest block of the chain. */
  readonly head: Block | undefined;
}

/** Builds the tree from the messages of the channel, oldest first. It has `limit` rows at most. */
export function blockTree(messages: readonly Block[], limit: number): BlockTree {
  const blocks = new Map<string, Block>();
  const undone = new Map<string, Block>();
  let head: Block | undefined;
  let reorgs = 0;
  let deepest = 0;
  for (const block of messages) {
    const { hash, reorged = [] } = block;
    // A block that returns after it was undone is the chain's again.
    undone.delete(hash);
    blocks.delete(hash);
    blocks.set(hash, block);
    head = block;
    for (const old of reorged) {
      undone.set(old, block);
    }
    reorgs += reorged.length > 0 ? 1 : 0;
    deepest = Math.max(deepest, reorged.length);
  }
  const lanes = lanesOf(blocks, undone);
  const lowest = (head?.number ?? 0) - limit;
  const rows = new Map<number, TreeBlock[]>();
  for (const [hash, block] of blocks) {
    if (block.number > lowest) {
      const lane = lanes.get(hash) ?? 0;
      const parentLane = blocks.has(block.parentHash) ? (lanes.get(block.parentHash) ?? 0) : undefined;
      const row = rows.get(block.number) ?? [];
      row.push({ block, lane, parentLane, undoneBy: undone.get(hash) });
      rows.set(block.number, row);
    }
  }
  return {
    rows: [...rows]
      .sort(([a], [b]) => b - a)
      .map(([number, row]) => ({
        number,
        blocks: row.sort((a, b) => a.lane - b.lane),
        fromAbove: (rows.get(number + 1) ?? []).flatMap(({ parentLane }) => (parentLane === undefined ? [] : [parentLane])),
      })),
    lanes: 1 + Math.max(0, ...lanes.values()),
    reorgs,
    deepest,
    head,
  };
}

/** Returns the lane of each undone block. */
function lanesOf(blocks: ReadonlyMap<string, Block>, undone: ReadonlyMap<string, Block>): Map<string, number> {
  const branches = new Map<Block, Block[]>();
  for (const [hash, by] of undone) {
    const block = blocks.get(hash);
    if (block !== undefined) {
      branches.set(by, [...(branches.get(by) ?? []), block]);
    }
  }
  const lanes = new Map<string, number>();
  const taken = new Set<string>();
  for (const branch of branches.values()) {
    let lane = 1;
    while (branch.some(({ number }) => taken.has(`${number}/${lane}`))) {
      lane += 1;
    }
    for (const { number, hash } of branch) {
      taken.add(`${number}/${lane}`);
      lanes.set(hash, lane);
    }
  }
  return lanes;
}
