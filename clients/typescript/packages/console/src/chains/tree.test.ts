import type { Block } from "@tidewire/client";
import { expect, test } from "vitest";
import { blockTree } from "./tree.ts";

/** `block("b2", "a1")`: block b at height 2 on a. */
const block = (hash: string, parentHash: string, ...reorged: string[]): Block => ({
  chain: 1,
  number: Number(hash.slice(1)),
  hash,
  parentHash,
  timestamp: 0,
  transactions: 0,
  ...(reorged.length > 0 && { reorged }),
});

const drawn = (messages: Block[], limit = 10) =>
  blockTree(messages, limit).rows.map(({ blocks }) => blocks.map(({ block: { hash }, lane, parentLane }) => `${hash}@${lane}>${String(parentLane)}`).join(" "));

test("without a reorg all blocks are in one lane, newest first", () => {
  const tree = blockTree([block("a1", "z0"), block("b2", "a1"), block("c3", "b2")], 10);
  expect(tree).toMatchObject({ lanes: 1, reorgs: 0, deepest: 0, head: { hash: "c3" } });
  expect(tree.rows.map(({ number }) => number)).toEqual([3, 2, 1]);
  expect(tree.rows[0]?.fromAbove).toEqual([]);
  expect(tree.rows[1]?.fromAbove).toEqual([0]);
});

test("undone blocks form a branch beside those that replaced them", () => {
  const messages = [block("a1", "z0"), block("b2", "a1"), block("c3", "b2"), block("x2", "a1", "c3", "b2"), block("y3", "x2")];
  expect(drawn(messages)).toEqual(["y3@0>0 c3@1>1", "x2@0>0 b2@1>0", "a1@0>undefined"]);
  const tree = blockTree(messages, 10);
  expect(tree).toMatchObject({ lanes: 2, reorgs: 1, deepest: 2 });
  expect(tree.rows[0]?.blocks[1]?.undoneBy?.hash).toBe("x2");
  expect(tree.rows[2]?.fromAbove).toEqual([0, 0]);
});

test("two reorgs at one height take two lanes, and a later one far above uses the first again", () => {
  const messages = [block("a1", "z0"), block("b2", "a1"), block("c2", "a1", "b2"), block("d2", "a1", "c2"), block("e3", "d2"), block("f4", "e3"), block("g4", "e3", "f4")];
  expect(drawn(messages)).toEqual(["g4@0>0 f4@1>0", "e3@0>0", "d2@0>0 b2@1>0 c2@2>0", "a1@0>undefined"]);
});

test("a reorg of a branch that itself had replaced another keeps both", () => {
  const messages = [block("a1", "z0"), block("b2", "a1"), block("x2", "a1", "b2"), block("y3", "x2"), block("p2", "a1", "y3", "x2")];
  expect(drawn(messages)).toEqual(["y3@2>2", "p2@0>0 b2@1>0 x2@2>0", "a1@0>undefined"]);
});

test("a block that returns is the chain's again", () => {
  const messages = [block("a1", "z0"), block("b2", "a1"), block("x2", "a1", "b2"), block("b2", "a1", "x2")];
  expect(drawn(messages)).toEqual(["b2@0>0 x2@1>0", "a1@0>undefined"]);
});

test("a tree has as many rows as its limit, and forgets undone blocks with them", () => {
  const messages = [block("a1", "z0"), block("x1", "z0", "a1"), block("b2", "x1"), block("c3", "b2")];
  expect(drawn(messages, 2)).toEqual(["c3@0>0", "b2@0>0"]);
});

test("a hash that a reorg names and that was never seen has no place", () => {
  expect(drawn([block("x2", "a1", "b2")])).toEqual(["x2@0>undefined"]);
});

test("there is no head without a block", () => {
  expect(blockTree([], 10)).toMatchObject({ rows: [], lanes: 1, head: undefined });
});
