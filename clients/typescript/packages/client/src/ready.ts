/** Ready: waits for the connection of a client. */
import type { WebSocketClient } from "./client.ts";
import type { ClientState } from "./api.ts";
import { failure } from "./errors.ts";
import type { Welcome } from "./types/session.ts";

/** Resolves when connected. Rejects if the state is, or becomes, `closed` or `disconnected`. */
export function whenConnected({ state: now, on }: WebSocketClient): Promise<Welcome> {
  return new Promise((resolve, reject) => {
    const check = (state: ClientState): void => {
      const { status } = state;
      if (status === "connected") {
        resolve(state.welcome);
      } else if (status.endsWith("d")) {
        reject(failure("unavailable", status === "closed" ? state.end.reason : "not connected: call connect()"));
      } else {
        return;
      }
      off();
    };
    const off = on("state", check);
    check(now);
  });
}
