/** Connection hook: the state of the connection, why it ended, and its quality. */
import { type ClientState, type Quality, TidewireError } from "@tidewire/client";
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

/** The close code for no token, or one that the server refused. */
const BAD_TOKEN = 4500;

const NO_END = { code: 0, reason: "" };

const nothing = (): void => undefined;

const CONNECTION: readonly [Source<Connection>] = [
  {
    _key: "connection",
    _initial: { status: "disconnected", error: undefined, quality: undefined, connect: nothing, disconnect: nothing },
    _start(client, show) {
      const { connect, disconnect, getQuality, on } = client;
      const update = (): void => {
        show(() => {
          const { state } = client;
          const { code, reason } = ("end" in state && state.end) || NO_END;
          const error = code ? new TidewireError({ code: code === BAD_TOKEN ? "unauthenticated" : "unavailable", message: reason || `closed with code ${code}` }) : undefined;
          return { ...state, error, quality: getQuality(), connect, disconnect };
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
