/** Paths of sparklines: scaled so that the change of the last tick is no cliff. */

/** A time in milliseconds, and a value. `null` is a hole in the line. */
export type Point = readonly [time: number, value: number | null];

/** The box and the axis of a sparkline. */
export interface Scale {
  readonly width: number;
  readonly height: number;
  /** The least span of the axis. A span below it would show noise as a cliff. */
  readonly leastSpan: number;
  /** Whether the axis begins at zero. */
  readonly zero: boolean;
}

/** Space above and below the line, in units of the box. */
const MARGIN = 2;

/**
 * Returns the path of a line and of the area below it. The horizontal axis is the time of the
 * points. A line that uses less than `leastSpan` stays in the middle of the box.
 */
export function linePath(points: readonly Point[], { width, height, leastSpan, zero }: Scale): { readonly line: string; readonly area: string } {
  const values = points.flatMap(([, value]) => (value === null ? [] : [value]));
  const first = points[0];
  const last = points.at(-1);
  if (!first || !last || values.length === 0) {
    return { line: "", area: "" };
  }
  let low = Math.min(...values);
  let high = Math.max(...values);
  if (zero) {
    low = Math.min(0, low);
    high = Math.max(high, low + leastSpan);
  } else if (high - low < leastSpan) {
    const middle = (high + low) / 2;
    low = middle - leastSpan / 2;
    high = middle + leastSpan / 2;
  }
  const time = last[0] - first[0] || 1;
  const x = (at: number): string => (((at - first[0]) / time) * width).toFixed(1);
  const y = (value: number): string => (height - MARGIN - ((value - low) / (high - low || 1)) * (height - 2 * MARGIN)).toFixed(1);
  let line = "";
  let area = "";
  /** Where the line began behind the last hole. */
  let start: string | undefined;
  let end = "";
  const close = (): void => {
    if (start !== undefined) {
      area += `L${end} ${String(height)}L${start} ${String(height)}Z`;
      start = undefined;
    }
  };
  for (const [at, value] of points) {
    if (value === null) {
      close();
      continue;
    }
    end = x(at);
    const step = `${start === undefined ? "M" : "L"}${end} ${y(value)}`;
    start ??= end;
    line += step;
    area += step;
  }
  close();
  // One point alone is a dot: a line of no length with round ends.
  return { line: line.includes("L") ? line : `${line}h0.1`, area };
}
