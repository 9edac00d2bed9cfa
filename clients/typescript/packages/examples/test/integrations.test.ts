/** The integrations of the Next.js example, handler by handler, against a real server. */
import { type ChannelMessage, WebSocketClient } from "@tidewire/client";
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import WebSocket from "ws";
import { POST as notify } from "../../../examples/next/app/api/notify/route.ts";
import { POST as pay } from "../../../examples/next/app/api/payments/route.ts";
import { GET as token } from "../../../examples/next/app/api/token/route.ts";
import { POST as visit } from "../../../examples/next/app/api/visits/route.ts";
import { closeGrpc } from "../../../examples/next/lib/grpc.ts";
import { binary, ethereum, hasAnvil, PROTO, type Running, startNode, startServer } from "./server.ts";

const SECRET = "0123456789abcdef0123456789abcdef";
const LIMIT = 60_000;

const request = (user: string, body?: object, headers: Record<string, string> = {}): Request =>
  new Request("http://example.com/api", { headers: { cookie: `theme=dark; user=${user}`, ...headers }, ...(body && { method: "POST", body: JSON.stringify(body) }) });

describe.skipIf(binary === undefined)("integrations", () => {
  let node: Running | undefined;
  let server: Running;
  const clients: WebSocketClient[] = [];

  beforeAll(async () => {
    node = hasAnvil ? await startNode() : undefined;
    server = await startServer(node);
    vi.stubEnv("TIDEWIRE_URL", `http://${server.address}`);
    vi.stubEnv("TIDEWIRE_SECRET", SECRET);
    vi.stubEnv("TIDEWIRE_PROTO", PROTO);
  }, LIMIT);
  afterEach(() => {
    for (const client of clients.splice(0)) {
      client.disconnect();
    }
  });
  afterAll(async () => {
    closeGrpc();
    vi.unstubAllEnvs();
    await server.stop();
    await node?.stop();
  });

  /** A client of a user's browser, with the token route. */
  function browser(user: string, onToken: () => void = () => undefined): WebSocketClient {
    const client = new WebSocketClient(`ws://${server.address}/v1/ws`, {
      webSocket: WebSocket,
      getToken: async () => {
        onToken();
        return ((await token(request(user)).json()) as { token: string }).token;
      },
    });
    clients.push(client);
    client.connect();
    return client;
  }

  /** Collects the messages of a channel, after its subscription took effect. */
  async function follow(client: WebSocketClient, channel: string): Promise<ChannelMessage[]> {
    const messages: ChannelMessage[] = [];
    await client.ready();
    client.subscribe(channel, (message) => messages.push(message));
    await client.request("history", { channel, limit: 0 });
    return messages;
  }

  it("the API route notifies the signed-in user, once for one key", { timeout: LIMIT }, async () => {
    const messages = await follow(browser("ada"), "user:ada");
    const once = { "idempotency-key": "click-1" };
    const replies = [await notify(request("ada", { title: "Shipped" }, once)), await notify(request("ada", { title: "Shipped" }, once))];
    expect(replies.map(({ status }) => status)).toEqual([200, 200]);
    const [first, second] = (await Promise.all(replies.map((reply) => reply.json()))) as { id: string }[];
    expect(second?.id).toBe(first?.id);
    await vi.waitFor(() => { expect(messages.length).toBeGreaterThan(0); }, LIMIT);
    await notify(request("ada", { title: "Delivered" }));
    await vi.waitFor(() => { expect(messages).toHaveLength(2); }, LIMIT);
    expect(messages.map(({ type, data }) => [type, (data as { title: string }).title])).toEqual([
      ["notification", "Shipped"],
      ["notification", "Delivered"],
    ]);
    expect((await notify(request("ada", { title: 7 }))).status).toBe(400);
    expect((await notify(new Request("http://example.com", { method: "POST", body: "{}" }))).status).toBe(400);
  });

  it("the analytics route publishes over gRPC, and a newcomer receives the newest value", { timeout: LIMIT }, async () => {
    const live = await follow(browser("ada"), "analytics:visits");
    await visit();
    await visit();
    await vi.waitFor(() => { expect(live.at(-1)?.data).toMatchObject({ visits: 2 }); }, LIMIT);
    const late = await follow(browser("bob"), "analytics:visits");
    await vi.waitFor(() => { expect(late.map(({ data }) => data)).toMatchObject([{ visits: 2 }]); }, LIMIT);
  });

  it("the token route's token is renewed in place before it expires", { timeout: LIMIT }, async () => {
    expect(token(new Request("http://example.com/api/token")).status).toBe(401);
    // The server asks for a fresh token 30 s before the end: right after the connection.
    vi.stubEnv("TOKEN_TTL_SECONDS", "31");
    let tokens = 0;
    const client = browser("ada", () => {
      tokens += 1;
      if (tokens > 1) {
        vi.stubEnv("TOKEN_TTL_SECONDS", "300");
      }
    });
    const expiries: number[] = [];
    client.on("message", (message) => {
      if (message.type === "authenticated") {
        expiries.push(message.data.expiresAt);
      }
    });
    const { connectionId, expiresAt } = await client.ready();
    await vi.waitFor(() => { expect(expiries).toHaveLength(1); }, LIMIT);
    expect(expiries[0]).toBeGreaterThan(expiresAt ?? Infinity);
    const { state } = client;
    expect(state.status === "connected" && state.welcome.connectionId).toBe(connectionId);
    expect(tokens).toBe(2);
  });

  it("the payment route follows a transaction to its end, for its owner alone", { timeout: LIMIT }, async () => {
    if (node === undefined) {
      throw new Error("no chain node, expected one after `npm install` in tests/tools");
    }
    const running = node;
    const [from, to] = await ethereum<string[]>(running, "eth_accounts");
    await ethereum(running, "evm_setAutomine", false);
    const hash = await ethereum<string>(running, "eth_sendTransaction", { from, to, value: "0x1" });
    const steps = await follow(browser("ada"), "payments:ada");
    const refused: string[] = [];
    const stranger = browser("bob");
    stranger.subscribe("payments:ada", () => refused.push("a message"), { onError: ({ code }) => refused.push(code) });

    expect((await pay(request("ada", { order: "o-1", chain: 31337, hash }))).status).toBe(202);
    await vi.waitFor(() => { expect(steps.map(({ data }) => data)).toMatchObject([{ order: "o-1", state: "pending" }]); }, LIMIT);
    // Each block is one step more, until the block is final.
    await vi.waitFor(async () => {
      await ethereum(running, "evm_mine");
      expect(steps.at(-1)?.data).toMatchObject({ state: "finalized", hash });
    }, { timeout: LIMIT, interval: 200 });
    const states = steps.map(({ data }) => (data as { state: string }).state);
    expect(states.filter((state, index) => states.indexOf(state) === index)).toEqual(["pending", "confirming", "confirmed", "finalized"]);
    await vi.waitFor(() => { expect(refused).toEqual(["permission_denied"]); }, LIMIT);
    expect((await pay(request("ada", { order: "o-2" }))).status).toBe(400);
  });
});
