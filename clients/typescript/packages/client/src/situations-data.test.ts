/** Situations that users of other clients reported. Each test has the name of its situation. */
import { beforeEach, describe, expect, it, vi } from "vitest";
import type { ClientError, ClientOptions } from "./api.ts";
import type { WebSocketClient } from "./client.ts";
import { type StateMessage, StateSync } from "./state-sync.ts";
import { FakeServer } from "./testing/server.ts";
import type { Json } from "./types/common.ts";
import { clientOf, connectTo, memoryStorage } from "../test/situations.ts";

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

const published = (): Json[] => server.received.flatMap((message) => (message.type === "publish" ? [message.data?.data ?? null] : []));

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

  it("a damaged entry of the storage is left out, removed and reported, and the rest is sent", async () => {
    await connect();
    server.blackHole();
    void client.publish("demo:a", "held");
    const [key = ""] = Array.from({ length: memory.length }, (_, index) => memory.key(index) ?? "");
    const good = JSON.parse(memory.getItem(key) ?? "") as { readonly request: object };
    const prefix = key.slice(0, key.lastIndexOf("|") + 1);
    const damaged = ["{", "", "null", "[]", '"text"', "{}", '{"request":null,"at":1}', JSON.stringify({ ...good, at: "soon" }), JSON.stringify(good)];
    for (const [index, text] of damaged.entries()) {
      memory.setItem(`${prefix}damaged-${index}`, text);
    }
    memory.setItem("of another library", "{");
    const again = open();
    const errors: ClientError[] = [];
    again.on("error", (error) => errors.push(error));
    await connect(again);
    await server.settle();
    expect(published()).toEqual(["held"]);
    expect(errors.map(({ code, message }) => `${code}: ${message}`).sort()).toEqual(damaged.map((text) => `data_loss: a stored publication is damaged: ${text}`).sort());
    expect(memory.length).toBe(1);
  });

  it("a stored publication that is refused after a reload is reported: its promise went with the page", async () => {
    client = open({ queue: { storage: memory, user: "" } });
    void client.publish("secret:x", 1);
    server.refuse("secret:x", { code: "permission_denied", message: "not yours" });
    const again = open();
    const errors: ClientError[] = [];
    again.on("error", (error) => errors.push(error));
    await connect(again);
    await server.settle();
    expect(errors).toMatchObject([{ code: "permission_denied", message: "a stored publication on secret:x failed: not yours" }]);
    expect(memory.length).toBe(0);
  });

  it.each(["length", "key", "getItem", "setItem", "removeItem"] as const)("a storage whose `%s` fails: it is reported once, and the publications are sent", async (name) => {
    const broken = new Proxy(memory, {
      get(target, property) {
        if (property === name) {
          throw new DOMException("the quota is exceeded", "QuotaExceededError");
        }
        return Reflect.get(target, property) as unknown;
      },
    });
    memory.setItem("of another library", "x");
    client = open({ queue: { storage: broken, user: "" } });
    const errors: ClientError[] = [];
    client.on("error", (error) => errors.push(error));
    const first = client.publish("demo:a", 1);
    await connect();
    await expect(first).resolves.toMatchObject({ seq: 1 });
    await expect(client.publish("demo:a", 2)).resolves.toMatchObject({ seq: 2 });
    expect(errors).toMatchObject([{ code: "resource_exhausted", message: "the queue can not be stored, and ends with the page: the quota is exceeded" }]);
  });

  it("a user whose name begins with another's and a bar: neither gets what the other has stored", async () => {
    const held = open({ queue: { storage: memory, user: "ada|x" } });
    void held.publish("demo:a", "of ada|x");
    server.user = "ada";
    await connect();
    await server.settle();
    expect(published()).toEqual([]);
    expect(memory.length).toBe(1);
  });

  it("a document that JSON has no form for rejects alone, and one that changes later is sent as it was", async () => {
    client.on("error", () => undefined);
    await expect(client.publish("demo:a", { wei: 1n } as never)).rejects.toThrow("BigInt");
    expect(memory.length).toBe(0);
    const document = { n: 1 };
    const held = client.publish("demo:a", document);
    document.n = 2;
    await connect();
    await held;
    await expect(client.publish("demo:a", { wei: 1n } as never)).rejects.toThrow("BigInt");
    server.cut();
    await server.advance(250);
    expect(client.state.status).toBe("connected");
    expect(published()).toEqual([{ n: 1 }]);
  });

  it.each(["unavailable", "resource_exhausted"] as const)("the server asks to send again later (%s): kept, in order, one at a time until it takes one", async (code) => {
    server.refuse("demo:a", { code, message: "later", retryAfterMs: 500 });
    await connect();
    const held = [1, 2, 3].map((n) => client.publish("demo:a", n));
    await server.advance(499);
    expect(published()).toEqual([1, 2, 3]);
    await server.advance(1);
    expect(published()).toEqual([1, 2, 3, 1]);
    server.allow("demo:a");
    await server.advance(500);
    expect((await Promise.all(held)).map(({ seq }) => seq)).toEqual([1, 2, 3]);
    expect(published()).toEqual([1, 2, 3, 1, 1, 2, 3]);
    expect(memory.length).toBe(0);
  });

  it("the connection is lost while the queue waits to send again: the next one sends", async () => {
    server.refuse("demo:a", { code: "unavailable", message: "draining", retryAfterMs: 60_000 });
    await connect();
    const held = client.publish("demo:a", 1);
    await server.settle();
    server.allow("demo:a");
    server.cut(4003);
    await server.advance(250);
    await expect(held).resolves.toMatchObject({ seq: 1 });
  });

  it("a tab learns the position of what another tab of its user took over and sent", async () => {
    server.user = "ada";
    const options = { token: "t", queue: { storage: memory, user: "ada" } };
    const late = open(options);
    const held = late.publish("demo:a", "order");
    await connect(open(options));
    expect([memory.length, published()]).toEqual([0, ["order"]]);
    await connect(late);
    await expect(held).resolves.toMatchObject({ channel: "demo:a", seq: 1 });
    expect(memory.length).toBe(0);
  });

  it("a tab that was frozen does not send again what another tab of its user sent", async () => {
    server.user = "ada";
    const options = { token: "t", queue: { storage: memory, user: "ada" } };
    const frozen = open(options);
    const held = expect(frozen.publish("demo:a", "order")).rejects.toMatchObject({ code: "already_exists" });
    await connect(open(options));
    expect(memory.length).toBe(0);
    // Longer than the server remembers its key.
    await server.advance(1_200_000);
    await connect(frozen);
    await held;
    expect(published()).toEqual(["order"]);
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
    await server.settle();
    expect(sync.getState()).toEqual(["0", "older", "A", "B"]);
    sync.rollbackUpdate(a);
    expect(sync.getState()).toEqual(["0", "older", "B"]);
    sync.confirmUpdate(b, 3);
    expect(sync.getState()).toEqual(["0", "older", "B"]);
    server.publish("demo:list", "B");
    expect(sync.getState()).toEqual(["0", "older", "B"]);
  });

  it("a change never shows beside its own publication, which arrives before the reply that names it", async () => {
    await connect();
    const sync = new StateSync<readonly Json[]>(client, "demo:list", { initial: [], reduce: append });
    const shown: (readonly Json[])[] = [];
    sync.subscribe(() => shown.push(sync.getState()));
    await sync.syncState();
    const add = async (item: string): Promise<void> => {
      const id = sync.applyOptimistic((state) => [...state, item]);
      const { seq } = await client.publish("demo:list", item);
      sync.confirmUpdate(id, seq);
    };
    // One after the other, several at once, and one of another client between them.
    await add("a");
    const adding = [add("b"), add("c")];
    server.publish("demo:list", "other");
    await Promise.all([...adding, add("d")]);
    await server.settle();
    expect(sync.getState().toSorted()).toEqual(["a", "b", "c", "d", "other"]);
    for (const state of shown) {
      expect(state).toHaveLength(new Set(state).size);
    }
    // The state is the server's, in its order.
    sync.dispose();
    const { messages } = await client.request("history", { channel: "demo:list", limit: 10 });
    expect(sync.getState()).toEqual(messages.map(({ data }) => data));
  });

  it("a change that is never confirmed holds others for one round trip, and a failed reply for no longer", async () => {
    await connect();
    const onError = vi.fn();
    const reduce = (state: readonly Json[], { data }: { readonly data: Json }): readonly Json[] => {
      if (data === "bad") {
        throw new TypeError("no such item");
      }
      return [...state, data];
    };
    const sync = new StateSync<readonly Json[]>(client, "demo:list", { initial: [], reduce, onError });
    await server.settle();
    sync.applyOptimistic((state) => [...state, "mine"]);
    server.publish("demo:list", 1);
    expect(sync.getState()).toEqual(["mine"]);
    await server.settle();
    expect(sync.getState()).toEqual([1, "mine"]);
    server.publish("demo:list", 2);
    server.cut();
    await server.settle();
    expect(sync.getState()).toEqual([1, 2, "mine"]);
    await server.advance(10_000);
    server.publish("demo:list", "bad");
    await server.settle();
    expect(onError).toHaveBeenCalledOnce();
    server.publish("demo:list", 3);
    await server.settle();
    expect(sync.getState()).toEqual([1, 2, 3, "mine"]);
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

  it("without `load`, a history that begins later is the state, as far as there is one", async () => {
    for (let n = 1; n <= 1_002; n += 1) {
      server.publish("demo:list", n);
    }
    await connect();
    const sync = new StateSync<readonly Json[]>(client, "demo:list", { initial: [], reduce: append });
    const state = await sync.syncState();
    expect([state.length, state[0], state.at(-1)]).toEqual([1_000, 3, 1_002]);
    await expect(sync.getMissedMessages(1)).rejects.toMatchObject({ code: "failed_precondition" });
  });

  it("a gap while the state is read: what was read before it is dropped, and the state is read again", async () => {
    const answers: ((loaded: { state: Json[]; seq: number }) => void)[] = [];
    const load = (): Promise<{ state: Json[]; seq: number }> => new Promise((resolve) => answers.push(resolve));
    const sync = new StateSync<readonly Json[]>(client, "demo:list", { initial: [], reduce: append, load });
    await connect();
    const reading = sync.syncState();
    server.loseHistory("demo:list");
    server.publish("demo:list", "new");
    await server.settle();
    expect(answers).toHaveLength(2);
    answers[0]?.({ state: ["old"], seq: 3 });
    await server.settle();
    answers[1]?.({ state: ["loaded"], seq: 0 });
    await expect(reading).resolves.toEqual(["loaded", "new"]);
    expect(sync.getState()).toEqual(["loaded", "new"]);
  });

  it("what `reduce`, a change or a listener throws leaves out nothing else", async () => {
    const errors: string[] = [];
    const onError = (error: unknown): void => {
      errors.push((error as Error).message);
    };
    const reduce = (state: readonly Json[], message: StateMessage): readonly Json[] => {
      if (message.data === 2) {
        throw new Error("reduce");
      }
      return append(state, message);
    };
    const sync = new StateSync<readonly Json[]>(client, "demo:list", { initial: [], reduce, onError });
    await connect();
    const second = vi.fn();
    sync.subscribe(() => {
      throw new Error("listener");
    });
    sync.subscribe(second);
    const id = sync.applyOptimistic((state) => [...state, "mine"]);
    expect(second).toHaveBeenCalledTimes(1);
    [1, 2, 3].forEach((n) => server.publish("demo:list", n));
    await server.settle();
    const faulty = sync.applyOptimistic(() => {
      throw new Error("change");
    });
    sync.confirmUpdate(faulty);
    sync.rollbackUpdate(id);
    expect(sync.getState()).toEqual([1, 3]);
    expect(new Set(errors)).toEqual(new Set(["listener", "reduce", "change"]));
  });

  it("a gap reads the state again, and pending changes stay", async () => {
    const sync = new StateSync<readonly Json[]>(client, "demo:list", { initial: [], reduce: append, load: () => Promise.resolve({ state: ["loaded"], seq: 0 }) });
    await connect();
    server.publish("demo:list", 1);
    sync.applyOptimistic((state) => [...state, "mine"]);
    server.loseHistory("demo:list");
    await server.settle();
    server.publish("demo:list", 2);
    await server.settle();
    expect(sync.getState()).toEqual(["loaded", 2, "mine"]);
  });
});

