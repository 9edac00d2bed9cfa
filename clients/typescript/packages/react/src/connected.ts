/** Connections of a client: calls back once for each, after the client sent its subscriptions. */
import type { ClientState, Welcome, WebSocketClient } from "@tidewire/client";

/** Calls `run` for the present connection and for each later one. Returns a function that ends it. */
export function onConnected(client: WebSocketClient, run: (welcome: Welcome) => void): () => void {
  let last: string | undefined;
  const check = (state: ClientState): void => {
    // A new interval of the heartbeat is a state too, of the same connection.
    if (state.status === "connected" && state.welcome.connectionId !== last) {
      last = state.welcome.connectionId;
      run(state.welcome);
    }
  };
  check(client.state);
  return client.on("state", check);
}
