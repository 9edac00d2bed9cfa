import type { ClientOptions, WebSocketClient } from "@tidewire/client";
import { FakeEnvironment, settle } from "@tidewire/client/testing";
import { type ReactElement, StrictMode, useEffect } from "react";
import { flushSync } from "react-dom";
import { createRoot } from "react-dom/client";
import { beforeEach, describe, expect, it, vi } from "vitest";
import { type Connection, ConnectionStatus, useChannel, useClient, useConnection, usePriceStream, WebSocketProvider } from "./index.ts";
import { Application, fakeTime, price } from "./testing/harness.tsx";

beforeEach(fakeTime);

describe("WebSocketProvider", () => {
  it("creates one client, keeps it while options change, and disconnects when it is gone", async () => {
    const fake = new FakeEnvironment();
    const tokens: string[] = [];
    const options = (token: string): ClientOptions => ({
      environment: fake.environment,
      getToken: () => {
        tokens.push(token);
        return token;
      },
    });
    const root = createRoot(document.createElement("div"));
    const render = (url: string, token: string): void => {
      flushSync(() => {
        root.render(
          <StrictMode>
            <WebSocketProvider url={url} options={options(token)}>
              <ConnectionStatus />
            </WebSocketProvider>
          </StrictMode>,
        );
      });
    };
    render("ws://test/v1/ws", "one");
    await settle();
    fake.socket.welcome();
    render("ws://test/v1/ws", "two");
    vi.advanceTimersByTime(100);
    await settle();
    expect(fake.sockets).toHaveLength(1);
    fake.socket.end(4005);
    await fake.clock.advance(500);
    expect(fake.sockets).toHaveLength(2);
    expect(tokens).toEqual(["one", "two"]);
    fake.socket.welcome();

    render("ws://other/v1/ws", "two");
    vi.advanceTimersByTime(100);
    await settle();
    expect(fake.sockets.map(({ url, closedWith }) => [url, closedWith])).toEqual([
      ["ws://test/v1/ws", undefined],
      ["ws://test/v1/ws", 1000],
      ["ws://other/v1/ws", undefined],
    ]);
    flushSync(() => {
      root.unmount();
    });
    vi.advanceTimersByTime(100);
    expect(fake.socket.closedWith).toBe(1000);
  });

  it("new options without a token replace those with one: the user signed out", async () => {
    const fake = new FakeEnvironment();
    const root = createRoot(document.createElement("div"));
    const render = (options: ClientOptions): void => {
      flushSync(() => {
        root.render(
          <WebSocketProvider url="ws://test" options={{ environment: fake.environment, ...options }}>
            <ConnectionStatus />
          </WebSocketProvider>,
        );
      });
    };
    render({ getToken: () => "ada" });
    await settle();
    fake.socket.welcome();
    render({});
    fake.socket.end(4005);
    await fake.clock.advance(500);
    expect(fake.sockets.map(({ protocols }) => protocols[1])).toEqual(["tidewire.bearer.ada", undefined]);
    flushSync(() => {
      root.unmount();
    });
    vi.advanceTimersByTime(100);
  });

  it("a component that connects again when the user changes does so with the new options", async () => {
    const fake = new FakeEnvironment();
    function Page({ user }: { user: string }): ReactElement {
      const client = useClient();
      useEffect(() => {
        client.disconnect();
        client.connect();
      }, [client, user]);
      return <ConnectionStatus />;
    }
    const root = createRoot(document.createElement("div"));
    const render = (user: string): void => {
      flushSync(() => {
        root.render(
          <WebSocketProvider url="ws://test" options={{ environment: fake.environment, getToken: () => user }}>
            <Page user={user} />
          </WebSocketProvider>,
        );
      });
    };
    render("ada");
    await settle();
    fake.socket.welcome();
    render("bob");
    await settle();
    expect(fake.sockets.map(({ protocols }) => protocols[1])).toEqual(["tidewire.bearer.ada", "tidewire.bearer.bob"]);
    flushSync(() => {
      root.unmount();
    });
    vi.advanceTimersByTime(100);
  });

  it("options change with a queued publication and a pending request: each is sent once, and settles", async () => {
    const fake = new FakeEnvironment();
    let client: WebSocketClient | undefined;
    function Page(): ReactElement {
      client = useClient();
      return <ConnectionStatus />;
    }
    const root = createRoot(document.createElement("div"));
    const render = (): void => {
      flushSync(() => {
        root.render(
          <StrictMode>
            <WebSocketProvider url="ws://test/v1/ws" options={{ environment: fake.environment, getToken: () => undefined }}>
              <Page />
            </WebSocketProvider>
          </StrictMode>,
        );
      });
    };
    render();
    const published = client?.publish("orders:7", { paid: true });
    await settle();
    render();
    fake.socket.welcome();
    await settle();
    const counted = client?.request("unread_count", {});
    render();
    await settle();
    expect(fake.sockets).toHaveLength(1);
    const [publish, ...more] = fake.socket.sentOf("publish");
    expect(more).toEqual([]);
    fake.socket.receive({ type: "published", id: publish?.id ?? "none", data: { channel: "orders:7", epoch: "e", seq: 1 } });
    fake.socket.receive({ type: "unread_count", id: fake.socket.last("unread_count").id, data: { unreadCount: 3 } });
    expect(await published).toMatchObject({ seq: 1 });
    expect(await counted).toEqual({ unreadCount: 3 });
    expect(fake.socket.sentOf("unread_count")).toHaveLength(1);
    flushSync(() => {
      root.unmount();
    });
  });

  it("leaves a client of the application connected, and ends its subscriptions", async () => {
    const app = new Application();
    app.render(<Channel />);
    await app.welcome();
    app.unmount();
    await app.pass(2_000);
    expect(app.client.state.status).toBe("connected");
    expect(app.channels("unsubscribe")).toEqual(["analytics:visitors"]);
  });

  it("an interruption keeps what is shown, and the next connection continues", async () => {
    const app = new Application();
    app.render(<Channel />);
    await app.welcome();
    app.push({ type: "message", channel: "analytics:visitors", seq: 1, data: { visitors: 3 } });
    await app.idle();
    expect(app.text).toBe("3");
    app.socket.end(1006);
    await app.idle();
    expect(app.text).toBe("3");
    await app.environment.clock.advance(10_000);
    await app.welcome();
    app.push({ type: "message", channel: "analytics:visitors", seq: 2, data: { visitors: 4 } });
    await app.idle();
    expect(app.text).toBe("4");
    app.unmount();
  });

  it("reports a refused channel of no hook with `onError`, and a refused token to every hook", async () => {
    const app = new Application();
    const seen: string[] = [];
    function Page(): ReactElement {
      const { error, loading } = usePriceStream("BTC-USD");
      const connection = useConnection();
      return (
        <>
          {loading ? "loading" : `${error?.code} ${error?.message}`} / {connection.status} {connection.error?.code}
        </>
      );
    }
    app.render(<Page />, { onError: ({ message }) => seen.push(message) });
    await settle();
    app.push({ type: "error", data: { code: "unauthenticated", message: "the token has expired" } });
    app.socket.end(4500, "the token has expired");
    await app.idle();
    expect(app.text).toBe("unauthenticated the token has expired / closed unauthenticated");
    expect(seen).toContain("the token has expired");
    app.unmount();
  });
});

function Channel(): ReactElement {
  const { data } = useChannel<{ readonly visitors: number }>("analytics:visitors");
  // Its type is that of the channel's data, in a publication alone.
  const visitors: number | undefined = data?.type === "message" ? data.data.visitors : undefined;
  return <>{visitors ?? "nothing"}</>;
}

describe("useConnection", () => {
  it("shows states, attempts and the user, and connects and disconnects", async () => {
    const app = new Application();
    let last: Connection | undefined;
    function Show(): ReactElement {
      last = useConnection();
      return <>{`${last.status} ${"attempt" in last ? String(last.attempt) : "-"} ${"welcome" in last ? String(last.welcome.userId) : "-"}`}</>;
    }
    app.render(<Show />);
    await app.idle();
    expect(app.text).toBe("connecting 0 -");
    await app.welcome("ada");
    expect(app.text).toBe("connected - ada");
    app.socket.end(1006);
    await app.idle();
    expect(app.text).toBe("reconnecting 1 -");
    expect(last?.status === "reconnecting" && last.retryAt).toBeTypeOf("number");
    expect(last?.error?.code).toBe("unavailable");
    flushSync(() => last?.disconnect());
    await app.idle();
    expect(app.text).toBe("disconnected - -");
    last?.connect();
    await app.idle();
    expect(app.text).toContain("connecting");
    app.unmount();
  });

  it.each([
    [4500, "unauthenticated"],
    [4504, "unauthenticated"],
    [4503, "permission_denied"],
    [1006, "unavailable"],
  ])("says of a connection that was closed with %i that it is %s", async (close, code) => {
    const app = new Application();
    function Show(): ReactElement {
      return <>{useConnection().error?.code}</>;
    }
    app.render(<Show />);
    await app.welcome();
    app.socket.end(close);
    await app.idle();
    expect(app.text).toBe(code);
    app.unmount();
  });

  it("renders nothing anew for a price", async () => {
    const app = new Application();
    let renders = 0;
    function Show(): ReactElement {
      renders += 1;
      return <>{useConnection().status}</>;
    }
    app.render(<Show />);
    await app.welcome();
    const before = renders;
    app.push(price("BTC-USD", 1));
    await app.idle();
    expect(renders).toBe(before);
    app.unmount();
  });
});

describe("ConnectionStatus", () => {
  it("says of no connection that never was that it is lost", async () => {
    const app = new Application();
    app.render(<ConnectionStatus />);
    await app.idle();
    for (let attempt = 0; attempt < 5; attempt += 1) {
      app.socket.end(1006);
      await app.pass(1_500);
      expect(app.text).toBe("Connecting…");
      await app.environment.clock.advance(10_000);
      await app.pass(1_500);
    }
    await app.welcome();
    expect(app.text).toBe("Connected");
    app.unmount();
  });

  it("is a polite live region that shows each lasting state, and no short interruption", async () => {
    const app = new Application();
    app.render(<ConnectionStatus className="state" labels={{ connected: "Live" }} />);
    const region = app.container.querySelector('[role="status"]');
    expect(region?.getAttribute("aria-live")).toBe("polite");
    expect(region?.className).toBe("state");
    expect(app.text).toBe("Connecting…");
    await app.welcome();
    expect(app.text).toBe("Live");
    await app.pass(100);
    app.socket.end(1006);
    await app.pass(500);
    expect(app.text).toBe("Live");
    await app.environment.clock.advance(10_000);
    await app.welcome();
    expect(app.text).toBe("Live");
    app.socket.end(1006);
    await app.pass(1_500);
    await vi.waitFor(() => {
      expect(app.text).toBe("Connection lost. Reconnecting…");
    });
    expect(app.container.querySelector('[role="status"]')).toBe(region);
    expect(region?.getAttribute("data-status")).toBe("reconnecting");
    app.unmount();
  });
});
