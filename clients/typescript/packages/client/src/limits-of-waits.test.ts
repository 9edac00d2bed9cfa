/** Waits that a server or a proxy names, clocks that jump, and what is kept meanwhile: all have a bound. */
import { beforeEach, describe, expect, it } from "vitest";
import type { WebSocketClient } from "./client.ts";
import { TidewireError } from "./errors.ts";
import { StateSync } from "./state-sync.ts";
import { FakeServer } from "./testing/server.ts";
import { clientOf, connectTo, memoryStorage } from "../test/situations.ts";

let server: FakeServer;
let memory: Storage;
let client: WebSocketClient;

beforeEach(async () => {
  server = new FakeServer();
  memory = memoryStorage();
  client = clientOf(server, memory, {});
  await connectTo(server, client);
});

const gap = { type: "gap", channel: "demo:l", data: { channel: "demo:l", epoch: "e", seq: 3 } } as const;

describe("a bound", () => {
  it.each([[1e15, 240_000], [Infinity, 240_000], [1_000, 1_000], [-1, undefined], [NaN, undefined], [0, undefined]])("a delay of %d ms is obeyed as %s", (retryAfterMs, obeyed) => {
    expect(new TidewireError({ code: "unavailable", message: "", retryAfterMs }).retryAfterMs).toBe(obeyed);
  });

  it("a publication that is refused for years is sent again", async () => {
    let count = 0;
    server.answer("publish", ({ channel }) => {
      if (!count++) {
        throw new TidewireError({ code: "resource_exhausted", message: "", retryAfterMs: 3e16 });
      }
      return { channel, epoch: "e", seq: count };
    });
    const done = client.publish("demo:a", 1).catch((error: unknown) => error);
    await server.advance(200_000);
    expect(count).toBe(1);
    await server.advance(50_000);
    expect(count).toBeGreaterThan(1);
    await done;
  });

  it("a clock that was days ahead is set right: publications go on", async () => {
    const { clock } = server.environment;
    let aheadMs = 172_800_000;
    client = clientOf(server, memory, { environment: { ...server.environment, clock: { now: () => clock.now(), wallTime: () => clock.wallTime() + aheadMs, after: (ms, run) => clock.after(ms, run) } } });
    await connectTo(server, client);
    await client.publish("demo:a", "first");
    aheadMs = 0;
    await expect(client.publish("demo:a", "second")).resolves.toMatchObject({ seq: 2 });
  });

  it("a channel that is requested again and left in one tick is unsubscribed", async () => {
    server.setLatest("prices:A");
    const off = client.subscribe("prices:A", () => undefined);
    await server.settle();
    off();
    client.subscribe("prices:A", () => undefined, { minIntervalMs: 500 })();
    await server.advance(1_000);
    expect(server.received.map(({ type }) => type)).toContain("unsubscribe");
  });

  it("a channel that is refused for a while is requested again on the same link, and not without handlers", async () => {
    server.refuse("demo:a", { code: "unavailable", message: "", retryAfterMs: 1_000 });
    const received: unknown[] = [];
    const errors: unknown[] = [];
    const off = client.subscribe("demo:a", ({ data }) => received.push(data), { onError: ({ retryAfterMs }) => errors.push(retryAfterMs) });
    await server.advance(1_500);
    expect(errors).toEqual([1_000, 1_000]);
    server.allow("demo:a");
    await server.advance(1_000);
    server.publish("demo:a", 1);
    await server.settle();
    expect(received).toEqual([1]);
    off();
    server.refuse("demo:b", { code: "unavailable", message: "", retryAfterMs: 1_000 });
    const offOther = client.subscribe("demo:b", () => undefined, { onError: () => undefined });
    await server.settle();
    offOther();
    const requests = (): number => server.received.filter(({ type }) => type === "subscribe").length;
    const count = requests();
    await server.advance(5_000);
    expect(requests()).toBe(count);
  });

  it("a listener of errors that disconnects: each state is told once", async () => {
    client.disconnect();
    memory.setItem(["tidewire/2", "ws://test/v1/ws", "", "x", "y"].map(encodeURIComponent).join("|"), "junk");
    client = clientOf(server, memory, {});
    const states: string[] = [];
    client.on("state", ({ status }) => states.push(status));
    client.on("error", () => {
      client.disconnect();
    });
    client.connect();
    await server.settle();
    expect(states).toEqual(["connecting", "disconnected"]);
  });

  it("a state whose reading fails keeps a thousand publications, and is read anew after more", async () => {
    let isDown = true;
    let loads = 0;
    const shown: unknown[] = [];
    const sync = new StateSync<unknown>(client, "demo:l", {
      initial: "",
      reduce: (_, { data }) => (shown.push(data), data),
      onError: () => undefined,
      load: () => (loads++, isDown ? Promise.reject(new Error("HTTP 500")) : Promise.resolve({ state: "read", seq: 0 })),
    });
    await server.settle();
    server.send(gap);
    await server.settle();
    for (let count = 0; count < 1_000; count++) {
      server.publish("demo:l", count);
    }
    await server.settle();
    const before = loads;
    isDown = false;
    server.publish("demo:l", "last");
    await server.settle();
    expect(loads).toBe(before + 1);
    expect(shown).toEqual([]);
    expect(sync.getState()).toBe("read");
    sync.dispose();
  });

  it("a disposed state has no timer", async () => {
    const timers = (): number => process.getActiveResourcesInfo().filter((name) => name === "Timeout").length;
    const sync = new StateSync(client, "demo:l", {
      initial: "",
      reduce: (text) => text,
      onError: () => undefined,
      load: () => Promise.reject(new TidewireError({ code: "unavailable", message: "", retryAfterMs: 60_000 })),
    });
    await server.settle();
    const before = timers();
    server.send(gap);
    await server.settle();
    expect(timers()).toBe(before + 1);
    sync.dispose();
    expect(timers()).toBe(before);
  });
});
