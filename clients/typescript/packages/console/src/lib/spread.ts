/** Spread: how far the live sources of a symbol are apart. */
import type { SourceDetail } from "@tidewire/client";

/** The distance between the lowest and the highest live source. */
export interface Spread {
  readonly absolute: number;
  /** In basis points, hundredths of a percent, of the lowest. */
  readonly points: number;
  /** The source of the lowest price. */
  readonly low: string;
  /** The source of the highest price. */
  readonly high: string;
}

/** The spread between live sources. `undefined` with fewer than two. */
export function spreadOf(sources: readonly SourceDetail[]): Spread | undefined {
  const live = sources.flatMap(({ state, source, price }) => (state === "live" && price !== null ? [{ source, price }] : []));
  live.sort((a, b) => a.price - b.price);
  const [low, high] = [live[0], live.at(-1)];
  if (!low || !high || live.length < 2 || low.price <= 0) {
    return undefined;
  }
  return { absolute: high.price - low.price, points: (high.price / low.price - 1) * 10_000, low: low.source, high: high.source };
}
