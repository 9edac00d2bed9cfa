/** WebSocket class of a browser, Deno or Bun, and the failures of a build for production: their numbers, which the README explains. */
import type { Fetch, WebSocketConstructor } from "../environment.ts";

/** Returns the global WebSocket, if there is one. */
export function findWebSocket(): WebSocketConstructor | undefined {
  return (globalThis as { readonly WebSocket?: WebSocketConstructor }).WebSocket;
}

/** Returns the text of a failure: its number, and what is known about it. */
export function say(code: number, detail: string): string {
  return `tidewire E${code} ${detail}`;
}

/** Searches for the reason why nothing connects. Resolves to its text. */
export type Diagnose = (fetch: Fetch, url: string) => Promise<string | undefined>;

/** A wrong URL is found while an application is developed. */
export const diagnose: Diagnose | undefined = undefined;
