/** Symbol page: one symbol with its chart, and its sources with their states and why. */
import type { CandleInterval, PriceUpdate, SourceDetail } from "@tidewire/client";
import { useCandles } from "@tidewire/react";
import { type ReactElement, useMemo, useState } from "react";
import { serverNow, useNow } from "../lib/clock.ts";
import { digitsOf, fixed } from "../lib/digits.ts";
import { age, compact, deviation, percentChange, UNKNOWN } from "../lib/format.ts";
import { usePoll } from "../lib/poll.ts";
import { href } from "../lib/route.ts";
import { useOnline } from "../lib/session.ts";
import { TICKS_MS, type Tick, useTicks } from "../lib/ticks.ts";
import { spreadOf } from "../lib/spread.ts";
import { useTitlePart } from "../lib/title.ts";
import { Card, PageHead } from "../ui/card.tsx";
import { Chart } from "../ui/chart.tsx";
import { Chip, type Tone } from "../ui/chip.tsx";
import { Hint } from "../ui/hint.tsx";
import { CopyMenu } from "../ui/copy.tsx";
import { Change, PriceFigure, PriceState, usePrice } from "../ui/price.tsx";
import { Empty, Failure, Loading, sentence } from "../ui/state.tsx";
import { type Column, Table } from "../ui/table.tsx";
import { Tile } from "../ui/tile.tsx";
import "./symbol.css";

/** Time between two requests for the sources, in milliseconds. */
const SOURCES_MS = 2_000;

/** The ranges of the chart. A minute has no candles: it shows each price. */
const RANGES = {
  "1 m": { rangeMs: TICKS_MS, interval: undefined, lengthMs: 0 },
  "1 h": { rangeMs: 3_600_000, interval: "1m", lengthMs: 60_000 },
  "24 h": { rangeMs: 86_400_000, interval: "5m", lengthMs: 300_000 },
} as const satisfies Record<string, { rangeMs: number; interval: CandleInterval | undefined; lengthMs: number }>;

type Range = keyof typeof RANGES;

/** The page. */
export function SymbolPage({ symbol }: { readonly symbol: string }): ReactElement {
  const { price, error } = usePrice(symbol);
  const detail = usePoll<PriceUpdate>("PriceService", "GetPrice", { symbol }, SOURCES_MS);
  const digits = digitsOf(symbol, price?.price);
  const isLoading = !price && error === undefined;
  useTitlePart("page", price ? `${fixed(price.price, digits)} ${symbol}` : symbol);
  return (
    <>
      <PageHead
        title={
          <>
            <a href="#/prices" className="up-link" aria-label="All prices">
              Prices
            </a>{" "}
            {symbol}
          </>
        }
      >
        {(price !== undefined || error === undefined) && (
          <>
            <span className="symbol-price">
              <PriceFigure symbol={symbol} />
            </span>
            {price && <Change value={price.change24h} />}
            <PriceState price={price} />
          </>
        )}
        <CopyMenu what={`the price of ${symbol}`} subject={() => ({ kind: "channels", channels: [`prices:${symbol}`] })} />
      </PageHead>
      {error !== undefined && !price ? (
        <Empty title={`There is no price of ${symbol}`}>
          <Suggestion text={error} /> <a href="#/prices">All prices</a>
        </Empty>
      ) : (
        <>
          <Figures symbol={symbol} price={price} detail={detail.data} at={detail.at} />
          <ChartCard symbol={symbol} />
          {isLoading && !detail.data ? <Loading what="the price" /> : <SourcesCard symbol={symbol} detail={detail.data} />}
          {!detail.data && detail.error && <Failure error={detail.error} what="the sources" retry={detail.refresh} />}
        </>
      )}
    </>
  );
}

/** A refusal in a sentence, with the symbol that the server suggests as a link. */
function Suggestion({ text }: { readonly text: string }): ReactElement {
  const [, what = text, near] = /^(.*?), did you mean (\S+?)\?$/.exec(text) ?? [];
  return (
    <>
      {sentence(what)} {near !== undefined && <>Did you mean <a href={href("prices", near)}>{near}</a>?</>}
    </>
  );
}

function Figures({ symbol, price, detail, at }: { readonly symbol: string; readonly price: PriceUpdate | undefined; readonly detail: PriceUpdate | undefined; readonly at: number | undefined }): ReactElement {
  const digits = digitsOf(symbol);
  const sources = detail?.sourceDetails ?? [];
  const spread = spreadOf(sources);
  const covered = detail?.dayCoveredMs;
  const isPart = covered !== undefined && covered < 86_400_000;
  return (
    <div className="tiles symbol-tiles">
      <Tile name="Change 24 h" value={price && percentChange(price.change24h)} hint={isPart ? `of the last ${age(covered)}` : undefined} at={at} />
      <Tile name="Volume 24 h" value={price && compact(price.volume24h)} unit={symbol.split("-")[1]} at={at} />
      <Tile name={<Hint text="How uncertain the price is: the prices of the live sources are within this distance of it">Confidence</Hint>} value={price && (price.confidence === null ? UNKNOWN : `± ${fixed(price.confidence, digits)}`)} at={at} />
      <Tile name={<Hint text="Time-weighted average price: each price counts as long as it held">TWAP</Hint>} value={price && fixed(price.twap, digits)} hint={detail?.windowMs === undefined ? undefined : `over ${age(detail.windowMs)}`} at={at} />
      <Tile
        name="Spread between sources"
        value={spread && fixed(spread.absolute, digits)}
        unit={spread && <Hint text="Basis points: hundredths of a percent">{spread.points.toFixed(1)} bp</Hint>}
        hint={spread ? `${spread.low} to ${spread.high}` : "needs two live sources"}
        at={at}
      />
      <Tile name="Live sources" value={price?.sources ?? detail?.sources} unit={sources.length > 0 ? `of ${String(sources.length)}` : undefined} hint={detail?.method?.replaceAll("_", " ")} tone={(price ?? detail)?.sources === 0 ? "warn" : undefined} at={at} />
    </div>
  );
}

function ChartCard({ symbol }: { readonly symbol: string }): ReactElement {
  const [range, setRange] = useState<Range>("1 h");
  const { rangeMs, interval, lengthMs } = RANGES[range];
  return (
    <Card
      title="Price"
      ages
      hint={interval === undefined ? "each price" : `candles of ${interval === "1m" ? "1 minute" : "5 minutes"}`}
      actions={
        <span className="choices" role="group" aria-label="Range of the chart">
          {(Object.keys(RANGES) as Range[]).map((name) => (
            <button
              key={name}
              type="button"
              aria-pressed={name === range}
              onClick={() => {
                setRange(name);
              }}
            >
              {name}
            </button>
          ))}
        </span>
      }
      copy={
        interval === undefined
          ? undefined
          : {
              what: `the candles of ${symbol}`,
              subject: () => ({ kind: "call", method: "PriceService/GetCandles", body: { symbol, interval, limit: Math.ceil(rangeMs / lengthMs) } }),
            }
      }
    >
      {interval === undefined ? <TickChart symbol={symbol} /> : <CandleChart symbol={symbol} interval={interval} rangeMs={rangeMs} lengthMs={lengthMs} />}
    </Card>
  );
}

/** The part of a range that shows at least, so that the candles of a young server are no thin strip. */
const LEAST_PART = 1 / 6;

function CandleChart({ symbol, interval, rangeMs, lengthMs }: { readonly symbol: string; readonly interval: CandleInterval; readonly rangeMs: number; readonly lengthMs: number }): ReactElement {
  const { candles, loading, error } = useCandles(symbol, interval, { limit: Math.ceil(rangeMs / lengthMs) });
  const now = useClockOf(lengthMs / 6);
  const digits = digitsOf(symbol, ...candles.slice(-20).flatMap(({ open, close }) => [open, close]));
  const to = Math.max(Math.ceil(now / lengthMs) * lengthMs, (candles.at(-1)?.start ?? 0) + lengthMs);
  const first = candles.find(({ start }) => start >= to - rangeMs)?.start ?? to;
  const from = Math.max(to - rangeMs, Math.min(first - lengthMs, to - rangeMs * LEAST_PART));
  const data = useMemo(() => ({ kind: "candles", lengthMs, candles: candles.filter(({ start }) => start >= from) }) as const, [candles, lengthMs, from]);
  if (error) {
    return <Failure error={error} what="the candles" />;
  }
  if (loading) {
    return <Loading rows={6} what="the candles" />;
  }
  return candles.length === 0 ? (
    <Empty title="No candle yet">The first one forms with the first price.</Empty>
  ) : (
    <Chart name={`Candles of ${symbol}`} data={data} digits={digits} from={from} to={to} />
  );
}

function TickChart({ symbol }: { readonly symbol: string }): ReactElement {
  const ticks = useTicks(symbol);
  const { price } = usePrice(symbol);
  const { candles } = useCandles(symbol, "1m", { limit: 3 });
  const now = useClockOf(1_000);
  const from = now - TICKS_MS;
  const points = useMemo(() => {
    // Before the console was opened there are closes of candles only.
    const first = ticks[0]?.[0] ?? price?.timestamp ?? Infinity;
    const before = candles.flatMap(({ start, open, close, closed }): Tick[] => [[start, open], ...(closed ? [[start + 59_999, close] as const] : [])]).filter(([time]) => time < first);
    const own: readonly Tick[] = ticks.length > 0 || typeof price?.price !== "number" ? ticks : [[price.timestamp, price.price]];
    return [...before, ...own];
  }, [ticks, candles, price]);
  const data = useMemo(() => {
    const visible = points.findIndex(([time]) => time >= from);
    const shown = visible === -1 ? points.slice(-1) : points.slice(Math.max(0, visible - 1));
    const last = shown.at(-1);
    // The price holds until the next one.
    return { kind: "line", points: last && last[0] < now ? [...shown, [now, last[1]] as const] : shown } as const;
  }, [points, from, now]);
  const digits = digitsOf(symbol);
  return data.points.length === 0 ? <Loading rows={6} what="the prices" /> : <Chart name={`Prices of ${symbol}`} data={data} digits={digits} from={from} to={now} />;
}

/** The server's time for the edge of a chart. Offline it stands still, as the data does. */
function useClockOf(everyMs: number): number {
  const now = useNow(everyMs);
  const isOnline = useOnline();
  const [stopped, setStopped] = useState<number>();
  if (isOnline === (stopped !== undefined)) {
    setStopped(isOnline ? undefined : serverNow());
  }
  return stopped ?? now;
}

const TONES: Readonly<Partial<Record<SourceDetail["state"], Tone>>> = { live: "up", stale: "warn", excluded: "bad" };

function SourcesCard({ symbol, detail }: { readonly symbol: string; readonly detail: PriceUpdate | undefined }): ReactElement {
  const digits = digitsOf(symbol);
  const columns: readonly Column<SourceDetail>[] = [
    { key: "source", head: "Source", cell: ({ source }) => source },
    { key: "price", head: "Price", cell: ({ price }) => <b>{fixed(price, digits)}</b> },
    {
      key: "deviation",
      head: <Hint text="Deviation from the price of all, in hundredths of a percent">Deviation</Hint>,
      from: "s",
      cell: ({ price }) => deviation(price, detail?.price ?? null),
    },
    {
      key: "state",
      head: "State",
      align: "left",
      className: "wrap",
      cell: ({ state, reason, volumeUnknown, rate, missing, unexpectedFields = [] }) => (
        <>
          <Chip tone={TONES[state] ?? "plain"}>{state}</Chip>
          {reason !== undefined && <span className="reason">{reason}</span>}
          {rate && <span className="reason">× {rate.symbol} {rate.price === null ? "(no rate)" : fixed(rate.price, 4)}</span>}
          {missing !== undefined && <span className="reason">{compact(missing)} trades never arrived</span>}
          {volumeUnknown !== undefined && <span className="reason">no volume: {volumeUnknown}</span>}
          {unexpectedFields.length > 0 && <span className="reason">unexpected fields: {unexpectedFields.join(", ")}</span>}
        </>
      ),
    },
    {
      key: "weight",
      head: "Weight",
      from: "m",
      cell: ({ weight }) => (
        <span className="weight">
          <progress max={1} value={weight} aria-hidden="true" /> {Math.round(weight * 100)} %
        </span>
      ),
    },
    { key: "range", head: "Lowest – highest", from: "l", cell: ({ min, max }) => (min === null || max === null ? UNKNOWN : `${fixed(min, digits)} – ${fixed(max, digits)}`) },
    { key: "trades", head: "Trades", from: "m", cell: ({ trades }) => compact(trades) },
    { key: "age", head: "Age", cell: ({ ageMs }) => age(ageMs) },
  ];
  return (
    <Card title="Sources" ages copy={{ what: `the sources of ${symbol}`, subject: () => ({ kind: "call", method: "PriceService/GetPrice", body: { symbol } }) }}>
      <Table
        caption={`Sources of ${symbol}`}
        columns={columns}
        rows={detail?.sourceDetails ?? []}
        rowKey={({ source }) => source}
        rowData={({ source, state }) => ({ "data-source": source, "data-state": state })}
        empty={detail ? "No source has sent a price yet." : "Waiting for the sources…"}
      />
    </Card>
  );
}
