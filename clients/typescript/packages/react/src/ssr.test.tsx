// @vitest-environment node
import { createElement, type ReactElement } from "react";
import { renderToString } from "react-dom/server";
import { afterEach, expect, it, vi } from "vitest";
import {
  ConnectionStatus,
  useAlerts,
  useChannel,
  useClient,
  useConnection,
  useMarketOverview,
  useNotifications,
  usePriceStream,
  useTransaction,
  useWalletUpdates,
  WebSocketProvider,
} from "./index.ts";

afterEach(() => {
  vi.unstubAllGlobals();
});

function Page(): ReactElement {
  const { status } = useConnection();
  const { prices, loading } = usePriceStream(["BTC-USD"]);
  const market = useMarketOverview();
  const transaction = useTransaction("0xAB", 1);
  const { pendingTxs, recentActivity, balanceChanges } = useWalletUpdates("0xAB");
  const { notifications, unreadCount } = useNotifications();
  const alerts = useAlerts();
  const channel = useChannel("analytics:visitors");
  return (
    <main>
      {JSON.stringify({ status, prices: prices.size, loading, market, transaction, pendingTxs, recentActivity, balanceChanges, notifications, unreadCount })}
      {JSON.stringify({ alerts, channel })}
      <ConnectionStatus />
    </main>
  );
}

it("renders on a server, also one without a WebSocket, and opens no connection and no timer", () => {
  for (const WebSocket of [undefined, class {
    constructor() {
      throw new Error("a connection on a server");
    }
  }]) {
    vi.stubGlobal("WebSocket", WebSocket);
    vi.useFakeTimers();
    const html = renderToString(
      <WebSocketProvider url="wss://example.com/v1/ws">
        <Page />
      </WebSocketProvider>,
    );
    expect(html).toContain('role="status"');
    expect(html).toContain("Connecting…");
    expect(html).toContain("&quot;loading&quot;:true");
    expect(vi.getTimerCount()).toBe(0);
    vi.useRealTimers();
  }
});

it("renders a component that has the client of a provider with a relative address", () => {
  const Status = (): string => useClient().state.status;
  expect(renderToString(createElement(WebSocketProvider, { url: "/v1/ws" }, createElement(Status)))).toBe("disconnected");
});

it("a hook without a provider says what is missing", () => {
  expect(() => renderToString(<Page />)).toThrow("<WebSocketProvider>");
});
