/** Prices page: a table of all symbols, live, with the trend of the last hour. */
import type { PriceUpdate } from "@tidewire/client";
import { type ReactElement, type ReactNode, useMemo, useState } from "react";
import { useNow } from "../lib/clock.ts";
import { digitsOf, fixed } from "../lib/digits.ts";
import { age, compact, count, UNKNOWN } from "../lib/format.ts";
import { href } from "../lib/route.ts";
import { symbolsOf, useSources } from "../lib/sources.ts";
import { PageHead } from "../ui/card.tsx";
import { CopyMenu } from "../ui/copy.tsx";
import { Hint } from "../ui/hint.tsx";
import { Change, PriceFigure, PriceState, TrendLine, usePrice } from "../ui/price.tsx";
import { Failure, Loading, NoSymbol, OldMark } from "../ui/state.tsx";
import { type Column, Table } from "../ui/table.tsx";
import "./prices.css";

const NO_SYMBOLS: readonly string[] = [];

/** A cell that renders when the price of its symbol changes, and no other does. */
function Of({ symbol, show }: { readonly symbol: string; readonly show: (price: PriceUpdate | undefined) => ReactNode }): ReactElement {
  return <>{show(usePrice(symbol).price)}</>;
}

const COLUMNS: readonly Column<string>[] = [
  {
    key: "symbol",
    head: "Symbol",
    cell: (symbol) => (
      <>
        <a href={href("prices", symbol)}>{symbol}</a>
        {/* Where the column of the states is hidden. */}
        <Of symbol={symbol} show={(price) => price?.stale === true && <span className="below-s"><PriceState price={price} /></span>} />
      </>
    ),
  },
  { key: "trend", head: "1 h", className: "trend", cell: (symbol) => <TrendLine symbol={symbol} /> },
  { key: "price", head: "Price", className: "price", cell: (symbol) => <PriceFigure symbol={symbol} /> },
  { key: "change", head: <>24&nbsp;h</>, cell: (symbol) => <Of symbol={symbol} show={(price) => <Change value={price?.change24h} />} /> },
  { key: "volume", head: <>Volume 24&nbsp;h</>, from: "m", cell: (symbol) => <Of symbol={symbol} show={(price) => compact(price?.volume24h)} /> },
  {
    key: "confidence",
    head: <Hint text="How uncertain the price is: the prices of the live sources are within this distance of it">Confidence</Hint>,
    from: "l",
    cell: (symbol) => <Of symbol={symbol} show={(price) => (typeof price?.confidence === "number" ? `± ${fixed(price.confidence, digitsOf(symbol))}` : UNKNOWN)} />,
  },
  { key: "sources", head: "Sources", from: "s", cell: (symbol) => <Of symbol={symbol} show={(price) => price?.sources ?? UNKNOWN} /> },
  { key: "state", head: "State", from: "s", cell: (symbol) => <Of symbol={symbol} show={(price) => <PriceState price={price} />} /> },
  { key: "age", head: "Age", from: "m", cell: (symbol) => <Of symbol={symbol} show={(price) => <Age timestamp={price?.timestamp} />} /> },
];

function Age({ timestamp }: { readonly timestamp: number | undefined }): ReactElement {
  const now = useNow();
  return <span className="soft">{timestamp === undefined ? UNKNOWN : age(now - timestamp)}</span>;
}

/** The page. */
export function PricesPage(): ReactElement {
  const { data, error, loading, refresh } = useSources();
  const [filter, setFilter] = useState("");
  const all = useMemo(() => (data ? symbolsOf(data) : NO_SYMBOLS), [data]);
  const wanted = filter.trim().toUpperCase();
  const symbols = all.filter((symbol) => symbol.includes(wanted));
  return (
    <>
      <PageHead title="Prices">
        <span className="soft">{data && (wanted === "" ? count(all.length, "symbol") : `${String(symbols.length)} of ${count(all.length, "symbol")}`)}</span>
        <OldMark />
        {all.length > 0 && (
          <span className="actions">
            <input
              type="search"
              className="filter"
              aria-label="Filter symbols"
              placeholder="Filter symbols"
              autoCapitalize="none"
              spellCheck={false}
              value={filter}
              onChange={(event) => {
                setFilter(event.target.value);
              }}
            />
          </span>
        )}
        <CopyMenu what="the prices" subject={() => ({ kind: "channels", channels: symbols.map((symbol) => `prices:${symbol}`) })} />
      </PageHead>
      <section className="card prices" aria-label="Prices">
        {loading && <Loading rows={8} what="the symbols" />}
        {!data && error && <Failure error={error} what="the symbols" retry={refresh} />}
        {data && all.length === 0 && <NoSymbol />}
        {all.length > 0 && (
          <Table caption="Prices" columns={COLUMNS} rows={symbols} rowKey={(symbol) => symbol} rowData={(symbol) => ({ "data-symbol": symbol })} empty={`No symbol contains “${filter.trim()}”.`} />
        )}
      </section>
      {all.length > 0 && <p className="note below">Each price is made of the live sources of its symbol: a symbol’s page has them.</p>}
    </>
  );
}
