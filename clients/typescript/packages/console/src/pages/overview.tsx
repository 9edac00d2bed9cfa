/** Overview page: the figures of the server with an hour of history, the venues, and the largest moves. */
import { useConnection } from "@tidewire/react";
import type { ReactElement } from "react";
import type { ServerSample, ServerSeries } from "../lib/api-types.ts";
import { digitsOf, fixed } from "../lib/digits.ts";
import { compact, percentChange } from "../lib/format.ts";
import { useMarket } from "../lib/market.ts";
import { usePoll } from "../lib/poll.ts";
import { href } from "../lib/route.ts";
import { isSample, isUsed, useSources } from "../lib/sources.ts";
import type { Point } from "../lib/sparkline.ts";
import { Card, PageHead } from "../ui/card.tsx";
import { CopyMenu } from "../ui/copy.tsx";
import { Hint } from "../ui/hint.tsx";
import { Failure, useLost } from "../ui/state.tsx";
import { Table } from "../ui/table.tsx";
import { Tile } from "../ui/tile.tsx";
import { NoVenueHint, VenuesCard } from "../ui/venues.tsx";
import "./overview.css";

/** Time between two readings in milliseconds: half of that between two samples, so that a new one shows soon. */
const SERIES_MS = 5_000;
/** Symbols in the list of moves. */
const MOVERS = 8;

/** The page. */
export function OverviewPage(): ReactElement {
  const series = usePoll<ServerSeries>("AdminService", "GetServerSeries", {}, SERIES_MS);
  return (
    <>
      <PageHead title="Overview">
        <CopyMenu what="the figures of the server" subject={() => ({ kind: "call", method: "AdminService/GetServerSeries", body: {} })} />
      </PageHead>
      <NoVenueHint />
      {series.error && !series.data ? <Failure error={series.error} what="the figures of the server" retry={series.refresh} /> : <Tiles samples={series.data?.samples} at={series.at} />}
      <div className="grid overview">
        <VenuesCard />
        <Movers />
      </div>
    </>
  );
}

function Tiles({ samples = [], at }: { readonly samples: readonly ServerSample[] | undefined; readonly at: number | undefined }): ReactElement {
  const { data } = useSources();
  const last = samples.at(-1);
  const history = (pick: (sample: ServerSample) => number | null): readonly Point[] => samples.map((sample) => [sample.timestamp, pick(sample)]);
  const fired = samples.reduce((sum, { alertsFired }) => sum + alertsFired, 0);
  const isLost = useLost();
  const none = last ? undefined : isLost ? "no connection" : "the first figures come after 10 s";
  // The figures of ten seconds that ended before this page connected do not count it.
  const connection = useConnection();
  const isEarly = last === undefined || (connection.status === "connected" && last.timestamp <= connection.welcome.serverTime);
  const early = none ?? "counted every 10 s";
  // Figures that no sample has yet are shown from the list of venues.
  const venuesUp = last?.venuesUp ?? data?.sources.filter(({ state }) => state === "live").length;
  const p99 = samples.findLast(({ deliveryP99Ms }) => deliveryP99Ms !== null)?.deliveryP99Ms;
  return (
    <div className="tiles overview-tiles">
      <Tile
        name="Venues up"
        link="#/setup"
        value={venuesUp}
        unit={last ? `of ${String(last.venues)}` : undefined}
        hint={data && !data.sources.some(isUsed) ? "no symbol is configured" : data && isSample(data) ? "sample data" : none}
        tone={last && last.venuesUp < last.venues ? "warn" : undefined}
        history={history(({ venuesUp: up }) => up)}
        leastSpan={last?.venues ?? 1}
        historyName="Venues up in the last hour"
        at={at}
      />
      <Tile
        name="Chains at head"
        link="#/chains"
        value={last ? last.chainsAtHead : "…"}
        unit={last ? `of ${String(last.chains)}` : undefined}
        hint={last?.chains === 0 ? "no chain is configured" : none}
        tone={last && last.chainsAtHead < last.chains ? "warn" : undefined}
        history={history(({ chainsAtHead }) => chainsAtHead)}
        leastSpan={last?.chains ?? 1}
        historyName="Chains at head in the last hour"
        at={at}
      />
      <Tile name="Clients" link="#/connections" value={isEarly ? "…" : compact(last.clients)} hint={isEarly ? early : "connected now"} history={history(({ clients }) => clients)} leastSpan={4} historyName="Clients in the last hour" at={at} />
      <Tile
        name="Messages"
        value={isEarly ? "…" : compact(last.messagesPerSecond >= 100 ? Math.round(last.messagesPerSecond) : Number(last.messagesPerSecond.toFixed(1)))}
        unit="/s"
        hint={isEarly ? early : "to all clients"}
        history={history(({ messagesPerSecond }) => messagesPerSecond)}
        leastSpan={10}
        historyName="Messages a second in the last hour"
        at={at}
      />
      <Tile
        name={<Hint text="99 of 100 publications reach the socket within this time">Delivery p99</Hint>}
        value={p99 === undefined || p99 === null ? undefined : p99.toFixed(p99 < 10 ? 2 : 0)}
        unit={typeof p99 === "number" ? "ms" : undefined}
        hint={none ?? (last?.deliveryP99Ms === null ? "idle just now" : "publication to socket")}
        history={history(({ deliveryP99Ms }) => deliveryP99Ms)}
        leastSpan={2}
        historyName="Delivery time in the last hour"
        at={at}
      />
      <Tile name="Alerts fired" link="#/alerts" value={last ? compact(fired) : "…"} hint={none ?? "in the last hour"} history={history(({ alertsFired }) => alertsFired)} leastSpan={3} historyName="Alerts fired in the last hour" at={at} />
    </div>
  );
}

function Movers(): ReactElement {
  const { overview } = useMarket();
  const isLost = useLost();
  return (
    <Card title="Largest moves" ages hint="24 h" copy={{ what: "the market", subject: () => ({ kind: "channels", channels: ["market:overview"] }) }}>
      <Table
        caption="Largest moves in 24 hours"
        columns={[
          { key: "symbol", head: "Symbol", cell: ({ symbol }) => <a href={href("prices", symbol)}>{symbol}</a> },
          { key: "price", head: "Price", cell: ({ symbol, price }) => fixed(price, digitsOf(symbol, price)) },
          { key: "change", head: "Change", cell: ({ change24h }) => <span className={change24h > 0 ? "up" : change24h < 0 ? "down" : ""}>{percentChange(change24h)}</span> },
        ]}
        rows={overview?.topMovers.slice(0, MOVERS) ?? []}
        rowKey={({ symbol }) => symbol}
        empty={!overview ? (isLost ? "Not loaded: no connection." : "Waiting for the market…") : overview.coverage?.symbols === 0 ? "No symbol is configured." : "No price has changed yet."}
      />
    </Card>
  );
}
