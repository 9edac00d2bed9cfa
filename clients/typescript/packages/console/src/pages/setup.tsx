/** Setup page: what the server is configured with, what is missing and how to add it, and its health. */
import type { SourceList, TidewireError } from "@tidewire/client";
import { useConnection } from "@tidewire/react";
import type { ReactElement, ReactNode } from "react";
import type { ServerSeries } from "../lib/api-types.ts";
import { base } from "../lib/base.ts";
import { age, count, roundTrip } from "../lib/format.ts";
import { useText } from "../lib/health.ts";
import { useMarket } from "../lib/market.ts";
import { type Metric, metricOf } from "../lib/metrics.ts";
import { type Loaded, usePoll } from "../lib/poll.ts";
import { useSession } from "../lib/session.ts";
import { isLive, isSample, isSilent, isUsed, symbolsOf, useSources } from "../lib/sources.ts";
import { Card, PageHead } from "../ui/card.tsx";
import { Chip, type Tone } from "../ui/chip.tsx";
import { CopyMenu } from "../ui/copy.tsx";
import { sentence, useLost } from "../ui/state.tsx";
import { Table } from "../ui/table.tsx";
import { NoVenueHint, VenuesCard } from "../ui/venues.tsx";
import "./setup.css";

/** Time between two reads of what rarely changes, in milliseconds. */
const SETUP_MS = 30_000;

/** A line of the list: what, whether it is there, and what to do if not. */
interface Check {
  readonly name: string;
  readonly state: "ok" | "missing" | "fault" | "optional" | "replay" | "unknown";
  readonly text: ReactNode;
  /** The keys of the configuration that change it. */
  readonly keys?: string | undefined;
}

const TONES: Readonly<Record<Check["state"], Tone>> = { ok: "up", missing: "warn", fault: "bad", optional: "plain", replay: "plain", unknown: "plain" };
const WORDS: Readonly<Record<Check["state"], string>> = { ok: "ok", missing: "missing", fault: "fault", optional: "not set", replay: "replay", unknown: "unknown" };

/** The page. */
export function SetupPage(): ReactElement {
  const metrics = useText("/metrics");
  const text = metrics?.status === 200 ? metrics.text : undefined;
  return (
    <>
      <PageHead title="Setup">
        <CopyMenu what="the health of the venues" subject={() => ({ kind: "call", method: "PriceService/ListSources", body: {} })} />
      </PageHead>
      <NoVenueHint />
      <div className="grid setup">
        <HealthCard metrics={text} isRefused={metrics !== undefined && text === undefined} />
        <ConfigurationCard metrics={text} isWithoutMetrics={metrics !== undefined && text === undefined} />
      </div>
      <VenuesCard />
    </>
  );
}

function HealthCard({ metrics, isRefused }: { readonly metrics: string | undefined; readonly isRefused: boolean }): ReactElement {
  const connection = useConnection();
  const isLost = useLost();
  const ready = useText("/readyz");
  const alive = useText("/healthz");
  const parts = metrics === undefined ? [] : metricOf(metrics, "tidewire_part_degraded");
  return (
    <Card title="Health" ages>
      <dl className="facts">
        <dt>Server</dt>
        <dd>
          {base} {connection.status === "connected" && <span className="soft">v{connection.welcome.version}</span>}
        </dd>
        <dt>Alive</dt>
        <dd>{probe(alive, "/healthz", isLost)}</dd>
        <dt>Ready</dt>
        <dd>{probe(ready, "/readyz", isLost)}</dd>
        <dt>Link</dt>
        <dd>
          {connection.status === "connected" ? `${connection.transport === "sse" ? "Server-Sent Events" : "WebSocket"}, ping after ${age(connection.heartbeatMs)} of silence` : "none"}
          {connection.quality && <span className="soft"> · {connection.quality.grade}{connection.status === "connected" && connection.quality.rttMs !== undefined && `, round trip ${roundTrip(connection.quality.rttMs)}`}</span>}
        </dd>
        <dt>Parts</dt>
        <dd>
          {parts.length > 0 ? (
            <span className="row">
              {parts
                .filter(({ labels }) => labels["part"] !== "all")
                .map(({ labels, value }) => (
                  <Chip key={labels["part"]} tone={value === 0 ? "up" : "bad"}>
                    {labels["part"]}: {value === 0 ? "ok" : "degraded"}
                  </Chip>
                ))}
            </span>
          ) : isRefused ? (
            "The metrics need a token with the right `admin`."
          ) : (
            "—"
          )}
        </dd>
      </dl>
    </Card>
  );
}

function probe(result: { readonly status: number; readonly text: string } | undefined, path: string, isLost: boolean): ReactElement {
  return result ? (
    <>
      <Chip tone={result.status === 200 ? "up" : "bad"}>{result.status === 200 ? "yes" : `no, ${String(result.status)}`}</Chip> <span className="lines">{result.text.trim()}</span>
    </>
  ) : (
    <span className="soft">{isLost ? `${path} is not asked without a connection` : `${path} has not answered yet`}</span>
  );
}

function ConfigurationCard({ metrics, isWithoutMetrics }: { readonly metrics: string | undefined; readonly isWithoutMetrics: boolean }): ReactElement {
  const { data: sources } = useSources();
  const { overview } = useMarket();
  const unknown = useLost() ? "not known without a connection" : "not known yet";
  const { wantsToken } = useSession();
  const series = usePoll<ServerSeries>("AdminService", "GetServerSeries", {}, 10_000);
  // A server without delivery has no figures of it, and would refuse both calls.
  const isOff = metrics !== undefined && !metrics.includes("tidewire_delivery_");
  const isAsked = metrics !== undefined ? !isOff : isWithoutMetrics;
  const push = usePoll<object>("NotifyService", "GetPushKey", {}, SETUP_MS, { isOn: isAsked });
  const letters = usePoll<{ readonly items?: readonly unknown[] }>("AdminService", "ListDeadLetters", { limit: 1 }, SETUP_MS, { isOn: isAsked });
  const off = { state: "optional", text: "Nothing is delivered outside of the application." } as const;
  const find = (name: string): readonly Metric[] | undefined => (metrics === undefined ? undefined : metricOf(metrics, name));
  const chains = series.data?.samples.at(-1)?.chains ?? find("tidewire_chain_blocks_total")?.length;
  const rules = find("tidewire_alerts_rules")?.[0]?.value;
  const isLocal = /^https?:\/\/(localhost|127\.|\[::1\])/.test(base);
  const withSupply = overview?.coverage?.withSupply;
  const checks: readonly Check[] = [
    { name: "Venues", ...venuesCheck(sources, unknown), keys: "[[prices.source]]" },
    {
      name: "Symbols",
      state: sources === undefined ? "unknown" : symbolsOf(sources).length > 0 ? "ok" : "missing",
      text:
        sources === undefined
          ? unknown
          : symbolsOf(sources).length === 0
            ? "None is configured, so there are no prices."
            : `${count(symbolsOf(sources).length, "symbol")}, ${String(overview?.coverage?.live ?? 0)} with a live price`,
      keys: "[prices] symbols",
    },
    {
      name: "Supplies",
      state: withSupply === undefined ? "unknown" : withSupply > 0 ? "ok" : "optional",
      text: withSupply === undefined ? unknown : withSupply > 0 ? `${count(withSupply, "symbol")} in USD with a known supply` : "Market cap and dominance need the numbers of coins.",
      keys: "[prices.supply]",
    },
    {
      name: "Chains",
      state: chains === undefined ? "unknown" : chains > 0 ? "ok" : "optional",
      text: chains === undefined ? unknownText(series, unknown) : chains > 0 ? `${count(chains, "chain")} followed` : "Blocks, transactions and wallets need an endpoint.",
      keys: "[[chain]]",
    },
    {
      name: "Alerts",
      state: rules === undefined ? "unknown" : "ok",
      text: rules === undefined ? "not known without the metrics" : `${count(rules, "rule")} of all users`,
      keys: "[alerts]",
    },
    { name: "Web Push", ...(isOff ? off : optional(push, unknown, "Keys are set: browsers can register.")), keys: "[delivery.push]" },
    {
      name: "Delivery",
      ...(isOff ? off : optional(letters, unknown, "Webhooks, push or e-mail are set.", (data) => ((data.items?.length ?? 0) > 0 ? "There are dead letters: ListDeadLetters says why." : undefined))),
      keys: "[[delivery.webhook]], [delivery.email]",
    },
    {
      name: "Tokens",
      state: wantsToken ? "ok" : isLocal ? "optional" : "ok",
      text: wantsToken ? "Every request needs a token." : `Public channels are open without one.${isLocal ? " On loopback, so are operators’ actions." : ""}`,
      keys: "[auth]",
    },
    {
      name: "TLS",
      state: base.startsWith("https:") ? "ok" : isLocal ? "optional" : "missing",
      text: base.startsWith("https:") ? "This page came encrypted." : isLocal ? "Not needed on this machine." : "This page and its tokens travel in the clear.",
      keys: "[server] tls_cert, tls_key",
    },
  ];
  return (
    <Card title="Configuration" ages hint={<code>{series.data?.configFile === undefined ? "" : `read from ${series.data.configFile}; `}tidewire.example.toml has every key</code>}>
      <Table
        caption="Configuration"
        columns={[
          { key: "name", head: "Part", cell: ({ name }) => name },
          { key: "state", head: "State", align: "left", cell: ({ state }) => <Chip tone={TONES[state]} ages={state !== "unknown"}>{WORDS[state]}</Chip> },
          {
            key: "text",
            head: "Detail",
            align: "left",
            className: "wrap",
            cell: ({ text, keys }) => (
              <>
                {text}
                <code className="reason below-s">{keys}</code>
              </>
            ),
          },
          { key: "keys", head: "Keys", align: "left", className: "wrap", from: "s", cell: ({ keys }) => <code>{keys}</code> },
        ]}
        rows={checks}
        hasDetails={false}
        rowKey={({ name }) => name}
        rowData={({ name, state }) => ({ "data-part": name, "data-state": state })}
      />
    </Card>
  );
}

/** The line of the venues: whether they deliver, and which of the reasons why not it is. */
function venuesCheck(list: SourceList | undefined, unknown: string): Pick<Check, "state" | "text"> {
  if (list === undefined) {
    return { state: "unknown", text: unknown };
  }
  if (isSample(list)) {
    return (list.tried ?? []).length > 0
      ? { state: "missing", text: "No venue answers, so sample data plays: its venues are those below. Check the network and the proxy of this machine." }
      : { state: "replay", text: "A recording plays, as the server was told to: it asks no venue." };
  }
  const used = list.sources.filter(isUsed);
  const live = used.filter(isLive).length;
  return used.length === 0
    ? { state: "optional", text: "None is used: no symbol is configured that they offer." }
    : isSilent(list)
      ? { state: "fault", text: `None of ${count(used.length, "venue")} answers. Check the network and the proxy of this machine.` }
      : { state: live === used.length ? "ok" : live > 0 ? "missing" : "fault", text: `${String(live)} of ${count(used.length, "venue")} ${live === 1 ? "delivers" : "deliver"}` };
}

function unknownText({ error }: Loaded<unknown>, unknown: string): string {
  return error ? sentence(error.message) : unknown;
}

/** A part that the server says it does not have, by `failed_precondition`. */
function optional<T>({ data, error }: { readonly data?: T; readonly error?: TidewireError }, unknown: string, okText: string, faultOf: (data: T) => string | undefined = () => undefined): Pick<Check, "state" | "text"> {
  if (data !== undefined && !error) {
    const fault = faultOf(data);
    return { state: fault === undefined ? "ok" : "fault", text: fault ?? okText };
  }
  if (error?.code === "failed_precondition") {
    return { state: "optional", text: sentence(error.message.replaceAll("`", "")) };
  }
  return { state: "unknown", text: error ? sentence(error.message) : unknown };
}
