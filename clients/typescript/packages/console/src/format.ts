/** How numbers and times are shown. */

/** What is not known. */
export const UNKNOWN = "—";

/** A price with as many digits as it needs. */
export function price(value: number | null | undefined): string {
  if (value === null || value === undefined) {
    return UNKNOWN;
  }
  const digits = value >= 100 ? 2 : value >= 1 ? 4 : 6;
  return value.toLocaleString("en-US", { minimumFractionDigits: Math.min(digits, 2), maximumFractionDigits: digits });
}

/** A change in percent, with its sign. */
export function percent(value: number | null | undefined): string {
  if (value === null || value === undefined) {
    return UNKNOWN;
  }
  return `${value > 0 ? "+" : ""}${value.toFixed(2)} %`;
}

/** A large amount, shortened. */
export function amount(value: number | null | undefined): string {
  if (value === null || value === undefined) {
    return UNKNOWN;
  }
  return value.toLocaleString("en-US", { notation: "compact", maximumFractionDigits: 2 });
}

/** How long ago, from milliseconds. */
export function age(milliseconds: number | null | undefined): string {
  if (milliseconds === null || milliseconds === undefined) {
    return UNKNOWN;
  }
  const seconds = Math.max(0, Math.round(milliseconds / 1_000));
  return seconds < 120 ? `${String(seconds)} s` : `${String(Math.round(seconds / 60))} min`;
}

/** The points of a sparkline in a box. */
export function sparkline(values: readonly number[], width: number, height: number): string {
  const low = Math.min(...values);
  const span = Math.max(...values) - low || 1;
  const step = width / Math.max(values.length - 1, 1);
  return values
    .map((value, index) => `${(index * step).toFixed(1)},${(height - 2 - ((value - low) / span) * (height - 4)).toFixed(1)}`)
    .join(" ");
}
