/** Connection hook: the state of the connection, why it ended, and its quality. */
import { type ClientState, type ErrorCode, type Quality, TidewireError } from "@tidewire/client";
import type { Source } from "./live.ts";
import { useSource } from "./session.ts";

/**
 * The connection as components see it: the client's state, whose `status` says which other fields
 * it has, and more.
 */
export type Connection = ClientState & {
  /** Why the connection ended, while reconnecting or closed. Its code is `unauthenticated` for a token that was refused. */
  readonly error: TidewireError | undefined;
  /** Round trip, jitter, loss and grade of the link. */
  readonly quality: Quality | undefined;
  /** Connects now, also while closed or waiting for the next attempt. */
  readonly connect: () => void;
  /** Disconnects until `connect`. */
  readonly disconnect: () => void;
};

/** The close codes of what the server refused: tokens, except where an operator disconnected the client. */
const REFUSED = 4500;
const BY_OPERATOR = 4503;

/** Returns the code of the error for a close code. */
function codeOf(close: number): ErrorCode {
  return close === BY_OPERATOR ? "permission_denied" : close >= REFUSED ? "unauthenticated" : "unavailable";
}

const nothing = (): void => undefined;

const CONNECTION: readonly [Source<Connection>] = [
  {
    _key: "connection",
    _initial: { status: "disconnected", error: undefined, quality: undefined, connect: nothing, disconnect: nothing },
    _start(client, show) {
      const { connect, disconnect, getQuality, on } = client;
      const update = (): void => {
        show(() => {
          const { end } = client.state as { readonly end?: { readonly code: number; readonly reason: string } };
          const error = end && new TidewireError({ code: codeOf(end.code), message: end.reason || `closed with code ${end.code}` });
          return { ...client.state, error, quality: getQuality(), connect, disconnect };
        });
      };
      update();
      const offState = on("state", update);
      const offQuality = on("quality", update);
      return () => {
        offState();
        offQuality();
      };
    },
  },
];

/** The state and the quality of the connection. */
export function useConnection(): Connection {
  return useSource(CONNECTION);
}

/** The state of the connection alone. */
export function useStatus(): Connection["status"] {
  return useSource(CONNECTION, ({ status }) => status);
}

/** Why nothing arrives and nothing will: the server refused the connection, for example its token. */
export function useRefusal(): TidewireError | undefined {
  return useSource(CONNECTION, ({ status, error }) => (status === "closed" ? error : undefined));
}
