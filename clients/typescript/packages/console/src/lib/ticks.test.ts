import { describe, expect, it } from "vitest";
import { TICKS_MS, type Tick, withTick } from "./ticks.ts";

describe("ticks", () => {
  it("keep a minute, and the tick before it", () => {
    let list: readonly Tick[] = [];
    for (const time of [0, 10_000, 30_000, TICKS_MS + 20_000]) {
      list = withTick(list, [time, time]);
    }
    expect(list.map(([time]) => time)).toEqual([10_000, 30_000, TICKS_MS + 20_000]);
    list = withTick(list, [10 * TICKS_MS, 1]);
    expect(list.map(([time]) => time)).toEqual([TICKS_MS + 20_000, 10 * TICKS_MS]);
  });

  it("drop one that is no newer", () => {
    const list = withTick([], [5, 1]);
    expect(withTick(list, [5, 2])).toBe(list);
    expect(withTick(list, [4, 2])).toBe(list);
  });
});
