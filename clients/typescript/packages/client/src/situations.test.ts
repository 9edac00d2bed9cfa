/** Situations that users of other clients reported. Each test has the name of its situation. */
import { beforeEach, describe, expect, it, vi } from "vitest";
import type { ClientOptions, ClientState } from "./api.ts";
import { WebSocketClient } from "./client.ts";
import { StateSync } from "./state-sync.ts";
import type { ChannelMessage } from "./subscriptions.ts";
import { FakeEnvironment, settle } from "./testing/fakes.ts";
import { FakeServer } from "./testing/server.ts";
import { FakeStreams, until } from "./testing/streams.ts";
import type { Json } from "./types/common.ts";

let server: FakeServer;
let client: WebSocketClient;

beforeEach(() => {
  server = new FakeServer();
  client = open();
});

function open(options: ClientOptions = {}): WebSocketClient {
  return new WebSocketClient("ws://test/v1/ws", { environment: server.environment, queue: { storage: memory }, ...options });
}

/** A storage that survives a reload of the page. */
let memory: Storage;
beforeEach(() => {
  const items = new Map<string, string>();
  memory = {
    get length() {
      return items.size;
    },
    key: (index) => [...items.keys()][index] ?? null,
    getItem: (key) => items.get(key) ?? null,
    setItem: (key, value) => items.set(key, value),
    removeItem: (key) => items.delete(key),
    clear: () => {
      items.clear();
    },
  } as Storage;
  client = open();
});

async function connect(of = client): Promise<void> {
  of.connect();
  await server.settle();
  expect(of.state.status).toBe("connected");
}

function collect(channel: string, of = client): ChannelMessage[] {
  const received: ChannelMessage[] = [];
  of.subscribe(channel, (message) => received.push(message));
  return received;
}

const seqs = (messages: readonly ChannelMessage[]): (number | undefined)[] => messages.map(({ seq }) => seq);
const published = (): Json[] => server.received.flatMap((message) => (message.type === "publish" ? [message.data?.data ?? null] : []));

describe("tokens", () => {
  it("getToken resolves after its connection was replaced: the late token is discarded", async () => {
    const give: ((token: string) => void)[] = [];
    const getToken = vi.fn(() => new Promise<string>((resolve) => give.push(resolve)));
    client = open({ getToken });
    client.on("error", () => undefined);
    client.connect();
    await server.advance(10_000);
    expect(client.state).toMatchObject({ status: "reconnecting", end: { reason: "getToken took over 10000 ms" } });
    await server.advance(250);
    expect(getToken).toHaveBeenCalledTimes(2);
    give[0]?.("old");
    await server.settle();
    expect(server.fake.sockets).toHaveLength(0);
    give[1]?.("new");
    await server.settle();
    expect(server.fake.sockets.map(({ protocols }) => protocols[1])).toEqual(["tidewire.bearer.new"]);
  });

  it("a renewed token that comes after its connection was replaced is discarded too", async () => {
    const give: ((token: string) => void)[] = [];
    client = open({ getToken: () => new Promise<string>((resolve) => give.push(resolve)) });
    client.connect();
    give[0]?.("a");
    await connect();
    server.send({ type: "token_expiring", data: { expiresAt: 1 } });
    await server.settle();
    server.cut();
    await server.advance(250);
    give[1]?.("b");
    await server.settle();
    expect(client.state.status).toBe("connected");
    expect(server.received.filter(({ type }) => type === "auth")).toHaveLength(0);
  });

  it("getToken is called once for a renewal and a connection at once", async () => {
    let give: (token: string) => void = () => undefined;
    const getToken = vi.fn(() => (getToken.mock.calls.length === 1 ? "a" : new Promise<string>((resolve) => (give = resolve))));
    client = open({ getToken });
    await connect();
    server.send({ type: "token_expiring", data: { expiresAt: 1 } });
    server.cut();
    await server.advance(250);
    expect(getToken).toHaveBeenCalledTimes(2);
    give("b");
    await server.settle();
    expect(server.fake.socket.protocols[1]).toBe("tidewire.bearer.b");
  });

  it("the token of one user is not used after another signs in", async () => {
    let give: (token: string) => void = () => undefined;
    client = open({ getToken: () => new Promise<string>((resolve) => (give = resolve)) });
    client.connect();
    client.disconnect();
    client.setOptions({ getToken: () => "other" });
    client.connect();
    give("first");
    await server.settle();
    expect(server.fake.sockets.map(({ protocols }) => protocols[1])).toEqual(["tidewire.bearer.other"]);
  });

  it("a refused token closes with the server's reason", async () => {
    const errors: string[] = [];
    client.on("error", ({ message }) => errors.push(message));
    server.isReachable = false;
    client.connect();
    await server.settle();
    const ready = expect(client.ready()).rejects.toThrow("the token has expired");
    server.fake.socket.receive({ type: "error", data: { code: "unauthenticated", message: "the token has expired" } });
    server.fake.socket.end(4500);
    expect(client.state).toMatchObject({ status: "closed", end: { code: 4500, reason: "the token has expired" } });
    expect(errors).toEqual(["the token has expired"]);
    await ready;
  });
});

describe("handlers", () => {
  it("a handler throws once: it is reported, and the next message and the reconnect work", async () => {
    const errors: unknown[] = [];
    client.on("error", ({ cause }) => errors.push(cause));
    const received: number[] = [];
    const fault = new Error("in the application");
    client.subscribe("demo:a", ({ seq }) => {
      received.push(seq ?? 0);
      if (seq === 1) {
        throw fault;
      }
    });
    await connect();
    server.publish("demo:a", 1);
    server.publish("demo:a", 2);
    expect(errors).toEqual([fault]);
    server.cut();
    server.publish("demo:a", 3);
    await server.advance(250);
    expect(received).toEqual([1, 2, 3]);
  });

  it("a listener of states or errors throws: the others are called, and nothing loops", async () => {
    const log = vi.spyOn(console, "error").mockReturnValue(undefined);
    const states: string[] = [];
    client.on("state", () => {
      throw new Error("one");
    });
    client.on("error", () => {
      throw new Error("two");
    });
    client.on("state", ({ status }) => states.push(status));
    await connect();
    expect(states).toEqual(["connecting", "connected"]);
    expect(log).toHaveBeenCalledTimes(2);
    log.mockRestore();
  });

  it("the handler of seq 7 unsubscribes and subscribes again: 7 is not delivered again", async () => {
    for (const channel of ["demo:a", "prices:BTC-USD"]) {
      const received: (number | undefined)[] = [];
      for (let seq = 1; seq < 7; seq += 1) {
        server.publish(channel, seq);
      }
      const handler = ({ seq }: ChannelMessage): void => {
        received.push(seq);
        if (seq === 7) {
          client.unsubscribe(channel, handler);
          client.subscribe(channel, handler);
        }
      };
      client.subscribe(channel, handler);
      await connect();
      server.publish(channel, 7);
      await server.advance(1_000);
      server.publish(channel, 8);
      expect(received.filter((seq) => (seq ?? 0) > 6)).toEqual([7, 8]);
      client.disconnect();
    }
  });

  it("messages replayed by recovery are marked", async () => {
    const received = collect("demo:a");
    await connect();
    server.publish("demo:a", 1);
    server.cut();
    server.publish("demo:a", 2);
    server.publish("demo:a", 3);
    await server.advance(250);
    server.publish("demo:a", 4);
    expect(received.map(({ seq, replayed }) => [seq, replayed ?? false])).toEqual([
      [1, false],
      [2, true],
      [3, true],
      [4, false],
    ]);
  });

  it("each follower of a refused channel learns of it, also a later one", async () => {
    server.refuse("secret:x", { code: "permission_denied", message: "not yours" });
    const errors: (string | undefined)[] = [];
    const own = vi.fn();
    client.on("error", ({ channel }) => errors.push(channel));
    collect("secret:x");
    collect("secret:x");
    client.subscribe("secret:x", () => undefined, { onError: own });
    await connect();
    expect(errors).toEqual(["secret:x", "secret:x"]);
    expect(own).toHaveBeenCalledTimes(1);
    collect("secret:x");
    await server.settle();
    expect(errors).toHaveLength(3);
  });
});

describe("positions", () => {
  it("gap changes the epoch, then the link is cut: since never mixes the new epoch with an old seq", async () => {
    const received = collect("demo:a");
    await connect();
    for (let n = 0; n < 5; n += 1) {
      server.publish("demo:a", n);
    }
    server.loseHistory("demo:a");
    server.cut();
    await server.advance(250);
    const last = server.received.filter(({ type }) => type === "subscribe").at(-1);
    expect(last?.data).toEqual({ channels: [{ channel: "demo:a", since: { epoch: "e+", seq: 0 } }] });
    server.publish("demo:a", "new");
    expect(seqs(received)).toEqual([1, 2, 3, 4, 5, undefined, 1]);
  });

  it("a remount keeps the channel, and 300 switches leave one subscription", async () => {
    await connect();
    const stop = client.subscribe("prices:A", () => undefined);
    stop();
    client.subscribe("prices:A", () => undefined);
    await server.settle();
    const before = server.received.length;
    for (let n = 0; n < 10; n += 1) {
      client.unsubscribe("prices:A");
      client.subscribe("prices:A", () => undefined);
      await server.settle();
    }
    await server.advance(150);
    expect(server.received.slice(before).filter(({ type }) => type !== "ping")).toEqual([]);
    for (let n = 0; n < 300; n += 1) {
      const leave = client.subscribe(`prices:S${n}`, () => undefined);
      if (n < 299) {
        leave();
      }
    }
    client.unsubscribe("prices:A");
    await server.advance(150);
    expect(server.subscribed).toEqual(["prices:S299"]);
    expect(server.received.slice(before).filter(({ type }) => type === "subscribe")).toHaveLength(1);
  });
});

describe("the page and the network", () => {
  it("disconnect() while offline; then online, visible, pageshow: it stays disconnected", async () => {
    await connect();
    server.isReachable = false;
    server.cut();
    client.disconnect();
    server.isReachable = true;
    const { fake } = server;
    fake.show(false);
    fake.show(true);
    for (const event of ["online", "pageshow", "resume"]) {
      fake.fire(event);
    }
    await server.advance(60_000);
    expect(client.state.status).toBe("disconnected");
    expect(fake.sockets).toHaveLength(1);
    expect(fake.clock.pending).toBe(0);
  });

  it("the link dies with a ping pending; reconnects: the old ping's timer harms nothing", async () => {
    await connect();
    server.blackHole();
    await server.advance(2_100);
    server.cut();
    server.fake.socket.end(1006);
    await server.advance(250);
    expect(client.state.status).toBe("connected");
    await server.advance(1_400);
    expect(server.fake.sockets).toHaveLength(2);
    expect(client.state.status).toBe("connected");
  });

  it("subscribe() as the backoff timer fires: one socket", async () => {
    await connect();
    server.cut();
    client.on("state", () => {
      collect("demo:b");
    });
    await server.advance(250);
    client.connect();
    collect("demo:c");
    await server.settle();
    expect(server.fake.sockets).toHaveLength(2);
    expect(server.connections).toBe(1);
    expect(server.subscribed).toEqual(["demo:b", "demo:c"]);
  });

  it("an overdue timer after a throttled or stopped tab: the data that waits is read first, and a healthy link is not killed", async () => {
    await connect();
    const { fake } = server;
    // A ping is out when the tab stops for a minute. Its reply and more wait in the socket.
    await fake.clock.advance(1_999);
    const waiting = (): void => {
      fake.socket.receive({ type: "status", data: { state: "ok" } });
    };
    fake.clock.jump(60_000);
    const run = fake.clock.advance(0);
    await run;
    waiting();
    await server.advance(3_000);
    expect(client.state.status).toBe("connected");
    expect(fake.sockets).toHaveLength(1);
  });

  it("a dead link is found within 1.5 s of waking up", async () => {
    await connect();
    server.blackHole();
    server.fake.clock.jump(600_000);
    server.fake.fire("resume");
    const at = server.fake.clock.now();
    await server.advance(1_500);
    expect(client.state.status).toBe("reconnecting");
    await server.advance(250);
    expect(client.state.status).toBe("connected");
    expect(server.fake.clock.now() - at).toBeLessThanOrEqual(1_750);
  });

  it("the page enters the browser's cache and returns: the link is closed, then opened at once", async () => {
    const received = collect("demo:a");
    await connect();
    server.fake.fire("pagehide");
    expect(server.connections).toBe(0);
    expect(client.state.status).toBe("reconnecting");
    server.publish("demo:a", 1);
    server.fake.fire("pageshow");
    await server.settle();
    expect(client.state.status).toBe("connected");
    expect(seqs(received)).toEqual([1]);
  });

  it("the server drains 200 hidden and 20 visible tabs: visible first, hidden spread later", async () => {
    const fakes = Array.from({ length: 220 }, (_, index) => {
      const fake = new FakeEnvironment();
      fake.random = ((index * 37) % 200) / 200;
      const tab = new WebSocketClient("ws://test", { environment: fake.environment });
      return { fake, tab, isHidden: index < 200 };
    });
    for (const { fake, tab, isHidden } of fakes) {
      tab.connect();
      await settle();
      fake.socket.welcome();
      fake.show(!isHidden);
      fake.socket.receive({ type: "reconnect", data: { reason: "draining", afterMs: 1_000 } });
      fake.socket.end(4003);
    }
    const returned = async (ms: number): Promise<boolean[]> => {
      await Promise.all(fakes.map(({ fake }) => fake.clock.advance(ms)));
      return fakes.filter(({ fake }) => fake.sockets.length > 1).map(({ isHidden }) => isHidden);
    };
    expect(await returned(999)).toEqual([]);
    const first = await returned(1);
    expect(first.filter((isHidden) => !isHidden)).toHaveLength(20);
    expect(first.filter(Boolean).length).toBeLessThan(5);
    const half = await returned(15_000);
    expect(half.filter(Boolean).length).toBeGreaterThan(80);
    expect(half.filter(Boolean).length).toBeLessThan(120);
    expect(await returned(15_000)).toHaveLength(220);
  });

  it("React Native: a close without a code is as 1006, and a socket that opens after close() is closed", async () => {
    const fake = new FakeEnvironment();
    client = new WebSocketClient("ws://test", { environment: fake.environment });
    client.connect();
    await settle();
    client.disconnect();
    fake.socket.closedWith = undefined;
    fake.socket.open();
    expect(fake.socket.closedWith).toBe("no code");
    client.connect();
    await settle();
    fake.socket.welcome();
    fake.socket.end();
    expect(client.state).toMatchObject({ status: "reconnecting", end: { code: 1006 } });
  });
});

describe("the queue", () => {
  it("publish right after connect waits, and held and live publications share one order", async () => {
    client.connect();
    const held = [1, 2, 3].map((n) => client.publish("demo:a", n));
    client.on("state", ({ status }) => {
      if (status === "connected") {
        held.push(client.publish("demo:a", 4));
      }
    });
    await server.settle();
    held.push(client.publish("demo:a", 5));
    expect((await Promise.all(held)).map(({ seq }) => seq)).toEqual([1, 2, 3, 4, 5]);
    expect(published()).toEqual([1, 2, 3, 4, 5]);
  });

  it("options change with a queued publish and a pending request: sent once, and the request settles", async () => {
    await connect();
    server.blackHole();
    const publish = client.publish("demo:a", "once");
    const request = expect(client.request("history", { channel: "demo:a" })).rejects.toMatchObject({ code: "unavailable" });
    client.setOptions({ token: "another" });
    server.fake.socket.end(1006);
    await request;
    await server.advance(250);
    await expect(publish).resolves.toMatchObject({ seq: 1 });
    expect(server.fake.socket.protocols[1]).toBe("tidewire.bearer.another");
    expect(published()).toEqual(["once"]);
  });

  it("survives a reload, in order, and a publication that was sent before is published once", async () => {
    await connect();
    const first = client.publish("demo:a", "sent");
    await first;
    server.blackHole();
    void client.publish("demo:a", "lost");
    void client.publish("demo:a", "held");
    // The page is reloaded: another client, the same storage.
    server.fake.clock.jump(500);
    const again = open();
    void again.publish("demo:a", "new");
    await connect(again);
    await server.settle();
    expect(published()).toEqual(["sent", "lost", "held", "new"]);
    expect(memory.length).toBe(0);
  });

  it("a refused entry: the queue goes on", async () => {
    server.refuse("secret:x", { code: "permission_denied", message: "not yours" });
    const refused = expect(client.publish("secret:x", 1)).rejects.toMatchObject({ code: "permission_denied" });
    const next = client.publish("demo:a", 2);
    await connect();
    await refused;
    await expect(next).resolves.toMatchObject({ seq: 1 });
    expect(memory.length).toBe(0);
  });

  it("another user signs in: another's queue is never sent, and waits for its user", async () => {
    server.user = "alice";
    await connect();
    server.cut();
    const lost = expect(client.publish("demo:a", "of alice")).rejects.toMatchObject({ code: "failed_precondition" });
    server.user = "bob";
    await server.advance(250);
    await lost;
    await expect(client.publish("demo:a", "of bob")).resolves.toMatchObject({ seq: 1 });
    expect(published()).toEqual(["of bob"]);
    server.user = "alice";
    const again = open();
    await connect(again);
    await server.settle();
    expect(published()).toEqual(["of bob", "of alice"]);
  });

  it("is bounded, and names its bound", async () => {
    client = open({ queue: { storage: memory, maxEntries: 2 } });
    void client.publish("demo:a", 1);
    void client.publish("demo:a", 2);
    await expect(client.publish("demo:a", 3)).rejects.toMatchObject({ code: "resource_exhausted", message: "the queue is full: 2 publications wait" });
  });

  it("rejects what may have been published and can not be sent again", async () => {
    await connect();
    server.blackHole();
    const lost = expect(client.publish("demo:a", 1)).rejects.toMatchObject({ code: "deadline_exceeded" });
    server.fake.socket.end(1006);
    server.isReachable = false;
    await server.advance(271_000);
    server.isReachable = true;
    client.disconnect();
    await connect();
    await lost;
    expect(published()).toEqual([]);
  });

  it("without a queue, publish rejects at once", async () => {
    await expect(client.publish("demo:a", 1, { queue: false })).rejects.toMatchObject({ code: "unavailable" });
    await expect(open({ queue: false }).publish("demo:a", 1)).rejects.toMatchObject({ code: "unavailable" });
  });
});

describe("state", () => {
  const append = (state: readonly Json[], { data }: { readonly data: Json }): readonly Json[] => [...state, data];

  it("optimistic A, B; an older server value arrives; A refused, B pending: B kept, only A rolled back", async () => {
    const sync = new StateSync<readonly Json[]>(client, "demo:list", { initial: [], reduce: append });
    await connect();
    server.publish("demo:list", "0");
    const a = sync.applyOptimistic((state) => [...state, "A"]);
    const b = sync.applyOptimistic((state) => [...state, "B"]);
    server.publish("demo:list", "older");
    expect(sync.getState()).toEqual(["0", "older", "A", "B"]);
    sync.rollbackUpdate(a);
    expect(sync.getState()).toEqual(["0", "older", "B"]);
    sync.confirmUpdate(b, 3);
    expect(sync.getState()).toEqual(["0", "older", "B"]);
    server.publish("demo:list", "B");
    expect(sync.getState()).toEqual(["0", "older", "B"]);
  });

  it("syncState reads the missed messages, and live ones meanwhile count once", async () => {
    for (let n = 1; n <= 3; n += 1) {
      server.publish("demo:list", n);
    }
    await connect();
    const changes = vi.fn();
    const sync = new StateSync<readonly Json[]>(client, "demo:list", { initial: [], reduce: append });
    sync.subscribe(changes);
    const reading = sync.syncState();
    server.publish("demo:list", 4);
    expect(sync.syncState()).toBe(reading);
    await expect(reading).resolves.toEqual([1, 2, 3, 4]);
    expect((await sync.getMissedMessages(2)).map(({ seq }) => seq)).toEqual([3, 4]);
    server.publish("demo:list", 5);
    expect(sync.getState()).toEqual([1, 2, 3, 4, 5]);
    sync.dispose();
    server.publish("demo:list", 6);
    expect(sync.getState()).toHaveLength(5);
  });

  it("a gap reads the state again, and pending changes stay", async () => {
    const sync = new StateSync<readonly Json[]>(client, "demo:list", { initial: [], reduce: append, load: () => Promise.resolve({ state: ["loaded"], seq: 0 }) });
    await connect();
    server.publish("demo:list", 1);
    sync.applyOptimistic((state) => [...state, "mine"]);
    server.loseHistory("demo:list");
    await server.settle();
    server.publish("demo:list", 2);
    expect(sync.getState()).toEqual(["loaded", 2, "mine"]);
  });
});

describe("event streams", () => {
  let fake: FakeEnvironment;
  let streams: FakeStreams;

  beforeEach(() => {
    fake = new FakeEnvironment();
    streams = new FakeStreams();
    fake.fetch = streams.fetch;
    client = new WebSocketClient("ws://test", { environment: fake.environment, queue: { storage: memory } });
  });

  /** Connects over an event stream, because no WebSocket gets a `welcome`. */
  async function fallBack(): Promise<void> {
    client.connect();
    await fake.clock.advance(2_500 + 250 + 5_000 + 500);
    await until(() => streams.streams.length === 1);
    streams.stream.welcome();
    await until(() => client.state.status === "connected");
    expect(client.state).toMatchObject({ transport: "sse" });
  }

  it("a proxy upgrades and drops frames: SSE; later back on WebSocket without a reload", async () => {
    const states: ClientState[] = [];
    client.on("state", (state) => states.push(state));
    const received = collect("demo:a");
    streams.answer = ({ id, type }) =>
      Promise.resolve(
        Response.json(
          type === "subscribe"
            ? { type: "subscribed", id, data: { channels: [{ channel: "demo:a", epoch: "e", seq: 4, recovered: false, class: "history" }] } }
            : { type: "pong", id, data: { serverTime: 1, heartbeatMs: 2_000 } },
        ),
      );
    await fallBack();
    expect(fake.sockets.map(({ closedWith }) => closedWith)).toEqual(["no code", "no code"]);
    await until(() => streams.posts.length > 0);
    expect(streams.posts[0]?.url).toBe("http://test/v1/sse/s1?key=k");
    streams.stream.receive({ type: "message", channel: "demo:a", seq: 5, data: 1 });
    await until(() => received.length === 1);
    // The proxy is gone: a WebSocket is tried beside the stream.
    for (let beat = 0; beat < 15; beat += 1) {
      await fake.clock.advance(1_000);
      streams.stream.receive({ type: "ping", data: { serverTime: 1 } });
      await until(() => true);
    }
    expect(fake.sockets).toHaveLength(3);
    expect(client.state).toMatchObject({ status: "connected", transport: "sse" });
    fake.socket.welcome();
    expect(client.state).toMatchObject({ status: "connected", transport: "websocket" });
    expect(fake.socket.last("subscribe").data).toEqual({ channels: [{ channel: "demo:a", since: { epoch: "e", seq: 5 } }] });
    expect(states.filter(({ status }) => status === "connected").map((state) => "transport" in state && state.transport)).toEqual(["sse", "websocket"]);
  });

  it("SSE reconnect gets 502: a new stream with the cursor", async () => {
    await fallBack();
    const received = collect("user:7");
    streams.answer = ({ id }) =>
      Promise.resolve(Response.json({ type: "subscribed", id, data: { channels: [{ channel: "user:7", epoch: "e", seq: 3, recovered: false, class: "history" }] } }));
    await until(() => streams.posts.some(({ message }) => message.type === "subscribe"));
    streams.refusal = new Response("bad gateway", { status: 502 });
    streams.stream.end();
    await until(() => client.state.status === "reconnecting");
    await fake.clock.advance(1_000);
    await until(() => streams.refused === 1 && client.state.status === "reconnecting");
    streams.refusal = undefined;
    await fake.clock.advance(2_000);
    await until(() => streams.streams.length === 2);
    streams.stream.welcome([{ channel: "user:7", epoch: "e", seq: 3 }]);
    await until(() => client.state.status === "connected");
    // The server subscribed to the user's own channel by itself: the next stream resumes it by the cursor.
    streams.stream.end();
    await until(() => client.state.status === "reconnecting");
    await fake.clock.advance(4_000);
    await until(() => streams.streams.length === 3);
    expect(atob(streams.stream.headers.get("last-event-id") ?? "")).toBe("e 3 user:7");
    streams.stream.welcome([{ channel: "user:7", epoch: "e", seq: 5 }]);
    streams.stream.receive({ type: "subscribed", data: { channels: [{ channel: "user:7", epoch: "e", seq: 5, recovered: true, class: "history" }] } });
    streams.stream.receive({ type: "message", channel: "user:7", seq: 4, data: 1 });
    streams.stream.receive({ type: "message", channel: "user:7", seq: 5, data: 1 });
    await until(() => received.length === 2);
    expect(seqs(received)).toEqual([4, 5]);
  });

  it("an SSE POST is reset: it rejects or queues, and no rejection is unhandled", async () => {
    await fallBack();
    streams.answer = () => Promise.reject(new TypeError("fetch failed"));
    await expect(client.request("alerts", {})).rejects.toMatchObject({ code: "unavailable", message: "fetch failed" });
    streams.answer = () => Promise.resolve(Response.json({ code: "permission_denied", message: "no" }, { status: 403 }));
    await expect(client.request("alerts", {})).rejects.toMatchObject({ code: "permission_denied" });
    streams.answer = () => Promise.resolve(new Response("<html>", { status: 502 }));
    await expect(client.request("alerts", {})).rejects.toMatchObject({ message: "HTTP status 502" });
  });

  it("pushes that overtake the reply to subscribe are kept for it", async () => {
    const received = collect("demo:a");
    let reply: (response: Response) => void = () => undefined;
    streams.answer = ({ type, id }) =>
      type === "subscribe" ? new Promise((resolve) => (reply = resolve)) : Promise.resolve(Response.json({ type: "pong", id, data: { serverTime: 1, heartbeatMs: 2_000 } }));
    await fallBack();
    await until(() => streams.posts.length > 0);
    streams.stream.receive({ type: "message", channel: "demo:a", seq: 8, data: 1 });
    streams.stream.receive({ type: "status", data: { state: "ok" } });
    await until(() => true);
    expect(received).toEqual([]);
    reply(Response.json({ type: "subscribed", id: streams.posts[0]?.message.id, data: { channels: [{ channel: "demo:a", epoch: "e", seq: 7, recovered: false, class: "history" }] } }));
    await until(() => received.length === 1);
    expect(seqs(received)).toEqual([8]);
  });

  it("a refused token over SSE closes, and sends it in a header", async () => {
    client = new WebSocketClient("ws://test", { environment: fake.environment, token: "a.b.c", transports: ["sse"] });
    streams.refusal = Response.json({ code: "unauthenticated", message: "the token has expired" }, { status: 401 });
    client.connect();
    await until(() => client.state.status === "closed");
    expect(client.state).toMatchObject({ end: { code: 4500, reason: "the token has expired" } });
    streams.refusal = undefined;
    client.connect();
    await until(() => streams.streams.length === 1);
    expect(streams.stream.headers.get("authorization")).toBe("Bearer a.b.c");
    expect(streams.stream.url).toBe("http://test/v1/sse");
  });
});

describe("wrong addresses", () => {
  it.each(["", "what", "ftp://test/v1/ws", "ws://"])("an impossible URL throws: %j", (url) => {
    expect(() => new WebSocketClient(url)).toThrow("expected one like ws://127.0.0.1:8080/v1/ws");
  });

  it("http and a bare host work", async () => {
    client = new WebSocketClient("http://test", { environment: server.environment });
    await connect();
    expect(server.fake.socket.url).toBe("ws://test/v1/ws");
  });

  it.each([
    ["wss://test/v1/ws", (url: string) => url.startsWith("http:"), "the server speaks plain text, not TLS: use ws:, not wss:"],
    ["ws://test/v1/ws", (url: string) => url.startsWith("https:"), "the server speaks TLS: use wss:, not ws:"],
    ["ws://test/v1/wss", () => true, "nothing is at /v1/wss on the server, expected /v1/ws"],
  ])("%s says what is wrong after the first failures", async (url, answers, text) => {
    const errors: string[] = [];
    const { fake } = server;
    server.isReachable = false;
    fake.fetch = (target) => (answers(target) ? Promise.resolve(new Response("", { status: 404 })) : Promise.reject(new TypeError("fetch failed")));
    client = new WebSocketClient(url, { environment: server.environment, transports: ["websocket"] });
    client.on("error", ({ message }) => errors.push(message));
    client.connect();
    for (let attempt = 0; attempt < 3; attempt += 1) {
      await server.settle();
      fake.socket.end(1006);
      await server.advance(1_000);
    }
    expect(errors).toEqual([text]);
    await server.settle();
    fake.socket.end(1006);
    expect(client.state).toMatchObject({ end: { reason: text } });
  });
});

describe("saving", () => {
  it("saveData slows latest channels down, once the server has named them", async () => {
    client = open({ saveData: true });
    collect("prices:BTC-USD");
    collect("demo:a");
    await connect();
    await server.settle();
    const sent = server.received.filter(({ type }) => type === "subscribe").map(({ data }) => data);
    expect(sent).toEqual([{ channels: ["prices:BTC-USD", "demo:a"] }, { channels: [{ channel: "prices:BTC-USD", minIntervalMs: 5_000 }] }]);
  });

  it("a hidden tab tells the server and stops its own timers, and a shown one starts them", async () => {
    await connect();
    server.fake.show(false);
    await server.settle();
    const before = server.received.length;
    await server.advance(29_000);
    expect(server.received).toHaveLength(before);
    server.fake.show(true);
    await server.settle();
    expect(server.received.slice(before).map(({ type }) => type)).toEqual(["visibility", "ping", "ping"]);
  });
});

describe("quality", () => {
  it("grades the link by round trips, jitter and loss", async () => {
    await connect();
    expect(client.getQuality()).toMatchObject({ grade: "excellent", loss: 0 });
    server.blackHole();
    await server.advance(20_000);
    expect(client.getQuality().grade).toBe("excellent");
    server.isReachable = false;
    server.cut();
    server.blackHole();
    await server.advance(5_000);
    expect(client.getQuality()).toMatchObject({ grade: "offline" });
  });
});
