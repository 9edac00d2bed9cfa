/** Tiles: a figure with its name, its history, and whether it is old. */
import type { ReactElement, ReactNode } from "react";
import type { Point } from "../lib/sparkline.ts";
import { Sparkline } from "./sparkline.tsx";
import { OldMark } from "./state.tsx";

/** Props of a `Tile`. */
export interface TileProps {
  readonly name: ReactNode;
  /** The figure. `undefined` is not known, and shows as a dash. */
  readonly value: ReactNode;
  /** Stands behind the figure: `ms`, `of 7`. */
  readonly unit?: ReactNode;
  /** A line below: why there is no figure, or what it covers. */
  readonly hint?: ReactNode;
  readonly tone?: "warn" | "bad" | undefined;
  readonly history?: readonly Point[] | undefined;
  /** The least span of the history's axis, so that a small change looks small. */
  readonly leastSpan?: number;
  /** The name of the history, for a screen reader. */
  readonly historyName?: string;
  /** When the figure was current, in milliseconds since the Unix epoch. */
  readonly at?: number | undefined;
  readonly link?: string;
}

/** A tile. Tiles stand in a `<div className="tiles">`. */
export function Tile({ name, value, unit, hint, tone, history, leastSpan, historyName, at, link }: TileProps): ReactElement {
  return (
    <div className={`tile ${tone ?? ""}`}>
      <div className="tile-name">
        {link === undefined ? name : <a href={link}>{name}</a>}
        {/* What is not known is not old. */}
        {value !== undefined && value !== null && <OldMark at={at} />}
      </div>
      <div className="tile-value">
        {value ?? "—"}
        {unit !== undefined && <small> {unit}</small>}
      </div>
      {hint !== undefined && <div className="tile-hint">{hint}</div>}
      {history && <Sparkline points={history} leastSpan={leastSpan ?? 1} zero name={historyName ?? "The last hour"} />}
    </div>
  );
}
