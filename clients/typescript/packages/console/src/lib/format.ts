/** Number and time formats. An unknown value becomes a dash. */

/** The text of an unknown value. */
export const UNKNOWN = "—";

/** Formats a price with the number of decimals that fits its magnitude, or the magnitude of `like`. */
export function price(value: number | null | undefined, like: number | null | undefined = value): string {
  if (value === null || value === undefined) {
    return UNKNOWN;
  }
  const magnitude = Math.abs(like ?? value);
  const digits = magnitude >= 100 ? 2 : magnitude >= 1 ? 4 : magnitude >= 0.01 || magnitude === 0 ? 6 : Math.min(3 - Math.floor(Math.log10(magnitude)), 18);
  return value.toLocaleString("en-US", { minimumFractionDigits: Math.min(digits, 2), maximumFractionDigits: digits });
}

/** Formats the confidence of a price as ± with the decimals of the price. */
export function confidence(value: number | null, of: number | null): string {
  return value === null ? UNKNOWN : `± ${price(value, of)}`;
}

/** Formats a count with its noun: `1 trade`, `2 trades`. */
export function count(number: number, noun: string): string {
  return `${String(number)} ${noun}${number === 1 ? "" : "s"}`;
}

/** Formats a change in percent with its sign. */
export function percentChange(value: number | null | undefined): string {
  if (value === null || value === undefined) {
    return UNKNOWN;
  }
  return `${value > 0 ? "+" : ""}${percent(value)}`.replace("-", "−");
}

/** Formats a percentage. */
export function percent(value: number | null | undefined): string {
  return value === null || value === undefined ? UNKNOWN : `${value.toFixed(2)} %`;
}

/** Formats the deviation of a price from another in basis points, hundredths of a percent. */
export function deviation(value: number | null, from: number | null): string {
  if (value === null || from === null || from === 0) {
    return UNKNOWN;
  }
  const points = Math.round((value / from - 1) * 100_000) / 10;
  return `${points > 0 ? "+" : points < 0 ? "−" : ""}${Math.abs(points).toFixed(1)} bp`;
}

/** Formats a large number in short form: `41.7M`. */
export function compact(value: number | null | undefined): string {
  if (value === null || value === undefined) {
    return UNKNOWN;
  }
  return value.toLocaleString("en-US", { notation: "compact", maximumFractionDigits: 2 });
}

/** Formats the size of a trade. */
export function size(value: number): string {
  return value.toLocaleString("en-US", { maximumSignificantDigits: 4 });
}

/** Formats an age or a delay, given in milliseconds. */
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

/** Formats the offset of a venue's clock from the server's. A positive offset is behind. */
export function clockOffset(behindMs: number): string {
  const milliseconds = Math.round(behindMs);
  const offset = `${Math.abs(milliseconds).toLocaleString("en-US")} ms`;
  return milliseconds === 0 ? "clock in sync" : `clock ${offset} ${milliseconds > 0 ? "behind" : "ahead"}`;
}

/** Formats a time of day in this machine's time zone, given in milliseconds since the Unix epoch. */
export function timeOfDay(timestamp: number): string {
  return new Date(timestamp).toLocaleTimeString("en-GB");
}

/** Formats a number of bytes: `1.2 MB`. */
export function bytes(value: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  const power = Math.min(units.length - 1, value < 1_000 ? 0 : Math.floor(Math.log10(value) / 3));
  const scaled = value / 1_000 ** power;
  return `${power === 0 || scaled >= 100 ? scaled.toFixed(0) : scaled.toFixed(1)} ${units[power] ?? ""}`;
}

/** Formats a round trip, given in milliseconds. */
export function roundTrip(milliseconds: number): string {
  return `${milliseconds.toFixed(milliseconds < 10 ? 1 : 0)} ms`;
}

/** Formats a time as that of the day, with the date unless it is today's. */
export function timeAndDay(timestamp: number): string {
  const date = new Date(timestamp);
  const isToday = date.toDateString() === new Date().toDateString();
  return isToday ? timeOfDay(timestamp) : `${date.toLocaleDateString("en-GB", { day: "numeric", month: "short", year: "numeric" })} ${timeOfDay(timestamp)}`;
}
