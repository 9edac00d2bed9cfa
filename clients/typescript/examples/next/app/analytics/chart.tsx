"use client";
import { useChannel } from "@tidewire/react";
import { type ReactElement, useState } from "react";

/** Points of the line. */
const POINTS = 60;

interface Visits {
  readonly visits: number;
  readonly at: number;
}

/** A line of the newest values. The channel is of the class `latest`: a slow browser skips values and never waits. */
export function Chart(): ReactElement {
  const { data } = useChannel<Visits>("analytics:visits");
  const value = data?.type === "message" ? data.data : undefined;
  const [points, setPoints] = useState<readonly Visits[]>([]);
  if (value !== undefined && value !== points.at(-1)) {
    setPoints([...points, value].slice(-POINTS));
  }
  const highest = Math.max(1, ...points.map(({ visits }) => visits));
  const line = points.map(({ visits }, index) => `${String((index / (POINTS - 1)) * 300)},${String(100 - (visits / highest) * 90)}`).join(" ");
  return (
    <>
      <svg viewBox="0 0 300 100" width="300" height="100" role="img" aria-label={`${String(value?.visits ?? 0)} visits`}>
        <polyline points={line} fill="none" stroke="currentColor" />
      </svg>
      <p>{value ? `${String(value.visits)} visits` : "No visit yet"}</p>
      <button onClick={() => void fetch("/api/visits", { method: "POST" })}>Visit</button>
    </>
  );
}
