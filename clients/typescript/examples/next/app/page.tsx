import type { PriceUpdate } from "@tidewire/client";
import type { ReactElement } from "react";
import { call } from "../lib/rpc.ts";
import { Inbox } from "./inbox.tsx";
import { Prices } from "./prices.tsx";

const SYMBOLS = ["BTC-USD", "ETH-USD"];

/** Rendered on the server with the prices of this moment. The browser continues from them. */
export default async function Page(): Promise<ReactElement> {
  const results = await Promise.allSettled(SYMBOLS.map((symbol) => call<PriceUpdate>("PriceService/GetPrice", { symbol })));
  const initial = results.flatMap((result) => {
    if (result.status === "rejected") {
      // The page works without: the browser asks for itself. A wrong secret is only seen here.
      console.error("no price for the first page:", result.reason);
      return [];
    }
    return [result.value];
  });
  return (
    <main>
      <h1>Prices</h1>
      <Prices symbols={SYMBOLS} initial={initial} />
      <Inbox />
    </main>
  );
}
