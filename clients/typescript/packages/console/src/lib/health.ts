/** Health: what the probes and the metrics of the server say. */
import { useEffect, useState } from "react";
import { base } from "./base.ts";
import { currentSession, useOnline } from "./session.ts";

/** Time between two reads, in milliseconds. */
const HEALTH_MS = 5_000;

/** A probe or the metrics: the text, or why there is none. */
export interface Text {
  readonly status: number;
  readonly text: string;
}

async function read(path: string): Promise<Text> {
  const { token } = currentSession();
  const load = (headers: Record<string, string>): Promise<Response> => fetch(`${base}${path}`, { headers, signal: AbortSignal.timeout(10_000) });
  let response = await load({});
  if ((response.status === 401 || response.status === 403) && token !== undefined) {
    response = await load({ authorization: `Bearer ${token}` });
  }
  return { status: response.status, text: await response.text() };
}

/** The text of a path of the server, read again every few seconds while the page is visible. */
export function useText(path: string): Text | undefined {
  const [text, setText] = useState<Text>();
  const isOnline = useOnline();
  useEffect(() => {
    let isShown = true;
    const refresh = (): void => {
      if (!document.hidden && isOnline) {
        read(path).then(
          (next) => {
            if (isShown) {
              setText(next);
            }
          },
          () => undefined,
        );
      }
    };
    refresh();
    const timer = setInterval(refresh, HEALTH_MS);
    return () => {
      isShown = false;
      clearInterval(timer);
    };
  }, [path, isOnline]);
  return text;
}
