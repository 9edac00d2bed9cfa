/** Connection hook: the state of the connection, why it ended, and its quality. */
import { type ClientState, type Quality, TidewireError } from "@tidewire/client";
import { useMemo } from "react";
import { type Session, type Source, useSession, useSource } from "./session.ts";

/** The connection as components see it. */
export interface Connection {
  readonly status: ClientState["status"];
  /** The user of the token, while connected. */
  readonly userId: string | undefined;
  /** Failed attempts in a row while connecting or reconnecting, else 0. */
  readonly attempt: number;
  /** The time of the next attempt in milliseconds since the Unix epoch, while reconnecting. */
  readonly retryAt: number | undefined;
  /** Why the connection ended, while reconnecting or closed. */
  readonly error: TidewireError | undefined;
  /** Round trip, jitter, loss and grade of the link. `undefined` before the first measurement. */
  readonly quality: Quality | undefined;
  /** Connects now, also while closed or waiting for the next attempt. */
  readonly connect: () => void;
  /** Disconnects until `connect`. */
  readonly disconnect: () => void;
}

type View = Pick<Connection, "status" | "userId" | "attempt" | "retryAt" | "error">;

const INITIAL: View = { status: "disconnected", userId: undefined, attempt: 0, retryAt: undefined, error: undefined };

function viewOf(state: ClientState): View {
  return {
    status: state.status,
    userId: state.status === "connected" ? state.welcome.userId : undefined,
    attempt: "attempt" in state ? state.attempt : 0,
    retryAt: state.status === "reconnecting" ? state.retryAt : undefined,
    error: "end" in state ? new TidewireError({ code: "unavailable", message: state.end.reason || `the connection was closed with ${state.end.code}` }) : undefined,
  };
}

/** The state of the connection. It changes only with what `Connection` shows of it. */
export const STATE: Source<View> = {
  key: "state",
  initial: INITIAL,
  start(client, live) {
    const update = (state: ClientState): void => {
      const next = viewOf(state);
      const { status, attempt, retryAt, userId } = live.next;
      if (status !== next.status || attempt !== next.attempt || retryAt !== next.retryAt || userId !== next.userId) {
        live.set(next);
      }
    };
    update(client.state);
    return client.on("state", update);
  },
};

const QUALITY: Source<Quality | undefined> = {
  key: "quality",
  initial: undefined,
  start: (client, live) =>
    client.on("quality", (quality) => {
      live.set(quality);
    }),
};

/** Why nothing arrives and nothing will: the server refused the connection, for example its token. */
export const REFUSAL: Source<TidewireError | undefined> = {
  key: "refusal",
  initial: undefined,
  start(client, live) {
    const update = (state: ClientState): void => {
      live.set(state.status === "closed" ? viewOf(state).error : undefined);
    };
    update(client.state);
    return client.on("state", update);
  },
};

/** The state and the quality of the connection. */
export function useConnection(): Connection {
  const session = useSession();
  const view = useSource(STATE, INITIAL);
  const quality = useSource(QUALITY, undefined);
  return useMemo(() => ({ ...view, quality, ...actionsOf(session) }), [session, view, quality]);
}

function actionsOf(session: Session): Pick<Connection, "connect" | "disconnect"> {
  return {
    connect: () => {
      session.client.connect();
    },
    disconnect: () => {
      session.client.disconnect();
    },
  };
}
