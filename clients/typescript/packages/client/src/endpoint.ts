/** Endpoints of a server: the addresses behind one URL, and what is wrong with a URL that never works. */
import type { Fetch } from "./environment.ts";

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
    throw new TypeError(`the URL \`${String(url)}\` can not work, expected one like ws://127.0.0.1:8080/v1/ws`);
  }
  if (parsed.pathname === "/") {
    parsed.pathname = "/v1/ws";
  }
  parsed.hash = "";
  return parsed;
}

/**
 * Searches for the reason why no connection opens, which a browser does not
 * tell: another scheme or path that would work. Resolves to `undefined` if it finds none.
 */
export async function diagnose(fetch: Fetch, { href, pathname }: URL): Promise<string | undefined> {
  const url = href.replace("ws", "http");
  try {
    return (await fetch(url)).status === 404 ? `nothing is at ${pathname} on the server, expected /v1/ws` : undefined;
  } catch {
    const other = url.startsWith("https") ? "http" : "https";
    return fetch(url.replace(/^https?/, other), { mode: "no-cors" }).then(
      () => (other === "http" ? "the server speaks plain text: use ws:, not wss:" : "the server speaks TLS: use wss:, not ws:"),
      () => undefined,
    );
  }
}
