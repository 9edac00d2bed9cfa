/** Session: a client, and the live values that components show of it. Hooks find it in a context. */
import type { ClientOptions, WebSocketClient } from "@tidewire/client";
import { createContext, useContext, useMemo, useSyncExternalStore } from "react";
import { type LiveValues, liveValues, type Source } from "./live.ts";

/** A client and its live values. */
export interface Session {
  /** Returns the client. The first call creates it: effects and handlers call it, so that a render on a server never does. */
  readonly _client: () => WebSocketClient;
  readonly _values: LiveValues;
  /** The options that the client has from its provider. */
  _options?: ClientOptions | undefined;
  /** Mounted providers of this session. */
  _mounts: number;
}

/** Creates a session. */
export function openSession(create: () => WebSocketClient): Session {
  let client: WebSocketClient | undefined;
  const get = (): WebSocketClient => (client ??= create());
  return { _client: get, _values: liveValues(get), _mounts: 0 };
}

/** The session of the nearest `WebSocketProvider`. */
export const SessionContext = /* @__PURE__ */ createContext<Session | undefined>(undefined);

function useSession(): Session {
  const session = useContext(SessionContext);
  if (!session) {
    throw new Error("there is no <WebSocketProvider> above this component");
  }
  return session;
}

/**
 * Returns the client of the nearest `WebSocketProvider`, for requests, publications and channels of
 * your own. Throws without a provider.
 */
export function useClient(): WebSocketClient {
  return useSession()._client();
}

/**
 * Shows what `select` returns of some values, which are kept current while the component is
 * mounted. It renders when one of the results changes. `sources` must be the same list until it changes.
 */
export function useSources<T, Part = T>(sources: readonly Source<T>[], select: (value: T) => Part = (value) => value as unknown as Part): readonly Part[] {
  const session = useSession();
  const [subscribe, read, readInitial] = useMemo(() => {
    const { _read: read, _watch: watch } = session._values;
    /** Returns the same list while its items are the same. */
    const list = (valueOf: (source: Source<T>) => T): (() => readonly Part[]) => {
      let last: readonly Part[] | undefined;
      return () => {
        const next = sources.map((source) => select(valueOf(source)));
        return last && next.every((item, index) => item === last?.[index]) ? last : (last = next);
      };
    };
    return [
      (listener: () => void) => {
        const stops = sources.map((source) => watch(source, listener));
        return () => {
          for (const stop of stops) {
            stop();
          }
        };
      },
      list(read),
      list(({ _initial: initial }) => initial),
    ] as const;
    // `select` is the same function for one hook.
  }, [session, sources]);
  return useSyncExternalStore(subscribe, read, readInitial);
}

/** Shows one value. `sources` has it, and must be the same list in each render. */
export function useSource<T, Part = T>(sources: readonly [Source<T>], select?: (value: T) => Part): Part {
  return useSources(sources, select)[0] as Part;
}
