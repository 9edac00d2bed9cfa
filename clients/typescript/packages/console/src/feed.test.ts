import { WebSocketClient } from "@tidewire/client";
import { FakeServer } from "@tidewire/client/testing";
import { expect, test } from "vitest";
import { EMPTY_FEED, type FeedState, openFeed } from "./feed.ts";

async function feedOf(server: FakeServer, channel: string, limit = 10) {
  const client = new WebSocketClient("ws://test", { environment: server.environment });
  client.connect();
  const shown = { state: EMPTY_FEED };
  const stop = openFeed(client, channel, limit, (state) => {
    shown.state = state;
  });
  await server.settle();
  return { client, shown, stop };
}

const seqs = ({ items }: FeedState) => items.map(({ seq }) => seq);

test("a feed has the history and what follows, each seq once, oldest first, up to its limit", async () => {
  const server = new FakeServer();
  server.publish("demo:a", 1);
  server.publish("demo:a", 2);
  const { shown } = await feedOf(server, "demo:a", 3);
  expect(shown.state.phase).toBe("live");
  expect(seqs(shown.state)).toEqual([1, 2]);
  server.publish("demo:a", 3);
  server.publish("demo:a", 4);
  await server.settle();
  expect(shown.state.items.map(({ data }) => data)).toEqual([2, 3, 4]);
});

test("what arrives while the history is read is not lost and not doubled", async () => {
  const server = new FakeServer();
  server.publish("demo:a", 1);
  const client = new WebSocketClient("ws://test", { environment: server.environment });
  client.connect();
  await server.settle();
  let shown: FeedState = EMPTY_FEED;
  openFeed(client, "demo:a", 10, (state) => {
    shown = state;
  });
  for (let n = 2; n < 9; n += 1) {
    await Promise.resolve();
    server.publish("demo:a", n);
  }
  await server.settle();
  expect(seqs(shown)).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
});

test("a refused channel says why", async () => {
  const server = new FakeServer();
  server.refuse("wallet:0x1", { code: "permission_denied", message: "the wallet is another user's" });
  const { shown } = await feedOf(server, "wallet:0x1");
  expect(shown.state).toMatchObject({ phase: "refused", error: { code: "permission_denied", message: "the wallet is another user's" } });
});

test("a lost connection keeps what is shown, and the next one goes on from there", async () => {
  const server = new FakeServer();
  const { shown } = await feedOf(server, "demo:a");
  server.publish("demo:a", 1);
  await server.settle();
  server.cut();
  server.publish("demo:a", 2);
  expect(seqs(shown.state)).toEqual([1]);
  await server.advance(5_000);
  expect(seqs(shown.state)).toEqual([1, 2]);
});

test("a stopped feed shows nothing more", async () => {
  const server = new FakeServer();
  const { shown, stop } = await feedOf(server, "demo:a");
  stop();
  server.publish("demo:a", 1);
  await server.settle();
  expect(seqs(shown.state)).toEqual([]);
});
