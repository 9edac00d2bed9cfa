/**
 * Tables: dense rows with aligned figures. A table that is too wide hides columns. A button in each
 * row then opens a row below it with what they say.
 */
import { Fragment, type ReactElement, type ReactNode, useState } from "react";

/** A column: its head, its cell, and how it behaves when the table is narrow. */
export interface Column<Row> {
  readonly key: string;
  readonly head: ReactNode;
  readonly cell: (row: Row, index: number) => ReactNode;
  /** Text is left, figures are right. The default is right, except in the first column. */
  readonly align?: "left" | "right";
  /** Below this width of the table the column is hidden, in digits of the font: `xs` 44, `s` 62, `m` 86, `l` 118, `xl` 140. */
  readonly from?: Width;
  /** What the details say in place of the cell. */
  readonly detail?: (row: Row) => ReactNode;
  readonly className?: string;
}

/** Widths of a table, from narrow to wide. */
const WIDTHS = ["xs", "s", "m", "l", "xl"] as const;
type Width = (typeof WIDTHS)[number];

/** Props of a `Table`. */
export interface TableProps<Row> {
  /** Read out, not shown. */
  readonly caption: string;
  readonly columns: readonly Column<Row>[];
  readonly rows: readonly Row[];
  readonly rowKey: (row: Row, index: number) => string | number;
  /** The name of a row in `Details of …`. The default is its key. */
  readonly rowName?: (row: Row) => string;
  readonly rowClass?: (row: Row) => string;
  /** Attributes such as `data-symbol` for the row. */
  readonly rowData?: (row: Row) => Readonly<Record<`data-${string}`, string>>;
  readonly className?: string;
  /** Shown in place of rows. */
  readonly empty?: ReactNode;
  /** Whether hidden columns are in details. The default. Otherwise the cells say the same in other ways. */
  readonly hasDetails?: boolean;
}

/** A table. The first column is the head of the row. */
export function Table<Row>({ caption, columns, rows, rowKey, rowName, rowClass, rowData, className = "", empty, hasDetails = true }: TableProps<Row>): ReactElement {
  const [opened, toggle] = useOpenRows();
  const hidden = hasDetails ? columns.filter(({ from }) => from !== undefined) : [];
  const widest = WIDTHS.findLast((width) => hidden.some(({ from }) => from === width));
  const classOf = ({ align, from, className: own }: Column<Row>, index: number): string =>
    [(align ?? (index === 0 ? "left" : "right")) === "left" ? "left" : "", from ? `from-${from}` : "", own ?? ""].join(" ").trim();
  return (
    <div className="scroll" tabIndex={0} role="group" aria-label={caption}>
      <table className={className}>
        <caption className="hidden">{caption}</caption>
        <thead>
          <tr>
            {columns.map((column, index) => (
              <th key={column.key} scope="col" className={classOf(column, index)}>
                {column.head}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.length === 0 && empty !== undefined && (
            <tr>
              <td colSpan={columns.length} className="left none">
                {empty}
              </td>
            </tr>
          )}
          {rows.map((row, rowIndex) => {
            const key = rowKey(row, rowIndex);
            const isOpen = opened.has(key);
            return (
              <Fragment key={key}>
                <tr className={rowClass?.(row)} {...rowData?.(row)}>
                  {columns.map((column, index) => {
                    const Cell = index === 0 ? "th" : "td";
                    return (
                      <Cell key={column.key} scope={index === 0 ? "row" : undefined} className={classOf(column, index)}>
                        {index === 0 && widest && <MoreButton className={`until-${widest}`} name={rowName?.(row) ?? String(key)} isOpen={isOpen} onClick={() => { toggle(key); }} />}
                        {column.cell(row, rowIndex)}
                      </Cell>
                    );
                  })}
                </tr>
                {isOpen && widest && (
                  <tr className={`details until-${widest}`}>
                    <td colSpan={columns.length} className="left">
                      <dl>
                        {hidden.map(({ key: name, head, from = widest, cell, detail = (one) => cell(one, rowIndex) }) => (
                          <div key={name} className={`until-${from}`}>
                            <dt>{head}</dt>
                            <dd>{detail(row)}</dd>
                          </div>
                        ))}
                      </dl>
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

/** The rows whose details are open, by their keys, and a function that opens or closes those of a row. */
export function useOpenRows(): readonly [ReadonlySet<string | number>, (key: string | number) => void] {
  const [opened, setOpened] = useState<ReadonlySet<string | number>>(new Set());
  return [
    opened,
    (key) => {
      const next = new Set(opened);
      if (!next.delete(key)) {
        next.add(key);
      }
      setOpened(next);
    },
  ];
}

/** The button that opens the details of a row. */
export function MoreButton({ name, isOpen, onClick, className = "" }: { readonly name: string; readonly isOpen: boolean; readonly onClick: () => void; readonly className?: string }): ReactElement {
  return <button type="button" className={`more ${className}`} aria-expanded={isOpen} aria-label={`Details of ${name}`} onClick={onClick} />;
}
