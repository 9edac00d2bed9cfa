/** Block tree on the page: a row for each height, with the branches that reorgs have undone beside the chain. */
import type { Block } from "@tidewire/client";
import { Fragment, type ReactElement } from "react";
import { age, count, timeAndDay } from "../lib/format.ts";
import { Chip } from "../ui/chip.tsx";
import { Hint } from "../ui/hint.tsx";
import { MoreButton, useOpenRows } from "../ui/table.tsx";
import type { BlockTree, TreeBlock, TreeRow } from "./tree.ts";
import { short } from "./transaction.ts";

const LANE = 16;
const ROW = 34;

const x = (lane: number): number => lane * LANE + 9;

/** The lines and blocks of a row. A line goes from the middle of a row to the middle of the one below. */
function Graph({ row: { blocks, fromAbove }, lanes }: { readonly row: TreeRow; readonly lanes: number }): ReactElement {
  const middle = ROW / 2;
  return (
    <svg className="lanes" width={lanes * LANE + 4} height={ROW} aria-hidden="true">
      {fromAbove.map((lane, index) => (
        <path key={index} d={`M${x(lane)} 0V${middle}`} />
      ))}
      {blocks.map(({ block, lane, parentLane = lane, undoneBy }) => (
        <path key={block.hash} className={undoneBy && "undone"} d={parentLane === lane ? `M${x(lane)} ${middle}V${ROW}` : `M${x(lane)} ${middle}C${x(lane)} ${ROW} ${x(parentLane)} ${middle + 4} ${x(parentLane)} ${ROW}`} />
      ))}
      {blocks.map(({ block, lane, undoneBy }) => (
        <rect key={block.hash} className={undoneBy && "undone"} x={x(lane) - 5} y={middle - 5} width="10" height="10" rx="2.5" />
      ))}
    </svg>
  );
}

/** Gas in gwei, with its unit. */
export function gwei(wei: string | undefined): string {
  if (wei === undefined) {
    return "—";
  }
  const value = Number(wei) / 1e9;
  return `${value.toLocaleString("en-US", { maximumSignificantDigits: value >= 1_000 ? 6 : 4 })} gwei`;
}

function Undone({ undone }: { readonly undone: readonly TreeBlock[] }): ReactElement | null {
  const [first, ...others] = undone;
  return first ? (
    <span className="undone-text">
      <Chip tone="warn" ages={false} hint="A reorg took this block out of the chain">undone</Chip>{" "}
      <s className="mono from-m">{short(first.block.hash)}</s>
      {others.length > 0 && ` and ${others.length} more`}
    </span>
  ) : null;
}

/** The lines that pass beside the details of a row. */
function Passing({ lanes, width }: { readonly lanes: readonly number[]; readonly width: number }): ReactElement {
  return (
    <svg className="lanes passing" width={width * LANE + 4} aria-hidden="true">
      {lanes.map((lane) => (
        <path key={lane} d={`M${x(lane)} 0V999`} />
      ))}
    </svg>
  );
}

/** All that is known of a block. */
function BlockFacts({ block: { hash, parentHash, timestamp, transactions, baseFeePerGas }, undoneBy }: { readonly block: Block; readonly undoneBy?: string }): ReactElement {
  return (
    <dl className="block-facts">
      <div><dt>Hash</dt><dd className="mono">{undoneBy === undefined ? hash : <s>{hash}</s>}</dd></div>
      {undoneBy !== undefined && <div><dt>Undone by</dt><dd className="mono">{undoneBy}</dd></div>}
      <div><dt>Parent</dt><dd className="mono">{parentHash}</dd></div>
      <div><dt>Time</dt><dd>{timeAndDay(timestamp)}</dd></div>
      <div><dt>Transactions</dt><dd>{transactions}</dd></div>
      <div><dt>Base fee</dt><dd>{gwei(baseFeePerGas)}</dd></div>
    </dl>
  );
}

/** The tree. */
export function TreeView({ tree: { rows, lanes }, now }: { readonly tree: BlockTree; readonly now: number }): ReactElement {
  const [opened, toggle] = useOpenRows();
  return (
    <div className="scroll" tabIndex={0} role="group" aria-label="Blocks, newest first">
      <table className="blocks">
        <caption className="hidden">Blocks, newest first. Undone blocks are beside those that replaced them.</caption>
        <thead>
          <tr>
            <td />
            <th scope="col" className="left">Block</th>
            <th scope="col" className="left from-s">Hash</th>
            <th scope="col" className="left">Reorg</th>
            <th scope="col" className="from-s"><Hint text="Transactions">Txs</Hint></th>
            <th scope="col" className="from-m"><Hint text="The least price of a unit of gas, in gwei: billionths of a coin">Base fee</Hint></th>
            <th scope="col">Age</th>
          </tr>
        </thead>
        <tbody>
          {rows.map((row, index) => {
            const main = row.blocks.find(({ undoneBy }) => undoneBy === undefined)?.block;
            const undone = row.blocks.filter(({ undoneBy }) => undoneBy !== undefined);
            const depth = main?.reorged?.length ?? 0;
            const isOpen = opened.has(row.number);
            return (
              <Fragment key={row.number}>
              <tr data-block={row.number} data-undone={undone.length}>
                <td className="left graph"><Graph row={row} lanes={lanes} /></td>
                <th scope="row" className="left">
                  <MoreButton name={`block ${row.number}`} isOpen={isOpen} onClick={() => { toggle(row.number); }} />
                  {row.number.toLocaleString("en-US")}
                  {main && <span className="reason below-s">{main.hash.slice(0, 8)}… · {count(main.transactions, "tx")}{depth > 0 && ` · replaced ${depth}`}</span>}
                </th>
                <td className="left mono from-s" data-hash={main?.hash}>{main ? short(main.hash) : "—"}</td>
                <td className="left reorg">
                  {depth > 0 && <span className="from-s"><Chip tone="accent" ages={false} hint="The branch of this block replaced so many others">replaced {depth}</Chip></span>} <Undone undone={undone} />
                </td>
                <td className="from-s">{main?.transactions ?? "—"}</td>
                <td className="from-m">{gwei(main?.baseFeePerGas)}</td>
                <td>{main ? age(now - main.timestamp) : "—"}</td>
              </tr>
              {isOpen && (
                <tr className="details">
                  <td className="graph"><Passing lanes={rows[index + 1]?.fromAbove ?? []} width={lanes} /></td>
                  <td colSpan={6} className="left">
                    {row.blocks.map(({ block, undoneBy }) => <BlockFacts key={block.hash} block={block} {...(undoneBy && { undoneBy: undoneBy.hash })} />)}
                  </td>
                </tr>
              )}
              </Fragment>
            );
          })}
        </tbody>
      </table>
    </div>
  );
}
