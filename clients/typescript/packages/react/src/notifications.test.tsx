import type { Notification, ServerMessage } from "@tidewire/client";
import type { ReactElement } from "react";
import { beforeEach, describe, expect, it } from "vitest";
import { type Notifications, useNotifications } from "./index.ts";
import { Application, fakeTime } from "./testing/harness.tsx";

beforeEach(fakeTime);

const CHANNEL = "user:ada";

function note(id: string, rest: Partial<Notification> = {}): Notification {
  return { id, type: "payment_received", title: id, body: "", data: null, priority: "high", timestamp: 1, read: false, ...rest };
}

function pushed(id: string, seq: number, rest: Partial<Notification> = {}): ServerMessage {
  return { type: "notification", channel: CHANNEL, seq, data: note(id, rest) };
}

/** An application that shows the inbox, and the hook's newest result. */
async function inbox(items: Notification[] = [], user = "ada"): Promise<{ app: Application; shown: () => Notifications }> {
  const app = new Application();
  app.answers["notifications"] = () => ({ type: "notifications", data: { items, unreadCount: items.filter(({ read }) => !read).length } });
  let last: Notifications | undefined;
  function List(): ReactElement {
    last = useNotifications();
    return (
      <>
        {last.unreadCount}: {last.notifications.map(({ title, read }) => `${title}${read ? "" : "*"}`).join(" ")}
      </>
    );
  }
  app.render(<List />);
  await app.welcome(user);
  return {
    app,
    shown: () => {
      if (last === undefined) {
        throw new Error("nothing is shown");
      }
      return last;
    },
  };
}

describe("useNotifications", () => {
  it("has exactly the documented shape", async () => {
    const { app, shown } = await inbox();
    expect(Object.keys(shown())).toEqual(["notifications", "unreadCount", "markAsRead", "markAllRead", "dismiss"]);
    app.unmount();
  });

  it("30 notifications in one task: the hook shows 30, with one commit", async () => {
    const { app, shown } = await inbox();
    app.commits = 0;
    for (let index = 0; index < 30; index += 1) {
      app.push(pushed(`n${String(index).padStart(2, "0")}`, index + 1, { unreadCount: index + 1 }));
    }
    await app.idle();
    expect(shown().notifications).toHaveLength(30);
    expect(shown().unreadCount).toBe(30);
    expect(shown().notifications[0]?.id).toBe("n29");
    expect(app.commits).toBe(1);
    app.unmount();
  });

  it("shows a change at once, and takes back only the one that the server refuses", async () => {
    const { app, shown } = await inbox([note("c"), note("b"), note("a")]);
    expect(app.text).toBe("3: c* b* a*");
    const first = shown().markAsRead("a");
    const second = shown().dismiss(["b"]);
    await app.idle();
    expect(app.text).toBe("1: c* a");
    // An older value of the server: another device marked `c`, before these two were counted.
    app.push({ type: "read", channel: CHANNEL, seq: 1, data: { ids: ["c"], unreadCount: 2 } });
    await app.idle();
    expect(app.text).toBe("0: c a");
    const sent = app.socket.last("mark_read");
    app.push({ type: "error", id: sent.id, data: { code: "unavailable", message: "the store is full" } });
    await expect(first).rejects.toThrow("the store is full");
    await app.idle();
    expect(app.text).toBe("1: c a*");
    app.push({ type: "dismissed", id: app.socket.last("dismiss").id, data: { ids: ["b"], unreadCount: 1 } });
    await second;
    app.push({ type: "dismissed", channel: CHANNEL, seq: 2, data: { ids: ["b"], unreadCount: 1 } });
    await app.idle();
    expect(app.text).toBe("1: c a*");
    app.unmount();
  });

  it("a refusal that nobody handles is no unhandled rejection", async () => {
    const { app, shown } = await inbox([note("a")]);
    app.answers["dismiss"] = () => ({ type: "error", data: { code: "unavailable", message: "no" } });
    void shown().dismiss("a");
    await app.idle();
    expect(app.text).toBe("1: a*");
    app.socket.end(1006);
    void shown().markAsRead("a");
    void shown().markAllRead();
    await app.idle();
    expect(app.text).toBe("1: a*");
    app.unmount();
  });

  it("a list that the server can not give is read again after the time that it names", async () => {
    const app = new Application();
    const answers = [{ type: "error", data: { code: "unavailable", message: "busy", retryAfterMs: 500 } }, { type: "error", data: { code: "internal", message: "no" } }] as const;
    let requests = 0;
    app.answers["notifications"] = () => answers[requests++] ?? { type: "notifications", data: { items: [note("a")], unreadCount: 1 } };
    function Count(): ReactElement {
      return <>{useNotifications().unreadCount}</>;
    }
    app.render(<Count />);
    await app.welcome("ada");
    expect([app.text, requests]).toEqual(["0", 1]);
    await app.pass(500);
    await app.idle();
    expect([app.text, requests]).toEqual(["0", 2]);
    await app.pass(2_000);
    await app.idle();
    expect([app.text, requests]).toEqual(["1", 3]);
    app.unmount();
  });

  it("a page of another form is no unhandled rejection", async () => {
    const app = new Application();
    app.answers["notifications"] = () => ({ type: "notifications", data: { unreadCount: 0 } }) as never;
    function Count(): ReactElement {
      return <>{useNotifications().unreadCount}</>;
    }
    app.render(<Count />);
    await app.welcome("ada");
    await app.pass(10_000);
    expect(app.text).toBe("0");
    app.unmount();
  });

  it("a delayed unread_count reply after a pushed read: the count stays 0", async () => {
    const { app } = await inbox([note("a")]);
    const counted = app.client.request("unread_count", {});
    const { id } = app.socket.last("unread_count");
    app.push({ type: "read", channel: CHANNEL, seq: 1, data: { ids: ["a"], unreadCount: 0 } });
    app.push({ type: "unread_count", id, data: { unreadCount: 1 } });
    await counted;
    await app.idle();
    expect(app.text).toBe("0: a");
    app.unmount();
  });

  it("marks all of the list as read, and leaves one that arrives meanwhile", async () => {
    const { app, shown } = await inbox([note("b"), note("a")]);
    const done = shown().markAllRead();
    app.push(pushed("c", 1, { unreadCount: 3 }));
    await app.idle();
    expect(app.socket.last("mark_all_read").data).toEqual({ upTo: "b" });
    expect(app.text).toBe("1: c* b a");
    app.push({ type: "read", id: app.socket.last("mark_all_read").id, data: { all: true, upTo: "b", unreadCount: 1 } });
    await done;
    await app.idle();
    expect(app.text).toBe("1: c* b a");
    app.unmount();
  });

  it("reads the list again when a count says that it is wrong, and applies what is pushed meanwhile", async () => {
    const { app } = await inbox([note("b"), note("a")]);
    app.answers["notifications"] = () => {
      app.push(pushed("c", 3, { unreadCount: 2 }));
      return { type: "notifications", data: { items: [note("b")], unreadCount: 1 } };
    };
    app.push({ type: "unread_count", channel: CHANNEL, seq: 2, data: { unreadCount: 1 } });
    await app.idle();
    expect(app.text).toBe("2: c* b*");
    app.unmount();
  });

  it("a batch after a lost connection is applied to the list, without reading it again", async () => {
    const { app } = await inbox([note("c"), note("b"), note("a")]);
    const requests = app.socket.sentOf("notifications").length;
    app.push({
      type: "notification_batch",
      channel: CHANNEL,
      seq: 9,
      data: { items: [note("d"), note("e", { read: true })], unreadCount: 2, read: { ids: ["c"], unreadCount: 3 }, dismissed: { ids: ["a"], unreadCount: 2 } },
    });
    await app.idle();
    expect(app.text).toBe("2: e d* c b*");
    expect(app.socket.sentOf("notifications")).toHaveLength(requests);
    app.unmount();
  });

  it("a newer notification replaces those that it names, and an expired one is not shown", async () => {
    const { app } = await inbox([note("a", { collapseKey: "order" })]);
    app.push(pushed("b", 1, { collapseKey: "order", replaces: ["a"], unreadCount: 1 }));
    app.push(pushed("c", 2, { expiresAt: 5, unreadCount: 2 }));
    await app.idle();
    expect(app.text).toBe("2: b*");
    // A broadcast with the same key replaces none of the user's own.
    app.push(pushed("d", 3, { collapseKey: "order", unreadCount: 3 }));
    await app.idle();
    expect(app.text).toBe("3: d* b*");
    app.unmount();
  });

  it("another user sees nothing of the one before, also if a reply comes late", async () => {
    const { app, shown } = await inbox([note("a")]);
    delete app.answers["mark_read"];
    void shown().markAsRead("a").catch(() => undefined);
    app.answers["notifications"] = () => undefined;
    app.socket.end(4005);
    await app.environment.clock.advance(10_000);
    await app.welcome("bob");
    expect(app.text).toBe("0: ");
    app.answers["notifications"] = () => ({ type: "notifications", data: { items: [note("z")], unreadCount: 1 } });
    app.push({ type: "notifications", id: app.socket.last("notifications").id, data: { items: [note("z")], unreadCount: 1 } });
    await app.idle();
    expect(app.text).toBe("1: z*");
    await app.pass(300);
    expect(app.channels("unsubscribe")).toEqual(["user:ada"]);
    expect(app.errors).toEqual([]);
    app.unmount();
  });

  it("marks what was loaded and what recovery replays, so that toasts and sounds skip the backlog", async () => {
    const { app, shown } = await inbox([note("a")]);
    app.push(pushed("b", 1, { unreadCount: 2 }));
    await app.idle();
    app.socket.end(1006);
    await app.environment.clock.advance(300);
    app.answers["subscribe"] = () => ({ type: "subscribed", data: { channels: [{ channel: CHANNEL, epoch: "e", seq: 3, recovered: true }] } });
    await app.welcome("ada");
    app.push({ type: "notification_batch", channel: CHANNEL, seq: 3, data: { items: [note("c")], unreadCount: 3 } });
    app.push(pushed("d", 4, { unreadCount: 4 }));
    await app.idle();
    expect(shown().notifications.map(({ id, replayed }) => [id, replayed])).toEqual([
      ["d", false],
      ["c", true],
      ["b", false],
      ["a", true],
    ]);
    app.unmount();
  });

  it("changes without a connection reject and change nothing", async () => {
    const { app, shown } = await inbox([note("a")]);
    app.client.disconnect();
    await expect(shown().markAsRead("a")).rejects.toMatchObject({ code: "unavailable" });
    await app.idle();
    expect(app.text).toBe("1: a*");
    app.unmount();
  });

  it("keeps 500 notifications at most", async () => {
    const { app, shown } = await inbox();
    for (let index = 0; index < 700; index += 1) {
      app.push(pushed(`n${String(index).padStart(4, "0")}`, index + 1, { unreadCount: index + 1 }));
    }
    await app.idle();
    expect(shown().notifications).toHaveLength(500);
    expect(shown().notifications.at(-1)?.id).toBe("n0200");
    expect(shown().unreadCount).toBe(700);
    app.unmount();
  });
});
