import { beforeEach, describe, expect, it } from "vitest";
import { TidewireClient } from "./client.ts";
import type { ChannelMessage } from "./subscriptions.ts";
import { FakeWorld, settle } from "./testing/fakes.ts";

let world: FakeWorld;
let client: TidewireClient;

beforeEach(() => {
  world = new FakeWorld();
  client = new TidewireClient({ url: "ws://test/v1/ws", environment: world.environment });
});

async function goLive(): Promise<void> {
  client.connect();
  await settle();
  world.socket.welcome();
}

/** Follows a channel and returns what its handler got. */
function follow(channel: string): ChannelMessage[] {
  const got: ChannelMessage[] = [];
  client.subscribe(channel, (message) => got.push(message));
  return got;
}

function answer(channel: string, epoch: string, seq: number, recovered: boolean): void {
  const { id } = world.socket.last("subscribe");
  world.socket.receive({ type: "subscribed", id, data: { channels: [{ channel, epoch, seq, recovered }] } });
}

function message(channel: string, seq: number): void {
  world.socket.receive({ type: "message", channel, seq, data: { n: seq }, timestamp: 1 });
}

describe("connecting", () => {
  it("offers the subprotocols and is live with the welcome", async () => {
    const withToken = new TidewireClient({
      url: "ws://test/v1/ws",
      token: () => Promise.resolve("a.b.c"),
      environment: world.environment,
    });
    withToken.connect();
    expect(withToken.state.status).toBe("connecting");
    await settle();
    expect(world.socket.protocols).toEqual(["tidewire.v1.json", "tidewire.bearer.a.b.c"]);
    world.socket.welcome();
    expect(withToken.state).toMatchObject({ status: "live", heartbeatMs: 2_000, welcome: { version: "0.1.0" } });
    expect(withToken.clockOffsetMs).toBe(500);
  });

  it("says at once that there is no WebSocket", () => {
    const { WebSocket } = globalThis;
    Reflect.deleteProperty(globalThis, "WebSocket");
    try {
      expect(() => new TidewireClient({ url: "ws://test/v1/ws" })).toThrow("no global WebSocket");
      // One that is handed in is enough.
      expect(new TidewireClient({ url: "ws://test/v1/ws", environment: world.environment }).state.status).toBe("idle");
    } finally {
      Object.assign(globalThis, { WebSocket });
    }
  });

  it("gives up a server that never says welcome, and tries again", async () => {
    client.connect();
    await world.clock.advance(10_000);
    expect(client.state.status).toBe("offline");
    await world.clock.advance(250);
    expect(world.sockets).toHaveLength(2);
  });

  it("doubles its waits while the server is away and starts anew after a steady connection", async () => {
    const waits: number[] = [];
    client.on("state", (state) => {
      if (state.status === "offline") {
        waits.push(state.retryAt - world.clock.wallTime());
      }
    });
    client.connect();
    for (let turn = 0; turn < 8; turn += 1) {
      await settle();
      world.socket.end(1006);
      await world.clock.advance(waits.at(-1) ?? 0);
    }
    expect(waits).toEqual([250, 500, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000]);
    world.socket.welcome();
    for (let turn = 0; turn < 4; turn += 1) {
      await world.clock.advance(1_500);
      world.socket.receive({ type: "status", data: { state: "ok" } });
    }
    world.socket.end(4002);
    expect(waits.at(-1)).toBe(250);
  });

  it.each([
    [4001, "offline"],
    [4005, "offline"],
    [1011, "offline"],
    [4500, "closed"],
    [4504, "closed"],
    [1009, "closed"],
  ])("after close code %i it is %s", async (code, status) => {
    await goLive();
    world.socket.end(code);
    expect(client.state.status).toBe(status);
    await world.clock.advance(60_000);
    expect(world.sockets.length > 1).toBe(status === "offline");
  });

  it("comes back when the draining server said, not before", async () => {
    await goLive();
    world.socket.receive({ type: "reconnect", data: { reason: "draining", afterMs: 3_000 } });
    expect(client.state.status).toBe("live");
    await world.clock.advance(1_000);
    world.socket.end(4003);
    world.show(false);
    world.show(true);
    await world.clock.advance(1_999);
    expect(world.sockets).toHaveLength(1);
    await world.clock.advance(1);
    expect(world.sockets).toHaveLength(2);
  });

  it("moves by itself when a draining server keeps the connection", async () => {
    await goLive();
    world.socket.receive({ type: "reconnect", data: { reason: "draining", afterMs: 1_000 } });
    await world.clock.advance(1_000);
    expect(world.sockets).toHaveLength(2);
    expect(world.sockets[0]?.closedWith).toBe(1000);
  });

  it("leaves no timer behind when it is closed", async () => {
    await goLive();
    client.close();
    expect(client.state.status).toBe("closed");
    expect(world.clock.pending).toBe(0);
    world.show(false);
    expect(world.sockets).toHaveLength(1);
    client.connect();
    await settle();
    expect(world.sockets).toHaveLength(2);
  });

  it("opens nothing for a token that comes after the close", async () => {
    let give: (token: string) => void = () => undefined;
    const late = new TidewireClient({
      url: "ws://test/v1/ws",
      token: () => new Promise((resolve) => (give = resolve)),
      environment: world.environment,
    });
    late.connect();
    late.close();
    give("a.b.c");
    await settle();
    expect(world.sockets).toHaveLength(0);
  });
});

describe("heartbeat", () => {
  it("pings after the heartbeat's silence and gives up 1,500 ms later", async () => {
    await goLive();
    world.socket.pong();
    await world.clock.advance(1_999);
    expect(world.socket.sentOf("ping")).toHaveLength(1);
    await world.clock.advance(1);
    expect(world.socket.sentOf("ping")).toHaveLength(2);
    await world.clock.advance(1_499);
    expect(client.state.status).toBe("live");
    await world.clock.advance(1);
    expect(client.state).toMatchObject({ status: "offline", end: { code: 1006 } });
    expect(world.socket.closedWith).toBe("no code");
  });

  it("takes any frame as a sign of life", async () => {
    await goLive();
    for (let turn = 0; turn < 20; turn += 1) {
      await world.clock.advance(1_900);
      world.socket.receive({ type: "status", data: { state: "ok" } });
    }
    await world.clock.advance(2_100);
    world.socket.receive({ type: "status", data: { state: "ok" } });
    await world.clock.advance(1_900);
    expect(client.state.status).toBe("live");
  });

  it("follows the heartbeat that the server names", async () => {
    await goLive();
    const { id } = world.socket.last("ping");
    world.socket.receive({ type: "pong", id, data: { serverTime: 1, heartbeatMs: 600 } });
    expect(client.state).toMatchObject({ heartbeatMs: 600 });
    await world.clock.advance(600);
    expect(world.socket.sentOf("ping")).toHaveLength(2);
  });

  it("measures the round trip while the page is visible only", async () => {
    const trips: number[] = [];
    client.on("rtt", (rttMs) => trips.push(rttMs));
    await goLive();
    await world.clock.advance(12);
    world.socket.pong();
    expect(trips).toEqual([12]);
    expect(client.rttMs).toBe(12);
    world.show(false);
    const { id } = world.socket.last("visibility");
    world.socket.receive({ type: "visibility", id, data: { state: "background", heartbeatMs: 30_000 } });
    await world.clock.advance(20_000);
    expect(world.socket.sentOf("ping")).toHaveLength(1);
    world.show(true);
    expect(world.socket.last("visibility").data).toEqual({ state: "active" });
    expect(world.socket.sentOf("ping").length).toBeGreaterThan(1);
  });

  it("tells a fresh connection that the page is hidden", async () => {
    await goLive();
    world.show(false);
    world.socket.end(1006);
    await world.clock.advance(250);
    world.socket.welcome();
    expect(world.socket.last("visibility").data).toEqual({ state: "background" });
  });
});

describe("requests", () => {
  it("resolve with their own reply and reject with the server's error", async () => {
    await goLive();
    const first = client.request("get_block", { chain: 1 });
    const second = client.publish("demo:hello", { a: 1 }, "k");
    const publish = world.socket.last("publish");
    expect(publish.data).toEqual({ channel: "demo:hello", data: { a: 1 }, idempotencyKey: "k" });
    world.socket.receive({ type: "published", id: publish.id, data: { channel: "demo:hello", epoch: "e", seq: 7 } });
    const { id } = world.socket.last("get_block");
    world.socket.receive({ type: "error", id, data: { code: "not_found", message: "no such chain", retryAfterMs: 5 } });
    await expect(second).resolves.toEqual({ channel: "demo:hello", epoch: "e", seq: 7 });
    await expect(first).rejects.toMatchObject({ code: "not_found", message: "no such chain", retryAfterMs: 5 });
  });

  it("time out, fail with the connection, and fail without one", async () => {
    await expect(client.request("alerts", {})).rejects.toMatchObject({ code: "unavailable", message: "not connected" });
    await goLive();
    const slow = expect(client.request("alerts", {})).rejects.toMatchObject({ code: "deadline_exceeded" });
    for (let turn = 0; turn < 10; turn += 1) {
      await world.clock.advance(1_000);
      world.socket.receive({ type: "status", data: { state: "ok" } });
    }
    await slow;
    const lost = expect(client.request("alerts", {})).rejects.toMatchObject({ code: "unavailable" });
    world.socket.end(1006);
    await lost;
  });

  it("renew the token when the server says that it expires", async () => {
    let count = 0;
    const own = new TidewireClient({
      url: "ws://test/v1/ws",
      token: () => `token-${(count += 1)}`,
      environment: world.environment,
    });
    own.connect();
    await settle();
    world.socket.welcome();
    world.socket.receive({ type: "token_expiring", data: { expiresAt: 1 } });
    await settle();
    expect(world.socket.last("auth").data).toEqual({ token: "token-2" });
  });
});

describe("channels", () => {
  it("are asked for in one frame and unsubscribed with the last handler", async () => {
    await goLive();
    const stopFirst = client.subscribe("demo:a", () => undefined);
    const stopSecond = client.subscribe("demo:a", () => undefined);
    client.subscribe("prices:BTC-USD", () => undefined, { minIntervalMs: 250 });
    const stopAtOnce = client.subscribe("demo:never", () => undefined);
    stopAtOnce();
    await settle();
    expect(world.socket.sentOf("subscribe")).toHaveLength(1);
    expect(world.socket.last("subscribe").data).toEqual({
      channels: ["demo:a", { channel: "prices:BTC-USD", minIntervalMs: 250 }],
    });
    stopFirst();
    expect(world.socket.sentOf("unsubscribe")).toHaveLength(0);
    stopSecond();
    stopSecond();
    expect(world.socket.sentOf("unsubscribe").map(({ data }) => data)).toEqual([{ channels: ["demo:a"] }]);
  });

  it("resume after the last message seen, and drop what comes twice", async () => {
    const got = follow("demo:a");
    await goLive();
    answer("demo:a", "e1", 40, false);
    message("demo:a", 41);
    message("demo:a", 41);
    world.socket.end(1006);
    await world.clock.advance(250);
    world.socket.welcome([{ channel: "demo:a", epoch: "e1", seq: 43 }]);
    expect(world.socket.last("subscribe").data).toEqual({
      channels: [{ channel: "demo:a", since: { epoch: "e1", seq: 41 } }],
    });
    // Live before the answer: it comes again with the replay.
    message("demo:a", 44);
    answer("demo:a", "e1", 44, true);
    for (const seq of [41, 42, 43, 44, 45]) {
      message("demo:a", seq);
    }
    expect(got.map(({ seq }) => seq)).toEqual([41, 42, 43, 44, 45]);
  });

  it("resume from where the answer was when nothing came since", async () => {
    follow("demo:a");
    await goLive();
    answer("demo:a", "e1", 40, false);
    world.socket.end(1006);
    await world.clock.advance(250);
    world.socket.welcome();
    expect(world.socket.last("subscribe").data).toEqual({
      channels: [{ channel: "demo:a", since: { epoch: "e1", seq: 40 } }],
    });
  });

  it("say gap when the history is gone, and go on in the new epoch from 1", async () => {
    const got = follow("demo:a");
    await goLive();
    answer("demo:a", "e1", 40, false);
    message("demo:a", 41);
    world.socket.end(1006);
    await world.clock.advance(250);
    world.socket.welcome();
    answer("demo:a", "e2", 3, false);
    message("demo:a", 4);
    world.socket.receive({ type: "gap", channel: "demo:a", data: { channel: "demo:a", epoch: "e3", seq: 0 } });
    message("demo:a", 1);
    expect(got.map(({ type, seq }) => [type, seq])).toEqual([
      ["message", 41],
      ["gap", undefined],
      ["message", 4],
      ["gap", undefined],
      ["message", 1],
    ]);
    expect(got[1]?.data).toEqual({ channel: "demo:a", epoch: "e2", seq: 3 });
  });

  it("take the newest block that comes with a fresh subscription", async () => {
    const got = follow("blocks:1");
    await goLive();
    answer("blocks:1", "e1", 9, false);
    message("blocks:1", 9);
    expect(got).toHaveLength(1);
  });

  it("are asked for before anyone hears that the client is live", async () => {
    follow("demo:a");
    client.on("state", ({ status }) => {
      if (status === "live") {
        client.publish("demo:a", 1).catch(() => undefined);
      }
    });
    await goLive();
    // So the publication comes back on the channel.
    expect(world.socket.sent.map(({ type }) => type).slice(0, 2)).toEqual(["subscribe", "publish"]);
  });

  it("split a batch of prices, and give a later handler the newest value", async () => {
    const got = follow("prices:BTC-USD");
    await goLive();
    const update = {
      symbol: "BTC-USD",
      price: 1.5,
      change24h: null,
      volume24h: null,
      timestamp: 5,
      source: "aggregate",
      confidence: null,
      sources: 1,
      stale: false,
      twap: null,
    };
    world.socket.receive({ type: "price_batch", data: { updates: [update, { ...update, source: "kraken" }], timestamp: 6 } });
    expect(got).toEqual([{ type: "price", channel: "prices:BTC-USD", data: update, timestamp: 6 }]);
    const later = follow("prices:BTC-USD");
    await settle();
    expect(later).toHaveLength(1);
    world.socket.end(1006);
    await world.clock.advance(250);
    world.socket.welcome();
    expect(world.socket.last("subscribe").data).toEqual({ channels: ["prices:BTC-USD"] });
  });

  it("reach their handlers under the server's spelling", async () => {
    const got: ChannelMessage[] = [];
    const stop = client.subscribe("wallet:0xAB", (event) => got.push(event));
    await goLive();
    answer("wallet:0xab", "e", 0, false);
    message("wallet:0xab", 1);
    expect(got).toHaveLength(1);
    stop();
    expect(world.socket.last("unsubscribe").data).toEqual({ channels: ["wallet:0xab"] });
  });

  it("tell their handlers of a refusal", async () => {
    const errors: string[] = [];
    client.subscribe("user:x", () => undefined, { onError: (error) => errors.push(error.code) });
    await goLive();
    const { id } = world.socket.last("subscribe");
    const error = { code: "permission_denied", message: "not yours" };
    world.socket.receive({
      type: "subscribed",
      id,
      data: { channels: [{ channel: "user:x", epoch: "", seq: 0, recovered: false, error }] },
    });
    expect(errors).toEqual(["permission_denied"]);
  });

  it("tell of frames that make no sense, and live on", async () => {
    const errors: string[] = [];
    client.on("error", (error) => errors.push(error.message));
    await goLive();
    world.socket.receiveRaw("{");
    world.socket.receiveRaw('{"type":"gap","data":{"channel":"a","epoch":"e"}}');
    world.socket.receiveRaw('{"type":"from_the_future","data":1}');
    world.socket.receive({ type: "error", data: { code: "invalid_argument", message: "what?" } });
    expect(errors).toEqual([
      "the frame is not JSON",
      "gap: data.seq: is missing, expected a whole number from 0 up",
      "what?",
    ]);
    expect(client.state.status).toBe("live");
  });
});
