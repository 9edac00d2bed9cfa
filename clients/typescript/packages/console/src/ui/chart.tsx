/** Charts: candles or a line over time, drawn by uPlot in the colours of the theme. */
import { type ReactElement, useEffect, useRef, useState } from "react";
import uPlot from "uplot";
import { candlePlugin } from "../lib/candle-path.ts";
import { fixed } from "../lib/digits.ts";
import { themeColor, useThemeChanges } from "../lib/theme.ts";
import "./chart.css";

/** A moment that is marked on the chart, such as a fire of an alert. */
export interface ChartMark {
  /** In milliseconds since the Unix epoch. */
  readonly time: number;
  /** Where on the price axis. Without it the mark is a line from top to bottom alone. */
  readonly value?: number | undefined;
}

/** The data of a chart. Times are in milliseconds since the Unix epoch, oldest first. */
export type ChartData =
  | {
      readonly kind: "candles";
      readonly lengthMs: number;
      readonly candles: readonly { readonly start: number; readonly open: number; readonly high: number; readonly low: number; readonly close: number; readonly volume?: number | null }[];
    }
  | { readonly kind: "line"; readonly points: readonly (readonly [time: number, value: number])[] };

/** Props of a `Chart`. */
export interface ChartProps {
  /** The name of the chart, for a screen reader. */
  readonly name: string;
  readonly data: ChartData;
  /** The decimals of the axis. */
  readonly digits: number;
  /** The first and the last time that show, in milliseconds. By default those of the data. */
  readonly from?: number | undefined;
  readonly to?: number | undefined;
  readonly marks?: readonly ChartMark[];
  /** Levels that are drawn across the chart, such as the threshold of an alert. */
  readonly levels?: readonly number[];
  readonly height?: number;
}

/** The least span of the price axis as a part of the price: a smaller change looks small. */
const LEAST_SPAN = 0.0004;

/** The side of the price axis. uPlot's enumeration has no value at run time. */
// eslint-disable-next-line @typescript-eslint/no-unsafe-enum-assignment
const RIGHT: uPlot.Axis.Side = 1;

/** Letters of the longest price on the axis. */
const MAX_AXIS_LETTERS = 14;

const two = (value: number): string => String(value).padStart(2, "0");

/** The text of a price on the axis: short where the decimals of the symbol would be too many. */
function axisText(value: number, digits: number): string {
  const text = fixed(value, digits);
  return text.length > MAX_AXIS_LETTERS ? value.toExponential(2) : text;
}

/** The text of a time on the axis: seconds, minutes or days, by what the axis covers. */
export function timeText(seconds: number, spanSeconds: number): string {
  const date = new Date(seconds * 1_000);
  const minutes = `${two(date.getHours())}:${two(date.getMinutes())}`;
  if (spanSeconds <= 300) {
    return `${minutes}:${two(date.getSeconds())}`;
  }
  return spanSeconds <= 2 * 86_400 ? minutes : `${date.toLocaleDateString("en-GB", { day: "numeric", month: "short" })}${spanSeconds <= 8 * 86_400 ? ` ${minutes}` : ""}`;
}

function columns(data: ChartData): uPlot.AlignedData {
  if (data.kind === "line") {
    return [data.points.map(([time]) => time / 1_000), data.points.map(([, value]) => value)];
  }
  const { candles } = data;
  return [candles.map(({ start }) => start / 1_000), candles.map(({ open }) => open), candles.map(({ high }) => high), candles.map(({ low }) => low), candles.map(({ close }) => close)];
}

/** A chart that fills the width of its container. The reading under the pointer stands above it. */
export function Chart(props: ChartProps): ReactElement {
  const { name, data, height = 300 } = props;
  const place = useRef<HTMLDivElement>(null);
  const chart = useRef<uPlot>(undefined);
  /** The newest props, which the functions of the chart read when they draw. */
  const newest = useRef(props);
  newest.current = props;
  const [index, setIndex] = useState<number>();
  const themeChanges = useThemeChanges();
  const { kind } = data;
  const lengthMs = data.kind === "candles" ? data.lengthMs : 0;

  useEffect(() => {
    const { current } = place;
    if (!current) {
      return;
    }
    const color = { soft: themeColor("--soft"), line: themeColor("--line"), accent: themeColor("--accent"), up: themeColor("--up"), down: themeColor("--down"), warn: themeColor("--warn") };
    const axis = { stroke: color.soft, grid: { stroke: color.line, width: 1 }, ticks: { show: false }, font: `11px ${getComputedStyle(document.body).fontFamily}` };
    const hidden: uPlot.Series = { paths: () => null, points: { show: false } };
    const options: uPlot.Options = {
      width: current.clientWidth,
      height,
      legend: { show: false },
      cursor: { drag: { x: false, y: false }, points: { show: kind === "line" } },
      padding: [8, 0, 0, 20],
      scales: {
        x: {
          time: true,
          range: (_, low, high) => {
            const { from, to } = newest.current;
            return [(from ?? (low || 0) * 1_000) / 1_000, (to ?? (high || 1) * 1_000 + lengthMs) / 1_000];
          },
        },
        y: {
          range: (_, low, high) => {
            const levels = newest.current.levels ?? [];
            const [least, most] = [Math.min(low, ...levels), Math.max(high, ...levels)];
            const span = Math.max((most - least) * 1.12, Math.abs(most) * LEAST_SPAN) || 1;
            const middle = (most + least) / 2 || 0;
            return [middle - span / 2, middle + span / 2];
          },
        },
      },
      axes: [
        { ...axis, space: 64, size: 26, values: (u, splits) => splits.map((split) => timeText(split, (u.scales["x"]?.max ?? 0) - (u.scales["x"]?.min ?? 0))) },
        // A price is as wide as its decimals want.
        { ...axis, side: RIGHT, space: 34, size: (_, values) => 14 + Math.max(0, ...((values as string[] | null) ?? []).map((text) => text.length)) * 6.6, values: (_, splits) => splits.map((split) => axisText(split, newest.current.digits)) },
      ],
      series: kind === "line" ? [{}, { stroke: color.accent, width: 1.5, points: { show: false } }] : [{}, hidden, hidden, hidden, hidden],
      plugins: kind === "candles" ? [candlePlugin(lengthMs, color)] : [],
      hooks: {
        setCursor: [
          ({ cursor }) => {
            setIndex(cursor.idx ?? undefined);
          },
        ],
        draw: [
          (u) => {
            drawMarks(u, newest.current, color.warn);
          },
        ],
      },
    };
    const made = new uPlot(options, columns(newest.current.data), current);
    chart.current = made;
    const observer = new ResizeObserver(() => {
      made.setSize({ width: current.clientWidth, height });
    });
    observer.observe(current);
    return () => {
      observer.disconnect();
      made.destroy();
      chart.current = undefined;
    };
  }, [kind, lengthMs, height, themeChanges]);

  useEffect(() => {
    chart.current?.setData(columns(props.data));
  }, [props.data, props.from, props.to, props.marks, props.levels, props.digits]);

  return (
    <figure className="chart" aria-label={name}>
      <figcaption className="chart-reading">{readingOf(props, index)}</figcaption>
      <div ref={place} role="img" aria-label={summaryOf(props)} style={{ height }} />
    </figure>
  );
}

/** Draws what is marked: a dashed line for a level, a line and a triangle for a moment. */
function drawMarks(u: uPlot, { marks = [], levels = [] }: ChartProps, color: string): void {
  const { ctx, bbox } = u;
  const ratio = devicePixelRatio;
  ctx.save();
  ctx.strokeStyle = ctx.fillStyle = color;
  ctx.lineWidth = ratio;
  ctx.setLineDash([4 * ratio, 4 * ratio]);
  for (const level of levels) {
    const y = u.valToPos(level, "y", true);
    stroke(ctx, bbox.left, y, bbox.left + bbox.width, y);
  }
  ctx.setLineDash([2 * ratio, 3 * ratio]);
  for (const { time, value } of marks) {
    const x = u.valToPos(time / 1_000, "x", true);
    if (x < bbox.left || x > bbox.left + bbox.width) {
      continue;
    }
    stroke(ctx, x, bbox.top, x, bbox.top + bbox.height);
    const y = value === undefined ? bbox.top : u.valToPos(value, "y", true);
    const size = 5 * ratio;
    ctx.beginPath();
    ctx.moveTo(x, y + size);
    ctx.lineTo(x - size, y - size);
    ctx.lineTo(x + size, y - size);
    ctx.fill();
  }
  ctx.restore();
}

function stroke(ctx: CanvasRenderingContext2D, x1: number, y1: number, x2: number, y2: number): void {
  ctx.beginPath();
  ctx.moveTo(x1, y1);
  ctx.lineTo(x2, y2);
  ctx.stroke();
}

/** The values under the pointer, or the newest ones. */
function readingOf({ data, digits }: ChartProps, index: number | undefined): ReactElement | null {
  const time = (at: number): string => timeText(at / 1_000, data.kind === "line" ? 60 : data.lengthMs >= 3_600_000 ? 7 * 86_400 : 86_400);
  if (data.kind === "line") {
    const point = data.points[index ?? data.points.length - 1];
    return point ? (
      <>
        <span>{time(point[0])}</span> <b>{fixed(point[1], digits)}</b>
      </>
    ) : null;
  }
  const candle = data.candles[index ?? data.candles.length - 1];
  return candle ? (
    <>
      <span>{time(candle.start)}</span>{" "}
      {([["O", "open"], ["H", "high"], ["L", "low"], ["C", "close"]] as const).map(([letter, part]) => (
        <span key={part}>
          {letter} <b className={part === "close" ? (candle.close >= candle.open ? "up" : "down") : ""}>{fixed(candle[part], digits)}</b>{" "}
        </span>
      ))}
    </>
  ) : null;
}

/** The text that a screen reader says in place of the picture. */
function summaryOf({ data, digits }: ChartProps): string {
  const points = data.kind === "line" ? data.points.map(([, value]) => [value, value] as const) : data.candles.map(({ low, high }) => [low, high] as const);
  const [first, last] = data.kind === "line" ? [data.points[0]?.[1], data.points.at(-1)?.[1]] : [data.candles[0]?.open, data.candles.at(-1)?.close];
  if (first === undefined) {
    return "Chart without data";
  }
  const low = Math.min(...points.map(([value]) => value));
  const high = Math.max(...points.map(([, value]) => value));
  return `Chart from ${fixed(first, digits)} to ${fixed(last, digits)}, lowest ${fixed(low, digits)}, highest ${fixed(high, digits)}`;
}
