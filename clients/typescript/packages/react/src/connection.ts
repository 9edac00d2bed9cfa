/** Connection hook: the state of the connection, why it ended, and its quality. */
import { type ClientState, type Quality, TidewireError } from "@tidewire/client";
import { type Source, useSource } from "./session.ts";

/**
 * The connection as components see it: the client's state, whose `status` says which other fields
 * it has, and more.
 */
export type Connection = ClientState & {
  /** Why the connection ended, while reconnecting or closed. */
  readonly error: TidewireError | undefined;
  /** Round trip, jitter, loss and grade of the link. */
  readonly quality: Quality | undefined;
  /** Connects now, also while closed or waiting for the next attempt. */
  readonly connect: () => void;
  /** Disconnects until `connect`. */
  readonly disconnect: () => void;
};

const nothing = (): void => undefined;

const CONNECTION: readonly [Source<Connection>] = [
  {
    _key: "connection",
    _initial: { status: "disconnected", error: undefined, quality: undefined, connect: nothing, disconnect: nothing },
    _start(client, show) {
      const { connect, disconnect, getQuality, on } = client;
      let error: TidewireError | undefined;
      const update = (): void => {
        const { state } = client;
        error = "end" in state ? new TidewireError({ code: "unavailable", message: state.end.reason || `closed with code ${state.end.code}` }) : undefined;
        refresh();
      };
      const refresh = (): void => {
        show(() => ({ ...client.state, error, quality: getQuality(), connect, disconnect }));
      };
      update();
      const offState = on("state", update);
      const offQuality = on("quality", refresh);
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
