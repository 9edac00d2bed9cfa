/**
 * Session: the connections of the page, and the token that a user signed in with.
 *
 * The page has one connection without a token: on loopback, requests without a token may do more
 * than a user may. A user who signs in gets a second connection, for the inbox and the alerts.
 * Where the server wants a token for everything, the user's connection serves all pages.
 */
import { type ClientError, WebSocketClient } from "@tidewire/client";
import { base } from "./base.ts";
import { readStored, writeStored } from "./storage.ts";
import { createStore, useStore } from "./store.ts";
import { parseFrame } from "./wire.ts";

/** Key of the tab's storage. The token survives a reload and ends with the tab. */
const TOKEN_KEY = "tidewire.token";

/** The URL of the server's WebSocket. */
export const socketUrl = `${base.replace(/^http/, "ws")}/v1/ws`;

/** The state of the session. */
export interface Session {
  /** The connection for all that belongs to no user. It has a token only where the server wants one. */
  readonly client: WebSocketClient;
  /** The connection of the user who signed in. */
  readonly userClient: WebSocketClient | undefined;
  readonly token: string | undefined;
  /** The user of the token, once the server has accepted it. */
  readonly user: string | undefined;
  /** Whether the server refuses requests without a token. */
  readonly wantsToken: boolean;
  /** Why there is no user, if there was to be one. */
  readonly note: string;
}

const openClient = new WebSocketClient(socketUrl, { parse: parseFrame });

const session = createStore<Session>({ client: openClient, userClient: undefined, token: undefined, user: undefined, wantsToken: false, note: "" });

/** Whether the page's connection is up. */
const online = createStore(false);

/** Whether the page's connection was up, and is lost. */
const lost = createStore(false);

function noteStatus({ state }: { readonly state: { readonly status: string } }): void {
  const isOnline = state.status === "connected";
  lost.set(!isOnline && (lost.get() || online.get()));
  online.set(isOnline);
}

function change(part: Partial<Session>): void {
  const next = { ...session.get(), ...part };
  const client = next.wantsToken && next.userClient ? next.userClient : openClient;
  session.set({ ...next, client });
  noteStatus(client);
}

function followClient(client: WebSocketClient): void {
  client.on("state", () => {
    if (client === session.get().client) {
      noteStatus(client);
    }
  });
}

/** Logs what a part of the page threw. What a server refuses is shown where it was asked for. */
export function logFault({ message, cause }: ClientError): void {
  if (cause !== undefined) {
    console.error(message, cause);
  }
}

/** Opens the connections. Called once, when the page starts. */
export function startSession(): void {
  followClient(openClient);
  openClient.on("state", (state) => {
    if (state.status === "closed" && state.end.code === 4500) {
      demandToken();
    }
  });
  openClient.connect();
  const token = readStored("sessionStorage", TOKEN_KEY);
  if (token !== null) {
    signIn(token);
  }
}

/** The server refused a request for want of a token: from now on all connections have one. */
export function demandToken(): void {
  if (!session.get().wantsToken) {
    openClient.disconnect();
    change({ wantsToken: true });
  }
}

/** Signs a user in. Returns what is wrong with the token, or nothing. */
export function signIn(text: string): string {
  const token = text.trim().replace(/^Bearer\s+/i, "");
  signOut();
  if (!/^[\w-]+\.[\w-]+\.[\w-]+$/.test(token)) {
    const note = "This is no token: expected three parts of letters and digits, separated by dots.";
    change({ note });
    return note;
  }
  writeStored("sessionStorage", TOKEN_KEY, token);
  const userClient = new WebSocketClient(socketUrl, { token, parse: parseFrame });
  followClient(userClient);
  let lastError = "";
  userClient.on("error", (error) => {
    lastError = error.message;
    logFault(error);
  });
  userClient.on("state", (state) => {
    if (session.get().userClient !== userClient) {
      return;
    }
    if (state.status === "connected") {
      change({ user: state.welcome.userId ?? ownerOf(state.welcome.subscriptions) });
    } else if (state.status === "closed") {
      signOut(`Signed out: ${lastError || state.end.reason}.`);
    }
  });
  change({ userClient, token, user: undefined, note: "" });
  userClient.connect();
  return "";
}

/** The user of a connection: the server subscribes it to `user:{id}` by itself. */
function ownerOf(subscriptions: readonly { readonly channel: string }[]): string | undefined {
  return subscriptions.find(({ channel }) => channel.startsWith("user:"))?.channel.slice("user:".length);
}

/** Signs the user out. `note` says why. */
export function signOut(note = ""): void {
  writeStored("sessionStorage", TOKEN_KEY, null);
  const { userClient } = session.get();
  change({ userClient: undefined, token: undefined, user: undefined, note });
  userClient?.disconnect();
}

/** The session now, for code outside of components. */
export function currentSession(): Session {
  return session.get();
}

/** Calls `listener` after each change of the session. Returns a function that removes it. */
export const followSession = session.follow;

/** Whether the page's connection is up, for code outside of components. */
export const onlineStore = online;

/** The session, followed. */
export function useSession(): Session {
  return useStore(session);
}

/** Whether the page's connection is up, followed. */
export function useOnline(): boolean {
  return useStore(online);
}

/** Whether what the page shows is old, because its connection is lost, followed. */
export function useOld(): boolean {
  return useStore(lost);
}
