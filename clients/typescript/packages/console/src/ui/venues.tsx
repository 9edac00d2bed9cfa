/** Venue table: the venues of the prices, the state of each, and why. */
import type { PriceSource } from "@tidewire/client";
import { type ReactElement, useEffect, useState } from "react";
import { age, clockOffset, compact, count } from "../lib/format.ts";
import { isSilent, useSources } from "../lib/sources.ts";
import { Card } from "./card.tsx";
import { Chip, type Tone } from "./chip.tsx";
import { Command } from "./command.tsx";
import { Hint } from "./hint.tsx";
import { Failure, Loading, useLost } from "./state.tsx";
import { type Column, Table } from "./table.tsx";

const TONES: Readonly<Partial<Record<PriceSource["state"], Tone>>> = { live: "up", mute: "bad", waiting: "warn", connecting: "warn" };
const MEANINGS = "live: data arrives. mute: connected, but no data arrives. waiting: disconnected, until the next attempt. connecting: on its way. unused: it offers no symbol that is configured.";

const COLUMNS: readonly Column<PriceSource>[] = [
  { key: "name", head: "Venue", cell: ({ name }) => name },
  {
    key: "state",
    head: <Hint text={MEANINGS}>State</Hint>,
    align: "left",
    className: "wrap",
    cell: ({ state, lastError, refused = [], symbols }) => (
      <>
        {symbols.length === 0 && refused.length === 0 && state !== "live" ? (
          <Chip tone="plain">unused</Chip>
        ) : (
          <Chip tone={TONES[state] ?? "plain"}>{state}</Chip>
        )}
        {state !== "live" && lastError !== undefined && <span className="reason">{lastError}</span>}
        {refused.length > 0 && <span className="reason">refuses {refused.map(({ symbol, reason }) => `${symbol} (${reason})`).join(", ")}</span>}
      </>
    ),
  },
  { key: "symbols", head: "Symbols", from: "s", cell: ({ symbols }) => symbols.length },
  {
    key: "trades",
    head: "Trades",
    cell: ({ trades, gaps = 0 }) => (
      <>
        {compact(trades)}
        {gaps > 0 && <span className="reason">{count(gaps, "gap")}</span>}
      </>
    ),
  },
  { key: "clock", head: "Clock", from: "m", cell: ({ offsetMs }) => (offsetMs === undefined ? "—" : clockOffset(offsetMs).replace("clock ", "")) },
  { key: "connects", head: "Connects", from: "m", cell: ({ connects }) => compact(connects) },
  { key: "age", head: "Newest", cell: ({ ageMs }) => age(ageMs) },
  { key: "url", head: "Address", align: "left", from: "xl", cell: ({ url }) => <span className="mono soft">{url}</span> },
];

/** Time in milliseconds for which no venue answers before the page says how to go on: as in the server's log. */
const PATIENCE_MS = 3_000;

/** How to go on where no venue answers. A configured server plays no sample data by itself. */
export function NoVenueHint(): ReactElement | null {
  const { data } = useSources();
  const isLost = useLost();
  const isNow = data !== undefined && isSilent(data) && !isLost;
  const [isLong, setLong] = useState(false);
  useEffect(() => {
    const timer = isNow ? setTimeout(setLong, PATIENCE_MS, true) : undefined;
    setLong(false);
    return () => {
      clearTimeout(timer);
    };
  }, [isNow]);
  return isNow && isLong ? (
    <Card title="No venue answers" className="notice">
      <p>
        Check the network and the proxy of this machine: the server tries on. To see Tidewire at work meanwhile, stop the server and run{" "}
        <Command args="replay --loop" />, which plays sample data.
      </p>
    </Card>
  ) : null;
}

/** The card of the venues. */
export function VenuesCard(): ReactElement {
  const { data, error, loading, refresh } = useSources();
  const tried = data?.tried ?? [];
  return (
    <Card title="Venues" ages copy={{ what: "the venues", subject: () => ({ kind: "call", method: "PriceService/ListSources", body: {} }) }}>
      {loading && <Loading what="the venues" />}
      {!data && error && <Failure error={error} what="the venues" retry={refresh} />}
      {data && (
        <Table
          caption="Venues"
          columns={COLUMNS}
          rows={[...data.sources, ...tried.filter(({ name }) => !data.sources.some((source) => source.name === name))]}
          rowKey={({ name }) => name}
          rowData={({ name, state }) => ({ "data-venue": name, "data-state": state })}
          empty={
            <>
              No venue is configured. <code>[[prices.source]]</code> adds one.
            </>
          }
        />
      )}
    </Card>
  );
}
