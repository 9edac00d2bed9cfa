/**
 * Tabs: one socket for all tabs of a browser, as `@tidewire/client/tabs`.
 *
 * Each tab has a client of its own, whose WebSocket is a stand-in that talks to
 * a leader over a `BroadcastChannel`. The leader is the tab that holds a Web
 * Lock: see `leader.ts`. When it goes away the browser passes the lock on, the
 * new leader announces itself, and each client reconnects to it and resumes by
 * seq: what a lost connection does, so that nothing is lost and nothing comes
 * twice. A leader that is frozen keeps its lock but answers nobody: then a
 * follower steals the lock. Where WebSockets are blocked, the tabs share one
 * event stream in the same way.
 *
 * Each tab also holds a lock of its own, and the leader waits for it: it gets it
 * when the tab is gone, also if that crashed or was killed and said nothing.
 *
 * Tabs with tokens of different users never share: the user is part of the name.
 */
import type { ClientOptions } from "../api.ts";
import { WebSocketClient } from "../client.ts";
import { environmentWith, type Fetch, type Timer, type WebSocketConstructor, type WebSocketLike } from "../environment.ts";
import { ownerOf } from "../token.ts";
import { openEventStream, type OpenEventStream, openWebSocket } from "../wires.ts";
import { type Answer, type Leader, openLeader, type TabNote } from "./leader.ts";

/** The time in which a leader answers. After it, and up to as much again by chance, a follower steals the lock. */
const LEADER_TIMEOUT_MS = 1_000;

/** The part of the Web Locks API that this module uses. */
export interface LockManagerLike {
  request(name: string, options: { readonly steal?: boolean; readonly signal?: AbortSignal }, hold: () => Promise<unknown>): Promise<unknown>;
}

/** A channel between the tabs, as `BroadcastChannel`: a message reaches all others of the name. */
export interface TabChannel {
  onmessage: ((event: { readonly data: unknown }) => void) | null;
  postMessage(message: unknown): void;
  close(): void;
}

/** What the tabs use of the browser. Tests replace it. */
export interface TabEnvironment {
  readonly locks: LockManagerLike | undefined;
  readonly openChannel: ((name: string) => TabChannel) | undefined;
}

/** What tabs say to each other. A leader's notes have a `to`, and are `by` it: a thawed one's are ignored. */
type Note =
  | TabNote
  | (Answer & { readonly by: string })
  /** A tab became the leader. */
  | { readonly leader: string };

/**
 * Creates a client whose tabs of one origin, URL and user share one socket.
 * Where the browser has no Web Locks or no BroadcastChannel, or denies them, each tab has its own.
 */
export function createTabClient(url: string | URL, options: ClientOptions = {}, tabs: TabEnvironment = browserTabs()): WebSocketClient {
  const { locks, openChannel } = tabs;
  const environment = environmentWith(options);
  if (!locks || !openChannel || !environment.webSocket) {
    return new WebSocketClient(url, options);
  }
  let isDenied = false;
  const share = (socket: WebSocketConstructor, isStream: boolean): WebSocketConstructor => {
    const shared = tabSocket(socket, isStream, environment, locks, openChannel, () => {
      isDenied = true;
    });
    // Not an arrow function: the client calls it with `new`.
    return function openSocket(url: string, protocols: string[]) {
      try {
        return new (isDenied ? socket : shared)(url, protocols);
      } catch {
        // The channel is denied. What is wrong with the socket itself is thrown again.
        isDenied = true;
        return new socket(url, protocols);
      }
    } as unknown as WebSocketConstructor;
  };
  const eventStream: OpenEventStream = (fetch, to, token, _cursor, onFrame, onEnd) =>
    openWebSocket(share(streamSocket(fetch), true), to, token, () => undefined, onFrame, onEnd);
  return new WebSocketClient(url, { ...options, environment: { ...options.environment, eventStream }, webSocket: share(environment.webSocket, false) });
}

/** Returns a class whose sockets are event streams. The server resumes none of their channels by a cursor: each tab does, by its own positions. */
function streamSocket(fetch: Fetch): WebSocketConstructor {
  return class StreamSocket extends Listening {
    constructor(url: string, protocols: string[]) {
      super();
      const wire = openEventStream(
        fetch,
        url,
        tokenOf(protocols),
        () => "",
        (data) => {
          this._fire("message", { data });
        },
        (code, reason) => {
          this._fire("close", { code, reason });
        },
      );
      Object.assign(this, wire);
    }
  };
}

/** A socket's listeners. */
class Listening implements WebSocketLike {
  declare send: (data: string) => void;
  declare close: (code?: number) => void;
  readonly #listeners: Partial<Record<string, ((event: never) => void)[]>> = {};

  addEventListener(type: string, listener: (event: never) => void): void {
    (this.#listeners[type] ??= []).push(listener);
  }

  _fire(type: string, event: unknown): void {
    for (const listener of this.#listeners[type] ?? []) {
      listener(event as never);
    }
  }
}

/** Returns the token among the subprotocols of a socket. */
function tokenOf(protocols: readonly string[]): string | undefined {
  return protocols[1]?.replace("tidewire.bearer.", "");
}

function browserTabs(): TabEnvironment {
  const { navigator, BroadcastChannel: Channel } = globalThis as {
    readonly navigator?: { readonly locks?: LockManagerLike };
    readonly BroadcastChannel?: new (name: string) => TabChannel;
  };
  return { locks: navigator?.locks, openChannel: Channel && ((name) => new Channel(name)) };
}

/**
 * Returns a WebSocket class whose sockets share one real socket. `onDenied`: the browser has
 * locks and lets this page have none, as one in a sandbox or without the right to store.
 */
function tabSocket(
  webSocket: WebSocketConstructor,
  isStream: boolean,
  { clock, random }: ReturnType<typeof environmentWith>,
  locks: LockManagerLike,
  openChannel: (name: string) => TabChannel,
  onDenied: () => void,
): WebSocketConstructor {
  return class TabSocket extends Listening {
    constructor(url: string, protocols: string[]) {
      super();
      /** Names the tab, and the lock that it holds while it lives. */
      const tab = random().toString(36).slice(2) + random().toString(36).slice(2);
      const token = tokenOf(protocols);
      // Tabs of another version share with each other: its notes have another first word.
      const name = `tidewire/2|${url}|${ownerOf(token) ?? token ?? ""}`;
      const channel = openChannel(name);
      /** Its signal withdraws what waits for a lock, and frees those that are held. */
      const withdrawal = new AbortController();
      let lead: Leader | undefined;
      let timer: Timer | undefined;
      const ended = new Promise((resolve) => {
        withdrawal.signal.onabort = resolve;
      });
      let hasEnded = false;
      /** The tab that leads, once it has answered. */
      let leader: string | undefined;

      const post = (note: Note): void => {
        channel.postMessage(note);
        // A BroadcastChannel does not reach its own sender, and the leader is one of its followers.
        if ("from" in note) {
          lead?._onNote(note);
        }
      };
      const end = (code: number, reason: string): void => {
        if (!hasEnded) {
          hasEnded = true;
          timer?.cancel();
          post({ from: tab, gone: true });
          withdrawal.abort();
          lead?._close();
          lead = undefined;
          channel.onmessage = null;
          channel.close();
          this._fire("close", { code, reason });
        }
      };
      const onNote = (note: Note): void => {
        if ("leader" in note) {
          // Also after a leader was lost: the client resumes at the new one.
          if (timer) {
            join();
          } else {
            end(1012, "another tab leads");
          }
        } else if ("to" in note && note.to === tab) {
          if ("heard" in note) {
            leader = timer ? note.by : leader;
            timer?.cancel();
            timer = undefined;
          } else if (note.by !== leader) {
            // Of a leader that was replaced and does not know it yet.
          } else if ("frame" in note) {
            this._fire("message", { data: note.frame });
          } else {
            end(note.code, note.reason);
          }
        }
      };
      /** Holds a lock, once it has it, until this socket ends or another tab steals it. If `run` returns something, it is free again after that. */
      const hold = (name: string, options: { readonly steal?: boolean; readonly signal?: AbortSignal }, run: () => unknown): void => {
        locks.request(name, options, async () => hasEnded || (run() ?? (await ended))).catch((error: unknown) => {
          // Withdrawn, or stolen: a thawed leader steps down.
          if ((error as { readonly name?: string } | null)?.name !== "AbortError") {
            onDenied();
          }
          end(1012, "another tab leads");
        });
      };
      const watch = (from: string): void => {
        const onGone = (): void => {
          lead?._onNote({ from, gone: true });
        };
        // A stranger may give a name that can be no lock's.
        locks.request(from, withdrawal, () => Promise.resolve()).then(onGone, onGone);
      };
      const campaign = (steal: boolean): void => {
        /** The locks of the tabs that it ends. It gives its own away after them: a tab could have it before it hears of its end, and would connect. */
        const ends: Promise<unknown>[] = [];
        hold(name, steal ? { steal } : withdrawal, () => {
          lead = openLeader(
            webSocket,
            isStream,
            url,
            clock,
            (answer) => {
              // While it passes a frame on to all, its own tab may disconnect: then no tab is led any more.
              if (!hasEnded) {
                const note: Note = { ...answer, by: tab };
                channel.postMessage(note);
                if ("code" in answer) {
                  ends.push(locks.request(answer.to, {}, () => ended));
                }
                onNote(note);
              }
            },
            watch,
          );
          post({ leader: tab });
          join();
          return ended.then(() => Promise.allSettled(ends));
        });
      };
      const join = (): void => {
        timer?.cancel();
        timer = clock.after(LEADER_TIMEOUT_MS * (1 + random()), () => {
          campaign(true);
        });
        post({ from: tab, open: protocols });
      };
      channel.onmessage = ({ data }) => {
        if (isNote(data)) {
          if ("from" in data) {
            lead?._onNote(data);
          }
          onNote(data);
        }
      };
      this.send = (frame) => {
        post({ from: tab, frame });
      };
      this.close = () => {
        end(1000, "");
      };
      campaign(false);
      // Not before: a leader would take a tab without its lock for one that is gone.
      hold(tab, withdrawal, join);
    }
  };
}

/** Returns whether this is a note: other pages of the origin may say anything on the channel. */
function isNote(data: unknown): data is Note {
  const { from, to, leader, open = [], frame = "" } = (data ?? {}) as Readonly<Record<string, unknown>>;
  return [from ?? to ?? leader, frame, open].flat().every((text) => typeof text === "string");
}

