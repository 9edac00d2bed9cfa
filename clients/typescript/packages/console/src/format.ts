/** How numbers and times are shown. */

/** What is not known. */
export const UNKNOWN = "—";

/** A price with as many digits as it needs, or as a price `like` it does. */
export function price(value: number | null | undefined, like: number | null | undefined = value): string {
  if (value === null || value === undefined) {
    return UNKNOWN;
  }
  const magnitude = Math.abs(like ?? value);
  const digits = magnitude >= 100 ? 2 : magnitude >= 1 ? 4 : magnitude >= 0.01 || magnitude === 0 ? 6 : Math.min(3 - Math.floor(Math.log10(magnitude)), 18);
  return value.toLocaleString("en-US", { minimumFractionDigits: Math.min(digits, 2), maximumFractionDigits: digits });
}

/** What the price is known to. */
export function certainty(confidence: number | null, of: number | null): string {
  return confidence === null ? UNKNOWN : `± ${price(confidence, of)}`;
}

/** A number of things. */
export function count(number: number, thing: string): string {
  return `${String(number)} ${thing}${number === 1 ? "" : "s"}`;
}

/** A change in percent, with its sign. */
export function percent(value: number | null | undefined): string {
  if (value === null || value === undefined) {
    return UNKNOWN;
  }
  return `${value > 0 ? "+" : ""}${share(value)}`.replace("-", "−");
}

/** A part of a whole in percent. */
export function share(value: number | null | undefined): string {
  return value === null || value === undefined ? UNKNOWN : `${value.toFixed(2)} %`;
}

/** How far a price is from another, in hundredths of a percent ("basis points"). */
export function distance(value: number | null, from: number | null): string {
  if (value === null || from === null || from === 0) {
    return UNKNOWN;
  }
  const points = (value / from - 1) * 10_000;
  return `${points > 0.05 ? "+" : ""}${points.toFixed(1)} bp`.replace("-", "−");
}

/** A large amount, shortened. */
export function amount(value: number | null | undefined): string {
  if (value === null || value === undefined) {
    return UNKNOWN;
  }
  return value.toLocaleString("en-US", { notation: "compact", maximumFractionDigits: 2 });
}

/** The size of a trade. */
export function size(value: number): string {
  return value.toLocaleString("en-US", { maximumSignificantDigits: 4 });
}

/** How long ago, from milliseconds. */
export function age(milliseconds: number | null | undefined): string {
  if (milliseconds === null || milliseconds === undefined) {
    return UNKNOWN;
  }
  const seconds = Math.max(0, Math.round(milliseconds / 1_000));
  if (seconds < 120) {
    return `${String(seconds)} s`;
  }
  const minutes = Math.round(seconds / 60);
  return minutes < 120 ? `${String(minutes)} min` : `${String(Math.round(minutes / 60))} h`;
}

/** How a clock is set beside the server's, from how far it is behind in milliseconds. */
export function clock(behindMs: number): string {
  const milliseconds = Math.round(behindMs);
  const distance = `${Math.abs(milliseconds).toLocaleString("en-US")} ms`;
  return milliseconds === 0 ? "clock in step" : `clock ${distance} ${milliseconds > 0 ? "behind" : "ahead"}`;
}

/** A time of day on this machine's clock, from milliseconds since the Unix epoch. */
export function timeOfDay(timestamp: number): string {
  return new Date(timestamp).toLocaleTimeString("en-GB");
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
