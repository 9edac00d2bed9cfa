/** Endpoint of a server: its address from what the application gave. */
import { textOf } from "./errors.ts";
import { BAD_URL } from "./texts.ts";

/**
 * Returns the WebSocket's URL: `http` becomes `ws`, and an empty path the usual one.
 * Throws a `TypeError` for a URL that can not work.
 */
export function webSocketUrl(url: string | URL): string {
  // A render of a page on a server constructs a client for a relative one, and never connects it.
  let href = String(url).startsWith("/") ? "ws://page.invalid" : "";
  try {
    // In a page, a URL may be relative to it.
    href = new URL(url, (globalThis as { readonly location?: { readonly href: string } }).location?.href).href;
  } catch {
    // Named below.
  }
  const [, rest] = /^(?:http|ws)(s?:[^#]*)/.exec(href) ?? [];
  if (!rest) {
    throw new TypeError(textOf(BAD_URL, String(url)));
  }
  return `ws${rest.replace(/^(s?:..[^/]+.)(?=$|\?)/, "$1v1/ws")}`;
}
