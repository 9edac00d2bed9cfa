/** Block tree on the page: a row for each height, with the branches that reorgs have undone beside the chain. */
import type { ReactElement } from "react";
import { age, count } from "../lib/format.ts";
import { Chip } from "../ui/chip.tsx";
import { Hint } from "../ui/hint.tsx";
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
      <Chip tone="warn" ages={false} title={`${first.block.hash}, replaced by block ${first.undoneBy?.hash ?? ""}`}>undone</Chip>{" "}
      <s className="mono from-m" title={first.block.hash}>{short(first.block.hash)}</s>
      {others.length > 0 && ` and ${others.length} more`}
    </span>
  ) : null;
}

/** The tree. */
export function TreeView({ tree: { rows, lanes }, now }: { readonly tree: BlockTree; readonly now: number }): ReactElement {
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
            <th scope="col" className="from-s"><abbr title="Transactions">Txs</abbr></th>
            <th scope="col" className="from-m"><Hint text="The least price of a unit of gas, in gwei: billionths of a coin">Base fee</Hint></th>
            <th scope="col">Age</th>
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => {
            const main = row.blocks.find(({ undoneBy }) => undoneBy === undefined)?.block;
            const undone = row.blocks.filter(({ undoneBy }) => undoneBy !== undefined);
            const depth = main?.reorged?.length ?? 0;
            return (
              <tr key={row.number} data-block={row.number} data-undone={undone.length}>
                <td className="left graph"><Graph row={row} lanes={lanes} /></td>
                <th scope="row" className="left">
                  {row.number.toLocaleString("en-US")}
                  {main && <span className="reason below-s">{main.hash.slice(0, 8)}… · {count(main.transactions, "tx")}{depth > 0 && ` · replaced ${depth}`}</span>}
                </th>
                <td className="left mono from-s" title={main?.hash}>{main ? short(main.hash) : "—"}</td>
                <td className="left reorg">
                  {depth > 0 && <span className="from-s"><Chip tone="accent" ages={false} title="This block's branch replaced others">replaced {depth}</Chip></span>} <Undone undone={undone} />
                </td>
                <td className="from-s">{main?.transactions ?? "—"}</td>
                <td className="from-m">{gwei(main?.baseFeePerGas)}</td>
                <td>{main ? age(now - main.timestamp) : "—"}</td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </div>
  );
}
