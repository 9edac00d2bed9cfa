/** Tables: dense rows with aligned figures. A table that is too wide scrolls within its card. */
import type { ReactElement, ReactNode } from "react";

/** A column: its head, its cell, and how it behaves when the table is narrow. */
export interface Column<Row> {
  readonly key: string;
  readonly head: ReactNode;
  readonly cell: (row: Row, index: number) => ReactNode;
  /** Text is left, figures are right. The default is right, except in the first column. */
  readonly align?: "left" | "right";
  /** Hidden below this width of the table, in digits of the font: `xs` 44, `s` 62, `m` 86, `l` 118, `xl` 140. */
  readonly from?: "xs" | "s" | "m" | "l" | "xl";
  readonly className?: string;
}

/** Props of a `Table`. */
export interface TableProps<Row> {
  /** Read out, not shown. */
  readonly caption: string;
  readonly columns: readonly Column<Row>[];
  readonly rows: readonly Row[];
  readonly rowKey: (row: Row, index: number) => string | number;
  readonly rowClass?: (row: Row) => string;
  /** Attributes such as `data-symbol` for the row. */
  readonly rowData?: (row: Row) => Readonly<Record<`data-${string}`, string>>;
  readonly className?: string;
  /** Shown in place of rows. */
  readonly empty?: ReactNode;
}

/** A table. The first column is the head of the row. */
export function Table<Row>({ caption, columns, rows, rowKey, rowClass, rowData, className = "", empty }: TableProps<Row>): ReactElement {
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
          {rows.map((row, rowIndex) => (
            <tr key={rowKey(row, rowIndex)} className={rowClass?.(row)} {...rowData?.(row)}>
              {columns.map((column, index) => {
                const Cell = index === 0 ? "th" : "td";
                return (
                  <Cell key={column.key} scope={index === 0 ? "row" : undefined} className={classOf(column, index)}>
                    {column.cell(row, rowIndex)}
                  </Cell>
                );
              })}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
