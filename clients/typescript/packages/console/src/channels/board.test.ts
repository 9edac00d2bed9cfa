import { type ChannelMessage, WebSocketClient } from "@tidewire/client";
import { FakeServer } from "@tidewire/client/testing";
import { expect, test } from "vitest";
import { type Board, MAX_MESSAGES, MAX_PANES, openBoard, paneState, textOf } from "./board.ts";

async function boardOf(server: FakeServer): Promise<Board> {
  let frame = "";
  const parse = (text: string): unknown => {
    frame = text;
    return JSON.parse(text);
  };
  const client = new WebSocketClient("ws://test", { environment: server.environment, parse });
  client.connect();
  await server.settle();
  return openBoard(client, () => undefined, () => frame);
}

const pane = (board: Board, channel = "demo:a") => {
  const found = board.panes().find((each) => each.channel === channel);
  if (found === undefined) {
    throw new Error(`there is no pane of ${channel}`);
  }
  return found;
};
const texts = (board: Board, channel?: string) => pane(board, channel).messages.map(({ text }) => text);

test("panes are side by side, each with its own messages, newest first", async () => {
  const server = new FakeServer();
  const board = await boardOf(server);
  expect([board.add("demo:a"), board.add("demo:b")]).toEqual(["", ""]);
  expect(pane(board).phase).toBe("waiting");
  await server.settle();
  server.publish("demo:a", 1);
  server.publish("demo:b", 2);
  server.publish("demo:a", { x: 3 });
  await server.settle();
  expect(pane(board).phase).toBe("on");
  expect(texts(board)).toEqual(['{"x":3}', "1"]);
  expect(texts(board, "demo:b")).toEqual(["2"]);
  board.remove("demo:a");
  server.publish("demo:a", 4);
  await server.settle();
  expect(board.panes().map(({ channel }) => channel)).toEqual(["demo:b"]);
});

test("a paused pane holds what comes, and shows it after the pause", async () => {
  const server = new FakeServer();
  const board = await boardOf(server);
  board.add("demo:a");
  await server.settle();
  server.publish("demo:a", 1);
  await server.settle();
  board.pause("demo:a", true);
  server.publish("demo:a", 2);
  server.publish("demo:a", 3);
  await server.settle();
  expect(texts(board)).toEqual(["1"]);
  expect(pane(board).held).toHaveLength(2);
  board.pause("demo:a", false);
  expect(texts(board)).toEqual(["3", "2", "1"]);
  expect(new Set(pane(board).messages.map(({ number }) => number)).size).toBe(3);
});

test("a pane keeps a bounded number of messages and characters, and counts all", async () => {
  const server = new FakeServer();
  const board = await boardOf(server);
  board.add("demo:a");
  await server.settle();
  for (let n = 1; n <= MAX_MESSAGES + 30; n += 1) {
    server.publish("demo:a", n);
  }
  await server.settle();
  expect(pane(board)).toMatchObject({ total: MAX_MESSAGES + 30 });
  expect(texts(board)).toHaveLength(MAX_MESSAGES);
  expect(texts(board)[0]).toBe(String(MAX_MESSAGES + 30));
  server.publish("demo:a", "x".repeat(600_000));
  server.publish("demo:a", "y".repeat(600_000));
  await server.settle();
  expect(texts(board).map((text) => text.slice(1, 2))).toEqual(["y"]);
  board.clear("demo:a");
  expect(pane(board)).toMatchObject({ total: 0, messages: [] });
});

test("the history is added once, below what is there, byte for byte", async () => {
  const server = new FakeServer();
  const board = await boardOf(server);
  server.publish("demo:a", 1);
  server.publish("demo:a", 2);
  board.add("demo:a");
  await server.settle();
  server.publish("demo:a", 3);
  await server.settle();
  const response = '{"channel":"demo:a","messages":[{"type":"message","seq":1,"data":{"n" : 1.50},"timestamp":5},{"type":"message","seq":2,"data":2,"timestamp":6},{"type":"message","seq":3,"data":3,"timestamp":7}]}';
  expect(board.addHistory("demo:a", response)).toBe(2);
  expect(texts(board)).toEqual(["3", "2", '{"n" : 1.50}']);
  expect(board.addHistory("demo:a", response)).toBe(0);
  expect(new Set(pane(board).messages.map(({ number }) => number)).size).toBe(3);
});

test("a channel twice, too many, and a refused one say why", async () => {
  const server = new FakeServer();
  server.refuse("user:bob", { code: "permission_denied", message: "user:bob is readable by its owner only" });
  const board = await boardOf(server);
  board.add("user:bob");
  expect(board.add("user:bob")).toBe("Already subscribed to user:bob.");
  await server.settle();
  expect(paneState(pane(board, "user:bob"), true)).toEqual({ word: "No right to read", tone: "bad", text: "user:bob is readable by its owner only" });
  for (let n = 1; n < MAX_PANES; n += 1) {
    board.add(`demo:${n}`);
  }
  expect(board.add("demo:more")).toBe("At most 12 channels at once: unsubscribe from one first.");
});

test("each state of a pane has a plain word", async () => {
  const server = new FakeServer();
  const board = await boardOf(server);
  board.add("demo:a");
  expect(paneState(pane(board), true).word).toBe("Asking");
  await server.settle();
  expect(paneState(pane(board), true)).toMatchObject({ word: "Live", text: expect.stringContaining("Nothing was published since") as unknown });
  expect(paneState(pane(board), false).word).toBe("Offline");
  board.close();
  expect(board.panes()).toEqual([]);
  await server.advance(1_000);
  expect(server.subscribed).toEqual([]);
});

test("the text of a message is that of its frame, and of its update in a batch", () => {
  const message = { type: "message", channel: "demo:a", seq: 7, data: { a: 1.5 } } as unknown as ChannelMessage;
  expect(textOf(message, '{"type":"message","channel":"demo:a","seq":7,"data":{"a" : 1.50},"timestamp":1}')).toBe('{"a" : 1.50}');
  expect(textOf(message, '{"type":"message","channel":"demo:a","seq":8,"data":9}')).toBe('{"a":1.5}');
  expect(textOf(message, "")).toBe('{"a":1.5}');
  const price = { type: "price", channel: "prices:B-C", data: { symbol: "B-C", source: "aggregate", price: 2 } } as unknown as ChannelMessage;
  const batch = '{"type":"price_batch","data":{"updates":[{"symbol":"A-C","source":"aggregate","price":1},{"symbol":"B-C","source":"aggregate","price":2.000000000000000001}]}}';
  expect(textOf(price, batch)).toBe('{"symbol":"B-C","source":"aggregate","price":2.000000000000000001}');
});
