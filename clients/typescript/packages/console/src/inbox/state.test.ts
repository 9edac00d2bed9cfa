import type { Notification } from "@tidewire/client";
import { describe, expect, it } from "vitest";
import { InboxState, MAX_ITEMS } from "./state.ts";

/** A notification whose id sorts by `order`. */
function note(order: number, rest: Partial<Notification> = {}): Notification {
  const id = String(order).padStart(4, "0");
  return { id, type: "payment_received", title: `Number ${id}`, body: "", data: null, priority: "high", timestamp: order, read: false, ...rest };
}

/** A state that has loaded these notifications. */
function loaded(items: readonly Notification[], next?: string): InboxState {
  const state = new InboxState();
  state.replace({ items, unreadCount: items.filter(({ read }) => !read).length, ...(next !== undefined && { next }) });
  return state;
}

const ids = (state: InboxState): string[] => state.items.map(({ id }) => id);
const unread = (state: InboxState): string[] => state.items.filter(({ read }) => !read).map(({ id }) => id);

describe("inbox state", () => {
  it("puts a notification at its place, once, with its count", () => {
    const state = loaded([note(3), note(1)]);
    state.apply({ type: "notification", data: note(4, { unreadCount: 3 }) });
    state.apply({ type: "notification", data: note(2, { unreadCount: 4 }) });
    state.apply({ type: "notification", data: note(4, { unreadCount: 4, read: true }) });
    expect([ids(state), unread(state), state.unreadCount]).toEqual([["0004", "0003", "0002", "0001"], ["0003", "0002", "0001"], 4]);
  });

  it("applies what other devices read and dismiss", () => {
    const state = loaded([note(4), note(3), note(2), note(1)]);
    state.apply({ type: "read", data: { ids: ["0003", "9999"], unreadCount: 3 } });
    state.apply({ type: "dismissed", data: { ids: ["0004"], unreadCount: 2 } });
    expect([ids(state), unread(state), state.unreadCount]).toEqual([["0003", "0002", "0001"], ["0002", "0001"], 2]);
    state.apply({ type: "read", data: { all: true, upTo: "0001", unreadCount: 1 } });
    expect([unread(state), state.unreadCount]).toEqual([["0002"], 1]);
    state.apply({ type: "read", data: { all: true, unreadCount: 0 } });
    expect([unread(state), state.unreadCount]).toEqual([[], 0]);
  });

  it("replaces the older ones that a notification names, also when they arrive in the other order", () => {
    const state = loaded([note(1, { collapseKey: "order-7" })]);
    state.apply({ type: "notification", data: note(3, { collapseKey: "order-7", replaces: ["0002", "0001"], unreadCount: 1 }) });
    state.apply({ type: "notification", data: note(2, { collapseKey: "order-7", replaces: ["0001"], unreadCount: 1 }) });
    expect([ids(state), state.unreadCount]).toEqual([["0003"], 1]);
  });

  it("shows a broadcast and a user's own notification with one collapse key", () => {
    const state = loaded([note(1, { collapseKey: "order-7" })]);
    expect(state.apply({ type: "notification", data: note(2, { collapseKey: "order-7", unreadCount: 2 }) })).toBe("applied");
    expect([ids(state), state.unreadCount]).toEqual([["0002", "0001"], 2]);
  });

  it("counts a broadcast, which brings no count, and agrees with the count after it", () => {
    const state = loaded([note(1)]);
    state.apply({ type: "notification", data: note(2) });
    expect(state.unreadCount).toBe(2);
    expect(state.apply({ type: "unread_count", data: { unreadCount: 2 } })).toBe("applied");
  });

  it("asks for the list when a count or a gap shows that it is not the server's", () => {
    const whole = loaded([note(2), note(1)]);
    expect(whole.apply({ type: "unread_count", data: { unreadCount: 1 } })).toBe("reload");
    expect(whole.unreadCount).toBe(1);
    const part = loaded([note(2)], "0002");
    part.apply({ type: "read", data: { ids: ["0001"], unreadCount: 7 } });
    expect(part.apply({ type: "unread_count", data: { unreadCount: 7 } })).toBe("applied");
    expect(part.apply({ type: "unread_count", data: { unreadCount: 6 } })).toBe("reload");
    expect(part.apply({ type: "gap", data: { channel: "user:ada", epoch: "e", seq: 9 } })).toBe("reload");
  });

  it("adds older pages, and nothing below what is loaded", () => {
    const state = loaded([note(5), note(4)], "0004");
    state.apply({ type: "notification", data: note(2, { unreadCount: 5 }) });
    expect(ids(state)).toEqual(["0005", "0004"]);
    state.append({ items: [note(4), note(3), note(2)], unreadCount: 5, next: "0002" });
    expect([ids(state), state.next]).toEqual([["0005", "0004", "0003", "0002"], "0002"]);
    state.append({ items: [note(1)], unreadCount: 5 });
    expect([ids(state).length, state.next]).toEqual([5, undefined]);
  });

  it("applies a batch that sums up an absence: older changes first, then its items", () => {
    const state = loaded([note(3), note(2), note(1)]);
    const read = { ids: ["0001"], unreadCount: 2 };
    const dismissed = { ids: ["0002"], unreadCount: 2 };
    state.apply({ type: "notification_batch", data: { items: [note(4), note(5, { read: true })], unreadCount: 2, read, dismissed } });
    expect([ids(state), unread(state), state.unreadCount]).toEqual([["0005", "0004", "0003", "0001"], ["0004", "0003"], 2]);
  });

  it("goes on from the cursor of a batch that has no room for all", () => {
    const state = loaded([note(2), note(1)]);
    state.apply({ type: "notification_batch", data: { items: [note(8), note(9)], unreadCount: 9, next: "0008" } });
    expect([ids(state), state.next, state.unreadCount]).toEqual([["0009", "0008"], "0008", 9]);
  });

  it("drops what has expired", () => {
    const state = loaded([note(2, { expiresAt: 50 }), note(1)]);
    expect([state.expire(49), state.expire(50), ids(state)]).toEqual([false, true, ["0001"]]);
  });

  it("stays bounded, and can load again what it dropped", () => {
    const state = loaded([note(1)]);
    for (let order = 2; order <= MAX_ITEMS + 3; order += 1) {
      state.apply({ type: "notification", data: note(order, { unreadCount: order }) });
    }
    expect([state.items.length, state.next, state.unreadCount]).toEqual([MAX_ITEMS, "0004", MAX_ITEMS + 3]);
  });

  it("shows what its filter lets through, and counts the rest too", () => {
    const state = new InboxState({ unreadOnly: true, types: ["payment_received"], priorities: ["high", "urgent"] });
    state.replace({ items: [note(2), note(1)], unreadCount: 9 });
    state.apply({ type: "notification", data: note(3, { priority: "low", unreadCount: 10 }) });
    state.apply({ type: "notification", data: note(4, { type: "price_alert", unreadCount: 11 }) });
    state.apply({ type: "notification", data: note(5, { read: true, unreadCount: 11 }) });
    state.apply({ type: "notification", data: note(6, { unreadCount: 12 }) });
    expect([ids(state), state.unreadCount]).toEqual([["0006", "0002", "0001"], 12]);
    state.apply({ type: "read", data: { ids: ["0002"], unreadCount: 11 } });
    expect([ids(state), state.unreadCount]).toEqual([["0006", "0001"], 11]);
    expect(state.apply({ type: "unread_count", data: { unreadCount: 11 } })).toBe("applied");
    expect(state.apply({ type: "unread_count", data: { unreadCount: 10 } })).toBe("reload");
  });
});
