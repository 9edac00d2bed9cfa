/** Provider: creates the client of the components below it, and connects it while it is mounted. */
import { type ClientError, type ClientOptions, WebSocketClient } from "@tidewire/client";
import { createElement, type ReactElement, type ReactNode, useEffect, useInsertionEffect, useMemo } from "react";
import { openSession, type Session, SessionContext } from "./session.ts";

/** Props of a `WebSocketProvider`: the address of a server, or a client. */
export type WebSocketProviderProps = {
  readonly children?: ReactNode;
  /** Called with each error that no hook shows: a refused channel, a message that is not valid. */
  readonly onError?: ((error: ClientError) => void) | undefined;
} & (
  | {
      /** For example `wss://example.com/v1/ws`. With another URL, the provider opens another connection. */
      readonly url: string | URL;
      /** Options of the client. A new object replaces them without another connection. */
      readonly options?: ClientOptions | undefined;
      readonly client?: undefined;
    }
  | {
      /** A client of your own, for example one that tabs share. The provider connects it, and leaves it connected. */
      readonly client: WebSocketClient;
      readonly url?: undefined;
      readonly options?: undefined;
    }
);

/** Sessions of clients that the application created: providers of one client share its live values. */
const shared = new WeakMap<WebSocketClient, Session>();

/** Gives the components below it one connection. On a server it connects to nothing. */
export function WebSocketProvider({ url, options, client, onError, children }: WebSocketProviderProps): ReactElement {
  const address = client ?? String(url);
  const session = useMemo(() => {
    const found = client && shared.get(client);
    const opened = found ?? openSession(() => client ?? new WebSocketClient(String(url), options));
    if (client) {
      shared.set(client, opened);
    }
    return opened;
    // Other options do not need another client: see below.
  }, [address]);

  // Before the effects of the components below it, which may connect again.
  useInsertionEffect(() => {
    // An option that these leave out goes too: the token of a user who signed out.
    const gone: Record<string, undefined> = {};
    for (const name in session._options) {
      gone[name] = undefined;
    }
    session._client().setOptions({ ...gone, ...options });
    session._options = options;
  }, [session, options]);

  useEffect(() => onError && session._client().on("error", onError), [session, onError]);

  useEffect(() => {
    session._mounts += 1;
    session._client().connect();
    return () => {
      session._mounts -= 1;
      // StrictMode and hot reload unmount and mount again in one task: the connection stays.
      setTimeout(() => {
        if (session._mounts === 0) {
          session._values._stopAll();
          if (typeof address === "string") {
            session._client().disconnect();
          }
        }
      });
    };
  }, [session, address]);

  return createElement(SessionContext.Provider, { value: session }, children);
}
