/** Ready: waits for the connection of a client. */
import type { WebSocketClient } from "./client.ts";
import type { ClientState } from "./api.ts";
import { failure } from "./errors.ts";
import type { ConnectionEnd } from "./link.ts";
import { promiseOf } from "./requests.ts";
import { NOT_CONNECTED } from "./texts.ts";
import type { Welcome } from "./types/session.ts";

/** Resolves when connected. Rejects if the state is, or becomes, `closed` or `disconnected`. */
export function whenConnected({ state: now, on }: WebSocketClient): Promise<Welcome> {
  return promiseOf((done) => {
    const check = (state: ClientState): void => {
      const { status, welcome, end: { code = 0, reason } = {} } = state as { readonly status: string; readonly welcome?: Welcome; readonly end?: Partial<ConnectionEnd> };
      if (welcome || status.endsWith("d")) {
        off();
        // The kind of failure is that of the close code in the server's gRPC API.
        const kind = code === 4503 ? "permission_denied" : code >= 4500 ? "unauthenticated" : code > 1006 ? "invalid_argument" : "unavailable";
        done(welcome ? undefined : failure(kind, NOT_CONNECTED, reason), welcome);
      }
    };
    const off = on("state", check);
    check(now);
  });
}
