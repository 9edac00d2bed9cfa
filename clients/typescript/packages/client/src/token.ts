/** Token source: fetches a token once at a time, with a deadline. */
import type { ClientOptions } from "./api.ts";
import type { Clock } from "./environment.ts";
import { textOf } from "./errors.ts";
import { NOT_A_TOKEN, TOKEN_TIMEOUT } from "./texts.ts";
import { openTimer } from "./timer.ts";

const TOKEN_TIMEOUT_MS = 10_000;

/**
 * Returns `[fetch, forget]`. `fetch` resolves to a token. Calls at once share one
 * `getToken`. It rejects after the deadline, and a token that comes later is
 * dropped. After `forget` the next call shares nothing: another user may sign in.
 */
export function tokenSource(clock: Clock): [fetch: (options: ClientOptions) => Promise<string | undefined>, forget: () => void] {
  let flight: Promise<string | undefined> | undefined;
  const forget = (): void => {
    flight = undefined;
  };
  const fetch = ({ token, getToken, tokenTimeoutMs = TOKEN_TIMEOUT_MS }: ClientOptions): Promise<string | undefined> => {
    const setTimer = openTimer(clock);
    const mine = (flight ??= new Promise<string | undefined>((resolve, reject) => {
      setTimer(tokenTimeoutMs, () => {
        reject(new Error(textOf(TOKEN_TIMEOUT, tokenTimeoutMs)));
      });
      // Async: a `getToken` that throws rejects too.
      (async () => {
        const given = getToken ? await getToken() : token;
        // Here and not by the server, which would end the session: it may be the page of a proxy's error.
        if (getToken && given && /[^\w.~+/=-]/.test(given)) {
          throw new TypeError(textOf(NOT_A_TOKEN, given.slice(0, 40)));
        }
        return given;
      })().then(resolve, reject);
    }).finally(() => {
      setTimer();
      if (flight === mine) {
        forget();
      }
    }));
    return mine;
  };
  return [fetch, forget];
}

/** Returns the user of a token, "" without a token, or `undefined` if the token does not tell. */
export function ownerOf(token: string | undefined): string | undefined {
  try {
    return token ? (JSON.parse(atob((token.split(".")[1] ?? "").replace(/-/g, "+").replace(/_/g, "/"))) as { readonly sub?: string }).sub : "";
  } catch {
    return undefined;
  }
}
