/** Sparklines: a short history as a line, in SVG. */
import type { ReactElement } from "react";
import { linePath, type Point } from "../lib/sparkline.ts";

/** Props of a `Sparkline`. */
export interface SparklineProps {
  /** Times in milliseconds and values, oldest first. `null` is a hole. */
  readonly points: readonly Point[];
  /** The least span of the axis, in the unit of the values. */
  readonly leastSpan: number;
  /** Whether the axis begins at zero. */
  readonly zero?: boolean;
  /** Its name, for a screen reader. */
  readonly name: string;
  readonly trend?: "up" | "down" | undefined;
}

const WIDTH = 120;
const HEIGHT = 30;

/** A sparkline. It fills the width of its container. */
export function Sparkline({ points, leastSpan, zero = false, name, trend }: SparklineProps): ReactElement {
  const { line, area } = linePath(points, { width: WIDTH, height: HEIGHT, leastSpan, zero });
  return (
    <svg className={`spark ${trend ?? ""}`} viewBox={`0 0 ${String(WIDTH)} ${String(HEIGHT)}`} preserveAspectRatio="none" role="img" aria-label={name}>
      <path className="area" d={area} />
      <path className="line" d={line} />
    </svg>
  );
}
