import { beforeEach, describe, expect, it } from "vitest";
import { WebSocketClient } from "./client.ts";
import type { ChannelMessage } from "./subscriptions.ts";
import { FakeEnvironment, settle } from "./testing/fakes.ts";
import type { PriceUpdate } from "./types/price.ts";
import type { SubscriptionResult } from "./types/session.ts";

let fake: FakeEnvironment;
let client: WebSocketClient;

beforeEach(() => {
  fake = new FakeEnvironment();
  client = new WebSocketClient("ws://test/v1/ws", { environment: fake.environment });
});

async function goLive(): Promise<void> {
  client.connect();
  await settle();
  fake.socket.welcome();
}

/** Subscribes to a channel and returns the list of its pushes. */
function subscribe(channel: string): ChannelMessage[] {
  const received: ChannelMessage[] = [];
  client.subscribe(channel, (message) => received.push(message));
  return received;
}

/** Replies to the last `subscribe`. `policy` is absent from an older server. */
function subscribed(channel: string, epoch: string, seq: number, recovered: boolean, policy: ChannelPolicy = {}): void {
  const { id } = fake.socket.last("subscribe");
  fake.socket.receive({ type: "subscribed", id, data: { channels: [{ channel, epoch, seq, recovered, ...policy }] } });
}

type ChannelPolicy = Pick<SubscriptionResult, "class" | "batched">;

async function reconnect(): Promise<void> {
  fake.socket.end(1006);
  await fake.clock.advance(250);
  fake.socket.welcome();
}

/** A price update with only its required values. */
function priceUpdate(symbol: string, source = "aggregate"): PriceUpdate {
  const unknown = { change24h: null, volume24h: null, confidence: null, twap: null };
  return { symbol, price: 1.5, ...unknown, timestamp: 5, source, sources: 1, stale: false };
}

function priceBatch(...updates: PriceUpdate[]): void {
  fake.socket.receive({ type: "price_batch", data: { updates, timestamp: 6 } });
}

function message(channel: string, seq: number): void {
  fake.socket.receive({ type: "message", channel, seq, data: { n: seq }, timestamp: 1 });
}

describe("channels", () => {
  it("are subscribed in one frame and unsubscribed with the last handler", async () => {
    await goLive();
    const stopFirst = client.subscribe("demo:a", () => undefined);
    const stopSecond = client.subscribe("demo:a", () => undefined);
    client.subscribe("prices:BTC-USD", () => undefined, { minIntervalMs: 250 });
    const stopAtOnce = client.subscribe("demo:never", () => undefined);
    stopAtOnce();
    await settle();
    expect(fake.socket.sentOf("subscribe")).toHaveLength(1);
    expect(fake.socket.last("subscribe").data).toEqual({
      channels: ["demo:a", { channel: "prices:BTC-USD", minIntervalMs: 250 }],
    });
    stopFirst();
    expect(fake.socket.sentOf("unsubscribe")).toHaveLength(0);
    stopSecond();
    stopSecond();
    await fake.clock.advance(100);
    expect(fake.socket.sentOf("unsubscribe").map(({ data }) => data)).toEqual([{ channels: ["demo:a"] }]);
  });

  it("resume after the last message received, and drop duplicates", async () => {
    const received = subscribe("demo:a");
    await goLive();
    subscribed("demo:a", "e1", 40, false);
    message("demo:a", 41);
    message("demo:a", 41);
    fake.socket.end(1006);
    await fake.clock.advance(250);
    fake.socket.welcome([{ channel: "demo:a", epoch: "e1", seq: 43 }]);
    expect(fake.socket.last("subscribe").data).toEqual({
      channels: [{ channel: "demo:a", since: { epoch: "e1", seq: 41 } }],
    });
    // A push before the reply comes again with the replay.
    message("demo:a", 44);
    subscribed("demo:a", "e1", 44, true);
    for (const seq of [41, 42, 43, 44, 45]) {
      message("demo:a", seq);
    }
    expect(received.map(({ seq }) => seq)).toEqual([41, 42, 43, 44, 45]);
  });

  it("resume from the position of the reply when nothing was published since", async () => {
    subscribe("demo:a");
    await goLive();
    subscribed("demo:a", "e1", 40, false);
    fake.socket.end(1006);
    await fake.clock.advance(250);
    fake.socket.welcome();
    expect(fake.socket.last("subscribe").data).toEqual({
      channels: [{ channel: "demo:a", since: { epoch: "e1", seq: 40 } }],
    });
  });

  it("deliver a gap when the history is lost, and continue in the new epoch from 1", async () => {
    const received = subscribe("demo:a");
    await goLive();
    subscribed("demo:a", "e1", 40, false);
    message("demo:a", 41);
    fake.socket.end(1006);
    await fake.clock.advance(250);
    fake.socket.welcome();
    subscribed("demo:a", "e2", 3, false);
    message("demo:a", 4);
    fake.socket.receive({ type: "gap", channel: "demo:a", data: { channel: "demo:a", epoch: "e3", seq: 0 } });
    message("demo:a", 1);
    expect(received.map(({ type, seq }) => [type, seq])).toEqual([
      ["message", 41],
      ["gap", undefined],
      ["message", 4],
      ["gap", undefined],
      ["message", 1],
    ]);
    expect(received[1]?.data).toEqual({ channel: "demo:a", epoch: "e2", seq: 3 });
  });

  it("deliver the newest block that comes with a new subscription", async () => {
    const received = subscribe("blocks:1");
    await goLive();
    subscribed("blocks:1", "e1", 9, false);
    message("blocks:1", 9);
    expect(received).toHaveLength(1);
  });

  it("are subscribed before the client reports that it is live", async () => {
    subscribe("demo:a");
    client.on("state", ({ status }) => {
      if (status === "connected") {
        client.publish("demo:a", 1).catch(() => undefined);
      }
    });
    await goLive();
    // The publication then comes back on the channel.
    expect(fake.socket.sent.map(({ type }) => type).slice(0, 2)).toEqual(["subscribe", "publish"]);
  });

  it("tell a later handler of a confirmed channel so, with the position that was reached, and one of an unconfirmed channel when it is", async () => {
    const results: SubscriptionResult[] = [];
    const later = (): (() => void) => client.subscribe("demo:a", () => undefined, { onSubscribed: (result) => results.push(result) });
    await goLive();
    const stop = client.subscribe("demo:a", () => undefined);
    await settle();
    later();
    await settle();
    expect(results).toEqual([]);
    subscribed("demo:a", "e", 3, false, { class: "history" });
    message("demo:a", 4);
    expect(results.splice(0)).toMatchObject([{ channel: "demo:a", epoch: "e", seq: 3 }]);
    // A page that is left and opened again at once: the channel is still subscribed to.
    client.unsubscribe("demo:a");
    stop();
    later();
    await settle();
    expect(results.splice(0)).toEqual([{ channel: "demo:a", epoch: "e", seq: 4, recovered: false, class: "history" }]);
    expect(fake.socket.sentOf("subscribe")).toHaveLength(1);
    fake.socket.end(1006);
    later();
    await settle();
    expect(results).toEqual([]);
    await fake.clock.advance(250);
    fake.socket.welcome();
    subscribed("demo:a", "e", 4, true, { class: "history" });
    expect(results).toHaveLength(2);
  });

  it("split a batch of prices, and give a later handler the newest value", async () => {
    const received = subscribe("prices:BTC-USD");
    await goLive();
    const update = priceUpdate("BTC-USD");
    priceBatch(update, priceUpdate("BTC-USD", "kraken"));
    expect(received).toEqual([{ type: "price", channel: "prices:BTC-USD", data: update, timestamp: 6 }]);
    const later = subscribe("prices:BTC-USD");
    await settle();
    expect(later).toHaveLength(1);
    fake.socket.end(1006);
    await fake.clock.advance(250);
    fake.socket.welcome();
    expect(fake.socket.last("subscribe").data).toEqual({ channels: ["prices:BTC-USD"] });
  });

  it("reach their handlers under the server's spelling", async () => {
    const received: ChannelMessage[] = [];
    const stop = client.subscribe("wallet:0xAB", (event) => received.push(event));
    await goLive();
    subscribed("wallet:0xab", "e", 0, false);
    message("wallet:0xab", 1);
    expect(received).toHaveLength(1);
    stop();
    await fake.clock.advance(100);
    expect(fake.socket.last("unsubscribe").data).toEqual({ channels: ["wallet:0xab"] });
  });

  it("of the latest class request no replay, deliver no gap, and give a later handler the newest value", async () => {
    const received = subscribe("scores:final");
    await goLive();
    subscribed("scores:final", "e1", 7, false, { class: "latest", batched: false });
    message("scores:final", 7);
    const later = subscribe("scores:final");
    await settle();
    expect(later.map(({ seq }) => seq)).toEqual([7]);
    await reconnect();
    expect(fake.socket.last("subscribe").data).toEqual({ channels: ["scores:final"] });
    subscribed("scores:final", "e1", 9, false, { class: "latest", batched: false });
    message("scores:final", 9);
    expect(received.map(({ type, seq }) => [type, seq])).toEqual([
      ["message", 7],
      ["message", 9],
    ]);
  });

  it("of the latest class do not give a later handler a gap for the newest value", async () => {
    const received = subscribe("scores:final");
    await goLive();
    subscribed("scores:final", "e1", 7, false, { class: "latest", batched: false });
    message("scores:final", 7);
    fake.socket.receive({ type: "gap", channel: "scores:final", data: { channel: "scores:final", epoch: "e2", seq: 0 } });
    const later = subscribe("scores:final");
    await settle();
    expect(received.map(({ type }) => type)).toEqual(["message", "gap"]);
    expect(later.map(({ type, seq }) => [type, seq])).toEqual([["message", 7]]);
  });

  it("of the latest class miss nothing when the application names a position", async () => {
    const received: ChannelMessage[] = [];
    client.subscribe("scores:final", (event) => received.push(event), { since: { epoch: "e1", seq: 3 } });
    await goLive();
    subscribed("scores:final", "e1", 7, false, { class: "latest", batched: false });
    message("scores:final", 7);
    expect(received.map(({ type, seq }) => [type, seq])).toEqual([["message", 7]]);
  });

  it("of the history class request a replay, whatever their namespace", async () => {
    subscribe("prices:BTC-USD");
    await goLive();
    subscribed("prices:BTC-USD", "e1", 7, false, { class: "history", batched: false });
    await reconnect();
    expect(fake.socket.last("subscribe").data).toEqual({
      channels: [{ channel: "prices:BTC-USD", since: { epoch: "e1", seq: 7 } }],
    });
  });

  it("get the updates of a batch exactly if the server batches them", async () => {
    const [batched, venue, single] = [subscribe("quotes:BTC-USD"), subscribe("quotes:BTC-USD@kraken"), subscribe("demo:BTC-USD")];
    await goLive();
    const { id } = fake.socket.last("subscribe");
    const position = { epoch: "e1", seq: 0, recovered: false };
    fake.socket.receive({
      type: "subscribed",
      id,
      data: {
        channels: [
          { channel: "quotes:BTC-USD", ...position, class: "latest", batched: true },
          { channel: "quotes:BTC-USD@kraken", ...position, class: "latest", batched: true },
          { channel: "demo:BTC-USD", ...position, class: "history", batched: false },
        ],
      },
    });
    priceBatch(priceUpdate("BTC-USD"), priceUpdate("BTC-USD", "kraken"), priceUpdate("ETH-USD"));
    expect(batched.map(({ channel, data }) => [channel, data])).toEqual([["quotes:BTC-USD", priceUpdate("BTC-USD")]]);
    expect(venue.map(({ channel, data }) => [channel, data])).toEqual([["quotes:BTC-USD@kraken", priceUpdate("BTC-USD", "kraken")]]);
    expect(single).toEqual([]);
  });

  it("of an older server show their class by their messages", async () => {
    const [prices, log] = [subscribe("prices:BTC-USD"), subscribe("demo:BTC-USD")];
    await goLive();
    const { id } = fake.socket.last("subscribe");
    const channels = ["prices:BTC-USD", "demo:BTC-USD"].map((channel) => ({ channel, epoch: "e1", seq: 4, recovered: false }));
    fake.socket.receive({ type: "subscribed", id, data: { channels } });
    fake.socket.receive({ type: "price", channel: "prices:BTC-USD", seq: 4, data: priceUpdate("BTC-USD") });
    message("demo:BTC-USD", 5);
    priceBatch(priceUpdate("BTC-USD"));
    expect(prices.map(({ type }) => type)).toEqual(["price", "price"]);
    expect(log.map(({ type }) => type)).toEqual(["message"]);
    await reconnect();
    expect(fake.socket.last("subscribe").data).toEqual({
      channels: ["prices:BTC-USD", { channel: "demo:BTC-USD", since: { epoch: "e1", seq: 5 } }],
    });
  });

  it("are confirmed by a reply that comes after the time limit: the server keeps them", async () => {
    const errors: string[] = [];
    const received: unknown[] = [];
    const off = client.subscribe("demo:a", ({ seq }) => received.push(seq), { onError: ({ code }) => errors.push(code) });
    await goLive();
    const { id } = fake.socket.last("subscribe");
    for (let beat = 0; beat < 10; beat += 1) {
      await fake.clock.advance(1_000);
      fake.socket.receive({ type: "status", data: { state: "ok" } });
    }
    expect(errors).toEqual(["deadline_exceeded"]);
    fake.socket.receive({ type: "subscribed", id, data: { channels: [{ channel: "demo:a", epoch: "e", seq: 5, recovered: false, class: "history" }] } });
    fake.socket.receive({ type: "message", channel: "demo:a", seq: 6, data: 1 });
    expect(received).toEqual([6]);
    off();
    await fake.clock.advance(100);
    expect(fake.socket.last("unsubscribe").data).toEqual({ channels: ["demo:a"] });
  });

  it("report a refusal to their handlers", async () => {
    const errors: string[] = [];
    client.subscribe("user:x", () => undefined, { onError: (error) => errors.push(error.code) });
    await goLive();
    const { id } = fake.socket.last("subscribe");
    const error = { code: "permission_denied", message: "not yours" };
    fake.socket.receive({
      type: "subscribed",
      id,
      data: { channels: [{ channel: "user:x", epoch: "", seq: 0, recovered: false, error }] },
    });
    expect(errors).toEqual(["permission_denied"]);
  });

  it("a channel of another namespace gets no price while its subscription is under way", async () => {
    await goLive();
    subscribe("prices:BTC-USD");
    await settle();
    subscribed("prices:BTC-USD", "p", 0, false, { class: "latest", batched: true });
    const orders = subscribe("orders:BTC-USD");
    await settle();
    priceBatch(priceUpdate("BTC-USD"));
    expect(orders).toEqual([]);
    subscribed("orders:BTC-USD", "o", 0, false, { class: "history", batched: false });
    const later = subscribe("orders:BTC-USD");
    await settle();
    expect(later).toEqual([]);
  });

  it("many channels are left in frames that the server takes", async () => {
    await goLive();
    const channels = Array.from({ length: 250 }, (_, number) => `demo:${number}`);
    const stops = channels.map((channel) => client.subscribe(channel, () => undefined));
    await settle();
    for (const stop of stops) {
      stop();
    }
    await fake.clock.advance(100);
    expect(fake.socket.sentOf("unsubscribe").map(({ data }) => data.channels.length)).toEqual([100, 100, 50]);
  });
});
