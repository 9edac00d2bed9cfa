/** Connections page: who is connected, how good the links are, and the button that disconnects. */
import type { ClientState, TidewireError } from "@tidewire/client";
import { useConnection } from "@tidewire/react";
import { type ReactElement, type SubmitEvent, useState } from "react";
import type { ConnectionInfo, ConnectionPage } from "../lib/api-types.ts";
import { serverNow } from "../lib/clock.ts";
import { age, bytes, count } from "../lib/format.ts";
import { usePoll } from "../lib/poll.ts";
import { call } from "../lib/rpc.ts";
import { useSession } from "../lib/session.ts";
import { Card, PageHead } from "../ui/card.tsx";
import { Chip, type Tone } from "../ui/chip.tsx";
import { CopyMenu } from "../ui/copy.tsx";
import { Hint } from "../ui/hint.tsx";
import { Failure, Loading, OldMark, sentence } from "../ui/state.tsx";
import { type Column, Table } from "../ui/table.tsx";
import "./connections.css";

/** Time between two requests for the connections, in milliseconds. */
const CONNECTIONS_MS = 3_000;
/** Connections of one page. */
const PAGE_ITEMS = 100;

/** The connections to disconnect: one, or all of a user. */
type Target = { readonly connectionId: string } | { readonly user: string };

/** The page. */
export function ConnectionsPage(): ReactElement {
  const [filter, setFilter] = useState<Readonly<Record<string, string>>>({});
  /** The `after` of each page before this one, so that one can go back. */
  const [pages, setPages] = useState<readonly string[]>([]);
  const after = pages.at(-1);
  const body = { ...filter, limit: PAGE_ITEMS, ...(after !== undefined && { after }) };
  const { data, error, loading, at, refresh } = usePoll<ConnectionPage>("AdminService", "ListConnections", body, CONNECTIONS_MS);
  const next = data?.next;
  const submit = (event: SubmitEvent<HTMLFormElement>): void => {
    event.preventDefault();
    const form = new FormData(event.currentTarget);
    const parts = ["user", "channel"].flatMap((name) => {
      const value = form.get(name);
      return typeof value === "string" && value.trim() !== "" ? [[name, value.trim()] as const] : [];
    });
    setPages([]);
    setFilter(Object.fromEntries(parts));
  };
  return (
    <>
      <PageHead title="Connections">
        <span className="soft">{data && `${count(data.connections.length, "connection")}${next === undefined && pages.length === 0 ? "" : " on this page"}`}</span>
        <OldMark at={at} />
        <CopyMenu what="the connections" subject={() => ({ kind: "call", method: "AdminService/ListConnections", body })} />
      </PageHead>
      <form className="row connection-filter" onSubmit={submit} aria-label="Filter">
        <label>
          User <input name="user" autoComplete="off" autoCapitalize="none" spellCheck={false} />
        </label>
        <label>
          Subscribed to <input name="channel" placeholder="prices:BTC-USD" autoComplete="off" autoCapitalize="none" spellCheck={false} />
        </label>
        <button>Filter</button>
      </form>
      <Card title="Open connections" ages hint="of this server">
        {loading && <Loading rows={4} what="the connections" />}
        {error && !data && <Failure error={error} what="the connections" retry={refresh} />}
        {data && <ConnectionTable connections={data.connections} onChange={refresh} isFiltered={Object.keys(filter).length > 0} />}
        {(next !== undefined || pages.length > 0) && (
          <div className="row pager">
            <button
              type="button"
              className="small"
              disabled={pages.length === 0}
              onClick={() => {
                setPages(pages.slice(0, -1));
              }}
            >
              Previous
            </button>
            <button
              type="button"
              className="small"
              disabled={next === undefined}
              onClick={() => {
                setPages(next === undefined ? pages : [...pages, next]);
              }}
            >
              Next
            </button>
          </div>
        )}
      </Card>
    </>
  );
}

function ConnectionTable({ connections, onChange, isFiltered }: { readonly connections: readonly ConnectionInfo[]; readonly onChange: () => void; readonly isFiltered: boolean }): ReactElement {
  const connection = useConnection();
  const { client, userClient } = useSession();
  const idOf = (state: ClientState | undefined): string | undefined => (state?.status === "connected" ? state.welcome.connectionId : undefined);
  // The page follows its own connection, so that the marks are those of now.
  const own = idOf(connection);
  const ofUser = client === userClient ? undefined : idOf(userClient?.state);
  /** The connection that the user is asked about. */
  const [asked, setAsked] = useState<string>();
  const [note, setNote] = useState("");
  const disconnect = (target: Target, who: string): void => {
    setAsked(undefined);
    call<{ readonly connections: number }>("AdminService", "Disconnect", target).then(
      ({ connections: closed }) => {
        setNote(`Disconnected ${who}: ${count(closed, "connection")} closed.`);
        onChange();
      },
      (error: unknown) => {
        setNote(`Could not disconnect ${who}: ${sentence((error as TidewireError).message)}`);
      },
    );
  };
  const columns: readonly Column<ConnectionInfo>[] = [
    {
      key: "user",
      head: "User",
      className: "wrap",
      cell: ({ userId, connectionId }) => (
        <>
          {userId ?? <span className="soft">anonymous</span>} {connectionId === own && <Chip tone="accent" hint={ofUser === undefined ? undefined : "The connection of this page for what belongs to no user"}>this page</Chip>}
          {connectionId === ofUser && <Chip tone="accent" hint="The second connection of this page: for the inbox, the alerts and the channels of the user who signed in">this page, signed in</Chip>}
        </>
      ),
    },
    { key: "transport", head: "Transport", align: "left", from: "m", cell: ({ transport }) => transport },
    { key: "address", head: "Address", align: "left", from: "l", cell: ({ address }) => <span className="mono">{address}</span> },
    {
      key: "quality",
      head: "Link",
      align: "left",
      cell: (info) => {
        const [tone, word] = gradeOf(info);
        return <Chip tone={tone}>{word}</Chip>;
      },
    },
    {
      key: "rtt",
      head: <Hint text="Round-trip time, and how much it varies">Round trip</Hint>,
      from: "m",
      cell: ({ rttMs, jitterMs }) => (rttMs === undefined ? <span className="soft">not measured</span> : `${rttMs.toFixed(1)} ms ± ${(jitterMs ?? 0).toFixed(1)}`),
    },
    { key: "channels", head: "Channels", from: "xs", cell: ({ subscriptions }) => subscriptions },
    { key: "sent", head: "Sent", from: "l", cell: ({ bytesSent }) => bytes(bytesSent) },
    { key: "received", head: "Received", from: "xl", cell: ({ bytesReceived }) => bytes(bytesReceived) },
    { key: "queued", head: <Hint text="Bytes that wait for this client">Queued</Hint>, from: "xl", cell: ({ bytesQueued }) => bytes(bytesQueued) },
    { key: "since", head: "Open for", from: "s", cell: ({ connectedAt }) => age(serverNow() - connectedAt) },
    {
      key: "id",
      head: "Id",
      align: "left",
      from: "xl",
      cell: ({ connectionId }) => (
        <span className="mono soft">{connectionId.slice(0, 8)}</span>
      ),
      detail: ({ connectionId }) => <span className="mono soft">{connectionId}</span>,
    },
    {
      key: "action",
      head: "Action",
      cell: ({ connectionId, userId }) =>
        asked === connectionId ? (
          <span className="ask">
            <button
              type="button"
              className="small danger"
              autoFocus
              onClick={() => {
                disconnect({ connectionId }, `${userId ?? "the client"} (${connectionId.slice(0, 8)})`);
              }}
            >
              Disconnect this connection
            </button>
            {userId !== undefined && (
              <button
                type="button"
                className="small danger"
                onClick={() => {
                  disconnect({ user: userId }, `all connections of ${userId}`);
                }}
              >
                Disconnect all of {userId}
              </button>
            )}
            <button
              type="button"
              className="small"
              onClick={() => {
                setAsked(undefined);
              }}
            >
              Keep
            </button>
          </span>
        ) : (
          <button
            type="button"
            className="small"
            aria-label={`Disconnect ${userId ?? "the client"} ${connectionId.slice(0, 8)}`}
            onClick={() => {
              setAsked(connectionId);
            }}
          >
            Disconnect…
          </button>
        ),
    },
  ];
  return (
    <>
      <p className="note" role="status">
        {note}
      </p>
      <Table
        caption="Open connections"
        columns={columns}
        rows={connections}
        rowKey={({ connectionId }) => connectionId}
        rowName={({ userId, connectionId }) => `${userId ?? "the client"} ${connectionId.slice(0, 8)}`}
        rowData={({ connectionId }) => ({ "data-connection-id": connectionId })}
        empty={isFiltered ? "No connection matches the filter." : "Nobody is connected."}
      />
    </>
  );
}

/** A word for the quality of a link. */
function gradeOf({ rttMs, jitterMs = 0, missedBeats, bytesQueued }: ConnectionInfo): readonly [Tone, string] {
  if (missedBeats > 0) {
    return ["bad", `missed ${count(missedBeats, "beat")}`];
  }
  if (bytesQueued > 65_536) {
    return ["warn", "slow reader"];
  }
  if (rttMs === undefined) {
    return ["plain", "open"];
  }
  return rttMs + jitterMs > 400 ? ["warn", "slow"] : rttMs > 150 ? ["plain", "fair"] : ["up", "good"];
}
