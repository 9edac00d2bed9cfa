/** Situations that users of other clients reported. Each test has the name of its situation. */
import { beforeEach, describe, expect, it } from "vitest";
import type { ClientOptions, ClientState } from "./api.ts";
import { WebSocketClient } from "./client.ts";
import type { ChannelMessage } from "./subscriptions.ts";
import { FakeEnvironment } from "./testing/fakes.ts";
import { FakeServer } from "./testing/server.ts";
import { FakeStreams, until } from "./testing/streams.ts";
import { clientOf, collectFrom, connectTo, memoryStorage, seqs } from "../test/situations.ts";

let server: FakeServer;
let client: WebSocketClient;
let memory: Storage;

beforeEach(() => {
  server = new FakeServer();
  memory = memoryStorage();
  client = open();
});

function open(options: ClientOptions = {}): WebSocketClient {
  return clientOf(server, memory, options);
}

const connect = (of = client): Promise<void> => connectTo(server, of);
const collect = (channel: string, of = client): ChannelMessage[] => collectFrom(of, channel);

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

  it("a slow welcome: the second attempt has twice the time, and the WebSocket stays", async () => {
    client.connect();
    await fake.clock.advance(2_500 + 250);
    expect(fake.sockets).toHaveLength(2);
    await fake.clock.advance(4_000);
    fake.socket.welcome();
    expect(client.state).toMatchObject({ status: "connected", transport: "websocket" });
    expect(streams.streams).toEqual([]);
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
    streams.answer = () => Promise.resolve(Response.json({ code: 14, message: "no upstream" }, { status: 503 }));
    await expect(client.request("alerts", {})).rejects.toMatchObject({ code: "unavailable", message: "HTTP status 503" });
    streams.answer = () => Promise.resolve(new Response("null", { status: 503 }));
    await expect(client.request("alerts", {})).rejects.toMatchObject({ code: "unavailable", message: "HTTP status 503" });
  });

  it.each(["<html>please sign in</html>", "", "null", '{"error":"please sign in"}'])("a portal answers POSTs with its own page: %j is no reply, and the queue keeps its order", async (page) => {
    await fallBack();
    const { answer } = streams;
    streams.answer = () => Promise.resolve(new Response(page));
    await expect(client.request("alerts", {})).rejects.toMatchObject({ code: "unavailable" });
    const first = client.publish("demo:a", 1);
    const count = streams.posts.length;
    await until(() => streams.posts.length > count);
    let seq = 0;
    streams.answer = (message) => (message.type === "publish" ? Promise.resolve(Response.json({ type: "published", id: message.id, data: { channel: "demo:a", epoch: "e", seq: ++seq } })) : answer(message));
    await until(() => true);
    const second = client.publish("demo:a", 2);
    await beat(1);
    expect(await Promise.all([first, second])).toMatchObject([{ seq: 1 }, { seq: 2 }]);
  });

  /** Lets time pass, with an event of the server each second. */
  async function beat(seconds: number): Promise<void> {
    for (let second = 0; second < seconds; second += 1) {
      await fake.clock.advance(1_000);
      streams.stream.receive({ type: "ping", data: { serverTime: 1 } });
      await until(() => true);
    }
  }

  it("the stream is dead while POSTs get through: noticed within 5 s, also after a wake", async () => {
    await fallBack();
    const before = fake.clock.now();
    while (client.state.status === "connected" && fake.clock.now() < before + 20_000) {
      await fake.clock.advance(100);
      await until(() => true);
    }
    expect(client.state).toMatchObject({ status: "reconnecting", end: { reason: "no frame came after a ping" } });
    expect(fake.clock.now() - before).toBeLessThanOrEqual(5_000);
    await fake.clock.advance(4_000);
    await until(() => streams.streams.length === 2);
    streams.stream.welcome();
    await until(() => client.state.status === "connected");
    await beat(2);
    fake.fire("online");
    // A live server sends its `ping` after a heartbeat of silence.
    await fake.clock.advance(2_000);
    streams.stream.receive({ type: "ping", data: { serverTime: 1 } });
    await until(() => true);
    await fake.clock.advance(1_500);
    expect(client.state.status).toBe("connected");
    await fake.clock.advance(2_000);
    expect(client.state.status).toBe("reconnecting");
  });

  it("one POST hangs: another stream is opened, and POSTs work again", async () => {
    const { answer } = streams;
    await fallBack();
    await until(() => streams.posts.length === 1);
    streams.answer = () => new Promise(() => undefined);
    const request = client.request("alerts", {});
    const hung = expect(request).rejects.toMatchObject({ code: "deadline_exceeded" });
    await until(() => streams.posts.length === 2);
    streams.answer = answer;
    await beat(16);
    await hung;
    await until(() => streams.streams.length === 2);
    streams.stream.welcome();
    await until(() => client.state.status === "connected");
    await expect(client.request("ping", {})).resolves.toMatchObject({ heartbeatMs: 2_000 });
  });

  it("a portal answers 403 with its own page: it reconnects, and only the server's own refusal closes", async () => {
    client = new WebSocketClient("ws://test", { environment: fake.environment, transports: ["sse"] });
    for (const body of ["<html>please sign in</html>", '{"code":403}', '{"error":"forbidden"}']) {
      streams.refusal = new Response(body, { status: 403 });
      const { refused } = streams;
      client.connect();
      await until(() => streams.refused > refused && client.state.status === "reconnecting");
    }
    streams.refusal = Response.json({ code: "permission_denied", message: "not yours" }, { status: 403 });
    client.connect();
    await until(() => client.state.status === "closed");
  });

  it("getToken fails for the try to return to a WebSocket: the stream goes on, and it is tried again", async () => {
    const errors: string[] = [];
    let isDown = false;
    const getToken = (): string => {
      if (isDown) {
        throw new Error("502");
      }
      return "t";
    };
    client = new WebSocketClient("ws://test", { environment: fake.environment, getToken });
    client.on("error", ({ message }) => errors.push(message));
    await fallBack();
    isDown = true;
    await beat(16);
    expect(errors).toEqual(["the token could not be renewed: 502"]);
    expect(client.state).toMatchObject({ status: "connected", transport: "sse" });
    isDown = false;
    const { length } = fake.sockets;
    await beat(31);
    expect(fake.sockets).toHaveLength(length + 1);
    expect(streams.streams).toHaveLength(1);
  });

  it("a request is under way when a WebSocket replaces the stream: the stream answers it, and no subscription twice", async () => {
    const answers: (() => void)[] = [];
    const { answer } = streams;
    await fallBack();
    const received = collect("demo:a");
    await beat(14);
    streams.answer = ({ id, type }) =>
      new Promise((resolve) => {
        answers.push(() => {
          resolve(Response.json(type === "alerts" ? { type, id, data: { items: [] } } : { type: "error", id, data: { code: "unavailable", message: "late" } }));
        });
      });
    const [first, second] = [client.request("alerts", {}), client.request("alerts", {})];
    await beat(1);
    fake.socket.welcome();
    expect(client.state).toMatchObject({ transport: "websocket" });
    streams.answer = answer;
    answers[0]?.();
    await expect(first).resolves.toEqual({ items: [] });
    // The WebSocket has what follows. Two copies would be one too many.
    streams.stream.receive({ type: "message", channel: "demo:a", seq: 1, data: 1 });
    await expect(second).resolves.toBeDefined();
    expect(received).toEqual([]);
  });

  it("many requests over a slow stream: the time of each begins when the one before it is answered", async () => {
    await fallBack();
    const answers: (() => void)[] = [];
    streams.answer = ({ id, type }) =>
      new Promise((resolve) => {
        answers.push(() => {
          resolve(Response.json(type === "ping" ? { type: "pong", id, data: { serverTime: 1, heartbeatMs: 2_000 } } : { type, id, data: { items: [] } }));
        });
      });
    const requests = [1, 2, 3].map(() => client.request("alerts", {}));
    for (let number = 0; number < 3; number += 1) {
      await until(() => answers.length > number);
      await beat(6);
      answers[number]?.();
    }
    expect(await Promise.all(requests)).toHaveLength(3);
    expect(client.state).toMatchObject({ status: "connected", transport: "sse" });
  });

  it("a reply over a stream that can not be parsed: the request ends in its time, though later ones are answered", async () => {
    const parse = (frame: string): unknown => {
      if (frame.includes('"alerts"')) {
        throw new TypeError("bad");
      }
      return JSON.parse(frame);
    };
    client.setOptions({ parse });
    client.on("error", () => undefined);
    await fallBack();
    const { answer } = streams;
    streams.answer = (message) => (message.type === "alerts" ? Promise.resolve(Response.json({ type: "alerts", id: message.id, data: {} })) : answer(message));
    const request = expect(client.request("alerts", {})).rejects.toMatchObject({ code: "deadline_exceeded" });
    await beat(14);
    await request;
    expect(client.state).toMatchObject({ status: "connected", transport: "sse" });
  });

  it.each([
    ["the server", (): Response => Response.json({ code: "resource_exhausted", message: "too many", retryAfterMs: 60_000 }, { status: 429 })],
    ["a proxy", (): Response => new Response("<html>", { status: 503, headers: { "retry-after": "60" } })],
  ])("%s refuses a stream for a minute: none is tried before", async (_, refusal) => {
    const errors: (number | undefined)[] = [];
    client.setOptions({ transports: ["sse"] });
    client.on("error", ({ retryAfterMs }) => errors.push(retryAfterMs));
    streams.refusal = refusal();
    client.connect();
    await until(() => client.state.status === "reconnecting");
    expect(client.state).toMatchObject({ retryAt: fake.clock.wallTime() + 60_000 });
    expect(errors).toEqual([60_000]);
    fake.fire("online");
    await fake.clock.advance(59_999);
    expect(streams.refused).toBe(1);
    streams.refusal = undefined;
    await fake.clock.advance(1);
    await until(() => streams.streams.length === 1);
  });

  it("a proxy refuses a POST for ten seconds: the publication is sent again after them", async () => {
    await fallBack();
    streams.answer = () => Promise.resolve(new Response("<html>", { status: 503, headers: { "retry-after": "10" } }));
    const held = client.publish("demo:a", 1);
    await until(() => streams.posts.some(({ message }) => message.type === "publish"));
    streams.answer = ({ type, id }) => Promise.resolve(Response.json(type === "publish" ? { type: "published", id, data: { channel: "demo:a", epoch: "e", seq: 1 } } : { type: "pong", id, data: { serverTime: 1, heartbeatMs: 2_000 } }));
    await until(() => true);
    const sent = (): number => streams.posts.filter(({ message }) => message.type === "publish").length;
    await beat(9);
    expect(sent()).toBe(1);
    await beat(1);
    await expect(held).resolves.toMatchObject({ seq: 1 });
    expect(sent()).toBe(2);
  });

  it("a listener disconnects when the stream is connected: no WebSocket is tried", async () => {
    client.on("state", ({ status }) => {
      if (status === "connected") {
        client.disconnect();
      }
    });
    client.connect();
    await fake.clock.advance(2_500 + 250 + 5_000 + 500);
    await until(() => streams.streams.length === 1);
    streams.stream.welcome();
    await until(() => client.state.status === "disconnected");
    const { length } = fake.sockets;
    await fake.clock.advance(60_000);
    expect(fake.sockets).toHaveLength(length);
  });

  it("transports are tried in the order of the option", async () => {
    client = new WebSocketClient("ws://test", { environment: fake.environment, transports: ["sse", "websocket"] });
    client.connect();
    await until(() => streams.streams.length === 1);
    streams.stream.welcome();
    await until(() => client.state.status === "connected");
    await beat(16);
    expect(fake.sockets).toEqual([]);
  });

  it("an event that is no message is reported, and the stream goes on", async () => {
    const errors: string[] = [];
    client.on("error", ({ message }) => errors.push(message));
    await fallBack();
    const types: string[] = [];
    client.on("message", ({ type }) => types.push(type));
    streams.stream.receiveRaw("{");
    streams.stream.receiveRaw("null");
    streams.stream.receive({ type: "status", data: { state: "ok" } });
    await until(() => types.includes("status"));
    expect(errors).toMatchObject([expect.stringContaining("a frame is no message"), expect.stringContaining("a frame is no message")]);
    expect(client.state).toMatchObject({ status: "connected", transport: "sse" });
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

  it("a relative URL where there is no page: a render on a server constructs a client, and never connects it", () => {
    expect(new WebSocketClient("/v1/ws").state.status).toBe("disconnected");
  });

  it("http and a bare host work", async () => {
    client = new WebSocketClient("http://test", { environment: server.environment });
    await connect();
    expect(server.fake.socket.url).toBe("ws://test/v1/ws");
  });

  it.each([
    ["wss://test/v1/ws", (url: string) => url.startsWith("http:"), "the server speaks plain text: use ws:, not wss:"],
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

