import { beforeEach, describe, expect, it } from "vitest";
import type { ClientOptions } from "../api.ts";
import type { WebSocketClient } from "../client.ts";
import type { ChannelMessage } from "../subscriptions.ts";
import type { FakeServer } from "../testing/server.ts";
import { FakeStreams, until } from "../testing/streams.ts";
import type { FakeBrowser, FakeTab } from "../../test/browser.ts";
import { FakeTabs } from "../../test/tabs.ts";
import { createTabClient } from "./index.ts";

let tabs: FakeTabs;
let server: FakeServer;
let browser: FakeBrowser;

beforeEach(() => {
  tabs = new FakeTabs();
  ({ server, browser } = tabs);
});

interface Opened {
  readonly tab: FakeTab;
  readonly client: WebSocketClient;
  readonly received: ChannelMessage[];
}

async function openTab(options: ClientOptions = {}, channel = "demo:a"): Promise<Opened> {
  const tab = browser.open();
  const received: ChannelMessage[] = [];
  const client = await tabs.open(tab, options, (opened) => {
    opened.subscribe(channel, (message) => received.push(message));
  });
  return { tab, client, received };
}

const settle = (): Promise<void> => tabs.settle();

const seqs = ({ received }: Opened): (number | undefined)[] => received.map(({ seq }) => seq);

describe("tabs", () => {
  it("share one socket, and subscriptions are counted over all of them", async () => {
    const [first, second, third] = [await openTab(), await openTab(), await openTab({}, "demo:b")];
    for (const { client } of [first, second, third]) {
      expect(client.state.status).toBe("connected");
    }
    expect(server.connections).toBe(1);
    server.publish("demo:a", 1);
    await settle();
    expect([first, second, third].map(seqs)).toEqual([[1], [1], []]);
    expect(await second.client.publish("demo:b", "x")).toMatchObject({ seq: 1 });
    await settle();
    expect(seqs(third)).toEqual([1]);
    first.client.unsubscribe("demo:a");
    await server.advance(200);
    expect(server.subscribed).toEqual(["demo:a", "demo:b"]);
    second.client.unsubscribe("demo:a");
    await server.advance(200);
    await settle();
    expect(server.subscribed).toEqual(["demo:b"]);
    third.client.disconnect();
    await settle();
    expect(server.connections).toBe(1);
    expect(server.subscribed).toEqual([]);
    first.client.disconnect();
    await settle();
    second.client.disconnect();
    await settle();
    expect(server.connections).toBe(0);
  });

  it("the leader is killed: another takes over within a second, without a gap", async () => {
    const [first, second, third] = [await openTab(), await openTab(), await openTab()];
    server.publish("demo:a", 1);
    await settle();
    first.tab.kill();
    server.cut();
    server.publish("demo:a", 2);
    await server.advance(600);
    await settle();
    expect(server.connections).toBe(1);
    server.publish("demo:a", 3);
    await settle();
    expect([second, third].map(seqs)).toEqual([
      [1, 2, 3],
      [1, 2, 3],
    ]);
    expect(third.client.state.status).toBe("connected");
  });

  it("the leader tab is frozen holding its lock: followers take over, and the thawed leader steps down", async () => {
    const [first, second, third] = [await openTab(), await openTab(), await openTab()];
    first.tab.freeze();
    const before = server.connections;
    expect(before).toBe(1);
    for (let beat = 0; beat < 20; beat += 1) {
      await server.advance(500);
      await settle();
    }
    expect([second, third].map(({ client }) => client.state.status)).toEqual(["connected", "connected"]);
    server.publish("demo:a", 1);
    await settle();
    expect([second, third].map(seqs)).toEqual([[1], [1]]);
    first.tab.thaw();
    await server.advance(2_000);
    await settle();
    expect(server.connections).toBe(1);
    server.publish("demo:a", 2);
    await settle();
    expect([first, second, third].map(({ received }) => received.at(-1)?.seq)).toEqual([2, 2, 2]);
    expect(first.client.state.status).toBe("connected");
  });

  it("a beforeunload prompt is cancelled: one leader", async () => {
    const [first, second] = [await openTab(), await openTab()];
    // The prompt freezes the page's scripts for a while. Nothing listens to `beforeunload`, so that nothing is given up.
    first.tab.freeze();
    await settle();
    first.tab.thaw();
    await server.advance(3_000);
    expect(server.connections).toBe(1);
    expect([first, second].map(({ client }) => client.state.status)).toEqual(["connected", "connected"]);
    expect(server.fake.sockets).toHaveLength(1);
  });

  it("the connection is lost, or the server drains: all tabs resume on one new socket", async () => {
    const all = [await openTab(), await openTab(), await openTab()];
    server.cut();
    server.publish("demo:a", 1);
    await server.advance(300);
    await settle();
    expect(server.connections).toBe(1);
    expect(server.fake.sockets).toHaveLength(2);
    server.send({ type: "reconnect", data: { reason: "draining", afterMs: 1_000 } });
    await server.advance(1_000);
    server.publish("demo:a", 2);
    await server.advance(500);
    await settle();
    expect(server.fake.sockets).toHaveLength(3);
    expect(all.map(seqs)).toEqual([
      [1, 2],
      [1, 2],
      [1, 2],
    ]);
  });

  it("of different users never share", async () => {
    const token = (user: string): string => `h.${btoa(JSON.stringify({ sub: user }))}.s`;
    await openTab({ token: token("alice") });
    await openTab({ token: token("bob") });
    await openTab({ token: token("alice") });
    await openTab();
    expect(server.connections).toBe(3);
  });

  it("without locks have one socket each, and each counts for itself", async () => {
    for (let tab = 0; tab < 2; tab += 1) {
      const client = createTabClient("ws://test", { environment: server.environment }, { locks: undefined, openChannel: undefined });
      client.subscribe("demo:a", () => undefined);
      client.subscribe("demo:a", () => undefined);
      client.connect();
      await settle();
    }
    expect(server.connections).toBe(2);
    expect(server.received.filter(({ type }) => type === "subscribe")).toHaveLength(2);
  });

  const denied = (): never => {
    throw new DOMException("denied", "SecurityError");
  };
  it.each([
    ["locks", { locks: { request: () => Promise.resolve().then(denied) } }],
    ["the channel", { openChannel: denied }],
  ])("where the browser denies %s, have one socket each", async (_, part) => {
    for (let tab = 0; tab < 2; tab += 1) {
      const client = createTabClient("ws://test", { environment: server.environment }, { ...browser.open().environment, ...part });
      client.connect();
      await settle();
      await server.advance(300);
      await settle();
      expect(client.state.status).toBe("connected");
    }
    expect(server.connections).toBe(2);
  });

  it("what others say on the channel, and frames that are no messages, harm no tab", async () => {
    const errors: string[] = [];
    const [first, second] = [await openTab(), await openTab()];
    for (const { client } of [first, second]) {
      client.on("error", ({ message }) => errors.push(message));
    }
    const other = browser.join(browser.open(), "tidewire/2|ws://test/v1/ws|");
    const mine = { from: "other", open: ["tidewire.v1.json"] };
    const notes = [null, 5, "from", [], {}, { from: 1 }, { from: "other", frame: 1 }, { from: "other", open: null }, { from: "other", open: [5] }, mine, ...["{", "null", "5", "{}"].map((frame) => ({ from: "other", frame }))];
    for (const note of notes) {
      other.postMessage(note);
    }
    await settle();
    expect(errors).toEqual([]);
    for (const frame of ["{", "null", "5", "[]"]) {
      server.fake.socket.receiveRaw(frame);
    }
    await settle();
    expect(errors.filter((message) => message.startsWith("a frame is no message"))).toHaveLength(4);
    server.publish("demo:a", 1);
    await settle();
    expect([first, second].map(seqs)).toEqual([[1], [1]]);
    expect(server.connections).toBe(1);
  });

  it("hidden tabs go to the background only when all of them are hidden", async () => {
    const [first, second] = [await openTab(), await openTab()];
    const states = (): unknown[] => server.received.flatMap(({ type, data }) => (type === "visibility" ? [data] : []));
    first.client.send({ type: "visibility", data: { state: "background" } });
    await settle();
    expect(states().at(-1)).toEqual({ state: "active" });
    second.client.send({ type: "visibility", data: { state: "background" } });
    await settle();
    expect(states().at(-1)).toEqual({ state: "background" });
  });
});

describe("tabs of one connection", () => {
  const messages = (type: string): unknown[] => server.received.flatMap((message) => (message.type === type ? [message.data] : []));

  it("a tab that is opened later knows the server's time at once", async () => {
    await openTab();
    await server.advance(9_500);
    const offsets: number[] = [];
    await tabs.open(browser.open(), {}, (client) => {
      client.on("state", ({ status }) => status === "connected" && offsets.push(client.clockOffsetMs));
    });
    expect(offsets).toEqual([0]);
  });

  it("a tab opened beside hidden ones is active, and the background begins when the last visible one is closed", async () => {
    const [first, second] = [await openTab(), await openTab()];
    for (const { client } of [first, second]) {
      client.send({ type: "visibility", data: { state: "background" } });
    }
    await settle();
    expect(messages("visibility").at(-1)).toEqual({ state: "background" });
    const third = await openTab();
    expect(messages("visibility").at(-1)).toEqual({ state: "active" });
    third.client.disconnect();
    await settle();
    expect(messages("visibility").at(-1)).toEqual({ state: "background" });
  });

  it("the shortest interval that a tab wants of a channel is that of the connection", async () => {
    const intervals = (): unknown[] => (messages("subscribe") as { channels: unknown[] }[]).flatMap(({ channels }) => channels);
    const tabs = [await openTab(), await openTab(), await openTab()];
    for (const [index, minIntervalMs] of [1_000, 5_000, undefined].entries()) {
      tabs[index]?.client.subscribe("prices:BTC-USD", () => undefined, { ...(minIntervalMs && { minIntervalMs }) });
      await settle();
    }
    tabs[1]?.client.subscribe("prices:ETH-USD", () => undefined, { minIntervalMs: 5_000 });
    await settle();
    expect(intervals().filter((one) => JSON.stringify(one).includes("prices"))).toEqual([
      { channel: "prices:BTC-USD", minIntervalMs: 1_000 },
      { channel: "prices:BTC-USD", minIntervalMs: 1_000 },
      { channel: "prices:BTC-USD" },
      { channel: "prices:ETH-USD", minIntervalMs: 5_000 },
    ]);
  });

  it("a token that expires is fetched once, and all tabs ask again for what was refused", async () => {
    let calls = 0;
    server.user = "ada";
    server.refuse("demo:secret", { code: "permission_denied", message: "not yours" });
    const getToken = (): string => {
      calls += 1;
      return `h.${btoa(JSON.stringify({ sub: "ada" }))}.s`;
    };
    const tabs = [await openTab({ getToken }), await openTab({ getToken }), await openTab({ getToken })];
    tabs[1]?.client.subscribe("demo:secret", () => undefined, { onError: () => undefined });
    await settle();
    calls = 0;
    server.allow("demo:secret");
    server.send({ type: "token_expiring", data: { expiresAt: 1 } });
    await settle();
    expect([calls, messages("auth").length]).toEqual([1, 1]);
    expect(server.subscribed).toContain("demo:secret");
  });
});

describe("tabs on an event stream", () => {
  let streams: FakeStreams;
  /** Held answers to requests for a history. */
  let histories: ((reply: object) => void)[];

  beforeEach(() => {
    streams = new FakeStreams();
    histories = [];
    streams.answer = ({ id, type, data }) => {
      const { channels } = data as { channels: (string | { channel: string })[] };
      if (type === "history") {
        return new Promise((resolve) => {
          histories.push((reply) => {
            resolve(Response.json({ ...reply, id }));
          });
        });
      }
      const names = type === "subscribe" ? channels.map((each) => (typeof each === "string" ? each : each.channel)) : [];
      const results = names.map((channel) => ({ channel, epoch: "e", seq: 10, recovered: false, class: "history" }));
      return Promise.resolve(Response.json(type === "subscribe" ? { type: "subscribed", id, data: { channels: results } } : { type: "pong", id, data: { serverTime: 1, heartbeatMs: 2_000 } }));
    };
  });

  const onStream = (): ClientOptions => ({ transports: ["sse"], environment: { ...server.environment, fetch: streams.fetch, random: tabs.random } });
  const posted = (type: string): number => streams.posts.filter(({ message }) => message.type === type).length;
  const push = (seq: number): void => {
    streams.stream.receive({ type: "message", channel: "demo:a", seq, data: seq });
  };
  /** Opens two tabs: the first follows the channel, and the second one another. */
  async function openTwo(): Promise<[Opened, Opened]> {
    const first = await openTab(onStream());
    await until(() => streams.streams.length === 1);
    streams.stream.welcome();
    await until(() => posted("subscribe") === 1);
    const second = await openTab(onStream(), "demo:other");
    await until(() => second.client.state.status === "connected" && posted("subscribe") === 2);
    return [first, second];
  }

  it("share one stream, and a push goes to the tabs that follow its channel", async () => {
    const [first, second] = await openTwo();
    expect(streams.streams).toHaveLength(1);
    expect(first.client.state).toMatchObject({ status: "connected", transport: "sse" });
    push(11);
    await until(() => first.received.length === 1);
    expect(second.received).toEqual([]);
    second.client.disconnect();
    await until(() => posted("unsubscribe") === 1);
    first.client.disconnect();
  });

  it("a tab resumes a channel that another one follows: in order, without a gap or a duplicate, whatever overtakes the reply", async () => {
    const [first, second] = await openTwo();
    const received: ChannelMessage[] = [];
    second.client.subscribe("demo:a", (message) => received.push(message), { since: { epoch: "e", seq: 8 } });
    await until(() => histories.length === 1);
    push(10);
    push(11);
    await until(() => first.received.length > 0);
    expect(received).toEqual([]);
    const messages = [9, 10].map((seq) => ({ seq, type: "message", data: seq, timestamp: 1 }));
    histories[0]?.({ type: "history", data: { channel: "demo:a", epoch: "e", seq: 10, messages } });
    await until(() => received.length === 3);
    push(12);
    await until(() => received.length === 4);
    expect(received.map(({ seq, replayed }) => [seq, !!replayed])).toEqual([[9, true], [10, true], [11, false], [12, false]]);
    expect(seqs(first).at(-1)).toBe(12);
    expect(posted("subscribe")).toBe(2);
  });

  it("the server ends a channel: the next subscription asks the server again", async () => {
    const [first] = await openTwo();
    first.client.on("error", () => undefined);
    push(11);
    await until(() => first.received.length === 1);
    streams.stream.receive({ type: "unsubscribed", data: { channels: ["demo:a"], reason: "the new token may not read it" } });
    await until(() => true);
    first.client.unsubscribe("demo:a");
    await server.advance(200);
    const before = posted("subscribe");
    first.client.subscribe("demo:a", () => undefined, { since: { epoch: "e", seq: 11 } });
    await until(() => posted("subscribe") === before + 1);
    expect(histories).toHaveLength(0);
  });

  it("the stream dies while POSTs get through: the tabs notice, and open another", async () => {
    const [first, second] = await openTwo();
    for (let tick = 0; tick < 50 && first.client.state.status === "connected"; tick += 1) {
      await server.advance(100);
      await until(() => true);
    }
    await server.advance(300);
    await until(() => streams.streams.length > 1 && [first, second].every(({ client }) => client.state.status === "connecting"));
    streams.stream.welcome();
    await until(() => [first, second].every(({ client }) => client.state.status === "connected"));
  });

  it("a tab that missed more than the history has gets a gap", async () => {
    const [, second] = await openTwo();
    const received: ChannelMessage[] = [];
    second.client.subscribe("demo:a", (message) => received.push(message), { since: { epoch: "e", seq: 1 } });
    await until(() => histories.length === 1);
    histories[0]?.({ type: "error", data: { code: "failed_precondition", message: "the history begins at 5" } });
    await until(() => received.length === 1);
    push(11);
    await until(() => received.length === 2);
    expect(received.map(({ type, seq }) => [type, seq])).toEqual([["gap", undefined], ["message", 11]]);
  });
});
