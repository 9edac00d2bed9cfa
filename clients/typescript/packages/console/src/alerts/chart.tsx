/** Chart of a backtest: the price, the thresholds of the rule, and its fires. */
import { type ReactElement, useEffect, useRef } from "react";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { price } from "../lib/format.ts";
import { themeColor, useThemeChanges } from "../lib/theme.ts";
import { timeText } from "../ui/chart.tsx";
import type { ChartData } from "./backtest.ts";

const HEIGHT = 240;

/** Props of a `BacktestChart`. */
export interface BacktestChartProps {
  readonly data: ChartData;
  readonly levels: readonly number[];
  /** What it shows, for a screen reader. */
  readonly name: string;
}

/** The chart. It fills the width of its container. */
export function BacktestChart({ data: { times, prices, fires }, levels, name }: BacktestChartProps): ReactElement {
  const box = useRef<HTMLDivElement>(null);
  const themeChanges = useThemeChanges();
  useEffect(() => {
    const element = box.current;
    if (!element) {
      return;
    }
    const [ink, line, accent, warn] = ["--soft", "--line", "--accent", "--warn"].map(themeColor) as [string, string, string, string];
    const low = Math.min(...prices);
    const high = Math.max(...prices);
    // A threshold far away would flatten the price: it is drawn where it is near.
    const near = levels.filter((level) => level > low - (high - low) && level < high + (high - low));
    const flat = near.map((level) => times.map(() => level));
    const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 }, font: "12px system-ui" };
    const plot = new uPlot(
      {
        width: element.clientWidth,
        height: HEIGHT,
        legend: { show: false },
        cursor: { y: false },
        series: [
          {},
          { stroke: accent, width: 1.3, points: { show: false } },
          { stroke: "transparent", points: { show: true, size: 9, fill: warn, stroke: warn } },
          ...near.map(() => ({ stroke: warn, width: 1, dash: [5, 4], points: { show: false } })),
        ],
        axes: [
          { ...axis, space: 76, values: (u, splits) => splits.map((split) => timeText(split, (u.scales["x"]?.max ?? 0) - (u.scales["x"]?.min ?? 0))) },
          // A price is as wide as its decimals want.
          { ...axis, size: (_, values) => 20 + Math.max(0, ...((values as string[] | null) ?? []).map((text) => text.length)) * 7, values: (_, splits) => splits.map((split) => price(split, high)) },
        ],
      },
      [times as number[], prices as number[], fires as (number | null)[], ...flat],
      element,
    );
    const observer = new ResizeObserver(() => {
      plot.setSize({ width: element.clientWidth, height: HEIGHT });
    });
    observer.observe(element);
    return () => {
      observer.disconnect();
      plot.destroy();
    };
  }, [times, prices, fires, levels, themeChanges]);
  return <div ref={box} className="backtest-chart" role="img" aria-label={name} />;
}
