/** State that follows a channel: what a gap, a failed reading, an older `load` and a late reply must not break. */
import { beforeEach, describe, expect, it, vi } from "vitest";
import { WebSocketClient } from "./client.ts";
import { TidewireError } from "./errors.ts";
import { type LoadedState, StateSync, type StateSyncOptions } from "./state-sync.ts";
import { FakeServer } from "./testing/server.ts";

let server: FakeServer;
let client: WebSocketClient;
let errors: string[];

beforeEach(async () => {
  server = new FakeServer();
  client = new WebSocketClient("ws://test", { environment: server.environment, queue: false });
  errors = [];
  client.connect();
  await server.settle();
});

function open(options: Partial<StateSyncOptions<string>> = {}): StateSync<string> {
  return new StateSync(client, "demo:l", { initial: "", reduce: (text, { data }) => text + (data as string), onError: (error) => errors.push((error as Error).message), ...options });
}

async function publish(...texts: string[]): Promise<void> {
  for (const text of texts) {
    server.publish("demo:l", text);
  }
  await server.settle();
}

describe("a state", () => {
  it("a gap whose reading fails: nothing is shown without the past, and it is read again with the next publication", async () => {
    const sync = open();
    await sync.syncState();
    await publish("a", "b", "c");
    const { request } = client;
    const busy: typeof request = () => Promise.reject(new Error("busy"));
    Object.assign(client, { request: busy });
    server.send({ type: "gap", channel: "demo:l", data: { channel: "demo:l", epoch: "e", seq: 3 } });
    await server.settle();
    expect(errors).toEqual(["busy"]);
    Object.assign(client, { request });
    expect(sync.getState()).toBe("abc");
    await publish("d");
    expect(sync.getState()).toBe("abcd");
    expect(errors).toEqual(["busy"]);
    await publish("e");
    expect(sync.getState()).toBe("abcde");
  });

  it("a reading after a gap goes on failing: it is tried more and more seldom, and again on the next connection", async () => {
    const sync = open();
    await sync.syncState();
    await publish("a");
    const { request } = client;
    Object.assign(client, { request: () => Promise.reject(new Error("busy")) });
    server.send({ type: "gap", channel: "demo:l", data: { channel: "demo:l", epoch: "e", seq: 1 } });
    await server.settle();
    for (const text of "bcdefghij") {
      await publish(text);
    }
    expect(errors).toHaveLength(5);
    expect(sync.getState()).toBe("a");
    Object.assign(client, { request });
    server.cut();
    await server.advance(1_000);
    expect(sync.getState()).toBe("abcdefghij");
  });

  it("a gap whose reading is refused: the state of before is shown with the changes on it, and it is read at the time that the refusal names", async () => {
    vi.useFakeTimers();
    try {
      const sync = open();
      await publish("a", "b");
      await sync.syncState();
      const [confirmed, waiting] = ["c", "d"].map((text) => sync.applyOptimistic((before) => before + text));
      sync.confirmUpdate(confirmed ?? "", 3);
      let isBusy = true;
      const { request } = client;
      const busy: typeof request = (type, data) => (isBusy ? Promise.reject(new TidewireError({ code: "resource_exhausted", message: "busy", retryAfterMs: 100 })) : request(type, data));
      Object.assign(client, { request: busy });
      server.loseHistory("demo:l");
      await server.settle();
      expect(errors).toEqual(["busy"]);
      expect(sync.getState()).toBe("abcd");
      sync.rollbackUpdate(waiting ?? "");
      expect(sync.getState()).toBe("abc");
      await vi.advanceTimersByTimeAsync(250);
      expect(errors).toHaveLength(3);
      isBusy = false;
      server.publish("demo:l", "x");
      await vi.advanceTimersByTimeAsync(100);
      await server.settle();
      expect(sync.getState()).toBe("x");
      expect(vi.getTimerCount()).toBe(0);
      isBusy = true;
      server.loseHistory("demo:l");
      await server.settle();
      sync.dispose();
      await vi.advanceTimersByTimeAsync(1_000);
      expect(errors).toHaveLength(4);
    } finally {
      vi.useRealTimers();
    }
  });

  it("the first reading fails: the next one has all that was published before the subscription too", async () => {
    await publish("a", "b");
    const sync = open();
    await server.settle();
    const { request } = client;
    Object.assign(client, { request: () => Promise.reject(new Error("busy")) });
    await expect(sync.syncState()).rejects.toThrow("busy");
    Object.assign(client, { request });
    await publish("c");
    expect(await sync.syncState()).toBe("abc");
    await publish("d");
    expect(sync.getState()).toBe("abcd");
  });

  it("a confirmed change that the loaded state has already shows once", async () => {
    let loaded: LoadedState<string> = { state: "", seq: 0 };
    const sync = open({ load: () => Promise.resolve(loaded) });
    await sync.syncState();
    const id = sync.applyOptimistic((text) => `${text}a`);
    sync.confirmUpdate(id, 1);
    loaded = { state: "a", seq: 1 };
    expect(await sync.syncState()).toBe("a");
  });

  it("a change that was confirmed before a new epoch is part of the state that is read", async () => {
    let loaded: LoadedState<string> = { state: "", seq: 0 };
    const sync = open({ load: () => Promise.resolve(loaded) });
    await sync.syncState();
    await publish("x", "y", "z");
    const id = sync.applyOptimistic((text) => `${text}a`);
    server.cut();
    sync.confirmUpdate(id, 4);
    loaded = { state: "xyza", seq: 0 };
    server.loseHistory("demo:l");
    await server.advance(1_000);
    await publish("b");
    expect(sync.getState()).toBe("xyzab");
  });

  it("a loaded state that is older than what is shown: what lies between is read", async () => {
    const sync = open({ load: () => Promise.resolve({ state: "ab", seq: 2 }) });
    await server.settle();
    await publish("a", "b", "c", "d");
    expect(sync.getState()).toBe("abcd");
    expect(await sync.syncState()).toBe("abcd");
    await publish("e");
    expect(sync.getState()).toBe("abcde");
  });
});
