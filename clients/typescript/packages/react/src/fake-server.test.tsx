/** Components on the fake server that applications test theirs with: every hook, as the README says. */
import { type AlertRule, type Candle, TidewireError, type TransactionStatus, WebSocketClient } from "@tidewire/client";
import { FakeServer } from "@tidewire/client/testing";
import type { ReactElement, ReactNode } from "react";
import { flushSync } from "react-dom";
import { createRoot } from "react-dom/client";
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { useAlerts, useCandles, useNotifications, usePriceStream, useTransaction, useWalletUpdates, WebSocketProvider } from "./index.ts";
import { fakeTime, FRAME } from "./testing/harness.tsx";

beforeEach(fakeTime);

let unmount: () => void = () => undefined;

afterEach(() => {
  unmount();
});

/** Renders on a fake server. Returns what shows once everything has arrived. */
async function show(server: FakeServer, children: ReactNode): Promise<() => Promise<string>> {
  const client = new WebSocketClient("ws://test", { environment: server.environment });
  const container = document.createElement("div");
  const root = createRoot(container);
  flushSync(() => {
    root.render(<WebSocketProvider client={client}>{children}</WebSocketProvider>);
  });
  unmount = () => {
    flushSync(() => {
      root.unmount();
    });
    client.disconnect();
  };
  const text = async (): Promise<string> => {
    for (let round = 0; round < 3; round += 1) {
      await server.settle();
      flushSync(() => {
        vi.advanceTimersByTime(FRAME);
      });
    }
    return container.textContent;
  };
  await text();
  return text;
}

const candle = (start: number, close: number): Candle => ({ symbol: "BTC-USD", interval: "1m", start, open: 1, high: 9, low: 1, close, volume: 1, closed: start === 0, sources: 1 });

function Candles(): ReactElement {
  const { candles, loading, error } = useCandles("BTC-USD", "1m");
  return <>{error?.message ?? (loading ? "loading" : candles.map(({ close }) => close).join(" "))}</>;
}

it("useCandles", async () => {
  const server = new FakeServer();
  server.answer("get_candles", ({ symbol, interval }) => ({ symbol, interval, items: [candle(0, 5)] }));
  const text = await show(server, <Candles />);
  expect(await text()).toBe("5");
  server.publish("candles:BTC-USD:1m", { ...candle(60_000, 6) }, "candle");
  expect(await text()).toBe("5 6");
});

it("a hook whose request has no answer says how to give it one", async () => {
  const text = await show(new FakeServer(), <Candles />);
  expect(await text()).toContain('server.answer("get_candles", ');
});

const rule: AlertRule = { id: "a", condition: { kind: "price_above", symbol: "BTC-USD", threshold: 1 }, enabled: true, state: "armed", version: 1 };

it("useAlerts", async () => {
  const server = new FakeServer();
  server.user = "ada";
  server.answer("alerts", () => ({ items: [rule] }));
  server.answer("alert_log", () => ({ items: [] }));
  server.answer("alert_register", (draft) => {
    if (!draft.name) {
      throw new TidewireError({ code: "invalid_argument", message: "a rule needs a name" });
    }
    return { ...rule, ...draft, id: "b", enabled: true };
  });
  let faults = "";
  let register: ReturnType<typeof useAlerts>["register"] | undefined;
  function Alerts(): ReactElement {
    const { alerts, fires, ...rest } = useAlerts();
    register = rest.register;
    return <>{`${alerts.map(({ id, state }) => `${id}:${state}`).join(" ")} | ${fires.map(({ id }) => id).join(" ")}`}</>;
  }
  const text = await show(server, <Alerts />);
  expect(await text()).toBe("a:armed | ");
  const { condition } = rule;
  register?.({ condition }).catch((error: unknown) => (faults += (error as Error).message));
  void register?.({ condition, name: "high" });
  server.publish("user:ada", { id: "f", alertId: "a", value: 2, previous: 1, sources: [], timestamp: 1, rule: { ...rule, state: "cooldown" } } as never, "alert");
  expect(await text()).toBe("a:cooldown b:armed | f");
  expect(faults).toBe("a rule needs a name");
});

it("useTransaction", async () => {
  const server = new FakeServer();
  const status: TransactionStatus = { chain: 1, hash: "0xab", state: "pending", confirmations: 0, required: 2, timestamp: 1 };
  server.answer("watch", () => status);
  function Payment(): ReactElement {
    const { transaction, error } = useTransaction("0xAB", 1);
    return <>{error?.message ?? transaction?.state}</>;
  }
  const text = await show(server, <Payment />);
  expect(await text()).toBe("pending");
  server.publish("tx:1:0xab", { ...status, state: "confirmed", timestamp: 2 } as never, "transaction");
  expect(await text()).toBe("confirmed");
});

it("usePriceStream, useNotifications and useWalletUpdates, one of them refused", async () => {
  const server = new FakeServer();
  server.user = "ada";
  server.answer("notifications", () => ({ items: [], unreadCount: 0 }));
  server.refuse("prices:BTC-USB", { code: "not_found", message: "no symbol BTC-USB" });
  function Page(): ReactElement {
    const { prices, error } = usePriceStream(["BTC-USD", "BTC-USB"]);
    const { notifications } = useNotifications();
    const { recentActivity } = useWalletUpdates("0xab");
    return <>{[prices.get("BTC-USD")?.price, error?.message, notifications.map(({ title }) => title), recentActivity.map(({ type }) => type)].join(" | ")}</>;
  }
  const text = await show(server, <Page />);
  server.publish("prices:BTC-USD", { symbol: "BTC-USD", price: 5, sources: 1, stale: false, timestamp: 1 } as never, "price");
  server.publish("user:ada", { id: "n1", title: "Paid", type: "payment", read: false, timestamp: 1 } as never, "notification");
  server.publish("wallet:0xab", { type: "balance", address: "0xab", chain: 1, timestamp: 1, data: { current: "1", delta: "1", blockNumber: 1, how: "balance" } } as never, "wallet_update");
  expect(await text()).toBe("5 | no symbol BTC-USB | Paid | balance");
});
