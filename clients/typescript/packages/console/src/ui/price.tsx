/** Cells of prices, which the table and the page of a symbol share. */
import type { PriceUpdate } from "@tidewire/client";
import { usePriceStream } from "@tidewire/react";
import { type ReactElement, useRef } from "react";
import { digitsOf, fixed } from "../lib/digits.ts";
import { percentChange } from "../lib/format.ts";
import { useTrend } from "../lib/trend-hook.ts";
import { Chip } from "./chip.tsx";
import { Sparkline } from "./sparkline.tsx";
import { useLost } from "./state.tsx";

/** The newest price of a symbol, and why there is none. */
export function usePrice(symbol: string): { readonly price: PriceUpdate | undefined; readonly error: string | undefined } {
  const { prices, error } = usePriceStream(symbol);
  return { price: prices.get(symbol), error: error?.message };
}

/** A price that flashes when it changes. */
export function PriceFigure({ symbol }: { readonly symbol: string }): ReactElement {
  const { price, error } = usePrice(symbol);
  const value = price?.price;
  const last = useRef<number>(undefined);
  const direction = useRef("");
  if (typeof value === "number" && value !== last.current) {
    direction.current = last.current === undefined ? "" : value > last.current ? "up" : "down";
    last.current = value;
  }
  return error !== undefined && !price ? (
    <span className="soft">refused: {error}</span>
  ) : (
    // Another key is another element, so that the flash begins anew.
    <span key={value} className={`digits ${direction.current}`}>
      {fixed(value, digitsOf(symbol, value))}
    </span>
  );
}

/** A change in percent with its colour and sign. */
export function Change({ value }: { readonly value: number | null | undefined }): ReactElement {
  return <span className={(value ?? 0) > 0 ? "up" : (value ?? 0) < 0 ? "down" : ""}>{percentChange(value)}</span>;
}

/** The last hour of a symbol as a line. */
export function TrendLine({ symbol }: { readonly symbol: string }): ReactElement | null {
  const { price } = usePrice(symbol);
  const { points, leastSpan, change = 0 } = useTrend(symbol, price);
  return points.length === 0 ? null : (
    <Sparkline points={points} leastSpan={leastSpan} trend={change > 0 ? "up" : change < 0 ? "down" : undefined} name={`${symbol} in the last hour: ${percentChange(change)}`} />
  );
}

/** Whether a price is live, in a word. */
export function PriceState({ price }: { readonly price: PriceUpdate | undefined }): ReactElement {
  const isLost = useLost();
  return !price ? (
    <Chip tone="plain" ages={false}>
      {isLost ? "not loaded" : "waiting"}
    </Chip>
  ) : price.stale ? (
    <Chip tone="warn" hint="No source is live: this is the last known price">
      stale
    </Chip>
  ) : (
    <Chip tone="up">live</Chip>
  );
}
