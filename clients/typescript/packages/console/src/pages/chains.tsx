/** Chains page: blocks with reorgs as branches, a transaction, a wallet, and the endpoints. */
import type { Block } from "@tidewire/client";
import { type ReactElement, useMemo, useState } from "react";
import { chainName, endpointState } from "../chains/figures.ts";
import { TransactionCard, WalletCard } from "../chains/tracker.tsx";
import { short } from "../chains/transaction.ts";
import { gwei, TreeView } from "../chains/tree-view.tsx";
import { blockTree } from "../chains/tree.ts";
import { type Chains, useChains } from "../chains/use-chains.ts";
import { useNow } from "../lib/clock.ts";
import { age, count } from "../lib/format.ts";
import { go, href } from "../lib/route.ts";
import { useFeed } from "../lib/use-feed.ts";
import { Card, PageHead } from "../ui/card.tsx";
import { Chip } from "../ui/chip.tsx";
import { Hint } from "../ui/hint.tsx";
import { Empty, Failure, Loading, OldMark, useLost } from "../ui/state.tsx";
import { Table } from "../ui/table.tsx";
import { Tile } from "../ui/tile.tsx";
import "./chains.css";

/** Messages of the channel that are read, and heights that are drawn. */
const MAX_MESSAGES = 120;
const MAX_ROWS = 30;

/** The page. The address names a chain, and a transaction (`tx`) or a wallet. */
export function ChainsPage({ args: [id, kind, value] }: { readonly args: readonly string[] }): ReactElement {
  const chains = useChains();
  const { parts } = chains;
  const chain = parts?.find((part) => String(part.chain) === id)?.chain ?? parts?.[0]?.chain;
  return (
    <>
      <PageHead title="Chains">
        {parts && parts.length > 1 && (
          <nav aria-label="Chains" className="chain-links row">
            {parts.map((part) => (
              <a key={part.chain} href={href("chains", String(part.chain))} aria-current={part.chain === chain ? "true" : undefined}>
                {chainName(part.chain)}
              </a>
            ))}
          </nav>
        )}
      </PageHead>
      {parts === undefined ? (
        <Loading what="the chains" />
      ) : chain === undefined ? (
        <Empty title="This server follows no chain">
          Add one to the configuration: <code>[[chain]]</code> with its <code>id</code> and <code>endpoints</code>.
        </Empty>
      ) : (
        <Chain key={chain} chain={chain} chains={chains} {...(kind === "tx" ? { tx: value } : kind === "wallet" ? { wallet: value } : {})} />
      )}
    </>
  );
}

interface ChainProps {
  readonly chain: number;
  readonly chains: Chains;
  readonly tx?: string | undefined;
  readonly wallet?: string | undefined;
}

function Chain({ chain, chains, tx, wallet }: ChainProps): ReactElement {
  const { phase, items, error } = useFeed(`blocks:${chain}`, MAX_MESSAGES);
  const now = useNow();
  const isLost = useLost();
  // A transaction stays in sight while a wallet is followed, and the other way round.
  const [last, setLast] = useState({ tx, wallet });
  if ((tx !== undefined && tx !== last.tx) || (wallet !== undefined && wallet !== last.wallet)) {
    setLast({ tx: tx ?? last.tx, wallet: wallet ?? last.wallet });
  }
  const blocks = useMemo(() => items.filter(({ type }) => type === "block").map(({ data }) => data as unknown as Block), [items]);
  const tree = useMemo(() => blockTree(blocks, MAX_ROWS), [blocks]);
  const { head } = tree;
  const part = chains.parts?.find((each) => each.chain === chain);
  const figures = chains.figures?.get(chain);
  const lag = head && now - head.timestamp;
  const endpoints = figures?.endpoints ?? [];
  const healthy = endpoints.filter((endpoint) => endpointState(endpoint, head?.number).tone === "up").length;
  return (
    <div className="grid">
      <div className="tiles chain-tiles">
        <Tile name={chainName(chain)} value={head?.number.toLocaleString("en-US")} hint={part?.fault ?? (head ? short(head.hash) : isLost ? "no connection" : "waits for the first block")} tone={part?.fault === undefined ? undefined : "bad"} at={head?.timestamp} />
        <Tile name="Head's age" value={lag === undefined ? undefined : age(lag)} hint={part?.fault === undefined ? "the chain goes on" : "the chain stands still"} tone={part?.fault === undefined ? undefined : "bad"} at={head?.timestamp} />
        <Tile name={<Hint text="The least price of a unit of gas that the next block accepts. 1 gwei is 1,000,000,000 wei, a billionth of a coin.">Base fee</Hint>} value={head?.baseFeePerGas === undefined ? undefined : gwei(head.baseFeePerGas)} hint={head?.baseFeePerGas === undefined ? "the chain has none" : "of the newest block"} history={blocks.map((block): [number, number | null] => [block.timestamp, block.baseFeePerGas === undefined ? null : Number(block.baseFeePerGas) / 1e9])} leastSpan={1} historyName={`Base fee of ${count(blocks.length, "block")}`} at={head?.timestamp} />
        <Tile
          name={<Hint text="Times that other blocks replaced the newest ones">Reorgs</Hint>}
          value={head && tree.reorgs}
          hint={[head ? `in the last ${count(blocks.length, "block")}` : "", tree.reorgs > 0 ? `the deepest undid ${count(tree.deepest, "block")}` : "", figures ? `${figures.reorgs} since the server started` : ""].filter((text) => text !== "").join(" · ")}
          at={head?.timestamp}
        />
        <Tile name="Endpoints" value={figures ? `${healthy} of ${endpoints.length}` : undefined} hint={figures ? "healthy" : chains.error ? "needs the scope admin" : "not read yet"} tone={figures && healthy === 0 ? "bad" : undefined} at={head?.timestamp} />
      </div>
      <div className="grid chain-grid">
        <Card title="Blocks" hint={<OldMark at={head?.timestamp} />} copy={{ what: "the blocks", subject: () => ({ kind: "channels", channels: [`blocks:${chain}`] }) }}>
          {phase === "refused" && error ? <Failure error={error} what="the blocks" /> : tree.rows.length === 0 ? phase === "waiting" ? <Loading what="the blocks" rows={6} /> : <Empty title="No block yet">The server reads the first block of the chain.</Empty> : <TreeView tree={tree} now={now} />}
        </Card>
        <div className="grid trackers">
          <TransactionCard chain={chain} value={tx ?? last.tx} isSample={head?.sample === true} onValue={(hash) => { go("chains", String(chain), "tx", hash); }} />
          <WalletCard chain={chain} value={wallet ?? last.wallet} isSample={head?.sample === true} onValue={(address) => { go("chains", String(chain), "wallet", address); }} />
        </div>
      </div>
      <Card title="Endpoints" hint={<OldMark at={head?.timestamp} />}>
        {chains.error ? (
          <Failure error={chains.error} what="the endpoints" />
        ) : figures === undefined ? (
          <Loading what="the endpoints" rows={2} />
        ) : (
          <Table
            caption="Endpoints of the chain"
            rows={endpoints}
            rowKey={({ url }) => url}
            empty="No endpoint was called yet."
            columns={[
              { key: "url", head: "Endpoint", cell: ({ url }) => url, className: "wrap" },
              { key: "state", head: "State", align: "left", cell: (endpoint) => <EndpointChip endpoint={endpoint} head={head?.number} /> },
              { key: "head", head: "Head", cell: (endpoint) => endpoint.head?.toLocaleString("en-US") ?? "—" },
              { key: "behind", head: "Behind", from: "s", cell: (endpoint) => (endpoint.head === undefined || head === undefined ? "—" : count(Math.max(0, head.number - endpoint.head), "block")) },
              { key: "score", head: "Calls that succeed", from: "m", cell: ({ score }) => (score === undefined ? "—" : `${(score * 100).toFixed(1)} %`) },
              { key: "time", head: "Time of a call", from: "m", cell: ({ callSeconds }) => (callSeconds === undefined ? "—" : `${(callSeconds * 1_000).toFixed(1)} ms`) },
              { key: "calls", head: "Calls", from: "l", cell: ({ calls }) => calls.toLocaleString("en-US") },
              { key: "limits", head: "Rate limits", from: "l", cell: ({ limits }) => limits },
            ]}
          />
        )}
      </Card>
    </div>
  );
}

function EndpointChip({ endpoint, head }: { readonly endpoint: Parameters<typeof endpointState>[0]; readonly head: number | undefined }): ReactElement {
  const { word, tone } = endpointState(endpoint, head);
  return <Chip tone={tone}>{word}</Chip>;
}
