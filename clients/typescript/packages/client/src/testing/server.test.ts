/** The fake server of applications' tests: what it answers, and what a test makes it answer. */
import { expect, it } from "vitest";
import { WebSocketClient } from "../client.ts";
import { TidewireError } from "../errors.ts";
import { FakeServer } from "./server.ts";

async function open(server: FakeServer): Promise<WebSocketClient> {
  const client = new WebSocketClient("ws://test", { environment: server.environment });
  client.connect();
  await server.settle();
  return client;
}

it("gives the answers that a test wants: by the request, later, or a refusal", async () => {
  const server = new FakeServer();
  const client = await open(server);
  server.answer("get_candles", ({ symbol, interval }) => ({ symbol, interval, items: [] }));
  expect(await client.request("get_candles", { symbol: "BTC-USD", interval: "1m" })).toEqual({ symbol: "BTC-USD", interval: "1m", items: [] });

  let give: (count: number) => void = () => undefined;
  const later = new Promise<number>((resolve) => (give = resolve));
  server.answer("unread_count", async () => ({ unreadCount: await later }));
  const count = client.request("unread_count", {});
  await server.settle();
  give(3);
  expect(await count).toEqual({ unreadCount: 3 });

  server.answer("alerts", () => {
    throw new TidewireError({ code: "resource_exhausted", message: "too many requests", retryAfterMs: 500 });
  });
  await expect(client.request("alerts", {})).rejects.toMatchObject({ code: "resource_exhausted", message: "too many requests", retryAfterMs: 500 });
});

it("says how to answer what it has no answer for", async () => {
  const client = await open(new FakeServer());
  await expect(client.request("watch", { chain: 1, txHash: "0x1" })).rejects.toMatchObject({ code: "unimplemented", message: expect.stringContaining('server.answer("watch", ') as string });
});

it("remembers an idempotency key for its channel", async () => {
  const server = new FakeServer();
  const client = await open(server);
  const publish = (channel: string): Promise<unknown> => client.publish(channel, 1, { idempotencyKey: "order-77" });
  server.publish("demo:b", 0);
  const positions = Promise.all(["demo:a", "demo:b", "demo:a"].map(publish));
  await server.settle();
  expect(await positions).toMatchObject([{ channel: "demo:a", seq: 1 }, { channel: "demo:b", seq: 2 }, { channel: "demo:a", seq: 1 }]);
});

it("has no subscriptions of a connection that has ended", async () => {
  const server = new FakeServer();
  const client = await open(server);
  client.subscribe("demo:a", () => undefined);
  await server.settle();
  expect(server.subscribed).toEqual(["demo:a"]);
  client.disconnect();
  await server.settle();
  expect([server.connections, server.subscribed]).toEqual([0, []]);
});
