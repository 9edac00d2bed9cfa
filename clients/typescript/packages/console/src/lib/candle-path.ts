/** Candles on a chart of uPlot: bodies and wicks, drawn from five series (time, open, high, low, close). */
import type uPlot from "uplot";

/** The colours of candles, as a canvas understands them. */
export interface CandleColors {
  readonly up: string;
  readonly down: string;
}

/** Part of the distance between two candles that a body takes. */
const BODY = 0.7;
/** Widest body in CSS pixels. */
const MAX_BODY = 14;

/** A plugin that draws candles of `lengthMs`. The series of the chart draw nothing themselves. */
export function candlePlugin(lengthMs: number, colors: CandleColors): uPlot.Plugin {
  return {
    hooks: {
      draw: (u) => {
        const [times, opens, highs, lows, closes] = u.data as unknown as readonly (readonly number[])[];
        const { ctx, bbox } = u;
        const ratio = devicePixelRatio;
        const step = Math.abs(u.valToPos(lengthMs / 1_000, "x", true) - u.valToPos(0, "x", true));
        const width = Math.max(ratio, Math.min(step * BODY, MAX_BODY * ratio));
        ctx.save();
        ctx.beginPath();
        ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
        ctx.clip();
        times?.forEach((time, index) => {
          const [open, high, low, close] = [opens, highs, lows, closes].map((values) => u.valToPos(values?.[index] ?? NaN, "y", true));
          if (open === undefined || high === undefined || low === undefined || close === undefined) {
            return;
          }
          // The candle stands over its interval, whose start is its time.
          const x = Math.round(u.valToPos(time + lengthMs / 2_000, "x", true));
          ctx.fillStyle = close <= open ? colors.up : colors.down;
          ctx.fillRect(x - ratio / 2, high, ratio, Math.max(ratio, low - high));
          ctx.fillRect(x - width / 2, Math.min(open, close), width, Math.max(ratio, Math.abs(close - open)));
        });
        ctx.restore();
      },
    },
  };
}
