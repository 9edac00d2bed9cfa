/** Transaction tracker and wallet feed: what happens to a pasted hash and to a pasted address. */
import type { TransactionStatus } from "@tidewire/client";
import { useTransaction } from "@tidewire/react";
import { type ReactElement, type SubmitEvent, useId, useMemo, useState } from "react";
import { useNow } from "../lib/clock.ts";
import { age, timeAndDay, timeOfDay } from "../lib/format.ts";
import { href } from "../lib/route.ts";
import { useFeed } from "../lib/use-feed.ts";
import { Card } from "../ui/card.tsx";
import { Chip } from "../ui/chip.tsx";
import { Empty, Failure, Loading, OldMark, sentence } from "../ui/state.tsx";
import { pastedAddress, pastedHash, reasonText, short, stateText, stationOf, STATIONS, statusText, stepNote, stepsOf } from "./transaction.ts";
import { walletLines } from "./wallet.ts";

/** Updates of a wallet, and states of a transaction. */
const MAX_UPDATES = 100;
const MAX_STATES = 50;
/** The wallet of the sample's user. */
const SAMPLE_WALLET = "0x5a3b1e00000000000000000000000000000000a1";

interface PasteProps {
  readonly label: string;
  readonly button: string;
  readonly initial: string;
  readonly read: (text: string) => { readonly hash: string } | { readonly fault: string };
  readonly onHash: (hash: string) => void;
}

/** A field to paste into, with the fault of what was pasted beside it. */
function Paste({ label, button, initial, read, onHash }: PasteProps): ReactElement {
  const [text, setText] = useState(initial);
  const [fault, setFault] = useState("");
  const id = useId();
  const submit = (event: SubmitEvent): void => {
    event.preventDefault();
    const result = read(text);
    setFault("fault" in result ? result.fault : "");
    if ("hash" in result) {
      onHash(result.hash);
    }
  };
  return (
    <form className="paste" onSubmit={submit} noValidate>
      <label htmlFor={id}>{label}</label>
      <input id={id} className="mono" placeholder="0x…" autoComplete="off" spellCheck={false} value={text} aria-invalid={fault !== ""} aria-describedby={`${id}f`} onChange={({ target }) => { setText(target.value); }} />
      <button className="main">{button}</button>
      <p className="note bad" id={`${id}f`} role="alert">{fault}</p>
    </form>
  );
}

/** Props of both cards. */
export interface TrackerProps {
  readonly chain: number;
  /** What the address names. */
  readonly value: string | undefined;
  readonly onValue: (value: string) => void;
}

/** Transactions of the sample's wallet that the tracker offers. */
const SUGGESTED = 5;

/** The newest transactions of the sample's wallet, each a click away from being tracked. */
function Suggested({ chain }: { readonly chain: number }): ReactElement | null {
  const { items } = useFeed(`wallet:${SAMPLE_WALLET}`, MAX_UPDATES);
  const now = useNow();
  const newest = useMemo(() => walletLines(items).filter((line) => line.state !== "" && line.hash !== undefined && line.chain === chain).slice(0, SUGGESTED), [items, chain]);
  return newest.length === 0 ? null : (
    <>
      <p className="soft">The newest of the sample’s wallet:</p>
      <ul className="suggested" aria-label="Newest transactions of the sample">
        {newest.map(({ hash = "", state, timestamp }) => (
          <li key={hash}>
            <a className="mono" href={href("chains", String(chain), "tx", hash)}>{short(hash)}</a> <span className="soft">{state.toLowerCase()} · {age(now - timestamp)} ago</span>
          </li>
        ))}
      </ul>
    </>
  );
}

/** The tracker of a transaction. */
export function TransactionCard({ chain, value, onValue, isSample }: TrackerProps & { readonly isSample: boolean }): ReactElement {
  return (
    <Card title="Transaction" hint={<OldMark />} {...(value !== undefined && { copy: { what: "this transaction", subject: () => ({ kind: "channels", channels: [`tx:${chain}:${value}`] }) } })}>
      <Paste key={value} label="Hash" button="Track" initial={value ?? ""} read={pastedHash} onHash={onValue} />
      {value === undefined ? (
        <>
          <Empty title="Paste a transaction's hash">Its states follow live, from the mempool to the final block. A wallet shows the hash after it has sent; an explorer’s address has it too.</Empty>
          {isSample && <Suggested chain={chain} />}
        </>
      ) : <Tracked key={value} chain={chain} hash={value} />}
    </Card>
  );
}

function Tracked({ chain, hash }: { readonly chain: number; readonly hash: string }): ReactElement {
  const { transaction, error } = useTransaction(hash, chain);
  const { items } = useFeed(`tx:${chain}:${hash}`, MAX_STATES);
  const steps = useMemo(() => {
    const states = items.filter(({ type }) => type === "transaction").map(({ data }) => data as unknown as TransactionStatus);
    const isIncluded = transaction === undefined || states.some(({ timestamp, state }) => timestamp === transaction.timestamp && state === transaction.state);
    return stepsOf(isIncluded ? states : [...states, transaction].sort((a, b) => a.timestamp - b.timestamp));
  }, [items, transaction]);
  if (error) {
    return <Failure error={error} what="this transaction" />;
  }
  const current = steps.at(-1)?.status ?? transaction;
  if (!current) {
    return <Loading what="the transaction" rows={2} />;
  }
  const { word, tone, text } = statusText(current);
  const reached = stationOf(current.state);
  return (
    <div className="tracked" data-state={current.state}>
      <p className="row" role="status"><Chip tone={tone}>{word}</Chip> <span>{text}</span></p>
      {reached >= 0 ? (
        <ol className="stations" aria-label="Stations">
          {STATIONS.map((station, index) => (
            <li key={station} className={index <= reached ? "done" : ""} aria-current={index === reached ? "step" : undefined}>
              {stateText(station).word}
              {station === "confirming" && index === reached && <small> {current.confirmations} of {current.required}</small>}
            </li>
          ))}
        </ol>
      ) : current.reason !== undefined && <p className={tone === "plain" ? "soft" : "bad"}>{sentence(reasonText(current.reason, timeOfDay))}</p>}
      <dl className="facts">
        {current.from !== undefined && <><dt>From</dt><dd className="mono">{current.from}</dd></>}
        {current.blockNumber !== undefined && <><dt>Block</dt><dd>{current.blockNumber.toLocaleString("en-US")}{current.blockHash !== undefined && <> · <span className="mono">{short(current.blockHash)}</span></>}</dd></>}
        {current.gasUsed !== undefined && <><dt>Gas used</dt><dd>{current.gasUsed.toLocaleString("en-US")}</dd></>}
        {current.replacedBy !== undefined && <><dt>Replaced by</dt><dd><a className="mono" href={href("chains", String(chain), "tx", current.replacedBy)}>{short(current.replacedBy)}</a></dd></>}
      </dl>
      <h3>States as the server saw them</h3>
      <ol className="steps" aria-label="States so far">
        {steps.map(({ status, since }, index) => (
          <li key={index}>
            <time dateTime={new Date(since).toISOString()}>{timeAndDay(since)}</time> <b>{statusText(status).word}</b> <span className="soft">{stepNote(status)}</span>
          </li>
        ))}
      </ol>
    </div>
  );
}

/** The feed of a wallet. */
export function WalletCard({ chain, value, onValue, isSample }: TrackerProps & { readonly isSample: boolean }): ReactElement {
  return (
    <Card title="Wallet" hint={<OldMark />} {...(value !== undefined && { copy: { what: "this wallet", subject: () => ({ kind: "channels", channels: [`wallet:${value}`] }) } })}>
      {/* The first block says whether it is the sample: then the field begins anew. */}
      <Paste key={value ?? String(isSample)} label="Address" button="Follow" initial={value ?? (isSample ? SAMPLE_WALLET : "")} read={pastedAddress} onHash={onValue} />
      {value === undefined ? <Empty title="Paste an address">{isSample ? "The sample's wallet is filled in. " : ""}Its transactions, balances, approvals and NFTs follow live, on all chains.</Empty> : <Feed key={value} chain={chain} address={value} />}
    </Card>
  );
}

function Feed({ chain, address }: { readonly chain: number; readonly address: string }): ReactElement {
  const { phase, items, error } = useFeed(`wallet:${address}`, MAX_UPDATES);
  const lines = useMemo(() => walletLines(items), [items]);
  const now = useNow();
  if (phase === "refused" && error) {
    return <Failure error={error} what="this wallet" />;
  }
  if (phase === "waiting" && lines.length === 0) {
    return <Loading what="the wallet" />;
  }
  return lines.length === 0 ? (
    <Empty title="Nothing happened yet">The wallet is followed from now on.</Empty>
  ) : (
    <ul className="wallet-lines" aria-label="What happened, newest first">
      {lines.map(({ key, what, amount, detail, tone, state, timestamp, hash, suspicious, removed, chain: ofChain }) => (
        <li key={key} data-removed={removed}>
          <b>{what}</b> <span className={state === "" && tone === "up" ? "up" : ""}>{amount}</span>
          {state !== "" && <Chip tone={tone}>{state}</Chip>}
          {removed && <Chip tone="warn" hint="A reorg took it back: its block is not in the chain any more">taken back</Chip>}
          {suspicious !== undefined && <Chip tone="bad" ages={false}>suspicious: {suspicious}</Chip>}
          <span className="soft">{detail}{ofChain === chain ? "" : ` · chain ${ofChain}`}</span>
          <span className="when">
            {hash !== undefined && <a className="mono" href={href("chains", String(ofChain), "tx", hash)}>{short(hash)}</a>}{" "}
            <time className="soft" dateTime={new Date(timestamp).toISOString()}>{age(now - timestamp)} ago</time>
          </span>
        </li>
      ))}
    </ul>
  );
}
