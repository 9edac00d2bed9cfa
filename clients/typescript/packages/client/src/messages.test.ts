import { describe, expect, it } from "vitest";
import { serverData } from "./checks/server.ts";
import type { ServerMessage, ServerType } from "./messages.ts";

/** Names the subject of a message. It compiles only while each type has its case: `never` is left at the end. */
function subjectOf(message: ServerMessage): string {
  switch (message.type) {
    case "welcome":
      return message.data.connectionId;
    case "authenticated":
      return message.data.userId;
    case "subscribed":
      return message.data.channels.map(({ channel }) => channel).join();
    case "unsubscribed":
      return message.data.channels.join();
    case "history":
    case "published":
    case "gap":
      return message.data.channel;
    case "watching":
      return "hash" in message.data ? message.data.hash : message.data.channel;
    case "unwatched":
      return message.data.txHash ?? "events";
    case "price":
    case "candle":
      return message.data.symbol;
    case "price_batch":
      return message.data.updates.map(({ symbol }) => symbol).join();
    case "market_overview":
      return "market";
    case "block":
    case "transaction":
      return message.data.hash;
    case "event_log":
      return message.data.txHash;
    case "wallet_update":
      return message.data.address;
    case "notification":
      return message.data.title;
    case "notification_batch":
    case "notifications":
      return message.data.items.map(({ title }) => title).join();
    case "read":
    case "dismissed":
      return (message.data.ids ?? []).join();
    case "unread_count":
      return String(message.data.unreadCount);
    case "preferences":
      return message.data.minPriority ?? "low";
    case "alert":
      return message.data.alertId;
    case "alert_registered":
    case "alert_updated":
    case "alert_deleted":
      return message.data.id;
    case "candles":
    case "alerts":
    case "alert_log":
      return String(message.data.items.length);
    case "alert_explained":
      return "explained";
    case "visibility":
    case "status":
      return message.data.state;
    case "pong":
    case "ping":
      return String(message.data.serverTime);
    case "message":
      return JSON.stringify(message.data);
    case "token_expiring":
      return String(message.data.expiresAt);
    case "reconnect":
      return message.data.reason;
    case "error":
      return message.data.code;
    case "cursor":
      return message.data.cursor;
    default: {
      const left: never = message;
      return left;
    }
  }
}

describe("messages", () => {
  it("can be told apart by their type, each one of them", () => {
    expect(subjectOf({ type: "error", data: { code: "not_found", message: "none" } })).toBe("not_found");
    expect(subjectOf({ type: "message", channel: "demo:a", seq: 1, data: [1] })).toBe("[1]");
  });

  it("are checked, each one of them", () => {
    const types: readonly ServerType[] = ["welcome", "price", "gap", "cursor"];
    expect(Object.keys(serverData)).toEqual(expect.arrayContaining([...types]));
  });
});
