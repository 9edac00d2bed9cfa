/** The client against a real server, over WebSocket and over event streams. */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { parseChecked } from "../src/checks/index.ts";
import { WebSocketClient } from "../src/client.ts";
import { exact, parseExact } from "../src/exact.ts";
import { StateSync } from "../src/state-sync.ts";
import type { ClientOptions, TransportName } from "../src/api.ts";
import type { ChannelMessage } from "../src/subscriptions.ts";
import type { Json } from "../src/types/common.ts";
import { CutProxy } from "./proxy.ts";
import { binary, RealServer, until } from "./server.ts";

const clients: WebSocketClient[] = [];

function open(address: string, options: ClientOptions = {}): WebSocketClient {
  const client = new WebSocketClient(`ws://${address}`, { parse: parseChecked, ...options });
  clients.push(client);
  client.connect();
  return client;
}

/** Subscribes, and resolves to the list of what arrives once the server has confirmed it. */
async function collect(client: WebSocketClient, channel: string): Promise<ChannelMessage[]> {
  const received: ChannelMessage[] = [];
  await new Promise<void>((resolve, reject) => {
    const onSubscribed = (): void => {
      resolve();
    };
    client.subscribe(channel, (message) => received.push(message), { onError: reject, onSubscribed });
  });
  return received;
}

describe.skipIf(binary === undefined)("a real server", { timeout: 60_000 }, () => {
  const server = new RealServer();
  beforeAll(() => server.start());
  afterAll(async () => {
    for (const client of clients) {
      client.disconnect();
    }
    await server.close();
  });

  it.each<TransportName>(["websocket", "sse"])("over %s: publishes, subscribes, and resumes after a cut without gap or duplicate", async (transport) => {
    const channel = `demo:resume-${transport}`;
    const proxy = new CutProxy(server.address, 2_000);
    const client = open(await proxy.listen(), { transports: [transport] });
    const publisher = open(server.address);
    const received = await collect(client, channel);
    await client.ready();
    for (let n = 1; n <= 60; n += 1) {
      await publisher.publish(channel, { n, filler: "~".repeat(n * 10) });
    }
    await publisher.publish(channel, "last");
    await until(() => received.at(-1)?.data === "last");
    expect(proxy.accepted).toBeGreaterThan(1);
    expect(received.map(({ seq }) => seq)).toEqual(received.map((_, index) => index + 1));
    expect(client.state).toMatchObject({ status: "connected", transport });
    await expect(client.publish(channel, "mine")).resolves.toMatchObject({ seq: 62 });
    expect(await client.request("history", { channel, limit: 1 })).toMatchObject({ seq: 62 });
    proxy.close();
  });

  it.each<TransportName>(["websocket", "sse"])("over %s: a publication that the server cannot read is refused, and the next one is published", async (transport) => {
    const client = open(server.address, { transports: [transport] });
    await client.ready();
    let nested: Json = 1;
    for (let depth = 0; depth < 300; depth += 1) {
      nested = [nested];
    }
    const refused = expect(client.publish(`demo:deep-${transport}`, nested)).rejects.toMatchObject({ code: "invalid_argument" });
    await expect(client.publish(`demo:deep-${transport}`, "flat")).resolves.toMatchObject({ seq: 1 });
    await refused;
  });

  it.each<TransportName>(["websocket", "sse"])("over %s: the user's own channel resumes, and nothing is lost", async (transport) => {
    const token = server.token(`user-${transport}`);
    const client = open(server.address, { token, transports: [transport] });
    const { userId = "" } = await client.ready();
    expect(userId).toBe(`user-${transport}`);
    const received = await collect(client, `user:${userId}`);
    await client.request("unread_count", {});
    const notify = async (title: string): Promise<void> => {
      const body = JSON.stringify({ user: userId, notification: { type: "system_announcement", title, priority: "urgent" } });
      const response = await fetch(`http://${server.address}/v1/rpc/NotifyService/Notify`, { method: "POST", body });
      expect(response.status).toBe(200);
    };
    await notify("one");
    await until(() => received.length > 0);
    client.disconnect();
    await notify("two");
    client.connect();
    await until(() => JSON.stringify(received).includes('"two"'));
    expect(received.filter((message) => JSON.stringify(message).includes('"one"'))).toHaveLength(1);
  });

  it("a refused token closes with the server's reason, over both transports", async () => {
    for (const transports of [["websocket"], ["sse"]] as const) {
      const client = open(server.address, { token: "not.a.token", transports });
      client.on("error", () => undefined);
      await expect(client.ready()).rejects.toThrow("is not a JSON Web Token");
      expect(client.state).toMatchObject({ status: "closed", end: { code: 4500 } });
    }
  });

  it("a wrong path and TLS against plain text say what they are", async () => {
    for (const [url, text] of [
      [`ws://${server.address}/v1/wss`, "nothing is at /v1/wss"],
      [`wss://${server.address}/v1/ws`, "use ws:, not wss:"],
    ] as const) {
      const client = new WebSocketClient(url, { transports: ["websocket"] });
      clients.push(client);
      const errors: string[] = [];
      client.on("error", ({ message }) => errors.push(message));
      client.connect();
      await until(() => errors.some((message) => message.includes(text)));
      client.disconnect();
    }
  });

  it("publications of a stopped server wait and are published once, and a state follows", async () => {
    const client = open(server.address);
    await client.ready();
    const append = (state: readonly Json[], { data }: { readonly data: Json }): readonly Json[] => [...state, data];
    const sync = new StateSync<readonly Json[]>(client, "demo:restart", { initial: [], reduce: append });
    await client.publish("demo:restart", 1);
    await until(() => sync.getState().length === 1);
    await server.stop();
    await until(() => client.state.status === "reconnecting");
    const held = [2, 3].map((n) => client.publish("demo:restart", n));
    await server.start();
    const positions = await Promise.all(held);
    expect((positions[1]?.seq ?? 0) - (positions[0]?.seq ?? 0)).toBe(1);
    await until(() => sync.getState().at(-1) === 3);
    expect(await sync.syncState()).toEqual(sync.getState());
  });

  it("an optimistic change shows once, also while others publish", async () => {
    const client = open(server.address);
    const other = open(server.address);
    await Promise.all([client.ready(), other.ready()]);
    const list = new StateSync<readonly Json[]>(client, "demo:flicker", { initial: [], reduce: (items, { data }) => [...items, data] });
    await list.syncState();
    const twice: (readonly Json[])[] = [];
    list.subscribe(() => {
      const items = list.getState();
      if (new Set(items).size < items.length) {
        twice.push(items);
      }
    });
    const publishing: Promise<unknown>[] = [];
    for (let n = 0; n < 50; n += 1) {
      publishing.push(other.publish("demo:flicker", `other ${n}`));
      const id = list.applyOptimistic((items) => [...items, `own ${n}`]);
      const position = client.publish("demo:flicker", `own ${n}`).then(({ seq }) => {
        list.confirmUpdate(id, seq);
      });
      // Some one after the other, some at once.
      await (n % 3 === 0 ? position : undefined);
      publishing.push(position);
    }
    await Promise.all(publishing);
    await until(() => list.getState().length === 100);
    expect(twice).toEqual([]);
  });

  it("numbers are available with every digit", async () => {
    const client = open(server.address, { parse: parseExact });
    const received = await collect(client, "demo:exact");
    await client.ready();
    await fetch(`http://${server.address}/v1/rpc/StreamService/Publish`, {
      method: "POST",
      body: '{"channel":"demo:exact","data":{"price":0.1000000000000000055,"big":123456789012345678901234567890,"text":"1.50 \\"2.5\\""}}',
    });
    await until(() => received.length === 1);
    expect(exact(received[0]?.data as object)).toEqual({ price: "0.1000000000000000055", big: "123456789012345678901234567890", text: '1.50 "2.5"' });
  });
});

describe.skipIf(binary === undefined)("a hidden tab", { timeout: 60_000 }, () => {
  const server = new RealServer("replay", "--loop");
  beforeAll(() => server.start());
  afterAll(() => server.close());

  it("costs at least 95 % fewer bytes", async () => {
    const proxy = new CutProxy(server.address);
    let isVisible = true;
    let listener: (event: string) => void = () => undefined;
    const page = {
      isVisible: () => isVisible,
      onChange: (run: (event: string) => void) => {
        listener = run;
        return () => undefined;
      },
    };
    const client = open(await proxy.listen(), { environment: { page }, transports: ["websocket"] });
    const overview = await client.ready();
    expect(overview.version).not.toBe("");
    let seen = 0;
    for (const channel of ["prices:BTC-USD", "prices:ETH-USD", "market:overview"]) {
      client.subscribe(channel, () => (seen += 1));
    }
    const bytesOf = async (ms: number): Promise<number> => {
      const before = proxy.bytes;
      await new Promise((resolve) => setTimeout(resolve, ms));
      return proxy.bytes - before;
    };
    await until(() => seen > 10);
    const shown = await bytesOf(5_000);
    isVisible = false;
    listener("visibilitychange");
    await bytesOf(500);
    const hidden = await bytesOf(5_000);
    process.stdout.write(`hidden tab: ${shown} bytes in 5 s while shown, ${hidden} while hidden\n`);
    expect(hidden).toBeLessThanOrEqual(shown * 0.05);
    client.disconnect();
    proxy.close();
  });
});
