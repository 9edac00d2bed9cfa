import type { Candle, ServerMessage } from "@tidewire/client";
import type { ReactElement } from "react";
import { beforeEach, describe, expect, it, vi } from "vitest";
import { type Candles, useCandles } from "./index.ts";
import { Application, fakeTime } from "./testing/harness.tsx";

beforeEach(fakeTime);

const MINUTE = 60_000;

function candle(minute: number, close: number, closed = true): Candle {
  return { symbol: "BTC-USD", interval: "1m", start: minute * MINUTE, open: 1, high: 9, low: 1, close, volume: null, closed, sources: 2 };
}

function push(minute: number, close: number, closed = false): ServerMessage {
  return { type: "candle", channel: "candles:BTC-USD:1m", data: candle(minute, close, closed) };
}

describe("useCandles", () => {
  let last: Candles | undefined;
  function Show({ symbol, limit }: { symbol: string | undefined; limit?: number }): ReactElement {
    last = useCandles(symbol, "1m", { limit });
    return <>{last.error?.message ?? (last.loading ? "loading" : last.candles.map(({ start, close }) => `${start / MINUTE}:${close}`).join(" "))}</>;
  }
  /** Answers with these candles, and returns the requests. */
  const answer = (app: Application, read: () => readonly Candle[]): unknown[] => {
    const requests: unknown[] = [];
    app.answers["get_candles"] = (data) => {
      requests.push(data);
      return { type: "candles", data: { items: read() } };
    };
    return requests;
  };

  it("shows the candles, then the forming one as it changes and the next one", async () => {
    const app = new Application();
    const requests = answer(app, () => [candle(1, 2), candle(2, 3, false)]);
    app.render(<Show symbol="BTC-USD" />);
    expect(app.text).toBe("loading");
    await app.welcome();
    expect(app.text).toBe("1:2 2:3");
    expect(app.channels("subscribe")).toEqual(["candles:BTC-USD:1m"]);
    app.push(push(2, 4));
    app.push(push(2, 5, true));
    app.push(push(3, 6));
    await app.idle();
    expect(app.text).toBe("1:2 2:5 3:6");
    expect(requests).toEqual([{ symbol: "BTC-USD", interval: "1m", limit: 100 }]);
    app.unmount();
  });

  it("loads again after a candle whose end it missed, and after missed candles", async () => {
    const app = new Application();
    let items = [candle(1, 2, false)];
    const requests = answer(app, () => items);
    app.render(<Show symbol="BTC-USD" />);
    await app.welcome();
    items = [candle(1, 3), candle(2, 4, false)];
    app.push(push(2, 4));
    await app.idle();
    expect(app.text).toBe("1:3 2:4");
    items = [candle(1, 3), candle(2, 5), candle(4, 7), candle(5, 8, false)];
    app.push(push(2, 5, true));
    app.push(push(5, 8));
    await app.idle();
    expect(app.text).toBe("1:3 2:5 4:7 5:8");
    expect(requests).toHaveLength(3);
    app.unmount();
  });

  it("keeps a push that overtakes the page, and no more candles than the limit", async () => {
    const app = new Application();
    answer(app, () => {
      app.push(push(3, 9));
      return [candle(1, 2), candle(2, 3), candle(3, 4, false)];
    });
    app.render(<Show symbol="BTC-USD" limit={2} />);
    await app.welcome();
    expect(app.text).toBe("2:3 3:9");
    app.unmount();
  });

  it("waits without a symbol, and says why there are none", async () => {
    const app = new Application();
    app.answers["get_candles"] = () => ({ type: "error", data: { code: "not_found", message: "there is no symbol" } });
    app.render(<Show symbol={undefined} />);
    await app.welcome();
    expect(app.text).toBe("");
    expect(app.sent.filter(({ type }) => type === "get_candles")).toEqual([]);
    app.render(<Show symbol="BTC-USB" />);
    await app.idle();
    expect(app.text).toBe("there is no symbol");
    app.unmount();
  });

  it("a refused page is asked for again after its time, and by no push", async () => {
    const app = new Application();
    let requests = 0;
    app.answers["get_candles"] = () => {
      requests += 1;
      return requests > 1 ? { type: "candles", data: { items: [candle(1, 2, false)] } } : { type: "error", data: { code: "resource_exhausted", message: "busy", retryAfterMs: 3_000 } };
    };
    app.render(<Show symbol="BTC-USD" />);
    await app.welcome();
    for (let close = 0; close < 10; close += 1) {
      app.push(push(1, close));
      await app.idle();
    }
    expect(requests).toBe(1);
    await vi.advanceTimersByTimeAsync(3_000);
    await app.idle();
    expect(app.text).toBe("1:2");
    app.unmount();
  });
});
