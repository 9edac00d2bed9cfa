/** Situations that users of other clients reported. Each test has the name of its situation. */
import { beforeEach, describe, expect, it, vi } from "vitest";
import type { ClientOptions } from "./api.ts";
import { WebSocketClient } from "./client.ts";
import type { ChannelMessage } from "./subscriptions.ts";
import { FakeEnvironment, settle } from "./testing/fakes.ts";
import { FakeServer } from "./testing/server.ts";
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

  it("getToken returns the page of an error: it failed, and the next one counts", async () => {
    const tokens = ["<html>502 Bad Gateway</html>", "a.b-c_d.e"];
    const errors: string[] = [];
    client = open({ getToken: () => tokens.shift() });
    client.on("error", ({ code, message }) => errors.push(`${code}: ${message}`));
    client.connect();
    await server.settle();
    expect(client.state).toMatchObject({ status: "reconnecting" });
    expect(errors).toEqual(["unavailable: getToken failed: it returned no token: <html>502 Bad Gateway</html>"]);
    await server.advance(250);
    expect(client.state.status).toBe("connected");
    expect(server.fake.socket.protocols[1]).toBe("tidewire.bearer.a.b-c_d.e");
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

  it("a handler that an earlier one removed does not get the message", async () => {
    const received: string[] = [];
    client.subscribe("demo:a", () => {
      received.push("first");
      client.unsubscribe("demo:a", second);
    });
    const second = (): void => {
      received.push("second");
    };
    client.subscribe("demo:a", second);
    await connect();
    server.publish("demo:a", 1);
    expect(received).toEqual(["first"]);
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

  it("a hidden tab that waits for its place after a drain is shown: it comes back as soon as the server allows", async () => {
    const fake = new FakeEnvironment();
    client = new WebSocketClient("ws://test", { environment: fake.environment });
    client.connect();
    await settle();
    fake.socket.welcome();
    fake.show(false);
    fake.socket.receive({ type: "reconnect", data: { reason: "draining", afterMs: 2_000 } });
    fake.socket.end(4003);
    await fake.clock.advance(500);
    fake.show(true);
    expect(client.state).toMatchObject({ status: "reconnecting", retryAt: fake.clock.wallTime() + 1_500 });
    await fake.clock.advance(1_499);
    expect(fake.sockets).toHaveLength(1);
    await fake.clock.advance(1);
    expect(fake.sockets).toHaveLength(2);
    fake.socket.welcome();
    for (let beat = 0; beat < 5; beat += 1) {
      await fake.clock.advance(1_000);
      fake.socket.pong();
    }
    fake.show(false);
    fake.socket.receive({ type: "reconnect", data: { reason: "draining", afterMs: 0 } });
    fake.socket.end(4003);
    await fake.clock.advance(500);
    expect(fake.sockets).toHaveLength(2);
    fake.show(true);
    await settle();
    expect(fake.sockets).toHaveLength(3);
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

  it("saveData leaves an interval of 0 that the application chose", async () => {
    client = open({ saveData: true });
    client.subscribe("prices:BTC-USD", () => undefined, { minIntervalMs: 0 });
    await connect();
    await server.settle();
    expect(server.received.filter(({ type }) => type === "subscribe")).toHaveLength(1);
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
