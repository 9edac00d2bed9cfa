/** Channels page: subscribes to any channels side by side, and publishes what was typed, byte for byte. */
import type { WebSocketClient } from "@tidewire/client";
import { type ReactElement, type SubmitEvent, useEffect, useMemo, useState } from "react";
import { type Board, MAX_CHARACTERS, MAX_MESSAGES, MAX_PANES, openBoard, type Pane } from "../channels/board.ts";
import { jsonFault, publishBody } from "../channels/json.ts";
import { ChannelPane } from "../channels/pane.tsx";
import { call } from "../lib/rpc.ts";
import { useSession } from "../lib/session.ts";
import { frameText } from "../lib/wire.ts";
import { Card, PageHead } from "../ui/card.tsx";
import { CopyMenu } from "../ui/copy.tsx";
import { Empty } from "../ui/state.tsx";
import "./channels.css";

const SUGGESTIONS = ["demo:hello", "prices:BTC-USD", "prices:BTC-USD@kraken", "candles:BTC-USD:1m", "market:overview", "blocks:7357"];

/** The board of the page. It stays open, and collects, while another page is shown. */
let kept: { readonly client: WebSocketClient; readonly board: Board } | undefined;
/** Called when a pane has changed. Does nothing while another page is shown. */
let onPanes = (): void => undefined;

/** The board of a client. That of another client ends, and its channels are subscribed to again. */
function boardOf(client: WebSocketClient): Board {
  if (kept?.client !== client) {
    const channels = kept?.board.panes().map((pane) => pane.channel) ?? [];
    kept?.board.close();
    const board = openBoard(client, () => { onPanes(); }, frameText);
    kept = { client, board };
    for (const name of channels) {
      board.add(name);
    }
  }
  return kept.board;
}

/** The page. The address may name a channel to subscribe to. */
export function ChannelsPage({ args: [asked] }: { readonly args: readonly string[] }): ReactElement {
  const { client: pageClient, userClient, user } = useSession();
  // A user may read more: the own channel, and what the token allows.
  const client = userClient ?? pageClient;
  const [panes, setPanes] = useState<readonly Pane[]>([]);
  const [board, setBoard] = useState<Board>();
  const [channel, setChannel] = useState(asked ?? "demo:hello");
  const [body, setBody] = useState('{"hello":"world"}');
  const [note, setNote] = useState<{ readonly text: string; readonly isBad: boolean }>({ text: "", isBad: false });
  const [filter, setFilter] = useState("");
  useEffect(() => {
    let frame = 0;
    const opened = boardOf(client);
    // A burst draws once a frame. A hidden page draws none, and keeps what comes.
    onPanes = () => {
      frame ||= requestAnimationFrame(() => {
        frame = 0;
        setPanes(opened.panes());
      });
    };
    if (asked !== undefined && !opened.panes().some((pane) => pane.channel === asked)) {
      opened.add(asked);
    }
    setBoard(opened);
    setPanes(opened.panes());
    return () => {
      cancelAnimationFrame(frame);
      onPanes = () => undefined;
    };
  }, [client, asked]);
  const name = channel.trim();
  const subscribe = (event: SubmitEvent): void => {
    event.preventDefault();
    const text = name === "" ? "Type the name of a channel." : (board?.add(name) ?? "");
    setNote({ text, isBad: text !== "" });
  };
  const publish = async (): Promise<void> => {
    const fault = jsonFault(body);
    if (fault !== undefined) {
      setNote({ text: fault, isBad: true });
      return;
    }
    try {
      const { channel: at, seq } = await call<{ channel: string; seq: number }>("StreamService", "Publish", publishBody(name, body), { asUser: userClient !== undefined });
      setNote({ text: `Published to ${at} with seq ${seq}.`, isBad: false });
    } catch (error) {
      setNote({ text: error instanceof Error ? error.message : String(error), isBad: true });
    }
  };
  const suggestions = useMemo(() => (user === undefined ? SUGGESTIONS : [...SUGGESTIONS, `user:${user}`]), [user]);
  return (
    <>
      <PageHead title="Channels" />
      <Card
        title="Subscribe and publish"
        hint={`up to ${MAX_PANES} channels, the newest ${MAX_MESSAGES} messages and ${MAX_CHARACTERS / 1e6} MB of each`}
        className="explorer"
        copy={{ what: "these channels", subject: () => ({ kind: "channels", channels: panes.length > 0 ? panes.map((pane) => pane.channel) : [name] }) }}
      >
        <form className="explorer-line" onSubmit={subscribe}>
          <label htmlFor="channel">Channel</label>
          <input id="channel" className="mono" list="suggestions" value={channel} maxLength={255} autoComplete="off" autoCapitalize="none" spellCheck={false} onChange={({ target }) => { setChannel(target.value); }} />
          <datalist id="suggestions">{suggestions.map((each) => <option key={each} value={each} />)}</datalist>
          <button className="main">Subscribe</button>
        </form>
        <form className="explorer-line" onSubmit={(event) => { event.preventDefault(); void publish(); }}>
          <label htmlFor="body">JSON</label>
          <textarea id="body" className="mono" rows={Math.min(8, body.split("\n").length)} value={body} autoCapitalize="none" spellCheck={false} onChange={({ target }) => { setBody(target.value); }}
            onKeyDown={(event) => {
              if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
                event.preventDefault();
                void publish();
              }
            }} />
          <span className="row">
            <button>Publish</button>
            <CopyMenu what="this publication" asUser={userClient !== undefined} subject={() => ({ kind: "call", method: "StreamService/Publish", text: publishBody(name, jsonFault(body) === undefined ? body : "null") })} />
          </span>
        </form>
        <p className={`note ${note.isBad ? "bad" : ""}`} id="explorer-note" role="status">{note.text}</p>
        <p className="note">Publishes to <b className="mono">{name}</b>{user !== undefined && <> as {user}</>}, byte for byte.</p>
      </Card>
      {panes.length === 0 ? (
        <Empty title="No channel yet">Subscribe to see what is published. While the server listens on this machine only, anyone may publish to channels such as <code>demo:hello</code>.</Empty>
      ) : (
        <>
          <div className="row filter-line">
            <label>Filter <input type="search" value={filter} placeholder="a key or a value" onChange={({ target }) => { setFilter(target.value); }} /></label>
            {panes.length > 1 && (
              <button type="button" className="small" onClick={() => { const isAll = panes.every(({ isPaused }) => isPaused); for (const pane of panes) { board?.pause(pane.channel, !isAll); } }}>
                {panes.every(({ isPaused }) => isPaused) ? "Resume all" : "Pause all"}
              </button>
            )}
          </div>
          <div className="panes">{board && panes.map((pane) => <ChannelPane key={pane.channel} pane={pane} board={board} filter={filter} />)}</div>
        </>
      )}
    </>
  );
}
