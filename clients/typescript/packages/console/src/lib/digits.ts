/** Decimals of symbols: each symbol has a fixed number, so that the figures of a column align and do not jump. */
import { UNKNOWN } from "./format.ts";

/** The decimals seen so far, by symbol. They only grow. */
const seen = new Map<string, number>();
const formats = new Map<number, Intl.NumberFormat>();

/** The most decimals that make sense at a magnitude: five significant digits, two at least. */
function mostDigits(value: number): number {
  const magnitude = Math.abs(value);
  return magnitude >= 100 ? 2 : magnitude >= 1 ? 4 : magnitude >= 0.01 ? 6 : Math.min(3 - Math.floor(Math.log10(magnitude || 1)), 18);
}

/** The decimals of a number as it is written. */
function decimalsOf(value: number): number {
  const [, fraction = "", exponent = "0"] = /^-?\d+(?:\.(\d+))?(?:e(-?\d+))?$/.exec(String(value)) ?? [];
  return Math.max(0, fraction.length - Number(exponent));
}

/** Learns the decimals of a symbol from values of it, and returns them. */
export function digitsOf(symbol: string, ...values: readonly (number | null | undefined)[]): number {
  let digits = seen.get(symbol) ?? 2;
  for (const value of values) {
    if (typeof value === "number" && value !== 0) {
      digits = Math.max(digits, Math.min(decimalsOf(value), mostDigits(value)));
    }
  }
  seen.set(symbol, digits);
  return digits;
}

/** Formats a number with exactly this many decimals. An unknown one is a dash. */
export function fixed(value: number | null | undefined, digits: number): string {
  if (value === null || value === undefined) {
    return UNKNOWN;
  }
  let format = formats.get(digits);
  if (!format) {
    formats.set(digits, (format = new Intl.NumberFormat("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits })));
  }
  return format.format(value);
}
