/** Diagnosis of a URL where nothing ever connects, for development and Node. */
import { textOf } from "../errors.ts";
import type { Diagnose } from "./default.ts";
import { PLAIN_TEXT, TLS, WRONG_PATH } from "../texts.ts";

/**
 * Searches for the reason why no connection opens, which a browser does not
 * tell: another scheme or path that would work. Resolves to `undefined` if it finds none.
 */
export const diagnose: Diagnose | undefined = async (fetch, href) => {
  const url = href.replace("ws", "http");
  try {
    return (await fetch(url)).status === 404 ? textOf(WRONG_PATH, new URL(href).pathname) : undefined;
  } catch {
    const other = url.startsWith("https") ? "http" : "https";
    return fetch(url.replace(/^https?/, other), { mode: "no-cors" }).then(
      () => textOf(other === "http" ? PLAIN_TEXT : TLS),
      () => undefined,
    );
  }
};
