import type { ReactElement } from "react";
import { renderToString } from "react-dom/server";
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { ConnectionStatus, useNotifications, usePriceStream } from "./index.ts";
import { Application, fakeTime, price } from "./testing/harness.tsx";

beforeEach(fakeTime);
afterEach(() => {
  vi.restoreAllMocks();
});

function Page(): ReactElement {
  const { prices, loading } = usePriceStream(["BTC-USD"]);
  const { unreadCount } = useNotifications();
  return (
    <p>
      {loading ? "loading" : String(prices.get("BTC-USD")?.price)}, {unreadCount} unread, <ConnectionStatus />
    </p>
  );
}

it("hydration under StrictMode when the store has data already: no mismatch, then the data", async () => {
  const logged = vi.spyOn(console, "error");
  const html = renderToString(new Application().tree(<Page />));
  expect(html).toContain("loading");

  const app = new Application();
  app.answers["notifications"] = () => ({ type: "notifications", data: { items: [], unreadCount: 4 } });
  // An island of the page that was hydrated earlier.
  app.render(<Page />);
  await app.welcome("ada");
  app.push(price("BTC-USD", 7));
  await app.idle();
  await app.pass(100);
  expect(app.text).toBe("7, 4 unread, Connected");

  const island = document.createElement("div");
  document.body.append(island);
  const second = Object.assign(app, { container: island });
  second.hydrate(html, app.tree(<Page />, { strict: true }));
  await vi.waitFor(() => {
    expect(island.textContent).toBe("7, 4 unread, Connected");
  });
  expect(logged.mock.calls).toEqual([]);
  expect(app.errors).toEqual([]);
  expect(app.environment.sockets).toHaveLength(1);
  expect(app.channels("subscribe").filter((channel) => channel.startsWith("prices:"))).toEqual(["prices:BTC-USD"]);
  app.unmount();
});
