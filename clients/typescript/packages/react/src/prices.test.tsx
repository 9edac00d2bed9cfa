import { type ReactElement, useState } from "react";
import { flushSync } from "react-dom";
import { beforeEach, describe, expect, it } from "vitest";
import { type PriceStream, usePriceStream } from "./index.ts";
import { Application, fakeTime, FRAME, price } from "./testing/harness.tsx";

beforeEach(fakeTime);

/** Counts of renders by component. */
const renders = new Map<string, number>();

function Price({ symbol }: { symbol: string }): ReactElement {
  renders.set(symbol, (renders.get(symbol) ?? 0) + 1);
  const { prices, loading, error } = usePriceStream([symbol]);
  return <p>{error?.message ?? (loading ? "loading" : `${symbol} ${String(prices.get(symbol)?.price)}`)}</p>;
}

describe("usePriceStream", () => {
  it("has exactly the documented shape", () => {
    const app = new Application();
    let stream: PriceStream | undefined;
    app.render(<Capture symbols={["BTC-USD"]} to={(value) => (stream = value)} />);
    expect(Object.keys(stream ?? {})).toEqual(["prices", "loading", "error", "subscribe", "unsubscribe"]);
    expect(stream?.prices).toBeInstanceOf(Map);
    app.unmount();
  });

  it("shows prices and the fault of a refused symbol", async () => {
    const app = new Application();
    app.render([<Price key="1" symbol="BTC-USD" />, <Price key="2" symbol="BTC-USB" />]);
    expect(app.text).toBe("loadingloading");
    app.answers["subscribe"] = () => ({
      type: "subscribed",
      data: {
        channels: [
          { channel: "prices:BTC-USD", epoch: "e", seq: 0, recovered: false },
          { channel: "prices:BTC-USB", epoch: "", seq: 0, recovered: false, error: { code: "not_found", message: "no BTC-USB" } },
        ],
      },
    });
    await app.welcome();
    app.push(price("BTC-USD", 61838.01));
    await app.idle();
    expect(app.text).toBe("BTC-USD 61838.01no BTC-USB");
    app.unmount();
  });

  it("opens one socket and subscribes once for any number of components, in one frame", async () => {
    const app = new Application();
    app.render(Array.from({ length: 100 }, (_, index) => <Price key={index} symbol={index % 2 === 0 ? "BTC-USD" : "ETH-USD"} />));
    await app.welcome();
    expect(app.environment.sockets).toHaveLength(1);
    expect(app.sent.filter(({ type }) => type === "subscribe")).toHaveLength(1);
    expect(app.channels("subscribe")).toEqual(["prices:BTC-USD", "prices:ETH-USD"]);
    app.unmount();
  });

  it("commits at most once a frame at 5,000 updates a second, and renders only the components of changed symbols", async () => {
    const app = new Application();
    const symbols = Array.from({ length: 50 }, (_, index) => `S${index}-USD`);
    app.render([...symbols, "IDLE-USD"].map((symbol) => <Price key={symbol} symbol={symbol} />));
    await app.welcome();
    for (const symbol of [...symbols, "IDLE-USD"]) {
      app.push(price(symbol, 0));
    }
    await app.idle();
    app.commits = 0;
    renders.clear();
    const frames = Math.ceil(1_000 / FRAME);
    let updates = 0;
    for (let frame = 1; frame <= frames; frame += 1) {
      // The half of the symbols that changes in this frame.
      for (const symbol of symbols.filter((_, index) => index % 2 === frame % 2)) {
        for (let repeat = 0; repeat < 4 && updates < 5_000 * (frame / frames); repeat += 1) {
          updates += 1;
          app.push(price(symbol, updates));
        }
      }
      const before = app.commits;
      await app.pass(FRAME);
      expect(app.commits - before).toBeLessThanOrEqual(1);
    }
    expect(updates).toBe(5_000);
    expect(app.commits).toBeLessThanOrEqual(frames);
    expect(app.commits).toBeGreaterThan(frames / 2);
    expect(renders.get("IDLE-USD")).toBeUndefined();
    expect(Math.max(...renders.values())).toBeLessThanOrEqual(Math.ceil(frames / 2));
    app.unmount();
  });

  it("keeps the same map while another symbol changes", async () => {
    const app = new Application();
    const seen: PriceStream[] = [];
    app.render([<Capture key="1" symbols={["BTC-USD"]} to={(value) => seen.push(value)} />, <Price key="2" symbol="ETH-USD" />]);
    await app.welcome();
    app.push(price("BTC-USD", 1));
    await app.idle();
    const count = seen.length;
    app.push(price("ETH-USD", 2));
    await app.idle();
    expect(seen).toHaveLength(count);
    expect(app.text).toContain("ETH-USD 2");
    app.unmount();
  });

  it("adds and removes symbols of its component", async () => {
    const app = new Application();
    let stream: PriceStream | undefined;
    app.render(<Capture symbols={["BTC-USD"]} to={(value) => (stream = value)} />);
    await app.welcome();
    flushSync(() => stream?.subscribe(["ETH-USD", "SOL-USD"]));
    flushSync(() => stream?.unsubscribe("BTC-USD"));
    await app.idle();
    for (const symbol of ["BTC-USD", "ETH-USD", "SOL-USD"]) {
      app.push(price(symbol, 1));
    }
    await app.idle();
    expect([...(stream?.prices.keys() ?? [])]).toEqual(["ETH-USD", "SOL-USD"]);
    await app.pass(2_000);
    expect(app.channels("unsubscribe")).toEqual(["prices:BTC-USD"]);
    flushSync(() => stream?.subscribe("BTC-USD"));
    await app.idle();
    expect(app.channels("subscribe").at(-1)).toBe("prices:BTC-USD");
    app.unmount();
  });

  it("keeps nothing of the symbols that its component added and removed, and remembers a removed one that it is called with", async () => {
    const app = new Application();
    let stream: PriceStream | undefined;
    const render = (symbols: string[]): void => {
      app.render(<Capture symbols={symbols} to={(value) => (stream = value)} />);
    };
    render(["BTC-USD"]);
    await app.welcome();
    flushSync(() => stream?.unsubscribe("BTC-USD"));
    for (let number = 0; number < 100; number += 1) {
      flushSync(() => stream?.subscribe(`S${number}-USD`));
      flushSync(() => stream?.unsubscribe(`S${number}-USD`));
    }
    // What was removed is forgotten: the caller may show it after all.
    render(["BTC-USD", "S7-USD"]);
    await app.idle();
    for (const symbol of ["BTC-USD", "S7-USD"]) {
      app.push(price(symbol, 1));
    }
    await app.idle();
    expect([...(stream?.prices.keys() ?? [])]).toEqual(["S7-USD"]);
    app.unmount();
  });

  it("a remount under StrictMode and 300 switches of the symbol: no churn on the wire, one subscription left", async () => {
    const app = new Application();
    const choose = await openSwitch(app);
    expect(app.environment.sockets).toHaveLength(1);
    expect(app.channels("subscribe")).toEqual(["prices:S0-USD"]);
    for (let turn = 1; turn <= 300; turn += 1) {
      choose(`S${turn % 3}-USD`);
      await app.pass(FRAME);
    }
    await app.pass(2_000);
    // 5 s of switching between three: each is subscribed once, and two are left once.
    expect(app.channels("subscribe")).toEqual(["prices:S0-USD", "prices:S1-USD", "prices:S2-USD"]);
    expect(app.channels("unsubscribe").sort()).toEqual(["prices:S1-USD", "prices:S2-USD"]);
    expect(app.sent.filter(({ type }) => type === "unsubscribe").length).toBeLessThanOrEqual(2);
    app.unmount();
  });

  it("300 different symbols in one second leave one subscription, with few messages", async () => {
    const app = new Application();
    const choose = await openSwitch(app);
    for (let turn = 1; turn <= 300; turn += 1) {
      choose(`S${turn}-USD`);
      if (turn % 5 === 0) {
        await app.pass(FRAME);
      }
    }
    await app.pass(2_000);
    const left = new Set(app.channels("subscribe"));
    for (const channel of app.channels("unsubscribe")) {
      left.delete(channel);
    }
    expect([...left]).toEqual(["prices:S300-USD"]);
    expect(app.sent.filter(({ type }) => type === "subscribe").length).toBeLessThanOrEqual(61);
    app.unmount();
  });

  it("shows the prices that a server rendered until newer ones arrive", async () => {
    const app = new Application();
    const message = price("BTC-USD", 5);
    const initial = message.type === "price" ? [message.data] : [];
    let stream: PriceStream | undefined;
    app.render(<Capture symbols="BTC-USD" initial={initial} to={(value) => (stream = value)} />);
    expect(stream?.prices.get("BTC-USD")?.price).toBe(5);
    expect(stream?.loading).toBe(false);
    await app.welcome();
    app.push(price("BTC-USD", 6));
    await app.idle();
    expect(stream?.prices.get("BTC-USD")?.price).toBe(6);
    app.unmount();
  });
});

/** Shows the price of `S0-USD` under StrictMode, connected. Returns a function that switches to another symbol. */
async function openSwitch(app: Application): Promise<(symbol: string) => void> {
  let choose: (symbol: string) => void = () => undefined;
  function Switch(): ReactElement {
    const [symbol, setSymbol] = useState("S0-USD");
    choose = setSymbol;
    return <Price symbol={symbol} />;
  }
  app.render(<Switch />, { strict: true });
  await app.welcome();
  return (symbol) => {
    flushSync(() => {
      choose(symbol);
    });
  };
}

function Capture({ symbols, to, ...options }: { symbols: string | string[]; to: (stream: PriceStream) => void } & Parameters<typeof usePriceStream>[1]): null {
  to(usePriceStream(symbols, options));
  return null;
}
