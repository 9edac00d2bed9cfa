/** The end of the connection that tabs share: what each tab hears of it, and what else ends nothing. */
import { beforeEach, describe, expect, it } from "vitest";
import type { ClientOptions } from "../api.ts";
import type { WebSocketClient } from "../client.ts";
import type { TidewireError } from "../errors.ts";
import type { FakeServer } from "../testing/server.ts";
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

const openTab = (tab = browser.open(), options: ClientOptions = {}): Promise<WebSocketClient> => tabs.open(tab, options);

const openTabs = async (count: number): Promise<WebSocketClient[]> => {
  const clients: WebSocketClient[] = [];
  while (clients.length < count) {
    clients.push(await openTab());
  }
  return clients;
};

const statuses = (clients: readonly WebSocketClient[]): string[] => clients.map(({ state }) => state.status);

describe("the end of the connection that tabs share", () => {
  it("is final: it closes all tabs, and none connects again", async () => {
    const clients = await openTabs(8);
    server.cut(4503, "not now");
    await settle();
    await server.advance(60_000);
    expect(new Set(statuses(clients))).toEqual(new Set(["closed"]));
    expect(clients.map(({ state }) => "end" in state && state.end)).toEqual(clients.map(() => ({ code: 4503, reason: "not now" })));
    expect(server.fake.sockets).toHaveLength(1);
  });

  it("is for load: no tab connects before the time that the server names", async () => {
    const clients = await openTabs(8);
    for (const client of clients) {
      client.on("error", () => undefined);
    }
    server.send({ type: "error", data: { code: "resource_exhausted", message: "too many", retryAfterMs: 10_000 } });
    server.cut(1013, "overloaded");
    await settle();
    await server.advance(9_900);
    expect(server.fake.sockets).toHaveLength(1);
    await server.advance(20_000);
    await settle();
    expect(new Set(statuses(clients))).toEqual(new Set(["connected"]));
    expect(server.connections).toBe(1);
  });

  it("is for a frame that is too long: only the tab that sent it is told, and the others keep what they sent", async () => {
    const options = { queue: {} };
    const [leader, second, idle] = [await openTab(browser.open(), options), await openTab(browser.open(), options), await openTab(browser.open(), options)];
    const seqs: unknown[] = [];
    idle.subscribe("demo:a", ({ seq }) => seqs.push(seq));
    await settle();
    server.answer("publish", () => new Promise<never>(() => undefined));
    // Fewer characters than the other one, and more bytes.
    const tooLong = leader.publish("demo:a", "漢".repeat(30_000)).then(
      () => "published",
      (error: unknown) => (error as TidewireError).code,
    );
    const innocent = second.publish("demo:a", "y".repeat(40_000));
    await settle();
    server.cut(1009, "Frame is too large");
    server.answer("publish", ({ channel }) => ({ channel, epoch: "e", seq: server.publish(channel, "y") }));
    await settle();
    await server.advance(10_000);
    await settle();
    expect(await tooLong).toBe("invalid_argument");
    expect(await innocent).toMatchObject({ seq: 1 });
    expect(statuses([leader, second, idle])).toEqual(["connected", "connected", "connected"]);
    expect(server.connections).toBe(1);
    expect(seqs).toEqual([1]);
  });

  it("is that of the leader's tab, which disconnects when it gets a message: the others get the message too", async () => {
    const [leader, second, third] = await openTabs(3);
    const seqs: unknown[][] = [[], []];
    leader?.subscribe("demo:a", () => {
      leader.disconnect();
    });
    second?.subscribe("demo:a", ({ seq }) => seqs[0]?.push(seq));
    third?.subscribe("demo:a", ({ seq }) => seqs[1]?.push(seq));
    await settle();
    server.publish("demo:a", 1);
    await settle();
    server.publish("demo:a", 2);
    await server.advance(1_000);
    await settle();
    expect(seqs).toEqual([
      [1, 2],
      [1, 2],
    ]);
    expect(server.connections).toBe(1);
  });
});

describe("what ends nothing", () => {
  it("a request of the new leader's tab before its connection is open: it is made on the new one, and channels are still left", async () => {
    const first = browser.open();
    await openTab(first);
    const [second, third] = await openTabs(2);
    const refusals: string[] = [];
    const onError = ({ code }: { code: string }): void => {
      refusals.push(code);
    };
    third?.subscribe("demo:other", () => undefined);
    await settle();
    server.isReachable = false;
    first.kill();
    server.cut();
    await settle();
    expect(second?.state.status).toBe("connected");
    const seqs: unknown[] = [];
    second?.subscribe("demo:a", ({ seq }) => seqs.push(seq), { onError });
    const history = second?.request("history", { channel: "demo:a" }).catch((error: unknown) => (error as TidewireError).code);
    await settle();
    const socket = server.fake.sockets.at(-1);
    // As a socket that is not open yet: it throws.
    expect(socket?.sent).toEqual([]);
    server.isReachable = true;
    await server.advance(5_000);
    await settle();
    expect([await history, refusals]).toEqual(["unavailable", []]);
    server.publish("demo:a", 1);
    await settle();
    expect(seqs).toEqual([1]);
    second?.unsubscribe("demo:a");
    await server.advance(200);
    await settle();
    expect(server.subscribed).toEqual(["demo:other"]);
  });

  it("a note of a stranger whose name can be no lock's", async () => {
    const clients = await openTabs(3);
    const stranger = browser.join(browser.open(), "tidewire/2|ws://test/v1/ws|");
    for (const from of ["-x", "-"]) {
      stranger.postMessage({ from, open: [] });
    }
    await settle();
    await server.advance(5_000);
    await settle();
    expect(new Set(statuses(clients))).toEqual(new Set(["connected"]));
    clients.push(await openTab());
    expect(server.fake.sockets).toHaveLength(1);
  });
});
