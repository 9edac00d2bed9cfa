/** The queue of publications: whose they are, their order, and what the server can not take. */
import { beforeEach, describe, expect, it } from "vitest";
import type { WebSocketClient } from "./client.ts";
import { FakeServer } from "./testing/server.ts";
import { clientOf, connectTo, memoryStorage } from "../test/situations.ts";

let server: FakeServer;
let memory: Storage;
let client: WebSocketClient;

beforeEach(() => {
  server = new FakeServer();
  memory = memoryStorage();
  client = clientOf(server, memory, {});
});

const published = (): unknown[] => server.received.flatMap((message) => (message.type === "publish" ? [message.data?.data] : []));

describe("the queue", () => {
  it("what is published after a sign-out belongs to the next user", async () => {
    client = clientOf(server, memory, { token: "t" });
    server.user = "alice";
    await connectTo(server, client);
    client.disconnect();
    server.user = "bob";
    const diary = client.publish("demo:diary", "of bob");
    await connectTo(server, client);
    await expect(diary).resolves.toMatchObject({ seq: 1 });
    expect(memory.length).toBe(0);
    client.disconnect();
    const count = server.received.length;
    server.user = "alice";
    await connectTo(server, clientOf(server, memory, { token: "t" }));
    expect(server.received.slice(count).filter(({ type }) => type === "publish")).toEqual([]);
  });

  it("another user is named by new options: what is published from then on is that user's", async () => {
    server.user = "alice";
    client = clientOf(server, memory, { token: "a", queue: { storage: memory, user: "alice" } });
    await connectTo(server, client);
    client.disconnect();
    server.user = "bob";
    client.setOptions({ token: "b", queue: { storage: memory, user: "bob" } });
    const before = client.publish("demo:diary", "of bob");
    await connectTo(server, client);
    await expect(before).resolves.toMatchObject({ seq: 1 });
    server.blackHole();
    server.fake.socket.end(1006);
    client.setOptions({ token: "c", queue: { storage: memory, user: "carol" } });
    server.user = "carol";
    const later = client.publish("demo:diary", "of carol");
    await server.advance(1_000);
    await expect(later).resolves.toMatchObject({ seq: 2 });
    expect(memory.length).toBe(0);
  });

  it("another user is named while connected: what is published goes over a connection of that user", async () => {
    server.user = "alice";
    client = clientOf(server, memory, { token: "a", queue: { storage: memory, user: "alice" } });
    await connectTo(server, client);
    server.blackHole();
    const diary = expect(client.publish("demo:diary", "of alice")).rejects.toMatchObject({ code: "failed_precondition" });
    server.user = "bob";
    client.setOptions({ token: "b", queue: { storage: memory, user: "bob" } });
    const next = client.publish("demo:diary", "of bob");
    await diary;
    await expect(next).resolves.toMatchObject({ seq: 1 });
    expect(server.fake.sockets.map(({ protocols }) => protocols[1])).toEqual(["tidewire.bearer.a", "tidewire.bearer.b"]);
    expect(published()).toEqual(["of bob"]);
    // It waits for its own user.
    expect(memory.key(0)).toContain("alice");
    // The same user with another token: the connection stays.
    client.setOptions({ token: "b2", queue: { storage: memory, user: "bob" } });
    await server.settle();
    expect(server.fake.sockets).toHaveLength(2);
  });

  it("another user is named while the token of the last one is fetched: it opens no connection", async () => {
    const queue = { storage: memory, user: "alice" };
    let give: (token: string) => void = () => undefined;
    client = clientOf(server, memory, { getToken: () => new Promise<string>((resolve) => (give = resolve)), queue });
    client.connect();
    server.user = "bob";
    client.setOptions({ getToken: () => "b", queue: { ...queue, user: "bob" } });
    const diary = client.publish("demo:diary", "of bob");
    give("a");
    await expect(diary).resolves.toMatchObject({ seq: 1 });
    expect(server.fake.sockets.map(({ protocols }) => protocols[1])).toEqual(["tidewire.bearer.b"]);
  });

  it("a client that was made without a token signs in: nothing of the user is sent without one", async () => {
    await connectTo(server, client);
    client.disconnect();
    client.setOptions({ token: "b" });
    server.user = "bob";
    client.connect();
    const diary = client.publish("demo:diary", "of bob");
    await server.settle();
    await expect(diary).resolves.toMatchObject({ seq: 1 });
    client.disconnect();
    expect(memory.length).toBe(0);
  });

  it("the server refuses a frame for its size: the largest publication rejects, and the others go on", async () => {
    await connectTo(server, client);
    server.blackHole();
    const [small, large, other] = ["a", "b".repeat(70_000), "c"].map((text) => client.publish("demo:a", text));
    const refused = expect(large).rejects.toMatchObject({ code: "invalid_argument" });
    server.fake.socket.end(1009, "Frame is too large");
    await refused;
    expect(client.state.status).toBe("reconnecting");
    await server.advance(250);
    expect(await Promise.all([small, other])).toMatchObject([{ seq: 1 }, { seq: 2 }]);
    expect(memory.length).toBe(0);
  });

  it("the size of a frame is that of its bytes", async () => {
    await connectTo(server, client);
    server.blackHole();
    const [large, other] = ["漢".repeat(30_000), "a".repeat(40_000)].map((text) => client.publish("demo:a", text));
    const refused = expect(large).rejects.toMatchObject({ code: "invalid_argument" });
    server.fake.socket.end(1009, "Frame is too large");
    await refused;
    await server.advance(250);
    await expect(other).resolves.toMatchObject({ seq: 1 });
  });

  it("a `subscribe` is too large: it is sent in smaller frames, and no publication is rejected", async () => {
    const names = Array.from({ length: 100 }, (_, n) => `demo:${"n".repeat(60)}${n}`);
    names.forEach((name) => client.subscribe(name, () => undefined));
    await connectTo(server, client);
    server.cut();
    await server.settle();
    const all = [1, 2].map((n) => client.publish("demo:a", `${n}${"y".repeat(1_100)}`));
    await server.advance(250);
    await Promise.all(all);
    // Now the server takes 2 KiB alone.
    const { fake } = server;
    server.isReachable = false;
    server.cut();
    const later = client.publish("demo:a", "y".repeat(1_100));
    for (let ends = 0; ends < 3; ends += 1) {
      await server.advance(4_000);
      fake.socket.open();
      fake.socket.welcome();
      await server.settle();
      fake.socket.end(1009, "Frame is too large");
      expect(client.state.status).toBe("reconnecting");
    }
    server.isReachable = true;
    const before = server.received.length;
    await server.advance(4_000);
    await expect(later).resolves.toMatchObject({ seq: 3 });
    const frames = server.received.slice(before).flatMap((message) => (message.type === "subscribe" ? [message.data?.channels.length] : []));
    expect(frames).toEqual([12, 12, 12, 12, 12, 12, 12, 12, 4]);
    expect(server.subscribed).toHaveLength(100);
  });

  it.each([101, 1])("a `subscribe` of the application with %i channels that is too large rejects", async (count) => {
    await connectTo(server, client);
    server.blackHole();
    const channels = Array.from({ length: count }, (_, n) => `demo:${"n".repeat(1_000)}${n}`);
    const refused = expect(client.request("subscribe", { channels })).rejects.toMatchObject({ code: "invalid_argument" });
    server.fake.socket.end(1009, "Frame is too large");
    await refused;
    expect(client.state.status).toBe("reconnecting");
  });

  it("a channel whose name is longer than a frame is refused alone", async () => {
    const refusals: string[] = [];
    const stop = client.subscribe(`demo:${"n".repeat(70_000)}`, () => undefined, { onError: ({ code }) => refusals.push(code) });
    client.subscribe("demo:fine", () => undefined);
    await connectTo(server, client);
    expect(refusals).toEqual(["invalid_argument"]);
    expect(server.subscribed).toEqual(["demo:fine"]);
    stop();
    await server.advance(1_000);
    expect(server.received.filter((message) => JSON.stringify(message).length > 1_000)).toEqual([]);
  });

  it("what was sent without waiting for a reply is too large: the others are sent again", async () => {
    await connectTo(server, client);
    server.blackHole();
    client.send({ type: "publish", data: { channel: "demo:a", data: "b".repeat(70_000) } });
    client.send({ type: "publish", data: { channel: "demo:a", data: "b" } });
    const other = client.publish("demo:a", "y".repeat(2_000));
    server.fake.socket.end(1009, "Frame is too large");
    expect(client.state.status).toBe("reconnecting");
    await server.advance(250);
    await expect(other).resolves.toMatchObject({ seq: 1 });
    // It is noted for its connection alone.
    server.blackHole();
    const large = expect(client.publish("demo:a", "b".repeat(70_000))).rejects.toMatchObject({ code: "invalid_argument" });
    server.fake.socket.end(1009, "Frame is too large");
    await large;
  });

  it("after a refusal one is sent at a time, also on the next connection", async () => {
    server.refuse("demo:a", { code: "resource_exhausted", message: "too many", retryAfterMs: 5_000 });
    await connectTo(server, client);
    const all = [1, 2, 3].map((n) => client.publish("demo:a", n));
    await server.settle();
    expect(published()).toEqual([1, 2, 3]);
    server.cut(4004);
    await server.advance(2_000);
    expect(published()).toEqual([1, 2, 3, 1]);
    server.allow("demo:a");
    await server.advance(5_000);
    expect((await Promise.all(all)).map(({ seq }) => seq)).toEqual([1, 2, 3]);
    expect(published()).toEqual([1, 2, 3, 1, 1, 2, 3]);
    // The queue was empty: all at once again.
    server.blackHole();
    void client.publish("demo:a", 4);
    void client.publish("demo:a", 5);
    expect(server.fake.socket.sentOf("publish").slice(-2).map(({ data }) => data.data)).toEqual([4, 5]);
  });

  it("the link of a hidden page is dead: a publication finds out, and goes over the next one", async () => {
    await connectTo(server, client);
    server.fake.show(false);
    await server.settle();
    server.blackHole();
    const all = [1, 2].map((n) => client.publish("demo:a", n));
    await server.advance(11_500);
    expect(client.state.status).toBe("reconnecting");
    // One at the beginning, and one for both.
    expect(server.fake.socket.sentOf("ping")).toHaveLength(2);
    await server.advance(250);
    expect((await Promise.all(all)).map(({ seq }) => seq)).toEqual([1, 2]);
    expect(published()).toEqual([1, 2]);
  });

  it("the server does not answer in time: a publication is sent again with its key, and the connection stays", async () => {
    let answers = 0;
    server.answer("publish", ({ channel }) => (++answers > 1 ? { channel, epoch: "e", seq: answers } : new Promise(() => undefined)));
    await connectTo(server, client);
    const held = client.publish("demo:a", 1);
    await server.advance(11_000);
    await expect(held).resolves.toMatchObject({ seq: 2 });
    const keys = server.received.flatMap((message) => (message.type === "publish" ? [message.data?.idempotencyKey] : []));
    expect([keys.length, new Set(keys).size]).toEqual([2, 1]);
    expect(server.fake.sockets).toHaveLength(1);
  });

  it("what another tab took over and sent is not sent again once the server has forgotten its key", async () => {
    const options = { queue: { storage: memory, user: "" } };
    const late = clientOf(server, memory, options);
    const held = expect(late.publish("demo:a", "order")).rejects.toMatchObject({ code: "deadline_exceeded" });
    await server.advance(3_600_000);
    const other = clientOf(server, memory, options);
    server.answer("publish", () => new Promise(() => undefined));
    await connectTo(server, other);
    await server.advance(100);
    expect(published()).toEqual(["order"]);
    other.disconnect();
    await server.advance(400_000);
    await connectTo(server, late);
    await held;
    expect(published()).toEqual(["order"]);
    expect(memory.length).toBe(0);
  });

  it("the clock is set back after a sending whose reply was lost: it is not sent again once the server may have forgotten its key", async () => {
    let backMs = 0;
    const { clock } = server.environment;
    client = clientOf(server, memory, { environment: { ...server.environment, clock: { now: () => clock.now(), wallTime: () => clock.wallTime() - backMs, after: (ms, run) => clock.after(ms, run) } } });
    await connectTo(server, client);
    server.answer("publish", () => new Promise(() => undefined));
    const lost = expect(client.publish("demo:a", "order")).rejects.toMatchObject({ code: "deadline_exceeded" });
    await server.settle();
    client.disconnect();
    backMs = 3_600_000;
    await server.advance(600_000);
    await connectTo(server, client);
    await lost;
    expect(published()).toEqual(["order"]);
    // One that was never sent has a day.
    client.disconnect();
    const held = client.publish("demo:a", "unsent");
    backMs *= 2;
    server.answer("publish", ({ channel }) => ({ channel, epoch: "e", seq: 7 }));
    await connectTo(server, client);
    await expect(held).resolves.toMatchObject({ seq: 7 });
  });

  it("one key on two channels is two publications, also after a reload", async () => {
    void client.publish("demo:a", 1, { idempotencyKey: "order-7" });
    void client.publish("demo:audit", 2, { idempotencyKey: "order-7" });
    expect(memory.length).toBe(2);
    await connectTo(server, clientOf(server, memory, {}));
    expect(published()).toEqual([1, 2]);
  });

  it("a user who signs out while connected is nobody on the next connection", async () => {
    server.user = "alice";
    client = clientOf(server, memory, { getToken: () => "a", queue: { storage: memory, user: "alice" } });
    await connectTo(server, client);
    const { connections } = server;
    expect(connections).toBe(1);
    server.user = "";
    client.setOptions({ getToken: undefined });
    expect(client.state.status).toBe("connecting");
    await server.settle();
    expect(client.state).toMatchObject({ status: "connected" });
    expect(server.fake.socket.protocols).toEqual(["tidewire.v1.json"]);
    await client.publish("demo:a", "of nobody");
    expect(memory.length).toBe(0);
  });

  it("tabs that come back together send what is theirs, and fill no other queue; what a closed one left is sent after them", async () => {
    let tabs = 0;
    const tabOf = (): WebSocketClient => clientOf(server, memory, { environment: { ...server.environment, random: () => 1 / (2 + tabs) }, queue: { storage: memory, maxEntries: 15 } });
    const clients = Array.from({ length: 4 }, () => ((tabs += 1), tabOf()));
    for (const each of clients) {
      await connectTo(server, each);
    }
    server.isReachable = false;
    server.cut();
    const all = clients.map((each, tab) => Array.from({ length: 15 }, (_, n) => each.publish("demo:a", `${tab} ${n}`)));
    await server.advance(100);
    const [closed] = clients;
    closed?.disconnect();
    server.isReachable = true;
    await server.advance(10_000);
    await Promise.all(all.slice(1).flat());
    expect(published().filter((data) => !String(data).startsWith("0 "))).toHaveLength(45);
    const left = published().filter((data) => String(data).startsWith("0 "));
    expect(left.slice(0, 15)).toEqual(Array.from({ length: 15 }, (_, n) => `0 ${n}`));
    expect(memory.length).toBe(0);
  });

  it("the limit counts the publications that this page waits for", async () => {
    const queue = { storage: memory, maxEntries: 2 };
    for (const n of [1, 2]) {
      void client.publish("demo:a", n);
    }
    // Reloaded.
    const next = clientOf(server, memory, { queue });
    server.answer("publish", () => new Promise(() => undefined));
    await connectTo(server, next);
    expect(published()).toEqual([1, 2]);
    void next.publish("demo:a", 3);
    void next.publish("demo:a", 4);
    await expect(next.publish("demo:a", 5)).rejects.toMatchObject({ code: "resource_exhausted" });
    await server.settle();
    expect(published()).toEqual([1, 2, 3, 4]);
  });
});
