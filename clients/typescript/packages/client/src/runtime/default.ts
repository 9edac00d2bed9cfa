/** WebSocket class of a browser, Deno or Bun. */
import type { WebSocketConstructor } from "../environment.ts";

/** How to get a WebSocket where there is none, before what helps everywhere. */
export const WEB_SOCKET_HELP = "";

/** Returns the global WebSocket, if there is one. */
export function findWebSocket(): WebSocketConstructor | undefined {
  return (globalThis as { readonly WebSocket?: WebSocketConstructor }).WebSocket;
}
