import { beforeEach, describe, expect, it } from "vitest";
import { parseChecked } from "./checks/index.ts";
import { WebSocketClient } from "./client.ts";
import { FakeEnvironment, FakeSocket, settle } from "./testing/fakes.ts";

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

describe("connection", () => {
  it("offers the subprotocols and is live with the welcome", async () => {
    const withToken = new WebSocketClient("ws://test/v1/ws", {
      getToken: () => Promise.resolve("a.b.c"),
      environment: fake.environment,
    });
    withToken.connect();
    expect(withToken.state.status).toBe("connecting");
    await settle();
    expect(fake.socket.protocols).toEqual(["tidewire.v1.json", "tidewire.bearer.a.b.c"]);
    fake.socket.welcome();
    expect(withToken.state).toMatchObject({ status: "connected", heartbeatMs: 2_000, welcome: { version: "0.1.0" } });
    expect(withToken.clockOffsetMs).toBe(500);
  });

  it("throws at connect when there is no WebSocket, and finds one in the options or in the package ws", () => {
    const { WebSocket } = globalThis;
    const getBuiltinModule = process.getBuiltinModule.bind(process);
    const cwd = process.cwd();
    Reflect.deleteProperty(globalThis, "WebSocket");
    try {
      process.chdir("/");
      // A page that is rendered on a server constructs a client and never connects it.
      const bare = new WebSocketClient("ws://test/v1/ws");
      // From another folder, it is found beside this package.
      bare.connect();
      bare.disconnect();
      Object.assign(process, { getBuiltinModule: undefined });
      const none = new WebSocketClient("ws://test/v1/ws");
      expect(() => {
        none.connect();
      }).toThrow("no global WebSocket");
      Object.assign(process, { getBuiltinModule });
      // One in the options is enough.
      const given = new WebSocketClient("ws://test/v1/ws", { environment: { ...fake.environment, webSocket: undefined }, webSocket: FakeSocket });
      given.connect();
      expect(given.state.status).toBe("connecting");
      given.disconnect();
      process.chdir(cwd);
      const found = new WebSocketClient("ws://test/v1/ws", { environment: { ...fake.environment, webSocket: undefined } });
      found.connect();
      found.disconnect();
    } finally {
      process.chdir(cwd);
      Object.assign(process, { getBuiltinModule });
      Object.assign(globalThis, { WebSocket });
    }
  });

  it("gives up on a server that never sends welcome, and connects again", async () => {
    client.connect();
    await fake.clock.advance(10_000);
    expect(client.state.status).toBe("reconnecting");
    await fake.clock.advance(250);
    expect(fake.sockets).toHaveLength(2);
  });

  it("doubles the reconnect delay while the server is away and resets it after a steady connection", async () => {
    const waits: number[] = [];
    client.on("state", (state) => {
      if (state.status === "reconnecting") {
        waits.push(state.retryAt - fake.clock.wallTime());
      }
    });
    client.connect();
    for (let round = 0; round < 8; round += 1) {
      await settle();
      fake.socket.end(1006);
      await fake.clock.advance(waits.at(-1) ?? 0);
    }
    // The cap while the page is visible.
    expect(waits).toEqual([250, 500, 1_000, 2_000, 4_000, 4_000, 4_000, 4_000]);
    fake.socket.welcome();
    for (let round = 0; round < 4; round += 1) {
      await fake.clock.advance(1_500);
      fake.socket.receive({ type: "status", data: { state: "ok" } });
    }
    fake.socket.end(4002);
    expect(waits.at(-1)).toBe(250);
  });

  it.each([
    [4001, "reconnecting"],
    [4005, "reconnecting"],
    [1011, "reconnecting"],
    [4500, "closed"],
    [4504, "closed"],
    [1009, "closed"],
  ])("after close code %i it is %s", async (code, status) => {
    await goLive();
    fake.socket.end(code);
    expect(client.state.status).toBe(status);
    await fake.clock.advance(60_000);
    expect(fake.sockets.length > 1).toBe(status === "reconnecting");
  });

  it.each([
    [4500, "unauthenticated"],
    [4503, "permission_denied"],
    [4504, "unauthenticated"],
    [1007, "invalid_argument"],
  ])("after close code %i ready() rejects with %s", async (end, code) => {
    await goLive();
    fake.socket.end(end, "why");
    await expect(client.ready()).rejects.toMatchObject({ code, message: "why" });
  });

  it.each(["the network comes back", "recoverState is called"])("starts an attempt that hangs anew when %s", async (event) => {
    client.connect();
    await settle();
    if (event === "recoverState is called") {
      void client.recoverState();
    } else {
      fake.fire("online");
    }
    await settle();
    expect(fake.sockets.map(({ closedWith }) => closedWith)).toEqual([1000, undefined]);
    // A page that is shown says nothing of the network.
    fake.show(false);
    fake.show(true);
    await settle();
    expect(fake.sockets).toHaveLength(2);
    fake.socket.welcome();
    expect(client.state.status).toBe("connected");
  });

  it("recoverState each second, and a handshake that takes longer: it connects", async () => {
    client.connect();
    await settle();
    for (let calls = 0; calls < 2; calls += 1) {
      await fake.clock.advance(1_000);
      void client.recoverState();
      await settle();
    }
    expect(fake.sockets.map(({ closedWith }) => closedWith)).toEqual([1000, undefined]);
    await fake.clock.advance(200);
    fake.socket.welcome();
    expect(client.state.status).toBe("connected");
  });

  it("recoverState while the server allows no other attempt than that of connect: the connection stays", async () => {
    client.on("error", () => undefined);
    client.connect();
    await settle();
    fake.socket.receive({ type: "error", data: { code: "resource_exhausted", message: "too many", retryAfterMs: 20_000 } });
    fake.socket.end(1013);
    client.connect();
    await settle();
    void client.recoverState();
    expect(client.state).toEqual({ status: "connecting", attempt: 1 });
    fake.socket.welcome();
    for (let seconds = 0; seconds < 25; seconds += 1) {
      fake.socket.pong();
      await fake.clock.advance(1_000);
    }
    expect(client.state.status).toBe("connected");
    expect(fake.sockets).toHaveLength(2);
  });

  it("a request that is larger than the server takes rejects, and the session goes on", async () => {
    await goLive();
    fake.socket.pong();
    const small = expect(client.request("get_price", { symbol: "BTC-USD" })).rejects.toMatchObject({ code: "unavailable" });
    const large = expect(client.publish("demo:a", "b".repeat(70_000), { queue: false })).rejects.toMatchObject({ code: "invalid_argument" });
    fake.socket.end(1009, "Frame is too large");
    await small;
    await large;
    expect(client.state.status).toBe("reconnecting");
  });

  it("a second welcome on the open link: requests of the connection before fail, and the rest goes on", async () => {
    await goLive();
    client.subscribe("demo:a", () => undefined);
    await settle();
    const request = expect(client.request("get_price", { symbol: "BTC-USD" })).rejects.toMatchObject({ code: "unavailable" });
    const published = client.publish("demo:a", 1);
    fake.socket.welcome();
    await request;
    expect(client.state.status).toBe("connected");
    expect(fake.socket.sentOf("subscribe")).toHaveLength(2);
    expect(new Set(fake.socket.sentOf("publish").map(({ data }) => data.idempotencyKey)).size).toBe(1);
    fake.socket.receive({ type: "published", id: fake.socket.last("publish").id, data: { channel: "demo:a", epoch: "e", seq: 1 } });
    await expect(published).resolves.toMatchObject({ seq: 1 });
    await fake.clock.advance(1_000);
    expect([fake.sockets.length, fake.socket.closedWith]).toEqual([1, undefined]);
  });

  it("a publication without a form in JSON rejects with a code", async () => {
    await expect(client.publish("demo:a", undefined as never)).rejects.toMatchObject({ name: "TidewireError", code: "invalid_argument" });
    await goLive();
    await expect(client.publish("demo:a", 1n as never, { queue: false })).rejects.toMatchObject({ code: "invalid_argument" });
  });

  it("reconnects at the time that a draining server names, not before", async () => {
    await goLive();
    fake.socket.receive({ type: "reconnect", data: { reason: "draining", afterMs: 3_000 } });
    expect(client.state.status).toBe("connected");
    await fake.clock.advance(1_000);
    fake.socket.end(4003);
    fake.show(false);
    fake.show(true);
    await fake.clock.advance(1_999);
    expect(fake.sockets).toHaveLength(1);
    await fake.clock.advance(1);
    expect(fake.sockets).toHaveLength(2);
  });

  it("backs off from a server that tells each new connection to reconnect at once", async () => {
    client.connect();
    for (let round = 0; round < 1_000; round += 1) {
      await fake.clock.advance(10);
      if (client.state.status === "connecting") {
        fake.socket.welcome();
        fake.socket.receive({ type: "reconnect", data: { reason: "draining", afterMs: 0 } });
      }
    }
    expect(fake.sockets.length).toBeLessThan(8);
  });

  it("reconnects by itself when a draining server keeps the connection open", async () => {
    await goLive();
    fake.socket.receive({ type: "reconnect", data: { reason: "draining", afterMs: 1_000 } });
    await fake.clock.advance(1_000);
    expect(fake.sockets).toHaveLength(2);
    expect(fake.sockets[0]?.closedWith).toBe(1000);
  });

  it.each(["connecting", "connected", "reconnecting"])("stays disconnected if a listener of the state %s disconnects", async (status) => {
    client.on("state", (state) => {
      if (state.status === status) {
        client.disconnect();
      }
    });
    client.connect();
    await settle();
    fake.sockets[0]?.welcome();
    fake.sockets[0]?.end(1006);
    await fake.clock.advance(60_000);
    expect(client.state.status).toBe("disconnected");
    expect(fake.sockets.length).toBeLessThan(2);
    expect(fake.clock.pending).toBe(0);
  });

  it("stays disconnected if a listener of messages or of the quality disconnects", async () => {
    client.on("message", () => {
      client.disconnect();
    });
    await goLive();
    expect(client.state.status).toBe("disconnected");
    await fake.clock.advance(60_000);
    expect(fake.sockets).toHaveLength(1);
    const other = new WebSocketClient("ws://test", { environment: fake.environment });
    other.on("quality", () => {
      other.disconnect();
    });
    other.connect();
    await settle();
    fake.socket.welcome();
    fake.socket.end(1006);
    await fake.clock.advance(250);
    fake.socket.welcome();
    fake.socket.pong();
    expect(other.state.status).toBe("disconnected");
    expect(fake.clock.pending).toBe(0);
  });

  it("opens one connection if a listener disconnects and connects again", async () => {
    let count = 0;
    client.on("state", ({ status }) => {
      if (status === "connecting" && count++ === 0) {
        client.disconnect();
        client.connect();
      }
    });
    client.connect();
    await settle();
    expect(fake.sockets).toHaveLength(1);
    expect(client.state.status).toBe("connecting");
  });

  it("leaves no timer behind when it is closed", async () => {
    await goLive();
    client.disconnect();
    expect(client.state.status).toBe("disconnected");
    expect(fake.clock.pending).toBe(0);
    fake.show(false);
    expect(fake.sockets).toHaveLength(1);
    client.connect();
    await settle();
    expect(fake.sockets).toHaveLength(2);
  });

  it("opens no connection for a token that arrives after the close", async () => {
    let give: (token: string) => void = () => undefined;
    const late = new WebSocketClient("ws://test/v1/ws", {
      getToken: () => new Promise((resolve) => (give = resolve)),
      environment: fake.environment,
    });
    late.connect();
    late.disconnect();
    give("a.b.c");
    await settle();
    expect(fake.sockets).toHaveLength(0);
  });
});

describe("heartbeat", () => {
  it("pings after a silent heartbeat and gives up 1,500 ms later", async () => {
    await goLive();
    fake.socket.pong();
    await fake.clock.advance(1_999);
    expect(fake.socket.sentOf("ping")).toHaveLength(1);
    await fake.clock.advance(1);
    expect(fake.socket.sentOf("ping")).toHaveLength(2);
    await fake.clock.advance(1_499);
    expect(client.state.status).toBe("connected");
    await fake.clock.advance(1);
    expect(client.state).toMatchObject({ status: "reconnecting", end: { code: 1006 } });
    expect(fake.socket.closedWith).toBe("no code");
  });

  it("counts any frame as proof of life", async () => {
    await goLive();
    for (let round = 0; round < 20; round += 1) {
      await fake.clock.advance(1_900);
      fake.socket.receive({ type: "status", data: { state: "ok" } });
    }
    await fake.clock.advance(2_100);
    fake.socket.receive({ type: "status", data: { state: "ok" } });
    await fake.clock.advance(1_900);
    expect(client.state.status).toBe("connected");
  });

  it("uses the heartbeat that the server sends", async () => {
    await goLive();
    const { id } = fake.socket.last("ping");
    fake.socket.receive({ type: "pong", id, data: { serverTime: 1, heartbeatMs: 600 } });
    expect(client.state).toMatchObject({ heartbeatMs: 600 });
    await fake.clock.advance(600);
    expect(fake.socket.sentOf("ping")).toHaveLength(2);
  });

  it("sends no ping for each pong where the server names no heartbeat", async () => {
    await goLive();
    for (let round = 0; round < 5; round += 1) {
      fake.socket.receive({ type: "pong", id: fake.socket.last("ping").id, data: { serverTime: 1, heartbeatMs: 0 } });
    }
    expect(fake.socket.sentOf("ping")).toHaveLength(1);
  });

  it("measures the round trip only while the page is visible", async () => {
    const trips: number[] = [];
    client.on("quality", ({ rttMs }) => trips.push(rttMs ?? -1));
    await goLive();
    await fake.clock.advance(12);
    fake.socket.pong();
    expect(trips).toEqual([12]);
    expect(client.getQuality().rttMs).toBe(12);
    fake.show(false);
    const { id } = fake.socket.last("visibility");
    fake.socket.receive({ type: "visibility", id, data: { state: "background", heartbeatMs: 30_000 } });
    await fake.clock.advance(20_000);
    expect(fake.socket.sentOf("ping")).toHaveLength(1);
    fake.show(true);
    expect(fake.socket.last("visibility").data).toEqual({ state: "active" });
    expect(fake.socket.sentOf("ping").length).toBeGreaterThan(1);
  });

  it("sends the visibility of a hidden page on a new connection", async () => {
    await goLive();
    fake.show(false);
    fake.socket.end(1006);
    await fake.clock.advance(250);
    fake.socket.welcome();
    expect(fake.socket.last("visibility").data).toEqual({ state: "background" });
  });
});

describe("requests", () => {
  it("resolve with their own reply and reject with the server's error", async () => {
    await goLive();
    const first = client.request("get_block", { chain: 1 });
    const second = client.publish("demo:hello", { a: 1 }, { idempotencyKey: "k" });
    const publish = fake.socket.last("publish");
    expect(publish.data).toEqual({ channel: "demo:hello", data: { a: 1 }, idempotencyKey: "k" });
    fake.socket.receive({ type: "published", id: publish.id, data: { channel: "demo:hello", epoch: "e", seq: 7 } });
    const { id } = fake.socket.last("get_block");
    fake.socket.receive({ type: "error", id, data: { code: "not_found", message: "no such chain", retryAfterMs: 5 } });
    await expect(second).resolves.toEqual({ channel: "demo:hello", epoch: "e", seq: 7 });
    await expect(first).rejects.toMatchObject({ code: "not_found", message: "no such chain", retryAfterMs: 5 });
  });

  it("time out, fail with the connection, and fail without one", async () => {
    await expect(client.request("alerts", {})).rejects.toMatchObject({ code: "unavailable", message: "not connected" });
    await goLive();
    const slow = expect(client.request("alerts", {})).rejects.toMatchObject({ code: "deadline_exceeded" });
    for (let round = 0; round < 10; round += 1) {
      await fake.clock.advance(1_000);
      fake.socket.receive({ type: "status", data: { state: "ok" } });
    }
    await slow;
    const lost = expect(client.request("alerts", {})).rejects.toMatchObject({ code: "unavailable" });
    fake.socket.end(1006);
    await lost;
  });

  it("renew the token when the server announces its expiry", async () => {
    let count = 0;
    const own = new WebSocketClient("ws://test/v1/ws", {
      getToken: () => `token-${(count += 1)}`,
      environment: fake.environment,
    });
    own.connect();
    await settle();
    fake.socket.welcome();
    fake.socket.receive({ type: "token_expiring", data: { expiresAt: 1 } });
    await settle();
    expect(fake.socket.last("auth").data).toEqual({ token: "token-2" });
  });
});

describe("messages", () => {
  it("that are invalid are reported, and the connection stays", async () => {
    const errors: string[] = [];
    client = new WebSocketClient("ws://test/v1/ws", { environment: fake.environment, parse: parseChecked });
    client.on("error", (error) => errors.push(error.message));
    await goLive();
    fake.socket.receiveRaw("{");
    fake.socket.receiveRaw('{"type":"gap","data":{"channel":"a","epoch":"e"}}');
    fake.socket.receiveRaw('{"type":"from_the_future","data":1}');
    fake.socket.receive({ type: "error", data: { code: "invalid_argument", message: "what?" } });
    expect(errors).toEqual([
      expect.stringContaining("a frame is no message: Expected property name"),
      "a frame is no message: gap: data.seq: is missing, expected a whole number from 0 up",
      "what?",
    ]);
    expect(client.state.status).toBe("connected");
  });

  it("that are JSON of another form are reported or ignored, and the connection stays", async () => {
    const errors: string[] = [];
    client.on("error", ({ code }) => errors.push(code));
    await goLive();
    for (const frame of ["null", "5", '"text"', "[]", "{}", '{"type":"welcome"}', '{"type":"subscribed"}', '{"type":"error","data":null}', '{"type":"price_batch","data":{}}', '{"type":"pong","data":null}']) {
      fake.socket.receiveRaw(frame);
    }
    expect(new Set(errors)).toEqual(new Set(["invalid_argument"]));
    expect(client.state.status).toBe("connected");
    await expect(Promise.race([client.ready(), Promise.resolve("pending")])).resolves.toMatchObject({ connectionId: "c1" });
  });
});
