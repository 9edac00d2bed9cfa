/**
 * Tabs: one socket for all tabs of a browser, as `@tidewire/client/tabs`.
 *
 * Each tab has a client of its own, whose WebSocket is a stand-in that talks to
 * a leader over a `BroadcastChannel`. The leader is the tab that holds a Web
 * Lock. It has the one real socket, forwards the frames of all tabs with ids of
 * its own, and counts who follows each channel. When the leader goes away the
 * browser passes the lock on, the new leader announces itself, and each client
 * reconnects to it and resumes by seq: what a lost connection does, so that
 * nothing is lost and nothing comes twice. A leader that is frozen keeps its
 * lock but answers nobody: then a follower steals the lock.
 *
 * Tabs with tokens of different users never share: the user is part of the name.
 */
import type { ClientOptions } from "../api.ts";
import { WebSocketClient } from "../client.ts";
import { environmentWith, type Timer, type WebSocketConstructor, type WebSocketLike } from "../environment.ts";
import { ownerOf } from "../token.ts";

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
  /** A tab opens its socket, or sends a frame, or closes. */
  | { readonly from: string; readonly open: readonly string[] }
  | { readonly from: string; readonly frame: string }
  | { readonly from: string; readonly gone: true }
  /** The leader has heard of the tab, or passes a frame or the end on. */
  | (Answer & { readonly by: string })
  /** A tab became the leader. */
  | { readonly leader: string };

/**
 * Creates a client whose tabs of one origin, URL and user share one socket.
 * Where the browser has no Web Locks or no BroadcastChannel, each tab has its own.
 */
export function createTabClient(url: string | URL, options: ClientOptions = {}, tabs: TabEnvironment = browserTabs()): WebSocketClient {
  const { locks, openChannel } = tabs;
  const environment = environmentWith(options);
  if (!locks || !openChannel || !environment.webSocket) {
    return new WebSocketClient(url, options);
  }
  return new WebSocketClient(url, { ...options, webSocket: tabSocket(environment.webSocket, environment, locks, openChannel) });
}

function browserTabs(): TabEnvironment {
  const { navigator, BroadcastChannel: Channel } = globalThis as {
    readonly navigator?: { readonly locks?: LockManagerLike };
    readonly BroadcastChannel?: new (name: string) => TabChannel;
  };
  return { locks: navigator?.locks, openChannel: Channel && ((name) => new Channel(name)) };
}

/** Returns a WebSocket class whose sockets share one real socket. */
function tabSocket(
  webSocket: WebSocketConstructor,
  { clock, random }: ReturnType<typeof environmentWith>,
  locks: LockManagerLike,
  openChannel: (name: string) => TabChannel,
): WebSocketConstructor {
  return class TabSocket implements WebSocketLike {
    declare readonly send: (data: string) => void;
    declare readonly close: (code?: number) => void;
    readonly #listeners: Partial<Record<string, ((event: never) => void)[]>> = {};

    constructor(url: string, protocols: string[]) {
      const tab = random().toString(36).slice(2) + random().toString(36).slice(2);
      const token = protocols[1]?.replace("tidewire.bearer.", "");
      const name = `tidewire|${url}|${ownerOf(token) ?? token ?? ""}`;
      const channel = openChannel(name);
      const withdrawal = new AbortController();
      let lead: Leader | undefined;
      let timer: Timer | undefined;
      let release: (() => void) | undefined;
      let hasEnded = false;
      /** The tab that leads, once it has answered. */
      let leader: string | undefined;

      const fire = (type: string, event: unknown): void => {
        for (const listener of this.#listeners[type] ?? []) {
          listener(event as never);
        }
      };
      const post = (note: Note): void => {
        channel.postMessage(note);
        // A BroadcastChannel does not reach its own sender, and the leader is one of its followers.
        lead?.onNote(note);
      };
      const end = (code: number, reason: string): void => {
        if (!hasEnded) {
          hasEnded = true;
          timer?.cancel();
          post({ from: tab, gone: true });
          withdrawal.abort();
          release?.();
          lead?.close();
          lead = undefined;
          channel.onmessage = null;
          channel.close();
          fire("close", { code, reason });
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
            fire("message", { data: note.frame });
          } else {
            end(note.code, note.reason);
          }
        }
      };
      /** Holds the lock until this socket ends, or another tab steals it. */
      const campaign = (steal: boolean): void => {
        const hold = (): Promise<unknown> => {
          lead = new Leader(webSocket, url, clock, (answer) => {
            const note: Note = { ...answer, by: tab };
            channel.postMessage(note);
            onNote(note);
          });
          post({ leader: tab });
          join();
          return new Promise<void>((resolve) => {
            release = resolve;
          });
        };
        locks.request(name, steal ? { steal } : { signal: withdrawal.signal }, () => (hasEnded ? Promise.resolve() : hold())).catch(() => {
          // Withdrawn, or stolen: a thawed leader steps down.
          end(1012, "another tab leads");
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
        lead?.onNote(data as Note);
        onNote(data as Note);
      };
      this.send = (frame) => {
        post({ from: tab, frame });
      };
      this.close = () => {
        end(1000, "");
      };
      campaign(false);
      join();
    }

    addEventListener(type: string, listener: (event: never) => void): void {
      (this.#listeners[type] ??= []).push(listener);
    }
  };
}

/** A note of a leader, without its name. */
type Answer = { readonly to: string } & ({ readonly heard: true } | { readonly frame: string } | { readonly code: number; readonly reason: string });

interface Request {
  readonly tab: string;
  readonly id: string | undefined;
  readonly type: string;
  readonly channels: readonly string[];
}

/** The leader's side: one real socket, and the tabs that share it. */
class Leader {
  readonly onNote: (note: Note) => void;
  /** Ends the real socket. The tabs notice by the next leader, or by their heartbeats. */
  readonly close: () => void;

  constructor(webSocket: WebSocketConstructor, url: string, clock: { after(ms: number, run: () => void): Timer }, post: (note: Answer) => void) {
    /** Each tab, and whether it is visible. */
    const tabs = new Map<string, boolean>();
    /** The tabs that follow each channel. */
    const followers = new Map<string, Set<string>>();
    const requests = new Map<string, Request>();
    let socket: WebSocketLike | undefined;
    let welcome: string | undefined;
    let lastId = 0;

    const endAll = (code: number, reason: string): void => {
      const all = [...tabs.keys()];
      tabs.clear();
      followers.clear();
      requests.clear();
      socket = welcome = undefined;
      for (const to of all) {
        post({ to, code, reason });
      }
    };
    const request = (message: { readonly type: string; readonly id?: string; readonly data?: unknown }, tab: string): void => {
      const { type, id, data } = message;
      const own = String(++lastId);
      requests.set(own, { tab, id, type, channels: (data as { channels?: string[] } | undefined)?.channels ?? [] });
      socket?.send(JSON.stringify({ type, id: own, data }));
    };
    /** Ends what a tab alone follows. Returns these channels. */
    const leave = (tab: string, channels: readonly string[]): string[] =>
      channels.filter((channel) => {
        const all = followers.get(channel);
        return all?.delete(tab) && !all.size && followers.delete(channel);
      });
    const showAny = (): void => {
      request({ type: "visibility", data: { state: [...tabs.values()].includes(true) ? "active" : "background" } }, "");
    };

    const onFrame = (text: string): void => {
      const message = JSON.parse(text) as { type: string; id?: string; channel?: string; data: { channel?: string; channels?: { channel: string; error?: unknown }[]; afterMs?: number } };
      const { type, id, data } = message;
      const asked = id === undefined ? undefined : requests.get(id);
      if (asked) {
        requests.delete(id ?? "");
        if (type === "subscribed") {
          for (const { channel, error } of data.channels ?? []) {
            if (!error) {
              followers.set(channel, (followers.get(channel) ?? new Set()).add(asked.tab));
            }
          }
        }
        if (tabs.has(asked.tab) && asked.id !== undefined) {
          post({ to: asked.tab, frame: JSON.stringify({ ...message, id: asked.id }) });
        }
      } else if (type === "reconnect") {
        // All tabs move at once: the leader's socket is theirs.
        const draining = socket;
        clock.after(data.afterMs ?? 0, () => {
          if (socket === draining) {
            draining?.close(1000);
            endAll(4003, "the server drains");
          }
        });
      } else {
        welcome = type === "welcome" ? text : welcome;
        const only = followers.get(message.channel ?? data.channel ?? "");
        for (const to of only ?? tabs.keys()) {
          post({ to, frame: text });
        }
      }
    };
    const connect = (protocols: readonly string[]): void => {
      const mine = new webSocket(url, [...protocols]);
      socket = mine;
      mine.addEventListener("open", () => {
        if (socket !== mine) {
          mine.close();
        }
      });
      mine.addEventListener("message", ({ data }) => {
        if (socket === mine) {
          onFrame(data as string);
        }
      });
      mine.addEventListener("error", () => undefined);
      mine.addEventListener("close", ({ code = 1006, reason = "" }) => {
        if (socket === mine) {
          endAll(code, reason);
        }
      });
    };
    this.close = () => {
      socket?.close(1000);
      socket = undefined;
    };
    this.onNote = (note) => {
      if (!("from" in note)) {
        return;
      }
      const tab = note.from;
      if ("open" in note) {
        tabs.set(tab, true);
        post({ to: tab, heard: true });
        if (!socket) {
          connect(note.open);
        } else if (welcome) {
          post({ to: tab, frame: welcome });
        }
      } else if ("gone" in note) {
        if (tabs.delete(tab)) {
          const left = leave(tab, [...followers.keys()]);
          if (left.length) {
            request({ type: "unsubscribe", data: { channels: left } }, "");
          }
          if (!tabs.size) {
            this.close();
            welcome = undefined;
          }
        }
      } else if (tabs.has(tab)) {
        const message = JSON.parse(note.frame) as { type: string; id?: string; data?: { channels?: string[]; state?: string } };
        const { type, id, data } = message;
        if (type === "visibility") {
          tabs.set(tab, data?.state === "active");
          showAny();
          post({ to: tab, frame: JSON.stringify({ type, id, data: { state: data?.state, heartbeatMs: data?.state === "active" ? 2_000 : 30_000 } }) });
        } else if (type === "unsubscribe") {
          const left = leave(tab, data?.channels ?? []);
          if (left.length) {
            request({ type, data: { channels: left } }, "");
          }
          post({ to: tab, frame: JSON.stringify({ type: "unsubscribed", id, data }) });
        } else {
          request(message, tab);
        }
      }
    };
  }
}
