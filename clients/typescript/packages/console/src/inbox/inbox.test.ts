import { WebSocketClient } from "@tidewire/client";
import { FakeEnvironment, settle } from "@tidewire/client/testing";
import { expect, test } from "vitest";
import { type InboxView, NO_INBOX, openInbox } from "./inbox.ts";

const note = (order: number, rest: object = {}) => ({ id: `n${order}`, type: "payment_received", title: `T${order}`, body: "", data: null, priority: "high", timestamp: 0, read: false, ...rest }) as const;

/** A signed-in connection whose server the test plays. */
async function signedIn() {
  const fake = new FakeEnvironment();
  const client = new WebSocketClient("ws://test", { environment: fake.environment, token: "a.b.c" });
  const shown: { view: InboxView } = { view: NO_INBOX };
  client.connect();
  await settle();
  const inbox = openInbox(client, (view) => {
    shown.view = view;
  });
  fake.socket.welcome([{ channel: "user:ada", epoch: "e", seq: 0 }]);
  await settle();
  const reply = async (type: "notifications" | "read", data: object, request: "notifications" | "mark_read" | "mark_all_read") => {
    fake.socket.receive({ type, id: fake.socket.last(request).id, data } as never);
    await settle();
  };
  return { fake, inbox, shown, reply };
}

test("the list is loaded once, and follows the user's channel from then on", async () => {
  const { fake, shown, reply } = await signedIn();
  expect(shown.view).toMatchObject({ isLoaded: false, session: "connected" });
  await reply("notifications", { items: [note(2), note(1)], unreadCount: 2 }, "notifications");
  expect(shown.view).toMatchObject({ isLoaded: true, unreadCount: 2 });
  fake.socket.receive({ type: "notification", channel: "user:ada", seq: 1, data: note(3, { unreadCount: 3 }) });
  expect(shown.view.items.map(({ id }) => id)).toEqual(["n3", "n2", "n1"]);
  expect(fake.socket.sentOf("notifications")).toHaveLength(1);
});

test("a filter loads its own pages, and a reply to the filter before changes nothing", async () => {
  const { fake, inbox, shown, reply } = await signedIn();
  inbox.setFilter({ unreadOnly: true, types: ["payment_received"] });
  await reply("notifications", { items: [note(9, { read: true })], unreadCount: 4 }, "notifications");
  expect(shown.view).toMatchObject({ isLoaded: false, items: [] });
  expect(fake.socket.last("notifications").data).toEqual({ unreadOnly: true, types: ["payment_received"], limit: 20 });
  await reply("notifications", { items: [note(2), note(1)], unreadCount: 4, next: "n1" }, "notifications");
  expect(shown.view).toMatchObject({ isLoaded: true, unreadCount: 4, next: "n1" });
  inbox.more();
  expect(fake.socket.last("notifications").data).toEqual({ unreadOnly: true, types: ["payment_received"], limit: 20, before: "n1" });
  await reply("notifications", { items: [note(0)], unreadCount: 4 }, "notifications");
  expect(shown.view.items.map(({ id }) => id)).toEqual(["n2", "n1", "n0"]);
  expect(shown.view.next).toBeUndefined();
});

test("with a filter, all read marks what is listed and nothing else", async () => {
  const { fake, inbox, shown, reply } = await signedIn();
  await reply("notifications", { items: [note(2), note(1)], unreadCount: 2 }, "notifications");
  inbox.markAllRead();
  expect(fake.socket.last("mark_all_read").data).toEqual({ upTo: "n2" });
  inbox.setFilter({ priorities: ["urgent"] });
  await settle();
  await reply("notifications", { items: [note(1, { priority: "urgent" })], unreadCount: 2 }, "notifications");
  inbox.markAllRead();
  expect(fake.socket.last("mark_read").data).toEqual({ ids: ["n1"] });
  await reply("read", { ids: ["n1"], unreadCount: 1 }, "mark_read");
  expect(shown.view).toMatchObject({ unreadCount: 1, items: [{ id: "n1", read: true }] });
});

test("a refused change says why, and a closed inbox shows nothing more", async () => {
  const { fake, inbox, shown, reply } = await signedIn();
  await reply("notifications", { items: [note(1)], unreadCount: 1 }, "notifications");
  inbox.markRead("n1");
  fake.socket.receive({ type: "error", id: fake.socket.last("mark_read").id, data: { code: "unavailable", message: "the store does not answer" } });
  await settle();
  expect(shown.view).toMatchObject({ note: "the store does not answer", unreadCount: 1 });
  inbox.close();
  fake.socket.receive({ type: "notification", channel: "user:ada", seq: 1, data: note(3, { unreadCount: 3 }) });
  expect(shown.view.items).toHaveLength(1);
});
