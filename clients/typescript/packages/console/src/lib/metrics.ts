/** Metrics: reads the text of `/metrics`. */

/** A sample of the metrics: its labels and its value. */
export interface Metric {
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

/** The samples of one metric in the text of `/metrics`. */
export function metricOf(text: string, name: string): readonly Metric[] {
  return text.split("\n").flatMap((line) => {
    const [, found, labels = "", value = ""] = /^(\w+)(?:\{(.*)\})? (\S+)/.exec(line) ?? [];
    return found === name ? [{ labels: Object.fromEntries([...labels.matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, key = "", value_ = ""]) => [key, value_])), value: Number(value) }] : [];
  });
}
