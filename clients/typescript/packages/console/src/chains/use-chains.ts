/** Chains hook: which chains there are, and the health of their endpoints. */
import { TidewireError } from "@tidewire/client";
import { useEffect, useState } from "react";
import { base } from "../lib/base.ts";
import { currentSession, onlineStore } from "../lib/session.ts";
import { type ChainFigures, chainFigures, type ChainPart, chainParts } from "./figures.ts";

/** Time between two readings, in milliseconds. */
const READ_MS = 5_000;

/** What is known of the chains. */
export interface Chains {
  /** `undefined` before the first answer. */
  readonly parts: readonly ChainPart[] | undefined;
  /** `undefined` while unknown, or without the right to read the metrics. */
  readonly figures: ReadonlyMap<number, ChainFigures> | undefined;
  /** Why there are no figures. */
  readonly error: TidewireError | undefined;
}

async function read(path: string): Promise<Response> {
  const { token } = currentSession();
  const plain = await fetch(base + path);
  // A right of the user is used only where the page's own is not enough.
  return (plain.status === 401 || plain.status === 403) && token !== undefined ? fetch(base + path, { headers: { authorization: `Bearer ${token}` } }) : plain;
}

async function readFigures(): Promise<Partial<Chains>> {
  const response = await read("/metrics");
  if (response.ok) {
    return { figures: chainFigures(await response.text()), error: undefined };
  }
  const refused = response.status === 401 || response.status === 403 || response.status === 404;
  return { error: new TidewireError({ code: refused ? "permission_denied" : "unavailable", message: refused ? "the metrics need the scope admin" : `the metrics answer with status ${response.status}` }) };
}

/** The chains, read every few seconds while the page is visible. */
export function useChains(): Chains {
  const [chains, setChains] = useState<Chains>({ parts: undefined, figures: undefined, error: undefined });
  useEffect(() => {
    let isOver = false;
    const refresh = async (): Promise<void> => {
      if (document.hidden || !onlineStore.get()) {
        return;
      }
      try {
        const [parts, figures] = await Promise.all([read("/readyz?verbose").then((response) => response.json()).then(chainParts), readFigures()]);
        if (!isOver) {
          setChains((before) => ({ ...before, ...figures, parts }));
        }
      } catch {
        // The server cannot be reached: the connection says so, and what is known stays.
      }
    };
    void refresh();
    const timer = setInterval(() => void refresh(), READ_MS);
    // A fault that began or ended shows at once.
    const offs = [onlineStore.follow(() => void refresh()), currentSession().client.on("status", () => void refresh())];
    return () => {
      isOver = true;
      clearInterval(timer);
      offs.forEach((off) => { off(); });
    };
  }, []);
  return chains;
}
