/** Session: a client, and the live values that components show of it. Hooks find it in a context. */
import type { WebSocketClient } from "@tidewire/client";
import { createContext, useCallback, useContext, useSyncExternalStore } from "react";
import { type Live, liveValues } from "./live.ts";

/** A client and its live values. */
export class Session {
  readonly values = liveValues();
  /** Mounted providers of this session. */
  mounts = 0;
  readonly #create: () => WebSocketClient;
  #client: WebSocketClient | undefined;

  constructor(create: () => WebSocketClient) {
    this.#create = create;
  }

  /** The client. The first use creates it: effects and handlers use it, so that a render on a server never does. */
  get client(): WebSocketClient {
    return (this.#client ??= this.#create());
  }
}

/** The session of the nearest `WebSocketProvider`. */
export const SessionContext = createContext<Session | undefined>(undefined);

/** Returns the session. Throws without a `WebSocketProvider` above the component. */
export function useSession(): Session {
  const session = useContext(SessionContext);
  if (session === undefined) {
    throw new Error("there is no <WebSocketProvider> above this component, expected one");
  }
  return session;
}

/** Returns the client of the nearest `WebSocketProvider`, for requests, publications and own channels. */
export function useClient(): WebSocketClient {
  return useSession().client;
}

/** A kind of live value: how it begins, and the work that keeps it current. */
export interface Source<T> {
  /** Names the value among all of a session. */
  readonly key: string;
  /** The value before the work has a result. A server renders it, and so does hydration. */
  readonly initial: T;
  readonly start: (client: WebSocketClient, live: Live<T>) => () => void;
}

/** Keeps a value current for `listener`. Returns a function that ends it. */
export function watch<T>(session: Session, { key, initial, start }: Source<T>, listener: () => void): () => void {
  return session.values.watch(key, initial, (live: Live<T>) => start(session.client, live), listener);
}

/**
 * Shows a value, kept current while the component is mounted. Two sources of one key are the same.
 * Without a source it shows `fallback`.
 */
export function useSource<T>(source: Source<T> | undefined, fallback: T): T {
  const session = useSession();
  const subscribe = useCallback(
    (listener: () => void) => (source === undefined ? idle : watch(session, source, listener)),
    // The key stands for the source, which is another object in each render.
    [session, source?.key],
  );
  const read = (): T => (source === undefined ? fallback : session.values.read(source.key, source.initial));
  return useSyncExternalStore(subscribe, read, () => source?.initial ?? fallback);
}

function idle(): void {
  // Nothing was started.
}
