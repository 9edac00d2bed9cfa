/** The user's own channel: subscribes to it as soon as the user is known, and begins again with another user. */
import type { ChannelMessage, WebSocketClient } from "@tidewire/client";
import { onConnected } from "./connected.ts";

/** A part of the state of a user. */
export interface UserFollower {
  /** Another user, or none: everything of the user before must go. */
  readonly onUser: (userId: string | undefined) => void;
  /** A connection of this user is ready for requests. */
  readonly onReady: () => void;
  readonly onMessage: (message: ChannelMessage) => void;
}

/** Follows the user of the client's token. Returns a function that ends it. */
export function followUser(client: WebSocketClient, { onUser, onReady, onMessage }: UserFollower): () => void {
  let unsubscribe: (() => void) | undefined;
  // `null`: not known yet, other than a connection without a user.
  let user: string | null | undefined = null;
  const end = onConnected(client, ({ userId }) => {
    if (userId !== user) {
      unsubscribe?.();
      unsubscribe = undefined;
      user = userId;
      onUser(userId);
      if (userId !== undefined) {
        // Refused only on the first connection of another user, before this subscription ends.
        unsubscribe = client.subscribe(`user:${userId}`, onMessage, { onError: () => undefined });
      }
    }
    if (userId !== undefined) {
      onReady();
    }
  });
  return () => {
    end();
    unsubscribe?.();
  };
}
