/** Market page: the figures of the whole market, the largest moves, and trades as they come. */
import type { RecentTrade } from "@tidewire/client";
import type { ReactElement } from "react";
import { digitsOf, fixed } from "../lib/digits.ts";
import { age, compact, count, percent, size, timeOfDay } from "../lib/format.ts";
import { useMarket } from "../lib/market.ts";
import { href } from "../lib/route.ts";
import { Card, PageHead } from "../ui/card.tsx";
import { CopyMenu } from "../ui/copy.tsx";
import { Change, TrendLine } from "../ui/price.tsx";
import { Failure, Loading, NoSymbol } from "../ui/state.tsx";
import { Table } from "../ui/table.tsx";
import { Tile } from "../ui/tile.tsx";
import "./market.css";

/** The configuration that an unknown figure needs. */
const NEEDS_SUPPLY = (
  <>
    needs <code>[prices.supply]</code>
  </>
);

/** The page. */
export function MarketPage(): ReactElement {
  const { overview, loading, error } = useMarket();
  const coverage = overview?.coverage;
  const supply = coverage?.live === 0 ? "needs a live price" : coverage?.withSupply === 0 ? NEEDS_SUPPLY : coverage && `${count(coverage.withSupply, "symbol")} in USD with a known supply`;
  const supplyAge = coverage?.supplyAgeMs;
  return (
    <>
      <PageHead title="Market">
        <CopyMenu what="the market" subject={() => ({ kind: "channels", channels: ["market:overview"] })} />
      </PageHead>
      {error && !overview ? (
        <Failure error={error} what="the market" />
      ) : loading ? (
        <Loading rows={6} what="the market" />
      ) : coverage?.symbols === 0 ? (
        <NoSymbol>
          Without a symbol there is no market: the server publishes nothing on <code>market:overview</code>.
        </NoSymbol>
      ) : (
        <>
          <div className="tiles market-tiles">
            <Tile name="Market cap" value={compact(overview?.totalMarketCap)} unit="USD" hint={supply} at={overview?.timestamp} />
            <Tile name="Volume 24 h" value={compact(overview?.totalVolume)} unit="USD" hint={coverage && `${count(coverage.withVolume, "symbol")} in USD with a known volume`} at={overview?.timestamp} />
            <Tile name="BTC dominance" value={percent(overview?.btcDominance)} hint={supplyAge === undefined ? supply : `supplies ${age(supplyAge)} old`} at={overview?.timestamp} />
            <Tile name="Live symbols" value={coverage?.live} unit={coverage && `of ${String(coverage.symbols)}`} tone={coverage && coverage.live < coverage.symbols ? "warn" : undefined} at={overview?.timestamp} />
          </div>
          <div className="grid market">
            <Card title="Largest moves" ages hint="24 h">
              <Table
                caption="Largest moves in 24 hours"
                columns={[
                  { key: "symbol", head: "Symbol", cell: ({ symbol }) => <a href={href("prices", symbol)}>{symbol}</a> },
                  { key: "trend", head: "1 h", className: "trend", cell: ({ symbol }) => <TrendLine symbol={symbol} /> },
                  { key: "price", head: "Price", cell: ({ symbol, price }) => fixed(price, digitsOf(symbol, price)) },
                  { key: "change", head: "Change", cell: ({ change24h }) => <Change value={change24h} /> },
                ]}
                rows={overview?.topMovers ?? []}
                rowKey={({ symbol }) => symbol}
                empty="No price has changed yet."
              />
            </Card>
            <Card title="Recent trades" ages hint="of all venues, newest first">
              <Table
                caption="Recent trades"
                className="trades"
                hasDetails={false}
                columns={[
                  {
                    key: "symbol",
                    head: "Symbol",
                    cell: ({ symbol, size: amount, price, source, timestamp }) => (
                      <>
                        <a href={href("prices", symbol)}>{symbol}</a>
                        <span className="reason below-s">{size(amount)} ({compact(amount * price)}) · {source} · {timeOfDay(timestamp)}</span>
                      </>
                    ),
                  },
                  { key: "side", head: "Side", align: "left", cell: ({ side }) => <span className={tone(side)}>{side ?? "—"}</span> },
                  { key: "price", head: "Price", cell: ({ symbol, price, side }) => <span className={tone(side)}>{fixed(price, digitsOf(symbol, price))}</span> },
                  { key: "size", head: "Size", from: "s", cell: (trade) => size(trade.size) },
                  { key: "value", head: "Value", from: "m", cell: (trade) => compact(trade.size * trade.price) },
                  { key: "venue", head: "Venue", from: "s", align: "left", cell: ({ source }) => source },
                  { key: "time", head: "Time", from: "s", cell: ({ timestamp }) => <span className="soft">{timeOfDay(timestamp)}</span> },
                ]}
                rows={overview?.recentTrades ?? []}
                rowKey={(trade, index) => `${String(trade.timestamp)} ${trade.symbol} ${String(index)}`}
                empty="No trades yet."
              />
            </Card>
          </div>
        </>
      )}
    </>
  );
}

function tone(side: RecentTrade["side"]): string {
  return side === "buy" ? "up" : side === "sell" ? "down" : "";
}
