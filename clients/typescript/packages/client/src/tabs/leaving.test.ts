/** Tabs that leave: what the tabs that are left still get, and how often. */
import { beforeEach, describe, expect, it } from "vitest";
import type { WebSocketClient } from "../client.ts";
import type { SubscribeOptions } from "../subscriptions.ts";
import type { FakeServer } from "../testing/server.ts";
import type { ClientMessage, ServerMessage } from "../messages.ts";
import type { FakeBrowser } from "../../test/browser.ts";
import { FakeTabs } from "../../test/tabs.ts";

let tabs: FakeTabs;
let server: FakeServer;
let browser: FakeBrowser;

beforeEach(() => {
  tabs = new FakeTabs();
  ({ server, browser } = tabs);
});

const settle = (): Promise<void> => tabs.settle();

const openTab = (tab = browser.open()): Promise<WebSocketClient> => tabs.open(tab);

/** Follows a channel. Returns the seqs that come. */
async function follow(client: WebSocketClient, channel: string, options: SubscribeOptions = {}): Promise<(number | undefined)[]> {
  const received: (number | undefined)[] = [];
  client.subscribe(channel, ({ seq }) => received.push(seq), options);
  await settle();
  return received;
}

/** Holds what the server sends. Returns a function that delivers it. */
function hold(): () => void {
  const { socket } = server.fake;
  const held: ServerMessage[] = [];
  const receive = socket.receive.bind(socket);
  socket.receive = (message) => held.push(message);
  return () => {
    socket.receive = receive;
    held.forEach(receive);
  };
}

describe("tabs that leave", () => {
  it.each(["unsubscribes", "closes"])("one %s while another subscribes to the same channel: the other gets it", async (how) => {
    const [first, second] = [await openTab(), await openTab()];
    await follow(first, "demo:other");
    await follow(second, "demo:a");
    const deliver = hold();
    const received = await follow(first, "demo:a");
    if (how === "closes") {
      second.disconnect();
    } else {
      second.unsubscribe("demo:a");
      await server.advance(100);
    }
    await settle();
    deliver();
    await settle();
    server.publish("demo:a", 1);
    await settle();
    expect(received).toEqual([1]);
    first.unsubscribe("demo:a");
    await server.advance(100);
    await settle();
    expect(server.subscribed).toEqual(["demo:other"]);
  });

  it("one goes before its subscription is answered: the channel is left", async () => {
    const [first, second] = [await openTab(), await openTab()];
    await follow(first, "demo:other");
    const deliver = hold();
    await follow(second, "demo:a");
    second.disconnect();
    await settle();
    deliver();
    await settle();
    expect(server.subscribed).toEqual(["demo:other"]);
  });

  it("the one that wanted a channel most often leaves: it comes as often as those that are left want it", async () => {
    server.setLatest("prices:BTC-USD");
    const [fast, slow] = [await openTab(), await openTab()];
    await follow(slow, "prices:BTC-USD", { minIntervalMs: 5_000 });
    await follow(fast, "prices:BTC-USD");
    fast.disconnect();
    await settle();
    const wanted = server.received.flatMap((message) => (message.type === "subscribe" ? [message.data?.channels[0]] : []));
    const entry = { channel: "prices:BTC-USD", minIntervalMs: 5_000 };
    expect(wanted).toEqual([entry, { channel: "prices:BTC-USD" }, entry]);
  });

  it("200 are killed and say nothing: their channels are left, and they are visible no more", async () => {
    const first = await openTab();
    await follow(first, "demo:other");
    const killed = Array.from({ length: 200 }, () => browser.open());
    for (const [number, tab] of killed.entries()) {
      await follow(await openTab(tab), `demo:${number}`);
    }
    expect(server.subscribed).toHaveLength(201);
    // The first goes to the background, and they are visible still.
    server.fake.show(false);
    killed.forEach((tab) => {
      tab.kill();
    });
    await settle();
    expect(server.subscribed).toEqual(["demo:other"]);
    expect(first.state.status).toBe("connected");
    expect(server.received.findLast(({ type }) => type === "visibility")?.data).toEqual({ state: "background" });
  });

  it("one unsubscribes before its subscription is answered: the channel is left", async () => {
    const [first, second] = [await openTab(), await openTab()];
    await follow(first, "demo:other");
    const deliver = hold();
    await follow(second, "demo:a");
    second.unsubscribe("demo:a");
    await server.advance(100);
    await settle();
    deliver();
    await settle();
    expect(server.subscribed).toEqual(["demo:other"]);
  });

  it("one was refused a channel: how often it wanted it counts no more", async () => {
    const [first, second] = [await openTab(), await openTab()];
    const received = (): unknown[] => server.received.flatMap((message) => (message.type === "subscribe" ? (message.data?.channels ?? []) : []));
    server.refuse("prices:BTC-USD", { code: "permission_denied", message: "not yet" });
    first.on("error", () => undefined);
    await follow(first, "prices:BTC-USD");
    server.allow("prices:BTC-USD");
    await follow(second, "prices:BTC-USD", { minIntervalMs: 5_000 });
    expect(received().at(-1)).toEqual({ channel: "prices:BTC-USD", minIntervalMs: 5_000 });
  });

  it("one calls a channel by another name than the server: how often it wants it counts as long as it follows it", async () => {
    server.setLatest("prices:BTC-USD");
    const [fast, slow] = [await openTab(), await openTab()];
    const { socket } = server.fake;
    const receive = socket.receive.bind(socket);
    socket.receive = (message) => {
      receive(message.type === "subscribed" ? { ...message, data: { channels: message.data.channels.map((one) => ({ ...one, channel: one.channel.toUpperCase().replace("PRICES", "prices") })) } } : message);
    };
    await follow(slow, "prices:BTC-USD", { minIntervalMs: 5_000 });
    await follow(fast, "prices:btc-usd");
    fast.unsubscribe("prices:btc-usd");
    await server.advance(100);
    await settle();
    const entry = { channel: "prices:BTC-USD", minIntervalMs: 5_000 };
    expect(server.received.flatMap((message) => (message.type === "subscribe" ? (message.data?.channels ?? []) : []))).toEqual([entry, { channel: "prices:btc-usd" }, entry]);
  });

  it("what is no list of channels harms no tab: the server refuses it", async () => {
    const [first, second] = [await openTab(), await openTab()];
    await follow(first, "demo:a");
    const received = await follow(second, "demo:a");
    const replies: unknown[] = [];
    second.on("message", (message) => replies.push(message.id));
    for (const [id, channels] of [[null], 5, undefined, [{ since: 5 }], null].entries()) {
      for (const type of ["subscribe", "unsubscribe"] as const) {
        second.send({ type, id: `${type} ${id}`, data: { channels } } as unknown as ClientMessage);
      }
    }
    await settle();
    expect(replies.filter((id) => id !== undefined).sort()).toEqual([0, 1, 2, 3, 4].flatMap((id) => [`subscribe ${id}`, `unsubscribe ${id}`]).sort());
    server.publish("demo:a", 1);
    await settle();
    expect(received).toEqual([1]);
    expect(server.connections).toBe(1);
  });

  it("one that follows many channels: no frame is too large", async () => {
    const [first, second] = [await openTab(), await openTab()];
    await follow(first, "demo:other");
    for (let number = 0; number < 250; number += 1) {
      second.subscribe(`demo:${number}`, () => undefined);
    }
    await settle();
    second.disconnect();
    await settle();
    expect(server.received.flatMap((message) => (message.type === "unsubscribe" ? [message.data?.channels.length] : []))).toEqual([100, 100, 50]);
  });
});
