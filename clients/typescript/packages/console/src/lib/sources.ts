/** Venues: which there are, which deliver, and whether the data is made up. */
import type { PriceSource, SourceList } from "@tidewire/client";
import { count } from "./format.ts";
import { type Poll, usePoll } from "./poll.ts";

/** Time between two requests for the venues, in milliseconds. */
const VENUES_MS = 5_000;

/** The venues, as all parts of the page share them. */
export function useSources(): Poll<SourceList> {
  return usePoll<SourceList>("PriceService", "ListSources", {}, VENUES_MS);
}

/** Whether sample data is played. */
export function isSample({ sources }: SourceList): boolean {
  return sources.some(({ sample }) => sample === true);
}

/** How much data there is, in words: `4 of 7 venues`. */
export function dataText(list: SourceList): string {
  const used = list.sources.filter(isUsed);
  return isSample(list) ? "sample data" : used.length === 0 ? "no symbols" : `${String(used.filter(isLive).length)} of ${count(used.length, "venue")}`;
}

/** Whether a venue has a symbol to deliver. Without one it never connects. */
export function isUsed({ symbols }: PriceSource): boolean {
  return symbols.length > 0;
}

/** Whether a venue delivers data. */
export function isLive({ state }: PriceSource): boolean {
  return state === "live";
}

/** Whether no venue has sent anything so far: most likely none can be reached. */
export function isSilent(list: SourceList): boolean {
  const used = list.sources.filter(isUsed);
  return used.length > 0 && !isSample(list) && used.every((source) => !isLive(source) && source.frames === 0);
}

/** The symbols of all venues: prices in dollars first, otherwise in the order of the configuration. */
export function symbolsOf({ sources }: SourceList): readonly string[] {
  const symbols = [...new Set(sources.flatMap((source) => source.symbols))];
  return symbols.sort((a, b) => Number(b.endsWith("-USD")) - Number(a.endsWith("-USD")));
}
