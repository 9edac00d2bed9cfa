/** The inbox of the user who is signed in, shared by the page and the tab's badge. */
import type { WebSocketClient } from "@tidewire/client";
import { setBadge } from "../lib/badges.ts";
import { count } from "../lib/format.ts";
import { currentSession, followSession } from "../lib/session.ts";
import { createStore } from "../lib/store.ts";
import { type Inbox, type InboxView, NO_INBOX, openInbox } from "./inbox.ts";

/** What the page shows now. */
export const inboxView = createStore<InboxView>(NO_INBOX);

let current: Inbox | undefined;

/** The inbox of the user who is signed in. */
export function currentInbox(): Inbox | undefined {
  return current;
}

/** Follows the user who signs in, and shows the count at the tab. Called once, when the page starts. */
export function startInbox(): void {
  let client: WebSocketClient | undefined;
  followSession(() => {
    const { userClient } = currentSession();
    if (userClient !== client) {
      client = userClient;
      current?.close();
      inboxView.set(NO_INBOX);
      current = client && openInbox(client, inboxView.set);
    }
  });
  inboxView.follow(() => {
    const { isLoaded, unreadCount, session } = inboxView.get();
    const isKnown = session !== "none" && (isLoaded || unreadCount > 0);
    setBadge("inbox", isKnown ? { text: `${unreadCount} unread`, label: count(unreadCount, "unread notification"), isHot: unreadCount > 0 } : undefined);
  });
}
