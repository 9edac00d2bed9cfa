/** Market: what `market:overview` pushes, and before the first push what the server says when asked. */
import type { MarketOverview } from "@tidewire/client";
import { type Market, useMarketOverview } from "@tidewire/react";
import { usePoll } from "./poll.ts";

/** Time between two requests, in milliseconds. Pushes come sooner, and none without a price. */
const MARKET_MS = 30_000;

/** The market, as all parts of the page share it. */
export function useMarket(): Market {
  const { data } = usePoll<MarketOverview>("PriceService", "GetMarketOverview", {}, MARKET_MS);
  return useMarketOverview(data);
}
