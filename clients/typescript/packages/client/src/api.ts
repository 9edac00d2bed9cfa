/** Options, states and events of the client: the types that an application sees. */
import type { ConnectionEnd } from "./link.ts";
import type { Environment, WebSocketConstructor } from "./environment.ts";
import type { ServerMessage } from "./messages.ts";
import type { ErrorData } from "./types/common.ts";
import type { ServerStatus, Welcome } from "./types/session.ts";

/** The state of the session. */
export type ClientState =
  /** Before `connect` and after `disconnect`. */
  | { readonly status: "disconnected" }
  | { readonly status: "connecting"; readonly attempt: number }
  | { readonly status: "connected"; readonly welcome: Welcome; readonly heartbeatMs: number; readonly transport: TransportName }
  /** The connection is lost. The next attempt is at `retryAt`, in milliseconds since the Unix epoch. */
  | { readonly status: "reconnecting"; readonly retryAt: number; readonly attempt: number; readonly end: ConnectionEnd }
  /** Refused: a bad token, or a close code that forbids a reconnect. Only `connect` leaves this state. */
  | { readonly status: "closed"; readonly end: ConnectionEnd };

/** How messages travel: one WebSocket, or Server-Sent Events where WebSockets are blocked. */
export type TransportName = "websocket" | "sse";

/** Options of a client. */
export interface ClientOptions {
  /**
   * Fetches a token before each connection and before the old one expires. Throws if there is none to be had now: it is called
   * again later, but never before it has answered or its time is over.
   */
  readonly getToken?: () => string | undefined | Promise<string | undefined>;
  /** A token that does not change. */
  readonly token?: string;
  /** The time limit of `getToken` in milliseconds. The default is 10,000. */
  readonly tokenTimeoutMs?: number;
  /** The time limit of a request in milliseconds. The default is 10,000. */
  readonly requestTimeoutMs?: number;
  /** The transports to use, in this order. The default is both, a WebSocket first. */
  readonly transports?: readonly TransportName[];
  /** The WebSocket class, where there is no global one: for example that of the package `ws`. */
  readonly webSocket?: WebSocketConstructor;
  /** Fewer updates of latest channels. The default is what the browser says (`navigator.connection.saveData`). */
  readonly saveData?: boolean;
  /** The queue of publications that wait for a connection, or `false` for none. */
  readonly queue?: QueueOptions | false;
  /**
   * Parses each frame, or throws: `parseChecked` of `@tidewire/client/checks` while you
   * develop, or `parseExact` of `@tidewire/client/exact`. The default is `JSON.parse`.
   */
  readonly parse?: (frame: string) => unknown;
  /** Replacements for the runtime, for tests. */
  readonly environment?: Partial<Environment>;
}

/** Options of the queue of publications. */
export interface QueueOptions {
  /** Where the queue survives a reload. The default is `localStorage`, if there is one. */
  readonly storage?: QueueStorage;
  /** Publications that may wait. The default is 100. */
  readonly maxEntries?: number;
  /**
   * The user of the token. With it, what is published before the first
   * connection survives a reload too: nobody else may send it then.
   */
  readonly user?: string;
}

/** The part of `Storage` that the queue uses. */
export interface QueueStorage {
  readonly length: number;
  key(index: number): string | null;
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
  removeItem(key: string): void;
}

/** Options of one publication. */
export interface PublishOptions {
  /** A repeated key returns the position of the first publication. The queue makes one if it is missing. */
  readonly idempotencyKey?: string;
  /** `false`: send now or reject. Nothing waits and nothing is sent again. */
  readonly queue?: boolean;
}

/** The quality of the link, from pings. */
export interface Quality {
  /** The smoothed round-trip time in milliseconds, `undefined` before the first. */
  readonly rttMs: number | undefined;
  /** The mean change between round trips, in milliseconds. */
  readonly jitterMs: number;
  /** The share of the last pings without a reply, from 0 to 1. */
  readonly loss: number;
  readonly grade: "excellent" | "good" | "fair" | "poor" | "offline";
}

/** An error that replies to no request of the application. */
export interface ClientError extends ErrorData {
  /** The channel that the server refused. */
  readonly channel?: string;
  /** What was thrown, if the application's own function threw. */
  readonly cause?: unknown;
}

/** Events of a client. */
export interface ClientEvents {
  state: ClientState;
  /** The quality of the link, after each ping: every few seconds while the page is visible. */
  quality: Quality;
  /** The health of the server. */
  status: ServerStatus;
  /** An error that replies to no request, or an invalid frame. */
  error: ClientError;
  /** Every message, replies included, before any handler gets it. */
  message: ServerMessage;
}
