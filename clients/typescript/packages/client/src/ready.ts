/** Ready: waits for the connection of a client. */
import type { WebSocketClient } from "./client.ts";
import type { ClientState } from "./api.ts";
import { failure } from "./errors.ts";
import { promiseOf } from "./requests.ts";
import { NOT_CONNECTED } from "./texts.ts";
import type { Welcome } from "./types/session.ts";

/** Resolves when connected. Rejects if the state is, or becomes, `closed` or `disconnected`. */
export function whenConnected({ state: now, on }: WebSocketClient): Promise<Welcome> {
  return promiseOf((done) => {
    const check = (state: ClientState): void => {
      const { status } = state;
      if (status === "connected" || status.endsWith("d")) {
        off();
        done(status === "connected" ? undefined : failure("unavailable", NOT_CONNECTED, "end" in state ? state.end.reason : undefined), "welcome" in state ? state.welcome : undefined);
      }
    };
    const off = on("state", check);
    check(now);
  });
}
