/** Pane of a channel: its state in words, its messages as trees, its history and who listens. */
import { type ReactElement, useState } from "react";
import { count, timeOfDay } from "../lib/format.ts";
import { call } from "../lib/rpc.ts";
import { useOnline } from "../lib/session.ts";
import { symbolsOf, useSources } from "../lib/sources.ts";
import { CopyMenu } from "../ui/copy.tsx";
import { Chip } from "../ui/chip.tsx";
import { type Board, MAX_MESSAGES, type Pane, type PaneMessage, paneState } from "./board.ts";
import { JsonTree } from "./tree.tsx";

/** Messages of the history that one click reads. */
const HISTORY = 100;

/** Props of a `ChannelPane`. */
export interface ChannelPaneProps {
  readonly pane: Pane;
  readonly board: Board;
  readonly filter: string;
}

/** The pane. */
export function ChannelPane({ pane, board, filter }: ChannelPaneProps): ReactElement {
  const { channel, messages, total, isPaused, held, phase, info } = pane;
  const [note, setNote] = useState("");
  const isOnline = useOnline();
  const state = paneState(pane, isOnline);
  const { data: sources } = useSources();
  const isWithoutMarket = channel === "market:overview" && sources !== undefined && symbolsOf(sources).length === 0;
  const ask = async (work: () => Promise<string>): Promise<void> => {
    try {
      setNote(await work());
    } catch (error) {
      setNote(error instanceof Error ? error.message : String(error));
    }
  };
  const readHistory = async (): Promise<string> => {
    const text = await call<string>("StreamService", "GetHistory", { channel, limit: HISTORY }, { asText: true });
    const added = board.addHistory(channel, text);
    return added === 0 ? "The history has nothing older." : `${count(added, "older message")} of the history.`;
  };
  const readPresence = async (): Promise<string> => {
    const { connections = 0, users = [] } = await call<{ connections?: number; users?: readonly string[] }>("StreamService", "GetPresence", { channel });
    return `${count(connections, "connection")} subscribed${users.length === 0 ? ", no signed-in user" : `: ${users.slice(0, 20).join(", ")}${users.length > 20 ? ` and ${users.length - 20} more` : ""}`}.`;
  };
  const wanted = filter.toLowerCase();
  const shown = filter === "" ? messages : messages.filter(({ text, type }) => text.toLowerCase().includes(wanted) || type.includes(wanted));
  return (
    <section className="card pane" data-channel={channel} data-state={phase === "on" && !isOnline ? "waiting" : phase} aria-label={channel}>
      <div className="head">
        <h2 className="mono">{channel}</h2>
        <Chip tone={state.tone} ages={false}>{state.word}</Chip>
        <span className="actions">
          <CopyMenu what={channel} subject={() => ({ kind: "channels", channels: [channel] })} />
          <button type="button" className="small quiet" aria-label={`Unsubscribe from ${channel}`} title="Unsubscribe" onClick={() => { board.remove(channel); document.getElementById("channel")?.focus(); }}>×</button>
        </span>
      </div>
      <p className={`note ${phase === "refused" ? "bad" : ""}`} role="status">{state.text}{isWithoutMarket && " No symbol is configured, so the server publishes nothing here."}</p>
      {phase !== "refused" && (
        <div className="row pane-bar">
          <button type="button" className="small pause" aria-pressed={isPaused} onClick={() => { board.pause(channel, !isPaused); }}>
            {isPaused ? (held.length > 0 ? `Resume (${held.length} new)` : "Resume") : "Pause"}
          </button>
          <button type="button" className="small clear" onClick={() => { board.clear(channel); setNote(""); }}>Clear</button>
          <button type="button" className="small" onClick={() => void ask(readHistory)}>History</button>
          <button type="button" className="small" onClick={() => void ask(readPresence)}>Subscribers</button>
          <span className="soft frame-count">
            {count(total, "message")}{total > MAX_MESSAGES ? `, the last ${MAX_MESSAGES} shown` : ""}{filter !== "" && `, ${shown.length} match`}{info ? ` · seq ${info.seq} at the start` : ""}
          </span>
        </div>
      )}
      <p className="note pane-note" role="status">{note}</p>
      <ol className="frames" tabIndex={0} aria-label={`Messages of ${channel}, newest first`}>
        {shown.map((message) => <Message key={message.number} message={message} filter={filter} />)}
      </ol>
    </section>
  );
}

function Message({ message: { at, type, seq, isOld, text }, filter }: { readonly message: PaneMessage; readonly filter: string }): ReactElement {
  const [isRaw, setRaw] = useState(false);
  return (
    <li data-type={type}>
      <div className="frame-head">
        <time dateTime={new Date(at).toISOString()}>{timeOfDay(at)}</time> <span>{type}</span>{seq !== undefined && <span> #{seq}</span>}
        {isOld && <span className="soft"> before the subscription</span>}
        {type === "gap" && <span className="bad"> messages were lost here for good</span>}
        <button type="button" className="small quiet" aria-pressed={isRaw} onClick={() => { setRaw(!isRaw); }}>Text</button>
      </div>
      {isRaw ? <pre>{text}</pre> : <JsonTree text={text} filter={filter} />}
    </li>
  );
}
