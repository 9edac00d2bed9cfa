/** Endpoint of a server: its address from what the application gave. */
import { textOf } from "./errors.ts";
import { BAD_URL } from "./texts.ts";

/**
 * Returns the WebSocket's URL: `http` becomes `ws`, and an empty path the usual one.
 * Throws a `TypeError` for a URL that can not work.
 */
export function webSocketUrl(url: string | URL): URL {
  let parsed: URL | undefined;
  try {
    // In a page, a URL may be relative to it.
    parsed = new URL(url, (globalThis as { readonly location?: { readonly href: string } }).location?.href);
    parsed.protocol = parsed.protocol.replace("http", "ws");
  } catch {
    // Named below.
  }
  if (!parsed || !/^wss?:$/.test(parsed.protocol)) {
    throw new TypeError(textOf(BAD_URL, String(url)));
  }
  if (parsed.pathname === "/") {
    parsed.pathname = "/v1/ws";
  }
  parsed.hash = "";
  return parsed;
}
